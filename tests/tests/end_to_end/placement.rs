//! Requests whose place takes more than a plain peek: compressed, large, of other versions, of one shard.

use std::io::Write;

use bytes::Bytes;
use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use http::{Request, Response};
use qdrant_client::{
    config::CompressionEncoding,
    qdrant::{CountPointsBuilder, PointStruct, UpsertPointsBuilder},
};
use serde_json::{Value, json};
use testkit::Cluster;

use crate::bed::Bed;

fn points(ids: std::ops::Range<u64>) -> Value {
    let points: Vec<_> = ids.map(|id| json!({ "id": id, "vector": [id, 1, 2, 3] })).collect();
    json!({ "points": points })
}

async fn send(bed: &Bed, request: http::request::Builder, body: impl Into<Bytes>) -> Response<Bytes> {
    let answer = answer(bed, request, body).await;
    assert_eq!(answer.status(), 200, "{:?}", answer.body());
    answer
}

async fn answer(bed: &Bed, request: http::request::Builder, body: impl Into<Bytes>) -> Response<Bytes> {
    let request = request
        .header("content-type", "application/json")
        .header("x-qdrant-router-explain", "1")
        .body(body.into())
        .expect("a request");
    bed.rest().raw(request).await.expect("an answer")
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).expect("memory");
    encoder.finish().expect("memory")
}

fn deflate(text: &str) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).expect("memory");
    encoder.finish().expect("memory")
}

fn reason(response: &Response<Bytes>) -> &str {
    response.headers()["x-qdrant-router-reason"].to_str().expect("text")
}

async fn count(bed: &Bed, name: &str) -> u64 {
    let count = bed.sdk().count(CountPointsBuilder::new(name).exact(true)).await.expect("a count");
    count.result.expect("a count").count
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_writes_are_dealt_out_like_plain_ones() {
    let bed = Bed::new().await;
    bed.collection("books", json!({ "shard_number": 6 })).await;
    let body = points(0..100).to_string();
    let (gzip, deflate) = (gzip(&body), deflate(&body));
    let official = qdrant_client::Qdrant::from_url(&format!("http://{}", bed.proxy.grpc_addr))
        .skip_compatibility_check()
        .compression(Some(CompressionEncoding::Gzip))
        .build()
        .expect("a client");
    let path = "/collections/books/points?wait=true";
    let rpcs = bed
        .rpcs_per_round(3, async || {
            for (encoding, body) in [("gzip", &gzip), ("deflate", &deflate)] {
                let request = Request::put(path).header("content-encoding", encoding);
                let answer = send(&bed, request, body.clone()).await;
                assert_eq!(reason(&answer), "split", "{encoding}");
            }
            let points: Vec<PointStruct> = (0..100_u64)
                .map(|id| PointStruct::new(id, vec![1.0; 4], qdrant_client::Payload::new()))
                .collect();
            official
                .upsert_points(UpsertPointsBuilder::new("books", points).wait(true))
                .await
                .expect("an upsert");
        })
        .await;
    assert_eq!(rpcs, 0.0);
    assert_eq!(count(&bed, "books").await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_compressed_write_is_taken_where_more_follows_its_end() {
    let bed = Bed::new().await;
    bed.collection("books", json!({ "shard_number": 6 })).await;
    let body = points(0..100).to_string();
    for (encoding, body) in [("gzip", gzip(&body)), ("deflate", deflate(&body))] {
        for rest in [b"\0".as_slice(), &body] {
            let request =
                Request::put("/collections/books/points?wait=true").header("content-encoding", encoding);
            let answer = answer(&bed, request, [&body, rest].concat()).await;
            assert_eq!(answer.status(), 400, "{encoding}: {:?}", answer.body());
            assert_ne!(reason(&answer), "split", "{encoding}");
        }
    }
    assert_eq!(count(&bed, "books").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_for_a_peek_goes_where_its_path_leads() {
    let bed = Bed::with(Cluster::builder().nodes(3), |router| router.body_limit(512)).await;
    bed.collection("books", json!({ "shard_number": 2, "replication_factor": 2 })).await;
    let request = Request::put("/collections/books/points?wait=true");
    let answer = send(&bed, request, points(0..100).to_string()).await;
    assert_eq!(reason(&answer), "replica_holder");
    let points: Vec<PointStruct> =
        (100..200_u64).map(|id| PointStruct::new(id, vec![1.0; 4], qdrant_client::Payload::new())).collect();
    let upsert = UpsertPointsBuilder::new("books", points).wait(true);
    bed.official().upsert_points(upsert).await.expect("an upsert");
    assert_eq!(count(&bed, "books").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_about_one_shard_reach_a_holder_of_it() {
    let bed = Bed::new().await;
    bed.collection("books", json!({ "shard_number": 6 })).await;
    bed.rest().put("/collections/books/points?wait=true", points(0..100)).await.expect("points");
    let mut seen = 0;
    for shard in 0..6 {
        let path = format!("/collections/books/shards/{shard}/points/count");
        let answer = send(&bed, Request::post(&path), json!({ "exact": true }).to_string()).await;
        assert_eq!(reason(&answer), "shard_holder");
        let document: Value = serde_json::from_slice(answer.body()).expect("JSON");
        seen += document["result"]["count"].as_u64().expect("a count");

        let snapshots = format!("/collections/books/shards/{shard}/snapshots");
        let made = bed.rest().post(&snapshots, json!({})).await.expect("a snapshot");
        let listed = bed.rest().get(&snapshots).await.expect("a list");
        assert_eq!(listed["result"][0]["name"], made["result"]["name"]);
        let name = made["result"]["name"].as_str().expect("a name");
        bed.rest().delete(&format!("{snapshots}/{name}")).await.expect("a deletion");
    }
    assert_eq!(seen, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_affinity_reads_where_qdrant_would() {
    let bed = Bed::with(Cluster::builder().nodes(3).embedded().version("1.19.0"), |router| router).await;
    bed.collection("books", json!({ "shard_number": 6, "replication_factor": 2 })).await;
    for user in ["user-1", "user-42", "abc", "x"] {
        let headers = json!({ "x-qdrant-route-affinity": user });
        let question = json!({ "method": "POST", "path": "/collections/books/points/count", "body": {}, "headers": headers });
        let explanation = bed.proxy.admin().post("/explain", question).await.expect("an explanation");
        assert_eq!(explanation["reason"], "route_affinity");
        let counted = bed.as_predicted(&explanation, true, async || {
            let request = Request::post("/collections/books/points/count");
            send(&bed, request.header("x-qdrant-route-affinity", user), "{}").await;
        });
        counted.await.expect(user);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uuids_hash_as_the_servers_hash_them() {
    let bed = Bed::with(Cluster::builder().nodes(3).embedded().version("1.15.0"), |router| router).await;
    bed.collection("books", json!({ "shard_number": 6 })).await;
    let rpcs = bed
        .rpcs_per_round(3, async || {
            for n in 0..20_u128 {
                let id = uuid::Uuid::from_u128(n * 0x1234_5678_9abc_def0_1357);
                let body = json!({ "points": [{ "id": id.to_string(), "vector": [1, 2, 3, 4] }] });
                let path = "/collections/books/points?wait=true";
                send(&bed, Request::put(path), body.to_string()).await;
            }
        })
        .await;
    assert_eq!(rpcs, 0.0);
}
