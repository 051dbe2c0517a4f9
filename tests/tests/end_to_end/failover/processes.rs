//! Nodes end, hang and come back, and so does the router.

use std::time::Duration;

use qdrant_router::route::Conditions;
use serde_json::json;
use testkit::Cluster;

use super::{Load, Mix, agreed, assert_no_failed_read, assert_nothing_failed, filled, noticed};

#[tokio::test(flavor = "multi_thread")]
async fn killing_one_node_of_three_fails_nothing() {
    let bed = filled(Cluster::builder().nodes(3)).await;
    let load = Load::start(&bed, Mix::ReadsAndWrites);
    load.goes_on(100).await;
    load.ledger.strike();
    bed.cluster.kill(1).await.expect("a dead node");
    load.goes_on(400).await;
    noticed(&bed, 1, false).await;
    bed.cluster.restart(1).await.expect("a node that is back");
    noticed(&bed, 1, true).await;
    load.goes_on(200).await;
    let ledger = load.stop().await;
    ledger.tell("`kill -9`, and back");
    assert_nothing_failed("kill", &bed, &ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_one_node_after_the_other_fails_nothing() {
    one_after_the_other("`kill -9` and back, one node after the other", Cluster::kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarting_one_node_after_the_other_fails_nothing() {
    one_after_the_other("SIGTERM and back, one node after the other", Cluster::terminate).await;
}

async fn one_after_the_other(
    what: &str,
    end: impl AsyncFn(&Cluster, usize) -> Result<(), testkit::ClusterError>,
) {
    let bed = filled(Cluster::builder().nodes(3)).await;
    let load = Load::start(&bed, Mix::ReadsAndWrites);
    load.goes_on(100).await;
    load.ledger.strike();
    for i in 0..3 {
        end(&bed.cluster, i).await.expect("a node that has ended");
        load.goes_on(150).await;
        bed.cluster.restart(i).await.expect("a node that is back");
        noticed(&bed, i, true).await;
        bed.cluster.settled().await.expect("its replicas are back");
        agreed(&bed, &load.ledger).await;
        load.goes_on(100).await;
        // Qdrant may give a replica up again over a write that had failed before; the next node must not end meanwhile.
        bed.cluster.settled().await.expect("its replicas have stayed");
    }
    let ledger = load.stop().await;
    ledger.tell(what);
    assert_nothing_failed(what, &bed, &ledger).await;
}

/// What nobody can answer says nothing about those who were asked: they go on with everything else.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_without_a_living_replica_takes_no_other_node_out() {
    let bed = filled(Cluster::builder().nodes(3)).await;
    bed.collection("single", json!({ "shard_number": 1, "replication_factor": 1 })).await;
    let placement = bed.router.topology().knowing("single").await;
    let (_, single) = placement.collections().find(|(name, _)| *name == "single").expect("a placement");
    let holder = single.shards()[0].replicas[0].peer;
    let dead = (0..3).find(|&i| bed.cluster.node(i).peer_id() == holder).expect("a node");
    bed.cluster.kill(dead).await.expect("a dead node");
    noticed(&bed, dead, false).await;

    for _ in 0..30 {
        let answer = bed.rest().post("/collections/single/points/count", json!({})).await;
        assert!(answer.is_err(), "its only replica is gone");
    }
    let nodes = bed.router.topology().snapshot();
    let living = nodes.nodes().iter().filter(|node| node.peer != Some(holder));
    for node in living {
        assert!(bed.router.balance().is_usable(node.address), "{node:?}");
    }
}

/// A pod that is deleted comes back as the same node at another address.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_moves_fails_nothing() {
    let bed = filled(Cluster::builder().nodes(3)).await;
    bed.cluster.dns().set_ttl(1);
    let load = Load::start(&bed, Mix::ReadsAndWrites);
    load.goes_on(100).await;
    load.ledger.strike();
    let moved = bed.cluster.restart_at_new_address(1).await.expect("a new address");
    let peer = bed.cluster.node(1).peer_id();
    super::eventually("the node is at its new address", async || {
        let snapshot = bed.router.topology().snapshot();
        snapshot.node(peer).is_some_and(|node| node.reachable && node.address.ip == moved)
    })
    .await;
    load.goes_on(200).await;
    let ledger = load.stop().await;
    ledger.tell("pod deleted, and back at another address");
    assert_nothing_failed("a new address", &bed, &ledger).await;
}

/// Writes wait as long as Qdrant itself makes them, which is until the node goes on; so there are none here.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_fails_no_read() {
    let bed = filled(Cluster::builder().nodes(3)).await;
    let load = Load::start(&bed, Mix::ReadsAlone);
    load.goes_on(100).await;
    load.ledger.strike();
    bed.cluster.hang(1).await.expect("a node that hangs");
    noticed(&bed, 1, false).await;
    // Ten seconds of what these clients ask for where it counts.
    load.goes_on(if bed.cluster.is_real() { 10_000 } else { 1_000 }).await;
    bed.cluster.heal(1).await.expect("a node that answers");
    noticed(&bed, 1, true).await;
    load.goes_on(300).await;
    let ledger = load.stop().await;
    ledger.tell("SIGSTOP for ten seconds, and SIGCONT");
    assert_no_failed_read("hang", &ledger);
    // By far the slowest was sent before anybody could know. The bound is the client's patience, not a benchmark.
    assert!(ledger.slowest_read() < Duration::from_secs(5), "{:?}", ledger.slowest_read());
}
