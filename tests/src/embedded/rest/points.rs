//! Points: writes and reads.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::super::engine::{Engine, no_shard};
use super::super::error::{Kind, OpError, OpResult};
use super::super::model::{
    Answer, KeySelector, Point, PointId, PointVectors, Query, QueryTarget, RRF_K, Read, Scored, Selector,
    Update, WithPayload, WithVectors, WriteParams,
};
use super::body::{self, optional, record_json, required, scored_json};
use super::{Ask, Reply};

/// The routes of this module.
#[derive(Clone, Copy, Debug)]
pub(super) enum Page {
    Upsert,
    Delete,
    UpdateVectors,
    DeleteVectors,
    SetPayload,
    OverwritePayload,
    DeletePayload,
    ClearPayload,
    Batch,
    Get,
    Retrieve,
    Scroll,
    Count,
    Query,
    QueryBatch,
    Search,
    SearchBatch,
    Facet,
    ShardRetrieve,
    ShardScroll,
    ShardCount,
}

/// Without a limit Qdrant returns this many.
const DEFAULT_LIMIT: usize = 10;

pub(super) async fn run(page: Page, engine: &Arc<Engine>, ask: &Ask) -> OpResult<Reply> {
    match page {
        Page::Upsert => write(engine, ask, "upsert").await,
        Page::Delete => write(engine, ask, "delete").await,
        Page::UpdateVectors => write(engine, ask, "update_vectors").await,
        Page::DeleteVectors => write(engine, ask, "delete_vectors").await,
        Page::SetPayload => write(engine, ask, "set_payload").await,
        Page::OverwritePayload => write(engine, ask, "overwrite_payload").await,
        Page::DeletePayload => write(engine, ask, "delete_payload").await,
        Page::ClearPayload => write(engine, ask, "clear_payload").await,
        Page::Batch => batch(engine, ask).await,
        Page::Get => get(engine, ask).await,
        Page::Retrieve => retrieve(engine, ask).await,
        Page::Scroll => scroll(engine, ask).await,
        Page::Count => count(engine, ask).await,
        Page::Query | Page::QueryBatch | Page::Search | Page::SearchBatch => query(page, engine, ask).await,
        Page::Facet => facet(engine, ask).await,
        Page::ShardRetrieve | Page::ShardScroll | Page::ShardCount => one_shard(page, engine, ask),
    }
}

// === Writes ===

async fn write(engine: &Arc<Engine>, ask: &Ask, name: &str) -> OpResult<Reply> {
    let params = ask.write_params()?;
    let body: Value = serde_json::from_slice(&ask.body).map_err(OpError::bad_json)?;
    let (updates, keys) = updates(name, &body)?;
    let result = apply(engine, ask.param(0), updates, keys.as_ref(), params).await?;
    Ok(Reply::Result(result))
}

/// Several updates are one request in two steps; the last result is the answer.
async fn apply(
    engine: &Arc<Engine>,
    collection: &str,
    updates: Vec<Update>,
    keys: Option<&KeySelector>,
    params: WriteParams,
) -> OpResult<Value> {
    let mut last = Value::Null;
    for update in updates {
        last = json!(engine.update(collection, update, keys, params).await?);
    }
    Ok(last)
}

/// One operation after the other; the first error ends the batch, and earlier operations stay.
async fn batch(engine: &Arc<Engine>, ask: &Ask) -> OpResult<Reply> {
    let params = ask.write_params()?;
    let object = ask.object()?;
    let operations = required(&object, "operations")?.as_array().cloned().unwrap_or_default();
    let parsed = operations
        .iter()
        .map(|operation| {
            let only = operation
                .as_object()
                .filter(|object| object.len() == 1)
                .and_then(|object| object.iter().next());
            let (name, body) = only.ok_or_else(|| {
                OpError::bad_json("data did not match any variant of untagged enum UpdateOperation")
            })?;
            updates(name, body)
        })
        .collect::<OpResult<Vec<_>>>()?;
    let mut results = Vec::with_capacity(parsed.len());
    for (updates, keys) in parsed {
        results.push(apply(engine, ask.param(0), updates, keys.as_ref(), params).await?);
    }
    Ok(Reply::Result(Value::Array(results)))
}

