//! JSON bodies into the model.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::super::error::{OpError, OpResult};
use super::super::filter::Filter;
use super::super::model::{
    Consistency, KeySelector, Ordering, PointId, ReadParams, Record, Scored, Selector, UpdateMode, Vectors,
    WithPayload, WithVectors, WriteParams,
};
use super::Ask;

impl Ask {
    /// The body as a JSON object.
    pub(super) fn object(&self) -> OpResult<Map<String, Value>> {
        serde_json::from_slice(&self.body).map_err(OpError::bad_json)
    }

    pub(super) fn write_params(&self) -> OpResult<WriteParams> {
        let ordering = match self.query.get("ordering").map(String::as_str) {
            None | Some("weak") => Ordering::Weak,
            Some("medium") => Ordering::Medium,
            Some("strong") => Ordering::Strong,
            Some(other) => {
                return Err(OpError::new(
                    super::Kind::Invalid,
                    format!(
                        "Deserialize error in query parameters: unknown variant `{other}`, expected one of `weak`, \
                         `medium`, `strong`"
                    ),
                ));
            }
        };
        Ok(WriteParams { wait: self.flag("wait", false)?, ordering, timeout: self.number("timeout")? })
    }

    pub(super) fn read_params(&self) -> OpResult<ReadParams> {
        let consistency = match self.query.get("consistency").map(String::as_str) {
            None | Some("") => Consistency::Factor(1),
            Some("all") => Consistency::All,
            Some("majority") => Consistency::Majority,
            Some("quorum") => Consistency::Quorum,
            Some(text) => {
                text.parse().ok().filter(|factor| *factor > 0).map(Consistency::Factor).ok_or_else(|| {
                    OpError::new(
                        super::Kind::Invalid,
                        format!("Deserialize error in query parameters: `{text}` is not a read consistency"),
                    )
                })?
            }
        };
        Ok(ReadParams { consistency, timeout: self.number("timeout")?, affinity: self.affinity })
    }
}

/// A member that must be there.
pub(super) fn required<'a>(object: &'a Map<String, Value>, name: &str) -> OpResult<&'a Value> {
    object.get(name).ok_or_else(|| OpError::bad_json(format!("missing field `{name}`")))
}

/// A member that may be there; null counts as absent.
pub(super) fn optional<T: DeserializeOwned>(object: &Map<String, Value>, name: &str) -> OpResult<Option<T>> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => T::deserialize(value).map(Some).map_err(OpError::bad_json),
    }
}

pub(super) fn filter(object: &Map<String, Value>, name: &str) -> OpResult<Option<Filter>> {
    object.get(name).filter(|value| !value.is_null()).map(Filter::from_json).transpose()
}

pub(super) fn keys(object: &Map<String, Value>) -> OpResult<Option<KeySelector>> {
    optional(object, "shard_key")
}

pub(super) fn ids(value: &Value) -> OpResult<Vec<PointId>> {
    Vec::<PointId>::deserialize_value(value)
}

/// Reads a list without taking the value apart first.
trait FromValue: Sized {
    fn deserialize_value(value: &Value) -> OpResult<Self>;
}

impl<T: DeserializeOwned> FromValue for T {
    fn deserialize_value(value: &Value) -> OpResult<Self> {
        T::deserialize(value).map_err(OpError::bad_json)
    }
}

/// Ids if there are any, otherwise the filter: Qdrant ignores a filter that comes with ids.
pub(super) fn selector(object: &Map<String, Value>) -> OpResult<Selector> {
    if let Some(points) = object.get("points").filter(|value| !value.is_null()) {
        return Ok(Selector::Ids(ids(points)?));
    }
    match filter(object, "filter")? {
        Some(filter) => Ok(Selector::Filter(filter)),
        None => Err(OpError::bad_request("Either list of points or filter must be provided")),
    }
}

pub(super) fn payload(value: Option<&Value>) -> OpResult<Map<String, Value>> {
    match value {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(payload)) => Ok(payload.clone()),
        Some(_) => Err(OpError::bad_json("invalid type: a payload must be an object")),
    }
}

pub(super) fn update_mode(object: &Map<String, Value>) -> OpResult<UpdateMode> {
    Ok(optional(object, "update_mode")?.unwrap_or_default())
}

