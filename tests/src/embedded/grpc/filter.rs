//! Protobuf filters into the model.

use qdrant_client::qdrant as pb;
use qdrant_client::qdrant::condition::ConditionOneOf;
use qdrant_client::qdrant::r#match::MatchValue;
use serde_json::Value;

use super::super::error::{OpError, OpResult};
use super::super::filter::{Condition, Filter, Range};
use super::input::point_id;

pub(super) fn filter(filter: pb::Filter) -> OpResult<Filter> {
    let list =
        |conditions: Vec<pb::Condition>| conditions.into_iter().map(condition).collect::<OpResult<Vec<_>>>();
    let min_should = match filter.min_should {
        None => None,
        Some(min) => Some((list(min.conditions)?, usize::try_from(min.min_count).unwrap_or(usize::MAX))),
    };
    Ok(Filter {
        must: list(filter.must)?,
        should: list(filter.should)?,
        must_not: list(filter.must_not)?,
        min_should,
    })
}

pub(super) fn optional(given: Option<pb::Filter>) -> OpResult<Option<Filter>> {
    given.map(filter).transpose()
}

fn condition(condition: pb::Condition) -> OpResult<Condition> {
    match condition.condition_one_of {
        Some(ConditionOneOf::Field(condition)) => field(condition),
        Some(ConditionOneOf::IsEmpty(condition)) => Ok(Condition::IsEmpty { key: condition.key }),
        Some(ConditionOneOf::IsNull(condition)) => Ok(Condition::IsNull { key: condition.key }),
        Some(ConditionOneOf::HasId(condition)) => {
            condition.has_id.into_iter().map(point_id).collect::<OpResult<_>>().map(Condition::HasId)
        }
        Some(ConditionOneOf::Filter(inner)) => Ok(Condition::Nested(Box::new(filter(inner)?))),
        Some(_) => Err(OpError::lacking("this kind of filter condition")),
        None => Err(OpError::bad_request("Malformed Condition type")),
    }
}

fn field(condition: pb::FieldCondition) -> OpResult<Condition> {
    let key = condition.key;
    if let Some(matched) = condition.r#match {
        let words = |list: pb::RepeatedStrings| list.strings.into_iter().map(Value::from).collect();
        let numbers = |list: pb::RepeatedIntegers| list.integers.into_iter().map(Value::from).collect();
        return match matched.match_value {
            Some(MatchValue::Keyword(word)) => Ok(Condition::MatchAny { key, values: vec![word.into()] }),
            Some(MatchValue::Integer(number)) => Ok(Condition::MatchAny { key, values: vec![number.into()] }),
            Some(MatchValue::Boolean(flag)) => Ok(Condition::MatchAny { key, values: vec![flag.into()] }),
            Some(MatchValue::Keywords(list)) => Ok(Condition::MatchAny { key, values: words(list) }),
            Some(MatchValue::Integers(list)) => Ok(Condition::MatchAny { key, values: numbers(list) }),
            Some(MatchValue::ExceptKeywords(list)) => Ok(Condition::MatchExcept { key, values: words(list) }),
            Some(MatchValue::ExceptIntegers(list)) => {
                Ok(Condition::MatchExcept { key, values: numbers(list) })
            }
            Some(_) => Err(OpError::lacking("full-text matches")),
            None => Err(OpError::bad_request("Malformed Match condition")),
        };
    }
    if let Some(range) = condition.range {
        let range = Range { gt: range.gt, gte: range.gte, lt: range.lt, lte: range.lte };
        return Ok(Condition::Range { key, range });
    }
    match (condition.is_empty, condition.is_null) {
        (Some(true), _) => Ok(Condition::IsEmpty { key }),
        (_, Some(true)) => Ok(Condition::IsNull { key }),
        _ => Err(OpError::lacking("this kind of filter condition")),
    }
}
