//! The vector half of a collection's configuration: names, sizes, distances.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::super::distance::Distance;
use super::super::error::{OpError, OpResult};
use super::super::model::Vectors;

/// One vector space of a collection.
#[derive(Clone, Debug)]
pub(crate) struct VectorParams {
    pub(crate) size: usize,
    pub(crate) distance: Distance,
}

/// All vector spaces of a collection. The unnamed one has the empty name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schema {
    pub(crate) vectors: BTreeMap<String, VectorParams>,
}

// === impl Schema ===

impl Schema {
    /// Reads the `vectors` member of a REST request.
    pub(crate) fn from_json(value: &Value) -> OpResult<Self> {
        let object = match value {
            Value::Null => return Ok(Self::default()),
            Value::Object(object) => object,
            _ => {
                return Err(OpError::bad_json(
                    "data did not match any variant of untagged enum VectorsConfig",
                ));
            }
        };
        let vectors = if object.contains_key("size") {
            BTreeMap::from([(String::new(), VectorParams::from_json(value)?)])
        } else {
            object
                .iter()
                .map(|(name, params)| Ok((name.clone(), VectorParams::from_json(params)?)))
                .collect::<OpResult<_>>()?
        };
        Ok(Self { vectors })
    }

    pub(crate) fn to_json(&self) -> Value {
        match self.vectors.get("") {
            Some(only) => only.to_json(),
            None => {
                let named = self.vectors.iter().map(|(name, params)| (name.clone(), params.to_json()));
                Value::Object(named.collect::<Map<_, _>>())
            }
        }
    }

    /// The parameters of a vector, or Qdrant's refusal.
    pub(crate) fn vector(&self, name: &str) -> OpResult<&VectorParams> {
        self.vectors
            .get(name)
            .ok_or_else(|| OpError::bad_input(format!("Not existing vector name error: {name}")))
    }

    /// Checks the vectors of a point and brings them into the form in which they are kept.
    pub(crate) fn prepare(&self, vectors: &Vectors) -> OpResult<Vectors> {
        vectors
            .iter()
            .map(|(name, vector)| {
                let params = self.vector(name)?;
                params.check(vector)?;
                Ok((name.clone(), params.distance.prepare(vector.clone())))
            })
            .collect()
    }
}

// === impl VectorParams ===

impl VectorParams {
    fn from_json(value: &Value) -> OpResult<Self> {
        if value.get("multivector_config").is_some_and(|config| !config.is_null()) {
            return Err(OpError::lacking("multi-vectors"));
        }
        let size = value.get("size").and_then(Value::as_u64);
        let distance = match value.get("distance").and_then(Value::as_str) {
            Some("Cosine") => Some(Distance::Cosine),
            Some("Euclid") => Some(Distance::Euclid),
            Some("Dot") => Some(Distance::Dot),
            Some("Manhattan") => Some(Distance::Manhattan),
            _ => None,
        };
        match (size.and_then(|size| usize::try_from(size).ok()), distance) {
            (Some(size), Some(distance)) if size > 0 => Ok(Self { size, distance }),
            _ => Err(OpError::bad_json("data did not match any variant of untagged enum VectorsConfig")),
        }
    }

    fn to_json(&self) -> Value {
        json!({ "size": self.size, "distance": self.distance.name() })
    }

    pub(crate) fn check(&self, vector: &[f32]) -> OpResult<()> {
        if vector.len() == self.size {
            return Ok(());
        }
        Err(OpError::bad_input(format!(
            "Vector dimension error: expected dim: {}, got {}",
            self.size,
            vector.len()
        )))
    }
}
