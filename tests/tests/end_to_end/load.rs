//! Clients under way: readers and writers on the SDK and on the proxy in both protocols, and what they saw.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use qdrant_client::qdrant::{GetPointsBuilder, PointStruct, QueryPointsBuilder, UpsertPointsBuilder};
use serde_json::json;
use tokio::task::JoinSet;

use crate::bed::{Bed, eventually};

/// What clients saw.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) acknowledged: Mutex<Vec<u64>>,
    pub(crate) failed_reads: Mutex<Vec<String>>,
    pub(crate) failed_writes: Mutex<Vec<String>>,
    slowest_read: AtomicU64,
}

/// Clients that go on until they are stopped.
pub(crate) struct Load {
    pub(crate) ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    ReadsAndWrites,
    ReadsAlone,
}

impl Ledger {
    fn requests(&self) -> u64 {
        self.reads.load(Ordering::Relaxed) + self.writes.load(Ordering::Relaxed)
    }

    pub(crate) fn slowest_read(&self) -> Duration {
        Duration::from_micros(self.slowest_read.load(Ordering::Relaxed))
    }
}

impl Load {
    /// Two readers and writers of the collection `books`.
    pub(crate) fn start(bed: &Bed, mix: Mix) -> Self {
        let mut load = Self { ledger: Arc::default(), stop: Arc::default(), clients: JoinSet::new() };
        for worker in 0..2_u64 {
            let client = Client::of(bed);
            let (ledger, stop) = (load.ledger.clone(), load.stop.clone());
            load.clients.spawn(async move {
                let mut id = worker * 1_000_000;
                let mut pace = tokio::time::interval(Duration::from_millis(5));
                while !stop.load(Ordering::Relaxed) {
                    pace.tick().await;
                    id += 1;
                    if mix == Mix::ReadsAndWrites {
                        match client.write(id).await {
                            Ok(()) => ledger.acknowledged.lock().expect("a ledger").push(id),
                            Err(error) => ledger.failed_writes.lock().expect("a ledger").push(error),
                        }
                        ledger.writes.fetch_add(1, Ordering::Relaxed);
                    }
                    let began = Instant::now();
                    if let Err(error) = client.read(id).await {
                        ledger.failed_reads.lock().expect("a ledger").push(error);
                    }
                    let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                    ledger.slowest_read.fetch_max(took, Ordering::Relaxed);
                    ledger.reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        load
    }

    /// Waits until so many more requests have been made.
    pub(crate) async fn goes_on(&self, more: u64) {
        let target = self.ledger.requests() + more;
        eventually("clients go on", async || self.ledger.requests() >= target).await;
    }

    /// Stops the clients, and tells what they saw.
    pub(crate) async fn stop(mut self) -> Arc<Ledger> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.expect("a client that ends well");
        }
        self.ledger
    }
}

/// One client of each kind.
struct Client {
    sdk: qdrant_router::Qdrant,
    official: qdrant_client::Qdrant,
    rest: testkit::Rest,
}

impl Client {
    fn of(bed: &Bed) -> Self {
        Self { sdk: bed.sdk(), official: bed.official(), rest: bed.rest() }
    }

    async fn write(&self, id: u64) -> Result<(), String> {
        let point = || PointStruct::new(id, vec![1.0; 4], qdrant_client::Payload::new());
        let upsert = || UpsertPointsBuilder::new("books", vec![point()]).wait(true);
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        match id % 3 {
            0 => self.sdk.upsert_points(upsert()).await.map(drop).map_err(|error| failed(&error)),
            1 => self.official.upsert_points(upsert()).await.map(drop).map_err(|error| failed(&error)),
            _ => {
                let body = json!({ "points": [{ "id": id, "vector": [1, 1, 1, 1] }] });
                let path = "/collections/books/points?wait=true";
                self.rest.put(path, body).await.map(drop).map_err(|error| failed(&error))
            }
        }
    }

    async fn read(&self, id: u64) -> Result<(), String> {
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        match id % 3 {
            0 => {
                let query = QueryPointsBuilder::new("books").query(vec![1.0; 4]);
                self.sdk.query(query).await.map(drop).map_err(|error| failed(&error))
            }
            1 => {
                let get = GetPointsBuilder::new("books", vec![id.into()]);
                self.official.get_points(get).await.map(drop).map_err(|error| failed(&error))
            }
            _ => {
                let (path, body) = ("/collections/books/points/scroll", json!({ "limit": 3 }));
                self.rest.post(path, body).await.map(drop).map_err(|error| failed(&error))
            }
        }
    }
}
