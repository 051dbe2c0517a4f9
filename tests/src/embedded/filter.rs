//! Payload filters: the part of Qdrant's filter language that tests use.
//!
//! Conditions outside that part are refused as lacking rather than silently matched, so that a test cannot pass by
//! comparing two wrong answers.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::{OpError, OpResult};
use super::model::PointId;

/// A boolean combination of conditions.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Filter {
    pub(crate) must: Vec<Condition>,
    pub(crate) should: Vec<Condition>,
    pub(crate) must_not: Vec<Condition>,
    pub(crate) min_should: Option<(Vec<Condition>, usize)>,
}

/// One condition on a point.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Condition {
    HasId(Vec<PointId>),
    MatchAny { key: String, values: Vec<Value> },
    MatchExcept { key: String, values: Vec<Value> },
    Range { key: String, range: Range },
    IsEmpty { key: String },
    IsNull { key: String },
    Nested(Box<Filter>),
}

/// Numeric bounds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Range {
    pub(crate) gt: Option<f64>,
    pub(crate) gte: Option<f64>,
    pub(crate) lt: Option<f64>,
    pub(crate) lte: Option<f64>,
}

// === impl Filter ===

impl Filter {
    /// Both filters at once.
    pub(crate) fn both(first: Option<Self>, second: Option<Self>) -> Option<Self> {
        match (first, second) {
            (Some(first), Some(second)) => {
                let must = [first, second].map(|filter| Condition::Nested(Box::new(filter))).into();
                Some(Self { must, ..Self::default() })
            }
            (only, None) | (None, only) => only,
        }
    }

    /// Whether a point passes.
    pub(crate) fn matches(&self, id: &PointId, payload: &Map<String, Value>) -> bool {
        let holds = |condition: &Condition| condition.holds(id, payload);
        self.must.iter().all(holds)
            && (self.should.is_empty() || self.should.iter().any(holds))
            && !self.must_not.iter().any(holds)
            && self
                .min_should
                .as_ref()
                .is_none_or(|(conditions, least)| conditions.iter().filter(|c| holds(c)).count() >= *least)
    }

    /// Reads the REST form.
    pub(crate) fn from_json(value: &Value) -> OpResult<Self> {
        let Value::Object(object) = value else {
            return Err(OpError::bad_json("invalid type: a filter must be an object"));
        };
        if let Some(unknown) =
            object.keys().find(|key| !matches!(key.as_str(), "must" | "should" | "must_not" | "min_should"))
        {
            return Err(OpError::bad_json(format!(
                "unknown field `{unknown}`, expected one of `should`, `min_should`, `must`, `must_not`"
            )));
        }
        let list = |name: &str| object.get(name).map_or(Ok(Vec::new()), conditions);
        let min_should = match object.get("min_should") {
            None | Some(Value::Null) => None,
            Some(value) => {
                let least = value.get("min_count").and_then(Value::as_u64);
                let (Some(list), Some(least)) = (value.get("conditions"), least) else {
                    return Err(OpError::bad_json("`min_should` needs `conditions` and `min_count`"));
                };
                Some((conditions(list)?, usize::try_from(least).unwrap_or(usize::MAX)))
            }
        };
        Ok(Self { must: list("must")?, should: list("should")?, must_not: list("must_not")?, min_should })
    }
}

fn conditions(value: &Value) -> OpResult<Vec<Condition>> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => items.iter().map(Condition::from_json).collect(),
        one => Ok(vec![Condition::from_json(one)?]),
    }
}

// === impl Condition ===

impl Condition {
    fn holds(&self, id: &PointId, payload: &Map<String, Value>) -> bool {
        match self {
            Self::HasId(ids) => ids.contains(id),
            Self::MatchAny { key, values } => {
                values_at(payload, key).iter().any(|found| values.iter().any(|v| same(v, found)))
            }
            Self::MatchExcept { key, values } => {
                values_at(payload, key).iter().any(|found| !values.iter().any(|v| same(v, found)))
            }
            Self::Range { key, range } => {
                values_at(payload, key).iter().filter_map(|v| v.as_f64()).any(|number| range.contains(number))
            }
            Self::IsEmpty { key } => values_at(payload, key).iter().all(|value| value.is_null()),
            Self::IsNull { key } => values_at(payload, key).iter().any(|value| value.is_null()),
            Self::Nested(filter) => filter.matches(id, payload),
        }
    }

