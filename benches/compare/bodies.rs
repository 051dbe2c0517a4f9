//! What is asked and answered, as Qdrant's clients and Qdrant write it.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use qdrant_client::qdrant::{
    PointStruct, PointsOperationResponse, Query, QueryPoints, QueryResponse, ScoredPoint, ScrollResponse,
    UpdateResult, UpsertPoints, Value, VectorInput,
};
use serde_json::json;

/// One component of a vector, with as many digits as a model gives.
fn component(at: usize) -> f32 {
    let at = u16::try_from(at % 9973).unwrap_or(0);
    (f32::from(at) * 0.618_034).fract()
}

fn vector(dimensions: usize, seed: usize) -> Vec<f32> {
    (0..dimensions).map(|at| component(at * 31 + seed * 17)).collect()
}

// === REST ===

/// A query for the ten nearest points.
pub(crate) fn rest_query(dimensions: usize) -> Bytes {
    json!({ "query": vector(dimensions, 1), "limit": 10, "with_payload": true }).to_string().into()
}

/// An upsert of `points` points.
pub(crate) fn rest_upsert(points: usize, dimensions: usize) -> Bytes {
    let points: Vec<_> = (0..points)
        .map(|id| json!({ "id": id, "vector": vector(dimensions, id), "payload": { "title": "Dune" } }))
        .collect();
    json!({ "points": points }).to_string().into()
}

/// Ten points with scores.
pub(crate) fn rest_found() -> Bytes {
    let points: Vec<_> = (0..10)
        .map(|id| json!({ "id": id, "version": 3, "score": component(id), "payload": { "title": "Dune" } }))
        .collect();
    json!({ "result": { "points": points }, "status": "ok", "time": 0.001 }).to_string().into()
}

/// What a write is answered with.
pub(crate) fn rest_written() -> Bytes {
    json!({ "result": { "operation_id": 7, "status": "acknowledged" }, "status": "ok", "time": 0.001 })
        .to_string()
        .into()
}

/// A page of points of about `size` bytes.
pub(crate) fn rest_page(size: usize) -> Bytes {
    let text = "x".repeat(size);
    let point = json!({ "id": 1, "payload": { "text": text } });
    json!({ "result": { "points": [point], "next_page_offset": 2 }, "status": "ok", "time": 0.001 })
        .to_string()
        .into()
}

// === gRPC ===

/// A message with gRPC's prefix.
fn framed(message: &impl Message) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    out.extend_from_slice(&message.encode_to_vec());
    out.freeze()
}

/// A query for the ten nearest points.
pub(crate) fn grpc_query(collection: &str, dimensions: usize) -> Bytes {
    let query = Query::new_nearest(VectorInput::new_dense(vector(dimensions, 1)));
    framed(&QueryPoints {
        collection_name: collection.to_owned(),
        query: Some(query),
        limit: Some(10),
        with_payload: Some(true.into()),
        ..QueryPoints::default()
    })
}

/// An upsert of `points` points.
pub(crate) fn grpc_upsert(collection: &str, points: usize, dimensions: usize) -> Bytes {
    let point = |id: usize| {
        let payload: [(&str, Value); 1] = [("title", "Dune".into())];
        PointStruct::new(id as u64, vector(dimensions, id), payload)
    };
    let points = (0..points).map(point).collect();
    framed(&UpsertPoints { collection_name: collection.to_owned(), points, ..UpsertPoints::default() })
}

/// Ten points with scores.
pub(crate) fn grpc_found() -> Bytes {
    let point = |id: u64| ScoredPoint {
        id: Some(id.into()),
        score: 0.5,
        version: 3,
        payload: [("title".to_owned(), "Dune".into())].into(),
        ..ScoredPoint::default()
    };
    framed(&QueryResponse { result: (0..10).map(point).collect(), time: 0.001, usage: None })
}

/// What a write is answered with.
pub(crate) fn grpc_written() -> Bytes {
    let result = UpdateResult { operation_id: Some(7), status: 1 };
    framed(&PointsOperationResponse { result: Some(result), time: 0.001, usage: None })
}

/// A page of points of about `size` bytes.
pub(crate) fn grpc_page(size: usize) -> Bytes {
    let point = qdrant_client::qdrant::RetrievedPoint {
        id: Some(1.into()),
        payload: [("text".to_owned(), "x".repeat(size).into())].into(),
        ..Default::default()
    };
    framed(&ScrollResponse { result: vec![point], ..ScrollResponse::default() })
}
