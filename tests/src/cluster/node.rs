//! One node, embedded or real, and what the handle knows of it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use super::{ClusterError, HEADLESS};
use crate::embedded::EmbeddedNode;
use crate::real::RealNode;
use crate::{GRPC_PORT, REST_PORT, Rest, lock};

/// A node that does not answer a poll in this time is asked again, within the deadline.
const POLL_TIMEOUT: Duration = Duration::from_secs(5);

/// One node of a [`Cluster`](super::Cluster).
#[derive(Debug)]
pub struct Node {
    pub(super) name: String,
    pub(super) peer_id: u64,
    pub(super) api_key: Option<String>,
    pub(super) place: Mutex<Place>,
    pub(super) backend: Backend,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) ip: IpAddr,
    pub(super) condition: Condition,
}

/// What the handle itself has done to a node, and so what may be asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Up,
    /// Alive and serving, but not to be believed about the cluster.
    Lying,
    /// Alive, but hung, refusing or cut off in mid-answer.
    Silent,
    Down,
}

#[derive(Debug)]
pub(super) enum Backend {
    Embedded(Box<EmbeddedNode>),
    Real(Box<RealNode>),
}

// === impl Condition ===

impl Condition {
    /// Whether its replicas take part.
    pub(super) fn is_serving(self) -> bool {
        matches!(self, Condition::Up | Condition::Lying)
    }
}

// === impl Node ===

impl Node {
    /// The pod's name: `qdrant-0` and so on.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pod's DNS name below the headless Service.
    #[must_use]
    pub fn host(&self) -> String {
        format!("{}.{HEADLESS}", self.name)
    }

    /// Its peer id, by which Qdrant knows it whatever its address.
    #[must_use]
    pub fn peer_id(&self) -> u64 {
        self.peer_id
    }

    /// Its present address.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        lock(&self.place).ip
    }

    /// Where it serves REST.
    #[must_use]
    pub fn rest_addr(&self) -> SocketAddr {
        SocketAddr::new(self.ip(), REST_PORT)
    }

    /// Where it serves gRPC.
    #[must_use]
    pub fn grpc_addr(&self) -> SocketAddr {
        SocketAddr::new(self.ip(), GRPC_PORT)
    }

    /// The base URL of its REST API.
    #[must_use]
    pub fn rest_url(&self) -> String {
        format!("http://{}", self.rest_addr())
    }

    /// The base URL of its gRPC API.
    #[must_use]
    pub fn grpc_url(&self) -> String {
        format!("http://{}", self.grpc_addr())
    }

    /// A REST client of this node at its present address, with the read-write key if there is one.
    #[must_use]
    pub fn rest(&self) -> Rest {
        Rest::new(self.rest_addr(), self.api_key.as_deref())
    }

    /// The embedded node behind it, for faults and lies beyond those of the handle; none for a real server.
    #[must_use]
    pub fn embedded(&self) -> Option<&EmbeddedNode> {
        match &self.backend {
            Backend::Embedded(embedded) => Some(embedded),
            Backend::Real(_) => None,
        }
    }

    /// The real server behind it, if it is one.
    #[must_use]
    pub fn real(&self) -> Option<&RealNode> {
        match &self.backend {
            Backend::Embedded(_) => None,
            Backend::Real(real) => Some(real),
        }
    }

    pub(super) fn poll(&self) -> Rest {
        self.rest().with_timeout(POLL_TIMEOUT)
    }

    pub(super) fn condition(&self) -> Condition {
        lock(&self.place).condition
    }

    pub(super) fn set_condition(&self, condition: Condition) {
        lock(&self.place).condition = condition;
    }

    pub(super) fn failed(&self, action: &'static str, source: io::Error) -> ClusterError {
        ClusterError::Node { node: self.name.clone(), ip: self.ip(), action, source }
    }

    pub(super) fn exited(&self) -> Option<ClusterError> {
        let real = self.real()?;
        let status = real.exited().ok()??;
        Some(ClusterError::Exited { node: self.name.clone(), status, log: real.log_tail() })
    }

    pub(super) fn log(&self) -> Option<String> {
        self.real().map(|real| format!("\n--- {} ---\n{}", self.name, real.log_tail()))
    }
}