    fn from_json(value: &Value) -> OpResult<Self> {
        let Value::Object(object) = value else {
            return Err(OpError::bad_json("data did not match any variant of untagged enum Condition"));
        };
        if let Some(ids) = object.get("has_id") {
            let ids = ids.as_array().map(Vec::as_slice).unwrap_or_default();
            return ids
                .iter()
                .map(|id| {
                    PointId::from_json(id).ok_or_else(|| OpError::bad_json(format!("{id} is not a point id")))
                })
                .collect::<OpResult<_>>()
                .map(Self::HasId);
        }
        let nested_key = |value: &Value| {
            value
                .get("key")
                .and_then(Value::as_str)
                .map(str::to_owned)
                .ok_or_else(|| OpError::bad_json("missing field `key`"))
        };
        if let Some(inner) = object.get("is_empty").filter(|value| value.is_object()) {
            return Ok(Self::IsEmpty { key: nested_key(inner)? });
        }
        if let Some(inner) = object.get("is_null").filter(|value| value.is_object()) {
            return Ok(Self::IsNull { key: nested_key(inner)? });
        }
        if ["must", "should", "must_not", "min_should"].iter().any(|name| object.contains_key(*name)) {
            return Ok(Self::Nested(Box::new(Filter::from_json(value)?)));
        }
        let key = match object.get("key").and_then(Value::as_str) {
            Some(key) => key.to_owned(),
            None if object.contains_key("nested") || object.contains_key("has_vector") => {
                return Err(OpError::lacking("this kind of filter condition"));
            }
            None => {
                return Err(OpError::bad_json("data did not match any variant of untagged enum Condition"));
            }
        };
        if let Some(matched) = object.get("match") {
            return Self::from_match(key, matched);
        }
        if let Some(Value::Object(bounds)) = object.get("range") {
            if bounds.values().any(Value::is_string) {
                return Err(OpError::lacking("ranges over dates"));
            }
            let bound = |name: &str| bounds.get(name).and_then(Value::as_f64);
            let range = Range { gt: bound("gt"), gte: bound("gte"), lt: bound("lt"), lte: bound("lte") };
            return Ok(Self::Range { key, range });
        }
        match (object.get("is_empty"), object.get("is_null")) {
            (Some(Value::Bool(true)), _) => Ok(Self::IsEmpty { key }),
            (_, Some(Value::Bool(true))) => Ok(Self::IsNull { key }),
            _ => Err(OpError::lacking("this kind of filter condition")),
        }
    }

    fn from_match(key: String, value: &Value) -> OpResult<Self> {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        if let Some(value) = value.get("value") {
            Ok(Self::MatchAny { key, values: vec![value.clone()] })
        } else if let Some(any) = value.get("any") {
            Ok(Self::MatchAny { key, values: list(any) })
        } else if let Some(except) = value.get("except") {
            Ok(Self::MatchExcept { key, values: list(except) })
        } else {
            Err(OpError::lacking("full-text matches"))
        }
    }
}

// === impl Range ===

impl Range {
    fn contains(&self, number: f64) -> bool {
        self.gt.is_none_or(|bound| number > bound)
            && self.gte.is_none_or(|bound| number >= bound)
            && self.lt.is_none_or(|bound| number < bound)
            && self.lte.is_none_or(|bound| number <= bound)
    }
}

/// All values under a dotted path. Lists are looked into, with or without `[]` behind the key.
pub(crate) fn values_at<'a>(payload: &'a Map<String, Value>, path: &str) -> Vec<&'a Value> {
    let mut found: Vec<&Value> = Vec::new();
    if let Some(value) = payload.get(path) {
        found.push(value);
    } else {
        let mut steps = path.split('.').map(|step| step.trim_end_matches("[]"));
        if let Some(value) = steps.next().and_then(|first| payload.get(first)) {
            found.push(value);
            for step in steps {
                found = found
                    .into_iter()
                    .flat_map(|value| match value {
                        Value::Array(items) => {
                            items.iter().filter_map(|item| item.get(step)).collect::<Vec<_>>()
                        }
                        other => other.get(step).into_iter().collect(),
                    })
                    .collect();
            }
        }
    }
    found
        .into_iter()
        .flat_map(|value| match value {
            Value::Array(items) => items.iter().collect::<Vec<_>>(),
            other => vec![other],
        })
        .collect()
}

fn same(a: &Value, b: &Value) -> bool {
    a == b || matches!((a.as_f64(), b.as_f64()), (Some(a), Some(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn passes(filter: &Value, payload: &Value) -> bool {
        let filter = Filter::from_json(filter).expect("a filter");
        let payload = payload.as_object().cloned().expect("an object");
        filter.matches(&PointId::Num(7), &payload)
    }

    #[test]
    fn clauses_combine() {
        let payload = json!({"city": "Berlin", "n": 5, "a": {"b": [1, 2]}, "tags": ["x", "y"]});
        assert!(passes(&json!({"must": [{"key": "city", "match": {"value": "Berlin"}}]}), &payload));
        assert!(passes(&json!({"must": {"key": "tags", "match": {"any": ["y", "z"]}}}), &payload));
        assert!(!passes(&json!({"must_not": [{"key": "n", "range": {"gte": 5}}]}), &payload));
        assert!(passes(&json!({"should": [{"has_id": [7]}, {"is_empty": {"key": "city"}}]}), &payload));
        assert!(passes(&json!({"must": [{"key": "a.b", "match": {"value": 2}}]}), &payload));
        assert!(passes(&json!({"must": [{"key": "city", "match": {"except": ["Rome"]}}]}), &payload));
        assert!(!passes(&json!({"must": [{"key": "nowhere", "match": {"except": ["Rome"]}}]}), &payload));
        assert!(passes(&json!({}), &payload));
    }

    #[test]
    fn emptiness_counts_nulls_and_empty_lists() {
        let filter = json!({"must": [{"is_empty": {"key": "k"}}]});
        assert!(passes(&filter, &json!({})));
        assert!(passes(&filter, &json!({"k": null})));
        assert!(passes(&filter, &json!({"k": []})));
        assert!(!passes(&filter, &json!({"k": 0})));
    }

    #[test]
    fn what_is_lacking_says_so() {
        let error = Filter::from_json(&json!({"must": [{"key": "t", "match": {"text": "x"}}]})).unwrap_err();
        assert_eq!(error.http_status(), 501);
        assert_eq!(Filter::from_json(&json!({"must": [1]})).unwrap_err().http_status(), 400);
        assert_eq!(Filter::from_json(&json!({"mist": []})).unwrap_err().http_status(), 400);
    }
}
