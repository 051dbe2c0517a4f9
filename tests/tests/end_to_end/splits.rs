//! Writes of several points: dealt out to the nodes that hold them, answered as if they were not.

use qdrant_client::{
    Payload,
    qdrant::{
        CountPointsBuilder, DeletePointsBuilder, GetPointsBuilder, PointStruct, PointsIdsList,
        SetPayloadPointsBuilder, UpdateStatus, UpsertPointsBuilder,
    },
};
use serde_json::{Value, json};

use crate::bed::{Bed, official_at};

fn points(count: u64) -> Vec<PointStruct> {
    (0..count)
        .map(|id| PointStruct::new(id, vec![id as f32, 1.0, 2.0, 3.0], [("n", (id as i64).into())]))
        .collect()
}

fn rest_points(count: u64) -> Value {
    let points: Vec<_> =
        (0..count).map(|id| json!({ "id": id, "vector": [id, 1, 2, 3], "payload": { "n": id } })).collect();
    json!({ "points": points })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_points_cost_only_their_replication() {
    let bed = Bed::new().await;
    for (factor, at_most, round_robin_costs) in [(1, 0.05, 4.0), (2, 6.1, 8.0), (3, 12.2, 12.0)] {
        let name = &format!("books{factor}");
        bed.collection(name, json!({ "shard_number": 6, "replication_factor": factor })).await;
        let (sdk, official, rest) = (bed.sdk(), bed.official(), bed.rest());
        let upsert = || UpsertPointsBuilder::new(name, points(100)).wait(true);
        let through_sdk = bed
            .rpcs_per_round(10, async || {
                let reply = sdk.upsert_points(upsert()).await.expect("an upsert");
                assert_eq!(reply.result.expect("a result").status(), UpdateStatus::Completed);
            })
            .await;
        let through_grpc = bed
            .rpcs_per_round(10, async || {
                official.upsert_points(upsert()).await.expect("an upsert");
            })
            .await;
        let path = format!("/collections/{name}/points?wait=true");
        let through_rest = bed
            .rpcs_per_round(10, async || {
                let reply = rest.put(&path, rest_points(100)).await.expect("an upsert");
                assert_eq!(reply["result"]["status"], "completed");
            })
            .await;
        for rpcs in [through_sdk, through_grpc, through_rest] {
            assert!(rpcs <= at_most, "replication factor {factor}: {rpcs} internal RPCs");
        }
        let nodes: Vec<_> = bed.cluster.nodes().iter().map(|node| official_at(node.grpc_addr())).collect();
        let round_robin = bed
            .rpcs_per_round(3, async || {
                for node in &nodes {
                    node.upsert_points(upsert()).await.expect("an upsert");
                }
            })
            .await
            / nodes.len() as f64;
        assert_eq!(round_robin, round_robin_costs, "what the same costs round robin");
        let count = official.count(CountPointsBuilder::new(name).exact(true)).await.expect("a count");
        assert_eq!(count.result.expect("a count").count, 100);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_by_id_does_in_parts_what_it_does_whole() {
    let bed = Bed::new().await;
    bed.collection("books", json!({ "shard_number": 6 })).await;
    let (official, rest) = (bed.official(), bed.rest());
    let write = async |method: &str, path: &str, body: Value| {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("/collections/books/points{path}?wait=true"))
            .header("content-type", "application/json")
            .header("accept-encoding", "gzip")
            .header("x-qdrant-router-explain", "1");
        let request = request.body(body.to_string().into()).expect("a request");
        let response = rest.raw(request).await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}: {:?}", response.body());
        assert_eq!(response.headers()["x-qdrant-router-reason"], "split", "{path}");
    };
    let get = async |id: u64| {
        rest.post(
            "/collections/books/points",
            json!({ "ids": [id], "with_payload": true, "with_vector": true }),
        )
        .await
        .expect("a point")["result"][0]
            .clone()
    };
    let all: Vec<u64> = (0..60).collect();
    write("PUT", "", rest_points(60)).await;
    write("POST", "/payload", json!({ "payload": { "seen": true }, "points": all })).await;
    assert_eq!(get(41).await["payload"], json!({ "n": 41, "seen": true }));
    write("PUT", "/payload", json!({ "payload": { "only": 1 }, "points": all })).await;
    assert_eq!(get(17).await["payload"], json!({ "only": 1 }));
    write("POST", "/payload/delete", json!({ "keys": ["only"], "points": all })).await;
    assert_eq!(get(17).await["payload"], json!({}));
    let vectors: Vec<_> = all.iter().map(|id| json!({ "id": id, "vector": [9, 9, 9, id] })).collect();
    write("PUT", "/vectors", json!({ "points": vectors })).await;
    assert_eq!(get(8).await["vector"], json!([9.0, 9.0, 9.0, 8.0]));
    let columns = json!({ "batch": {
        "ids": all,
        "vectors": all.iter().map(|id| json!([id, 0, 0, 0])).collect::<Vec<_>>(),
        "payloads": all.iter().map(|id| json!({ "column": id })).collect::<Vec<_>>(),
    } });
    write("PUT", "", columns).await;
    assert_eq!(get(33).await["payload"], json!({ "column": 33 }));
    assert_eq!(get(33).await["vector"], json!([33.0, 0.0, 0.0, 0.0]));
    write("POST", "/payload/clear", json!({ "points": all })).await;
    assert_eq!(get(33).await["payload"], json!({}));

    let payload = Payload::try_from(json!({ "by": "grpc" })).expect("a payload");
    let ids = || PointsIdsList { ids: all.iter().map(|&id| id.into()).collect() };
    official
        .set_payload(SetPayloadPointsBuilder::new("books", payload).points_selector(ids()).wait(true))
        .await
        .expect("a payload");
    assert_eq!(get(59).await["payload"], json!({ "by": "grpc" }));
    official
        .delete_points(DeletePointsBuilder::new("books").points(ids()).wait(true))
        .await
        .expect("a deletion");
    let left = official.get_points(GetPointsBuilder::new("books", ids().ids)).await.expect("points");
    assert!(left.result.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_same_id_twice_the_last_one_wins() {
    let bed = Bed::new().await;
    bed.collection("books", json!({ "shard_number": 6 })).await;
    let mut body = rest_points(30);
    let again = json!({ "id": 5, "vector": [7, 7, 7, 7], "payload": { "last": true } });
    body["points"].as_array_mut().expect("points").push(again);
    bed.rest().put("/collections/books/points?wait=true", body).await.expect("an upsert");
    let point = bed.rest().get("/collections/books/points/5").await.expect("a point");
    assert_eq!(point["result"]["payload"], json!({ "last": true }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_fails_is_told_as_qdrant_tells_it() {
    let bed = Bed::new().await;
    bed.collection("books", json!({ "shard_number": 6 })).await;
    bed.rest().put("/collections/books/points?wait=true", rest_points(60)).await.expect("points");
    // One point does not exist: its shard refuses, the others do not.
    let ids: Vec<u64> = (0..60).chain([1000]).collect();
    let body = json!({ "payload": { "a": 1 }, "points": ids });
    let path = "/collections/books/points/payload?wait=true";
    let direct = bed.cluster.rest(0).post(path, body.clone()).await.map_err(|error| error.to_string());
    let routed = bed.rest().post(path, body).await.map_err(|error| error.to_string());
    let sentence = |answer: &Result<Value, String>| {
        let text = answer.as_ref().map_or_else(Clone::clone, ToString::to_string);
        text.find("out of")
            .map(|at| text[at.saturating_sub(2)..].split("First error").next().map(str::to_owned))
    };
    assert_eq!(sentence(&routed), sentence(&direct), "{routed:?}\n{direct:?}");
    assert_eq!(routed.is_err(), direct.is_err(), "{routed:?}\n{direct:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_vector_that_does_not_fit_fails_the_whole_as_on_a_node() {
    let bed = Bed::new().await;
    bed.collection("books", json!({ "shard_number": 6 })).await;
    let mut body = rest_points(60);
    body["points"][3]["vector"] = json!([1, 2]);
    let path = "/collections/books/points?wait=true";
    let refused = bed.rest().put(path, body.clone()).await.expect_err("a wrong vector").to_string();
    let routed =
        bed.rest().post("/collections/books/points/count", json!({ "exact": true })).await.expect("a count");
    bed.collection("again", json!({ "shard_number": 6 })).await;
    let path = "/collections/again/points?wait=true";
    let direct = bed.cluster.rest(0).put(path, body).await.expect_err("a wrong vector").to_string();
    let count =
        bed.rest().post("/collections/again/points/count", json!({ "exact": true })).await.expect("a count");
    assert_eq!(routed["result"], count["result"], "as many points are taken through the router");
    assert!(refused.contains("400 Bad Request") && direct.contains("400 Bad Request"), "{refused}\n{direct}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_strict_mode_is_not_evaded() {
    let bed = Bed::new().await;
    let strict = json!({ "enabled": true, "upsert_max_batchsize": 20 });
    bed.collection("strict", json!({ "shard_number": 6, "strict_mode_config": strict })).await;
    let path = "/collections/strict/points?wait=true";
    bed.rest().put(path, rest_points(20)).await.expect("as many as allowed");
    let routed = bed.rest().put(path, rest_points(21)).await.map(drop).map_err(|error| error.to_string());
    let direct =
        bed.cluster.rest(0).put(path, rest_points(21)).await.map(drop).map_err(|error| error.to_string());
    assert_eq!(routed.is_err(), direct.is_err(), "{routed:?}, but directly {direct:?}");
    assert!(!bed.cluster.is_real() || direct.is_err(), "a real server has the limit");
}
