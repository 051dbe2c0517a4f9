//! Whole nodes, spoken to over their ports.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use qdrant_client::Qdrant;
use qdrant_client::qdrant as pb;
use serde_json::{Value, json};

use super::*;

/// Some nodes on addresses that no other test uses.
struct Nodes {
    nodes: Vec<EmbeddedNode>,
    consensus: Arc<Consensus>,
    http: Client<HttpConnector, Full<Bytes>>,
}

impl Nodes {
    async fn start(block: u8, count: u8) -> Self {
        Self::with(block, count, |_| {}).await
    }

    async fn with(block: u8, count: u8, adjust: impl Fn(&mut NodeOptions)) -> Self {
        let consensus = Consensus::new();
        let mut nodes = Vec::new();
        for index in 0..count {
            let mut options = NodeOptions {
                ip: IpAddr::V4(Ipv4Addr::new(127, 77, block, index + 1)),
                rest_port: 6333,
                grpc_port: 6334,
                p2p_port: 6335,
                peer_id: 1000 + u64::from(index),
                uri_host: format!("qdrant-{index}.qdrant-headless"),
                api_key: None,
                read_only_api_key: None,
                cluster_enabled: true,
                version: DEFAULT_VERSION.to_owned(),
            };
            adjust(&mut options);
            nodes.push(EmbeddedNode::start(options, Arc::clone(&consensus)).await.expect("a node"));
        }
        Self { nodes, consensus, http: Client::builder(TokioExecutor::new()).build_http() }
    }

    async fn raw(
        &self,
        node: usize,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: &str,
    ) -> (u16, String) {
        self.try_raw(node, method, path, key, body).await.expect("an answer")
    }

