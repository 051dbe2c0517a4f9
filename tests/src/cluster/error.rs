//! What can go wrong with a cluster, said so that the reader knows where to look.

use std::io;
use std::net::IpAddr;
use std::process::ExitStatus;
use std::time::Duration;

use crate::RestError;

/// Why a cluster did not do what it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// No addresses for the cluster.
    #[error(
        "no block of loopback addresses: {source}; check that all of 127.0.0.0/8 is usable, and that no other cluster \
         with fixed addresses runs"
    )]
    Addresses {
        /// What the system says.
        source: io::Error,
    },
    /// DNS or the balancer could not listen.
    #[error("{what} cannot listen at {ip}: {source}; check what else uses this address")]
    Listen {
        /// Which of the two.
        what: &'static str,
        /// Where.
        ip: IpAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A node could not be started, restarted or signalled.
    #[error(
        "{node}: {action} failed: {source}; check that ports 6333 to 6335 of {ip} are free and QDRANT_BIN is right"
    )]
    Node {
        /// The node's name.
        node: String,
        /// Its address.
        ip: IpAddr,
        /// What was attempted.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// A server ended by itself.
    #[error("{node} ended with {status}; its log ends:\n{log}")]
    Exited {
        /// The node's name.
        node: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// A state that was waited for did not come.
    #[error("not {what} within {waited:?}: {detail}{log}")]
    Deadline {
        /// The state.
        what: &'static str,
        /// How long was waited.
        waited: Duration,
        /// What was missing when last looked at.
        detail: String,
        /// The last lines of the nodes' logs, where there are any.
        log: String,
    },
    /// A fault that only embedded nodes can show.
    #[error("a real server cannot be made to {fault}; build the cluster of this test with `.embedded()`")]
    Unsupported {
        /// The fault.
        fault: &'static str,
    },
    /// A node did not answer a request of the handle.
    #[error(transparent)]
    Rest(#[from] RestError),
}
