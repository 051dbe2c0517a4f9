//! Writes of several points: dealt out to the nodes that hold them, answered as if they were not.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use futures_util::future::poll_immediate;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use qdrant_client::{
    Payload,
    qdrant::{
        CountPointsBuilder, DeletePointsBuilder, GetPointsBuilder, PointStruct, PointsIdsList,
        SetPayloadPointsBuilder, UpdateStatus, UpsertPointsBuilder,
    },
};
use qdrant_router::{AttemptEnd, AttemptObserver, AttemptStart, ObserveAttempts};
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

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_each_node_judges_for_itself_leave_writes_whole() {
    let bed = Bed::new().await;
    let upsert = async |name: &str| {
        let upsert = UpsertPointsBuilder::new(name, points(60)).wait(true);
        bed.official().upsert_points(upsert).await.expect("an upsert");
    };
    let rpcs = async |strict: Value| {
        let name = format!("strict{}", strict.to_string().len());
        bed.collection(&name, json!({ "shard_number": 6, "strict_mode_config": strict })).await;
        bed.rpcs_per_round(2, async || upsert(&name).await).await
    };
    assert_eq!(rpcs(json!({ "enabled": true })).await, 0.0);
    assert_eq!(rpcs(json!({ "enabled": false, "max_points_count": 1_000_000 })).await, 0.0);
    assert_eq!(rpcs(json!({ "enabled": true, "max_points_count": 1_000_000 })).await, 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_of_an_upsert_with_a_payload_that_qdrant_refuses() {
    let bed = Bed::new().await;
    bed.collection("books", json!({ "shard_number": 6 })).await;
    let mut points = points(60);
    points[7].payload.insert("price".to_owned(), f64::NAN.into());
    let upsert = UpsertPointsBuilder::new("books", points.clone()).wait(true);
    for client in [bed.official(), official_at(bed.cluster.node(0).grpc_addr())] {
        let refused = client.upsert_points(upsert.clone()).await.map(drop).map_err(|error| error.to_string());
        assert!(
            refused.as_ref().is_err_and(|error| error.contains("cannot convert to json number")),
            "{refused:?}"
        );
    }
    let count = bed.sdk().count(CountPointsBuilder::new("books").exact(true)).await.expect("a count");
    assert_eq!(count.result.expect("a count").count, 0);
}

/// Counts the attempts of a request.
#[derive(Debug, Default)]
struct Attempts(AtomicUsize);

impl AttemptObserver for Attempts {
    fn start(&self, _: &AttemptStart<'_>, _: &mut HeaderMap) -> AttemptEnd {
        self.0.fetch_add(1, Relaxed);
        Box::new(|_| ())
    }
}

/// So many points take long to cut, in a body that is not long itself.
const MANY: u64 = 2500;

#[tokio::test(flavor = "multi_thread")]
async fn long_writes_are_cut_while_others_are_served() {
    let bed = Bed::new().await;
    bed.collection("books", json!({ "shard_number": 6 })).await;
    let count = async || {
        let count = bed.sdk().count(CountPointsBuilder::new("books").exact(true)).await.expect("a count");
        count.result.expect("a count").count
    };
    // A short one is on its way before anybody else has a turn.
    for (points, sent_at_once) in [(60, 3), (MANY, 0)] {
        let attempts = Arc::<Attempts>::default();
        let body = Bytes::from(rest_points(points).to_string());
        let mut request = Request::put("/collections/books/points?wait=true")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .expect("a request");
        request.extensions_mut().insert(ObserveAttempts(attempts.clone()));
        let mut answer = Box::pin(bed.router.route(request));
        assert!(poll_immediate(&mut answer).await.is_none());
        assert_eq!(attempts.0.load(Relaxed), sent_at_once, "{points} points");
        let (response, routed) = answer.await;
        assert_eq!((response.status().as_u16(), routed.parts), (200, 3), "{points} points");
        response.into_body().collect().await.expect("an answer");
        assert_eq!(count().await, points);
    }
    let upsert = UpsertPointsBuilder::new("books", points(MANY + 1000)).wait(true);
    bed.official().upsert_points(upsert).await.expect("an upsert");
    assert_eq!(count().await, MANY + 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_ids_than_are_listed_go_whole() {
    let bed = Bed::new().await;
    bed.collection("books", json!({ "shard_number": 6 })).await;
    bed.rest().put("/collections/books/points?wait=true", rest_points(60)).await.expect("points");
    let delete = |count: u64| {
        Request::post("/collections/books/points/delete?wait=true")
            .header("content-type", "application/json")
            .body(Full::<Bytes>::from(json!({ "points": Vec::from_iter(1..count) }).to_string()))
            .expect("a request")
    };
    for (count, parts) in [(1 << 16, 3), (70_000, 1)] {
        let (response, routed) = bed.router.route(delete(count)).await;
        assert_eq!((response.status().as_u16(), routed.parts), (200, parts), "{count} ids");
        response.into_body().collect().await.expect("an answer");
    }
    let left = bed.sdk().count(CountPointsBuilder::new("books").exact(true)).await.expect("a count");
    assert_eq!(left.result.expect("a count").count, 1);
}
