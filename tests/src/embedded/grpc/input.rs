//! Protobuf requests into the model.

use std::collections::HashMap;

use qdrant_client::qdrant as pb;
use qdrant_client::qdrant::point_id::PointIdOptions;
use qdrant_client::qdrant::points_selector::PointsSelectorOneOf;
use qdrant_client::qdrant::points_update_operation::Operation;
use qdrant_client::qdrant::value::Kind as ValueKind;
use qdrant_client::qdrant::vector::Vector as VectorKind;
use qdrant_client::qdrant::vectors::VectorsOptions;
use serde_json::{Map, Number, Value};
use uuid::Uuid;

use super::super::affinity::Affinity;
use super::super::error::{Kind, OpError, OpResult};
use super::super::model::{
    Consistency, KeySelector, Ordering, Point, PointId, PointVectors, Query, QueryTarget, RRF_K, ReadParams,
    Selector, ShardKey, Update, UpdateMode, Vectors, WithPayload, WithVectors, WriteParams,
};
use super::filter;

/// Without a limit Qdrant returns this many.
const DEFAULT_LIMIT: u64 = 10;

/// A write with the shard keys it names. Several updates are steps of one.
pub(super) type Write = (Vec<Update>, Option<KeySelector>);

pub(super) fn point_id(id: pb::PointId) -> OpResult<PointId> {
    match id.point_id_options {
        Some(PointIdOptions::Num(number)) => Ok(PointId::Num(number)),
        Some(PointIdOptions::Uuid(text)) => Uuid::parse_str(&text)
            .map(PointId::Uuid)
            .map_err(|_| OpError::new(Kind::Invalid, format!("Unable to parse UUID: {text}"))),
        None => Err(OpError::new(Kind::Invalid, "No ID options provided")),
    }
}

fn required_id(id: Option<pb::PointId>) -> OpResult<PointId> {
    point_id(id.ok_or_else(|| OpError::new(Kind::Invalid, "Empty ID is not allowed"))?)
}

pub(super) fn ids(ids: Vec<pb::PointId>) -> OpResult<Vec<PointId>> {
    ids.into_iter().map(point_id).collect()
}

pub(super) fn payload(payload: HashMap<String, pb::Value>) -> OpResult<Map<String, Value>> {
    payload.into_iter().map(|(key, value)| Ok((key, json(value)?))).collect()
}

fn json(value: pb::Value) -> OpResult<Value> {
    Ok(match value.kind {
        Some(ValueKind::DoubleValue(number)) => Number::from_f64(number)
            .ok_or_else(|| OpError::new(Kind::Invalid, "cannot convert to json number"))?
            .into(),
        Some(ValueKind::StructValue(object)) => payload(object.fields)?.into(),
        Some(ValueKind::ListValue(list)) => list.values.into_iter().map(json).collect::<OpResult<_>>()?,
        kind => pb::Value { kind }.into(),
    })
}

#[allow(deprecated)] // Old clients, and the official one, still fill the fields that came first.
fn dense(vector: pb::Vector) -> OpResult<Vec<f32>> {
    match vector.vector {
        Some(VectorKind::Dense(dense)) => Ok(dense.data),
        Some(VectorKind::Sparse(_)) => Err(OpError::lacking("sparse vectors")),
        Some(VectorKind::MultiDense(_)) => Err(OpError::lacking("multi-vectors")),
        Some(VectorKind::Document(_) | VectorKind::Image(_) | VectorKind::Object(_)) => {
            Err(OpError::lacking("inference"))
        }
        None if vector.indices.is_some() => Err(OpError::lacking("sparse vectors")),
        None if vector.vectors_count.is_some() => Err(OpError::lacking("multi-vectors")),
        None => Ok(vector.data),
    }
}

