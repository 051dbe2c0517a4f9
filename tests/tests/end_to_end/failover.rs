//! Nodes die, hang, slow down, move and talk nonsense under load; readers do not notice, and writers no more than
//! Qdrant itself has them notice.
//!
//! Each test prints rows of the table in docs/reliability.md.

use qdrant_client::qdrant::GetPointsBuilder;
use serde_json::json;

use crate::{
    bed::{Bed, eventually},
    ledger::Ledger,
    load::{Load, Mix},
};

mod answers;
mod blackhole;
mod misconduct;
mod moves;
mod names;
mod processes;
mod slowness;

/// A bed whose collection `books` has two replicas of each of its three shards, and points in them.
async fn filled(cluster: testkit::ClusterBuilder) -> Bed {
    let bed = Bed::with(cluster, |router| router).await;
    fill(&bed, 2).await;
    bed
}

async fn fill(bed: &Bed, replicas: u32) {
    bed.collection("books", json!({ "shard_number": 3, "replication_factor": replicas })).await;
    let points: Vec<_> = (0..50).map(|id| json!({ "id": id, "vector": [id, 1, 2, 3] })).collect();
    bed.rest().put("/collections/books/points?wait=true", json!({ "points": points })).await.expect("points");
}

fn assert_no_failed_read(what: &str, ledger: &Ledger) {
    let failed = ledger.failed(false);
    assert!(failed.is_empty(), "{what}: {} reads failed: {failed:#?}", failed.len());
}

/// As [`assert_no_failed_read`], and no write has failed, and every write that was acknowledged is there.
async fn assert_nothing_failed(what: &str, bed: &Bed, ledger: &Ledger) {
    assert_no_failed_read(what, ledger);
    let failed = ledger.failed(true);
    assert!(failed.is_empty(), "{what}: {} writes failed: {failed:#?}", failed.len());
    assert_nothing_lost(what, bed, ledger).await;
}

async fn assert_nothing_lost(what: &str, bed: &Bed, ledger: &Ledger) {
    bed.cluster.settled().await.expect("a settled cluster");
    let acknowledged = ledger.acknowledged();
    // A replica that has come back is active before it has applied all that it was sent. That comes; what is lost does not.
    eventually(&format!("{what}: no acknowledged write is lost"), async || {
        let ids = acknowledged.iter().map(|&id| id.into()).collect::<Vec<_>>();
        let found = bed.sdk().get_points(GetPointsBuilder::new("books", ids)).await.expect("points");
        found.result.len() == acknowledged.len()
    })
    .await;
}

/// Waits until the router takes node `i` for reachable, or not.
async fn noticed(bed: &Bed, i: usize, reachable: bool) {
    let peer = bed.cluster.node(i).peer_id();
    eventually("the router has noticed", async || {
        bed.router.topology().snapshot().node(peer).is_some_and(|node| node.reachable == reachable)
    })
    .await;
}
