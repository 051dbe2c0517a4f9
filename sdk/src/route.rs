//! Where a request goes: a pure decision.
//!
//! [`plan`] has no I/O, no clock and no randomness of its own. It weighs the nodes by the internal RPCs
//! that Qdrant would need if they coordinated the request, then by load, and names the [`Reason`] for
//! its choice. After a failed attempt the same function is asked again, without the nodes tried.

use serde::Serialize;

mod costs;
mod explain;
mod mode;
mod plan;
mod shards;
mod split;

pub(crate) use self::explain::candidates;
pub use self::explain::{Candidate, Explanation, Part};
pub(crate) use self::mode::Way;
pub use self::mode::{Routing, RoutingError};
pub use self::plan::{Conditions, Fitness, Local, Plan, Target, plan};
pub(crate) use self::{
    shards::{depth, settle},
    split::{Split, takers},
};

/// Why a request goes where it goes. Metrics, headers and tests see these names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// A node with a readable replica of every shard asked for.
    ReadableReplica,
    /// The node with readable replicas of the most shards asked for.
    MostReplicas,
    /// The node with the replicas that the client's route affinity selects.
    RouteAffinity,
    /// A holder of the shards written, the same one for every router.
    ReplicaHolder,
    /// The node that leads the shards written.
    ShardLeader,
    /// Several nodes, each with the points of its own shards.
    Split,
    /// Nodes that hold the shards of the points asked for, each asked for those of its own.
    DirectRead,
    /// The consensus leader.
    ConsensusLeader,
    /// Any node: all are equally good for this operation.
    AnyNode,
    /// The node that node-local requests go to.
    StableNode,
    /// The node that the client names.
    PinnedNode,
    /// The node that keeps the snapshot asked for.
    SnapshotHolder,
    /// A node that holds the shard asked for.
    ShardHolder,
    /// All nodes, whose answers make one.
    AllNodes,
    /// Any node: the operation is not known here.
    UnknownOperation,
    /// Any node: the collection is not known.
    UnknownCollection,
    /// Any node: no shard has the key asked for.
    UnknownShardKey,
    /// Any node: the body is not what the path asks for, does not tell the collection, or asks for more than is weighed.
    NotUnderstood,
    /// Any node: none that can be used holds a replica.
    NoReplica,
    /// An address that does not say who it is, because no peer is known.
    UnidentifiedNode,
    /// The ClusterIP Service, because no node can be used.
    Fallback,
    /// The ClusterIP Service, or any node without one: such requests are not routed here.
    NotRouted,
}

// === impl Reason ===

impl Reason {
    /// All reasons.
    pub const ALL: &[Self] = &[
        Self::ReadableReplica,
        Self::MostReplicas,
        Self::RouteAffinity,
        Self::ReplicaHolder,
        Self::ShardLeader,
        Self::Split,
        Self::DirectRead,
        Self::ConsensusLeader,
        Self::AnyNode,
        Self::StableNode,
        Self::PinnedNode,
        Self::SnapshotHolder,
        Self::ShardHolder,
        Self::AllNodes,
        Self::UnknownOperation,
        Self::UnknownCollection,
        Self::UnknownShardKey,
        Self::NotUnderstood,
        Self::NoReplica,
        Self::UnidentifiedNode,
        Self::Fallback,
        Self::NotRouted,
    ];

    /// The name in metrics, headers and `/explain`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadableReplica => "readable_replica",
            Self::MostReplicas => "most_replicas",
            Self::RouteAffinity => "route_affinity",
            Self::ReplicaHolder => "replica_holder",
            Self::ShardLeader => "shard_leader",
            Self::Split => "split",
            Self::DirectRead => "direct_read",
            Self::ConsensusLeader => "consensus_leader",
            Self::AnyNode => "any_node",
            Self::StableNode => "stable_node",
            Self::PinnedNode => "pinned_node",
            Self::SnapshotHolder => "snapshot_holder",
            Self::ShardHolder => "shard_holder",
            Self::AllNodes => "all_nodes",
            Self::UnknownOperation => "unknown_operation",
            Self::UnknownCollection => "unknown_collection",
            Self::UnknownShardKey => "unknown_shard_key",
            Self::NotUnderstood => "not_understood",
            Self::NoReplica => "no_replica",
            Self::UnidentifiedNode => "unidentified_node",
            Self::Fallback => "fallback",
            Self::NotRouted => "not_routed",
        }
    }
}