fn vectors(vectors: Option<pb::Vectors>) -> OpResult<Vectors> {
    match vectors.and_then(|vectors| vectors.vectors_options) {
        None => Err(OpError::new(Kind::Invalid, "Expected some vectors")),
        Some(VectorsOptions::Vector(vector)) => Ok(Vectors::from([(String::new(), dense(vector)?)])),
        Some(VectorsOptions::Vectors(named)) => {
            named.vectors.into_iter().map(|(name, vector)| Ok((name, dense(vector)?))).collect()
        }
    }
}

fn point(point: pb::PointStruct) -> OpResult<Point> {
    Ok(Point {
        id: required_id(point.id)?,
        payload: payload(point.payload)?,
        vectors: vectors(point.vectors)?,
    })
}

pub(super) fn points(points: Vec<pb::PointStruct>) -> OpResult<Vec<Point>> {
    points.into_iter().map(point).collect()
}

pub(super) fn point_vectors(points: Vec<pb::PointVectors>) -> OpResult<Vec<PointVectors>> {
    points
        .into_iter()
        .map(|point| Ok(PointVectors { id: required_id(point.id)?, vectors: vectors(point.vectors)? }))
        .collect()
}

pub(super) fn selector(selector: Option<pb::PointsSelector>) -> OpResult<Selector> {
    match selector.and_then(|selector| selector.points_selector_one_of) {
        Some(PointsSelectorOneOf::Points(list)) => Ok(Selector::Ids(ids(list.ids)?)),
        Some(PointsSelectorOneOf::Filter(given)) => Ok(Selector::Filter(filter::filter(given)?)),
        None => Err(OpError::new(Kind::Invalid, "PointsSelector is missing")),
    }
}

pub(super) fn shard_key(key: Option<pb::ShardKey>) -> OpResult<ShardKey> {
    match key.and_then(|key| key.key) {
        Some(pb::shard_key::Key::Keyword(word)) => Ok(ShardKey::Keyword(word)),
        Some(pb::shard_key::Key::Number(number)) => Ok(ShardKey::Number(number)),
        None => Err(OpError::new(Kind::Invalid, "Shard key is not specified")),
    }
}

pub(super) fn keys(selector: Option<pb::ShardKeySelector>) -> OpResult<Option<KeySelector>> {
    let Some(selector) = selector else {
        return Ok(None);
    };
    let mut keys = selector
        .shard_keys
        .into_iter()
        .map(|key| shard_key(Some(key)))
        .collect::<OpResult<Vec<ShardKey>>>()?;
    match (selector.fallback, keys.len()) {
        (None, 1) => Ok(keys.pop().map(KeySelector::One)),
        (None, _) => Ok(Some(KeySelector::Many(keys))),
        (Some(fallback), 1) => {
            let fallback = shard_key(Some(fallback))?;
            Ok(keys.pop().map(|target| KeySelector::Fallback { target, fallback }))
        }
        (Some(_), _) => {
            Err(OpError::new(Kind::Invalid, "Fallback shard key can only be used with a single shard key"))
        }
    }
}

pub(super) fn write_params(
    wait: Option<bool>,
    ordering: Option<pb::WriteOrdering>,
    timeout: Option<u64>,
) -> OpResult<WriteParams> {
    let ordering = match ordering.map(|ordering| ordering.r#type) {
        None | Some(0) => Ordering::Weak,
        Some(1) => Ordering::Medium,
        Some(2) => Ordering::Strong,
        Some(other) => {
            return Err(OpError::new(Kind::Invalid, format!("Invalid write ordering value: {other}")));
        }
    };
    Ok(WriteParams { wait: wait.unwrap_or(false), ordering, timeout })
}