/// One dense vector.
pub(super) fn dense(value: &Value) -> OpResult<Vec<f32>> {
    match value {
        Value::Array(items) if items.first().is_some_and(Value::is_array) => {
            Err(OpError::lacking("multi-vectors"))
        }
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_f64().map(|number| number as f32).ok_or_else(|| not_a_vector(item)))
            .collect(),
        Value::Object(object) if object.contains_key("indices") => Err(OpError::lacking("sparse vectors")),
        Value::Object(object)
            if ["text", "image", "object"].iter().any(|name| object.contains_key(*name)) =>
        {
            Err(OpError::lacking("inference"))
        }
        other => Err(not_a_vector(other)),
    }
}

fn not_a_vector(value: &Value) -> OpError {
    OpError::bad_json(format!("data did not match any variant of untagged enum Vector: {value}"))
}

/// The vectors of a point: one without a name, or several with.
pub(super) fn vectors(value: &Value) -> OpResult<Vectors> {
    match value {
        Value::Object(named)
            if !["indices", "text", "image"].iter().any(|name| named.contains_key(*name)) =>
        {
            named.iter().map(|(name, vector)| Ok((name.clone(), dense(vector)?))).collect()
        }
        other => Ok(Vectors::from([(String::new(), dense(other)?)])),
    }
}

pub(super) fn with_payload(object: &Map<String, Value>, default: WithPayload) -> OpResult<WithPayload> {
    let list = |value: &Value| Vec::<String>::deserialize_value(value);
    match object.get("with_payload") {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(true)) => Ok(WithPayload::All),
        Some(Value::Bool(false)) => Ok(WithPayload::None),
        Some(Value::Object(choice)) => match (choice.get("include"), choice.get("exclude")) {
            (Some(include), _) => list(include).map(WithPayload::Include),
            (_, Some(exclude)) => list(exclude).map(WithPayload::Exclude),
            _ => {
                Err(OpError::bad_json("data did not match any variant of untagged enum WithPayloadInterface"))
            }
        },
        Some(value) => list(value).map(WithPayload::Include),
    }
}

pub(super) fn with_vectors(object: &Map<String, Value>) -> OpResult<WithVectors> {
    match object.get("with_vector").or_else(|| object.get("with_vectors")) {
        None | Some(Value::Null | Value::Bool(false)) => Ok(WithVectors::None),
        Some(Value::Bool(true)) => Ok(WithVectors::All),
        Some(value) => Vec::<String>::deserialize_value(value).map(WithVectors::Named),
    }
}

/// A number that stands for a size.
pub(super) fn size(object: &Map<String, Value>, name: &str) -> OpResult<Option<usize>> {
    optional(object, name)
}

/// A record in Qdrant's form: what was not asked for is left out.
pub(super) fn record_json(record: Record) -> Map<String, Value> {
    let mut json = Map::new();
    json.insert("id".to_owned(), record.id.to_json());
    if let Some(payload) = record.payload {
        json.insert("payload".to_owned(), Value::Object(payload));
    }
    if let Some(vectors) = record.vectors {
        json.insert("vector".to_owned(), vectors_json(vectors));
    }
    if let Some(key) = record.shard_key {
        json.insert("shard_key".to_owned(), serde_json::json!(key));
    }
    json
}

fn vectors_json(mut vectors: Vectors) -> Value {
    match vectors.remove("") {
        Some(only) if vectors.is_empty() => numbers(&only),
        Some(unnamed) => {
            let mut named: Map<_, _> =
                vectors.iter().map(|(name, vector)| (name.clone(), numbers(vector))).collect();
            named.insert(String::new(), numbers(&unnamed));
            Value::Object(named)
        }
        None => Value::Object(vectors.iter().map(|(name, vector)| (name.clone(), numbers(vector))).collect()),
    }
}

fn numbers(vector: &[f32]) -> Value {
    vector.iter().map(|number| float(*number)).collect()
}

/// Prints a float with the digits of its own width: widened to 64 bits it would end in noise.
pub(super) fn float(number: f32) -> Value {
    number.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

pub(super) fn scored_json(hit: Scored) -> Value {
    let mut json = record_json(hit.record);
    json.insert("version".to_owned(), hit.version.into());
    json.insert("score".to_owned(), float(hit.score));
    Value::Object(json)
}