/// Reads one write operation. The names are those of the batch call.
fn updates(name: &str, body: &Value) -> OpResult<(Vec<Update>, Option<KeySelector>)> {
    // A bare list of ids is an old form of deletion and clearing.
    let wrapped;
    let object = match body {
        Value::Object(object) => object,
        Value::Array(_) => {
            wrapped = Map::from_iter([("points".to_owned(), body.clone())]);
            &wrapped
        }
        _ => return Err(OpError::bad_json("invalid type: expected an object")),
    };
    let keys = body::keys(object)?;
    let update = match name {
        "upsert" => Update::Upsert {
            points: points(object)?,
            condition: body::filter(object, "update_filter")?,
            mode: body::update_mode(object)?,
        },
        "delete" => Update::Delete { selector: body::selector(object)? },
        "set_payload" => Update::SetPayload {
            payload: body::payload(Some(required(object, "payload")?))?,
            selector: body::selector(object)?,
            key: optional(object, "key")?,
        },
        "overwrite_payload" => Update::OverwritePayload {
            payload: body::payload(Some(required(object, "payload")?))?,
            selector: body::selector(object)?,
        },
        "delete_payload" => Update::DeletePayload {
            keys: optional(object, "keys")?.ok_or_else(|| OpError::bad_json("missing field `keys`"))?,
            selector: body::selector(object)?,
        },
        "clear_payload" => Update::ClearPayload { selector: body::selector(object)? },
        "update_vectors" => Update::SetVectors {
            points: list(required(object, "points")?)?
                .iter()
                .map(|point| {
                    let point = as_object(point)?;
                    Ok(PointVectors {
                        id: point_id(required(point, "id")?)?,
                        vectors: body::vectors(required(point, "vector")?)?,
                    })
                })
                .collect::<OpResult<_>>()?,
            condition: body::filter(object, "update_filter")?,
        },
        "delete_vectors" => return Ok((delete_vectors(object)?, keys)),
        other => {
            return Err(OpError::bad_json(format!("unknown variant `{other}` of an update operation")));
        }
    };
    Ok((vec![update], keys))
}

/// With a filter and ids this is two operations, the filter first.
fn delete_vectors(object: &Map<String, Value>) -> OpResult<Vec<Update>> {
    let names: Vec<String> = optional(object, "vector")?
        .or(optional(object, "vectors")?)
        .ok_or_else(|| OpError::bad_json("missing field `vector`"))?;
    let by_filter = body::filter(object, "filter")?.map(Selector::Filter);
    let by_ids =
        object.get("points").filter(|ids| !ids.is_null()).map(body::ids).transpose()?.map(Selector::Ids);
    let updates: Vec<Update> = [by_filter, by_ids]
        .into_iter()
        .flatten()
        .map(|selector| Update::DeleteVectors { selector, names: names.clone() })
        .collect();
    if updates.is_empty() {
        return Err(OpError::bad_request("No filter or points provided"));
    }
    Ok(updates)
}

fn points(object: &Map<String, Value>) -> OpResult<Vec<Point>> {
    if let Some(batch) = object.get("batch") {
        return columns(as_object(batch)?);
    }
    list(required(object, "points")?)?
        .iter()
        .map(|point| {
            let point = as_object(point)?;
            Ok(Point {
                id: point_id(required(point, "id")?)?,
                payload: body::payload(point.get("payload"))?,
                vectors: body::vectors(required(point, "vector")?)?,
            })
        })
        .collect()
}

/// The columnar form: ids, vectors and payloads side by side.
fn columns(batch: &Map<String, Value>) -> OpResult<Vec<Point>> {
    let ids = body::ids(required(batch, "ids")?)?;
    let columns = required(batch, "vectors")?;
    let payloads: Option<Vec<Value>> = optional(batch, "payloads")?;
    let uneven = |what: &str| {
        OpError::new(
            Kind::Invalid,
            format!("Validation error in JSON body: number of ids and {what} must be equal"),
        )
    };
    if payloads.as_ref().is_some_and(|payloads| payloads.len() != ids.len()) {
        return Err(uneven("payloads"));
    }
    let mut points: Vec<Point> = ids
        .into_iter()
        .enumerate()
        .map(|(at, id)| {
            let payload = body::payload(payloads.as_ref().and_then(|payloads| payloads.get(at)))?;
            Ok(Point { id, payload, vectors: Default::default() })
        })
        .collect::<OpResult<_>>()?;
    let mut fill = |name: &str, column: &Value| {
        let column = list(column)?;
        if column.len() != points.len() {
            return Err(uneven("vectors"));
        }
        for (point, vector) in points.iter_mut().zip(column) {
            point.vectors.insert(name.to_owned(), body::dense(vector)?);
        }
        Ok(())
    };
    match columns {
        Value::Object(named) => named.iter().try_for_each(|(name, column)| fill(name, column))?,
        unnamed => fill("", unnamed)?,
    }
    Ok(points)
}