pub(super) fn read_params(
    consistency: Option<pb::ReadConsistency>,
    timeout: Option<u64>,
    affinity: Option<Affinity>,
) -> OpResult<ReadParams> {
    use pb::read_consistency::Value as Given;
    let invalid = |text: String| OpError::new(Kind::Invalid, text);
    let consistency = match consistency.and_then(|consistency| consistency.value) {
        None => Consistency::Factor(1),
        Some(Given::Factor(0)) => {
            return Err(invalid("Read consistency factor can not be zero".to_owned()));
        }
        Some(Given::Factor(factor)) => Consistency::Factor(usize::try_from(factor).unwrap_or(usize::MAX)),
        Some(Given::Type(0)) => Consistency::All,
        Some(Given::Type(1)) => Consistency::Majority,
        Some(Given::Type(2)) => Consistency::Quorum,
        Some(Given::Type(other)) => {
            return Err(invalid(format!("Invalid read consistency type value: {other}")));
        }
    };
    Ok(ReadParams { consistency, timeout, affinity })
}

pub(super) fn update_mode(mode: Option<i32>) -> UpdateMode {
    match mode {
        Some(1) => UpdateMode::InsertOnly,
        Some(2) => UpdateMode::UpdateOnly,
        _ => UpdateMode::Upsert,
    }
}

pub(super) fn with_payload(selector: Option<pb::WithPayloadSelector>, default: WithPayload) -> WithPayload {
    use pb::with_payload_selector::SelectorOptions;
    match selector.and_then(|selector| selector.selector_options) {
        None => default,
        Some(SelectorOptions::Enable(true)) => WithPayload::All,
        Some(SelectorOptions::Enable(false)) => WithPayload::None,
        Some(SelectorOptions::Include(include)) => WithPayload::Include(include.fields),
        Some(SelectorOptions::Exclude(exclude)) => WithPayload::Exclude(exclude.fields),
    }
}

