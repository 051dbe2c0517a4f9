//! A node dies under load; nobody notices.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use qdrant_client::qdrant::{GetPointsBuilder, PointStruct, QueryPointsBuilder, UpsertPointsBuilder};
use serde_json::json;
use tokio::task::JoinSet;

use crate::bed::{Bed, eventually};

/// What clients saw.
#[derive(Default)]
struct Ledger {
    reads: AtomicU64,
    writes: AtomicU64,
    acknowledged: std::sync::Mutex<Vec<u64>>,
    failures: std::sync::Mutex<Vec<String>>,
}

impl Ledger {
    fn fail(&self, what: &str, error: impl std::fmt::Debug) {
        self.failures.lock().expect("a ledger").push(format!("{what}: {error:?}"));
    }

    fn requests(&self) -> u64 {
        self.reads.load(Ordering::Relaxed) + self.writes.load(Ordering::Relaxed)
    }
}

/// Readers and writers on the SDK, on the proxy over gRPC and on the proxy over REST, until told to stop.
fn load(bed: &Bed, ledger: &Arc<Ledger>, stop: &Arc<AtomicBool>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for worker in 0..2_u64 {
        let (sdk, official, rest) = (bed.sdk(), bed.official(), bed.rest());
        let (ledger, stop) = (ledger.clone(), stop.clone());
        tasks.spawn(async move {
            let mut id = worker * 1_000_000;
            let mut pace = tokio::time::interval(Duration::from_millis(5));
            while !stop.load(Ordering::Relaxed) {
                pace.tick().await;
                id += 1;
                let upsert = || {
                    UpsertPointsBuilder::new(
                        "books",
                        vec![PointStruct::new(id, vec![1.0; 4], qdrant_client::Payload::new())],
                    )
                    .wait(true)
                };
                let written = match id % 3 {
                    0 => sdk.upsert_points(upsert()).await.map(drop).map_err(|error| error.to_string()),
                    1 => official.upsert_points(upsert()).await.map(drop).map_err(|error| error.to_string()),
                    _ => {
                        let body = json!({ "points": [{ "id": id, "vector": [1, 1, 1, 1] }] });
                        rest.put("/collections/books/points?wait=true", body)
                            .await
                            .map(drop)
                            .map_err(|error| error.to_string())
                    }
                };
                match written {
                    Ok(()) => ledger.acknowledged.lock().expect("a ledger").push(id),
                    Err(error) => ledger.fail("write", error),
                }
                ledger.writes.fetch_add(1, Ordering::Relaxed);
                let read = match id % 3 {
                    0 => sdk
                        .query(QueryPointsBuilder::new("books").query(vec![1.0; 4]))
                        .await
                        .map(drop)
                        .map_err(|e| e.to_string()),
                    1 => official
                        .get_points(GetPointsBuilder::new("books", vec![id.into()]))
                        .await
                        .map(drop)
                        .map_err(|e| e.to_string()),
                    _ => rest
                        .post("/collections/books/points/scroll", json!({ "limit": 3 }))
                        .await
                        .map(drop)
                        .map_err(|e| e.to_string()),
                };
                if let Err(error) = read {
                    ledger.fail("read", error);
                }
                ledger.reads.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    tasks
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_one_node_of_three_fails_nothing() {
    let bed = Bed::new().await;
    bed.collection("books", json!({ "shard_number": 3, "replication_factor": 2 })).await;
    let (ledger, stop) = (Arc::<Ledger>::default(), Arc::<AtomicBool>::default());
    let mut clients = load(&bed, &ledger, &stop);
    let done = async |more: u64| {
        let target = ledger.requests() + more;
        eventually("clients go on", async || ledger.requests() >= target).await;
    };
    done(100).await;
    bed.cluster.kill(1).await.expect("a dead node");
    done(400).await;
    let dead = bed.cluster.node(1).peer_id();
    eventually("the router has noticed", async || {
        bed.router.topology().snapshot().node(dead).is_some_and(|node| !node.reachable)
    })
    .await;
    bed.cluster.restart(1).await.expect("a node that is back");
    eventually("the router has noticed", async || {
        bed.router.topology().snapshot().node(dead).is_some_and(|node| node.reachable)
    })
    .await;
    done(200).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.expect("a client that ends well");
    }
    let failures = ledger.failures.lock().expect("a ledger").clone();
    assert!(failures.is_empty(), "{} of {} requests: {failures:#?}", failures.len(), ledger.requests());

    bed.cluster.settled().await.expect("a settled cluster");
    let acknowledged = ledger.acknowledged.lock().expect("a ledger").clone();
    let ids = acknowledged.iter().map(|&id| id.into()).collect::<Vec<_>>();
    let found = bed.sdk().get_points(GetPointsBuilder::new("books", ids)).await.expect("points");
    assert_eq!(found.result.len(), acknowledged.len(), "no acknowledged write is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_node_the_service_serves_and_after_that_nobody() {
    let bed = Bed::new().await;
    for i in 0..3 {
        bed.cluster.kill(i).await.expect("a dead node");
    }
    let admin = bed.proxy.admin();
    eventually("not ready", async || {
        admin
            .get("/readyz")
            .await
            .is_err_and(|error| error.status() == Some(http::StatusCode::SERVICE_UNAVAILABLE))
    })
    .await;
    let refused = bed.rest().get("/collections").await.expect_err("nobody is there");
    assert_eq!(refused.status(), Some(http::StatusCode::SERVICE_UNAVAILABLE), "{refused}");
    let refused = bed.official().list_collections().await.expect_err("nobody is there");
    assert!(refused.to_string().contains("qdrant-router"), "{refused}");

    bed.cluster.restart(0).await.expect("a node that is back");
    eventually("served again", async || bed.rest().get("/collections").await.is_ok()).await;
}
