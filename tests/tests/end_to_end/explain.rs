//! `explain` tells before what telemetry counts after.

use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::bed::Bed;

/// A request, as `POST /explain` takes it, and whether it reads.
struct Row {
    method: Method,
    path: String,
    body: Value,
    reads: bool,
}

fn row(method: Method, path: &str, body: Value) -> Row {
    let reads = method == Method::GET
        || ["/points", "/query", "/scroll", "/count"].iter().any(|end| path.ends_with(end))
            && method == Method::POST;
    Row { method, path: path.to_owned(), body, reads }
}

/// What is asked of a collection; `key` goes into every body.
fn rows(name: &str, key: Option<&str>) -> Vec<Row> {
    let points = |ids: std::ops::Range<u64>| -> Vec<Value> {
        ids.map(|id| json!({ "id": id, "vector": [id, 1, 2, 3], "payload": { "n": id } })).collect()
    };
    let path = |rest: &str| format!("/collections/{name}/points{rest}");
    let mut rows = Vec::new();
    for ordering in ["weak", "medium", "strong"] {
        let query = format!("?wait=true&ordering={ordering}");
        rows.push(row(Method::PUT, &path(&query), json!({ "points": points(7..8) })));
        rows.push(row(Method::PUT, &path(&query), json!({ "points": points(0..100) })));
        rows.push(row(
            Method::POST,
            &path(&format!("/payload{query}")),
            json!({ "points": [1, 2, 3], "payload": { "a": 1 } }),
        ));
        rows.push(row(
            Method::POST,
            &path(&format!("/payload{query}")),
            json!({ "filter": { "must": [{ "key": "n", "match": { "value": 3 } }] }, "payload": { "a": 1 } }),
        ));
        rows.push(row(Method::POST, &path(&format!("/delete{query}")), json!({ "points": [901, 902, 903] })));
        rows.push(row(
            Method::POST,
            &path(&format!("/batch{query}")),
            json!({ "operations": [{ "upsert": { "points": points(0..4) } }, { "delete": { "points": [904] } }] }),
        ));
    }
    rows.push(row(Method::POST, &path("/query"), json!({ "query": [1, 1, 1, 1], "limit": 3 })));
    rows.push(row(Method::POST, &path("/scroll"), json!({ "limit": 3 })));
    rows.push(row(Method::POST, &path("/count"), json!({ "exact": true })));
    rows.push(row(Method::POST, &path(""), json!({ "ids": [1, 2, 3] })));
    if let Some(key) = key {
        for row in &mut rows {
            match row.body.get_mut("operations").and_then(Value::as_array_mut) {
                Some(operations) => {
                    for operation in operations.iter_mut().filter_map(Value::as_object_mut) {
                        operation.values_mut().for_each(|operation| operation["shard_key"] = json!(key));
                    }
                }
                None => row.body["shard_key"] = json!(key),
            }
        }
    } else {
        rows.push(row(Method::GET, &path("/7"), Value::Null));
    }
    rows
}

async fn send(bed: &Bed, row: &Row) {
    let body = if row.body.is_null() { Bytes::new() } else { Bytes::from(row.body.to_string()) };
    let request = Request::builder().method(&row.method).uri(&row.path);
    let request = request.header("content-type", "application/json").body(body).expect("a request");
    let answer = bed.rest().raw(request).await.expect("an answer");
    assert_eq!(answer.status(), 200, "{} {}: {:?}", row.method, row.path, answer.body());
}

#[tokio::test(flavor = "multi_thread")]
async fn predictions_are_what_the_nodes_then_count() {
    let bed = Bed::new().await;
    let mut wrong = Vec::new();
    for (name, settings, key) in [
        ("one-shard", json!({ "shard_number": 1, "replication_factor": 2 }), None),
        ("rf1", json!({ "shard_number": 6, "replication_factor": 1 }), None),
        ("rf2", json!({ "shard_number": 6, "replication_factor": 2 }), None),
        ("rf3", json!({ "shard_number": 6, "replication_factor": 3 }), None),
        (
            "keyed",
            json!({ "sharding_method": "custom", "shard_number": 2, "replication_factor": 2 }),
            Some("ada"),
        ),
    ] {
        bed.collection(name, settings).await;
        if let Some(key) = key {
            let path = format!("/collections/{name}/shards");
            bed.rest().put(&path, json!({ "shard_key": key })).await.expect("a shard key");
            bed.know(name).await;
        }
        for row in rows(name, key) {
            let question = json!({ "method": row.method.as_str(), "path": row.path, "body": row.body });
            let explanation = bed.proxy.admin().post("/explain", question).await.expect("an explanation");
            let counted = bed.as_predicted(&explanation, row.reads, async || send(&bed, &row).await).await;
            let (Ok(said) | Err(said)) = &counted;
            let label = format!(
                "{name:<10} {:<5} {:<55} {:<16} {said}",
                row.method.as_str(),
                row.path,
                explanation["reason"].as_str().unwrap_or_default()
            );
            println!("{label}");
            if counted.is_err() {
                wrong.push(label);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explanation_names_shards_candidates_and_parts() {
    let bed = Bed::new().await;
    bed.collection("books", json!({ "shard_number": 6 })).await;
    let admin = bed.proxy.admin();
    let points: Vec<_> = (0..100).map(|id| json!({ "id": id, "vector": [id, 1, 2, 3] })).collect();
    let question =
        json!({ "method": "PUT", "path": "/collections/books/points", "body": { "points": points } });
    let split = admin.post("/explain", question).await.expect("an explanation");
    assert_eq!(split["reason"], "split");
    assert_eq!(split["shards"], json!([0, 1, 2, 3, 4, 5]));
    let parts = split["parts"].as_array().expect("parts");
    let dealt: u64 = parts.iter().filter_map(|part| part["points"].as_u64()).sum();
    assert_eq!((parts.len(), dealt), (3, 100));
    let candidates = split["candidates"].as_array().expect("candidates");
    assert!(
        candidates.len() == 3 && candidates.iter().all(|node| node["internal_rpcs"] == 4),
        "{candidates:?}"
    );

    let message = json!({ "collection_name": "books", "points": [{ "id": 7, "vectors": [1, 2, 3, 4] }] });
    let grpc = admin.post("/explain", json!({ "grpc": "Points/Upsert", "body": message })).await;
    let rest = json!({ "method": "PUT", "path": "/collections/books/points",
                       "body": { "points": [{ "id": 7, "vector": [1, 2, 3, 4] }] } });
    let rest = admin.post("/explain", rest).await.expect("an explanation");
    assert_eq!(grpc.expect("an explanation")["parts"], rest["parts"]);

    for question in
        [json!({}), json!({ "grpc": "Points/Explode" }), json!("?"), json!({ "path": "/", "x": 1 })]
    {
        let error = admin.post("/explain", question).await.expect_err("no explanation");
        assert_eq!(error.status().map(|status| status.as_u16()), Some(400));
    }
    let before = bed.cluster.public_calls_by_node().await.expect("telemetry");
    let ask = json!({ "method": "POST", "path": "/collections/books/points/count", "body": {} });
    admin.post("/explain", ask).await.expect("an explanation");
    assert_eq!(bed.cluster.public_calls_by_node().await.expect("telemetry"), before, "nothing is sent");
}
