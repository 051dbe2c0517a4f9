//! Sends every Qdrant request straight to the node that holds its data.
//!
//! A Qdrant cluster answers any request on any node: the receiving node forwards it to the nodes that
//! hold the shards. Behind one Kubernetes Service most requests therefore land on a wrong node and pay
//! an internal hop, one gRPC connection sticks to one pod, and one dead pod costs a share of all
//! requests. This crate knows where the shards are and sends each request there.
//!
//! ```text
//! request ─► what does it ask? ─► where does that live? ─► who of those is best now? ─► send ─► reply
//!             request              topology                 balance                      dispatch
//! ```
//!
//! * [`Router`] is a Tower service for `http::Request`s of either protocol.
//! * [`Qdrant`] has the methods of `qdrant_client::Qdrant` on top of it.

mod aside;
mod balance;
mod client;
mod connect;
pub mod dice;
pub mod discovery;
mod dispatch;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
pub mod request;
pub mod route;
mod service;
#[cfg(test)]
mod simulation;
mod task;
pub mod topology;
mod transport;

/// The README's code, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// The code of the SDK guide, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/sdk.md")]
struct SdkGuide;

pub use self::{
    balance::{Balance, Latencies, Traffic},
    client::{Progress, Qdrant, QdrantBuilder},
    connect::{Tls, TlsError, TlsIdentity, TlsOptions},
    dispatch::{
        AttemptEnd, AttemptObserver, AttemptOutcome, AttemptStart, ObserveAttempts, RetryWrites,
        RetryWritesError, Sending,
    },
    route::{Routing, RoutingError},
    service::{BuildError, ExplainError, Question, ResponseBody, Routed, Router, RouterBuilder},
    transport::{BrokenAnswer, Connections},
};
