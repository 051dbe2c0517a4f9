//! `testkit`: a small Kubernetes around a small Qdrant, on loopback.
//!
//! A router cannot be tested against one server on `localhost`. What it decides depends on several nodes with their own
//! addresses and the usual ports, on a name that resolves to them, on a Service address that spreads connections over
//! them, and above all on what happens when one of these stops working. The kit builds that in one process:
//!
//! * [`Cluster`] is the handle a suite holds. It starts the nodes, gives each its own address of a claimed
//!   [`Block`], breaks them on request, and counts the RPCs they exchanged;
//! * [`embedded`] is a Qdrant-like node that lives in the test process; [`real`] starts a server binary instead when
//!   the environment variable `QDRANT_BIN` names one. The same suites run on both, and the real one is the judge;
//! * [`DnsServer`] plays CoreDNS: a headless name, one name per pod, the Service name, and every way to fail;
//! * [`Balancer`] plays kube-proxy behind the ClusterIP: one random backend per connection, dead ones included;
//! * [`Front`] stands before a node and has its answers come late, or encrypted with certificates of an [`Authority`];
//! * [`Telemetry`] turns `GET /telemetry` into the two numbers that matter: internal RPCs and public calls;
//! * [`Rest`] is the JSON client with which suites prepare and inspect collections.
//!
//! ```no_run
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! use serde_json::json;
//!
//! let cluster = testkit::Cluster::builder().nodes(3).start().await?;
//! let rest = cluster.rest(0);
//! rest.put("/collections/demo", json!({ "vectors": { "size": 4, "distance": "Dot" }, "shard_number": 6 })).await?;
//! cluster.settled().await?;
//!
//! let before = cluster.internal_rpcs().await?;
//! // … send requests through what is under test …
//! let hops = cluster.internal_rpcs().await? - before;
//! # let _ = hops;
//!
//! cluster.kill(1).await?;
//! // … the name and the Service still list the dead node, as they do in a cluster …
//! # Ok(())
//! # }
//! ```
//!
//! The kit speaks only the wire. It never imports the SDK, so that it cannot agree with a mistake made there.
//!
//! Linux answers on all of 127.0.0.0/8. Other systems need the addresses added to the loopback interface first.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub mod address;
pub mod authority;
pub mod balancer;
pub mod cluster;
pub mod dns;
pub mod embedded;
pub mod front;
pub mod real;
pub mod rest;
pub mod telemetry;

pub use address::Block;
pub use authority::{Authority, Issued, Validity};
pub use balancer::Balancer;
pub use cluster::{Cluster, ClusterBuilder, ClusterError, Node};
pub use dns::{DnsMode, DnsServer};
pub use embedded::{Canned, Consensus, EmbeddedNode, Fault, Lie, NodeOptions, token};
pub use front::Front;
pub use rest::{Rest, RestError};
pub use telemetry::Telemetry;

/// The port of Qdrant's REST API.
pub const REST_PORT: u16 = 6333;
/// The port of Qdrant's gRPC API.
pub const GRPC_PORT: u16 = 6334;
/// The port on which Qdrant's peers talk to each other.
pub const P2P_PORT: u16 = 6335;

/// Locks, ignoring poison: a test that panicked while holding the lock has failed already, and the state behind these
/// locks is whole between any two statements. A second panic during clean-up would only hide the first.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