pub(super) fn with_vectors(selector: Option<pb::WithVectorsSelector>) -> WithVectors {
    use pb::with_vectors_selector::SelectorOptions;
    match selector.and_then(|selector| selector.selector_options) {
        None | Some(SelectorOptions::Enable(false)) => WithVectors::None,
        Some(SelectorOptions::Enable(true)) => WithVectors::All,
        Some(SelectorOptions::Include(include)) => WithVectors::Named(include.names),
    }
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

pub(super) fn query(request: pb::QueryPoints) -> OpResult<Query> {
    use pb::query::Variant;
    if request.lookup_from.is_some() {
        return Err(OpError::lacking("`lookup_from` in queries"));
    }
    let variant = request.query.and_then(|query| query.variant);
    let k = match &variant {
        Some(Variant::Fusion(kind)) if *kind == pb::Fusion::Rrf as i32 => Some(RRF_K),
        Some(Variant::Rrf(rrf)) if rrf.weights.is_empty() => Some(rrf.k.unwrap_or(RRF_K)),
        _ => None,
    };
    let target = match variant {
        _ if let Some(k) = k => {
            if request.prefetch.is_empty() {
                return Err(OpError::bad_request("cannot apply Fusion without prefetches"));
            }
            let prefetch = request.prefetch.into_iter().map(prefetch).collect::<OpResult<_>>()?;
            QueryTarget::Fusion { prefetch, k }
        }
        _ if !request.prefetch.is_empty() => {
            return Err(OpError::lacking("`prefetch` in queries other than fusions"));
        }
        None => QueryTarget::None,
        Some(Variant::Nearest(input)) => nearest(input)?,
        Some(_) => return Err(OpError::lacking("this kind of query")),
    };
    Ok(Query {
        target,
        using: request.using.unwrap_or_default(),
        filter: filter::optional(request.filter)?,
        limit: size(request.limit.unwrap_or(DEFAULT_LIMIT)),
        offset: size(request.offset.unwrap_or(0)),
        score_threshold: request.score_threshold,
        with_payload: with_payload(request.with_payload, WithPayload::None),
        with_vectors: with_vectors(request.with_vectors),
        keys: keys(request.shard_key_selector)?,
    })
}

/// One source of a fusion.
fn prefetch(prefetch: pb::PrefetchQuery) -> OpResult<Query> {
    if !prefetch.prefetch.is_empty() {
        return Err(OpError::lacking("nested prefetches"));
    }
    query(pb::QueryPoints {
        query: prefetch.query,
        using: prefetch.using,
        filter: prefetch.filter,
        score_threshold: prefetch.score_threshold,
        limit: prefetch.limit,
        lookup_from: prefetch.lookup_from,
        ..pb::QueryPoints::default()
    })
}

fn nearest(input: pb::VectorInput) -> OpResult<QueryTarget> {
    use pb::vector_input::Variant;
    match input.variant {
        Some(Variant::Id(id)) => point_id(id).map(QueryTarget::Point),
        Some(Variant::Dense(dense)) => Ok(QueryTarget::Vector(dense.data)),
        Some(Variant::Sparse(_)) => Err(OpError::lacking("sparse vectors")),
        Some(Variant::MultiDense(_)) => Err(OpError::lacking("multi-vectors")),
        Some(Variant::Document(_) | Variant::Image(_) | Variant::Object(_)) => {
            Err(OpError::lacking("inference"))
        }
        None => Err(OpError::new(Kind::Invalid, "VectorInput variant is missing")),
    }
}

pub(super) fn search(request: pb::SearchPoints) -> OpResult<Query> {
    if request.sparse_indices.is_some() {
        return Err(OpError::lacking("sparse vectors"));
    }
    Ok(Query {
        target: QueryTarget::Vector(request.vector),
        using: request.vector_name.unwrap_or_default(),
        filter: filter::optional(request.filter)?,
        limit: size(request.limit),
        offset: size(request.offset.unwrap_or(0)),
        score_threshold: request.score_threshold,
        with_payload: with_payload(request.with_payload, WithPayload::None),
        with_vectors: with_vectors(request.with_vectors),
        keys: keys(request.shard_key_selector)?,
    })
}

/// One operation of a batch.
#[allow(deprecated)] // The two old operations carry no shard key and are still understood.
pub(super) fn operation(operation: pb::PointsUpdateOperation) -> OpResult<Write> {
    let operation = operation.operation.ok_or_else(|| OpError::new(Kind::Invalid, "Operation is missing"))?;
    let (update, selected) = match operation {
        Operation::Upsert(list) => (
            Update::Upsert {
                points: points(list.points)?,
                condition: filter::optional(list.update_filter)?,
                mode: update_mode(list.update_mode),
            },
            list.shard_key_selector,
        ),
        Operation::DeleteDeprecated(old) => (Update::Delete { selector: selector(Some(old))? }, None),
        Operation::DeletePoints(delete) => {
            (Update::Delete { selector: selector(delete.points)? }, delete.shard_key_selector)
        }
        Operation::SetPayload(set) => (
            Update::SetPayload {
                payload: payload(set.payload)?,
                selector: selector(set.points_selector)?,
                key: set.key,
            },
            set.shard_key_selector,
        ),
        Operation::OverwritePayload(set) => (
            Update::OverwritePayload {
                payload: payload(set.payload)?,
                selector: selector(set.points_selector)?,
            },
            set.shard_key_selector,
        ),
        Operation::DeletePayload(delete) => (
            Update::DeletePayload { keys: delete.keys, selector: selector(delete.points_selector)? },
            delete.shard_key_selector,
        ),
        Operation::ClearPayloadDeprecated(old) => {
            (Update::ClearPayload { selector: selector(Some(old))? }, None)
        }
        Operation::ClearPayload(clear) => {
            (Update::ClearPayload { selector: selector(clear.points)? }, clear.shard_key_selector)
        }
        Operation::UpdateVectors(update) => (
            Update::SetVectors {
                points: point_vectors(update.points)?,
                condition: filter::optional(update.update_filter)?,
            },
            update.shard_key_selector,
        ),
        Operation::DeleteVectors(delete) => (
            Update::DeleteVectors {
                selector: selector(delete.points_selector)?,
                names: delete.vectors.unwrap_or_default().names,
            },
            delete.shard_key_selector,
        ),
    };
    Ok((vec![update], keys(selected)?))
}
