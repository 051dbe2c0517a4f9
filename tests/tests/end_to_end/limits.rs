//! What is too much is refused at once, and nobody waits longer than they said.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use qdrant_client::qdrant::CountPointsBuilder;
use serde_json::json;
use testkit::Cluster;

use crate::bed::{Bed, eventually, in_time};

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_limit_are_refused_at_once() {
    let bed = Bed::with(Cluster::builder().nodes(3).embedded(), |router| router.max_requests(1)).await;
    bed.collection("books", json!({})).await;
    for node in 0..3 {
        bed.cluster.slow(node, Duration::from_secs(3)).await.expect("a slow node");
    }
    let rest = bed.rest();
    let slow = tokio::spawn({
        let rest = bed.rest();
        async move { rest.post("/collections/books/points/count", json!({})).await }
    });
    eventually("the slow one is under way", async || {
        let snapshot = bed.router.topology().snapshot();
        snapshot.nodes().iter().any(|node| bed.router.balance().in_flight(node.address) > 0)
    })
    .await;
    let request = Request::get("/collections").body(Default::default()).expect("a request");
    let answer = rest.raw(request).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["retry-after"], "1");
    let refused = bed.official().list_collections().await.expect_err("too many");
    let text = refused.to_string();
    assert!(text.contains("too many requests are under way"), "{text}");
    bed.proxy.admin().get("/topology").await.expect("the admin port answers");
    in_time("the slow one is served", slow).await.expect("a task").expect("a count");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_beyond_what_may_be_held_stream_to_the_best_node() {
    let bed = Bed::with(Cluster::builder().nodes(3), |router| router.max_held_bytes(64)).await;
    bed.collection("books", json!({ "shard_number": 2, "replication_factor": 2 })).await;
    let points: Vec<_> = (0..50).map(|id| json!({ "id": id, "vector": [id, 1, 2, 3] })).collect();
    bed.rest().put("/collections/books/points?wait=true", json!({ "points": points })).await.expect("points");
    let count = bed.sdk().count(CountPointsBuilder::new("books").exact(true)).await.expect("a count");
    assert_eq!(count.result.map(|result| result.count), Some(50));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_listed_of_a_body_counts_like_the_body() {
    let ids = json!({ "points": Vec::from_iter(100..200) }).to_string();
    for (room, parts) in [(ids.len() + 10_000, 3), (ids.len(), 1)] {
        let bed = Bed::with(Cluster::builder().nodes(3), |router| router.max_held_bytes(room)).await;
        bed.collection("books", json!({ "shard_number": 6 })).await;
        let request = Request::post("/collections/books/points/delete?wait=true")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(ids.clone())))
            .expect("a request");
        let (response, routed) = bed.router.route(request).await;
        assert_eq!((response.status(), routed.parts), (StatusCode::OK, parts), "room for {room} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_every_attempt() {
    let bed = Bed::new().await;
    bed.collection("books", json!({ "shard_number": 3, "replication_factor": 2 })).await;
    for node in 0..3 {
        bed.cluster.hang(node).await.expect("a node that hangs");
    }
    let client = qdrant_client::Qdrant::from_url(&format!("http://{}", bed.proxy.grpc_addr))
        .skip_compatibility_check()
        .timeout(Duration::from_millis(400))
        .build()
        .expect("a client");
    let late = in_time("the deadline", client.count(CountPointsBuilder::new("books"))).await;
    assert!(late.is_err(), "nobody answers");
    for node in 0..3 {
        bed.cluster.heal(node).await.expect("a node that answers");
    }
    eventually("served again", async || bed.sdk().count(CountPointsBuilder::new("books")).await.is_ok())
        .await;
}
