//! Clients under way: readers and writers on the SDK and on the proxy in both protocols.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use qdrant_client::qdrant::{GetPointsBuilder, PointStruct, QueryPointsBuilder, UpsertPointsBuilder};
use qdrant_router::Router;
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    bed::{Bed, eventually_within, official_with},
    ledger::{Entry, Ledger, Via},
};

/// Each client asks this often, unless its last answer is not there yet.
const PACE: Duration = Duration::from_millis(5);

/// A write takes as long as Qdrant makes it wait for a replica that does not answer. Nodes give one another a minute
/// (1.18.3), so that a client with as much gives up at the very moment at which it would have had its answer.
const PATIENCE: Duration = Duration::from_secs(90);

/// Clients that go on until they are stopped.
pub(crate) struct Load {
    pub(crate) ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
    router: Router,
    /// What the router had sent before these clients came.
    before: u64,
}

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    ReadsAndWrites,
    ReadsAlone,
}

// === impl Load ===

impl Load {
    /// Two readers and writers of the collection `books` by each way to the cluster.
    pub(crate) fn start(bed: &Bed, mix: Mix) -> Self {
        let (router, before) = (bed.router.clone(), sent(&bed.router));
        let mut load =
            Self { ledger: Arc::default(), stop: Arc::default(), clients: JoinSet::new(), router, before };
        for worker in 0..2_u64 {
            for (at, via) in [Via::Sdk, Via::Grpc, Via::Rest].into_iter().enumerate() {
                let first = (1 + 3 * worker + at as u64) * 1_000_000;
                load.clients.spawn(client(
                    Client::of(bed, via),
                    mix,
                    first,
                    load.ledger.clone(),
                    load.stop.clone(),
                ));
            }
        }
        load
    }

    /// Waits until so many more requests have been made.
    pub(crate) async fn goes_on(&self, more: usize) {
        let target = self.ledger.requests() + more;
        // All of them may have to wait for Qdrant at the same time.
        eventually_within(2 * PATIENCE, "clients go on", async || self.ledger.requests() >= target).await;
    }

    /// Stops the clients, and tells what they saw.
    pub(crate) async fn stop(mut self) -> Arc<Ledger> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.expect("a client that ends well");
        }
        self.ledger.note_upstream(sent(&self.router) - self.before);
        self.ledger
    }
}

/// How many requests `router` has sent to the nodes that it knows.
fn sent(router: &Router) -> u64 {
    let snapshot = router.topology().snapshot();
    snapshot.nodes().iter().map(|node| router.balance().traffic(node.address).sent).sum()
}

async fn client(client: Client, mix: Mix, first: u64, ledger: Arc<Ledger>, stop: Arc<AtomicBool>) {
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for id in first.. {
        pace.tick().await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        for is_write in [true, false] {
            if is_write && mix == Mix::ReadsAlone {
                continue;
            }
            let began = Instant::now();
            let outcome = if is_write { client.write(id).await } else { client.read(id).await };
            let (took, error) = (began.elapsed(), outcome.err());
            ledger.note(Entry { via: client.via(), is_write, id, began, took, error });
        }
    }
}

/// One client.
enum Client {
    Sdk(qdrant_router::Qdrant),
    Grpc(qdrant_client::Qdrant),
    Rest(Box<testkit::Rest>),
}

impl Client {
    fn of(bed: &Bed, via: Via) -> Self {
        match via {
            Via::Sdk => Self::Sdk(bed.sdk().with_timeout(PATIENCE)),
            Via::Grpc => Self::Grpc(official_with(bed.proxy.grpc_addr, PATIENCE)),
            Via::Rest => Self::Rest(Box::new(bed.rest().with_timeout(PATIENCE))),
        }
    }

    fn via(&self) -> Via {
        match self {
            Self::Sdk(_) => Via::Sdk,
            Self::Grpc(_) => Via::Grpc,
            Self::Rest(_) => Via::Rest,
        }
    }

    async fn write(&self, id: u64) -> Result<(), String> {
        let point = || PointStruct::new(id, vec![1.0; 4], qdrant_client::Payload::new());
        let upsert = || UpsertPointsBuilder::new("books", vec![point()]).wait(true);
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        match self {
            Self::Sdk(sdk) => sdk.upsert_points(upsert()).await.map(drop).map_err(|error| failed(&error)),
            Self::Grpc(grpc) => grpc.upsert_points(upsert()).await.map(drop).map_err(|error| failed(&error)),
            Self::Rest(rest) => {
                let body = json!({ "points": [{ "id": id, "vector": [1, 1, 1, 1] }] });
                let path = "/collections/books/points?wait=true";
                rest.put(path, body).await.map(drop).map_err(|error| failed(&error))
            }
        }
    }

    async fn read(&self, id: u64) -> Result<(), String> {
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        match self {
            Self::Sdk(sdk) => {
                let query = QueryPointsBuilder::new("books").query(vec![1.0; 4]);
                sdk.query(query).await.map(drop).map_err(|error| failed(&error))
            }
            Self::Grpc(grpc) => {
                let get = GetPointsBuilder::new("books", vec![id.into()]);
                grpc.get_points(get).await.map(drop).map_err(|error| failed(&error))
            }
            Self::Rest(rest) => {
                let (path, body) = ("/collections/books/points/scroll", json!({ "limit": 3 }));
                rest.post(path, body).await.map(drop).map_err(|error| failed(&error))
            }
        }
    }
}
