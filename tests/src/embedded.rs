//! A cluster of Qdrant-like nodes inside the test process.
//!
//! Each node has its own loopback address and Qdrant's three ports, and looks to any client like Qdrant in
//! cluster mode, 1.18.3 unless another version is asked for: it answers on either protocol, splits and forwards what it does not hold, and replicates writes. What
//! routing is measured by is real: nodes reach each other over TCP, every forwarded operation is one request there, and the
//! receiving node counts it in `/telemetry` under Qdrant's name for it.
//!
//! What is not real: points live in memory and search is exact; consensus is one lock shared by the nodes, so no node ever
//! lags; and transfers copy from memory to memory. What Qdrant can do and this cannot is answered with 501 or
//! `UNIMPLEMENTED`, never with a guess. Above all that is:
//!
//! * sparse and multi-vectors, inference, `order_by`, groups, recommendation, discovery, the distance matrix, and queries
//!   other than for the nearest points and for their fusion by rank;
//! * snapshots that travel: upload, recovery from another server, of one shard or of a collection that is gone, streamed
//!   and partial snapshots;
//! * metrics, issues, logs and profiles, metadata keys, and what a node is asked to tell of its peers.
//!
//! A node can be killed, restarted elsewhere, frozen, slowed down, cut off in mid-answer and made to refuse ([`Fault`]), to
//! answer with errors ([`Canned`]) and to lie about the cluster ([`Lie`]): see [`EmbeddedNode`].

mod affinity;
mod auth;
mod canned;
mod clock;
mod consensus;
mod cut;
mod distance;
mod engine;
mod error;
mod fault;
mod filter;
mod grpc;
mod lie;
mod life;
mod listen;
mod misconduct;
mod model;
mod node;
mod peer_rpc;
mod rest;
mod ring;
mod shard;
mod streams;
mod telemetry;
mod version;

pub use self::auth::token;
pub use self::canned::Canned;
pub use self::consensus::{Consensus, Refused, ReplicaState, ReshardingDirection};
pub use self::fault::Fault;
pub use self::lie::Lie;
pub use self::node::{EmbeddedNode, NodeOptions};
pub use self::version::DEFAULT_VERSION;

#[cfg(test)]
mod tests;
