//! On embedded nodes or, with `QDRANT_BIN`, on real ones.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::settle::{POLL, View, applied_alike, unsettled};
use super::*;
use crate::{Canned, Lie, RestError};

fn view(peer_id: u64, commit: u64) -> View {
    View { peer_id, peers: BTreeSet::from([1, 2]), leader: 1, term: 3, commit, pending: 0, voter: true }
}

async fn collection(cluster: &Cluster, replicas: u64) {
    let body = json!({
        "vectors": { "size": 2, "distance": "Dot" }, "shard_number": 3, "replication_factor": replicas,
    });
    cluster.rest(0).put("/collections/kit", body).await.expect("created");
    cluster.settled().await.expect("settled");
}

fn points(count: u64) -> Value {
    let points: Vec<Value> = (0..count).map(|id| json!({ "id": id, "vector": [1.0, id as f64] })).collect();
    json!({ "points": points })
}

#[test]
fn views_parse_before_and_after_an_election() {
    let answer = |leader: Value| {
        json!({ "result": {
            "status": "enabled", "peer_id": 1, "peers": { "1": { "uri": "http://a:6335/" }, "2": { "uri": "/" } },
            "raft_info": { "term": 3, "commit": 9, "pending_operations": 0, "leader": leader, "role": "Leader", "is_voter": true }
        } })
    };
    assert_eq!(View::parse(&answer(json!(1))), Some(view(1, 9)));
    assert_eq!(View::parse(&answer(Value::Null)).map(|view| view.leader), Some(0));
    assert_eq!(View::parse(&json!({ "result": { "status": "disabled" } })), None);
}

#[test]
fn one_position_applied_by_all() {
    assert_eq!(applied_alike(&[]), Ok(()));
    assert_eq!(applied_alike(&[view(1, 9), view(2, 9)]), Ok(()));
    assert!(applied_alike(&[view(1, 9), view(2, 8)]).is_err());
    assert!(applied_alike(&[view(1, 9), View { pending: 1, ..view(2, 9) }]).is_err());
}

#[test]
fn replicas_of_dead_nodes_do_not_hinder() {
    let placement = json!({
        "local_shards": [{ "shard_id": 0, "state": "Active" }],
        "remote_shards": [{ "shard_id": 0, "peer_id": 2, "state": "Dead" }],
        "shard_transfers": [],
    });
    assert!(unsettled(&placement, &BTreeSet::new()).is_some());
    assert_eq!(unsettled(&placement, &BTreeSet::from([2])), None);
    let moving = json!({ "local_shards": [], "remote_shards": [], "shard_transfers": [{ "shard_id": 0 }] });
    assert!(unsettled(&moving, &BTreeSet::new()).is_some());
}

#[tokio::test]
async fn starts_with_names_and_addresses() {
    let cluster = Cluster::builder().start().await.expect("a cluster");
    let ips: Vec<IpAddr> = cluster.nodes().iter().map(Node::ip).collect();
    assert_eq!(cluster.dns().get(cluster.headless_name()), ips);
    assert_eq!(cluster.dns().get(&cluster.node(1).host()), [ips[1]]);
    assert_eq!(cluster.dns().get(cluster.service_name()), [cluster.balancer().ip()]);
    assert_eq!(cluster.balancer().backends(), ips);
    assert!(cluster.leader().await.expect("a leader") < 3);
    for node in cluster.nodes() {
        let answer = node.rest().get("/cluster").await.expect("an answer");
        assert_eq!(answer["result"]["peer_id"], node.peer_id());
    }
    let through =
        cluster.rest_at(cluster.balancer().rest_addr()).get("/collections").await.expect("an answer");
    assert_eq!(through["status"], "ok");
}

