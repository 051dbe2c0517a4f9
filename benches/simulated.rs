//! A cluster that exists in memory alone, of any size: the SDK's own worker follows it.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use qdrant_router::{
    dice::Dice,
    discovery::{Address, DiscoveryHandle, DnsResolver, Host, Sources},
    topology::{
        ApiError, ClusterApi, ClusterView, Collection, Epoch, Observer, PeerId, Replica, ReplicaState,
        Settings, Shard, ShardId, TopologyHandle, Version, ViewKind,
    },
};

/// What the nodes agree on.
#[derive(Clone, Debug)]
pub(crate) struct Simulated(Arc<State>);

#[derive(Debug)]
struct State {
    nodes: u64,
    shards: ShardId,
    replicas: u64,
    commit: AtomicU64,
    asked: AtomicU64,
}

#[derive(Debug)]
struct Nobody;

// === impl Simulated ===

impl Simulated {
    /// So many nodes; every collection has so many shards, each with so many replicas.
    pub(crate) fn new(nodes: u64, shards: ShardId, replicas: u64) -> Self {
        Self(Arc::new(State {
            nodes,
            shards,
            replicas,
            commit: AtomicU64::new(10),
            asked: AtomicU64::new(0),
        }))
    }

    /// Follows it on the current runtime, and looks for changes as seldom as `probe_interval` says.
    pub(crate) fn follow(&self, probe_interval: Duration) -> TopologyHandle {
        let settings = Settings { probe_interval, first_fetch: Duration::from_secs(60) };
        TopologyHandle::follow(
            self.addresses(),
            self.clone(),
            Arc::new(Nobody),
            settings,
            Arc::new(Dice::seeded(7)),
        )
    }

    /// Something of one collection changes.
    pub(crate) fn commit(&self) {
        self.0.commit.fetch_add(1, Ordering::Relaxed);
    }

    /// How often a node has been asked for its view.
    pub(crate) fn asked(&self) -> u64 {
        self.0.asked.load(Ordering::Relaxed)
    }

    fn addresses(&self) -> DiscoveryHandle {
        let host = |node| Host::named(Ipv4Addr::from(FIRST_ADDRESS + node).to_string());
        let nodes = (0..u32::try_from(self.0.nodes).unwrap_or(u32::MAX)).map(host).collect();
        let resolver = DnsResolver::system().expect("a resolver, though no name is asked for");
        Sources { nodes, ..Sources::new() }.follow(resolver, Arc::new(Dice::seeded(7)))
    }

    fn peer(&self, address: Address) -> PeerId {
        match address.ip {
            std::net::IpAddr::V4(ip) => peer(u64::from(u32::from(ip) - FIRST_ADDRESS)),
            std::net::IpAddr::V6(_) => 0,
        }
    }

    /// The placement of a collection: its replicas lie anywhere.
    pub(crate) fn collection(&self, name: &str, epoch: Epoch) -> Collection {
        let State { nodes, shards, replicas, .. } = *self.0;
        let dice = Dice::seeded(name.bytes().fold(7, |seed, byte| seed * 31 + u64::from(byte)));
        let shards = (0..shards).map(|id| {
            // Neither step nor number of nodes may have a divisor in common with the other.
            let (first, step) = (dice.throw() % nodes, 1 + dice.throw() % nodes.saturating_sub(1).max(1));
            let mut holders: Vec<u64> = (0..replicas).map(|nth| (first + nth * step) % nodes).collect();
            holders.sort_unstable();
            holders.dedup();
            let replica = |node| Replica { peer: peer(node), state: ReplicaState::Active };
            Shard { id, key: None, replicas: holders.into_iter().map(replica).collect() }
        });
        Collection::new(epoch, shards.collect(), None, 0)
    }
}

const FIRST_ADDRESS: u32 = u32::from_be_bytes([10, 0, 0, 1]);

/// As large as those of Qdrant.
fn peer(node: u64) -> PeerId {
    1_000_000_000_000 + node * 7_919
}

impl ClusterApi for Simulated {
    async fn cluster(&self, address: Address) -> Result<ClusterView, ApiError> {
        self.0.asked.fetch_add(1, Ordering::Relaxed);
        let peers =
            (0..self.0.nodes).map(|node| (peer(node), Some(format!("qdrant-{node}.qdrant-headless"))));
        let kind = ViewKind::Member {
            peer: self.peer(address),
            peers: Arc::new(peers.collect()),
            leader: Some(peer(0)),
            settled: true,
        };
        Ok(ClusterView { kind, epoch: Epoch { term: 1, commit: self.0.commit.load(Ordering::Relaxed) } })
    }

    async fn placement(&self, _: Address, name: &str, epoch: Epoch) -> Result<Option<Collection>, ApiError> {
        Ok(Some(self.collection(name, epoch)))
    }

    async fn version(&self, _: Address) -> Result<Version, ApiError> {
        Ok("1.18.3".parse().expect("a version"))
    }

    async fn aliases(&self, _: Address) -> Result<HashMap<String, String>, ApiError> {
        Ok(HashMap::new())
    }
}

impl Observer for Nobody {
    fn answered(&self, _: Address) {}
    fn failed(&self, _: Address) {}
    fn forgotten(&self, _: Address) {}
}