fn list(value: &Value) -> OpResult<&[Value]> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| OpError::bad_json("invalid type: expected a sequence"))
}

fn as_object(value: &Value) -> OpResult<&Map<String, Value>> {
    value.as_object().ok_or_else(|| OpError::bad_json("invalid type: expected an object"))
}

fn point_id(value: &Value) -> OpResult<PointId> {
    PointId::from_json(value).ok_or_else(|| {
        OpError::bad_json(format!(
            "value {value} is not a valid point ID, valid values are either an unsigned integer or a UUID"
        ))
    })
}

// === Reads ===

async fn get(engine: &Arc<Engine>, ask: &Ask) -> OpResult<Reply> {
    let text = ask.param(1);
    let id = PointId::parse_path(text)
        .ok_or_else(|| OpError::bad_input(format!("Can not recognize \"{text}\" as point id")))?;
    let params = ask.read_params()?;
    let found =
        engine.retrieve(ask.param(0), vec![id], WithPayload::All, WithVectors::All, None, params).await?;
    let record = found
        .into_iter()
        .next()
        .ok_or_else(|| OpError::not_found(format!("Point with id {id} does not exists!")))?;
    Ok(Reply::Result(Value::Object(record_json(record))))
}

async fn retrieve(engine: &Arc<Engine>, ask: &Ask) -> OpResult<Reply> {
    let params = ask.read_params()?;
    let object = ask.object()?;
    let found = engine
        .retrieve(
            ask.param(0),
            body::ids(required(&object, "ids")?)?,
            body::with_payload(&object, WithPayload::None)?,
            body::with_vectors(&object)?,
            body::keys(&object)?.as_ref(),
            params,
        )
        .await?;
    Ok(Reply::Result(found.into_iter().map(|record| Value::Object(record_json(record))).collect()))
}

fn scroll_read(object: &Map<String, Value>) -> OpResult<Read> {
    if object.get("order_by").is_some_and(|order| !order.is_null()) {
        return Err(OpError::lacking("order_by"));
    }
    Ok(Read::Scroll {
        offset: optional(object, "offset")?,
        limit: body::size(object, "limit")?.unwrap_or(DEFAULT_LIMIT),
        filter: body::filter(object, "filter")?,
        with_payload: body::with_payload(object, WithPayload::All)?,
        with_vectors: body::with_vectors(object)?,
    })
}

fn page_json(points: Vec<super::super::model::Record>, next: Option<PointId>) -> Value {
    let points: Vec<Value> = points.into_iter().map(|record| Value::Object(record_json(record))).collect();
    json!({ "points": points, "next_page_offset": next })
}

async fn scroll(engine: &Arc<Engine>, ask: &Ask) -> OpResult<Reply> {
    let params = ask.read_params()?;
    let object = ask.object()?;
    let page =
        engine.scroll(ask.param(0), scroll_read(&object)?, body::keys(&object)?.as_ref(), params).await?;
    Ok(Reply::Result(page_json(page.points, page.next)))
}

async fn count(engine: &Arc<Engine>, ask: &Ask) -> OpResult<Reply> {
    let params = ask.read_params()?;
    let object = ask.object()?;
    let filter = body::filter(&object, "filter")?;
    let count = engine.count(ask.param(0), filter, body::keys(&object)?.as_ref(), params).await?;
    Ok(Reply::Result(json!({ "count": count })))
}

async fn facet(engine: &Arc<Engine>, ask: &Ask) -> OpResult<Reply> {
    let params = ask.read_params()?;
    let object = ask.object()?;
    let key: String = optional(&object, "key")?.ok_or_else(|| OpError::bad_json("missing field `key`"))?;
    let filter = body::filter(&object, "filter")?;
    let limit = body::size(&object, "limit")?.unwrap_or(DEFAULT_LIMIT);
    let hits = engine.facet(ask.param(0), key, filter, limit, body::keys(&object)?.as_ref(), params).await?;
    let hits: Vec<Value> =
        hits.into_iter().map(|(value, count)| json!({ "value": value, "count": count })).collect();
    Ok(Reply::Result(json!({ "hits": hits })))
}

