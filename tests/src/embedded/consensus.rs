//! The metadata that all nodes of one embedded cluster agree on.
//!
//! One lock stands in for the Raft log: a change applies to every node at once and moves `commit` by one, so nothing is
//! ever pending. Leadership, terms and the need for a majority are kept, because clients can see them: a killed leader is
//! replaced under a new term, and without a majority changes are refused while points stay readable and writable.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

mod change;
mod collection;
mod placement;
mod schema;
mod transfer;

pub(crate) use self::change::{AliasAction, NewCollection};
pub(crate) use self::collection::{CollectionMeta, ReshardingMeta, ShardMeta, Transfer};
pub(crate) use self::schema::Schema;

pub use self::collection::{ReplicaState, ReshardingDirection};

use super::error::{OpError, OpResult};
use super::shard::Storage;
use super::version::Version;

/// Consensus shared by the nodes of one embedded cluster.
#[derive(Debug, Default)]
pub struct Consensus {
    state: RwLock<State>,
}

/// Why a change asked for by a test was refused.
#[derive(Clone, Debug)]
pub struct Refused(String);

/// What the log has led to.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) term: u64,
    pub(crate) commit: u64,
    /// Zero while no majority is alive.
    pub(crate) leader: u64,
    pub(crate) peers: BTreeMap<u64, Peer>,
    pub(crate) collections: BTreeMap<String, Arc<CollectionMeta>>,
    pub(crate) aliases: BTreeMap<String, String>,
    /// Replicas whose state a test has set: they stay as they are, where a node would otherwise heal them.
    held: BTreeSet<(u64, u32, u64)>,
    next_uid: u64,
}

/// A member of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) uri: String,
    pub(crate) address: SocketAddr,
    pub(crate) storage: Arc<Storage>,
    pub(crate) version: Version,
    /// Whether it takes part in elections and transfers.
    pub(crate) alive: bool,
}

// === impl Refused ===

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Refused {}

impl From<OpError> for Refused {
    fn from(error: OpError) -> Self {
        Self(error.to_string())
    }
}

// === impl Consensus ===

impl Consensus {
    /// An empty cluster; nodes join when they start.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The position all nodes are at: term and commit.
    pub fn epoch(&self) -> (u64, u64) {
        self.view(|state| (state.term, state.commit))
    }

    /// The peer id of the leader, if a majority is alive.
    pub fn leader(&self) -> Option<u64> {
        self.view(|state| Some(state.leader).filter(|leader| *leader != 0))
    }

    /// The replicas of a collection: shard id to peer id to state. Aliases resolve.
    pub fn replicas(&self, collection: &str) -> Option<HashMap<u32, HashMap<u64, ReplicaState>>> {
        let meta = self.collection(collection).ok()?;
        Some(
            meta.shards
                .iter()
                .map(|(id, shard)| (*id, shard.replicas.clone().into_iter().collect()))
                .collect(),
        )
    }

    /// Sets the state of one replica, as a committed entry would. The replica keeps it, unhealed, until it is set to
    /// `Active` again.
    pub fn set_replica_state(
        &self,
        collection: &str,
        shard: u32,
        peer: u64,
        to: ReplicaState,
    ) -> Result<(), Refused> {
        self.force(|state| {
            state.set_replica_state(collection, shard, peer, to)?;
            let replica = (state.collection(collection)?.uid, shard, peer);
            if to == ReplicaState::Active {
                state.held.remove(&replica)
            } else {
                state.held.insert(replica)
            };
            Ok(())
        })?;
        Ok(())
    }

    /// Removes a peer and its replicas. The node itself keeps running and is no longer listed.
    pub fn remove_peer(&self, peer: u64) -> Result<(), Refused> {
        self.force(|state| state.remove_peer(peer))?;
        Ok(())
    }

    pub(crate) fn view<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Applies a change and moves the commit; a refused change leaves no trace.
    pub(crate) fn force<T>(&self, change: impl FnOnce(&mut State) -> OpResult<T>) -> OpResult<T> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let done = change(&mut state)?;
        state.commit += 1;
        Ok(done)
    }

    /// As [`Self::force`], for what a node asks on behalf of a client: needs a leader.
    pub(crate) fn propose<T>(&self, change: impl FnOnce(&mut State) -> OpResult<T>) -> OpResult<T> {
        if self.view(|state| state.leader == 0) {
            return Err(OpError::service(
                "Failed to propose operation: leader is not established within 10 secs",
            ));
        }
        self.force(change)
    }

    /// Finds a collection by its name or an alias of it.
    pub(crate) fn collection(&self, name: &str) -> OpResult<Arc<CollectionMeta>> {
        self.view(|state| state.collection(name))
    }

    /// Adds a peer, or notes its new address.
    pub(crate) fn join(
        &self,
        id: u64,
        uri: String,
        address: SocketAddr,
        storage: &Arc<Storage>,
        version: &Version,
    ) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let known = state.peers.get(&id).is_some_and(|peer| peer.uri == uri && peer.address == address);
        state.peers.insert(
            id,
            Peer { uri, address, storage: Arc::clone(storage), version: version.clone(), alive: true },
        );
        if !known {
            state.commit += 1;
        }
        state.elect();
    }

    /// Notes that a peer stopped, or resumed, taking part; elects when that matters.
    pub(crate) fn set_alive(&self, id: u64, alive: bool) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = state.peers.get_mut(&id) {
            peer.alive = alive;
        }
        if !alive {
            state.abort_transfers_of(id);
        }
        state.elect();
    }
}

// === impl State ===

impl State {
    /// Keeps a living leader; replaces a dead one under a new term; has none without a majority.
    fn elect(&mut self) {
        let alive = self.peers.values().filter(|peer| peer.alive).count();
        if alive * 2 <= self.peers.len() {
            self.leader = 0;
        } else if !self.peers.get(&self.leader).is_some_and(|peer| peer.alive) {
            // The next living id behind the old leader, so that leadership does not stick to the lowest one.
            let next =
                self.peers.range(self.leader.saturating_add(1)..).chain(self.peers.range(..=self.leader));
            self.leader = next.filter(|(_, peer)| peer.alive).map(|(id, _)| *id).next().unwrap_or(0);
            self.term += 1;
            self.commit += 1;
        }
    }

    /// Alias table first, then the literal name.
    pub(crate) fn collection(&self, name: &str) -> OpResult<Arc<CollectionMeta>> {
        let real = self.aliases.get(name).map_or(name, String::as_str);
        self.collections.get(real).cloned().ok_or_else(|| OpError::no_collection(name))
    }
}
