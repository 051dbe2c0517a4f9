//! Nodes die, hang, slow down, move and talk nonsense under load; readers do not notice, and writers no more than
//! Qdrant itself has them notice.
//!
//! Each test prints rows of the table in docs/reliability.md.

use futures_util::future::join_all;
use qdrant_client::qdrant::GetPointsBuilder;
use serde_json::json;

use crate::{
    bed::{Bed, eventually, official_at},
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
    agreed(bed, ledger).await;
    let acknowledged = ledger.acknowledged();
    let found = bed.sdk().get_points(get(&acknowledged)).await.expect("points");
    assert_eq!(found.result.len(), acknowledged.len(), "{what}: no acknowledged write is lost");
}

/// Waits until all nodes find the same of the points whose writes were acknowledged.
///
/// Active replicas do not say so (Qdrant 1.18.3). One that has come back is active before it has applied all that it
/// was sent; and one that missed writes stays active until consensus takes it out, while the node that could not write
/// to it already writes without it and acknowledges. Were that node ended now, nobody would know what the other lacks.
async fn agreed(bed: &Bed, ledger: &Ledger) {
    let acknowledged = ledger.acknowledged();
    eventually("all nodes find the same points", async || {
        let answers = bed.cluster.nodes().iter().map(async |node| {
            let answer = official_at(node.grpc_addr()).get_points(get(&acknowledged)).await;
            // Nodes that are gone know nothing.
            answer.ok().map(|found| found.result.len())
        });
        let counts: Vec<_> = join_all(answers).await.into_iter().flatten().collect();
        counts.windows(2).all(|pair| pair[0] == pair[1])
    })
    .await;
}

fn get(ids: &[u64]) -> GetPointsBuilder {
    GetPointsBuilder::new("books", ids.iter().map(|&id| id.into()).collect::<Vec<_>>())
}

/// Waits until the router takes node `i` for reachable, or not.
async fn noticed(bed: &Bed, i: usize, reachable: bool) {
    let peer = bed.cluster.node(i).peer_id();
    eventually("the router has noticed", async || {
        bed.router.topology().snapshot().node(peer).is_some_and(|node| node.reachable == reachable)
    })
    .await;
}