async fn query(page: Page, engine: &Arc<Engine>, ask: &Ask) -> OpResult<Reply> {
    let params = ask.read_params()?;
    let object = ask.object()?;
    let batch = matches!(page, Page::QueryBatch | Page::SearchBatch);
    let searching = matches!(page, Page::Search | Page::SearchBatch);
    let bodies: Vec<Map<String, Value>> = if batch {
        list(required(&object, "searches")?)?
            .iter()
            .map(|body| as_object(body).cloned())
            .collect::<OpResult<_>>()?
    } else {
        vec![object]
    };
    let parse = if searching { search_body } else { query_body };
    let queries = bodies.iter().map(parse).collect::<OpResult<Vec<_>>>()?;
    let lists = if searching {
        engine.search(ask.param(0), queries, params).await?
    } else {
        engine.query(ask.param(0), queries, params).await?
    };
    let show = |hits: Vec<Scored>| {
        let hits: Value = hits.into_iter().map(scored_json).collect();
        if searching { hits } else { json!({ "points": hits }) }
    };
    let mut shown: Vec<Value> = lists.into_iter().map(show).collect();
    Ok(Reply::Result(if batch { Value::Array(shown) } else { shown.pop().unwrap_or(Value::Null) }))
}

fn query_common(object: &Map<String, Value>, target: QueryTarget, using: String) -> OpResult<Query> {
    Ok(Query {
        target,
        using,
        filter: body::filter(object, "filter")?,
        limit: body::size(object, "limit")?.unwrap_or(DEFAULT_LIMIT),
        offset: body::size(object, "offset")?.unwrap_or(0),
        score_threshold: optional(object, "score_threshold")?,
        with_payload: body::with_payload(object, WithPayload::None)?,
        with_vectors: body::with_vectors(object)?,
        keys: body::keys(object)?,
    })
}

fn query_body(object: &Map<String, Value>) -> OpResult<Query> {
    if object.get("lookup_from").is_some_and(|value| !value.is_null()) {
        return Err(OpError::lacking("`lookup_from` in queries"));
    }
    let prefetch = match object.get("prefetch") {
        None | Some(Value::Null) => &[][..],
        Some(Value::Array(several)) => several,
        Some(one) => std::slice::from_ref(one),
    };
    let target = match object.get("query") {
        Some(query) if let Some(k) = fusion(query)? => {
            if prefetch.is_empty() {
                return Err(OpError::bad_request("cannot apply Fusion without prefetches"));
            }
            let prefetch = prefetch.iter().map(|prefetch| {
                let prefetch = query_body(as_object(prefetch)?)?;
                match prefetch.target {
                    QueryTarget::Fusion { .. } => Err(OpError::lacking("nested prefetches")),
                    QueryTarget::None | QueryTarget::Vector(_) | QueryTarget::Point(_) => Ok(prefetch),
                }
            });
            QueryTarget::Fusion { prefetch: prefetch.collect::<OpResult<_>>()?, k }
        }
        _ if !prefetch.is_empty() => {
            return Err(OpError::lacking("`prefetch` in queries other than fusions"));
        }
        None | Some(Value::Null) => QueryTarget::None,
        Some(query) => nearest(query)?,
    };
    query_common(object, target, optional(object, "using")?.unwrap_or_default())
}

/// The constant of a fusion by rank, if this is one.
fn fusion(query: &Value) -> OpResult<Option<u32>> {
    let Value::Object(object) = query else {
        return Ok(None);
    };
    if let Some(rrf) = object.get("rrf") {
        let rrf = as_object(rrf)?;
        if rrf.get("weights").is_some_and(|weights| !weights.is_null()) {
            return Err(OpError::lacking("weights in fusions"));
        }
        return Ok(Some(optional(rrf, "k")?.unwrap_or(RRF_K)));
    }
    match object.get("fusion") {
        None => Ok(None),
        Some(fusion) if fusion == "rrf" => Ok(Some(RRF_K)),
        Some(_) => Err(OpError::lacking("fusion other than by rank")),
    }
}