#[tokio::test]
async fn counts_hops_and_public_calls() {
    let cluster = Cluster::builder().start().await.expect("a cluster");
    collection(&cluster, 1).await;
    let write =
        async || cluster.rest(1).put("/collections/kit/points?wait=true", points(60)).await.expect("written");
    // The first write teaches node 1 the clocks of the shards.
    write().await;
    let before = cluster.internal_rpcs().await.expect("telemetry");
    write().await;
    // Three shards on three nodes: the two that are elsewhere cost one call each.
    assert_eq!(cluster.internal_rpcs().await.expect("telemetry") - before, 2);
    let rpcs = cluster.rpcs_by_node().await.expect("telemetry");
    assert_eq!(rpcs[1], 0, "{rpcs:?}");
    assert_eq!(cluster.public_calls_by_node().await.expect("telemetry"), [0, 2, 0]);
}

#[tokio::test]
async fn a_killed_node_comes_back_with_its_data() {
    let cluster = Cluster::builder().start().await.expect("a cluster");
    collection(&cluster, 2).await;
    cluster.rest(0).put("/collections/kit/points?wait=true", points(30)).await.expect("written");
    cluster.kill(2).await.expect("dead");
    assert!(cluster.rest(2).get("/cluster").await.is_err());
    assert!(cluster.balancer().backends().contains(&cluster.node(2).ip()));
    assert_eq!(cluster.dns().get(cluster.headless_name()).len(), 3);
    cluster.settled().await.expect("the others go on");

    cluster.restart(2).await.expect("back");
    cluster.settled().await.expect("settled");
    let count = cluster
        .rest(2)
        .post("/collections/kit/points/count", json!({ "exact": true }))
        .await
        .expect("counted");
    assert_eq!(count["result"]["count"], 30);
}

#[tokio::test]
async fn a_hung_node_accepts_and_says_nothing() {
    let cluster = Cluster::builder().start().await.expect("a cluster");
    cluster.hang(1).await.expect("hung");
    let asked = cluster.rest(1).with_timeout(Duration::from_millis(200)).get("/cluster").await;
    assert!(matches!(asked, Err(RestError::Timeout { .. })), "{asked:?}");
    cluster.resume(1).await.expect("goes on");
    cluster.settled().await.expect("settled");
    cluster.rest(1).get("/cluster").await.expect("an answer");
}

#[tokio::test]
async fn a_node_moves_to_a_new_address() {
    let cluster = Cluster::builder().start().await.expect("a cluster");
    let old = cluster.node(1).ip();
    let new = cluster.restart_at_new_address(1).await.expect("moved");
    assert_ne!(old, new);
    assert_eq!(cluster.node(1).ip(), new);
    assert_eq!(cluster.dns().get(cluster.headless_name())[1], new);
    assert_eq!(cluster.balancer().backends()[1], new);
    cluster.wait_ready().await.expect("ready");
    let answer = cluster.rest(1).get("/cluster").await.expect("an answer");
    assert_eq!(answer["result"]["peer_id"], cluster.node(1).peer_id());
}

#[tokio::test]
async fn scales_out() {
    let mut cluster = Cluster::builder().nodes(1).start().await.expect("a cluster");
    let ip = cluster.add_node().await.expect("joined").ip();
    assert_eq!(cluster.dns().get(cluster.headless_name()).last(), Some(&ip));
    assert_eq!(cluster.nodes().len(), 2);
}

#[tokio::test]
async fn keys_guard_the_cluster() {
    let cluster = Cluster::builder()
        .nodes(1)
        .api_key("read-write")
        .read_only_api_key("read-only")
        .start()
        .await
        .expect("a cluster");
    let addr = cluster.node(0).rest_addr();
    assert_eq!(
        Rest::new(addr, None).get("/cluster").await.expect_err("no key").status(),
        Some(StatusCode::UNAUTHORIZED)
    );
    Rest::new(addr, cluster.read_only_api_key()).get("/cluster").await.expect("may read");
    cluster.rest(0).get("/cluster").await.expect("may do all");
}

#[tokio::test]
async fn standalone_has_no_peers() {
    let cluster = Cluster::builder().standalone().start().await.expect("a node");
    assert_eq!(cluster.rest(0).get("/cluster").await.expect("an answer")["result"]["status"], "disabled");
    cluster.settled().await.expect("settled");
}

