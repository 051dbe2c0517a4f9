//! What the cluster looks like: nodes, collections, shards and replicas.
//!
//! One worker asks the nodes that [discovery](crate::discovery) names for their own
//! `GET /cluster`, decides which of them form the cluster, and publishes an immutable [`Topology`].
//! Requests read one snapshot from start to end and never wait for a refresh; the one exception is
//! the first request for a collection, which waits, for a bounded time, until its placement is known.
//!
//! A view is ordered by its [`Epoch`], Raft's `(term, commit)`. Everything that matters for routing
//! changes on Qdrant through consensus alone, so nothing is fetched again while the epoch stands still.

mod api;
mod collection;
mod fetch;
mod leader;
mod membership;
mod point;
mod readers;
mod replica;
mod ring;
mod siphash;
mod snapshot;
mod version;
pub(crate) mod worker;

pub(crate) use self::{
    api::chain,
    readers::{Readable, Readers},
    snapshot::Known,
};
pub use crate::discovery::Address;

pub use self::{
    api::{ApiError, ClusterApi, ClusterView, HttpApi, ViewKind},
    collection::{Collection, KeyGroup, Resharding, ReshardingDirection, Shard, ShardKey},
    leader::{WriteOrdering, leader},
    point::PointId,
    replica::{Replica, ReplicaState},
    ring::HashRing,
    snapshot::{Change, Lookup, Node, Topology},
    version::{Hashing, Version, VersionError},
    worker::{Observer, Problem, Settings, TopologyHandle},
};

/// Identifies a Qdrant process for as long as it keeps its volume.
pub type PeerId = u64;

/// Identifies a shard within its collection.
pub type ShardId = u32;

/// The age of a view: Raft's term and commit index.
///
/// A later epoch may have changed the topology; the same epoch has not. `commit` is known to a peer
/// before its entries are applied, so a view counts only when the peer has nothing left to apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Epoch {
    /// Rises with every election.
    pub term: u64,
    /// Rises with every committed entry.
    pub commit: u64,
}

impl std::fmt::Display for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.term, self.commit)
    }
}