/// A vector or a point id, bare or as `nearest`.
fn nearest(query: &Value) -> OpResult<QueryTarget> {
    match query {
        Value::Object(object) => match object.get("nearest") {
            Some(inner) if !object.contains_key("mmr") => nearest(inner),
            _ if object.contains_key("indices") => Err(OpError::lacking("sparse vectors")),
            _ => Err(OpError::lacking("this kind of query")),
        },
        Value::Number(_) | Value::String(_) => point_id(query).map(QueryTarget::Point),
        vector => body::dense(vector).map(QueryTarget::Vector),
    }
}

fn search_body(object: &Map<String, Value>) -> OpResult<Query> {
    required(object, "limit")?;
    let (using, vector) = match required(object, "vector")? {
        Value::Object(named) => {
            let name: String =
                optional(named, "name")?.ok_or_else(|| OpError::bad_json("missing field `name`"))?;
            (name, body::dense(required(named, "vector")?)?)
        }
        unnamed => (String::new(), body::dense(unnamed)?),
    };
    query_common(object, QueryTarget::Vector(vector), using)
}

// === One shard ===

/// Reads the replica of this node and no other, whatever its state.
fn one_shard(page: Page, engine: &Arc<Engine>, ask: &Ask) -> OpResult<Reply> {
    let meta = engine.consensus.collection(ask.param(0))?;
    let id = ask.shard(1)?;
    ask.read_params()?;
    let object = ask.object()?;
    let shard = meta.shards.get(&id).ok_or_else(|| no_shard(id))?;
    if !shard.replicas.contains_key(&engine.peer_id) {
        return Err(OpError::service(format!("Local shard {id} not found")));
    }
    // Only the points that the ring gives to a shard, where a replica may still hold others.
    let belongs = match object.get("hash_ring_filter").filter(|filter| !filter.is_null()) {
        None => None,
        Some(filter) => {
            let expected: u32 = optional(as_object(filter)?, "expected_shard_id")?
                .ok_or_else(|| OpError::bad_json("missing field `expected_shard_id`"))?;
            let ring = meta.shards.get(&expected).and_then(|shard| meta.rings.get(&shard.key));
            let ring = ring.ok_or_else(|| {
                OpError::bad_request(format!("shard {expected} does not exist in collection {}", meta.name))
            })?;
            Some((expected, ring))
        }
    };
    let keep = |id: &PointId| {
        belongs.is_none_or(|(expected, ring)| ring.shards(id, engine.version.hashing()).contains(&expected))
    };
    let local = engine.storage.shard(meta.uid, id);
    let records = |read: &Read| match local.read(&meta.schema, read)? {
        Answer::Records(mut records) => {
            records.retain(|record| keep(&record.id));
            for record in &mut records {
                record.shard_key.clone_from(&shard.key);
            }
            Ok::<_, OpError>(records)
        }
        Answer::Count(_) | Answer::Scored(_) | Answer::Facet(_) => Ok(Vec::new()),
    };
    match page {
        Page::ShardScroll => {
            let mut read = scroll_read(&object)?;
            let Read::Scroll { limit, .. } = &mut read else {
                return Err(OpError::service("not a scroll"));
            };
            let wanted = std::mem::replace(limit, usize::MAX);
            if wanted == 0 {
                return Err(OpError::bad_request("Limit cannot be 0"));
            }
            let mut points = records(&read)?;
            let next = points.get(wanted).map(|record| record.id);
            points.truncate(wanted);
            Ok(Reply::Result(page_json(points, next)))
        }
        Page::ShardCount => {
            let all = Read::Scroll {
                offset: None,
                limit: usize::MAX,
                filter: body::filter(&object, "filter")?,
                with_payload: WithPayload::None,
                with_vectors: WithVectors::None,
            };
            Ok(Reply::Result(json!({ "count": records(&all)?.len() })))
        }
        _ => {
            let read = Read::Get {
                ids: body::ids(required(&object, "ids")?)?,
                with_payload: body::with_payload(&object, WithPayload::None)?,
                with_vectors: body::with_vectors(&object)?,
            };
            Ok(Reply::Result(
                records(&read)?.into_iter().map(|record| Value::Object(record_json(record))).collect(),
            ))
        }
    }
}