#[tokio::test]
async fn only_embedded_nodes_slow_down_and_refuse() {
    let cluster = Cluster::builder().nodes(1).start().await.expect("a cluster");
    if cluster.is_real() {
        assert!(matches!(cluster.slow(0, POLL).await, Err(ClusterError::Unsupported { .. })));
        assert!(matches!(cluster.refuse(0).await, Err(ClusterError::Unsupported { .. })));
        return;
    }
    cluster.refuse(0).await.expect("refuses");
    let asked = cluster.rest(0).get("/cluster").await;
    assert!(matches!(asked, Err(RestError::Transport { .. })), "{asked:?}");
    cluster.heal(0).await.expect("healed");
    cluster.rest(0).get("/cluster").await.expect("an answer");
    let started = Instant::now();
    cluster.slow(0, Duration::from_millis(150)).await.expect("slow");
    cluster.rest(0).get("/cluster").await.expect("an answer");
    assert!(started.elapsed() >= Duration::from_millis(150));
}

#[tokio::test]
async fn a_server_that_ends_is_reported_with_its_log() {
    // A shell does not know the server's arguments, says so, and ends.
    let error = Cluster::builder().real("/bin/sh").start().await.expect_err("no server");
    let ClusterError::Exited { node, log, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(node, "qdrant-0");
    assert!(log.contains("option"), "{log}");
}

#[tokio::test]
async fn versions_may_be_mixed() {
    let cluster = Cluster::builder().embedded().nodes(2).version("1.19.0").start().await.expect("a cluster");
    cluster.set_version(1, "1.18.3").await.expect("embedded");
    for (node, version) in [(0, "1.19.0"), (1, "1.18.3")] {
        assert_eq!(cluster.rest(node).get("/").await.expect("an answer")["version"], version);
    }
    let real =
        Cluster::builder().real("/bin/sh").version("1.19.0").start().await.expect_err("not a real one");
    assert!(matches!(real, ClusterError::Unsupported { .. }), "{real}");
}

#[tokio::test]
async fn faults_end_when_healed() {
    let cluster = Cluster::builder().embedded().start().await.expect("a cluster");
    collection(&cluster, 2).await;
    let count = async || cluster.rest(1).post("/collections/kit/points/count", json!({})).await;

    cluster.answer_with(1, Canned::unavailable()).await.expect("embedded");
    assert_eq!(count().await.expect_err("busy").status(), Some(StatusCode::SERVICE_UNAVAILABLE));
    cluster.settled().await.expect("only points are concerned");
    assert_eq!(cluster.canned_answers(1).await.expect("embedded"), 1);
    cluster.reset(1).await.expect("embedded");
    assert!(matches!(count().await, Err(RestError::Transport { .. })));
    cluster.lie(1, Lie::Garbage).await.expect("embedded");
    cluster.refuse_streams(1, 9).await.expect("embedded");
    cluster.goaway(1).await.expect("embedded");
    cluster.heal(1).await.expect("healed");
    cluster.wait_ready().await.expect("ready");
    cluster.settled().await.expect("settled");
    count().await.expect("served");

    cluster.lie(1, Lie::Stale).await.expect("embedded");
    let body = json!({ "vectors": { "size": 2, "distance": "Dot" } });
    cluster.rest(0).put("/collections/later", body).await.expect("created");
    cluster.settled().await.expect("who lies is not asked");
    let before = cluster.public_calls_by_node().await.expect("telemetry");
    count().await.expect("served");
    assert_eq!(cluster.public_calls_by_node().await.expect("telemetry")[1], before[1] + 1);
}

/// What a suite may put into a task of its own.
#[test]
fn futures_can_be_spawned() {
    fn is_send<T: Send>(_: fn(&'static Cluster) -> T) {}
    is_send(|_| Cluster::builder().start());
    is_send(Cluster::settled);
    is_send(|cluster| cluster.restart(0));
    is_send(|cluster| cluster.restart_at_new_address(0));
    is_send(Cluster::internal_rpcs);
}
