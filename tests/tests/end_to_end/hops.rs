//! Internal RPCs, counted by the nodes themselves.

use qdrant_client::qdrant::{
    CountPointsBuilder, DeletePointsBuilder, GetPointsBuilder, PointStruct, PointsIdsList,
    QueryPointsBuilder, ScrollPointsBuilder, ShardKeySelectorBuilder, UpsertPointsBuilder, WriteOrdering,
    WriteOrderingType,
};
use serde_json::json;

use crate::bed::Bed;

const IDS: u64 = 24;

fn point(id: u64) -> PointStruct {
    PointStruct::new(id, vec![id as f32, 1.0, 2.0, 3.0], [("n", (id as i64).into())])
}

fn ordering(kind: WriteOrderingType) -> WriteOrdering {
    WriteOrdering { r#type: kind.into() }
}

/// Upserts one point per request, for ids on every shard: through the SDK, and through the proxy with
/// the official client over gRPC and with plain REST.
async fn upserts(bed: &Bed, collection: &str, kind: WriteOrderingType) -> [f64; 3] {
    let (sdk, official, rest) = (bed.sdk(), bed.official(), bed.rest());
    let request =
        |id| UpsertPointsBuilder::new(collection, vec![point(id)]).wait(true).ordering(ordering(kind));
    let per_upsert = |per_round: f64| per_round / IDS as f64;
    let through_sdk = bed
        .rpcs_per_round(3, async || {
            for id in 0..IDS {
                sdk.upsert_points(request(id)).await.expect("an upsert");
            }
        })
        .await;
    let through_grpc = bed
        .rpcs_per_round(3, async || {
            for id in 0..IDS {
                official.upsert_points(request(id)).await.expect("an upsert");
            }
        })
        .await;
    let query = format!("wait=true&ordering={}", kind.as_str_name().to_ascii_lowercase());
    let through_rest = bed
        .rpcs_per_round(3, async || {
            for id in 0..IDS {
                let body = json!({ "points": [{ "id": id, "vector": [id, 1, 2, 3] }] });
                rest.put(&format!("/collections/{collection}/points?{query}"), body)
                    .await
                    .expect("an upsert");
            }
        })
        .await;
    [through_sdk, through_grpc, through_rest].map(per_upsert)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_point_upsert_needs_no_internal_rpc() {
    let bed = Bed::new().await;
    bed.collection("books", json!({ "shard_number": 6 })).await;
    assert_eq!(upserts(&bed, "books", WriteOrderingType::Weak).await, [0.0; 3]);
    assert_eq!(upserts(&bed, "books", WriteOrderingType::Medium).await, [0.0; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replicated_upsert_costs_one_rpc_per_further_replica() {
    let bed = Bed::new().await;
    bed.collection("twice", json!({ "shard_number": 6, "replication_factor": 2 })).await;
    assert_eq!(upserts(&bed, "twice", WriteOrderingType::Weak).await, [1.0; 3]);
    assert_eq!(upserts(&bed, "twice", WriteOrderingType::Medium).await, [1.0; 3]);
    assert_eq!(upserts(&bed, "twice", WriteOrderingType::Strong).await, [1.0; 3]);
    bed.collection("thrice", json!({ "shard_number": 3, "replication_factor": 3 })).await;
    assert_eq!(upserts(&bed, "thrice", WriteOrderingType::Weak).await, [2.0; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_of_one_shard_need_no_internal_rpc() {
    let bed = Bed::new().await;
    for factor in [1, 2] {
        let name = &format!("one{factor}");
        bed.collection(name, json!({ "shard_number": 1, "replication_factor": factor })).await;
        let rest = bed.rest();
        let points: Vec<_> = (0..IDS).map(|id| json!({ "id": id, "vector": [id, 1, 2, 3] })).collect();
        rest.put(&format!("/collections/{name}/points?wait=true"), json!({ "points": points }))
            .await
            .expect("points");
        bed.know(name).await;
        let clients = [bed.sdk()];
        let official = bed.official();
        let rpcs = bed
            .rpcs_per_round(5, async || {
                for sdk in &clients {
                    sdk.get_points(GetPointsBuilder::new(name, vec![7.into()])).await.expect("a point");
                    sdk.query(QueryPointsBuilder::new(name).query(vec![1.0; 4])).await.expect("neighbours");
                    sdk.scroll(ScrollPointsBuilder::new(name)).await.expect("a page");
                    sdk.count(CountPointsBuilder::new(name)).await.expect("a count");
                }
                official.get_points(GetPointsBuilder::new(name, vec![7.into()])).await.expect("a point");
                official.query(QueryPointsBuilder::new(name).query(vec![1.0; 4])).await.expect("neighbours");
                rest.get(&format!("/collections/{name}/points/7")).await.expect("a point");
                rest.post(&format!("/collections/{name}/points/query"), json!({ "query": [1, 1, 1, 1] }))
                    .await
                    .expect("neighbours");
                rest.post(&format!("/collections/{name}/points/scroll"), json!({})).await.expect("a page");
            })
            .await;
        assert_eq!(rpcs, 0.0, "replication factor {factor}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_a_shard_key_go_to_its_shard() {
    let bed = Bed::new().await;
    bed.collection("tenants", json!({ "sharding_method": "custom" })).await;
    let rest = bed.rest();
    let tenants = ["ada", "bob", "cyd", "dan"];
    for tenant in tenants {
        rest.put("/collections/tenants/shards", json!({ "shard_key": tenant })).await.expect("a shard key");
    }
    bed.know("tenants").await;
    let (sdk, official) = (bed.sdk(), bed.official());
    let rpcs = bed
        .rpcs_per_round(5, async || {
            for tenant in tenants {
                let key = || ShardKeySelectorBuilder::with_shard_key(tenant.to_owned());
                let upsert = UpsertPointsBuilder::new("tenants", vec![point(1), point(2)])
                    .wait(true)
                    .shard_key_selector(key());
                sdk.upsert_points(upsert).await.expect("an upsert");
                sdk.count(CountPointsBuilder::new("tenants").shard_key_selector(key()))
                    .await
                    .expect("a count");
                let query = QueryPointsBuilder::new("tenants").query(vec![1.0; 4]).shard_key_selector(key());
                official.query(query).await.expect("neighbours");
                let body = json!({ "ids": [1], "shard_key": tenant });
                rest.post("/collections/tenants/points", body).await.expect("points");
                let delete = DeletePointsBuilder::new("tenants")
                    .points(PointsIdsList { ids: vec![2.into()] })
                    .shard_key_selector(key())
                    .wait(true);
                official.delete_points(delete).await.expect("a deletion");
            }
        })
        .await;
    assert_eq!(rpcs, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_prediction_is_what_the_nodes_then_count() {
    let bed = Bed::new().await;
    bed.collection("books", json!({ "shard_number": 6, "replication_factor": 2 })).await;
    let rest = bed.rest();
    let explained = http::Request::post("/collections/books/points/count")
        .header("x-qdrant-router-explain", "1")
        .header("content-type", "application/json")
        .body("{}".into())
        .expect("a request");
    let response = rest.raw(explained).await.expect("an answer");
    assert_eq!(response.headers()["x-qdrant-router-reason"], "most_replicas");
    // One, unless a stall of the machine had it sent to a second node.
    let attempts = response.headers()["x-qdrant-router-attempts"].to_str().expect("text");
    assert!(
        attempts.parse().is_ok_and(|attempts| (1..=1 + bed.router.hedges()).contains(&attempts)),
        "{attempts}"
    );
    assert!(response.headers().contains_key("x-qdrant-router-node"));
    assert!(response.headers().contains_key("x-qdrant-router-epoch"));
}
