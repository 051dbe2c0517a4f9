//! Points read by id from the shards that own them: the same answers, without an internal RPC.

use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};
use testkit::{Cluster, Rest};

use crate::bed::Bed;

const UUID: &str = "550e8400-e29b-41d4-a716-446655440000";

async fn filled() -> Bed {
    let bed = Bed::with(Cluster::builder().nodes(3), |router| router.direct_point_reads(true)).await;
    bed.collection("books", json!({ "shard_number": 6 })).await;
    let mut points: Vec<_> = (0..40)
        .map(|id| json!({ "id": id, "vector": [0.1 * f64::from(id), 1e-7, 2, 3], "payload": { "n": id } }))
        .collect();
    points.push(json!({ "id": UUID, "vector": [1, 2, 3, 4] }));
    bed.rest().put("/collections/books/points?wait=true", json!({ "points": points })).await.expect("points");
    bed.know("books").await;
    bed
}

/// Status and result; the reason too, where the router tells it.
async fn ask(rest: &Rest, method: Method, path: &str, body: &Value) -> (u16, Value, Option<String>) {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .header("x-qdrant-router-explain", "1")
        .body(body)
        .expect("a request");
    let answer = rest.raw(request).await.expect("an answer");
    let mut document: Value = serde_json::from_slice(answer.body()).expect("JSON");
    document.as_object_mut().expect("an object").remove("time");
    let reason = answer.headers().get("x-qdrant-router-reason").and_then(|reason| reason.to_str().ok());
    (answer.status().as_u16(), document, reason.map(str::to_owned))
}

#[tokio::test(flavor = "multi_thread")]
async fn points_come_from_their_shards_without_an_internal_rpc() {
    let bed = filled().await;
    let (proxy, node) = (bed.rest(), bed.cluster.rest(0));
    let questions = [
        (Method::GET, "/collections/books/points/3".to_owned(), Value::Null),
        (Method::GET, format!("/collections/books/points/{UUID}"), Value::Null),
        (Method::POST, "/collections/books/points".to_owned(), json!({ "ids": [9, 3, 3, UUID, 1] })),
        (
            Method::POST,
            "/collections/books/points".to_owned(),
            json!({ "ids": [5, 4], "with_payload": ["n"], "with_vector": true }),
        ),
        (
            Method::POST,
            "/collections/books/points?timeout=5".to_owned(),
            json!({ "ids": [5, 4], "with_payload": false }),
        ),
    ];
    for (method, path, body) in &questions {
        let (status, expected, _) = ask(&node, method.clone(), path, body).await;
        let (routed_status, routed, reason) = ask(&proxy, method.clone(), path, body).await;
        assert_eq!((routed_status, routed), (status, expected), "{method} {path} {body}");
        assert_eq!(reason.as_deref(), Some("direct_read"), "{method} {path} {body}");
    }
    let rpcs = bed
        .rpcs_per_round(5, async || {
            for (method, path, body) in &questions {
                ask(&proxy, method.clone(), path, body).await;
            }
        })
        .await;
    assert_eq!(rpcs, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_surprising_is_read_the_ordinary_way() {
    let bed = filled().await;
    let (proxy, node) = (bed.rest(), bed.cluster.rest(0));
    for (method, path, body) in [
        (Method::GET, "/collections/books/points/999", Value::Null),
        (Method::GET, "/collections/books/points/x", Value::Null),
        (Method::GET, "/collections/nowhere/points/3", Value::Null),
        (Method::GET, "/collections/books/points/3?consistency=all", Value::Null),
        (Method::POST, "/collections/books/points", json!({ "ids": [] })),
        (Method::POST, "/collections/books/points", json!({ "ids": [3, 999] })),
        (Method::POST, "/collections/books/points", json!({ "ids": [3], "with_payload": 7 })),
        (Method::POST, "/collections/books/points", json!({ "ids": [3], "shard_key": "none" })),
    ] {
        let (status, expected, _) = ask(&node, method.clone(), path, &body).await;
        let (routed_status, routed, reason) = ask(&proxy, method.clone(), path, &body).await;
        assert_eq!((routed_status, routed), (status, expected), "{method} {path} {body}");
        assert_ne!(reason.as_deref(), Some("direct_read"), "{method} {path} {body}");
    }
}
