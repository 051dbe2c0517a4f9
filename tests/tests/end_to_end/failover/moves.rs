//! Shards move, nodes join and leave, collections are resharded: traffic follows.

use serde_json::{Value, json};
use testkit::Cluster;

use super::{Load, Mix, assert_nothing_failed, filled};
use crate::bed::{Bed, eventually};

/// The peers with a replica of `shard` of `books`, in the view of node 0.
async fn holders(bed: &Bed, shard: u64) -> Vec<u64> {
    let info = bed.cluster.rest(0).get("/collections/books/cluster").await.expect("an answer");
    let info = &info["result"];
    let rows = |kind: &str| info[kind].as_array().cloned().unwrap_or_default();
    let own = info["peer_id"].as_u64().expect("a peer");
    let here = rows("local_shards").into_iter().filter(|row| row["shard_id"] == shard).map(|_| own);
    let there = rows("remote_shards").into_iter().filter(|row| row["shard_id"] == shard);
    here.chain(there.filter_map(|row| row["peer_id"].as_u64())).collect()
}

/// Asks for a change of the placement, through the router as an operator would, and waits until it is done.
async fn change(bed: &Bed, operation: Value) {
    bed.rest().post("/collections/books/cluster", &operation).await.expect("accepted");
    bed.cluster.settled().await.expect("done");
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_that_move_fail_nothing() {
    let bed = filled(Cluster::builder().nodes(3)).await;
    let peers: Vec<u64> = bed.cluster.nodes().iter().map(testkit::Node::peer_id).collect();
    let load = Load::start(&bed, Mix::ReadsAndWrites);
    load.goes_on(60).await;
    load.ledger.strike();
    for shard in 0..3 {
        let holders = holders(&bed, shard).await;
        let to = *peers.iter().find(|peer| !holders.contains(peer)).expect("a node without it");
        let moved = json!({ "shard_id": shard, "from_peer_id": holders[0], "to_peer_id": to });
        change(&bed, json!({ "move_shard": moved })).await;
        load.goes_on(60).await;
        let copied = json!({ "shard_id": shard, "from_peer_id": to, "to_peer_id": holders[0] });
        change(&bed, json!({ "replicate_shard": copied })).await;
        load.goes_on(60).await;
        let dropped = json!({ "shard_id": shard, "peer_id": holders[1] });
        change(&bed, json!({ "drop_replica": dropped })).await;
        load.goes_on(60).await;
    }
    let ledger = load.stop().await;
    ledger.tell("shards moved, replicated and dropped");
    assert_nothing_failed("moves", &bed, &ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_out_and_in_fails_nothing() {
    let mut bed = filled(Cluster::builder().nodes(3)).await;
    bed.cluster.dns().set_ttl(0);
    let load = Load::start(&bed, Mix::ReadsAndWrites);
    load.goes_on(60).await;
    load.ledger.strike();
    let new = bed.cluster.add_node().await.expect("a fourth node").peer_id();
    eventually("the new node is known", async || {
        bed.router.topology().refresh();
        bed.router.topology().snapshot().node(new).is_some_and(|node| node.reachable)
    })
    .await;
    // The new node takes over from the third, which then leaves.
    let old = bed.cluster.node(2).peer_id();
    for shard in 0..3 {
        if holders(&bed, shard).await.contains(&old) {
            let moved = json!({ "shard_id": shard, "from_peer_id": old, "to_peer_id": new });
            change(&bed, json!({ "move_shard": moved })).await;
        }
    }
    load.goes_on(100).await;
    bed.rest().delete(&format!("/cluster/peer/{old}")).await.expect("removed");
    let gone = bed.cluster.node(2).ip();
    let dns = bed.cluster.dns();
    let listed = dns.get(bed.cluster.headless_name()).into_iter().filter(|&ip| ip != gone).collect();
    dns.set(bed.cluster.headless_name(), listed);
    bed.cluster.terminate(2).await.expect("it has ended");
    load.goes_on(200).await;
    eventually("the removed node is gone", async || {
        bed.router.topology().refresh();
        bed.router.topology().snapshot().node(old).is_none()
    })
    .await;
    load.goes_on(60).await;
    let ledger = load.stop().await;
    ledger.tell("scaled out by one node, and in by another");
    assert_nothing_failed("scaling", &bed, &ledger).await;
}

/// The same pod comes back as another peer, without data. Qdrant lets it in once an operator has removed the peer that
/// it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_volume_fails_nothing() {
    let mut bed = filled(Cluster::builder().nodes(3)).await;
    let load = Load::start(&bed, Mix::ReadsAndWrites);
    load.goes_on(60).await;
    load.ledger.strike();
    let old = bed.cluster.node(2).peer_id();
    bed.cluster.kill(2).await.expect("a dead node");
    load.goes_on(100).await;
    bed.rest().delete(&format!("/cluster/peer/{old}?force=true")).await.expect("removed");
    let new = bed.cluster.lose_volume(2).await.expect("a new peer").peer_id();
    assert_ne!(old, new);
    eventually("the new peer is known", async || {
        let snapshot = bed.router.topology().snapshot();
        snapshot.node(new).is_some_and(|node| node.reachable)
    })
    .await;
    for shard in 0..3 {
        let holders = holders(&bed, shard).await;
        if holders.len() < 2 {
            let copied = json!({ "shard_id": shard, "from_peer_id": holders[0], "to_peer_id": new });
            change(&bed, json!({ "replicate_shard": copied })).await;
        }
    }
    load.goes_on(100).await;
    let ledger = load.stop().await;
    ledger.tell("volume lost: the same pod, another peer");
    assert_nothing_failed("a lost volume", &bed, &ledger).await;
}

/// Qdrant's own driver of resharding is not part of the open server, so it is begun and given up: while it lasts,
/// writes go to both rings.
#[tokio::test(flavor = "multi_thread")]
async fn resharding_fails_nothing() {
    let bed = filled(Cluster::builder().nodes(3)).await;
    let load = Load::start(&bed, Mix::ReadsAndWrites);
    load.goes_on(60).await;
    load.ledger.strike();
    for direction in ["up", "down"] {
        let start = json!({ "start_resharding": { "direction": direction } });
        bed.rest().post("/collections/books/cluster", start).await.expect("begun");
        load.goes_on(150).await;
        let abort = json!({ "abort_resharding": {} });
        bed.rest().post("/collections/books/cluster", abort).await.expect("given up");
        load.goes_on(60).await;
    }
    let ledger = load.stop().await;
    ledger.tell("resharding up and down, begun and given up");
    assert_nothing_failed("resharding", &bed, &ledger).await;
}
