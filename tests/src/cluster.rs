//! The handle of a running cluster: its nodes, its names, its faults and its counters.
//!
//! [`Cluster::builder`] starts embedded nodes or, where `QDRANT_BIN` names a server binary, real ones; a suite does not
//! have to know which. Every fault is one call. What Kubernetes would do in consequence is *not* done by these calls: a
//! killed node stays in DNS, because the headless Service publishes addresses that are not ready, and behind the
//! balancer until [`Balancer::remove`], because readiness takes time to fail. Only
//! [`Cluster::restart_at_new_address`] and [`Cluster::add_node`] update both, since a pod that moves is a new pod.
//!
//! Waiting means polling the very state that is waited for, at a short interval and against a deadline whose error
//! tells what was still missing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use self::node::Condition;
use crate::embedded::Consensus;
use crate::{Balancer, Block, DnsServer, Rest, Telemetry};

mod builder;
mod error;
mod faults;
mod node;
mod settle;

pub use self::builder::ClusterBuilder;
pub use self::error::ClusterError;
pub use self::node::Node;

/// The environment variable that names a server binary.
pub const QDRANT_BIN: &str = "QDRANT_BIN";

const HEADLESS: &str = "qdrant-headless.demo.svc.cluster.local.";
const SERVICE: &str = "qdrant.demo.svc.cluster.local.";

/// A running cluster with its DNS server and its balancer. Dropping it ends everything.
#[derive(Debug)]
pub struct Cluster {
    options: ClusterBuilder,
    consensus: Arc<Consensus>,
    nodes: Vec<Node>,
    moves: AtomicUsize,
    balancer: Balancer,
    dns: DnsServer,
    // Last: the claim on the addresses ends after everything that uses them.
    block: Block,
}

// === impl Cluster ===

impl Cluster {
    /// Describes a cluster to start.
    #[must_use]
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::default()
    }

    /// Whether the nodes are real servers.
    #[must_use]
    pub fn is_real(&self) -> bool {
        self.options.binary.is_some()
    }

    /// All nodes, in the order in which they were started.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Node `i`.
    ///
    /// # Panics
    ///
    /// As every method that takes the number of a node: when there is no such node.
    #[must_use]
    pub fn node(&self, i: usize) -> &Node {
        &self.nodes[i]
    }

    /// The node with this peer id.
    #[must_use]
    pub fn node_by_peer_id(&self, peer_id: u64) -> Option<&Node> {
        self.nodes.iter().find(|node| node.peer_id == peer_id)
    }

    /// A REST client of node `i`, with the read-write key if there is one.
    #[must_use]
    pub fn rest(&self, i: usize) -> Rest {
        self.node(i).rest()
    }

    /// A REST client of any address, such as the balancer's or a proxy's, with the same key.
    #[must_use]
    pub fn rest_at(&self, addr: SocketAddr) -> Rest {
        Rest::new(addr, self.options.api_key.as_deref())
    }

    /// The read-write key.
    #[must_use]
    pub fn api_key(&self) -> Option<&str> {
        self.options.api_key.as_deref()
    }

    /// The read-only key.
    #[must_use]
    pub fn read_only_api_key(&self) -> Option<&str> {
        self.options.read_only_api_key.as_deref()
    }

    /// The DNS server that knows the cluster's names.
    #[must_use]
    pub fn dns(&self) -> &DnsServer {
        &self.dns
    }

    /// What listens at the Service's address.
    #[must_use]
    pub fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    /// The addresses of this cluster, among them one for a proxy under test.
    #[must_use]
    pub fn block(&self) -> &Block {
        &self.block
    }

    /// The headless Service: one address per node, dead or alive.
    #[must_use]
    pub fn headless_name(&self) -> &'static str {
        HEADLESS
    }

    /// The ClusterIP Service: the address of the balancer.
    #[must_use]
    pub fn service_name(&self) -> &'static str {
        SERVICE
    }
}

// === impl Cluster: counters ===

impl Cluster {
    /// Internal calls that carried a client's data, completed by all nodes since they started. Nodes that are down or
    /// hung cannot be asked and count as zero, and a restarted real server begins again: compare readings between
    /// which no node was restarted, and write once before the first of them: [`crate::telemetry`] says why.
    ///
    /// # Errors
    ///
    /// When a node that should answer does not.
    pub async fn internal_rpcs(&self) -> Result<u64, ClusterError> {
        Ok(self.rpcs_by_node().await?.into_iter().sum())
    }

    /// The same by receiving node.
    ///
    /// # Errors
    ///
    /// As [`Cluster::internal_rpcs`].
    pub async fn rpcs_by_node(&self) -> Result<Vec<u64>, ClusterError> {
        Ok(self.telemetry().await?.iter().map(Telemetry::internal_rpcs).collect())
    }

    /// Public requests about points that each node has served, over REST and gRPC.
    ///
    /// # Errors
    ///
    /// As [`Cluster::internal_rpcs`].
    pub async fn public_calls_by_node(&self) -> Result<Vec<u64>, ClusterError> {
        Ok(self.telemetry().await?.iter().map(Telemetry::public_calls).collect())
    }

    /// What every node has counted, zeros for those that cannot be asked.
    ///
    /// # Errors
    ///
    /// As [`Cluster::internal_rpcs`].
    pub async fn telemetry(&self) -> Result<Vec<Telemetry>, ClusterError> {
        let mut all = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            all.push(match node.condition() {
                Condition::Up | Condition::Lying => Telemetry::fetch(&node.rest()).await?,
                Condition::Silent | Condition::Down => Telemetry::default(),
            });
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests;