    async fn try_raw(
        &self,
        node: usize,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: &str,
    ) -> Result<(u16, String), hyper_util::client::legacy::Error> {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}:6333{path}", self.nodes[node].ip()));
        if let Some(key) = key {
            request = request.header("api-key", key);
        }
        let request = request.body(Full::from(body.to_owned())).expect("a request");
        let response = self.http.request(request).await?;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
    }

    async fn ask(&self, node: usize, method: &str, path: &str, body: Value) -> (u16, Value) {
        let (status, text) = self.raw(node, method, path, None, &body.to_string()).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Asks for something that must succeed.
    async fn ok(&self, node: usize, method: &str, path: &str, body: Value) -> Value {
        let (status, mut answer) = self.ask(node, method, path, body).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer["result"].take()
    }

    async fn create(&self, name: &str, shards: u32, replicas: u32) {
        let body = json!({
            "vectors": { "size": 2, "distance": "Dot" }, "shard_number": shards, "replication_factor": replicas,
        });
        self.ok(0, "PUT", &format!("/collections/{name}"), body).await;
    }

    async fn upsert(&self, node: usize, name: &str, ids: impl IntoIterator<Item = u64>) -> (u16, Value) {
        let points: Vec<Value> = ids
            .into_iter()
            .map(|id| json!({ "id": id, "vector": [id, 1], "payload": { "n": id } }))
            .collect();
        self.ask(node, "PUT", &format!("/collections/{name}/points?wait=true"), json!({ "points": points }))
            .await
    }

    /// Internal data-plane calls received by all nodes so far.
    async fn internal(&self, path: &str) -> u64 {
        let mut sum = 0;
        for node in 0..self.nodes.len() {
            let telemetry = self.ok(node, "GET", "/telemetry", json!({})).await;
            let codes = &telemetry["requests"]["grpc"]["responses"][path];
            sum +=
                codes.as_object().into_iter().flatten().filter_map(|(_, c)| c["count"].as_u64()).sum::<u64>();
        }
        sum
    }

    /// A node that holds a replica of the shard of `id`, and one that does not, if there are such.
    fn holders(&self, name: &str, id: u64) -> (Option<usize>, Option<usize>) {
        let meta = self.consensus.collection(name).expect("a collection");
        let shard = meta.rings[&None].shards(&model::PointId::Num(id), ring::Hashing::Stable)[0];
        let holds = |index: &usize| meta.shards[&shard].replicas.contains_key(&self.nodes[*index].peer_id());
        ((0..self.nodes.len()).find(holds), (0..self.nodes.len()).find(|index| !holds(index)))
    }

    /// A node that holds a replica of `shard`, and one that does not.
    fn holders_of(&self, name: &str, shard: u32) -> (usize, usize) {
        let replicas = self.consensus.replicas(name).expect("a collection");
        let holds = |index: &usize| replicas[&shard].contains_key(&self.nodes[*index].peer_id());
        let mut all = 0..self.nodes.len();
        let other = all.clone().find(|index| !holds(index)).expect("a node without");
        (all.find(holds).expect("a holder"), other)
    }

    async fn wait(&self, what: &str, done: impl AsyncFn() -> bool) {
        let began = Instant::now();
        while !done().await {
            assert!(began.elapsed() < Duration::from_secs(10), "{what} takes too long");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn grpc(&self, node: usize) -> Qdrant {
        Qdrant::from_url(&format!("http://{}:6334", self.nodes[node].ip()))
            .skip_compatibility_check()
            .build()
            .expect("a client")
    }
}

const UPSERT: &str = "/qdrant.PointsInternal/Upsert";

#[tokio::test]
async fn upserts_cost_the_hops_they_cost_in_qdrant() {
    let nodes = Nodes::start(1, 3).await;
    for (replicas, at_holder, elsewhere) in [(1, 0, 1), (2, 1, 2), (3, 2, 0)] {
        let name = format!("rf{replicas}");
        nodes.create(&name, 6, replicas).await;
        for id in 0..10 {
            let (holder, other) = nodes.holders(&name, id);
            for (node, cost) in [(holder, at_holder), (other, elsewhere)] {
                let Some(node) = node else { continue };
                let before = nodes.internal(UPSERT).await;
                let (status, answer) = nodes.upsert(node, &name, [id]).await;
                assert_eq!((status, &answer["result"]["status"]), (200, &json!("completed")));
                assert_eq!(
                    nodes.internal(UPSERT).await - before,
                    cost,
                    "rf {replicas}, id {id}, node {node}"
                );
            }
        }
        let counted = nodes.ok(0, "POST", &format!("/collections/{name}/points/count"), json!({})).await;
        assert_eq!(counted["count"], 10);
    }
}

#[tokio::test]
async fn ordered_writes_go_through_the_highest_peer() {
    let nodes = Nodes::start(2, 3).await;
    nodes.create("c", 1, 3).await;
    for (node, cost) in [(0, 3), (2, 2)] {
        let before = nodes.internal(UPSERT).await;
        let body = json!({ "points": [{ "id": 1, "vector": [1, 1] }] });
        nodes.ok(node, "PUT", "/collections/c/points?wait=true&ordering=medium", body).await;
        assert_eq!(nodes.internal(UPSERT).await - before, cost);
    }
}

#[tokio::test]
async fn reads_ask_every_shard_and_hedge() {
    let nodes = Nodes::start(3, 3).await;
    nodes.create("c", 6, 1).await;
    nodes.upsert(0, "c", 0..50).await;
    let before = nodes.internal("/qdrant.PointsInternal/Get").await;
    let point = nodes.ok(0, "GET", "/collections/c/points/7", json!({})).await;
    assert_eq!(point, json!({ "id": 7, "payload": { "n": 7 }, "vector": [7.0, 1.0] }));
    assert_eq!(nodes.internal("/qdrant.PointsInternal/Get").await - before, 4);

    let found =
        nodes.ok(1, "POST", "/collections/c/points/query", json!({ "query": [1, 0], "limit": 2 })).await;
    assert_eq!(found["points"][0]["id"], 49);
    let page = nodes.ok(2, "POST", "/collections/c/points/scroll", json!({ "limit": 3, "offset": 10 })).await;
    assert_eq!(page["next_page_offset"], 13);

    nodes.create("two", 1, 2).await;
    nodes.upsert(0, "two", [1]).await;
    let (_, other) = nodes.holders("two", 1);
    let before = nodes.internal("/qdrant.PointsInternal/Count").await;
    nodes.ok(other.expect("a node without"), "POST", "/collections/two/points/count", json!({})).await;
    let hedged = nodes.internal("/qdrant.PointsInternal/Count").await - before;
    assert!((1..=2).contains(&hedged), "{hedged}");
}

#[tokio::test]
async fn a_killed_node_is_declared_dead_by_writes_and_heals() {
    let nodes = Nodes::start(4, 3).await;
    nodes.create("c", 3, 2).await;
    nodes.upsert(0, "c", 0..30).await;
    let (_, commit) = nodes.consensus.epoch();
    nodes.nodes[0].kill().await;
    assert!(nodes.try_raw(0, "GET", "/", None, "").await.is_err());
    assert!(nodes.consensus.epoch().1 > commit, "a new leader");
    let (status, answer) = nodes.upsert(1, "c", 30..60).await;
    assert_eq!(status, 200, "{answer}");
    let states = nodes.consensus.replicas("c").expect("replicas");
    assert!(states.values().filter_map(|peers| peers.get(&1000)).all(|state| *state == ReplicaState::Dead));

    nodes.nodes[0].restart().await.expect("restarted");
    nodes.wait("healing", async || nodes.nodes[0].settled().await).await;
    for node in 0..3 {
        let counted = nodes.ok(node, "POST", "/collections/c/points/count", json!({})).await;
        assert_eq!(counted["count"], 60);
    }
}

#[tokio::test]
async fn a_pod_comes_back_under_another_address() {
    let nodes = Nodes::start(5, 2).await;
    nodes.create("c", 2, 1).await;
    nodes.upsert(0, "c", 0..20).await;
    nodes.nodes[1].restart_at(IpAddr::V4(Ipv4Addr::new(127, 77, 5, 9))).await.expect("restarted");
    let counted = nodes.ok(0, "POST", "/collections/c/points/count", json!({})).await;
    assert_eq!(counted["count"], 20);
    assert_eq!(nodes.ok(1, "GET", "/cluster", json!({})).await["peer_id"], 1001);
}

#[tokio::test]
async fn faults_do_what_they_are_called() {
    let nodes = Nodes::start(6, 3).await;
    nodes.ok(1, "GET", "/cluster", json!({})).await;

    nodes.nodes[1].set_fault(Some(Fault::Hang));
    let silent =
        tokio::time::timeout(Duration::from_millis(300), nodes.ask(1, "GET", "/cluster", json!({}))).await;
    assert!(silent.is_err());
    nodes.nodes[1].set_fault(None);
    nodes.ok(1, "GET", "/cluster", json!({})).await;

    nodes.nodes[1].set_fault(Some(Fault::Slow(Duration::from_millis(200))));
    let began = Instant::now();
    assert_eq!(nodes.raw(1, "GET", "/healthz", None, "").await.1, "healthz check passed");
    assert!(began.elapsed() >= Duration::from_millis(200));

    nodes.nodes[1].set_fault(Some(Fault::Refuse));
    assert!(tokio::net::TcpStream::connect((nodes.nodes[1].ip(), 6333)).await.is_err());
    assert!(nodes.try_raw(1, "GET", "/", None, "").await.is_err());
    nodes.nodes[1].set_fault(None);
    assert!(tokio::net::TcpStream::connect((nodes.nodes[1].ip(), 6333)).await.is_ok());
    assert!(nodes.try_raw(1, "GET", "/", None, "").await.is_ok());
}

#[tokio::test]
async fn the_official_client_is_at_home() {
    let nodes = Nodes::start(7, 3).await;
    let client = nodes.grpc(0);
    client
        .create_collection(
            pb::CreateCollectionBuilder::new("c")
                .vectors_config(pb::VectorParamsBuilder::new(2, pb::Distance::Cosine))
                .shard_number(6)
                .replication_factor(2),
        )
        .await
        .expect("created");
    let points: Vec<pb::PointStruct> = (0..20u64)
        .map(|id| {
            let payload =
                qdrant_client::Payload::try_from(json!({ "even": id % 2 == 0 })).expect("a payload");
            pb::PointStruct::new(id, vec![id as f32, 1.0], payload)
        })
        .collect();
    let result =
        client.upsert_points(pb::UpsertPointsBuilder::new("c", points).wait(true)).await.expect("upserted");
    assert_eq!(result.result.expect("a result").status(), pb::UpdateStatus::Completed);

    let other = nodes.grpc(1);
    let got = other
        .get_points(
            pb::GetPointsBuilder::new("c", vec![5.into(), 3.into()]).with_payload(true).with_vectors(true),
        )
        .await
        .expect("points");
    assert_eq!(
        got.result.iter().map(|point| point.id.clone()).collect::<Vec<_>>(),
        vec![Some(5.into()), Some(3.into())]
    );
    let filter = pb::Filter::must([pb::Condition::matches("even", true)]);
    let found = other
        .query(pb::QueryPointsBuilder::new("c").query(pb::PointId::from(19)).filter(filter.clone()).limit(3))
        .await
        .expect("found");
    assert_eq!(found.result[0].id, Some(18.into()));
    let counted =
        other.count(pb::CountPointsBuilder::new("c").filter(filter).exact(true)).await.expect("counted");
    assert_eq!(counted.result.map(|result| result.count), Some(10));
    let info = client.collection_cluster_info("c").await.expect("placement");
    assert_eq!((info.shard_count, info.local_shards.len() + info.remote_shards.len()), (6, 12));
    assert_eq!(
        client.collection_info("c").await.expect("info").result.and_then(|info| info.points_count),
        Some(20)
    );
    assert!(client.create_snapshot("c").await.is_ok());
    let refused = client.count(pb::CountPointsBuilder::new("nowhere")).await.expect_err("no such collection");
    assert!(refused.to_string().contains("Not found: Collection `nowhere` doesn't exist!"), "{refused}");
    assert_eq!(client.health_check().await.expect("health").version, "1.18.3");
}

#[tokio::test]
async fn custom_shards_have_keys_and_their_own_rings() {
    let nodes = Nodes::start(8, 3).await;
    let body = json!({
        "vectors": { "size": 2, "distance": "Dot" }, "sharding_method": "custom", "shard_number": 2,
    });
    nodes.ok(0, "PUT", "/collections/c", body).await;
    nodes.ok(1, "PUT", "/collections/c/shards", json!({ "shard_key": "a" })).await;
    nodes.ok(2, "PUT", "/collections/c/shards", json!({ "shard_key": 7 })).await;
    let view = nodes.ok(0, "GET", "/collections/c/cluster", json!({})).await;
    let mut rows: Vec<(u64, Value)> = ["local_shards", "remote_shards"]
        .iter()
        .flat_map(|name| view[name].as_array().cloned().unwrap_or_default())
        .map(|row| (row["shard_id"].as_u64().unwrap_or(0), row["shard_key"].clone()))
        .collect();
    rows.sort_by_key(|row| row.0);
    assert_eq!(rows, vec![(1, json!("a")), (2, json!("a")), (3, json!(7)), (4, json!(7))]);

    let point = json!({ "id": 1, "vector": [1, 1] });
    let (status, answer) =
        nodes.ask(0, "PUT", "/collections/c/points?wait=true", json!({ "points": [point] })).await;
    assert_eq!((status, &answer["status"]["error"]), (400, &json!("Wrong input: Shard key not specified")));
    let body = json!({ "points": [point], "shard_key": "a" });
    nodes.ok(0, "PUT", "/collections/c/points?wait=true", body).await;
    let found =
        nodes.ok(1, "POST", "/collections/c/points", json!({ "ids": [1], "shard_key": ["a", 7] })).await;
    assert_eq!(found[0]["shard_key"], "a");
    let (status, answer) =
        nodes.ask(1, "POST", "/collections/c/points", json!({ "ids": [1], "shard_key": "b" })).await;
    assert_eq!((status, &answer["status"]["error"]), (400, &json!("Bad request: Shard key \"b\" not found")));
}

#[tokio::test]
async fn shards_move_and_multiply_with_their_points() {
    let nodes = Nodes::start(9, 3).await;
    nodes.create("c", 3, 1).await;
    nodes.upsert(0, "c", 0..100).await;
    let (_, commit) = nodes.consensus.epoch();
    let from = *nodes.consensus.replicas("c").expect("replicas")[&0].keys().next().expect("a holder");
    let to = if from == 1000 { 1001 } else { 1000 };
    nodes.consensus.move_shard("c", 0, from, to).await.expect("moved");
    assert!(nodes.consensus.epoch().1 >= commit + 2);

    let target = nodes.consensus.start_resharding("c", ReshardingDirection::Up).expect("started");
    assert_eq!(target, 3);
    nodes.upsert(1, "c", 100..200).await;
    let view = nodes.ok(0, "GET", "/collections/c/cluster", json!({})).await;
    assert_eq!(view["resharding_operations"][0]["direction"], "up");
    nodes.consensus.finish_resharding("c").await.expect("finished");
    let down = nodes.consensus.start_resharding("c", ReshardingDirection::Down).expect("started");
    assert_eq!(down, 3);
    nodes.upsert(2, "c", 200..250).await;
    for node in 0..3 {
        let page = nodes.ok(node, "POST", "/collections/c/points/scroll", json!({ "limit": 1000 })).await;
        assert_eq!(page["points"].as_array().map(Vec::len), Some(250));
    }
    nodes.consensus.finish_resharding("c").await.expect("finished");
    let page = nodes.ok(0, "POST", "/collections/c/points/scroll", json!({ "limit": 1000 })).await;
    assert_eq!(page["points"].as_array().map(Vec::len), Some(250));
    assert_eq!(nodes.ok(0, "POST", "/collections/c/points/count", json!({})).await["count"], 250);
}

#[tokio::test]
async fn keys_are_asked_for() {
    let nodes = Nodes::with(10, 1, |options| {
        options.api_key = Some("rw".to_owned());
        options.read_only_api_key = Some("ro".to_owned());
    })
    .await;
    let create = json!({ "vectors": { "size": 2, "distance": "Dot" } }).to_string();
    assert_eq!(nodes.raw(0, "GET", "/healthz", None, "").await.0, 200);
    let (status, text) = nodes.raw(0, "GET", "/collections", None, "").await;
    assert_eq!((status, text.as_str()), (401, "Must provide an API key or an Authorization bearer token"));
    assert_eq!(nodes.raw(0, "GET", "/nowhere", None, "").await.0, 401);
    assert_eq!(nodes.raw(0, "GET", "/collections", Some("no"), "").await.1, "Invalid API key or JWT");
    assert_eq!(nodes.raw(0, "GET", "/cluster", Some("ro"), "").await.0, 200);
    assert_eq!(nodes.raw(0, "PUT", "/collections/c", Some("ro"), &create).await.0, 403);
    assert_eq!(nodes.raw(0, "PUT", "/collections/c", Some("rw"), &create).await.0, 200);
    assert!(nodes.grpc(0).list_collections().await.is_err());
    assert!(nodes.grpc(0).health_check().await.is_ok());
}

#[tokio::test]
async fn mistakes_are_answered_in_qdrants_words() {
    let nodes = Nodes::start(11, 1).await;
    nodes.create("c", 1, 1).await;
    let (status, answer) = nodes.ask(0, "GET", "/collections/x", json!({})).await;
    assert_eq!(
        (status, &answer["status"]["error"]),
        (404, &json!("Not found: Collection `x` doesn't exist!"))
    );
    let (status, text) = nodes.raw(0, "PUT", "/collections/c/points", None, "{\"points\":").await;
    assert_eq!(status, 400);
    assert!(text.contains("Format error in JSON body: EOF"), "{text}");
    let (status, answer) = nodes.ask(0, "PUT", "/collections/c/points", json!({ "points": [] })).await;
    assert_eq!((status, &answer["status"]["error"]), (400, &json!("Bad request: Empty update request")));
    let body = json!({ "points": [{ "id": 1, "vector": [1, 2, 3] }] });
    assert_eq!(nodes.ask(0, "PUT", "/collections/c/points?wait=true", body.clone()).await.0, 400);
    assert_eq!(nodes.ask(0, "PUT", "/collections/c/points", body).await.0, 200);
    assert_eq!(nodes.raw(0, "GET", "/nowhere", None, "").await, (404, String::new()));
    assert_eq!(nodes.ask(0, "POST", "/collections/c/points/discover", json!({})).await.0, 501);
    let twice = json!({ "vectors": { "size": 2, "distance": "Dot" } });
    assert_eq!(nodes.ask(0, "PUT", "/collections/c", twice).await.0, 409);
    assert_eq!(nodes.ok(0, "DELETE", "/collections/nothing", json!({})).await, json!(false));
}

#[tokio::test]
async fn snapshots_stay_where_they_were_made() {
    let nodes = Nodes::start(12, 2).await;
    nodes.create("c", 2, 1).await;
    let made = nodes.ok(0, "POST", "/collections/c/snapshots", json!({})).await;
    let name = made["name"].as_str().expect("a name").to_owned();
    assert!(name.starts_with("c-1000-"), "{name}");
    assert_eq!(
        nodes.ok(0, "GET", "/collections/c/snapshots", json!({})).await.as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(nodes.ok(1, "GET", "/collections/c/snapshots", json!({})).await, json!([]));
    assert_eq!(nodes.raw(0, "GET", &format!("/collections/c/snapshots/{name}"), None, "").await.0, 200);
    assert_eq!(nodes.raw(1, "GET", &format!("/collections/c/snapshots/{name}"), None, "").await.0, 404);
}

#[tokio::test]
async fn snapshots_of_one_second_have_names_of_their_own() {
    let nodes = Nodes::start(19, 1).await;
    nodes.create("c", 2, 1).await;
    for (path, stem) in [
        ("/collections/c/snapshots", "c-1000-"),
        ("/collections/c/shards/1/snapshots", "c-shard-1-"),
        ("/snapshots", "full-snapshot-"),
    ] {
        let mut names = Vec::new();
        for _ in 0..3 {
            let made = nodes.ok(0, "POST", path, json!({})).await;
            let name = made["name"].as_str().expect("a name").to_owned();
            // 2024-02-29-12-34-56
            let stamp =
                name.strip_prefix(stem).and_then(|rest| rest.strip_suffix(".snapshot")).expect("a stamp");
            let digits: Vec<usize> = stamp.split('-').map(str::len).collect();
            assert_eq!(digits, [4, 2, 2, 2, 2, 2], "{name}");
            names.push(name);
        }
        let listed = nodes.ok(0, "GET", path, json!({})).await;
        let listed: Vec<&str> =
            listed.as_array().into_iter().flatten().filter_map(|file| file["name"].as_str()).collect();
        assert_eq!(listed, names);
        names.dedup();
        assert_eq!(names.len(), 3);
        assert_eq!(nodes.ok(0, "DELETE", &format!("{path}/{}", names[1]), json!({})).await, json!(true));
        let (status, answer) = nodes.ask(0, "DELETE", &format!("{path}/{}", names[1]), json!({})).await;
        let text = format!("Not found: Snapshot {} not found", names[1]);
        assert_eq!((status, &answer["status"]["error"]), (404, &json!(text)));
        assert_eq!(nodes.raw(0, "GET", &format!("{path}/{}", names[2]), None, "").await.0, 200);
    }
    assert_eq!(nodes.raw(0, "POST", "/snapshots?wait=false", None, "").await.0, 202);
    assert_eq!(nodes.grpc(0).list_full_snapshots().await.expect("a list").snapshot_descriptions.len(), 3);
}

#[tokio::test]
async fn snapshots_of_a_shard_are_with_its_holders() {
    let nodes = Nodes::start(20, 2).await;
    nodes.create("c", 2, 1).await;
    let (holder, other) = nodes.holders_of("c", 0);
    let path = "/collections/c/shards/0/snapshots";
    nodes.ok(holder, "POST", path, json!({})).await;
    for (node, path, expected) in [
        (other, path, (400, "Wrong input: Shard 0 is not a local shard")),
        (holder, "/collections/c/shards/9/snapshots", (404, "Not found: shard 9 not found")),
    ] {
        let (status, answer) = nodes.ask(node, "GET", path, json!({})).await;
        assert_eq!((status, answer["status"]["error"].as_str()), (expected.0, Some(expected.1)));
    }
}

#[tokio::test]
async fn a_collection_is_recovered_from_a_file_of_its_node() {
    let nodes = Nodes::start(21, 2).await;
    nodes.create("c", 1, 2).await;
    nodes.upsert(0, "c", 0..5).await;
    let made = nodes.ok(0, "POST", "/collections/c/snapshots", json!({})).await;
    let (name, checksum) = (made["name"].as_str().expect("a name"), &made["checksum"]);
    nodes.ok(0, "POST", "/collections/c/points/delete?wait=true", json!({ "points": [1, 2] })).await;
    let recover = |priority: &str| json!({ "location": format!("file:///qdrant/snapshots/c/{name}"), "priority": priority, "checksum": checksum });
    let path = "/collections/c/snapshots/recover";
    let count = async |node: usize| {
        nodes.ok(node, "POST", "/collections/c/shards/0/points/count", json!({})).await["count"].clone()
    };
    assert_eq!(nodes.ok(0, "PUT", path, recover("replica")).await, json!(true));
    assert_eq!((count(0).await, count(1).await), (json!(3), json!(3)));
    assert_eq!(nodes.ok(0, "PUT", path, recover("snapshot")).await, json!(true));
    assert_eq!((count(0).await, count(1).await), (json!(5), json!(5)));

    let (status, answer) = nodes.ask(1, "PUT", path, recover("snapshot")).await;
    let text = format!("Bad request: Snapshot file \"/qdrant/snapshots/c/{name}\" does not exist");
    assert_eq!((status, &answer["status"]["error"]), (400, &json!(text)));
    let wrong = json!({ "location": format!("file:///s/{name}"), "checksum": "00" });
    assert_eq!(nodes.ask(0, "PUT", path, wrong).await.0, 400);
    assert_eq!(nodes.ask(0, "PUT", path, json!({ "location": "ftp://a/b" })).await.0, 400);
    assert_eq!(nodes.ask(0, "PUT", path, json!({ "location": "http://a/b" })).await.0, 501);
}

#[tokio::test]
async fn one_shard_is_read_where_it_lies() {
    let nodes = Nodes::start(22, 2).await;
    let body = json!({ "vectors": { "size": 2, "distance": "Dot" }, "sharding_method": "custom", "shard_number": 2 });
    nodes.ok(0, "PUT", "/collections/c", body).await;
    nodes.ok(0, "PUT", "/collections/c/shards", json!({ "shard_key": "a" })).await;
    let points: Vec<Value> = (0..40).map(|id| json!({ "id": id, "vector": [id, 1] })).collect();
    nodes
        .ok(0, "PUT", "/collections/c/points?wait=true", json!({ "points": points, "shard_key": "a" }))
        .await;
    let before = nodes.internal("/qdrant.PointsInternal/Scroll").await;
    let mut total = 0;
    for shard in [1, 2] {
        let (holder, other) = nodes.holders_of("c", shard);
        let path = format!("/collections/c/shards/{shard}/points");
        let count = nodes.ok(holder, "POST", &format!("{path}/count"), json!({})).await["count"].clone();
        let page = nodes.ok(holder, "POST", &format!("{path}/scroll"), json!({ "limit": 3 })).await;
        let found = page["points"].as_array().expect("points");
        assert!(found.iter().all(|point| point["shard_key"] == "a"), "{page}");
        let next = &page["next_page_offset"];
        let rest =
            nodes.ok(holder, "POST", &format!("{path}/scroll"), json!({ "limit": 40, "offset": next })).await;
        let rest = rest["points"].as_array().expect("points").len();
        assert_eq!(json!(rest + found.len()), count);
        total += count.as_u64().expect("a number");
        let got =
            nodes.ok(holder, "POST", &path, json!({ "ids": [found[1]["id"], found[0]["id"], 99] })).await;
        assert_eq!((&got[0]["id"], &got[1]["shard_key"]), (&found[1]["id"], &json!("a")));
        let ring = json!({ "hash_ring_filter": { "expected_shard_id": shard } });
        assert_eq!(nodes.ok(holder, "POST", &format!("{path}/count"), ring).await["count"], count);
        let ring = json!({ "hash_ring_filter": { "expected_shard_id": 3 - shard } });
        assert_eq!(nodes.ok(holder, "POST", &format!("{path}/count"), ring).await["count"], 0);

        let (status, answer) = nodes.ask(other, "POST", &path, json!({ "ids": [1] })).await;
        let text = format!("Service internal error: Local shard {shard} not found");
        assert_eq!((status, &answer["status"]["error"]), (500, &json!(text)));
    }
    assert_eq!(total, 40);
    assert_eq!(nodes.internal("/qdrant.PointsInternal/Scroll").await, before);
    let (status, answer) = nodes.ask(0, "POST", "/collections/c/shards/9/points/count", json!({})).await;
    assert_eq!((status, &answer["status"]["error"]), (404, &json!("Not found: shard 9 not found")));
    let large = json!({ "ids": vec![7_000_000; 300_000] });
    assert_eq!(nodes.ask(0, "POST", "/collections/c/shards/1/points", large).await.0, 413);
}

#[tokio::test]
async fn compressed_bodies_are_understood() {
    use std::io::Write;

    let nodes = Nodes::start(23, 1).await;
    nodes.create("c", 1, 1).await;
    nodes.upsert(0, "c", 0..5).await;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(br#"{"points":[1,2,3]}"#).expect("memory");
    let compressed = encoder.finish().expect("memory");
    let send = async |body: Vec<u8>| {
        let url = format!("http://{}:6333/collections/c/points/delete?wait=true", nodes.nodes[0].ip());
        let request = http::Request::post(url).header("content-encoding", "gzip").body(Full::from(body));
        nodes.http.request(request.expect("a request")).await.expect("an answer").status().as_u16()
    };
    assert_eq!(send(compressed).await, 200);
    assert_eq!(send(b"{}".to_vec()).await, 400);
    assert_eq!(nodes.ok(0, "POST", "/collections/c/points/count", json!({})).await["count"], 2);
}

#[tokio::test]
async fn tokens_choose_replicas_from_1_19_on() {
    const COUNT: &str = "/qdrant.PointsInternal/Count";
    let nodes = Nodes::with(24, 3, |options| options.version = "1.19.0".to_owned()).await;
    nodes.create("c", 1, 3).await;
    let received = async |node: usize| {
        let telemetry = nodes.ok(node, "GET", "/telemetry", json!({})).await;
        telemetry["requests"]["grpc"]["responses"][COUNT]["0"]["count"].as_u64().unwrap_or(0)
    };
    for (node, token) in [(0, "user-42"), (1, "user-1"), (2, "abc"), (0, "abc")] {
        let mut order = [1000, 1001, 1002];
        affinity::Affinity::from_token(token.as_bytes()).expect("a token").order(&mut order);
        let primary = (order[0] - 1000) as usize;
        let before = (received(primary).await, nodes.internal(COUNT).await);
        let url = format!("http://{}:6333/collections/c/points/count", nodes.nodes[node].ip());
        let request = http::Request::post(url).header("x-qdrant-route-affinity", token);
        let answer = nodes.http.request(request.body(Full::from("{}")).expect("a request")).await;
        assert_eq!(answer.expect("an answer").status(), 200);

        let mut request =
            tonic::Request::new(pb::CountPoints { collection_name: "c".into(), ..Default::default() });
        request.metadata_mut().insert("x-qdrant-route-affinity", token.parse().expect("a token"));
        let channel =
            tonic::transport::Endpoint::from_shared(format!("http://{}:6334", nodes.nodes[node].ip()));
        let channel = channel.expect("an address").connect().await.expect("a connection");
        pb::points_client::PointsClient::new(channel).count(request).await.expect("counted");
        // Once over each protocol, and by nobody else.
        let cost = if primary == node { 0 } else { 2 };
        assert_eq!(received(primary).await - before.0, cost, "{token} at {node}");
        assert_eq!(nodes.internal(COUNT).await - before.1, cost, "{token} at {node}");
    }

    for (index, node) in nodes.nodes.iter().enumerate() {
        node.set_version("1.18.3");
        let before = nodes.internal(COUNT).await;
        let url = format!("http://{}:6333/collections/c/points/count", node.ip());
        let request = http::Request::post(url).header("x-qdrant-route-affinity", "abc");
        let answer = nodes.http.request(request.body(Full::from("{}")).expect("a request")).await;
        assert_eq!(answer.expect("an answer").status(), 200);
        assert_eq!(nodes.internal(COUNT).await, before, "node {index}");
    }
}

#[tokio::test]
async fn every_node_shows_its_own_version() {
    let nodes = Nodes::start(25, 2).await;
    nodes.nodes[1].set_version("1.19.0");
    for (node, version) in [(0, DEFAULT_VERSION), (1, "1.19.0")] {
        let (_, text) = nodes.raw(node, "GET", "/", None, "").await;
        assert!(text.contains(&format!("\"version\":\"{version}\"")), "{text}");
        assert_eq!(nodes.grpc(node).health_check().await.expect("health").version, version);
        let telemetry = nodes.ok(node, "GET", "/telemetry?details_level=3", json!({})).await;
        assert_eq!(telemetry["app"]["version"], version);
        assert_eq!(telemetry["cluster"]["peer_metadata"]["1001"]["version"], "1.19.0");
    }
    nodes.nodes[1].restart().await.expect("restarted");
    assert_eq!(nodes.grpc(1).health_check().await.expect("health").version, "1.19.0");
}

#[tokio::test]
async fn one_release_stores_uuids_elsewhere() {
    let nodes = Nodes::start(26, 1).await;
    nodes.create("c", 12, 1).await;
    let id = "550e8400-e29b-41d4-a716-446655440000";
    for (version, shard) in [("1.15.0", 6), ("1.15.1", 1)] {
        nodes.nodes[0].set_version(version);
        let points = json!({ "points": [{ "id": id, "vector": [1, 1] }] });
        nodes.ok(0, "PUT", "/collections/c/points?wait=true", points).await;
        let path = format!("/collections/c/shards/{shard}/points");
        assert_eq!(nodes.ok(0, "POST", &path, json!({ "ids": [id] })).await[0]["id"], id, "{version}");
    }
}

/// A connection whose answers are counted in bytes, and how it ended.
async fn read_all(ip: IpAddr, request: &str) -> (String, Option<std::io::ErrorKind>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut stream = tokio::net::TcpStream::connect((ip, 6333)).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes).await.err().map(|error| error.kind());
    (String::from_utf8_lossy(&bytes).into_owned(), ended)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_comes_in_the_middle_of_an_answer() {
    let nodes = Nodes::start(27, 2).await;
    nodes.create("c", 2, 1).await;
    nodes.upsert(1, "c", 0..50).await;
    nodes.nodes[0].set_fault(Some(Fault::Reset));

    let body = json!({ "points": [{ "id": 100, "vector": [1, 1] }] }).to_string();
    let length = body.len();
    let request = format!(
        "PUT /collections/c/points?wait=true HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let (text, ended) = read_all(nodes.nodes[0].ip(), &request).await;
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let announced = head.to_ascii_lowercase();
    let announced =
        announced.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    assert_eq!(body.len(), announced.parse::<usize>().expect("a number") / 2, "{body}");
    assert_eq!(ended, Some(std::io::ErrorKind::ConnectionReset));

    let refused = nodes.grpc(0).count(pb::CountPointsBuilder::new("c")).await.expect_err("cut off");
    assert!(!refused.to_string().contains("doesn't exist"), "{refused}");
    // Executed all the same, and the other node finds nothing wrong.
    assert_eq!(nodes.ok(1, "POST", "/collections/c/points/count", json!({})).await["count"], 51);
    nodes.nodes[0].heal();
    assert_eq!(nodes.ok(0, "POST", "/collections/c/points/count", json!({})).await["count"], 51);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_cuts_grpc_in_the_middle_of_a_message() {
    let nodes = Nodes::start(28, 1).await;
    nodes.create("c", 1, 1).await;
    nodes.upsert(0, "c", 0..50).await;
    nodes.nodes[0].set_fault(Some(Fault::Reset));
    let http2: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    // CountPoints { collection_name: "c" }
    let message = [0, 0, 0, 0, 3, 0x0a, 1, b'c'];
    let request = http::Request::post(format!("http://{}:6334/qdrant.Points/Count", nodes.nodes[0].ip()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::from(message.to_vec()))
        .expect("a request");
    let answer = http2.request(request).await.expect("a head");
    assert_eq!(answer.status(), 200);
    let mut body = answer.into_body();
    let mut received = 0;
    let error = loop {
        match body.frame().await.expect("not the end") {
            Ok(frame) => received += frame.data_ref().map_or(0, Bytes::len),
            Err(error) => break error,
        }
    };
    assert!(received > 0 && !error.to_string().is_empty(), "{received}: {error}");
}

#[tokio::test]
async fn errors_come_in_bursts() {
    let nodes = Nodes::start(29, 2).await;
    nodes.create("c", 1, 1).await;
    let count = "/collections/c/points/count";
    nodes.nodes[0].answer_with(Some(Canned::rate_limited(Some(7)).times(2)));
    let url = format!("http://{}:6333{count}", nodes.nodes[0].ip());
    let request = http::Request::post(url).body(Full::from("{}")).expect("a request");
    let answer = nodes.http.request(request).await.expect("an answer");
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["retry-after"]),
        (429, &http::HeaderValue::from(7))
    );
    // Nothing but points is concerned.
    nodes.ok(0, "GET", "/cluster", json!({})).await;
    nodes.ok(0, "GET", "/collections/c/cluster", json!({})).await;

    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}:6334", nodes.nodes[0].ip()));
    let channel = channel.expect("an address").connect().await.expect("a connection");
    let mut client = pb::points_client::PointsClient::new(channel);
    let request = || pb::CountPoints { collection_name: "c".into(), ..Default::default() };
    let refused = client.count(request()).await.expect_err("out of budget");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    assert_eq!(
        refused.metadata().get("retry-after").map(tonic::metadata::MetadataValue::as_bytes),
        Some(&b"7"[..])
    );
    client.count(request()).await.expect("served");
    assert_eq!(nodes.nodes[0].canned_answers(), 2);

    nodes.nodes[0].answer_with(Some(Canned::internal().text("Local shard 3 not found")));
    for _ in 0..3 {
        let (status, answer) = nodes.ask(0, "POST", count, json!({})).await;
        let text = "Service internal error: Local shard 3 not found";
        assert_eq!((status, &answer["status"]["error"]), (500, &json!(text)));
        assert_eq!(client.count(request()).await.expect_err("broken").message(), text);
    }
    nodes.ok(1, "POST", count, json!({})).await;
    nodes.nodes[0].heal();
    nodes.ok(0, "POST", count, json!({})).await;
}

#[tokio::test]
async fn a_drained_connection_answers_what_it_has() {
    let nodes = Nodes::start(30, 1).await;
    nodes.create("c", 1, 1).await;
    let stream = tokio::net::TcpStream::connect((nodes.nodes[0].ip(), 6334)).await.expect("connected");
    let (mut send, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    // Holds the write up until the test lets it go.
    let gate = Arc::clone(&nodes.consensus.collection("c").expect("a collection").gate);
    let closed = gate.write().await;
    let url = format!("http://{}:6334/qdrant.Points/Delete", nodes.nodes[0].ip());
    let request =
        http::Request::post(url).header("content-type", "application/grpc").header("te", "trailers");
    let (answer, mut body) = send.send_request(request.body(()).expect("a request"), false).expect("sent");
    // DeletePoints { collection_name: "c", wait: true, points: [1] }
    let message = [0, 0, 0, 0, 13, 0x0a, 1, b'c', 0x10, 1, 0x1a, 6, 0x0a, 4, 0x0a, 2, 0x08, 1];
    body.send_data(Bytes::copy_from_slice(&message), true).expect("sent");
    nodes.wait("the write", async || !nodes.nodes[0].settled().await).await;
    nodes.nodes[0].goaway();
    nodes.wait("the GOAWAY", async || send.clone().ready().await.is_err()).await;
    drop(closed);
    let mut answer = answer.await.expect("answered");
    while let Some(data) = answer.body_mut().data().await {
        data.expect("whole");
    }
    assert_eq!(answer.body_mut().trailers().await.expect("whole").expect("trailers")["grpc-status"], "0");
    drop((answer, send));
    connection.await.expect("ended").expect("in order");
    nodes.grpc(0).count(pb::CountPointsBuilder::new("c")).await.expect("a new connection is served");
}

#[tokio::test]
async fn refused_streams_are_refused_one_by_one() {
    let nodes = Nodes::start(31, 1).await;
    nodes.create("c", 1, 1).await;
    nodes.nodes[0].refuse_streams(2);
    let stream = tokio::net::TcpStream::connect((nodes.nodes[0].ip(), 6334)).await.expect("connected");
    let (mut send, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    for refused in [true, true, false] {
        let url = format!("http://{}:6334/qdrant.Qdrant/HealthCheck", nodes.nodes[0].ip());
        let request =
            http::Request::post(url).header("content-type", "application/grpc").header("te", "trailers");
        send = send.ready().await.expect("open");
        let (answer, mut body) =
            send.send_request(request.body(()).expect("a request"), false).expect("sent");
        // The server may have refused before the body is sent.
        drop(body.send_data(Bytes::from_static(&[0; 5]), true));
        let reason = answer.await.err().and_then(|error| error.reason());
        assert_eq!(reason, refused.then_some(h2::Reason::REFUSED_STREAM));
    }
    connection.abort();
}

#[tokio::test]
async fn lies_are_told_by_one_node_alone() {
    let nodes = Nodes::start(32, 3).await;
    nodes.create("c", 3, 1).await;
    let cluster = async |node: usize| nodes.ok(node, "GET", "/cluster", json!({})).await;
    let placement = async |node: usize| nodes.ok(node, "GET", "/collections/c/cluster", json!({})).await;
    let rows = |view: &Value, name: &str| view[name].as_array().map_or(0, Vec::len);
    let mut truth = cluster(0).await;
    truth["consensus_thread_status"].take();

    nodes.nodes[0].lie(Some(Lie::Stale));
    nodes.create("d", 1, 1).await;
    assert_eq!(nodes.ask(0, "GET", "/collections/d/cluster", json!({})).await.0, 404);
    let mut stale = cluster(0).await;
    stale["consensus_thread_status"].take();
    assert_eq!(stale, truth);
    assert!(cluster(1).await["raft_info"]["commit"].as_u64() > truth["raft_info"]["commit"].as_u64());
    // It serves by the truth.
    assert_eq!(nodes.upsert(0, "d", [1]).await.0, 200);

    nodes.nodes[0].lie(Some(Lie::Contradiction { ahead: 0 }));
    assert_eq!(cluster(0).await["raft_info"]["commit"], cluster(1).await["raft_info"]["commit"]);
    assert_eq!(cluster(0).await["peers"].as_object().map(serde_json::Map::len), Some(1));
    let (lie, other) = (placement(0).await, placement(1).await);
    assert_eq!((rows(&lie, "local_shards"), rows(&lie, "remote_shards")), (2, 2));
    assert_eq!((rows(&other, "local_shards"), rows(&other, "remote_shards")), (1, 2));

    nodes.nodes[0].lie(Some(Lie::Crowd(10_000)));
    assert_eq!(cluster(0).await["peers"].as_object().map(serde_json::Map::len), Some(10_003));
    assert_eq!(rows(&placement(0).await, "remote_shards"), 10_002);
    let info = nodes.grpc(0).collection_cluster_info("c").await.expect("placement");
    assert_eq!(info.remote_shards.len(), 10_002);

    nodes.nodes[0].lie(Some(Lie::Nonsense));
    assert_eq!(cluster(0).await["peer_id"], json!({ "about": "1000" }));
    assert!(placement(0).await["local_shards"].is_object());
    nodes.nodes[0].lie(Some(Lie::Garbage));
    for path in ["/cluster", "/collections/c/cluster"] {
        let (status, text) = nodes.raw(0, "GET", path, None, "").await;
        assert_eq!(status, 200);
        serde_json::from_str::<Value>(&text).expect_err("garbage");
    }

    nodes.nodes[0].restart().await.expect("restarted");
    assert_eq!(rows(&placement(0).await, "local_shards"), 1);
}

#[tokio::test]
async fn prefetches_are_fused_by_rank() {
    let nodes = Nodes::start(33, 2).await;
    nodes.create("c", 2, 1).await;
    nodes.upsert(0, "c", 0..20).await;
    let before = nodes.internal("/qdrant.PointsInternal/QueryBatch").await;
    let body = json!({
        "prefetch": [
            { "query": [1, 0], "limit": 3 },
            { "query": [-1, 0], "limit": 3, "filter": { "must": [{ "key": "n", "range": { "gte": 18 } }] } },
        ],
        "query": { "fusion": "rrf" }, "limit": 2, "with_payload": true,
        "filter": { "must_not": [{ "has_id": [19] }] },
    });
    let found = nodes.ok(0, "POST", "/collections/c/points/query", body).await;
    let found = found["points"].as_array().expect("points");
    assert_eq!(
        (&found[0]["id"], &found[0]["score"], &found[0]["payload"]["n"]),
        (&json!(18), &json!(1.0), &json!(18))
    );
    assert_eq!((found.len(), &found[1]["id"]), (2, &json!(17)));
    // All prefetches travel in one call per shard.
    assert_eq!(nodes.internal("/qdrant.PointsInternal/QueryBatch").await - before, 1);

    let prefetch = |vector: Vec<f32>| pb::PrefetchQueryBuilder::default().query(vector).limit(3u64).build();
    let query = pb::QueryPointsBuilder::new("c")
        .add_prefetch(prefetch(vec![1.0, 0.0]))
        .add_prefetch(prefetch(vec![2.0, 0.0]))
        .query(pb::Query::new_fusion(pb::Fusion::Rrf))
        .limit(1);
    let found = nodes.grpc(1).query(query).await.expect("fused").result;
    assert_eq!((found.len(), found[0].id.clone(), found[0].score), (1, Some(19.into()), 1.0));

    let alone = json!({ "query": { "fusion": "rrf" } });
    assert_eq!(nodes.ask(0, "POST", "/collections/c/points/query", alone).await.0, 400);
    let rescored = json!({ "query": [1, 0], "prefetch": { "query": [1, 0] } });
    assert_eq!(nodes.ask(0, "POST", "/collections/c/points/query", rescored).await.0, 501);
}

#[tokio::test]
async fn a_frozen_replica_holds_writes_up_until_it_counts_as_dead() {
    let nodes = Nodes::start(13, 3).await;
    nodes.create("c", 1, 3).await;
    nodes.nodes[1].set_fault(Some(Fault::Hang));
    let began = Instant::now();
    let (status, answer) = nodes.upsert(0, "c", [1]).await;
    assert_eq!(status, 200, "{answer}");
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(nodes.consensus.replicas("c").expect("replicas")[&0][&1001], ReplicaState::Dead);
    nodes.nodes[1].set_fault(None);
    nodes.wait("healing", async || nodes.nodes[1].settled().await).await;
    let shard = json!({ "ids": [1] });
    assert_eq!(nodes.ok(1, "POST", "/collections/c/shards/0/points", shard).await[0]["id"], 1);
}

#[tokio::test]
async fn a_state_set_by_a_test_stays() {
    let nodes = Nodes::start(14, 2).await;
    nodes.create("c", 1, 2).await;
    nodes.consensus.set_replica_state("c", 0, 1001, ReplicaState::Dead).expect("set");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(nodes.consensus.replicas("c").expect("replicas")[&0][&1001], ReplicaState::Dead);
    let before = nodes.internal("/qdrant.PointsInternal/Count").await;
    nodes.ok(1, "POST", "/collections/c/points/count", json!({})).await;
    assert_eq!(nodes.internal("/qdrant.PointsInternal/Count").await - before, 1);
    nodes.consensus.set_replica_state("c", 0, 1001, ReplicaState::Active).expect("set");
    nodes.ok(1, "POST", "/collections/c/points/count", json!({})).await;
    assert_eq!(nodes.internal("/qdrant.PointsInternal/Count").await - before, 1);
}

#[tokio::test]
async fn an_idle_rest_connection_ends_after_five_seconds() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let nodes = Nodes::start(15, 1).await;
    let mut stream = tokio::net::TcpStream::connect((nodes.nodes[0].ip(), 6333)).await.expect("connected");
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    let began = Instant::now();
    let mut all = Vec::new();
    tokio::time::timeout(Duration::from_secs(8), stream.read_to_end(&mut all))
        .await
        .expect("closed")
        .expect("read");
    assert!(all.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&all));
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn batches_run_in_order_and_stop_at_the_first_error() {
    let nodes = Nodes::start(16, 3).await;
    nodes.create("c", 6, 1).await;
    let batch = |operations: Value| json!({ "operations": operations });
    let upsert = json!({ "upsert": { "batch": {
        "ids": [1, 2, 3], "vectors": [[1, 1], [2, 1], [3, 1]], "payloads": [{ "a": 1 }, null, { "a": 3 }],
    } } });
    let done = nodes
        .ok(
            0,
            "POST",
            "/collections/c/points/batch?wait=true",
            batch(json!([
                upsert,
                { "set_payload": { "payload": { "b": true }, "points": [1, 2] } },
                { "delete_payload": { "keys": ["a"], "filter": { "must": [{ "has_id": [1] }] } } },
                { "delete": { "points": [3] } },
            ])),
        )
        .await;
    assert_eq!(done.as_array().map(Vec::len), Some(4));
    let found =
        nodes.ok(1, "POST", "/collections/c/points", json!({ "ids": [3, 2, 1], "with_payload": true })).await;
    assert_eq!(found, json!([{ "id": 2, "payload": { "b": true } }, { "id": 1, "payload": { "b": true } }]));
    let (status, _) = nodes
        .ask(
            0,
            "POST",
            "/collections/c/points/batch?wait=true",
            batch(json!([{ "clear_payload": { "points": [1, 99] } }, { "delete": { "points": [1] } }])),
        )
        .await;
    assert_eq!(status, 404);
    assert_eq!(nodes.ok(2, "GET", "/collections/c/points/1", json!({})).await["payload"], json!({}));
}

#[tokio::test]
async fn no_write_is_lost_or_doubled_while_shards_change() {
    let nodes = Nodes::start(18, 3).await;
    nodes.create("c", 3, 2).await;
    let write = async {
        for id in 0..300 {
            let (status, answer) = nodes.upsert((id % 3) as usize, "c", [id, id + 1000]).await;
            assert_eq!(status, 200, "{answer}");
        }
    };
    let change = async {
        for direction in [ReshardingDirection::Up, ReshardingDirection::Down, ReshardingDirection::Up] {
            nodes.consensus.start_resharding("c", direction).expect("started");
            tokio::time::sleep(Duration::from_millis(10)).await;
            nodes.consensus.finish_resharding("c").await.expect("finished");
            let replicas = nodes.consensus.replicas("c").expect("replicas");
            let holders: Vec<u64> = replicas[&0].keys().copied().collect();
            let free = (1000..1003).find(|peer| !holders.contains(peer)).expect("a free peer");
            nodes.consensus.move_shard("c", 0, holders[0], free).await.expect("moved");
        }
    };
    tokio::join!(write, change);
    for node in 0..3 {
        let counted = nodes.ok(node, "POST", "/collections/c/points/count", json!({})).await;
        assert_eq!(counted["count"], 600);
    }
}

#[tokio::test]
async fn the_standard_health_service_answers_without_a_key() {
    let nodes = Nodes::with(17, 1, |options| options.api_key = Some("rw".to_owned())).await;
    let http2: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let request =
        http::Request::post(format!("http://{}:6334/grpc.health.v1.Health/Check", nodes.nodes[0].ip()))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::from(vec![0; 5]))
            .expect("a request");
    let answer = http2.request(request).await.expect("an answer");
    let collected = answer.into_body().collect().await.expect("a body");
    assert_eq!(
        collected.trailers().and_then(|trailers| trailers.get("grpc-status")),
        Some(&http::HeaderValue::from_static("0"))
    );
    assert_eq!(&collected.to_bytes()[..], [0, 0, 0, 0, 2, 8, 1]);
}
