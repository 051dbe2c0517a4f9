//! What kind of cluster to start, and how its nodes come to be.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::node::{Backend, Condition, Place};
use super::{Cluster, ClusterError, HEADLESS, Node, QDRANT_BIN, SERVICE};
use crate::balancer::mix;
use crate::embedded::{Consensus, DEFAULT_VERSION, EmbeddedNode, NodeOptions};
use crate::real::{RealNode, RealOptions};
use crate::{Balancer, Block, DnsServer, GRPC_PORT, P2P_PORT, REST_PORT};

/// Three real servers on two busy cores are up in a fraction of it. It bounds a hang, it does not judge speed.
const DEADLINE: Duration = Duration::from_secs(90);

/// Peer ids are at most 53 bits wide, so that JavaScript can read them.
const PEER_ID_MASK: u64 = (1 << 53) - 1;

/// What kind of cluster to start. The default is three nodes at claimed addresses, without keys.
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    nodes: usize,
    fixed_addresses: bool,
    pub(super) standalone: bool,
    pub(super) api_key: Option<String>,
    pub(super) read_only_api_key: Option<String>,
    pub(super) binary: Option<PathBuf>,
    version: Option<String>,
    seed: u64,
    pub(super) deadline: Duration,
}

// === impl ClusterBuilder ===

impl Default for ClusterBuilder {
    fn default() -> Self {
        ClusterBuilder {
            nodes: 3,
            fixed_addresses: false,
            standalone: false,
            api_key: None,
            read_only_api_key: None,
            binary: std::env::var_os(QDRANT_BIN).filter(|path| !path.is_empty()).map(absolute),
            version: None,
            seed: 1,
            deadline: DEADLINE,
        }
    }
}

impl ClusterBuilder {
    /// How many nodes to start.
    #[must_use]
    pub fn nodes(mut self, count: usize) -> Self {
        self.nodes = count;
        self
    }

    /// Whether to use 127.0.0.11, 127.0.0.12 and so on, as the documentation does, instead of claiming a free block.
    /// Only one such cluster can run on a machine.
    #[must_use]
    pub fn fixed_addresses(mut self, fixed: bool) -> Self {
        self.fixed_addresses = fixed;
        self
    }

    /// One node without distributed mode, for which `GET /cluster` answers `disabled`.
    #[must_use]
    pub fn standalone(mut self) -> Self {
        self.nodes = 1;
        self.standalone = true;
        self
    }

    /// The read-write key every request must carry. The handle itself uses it too.
    #[must_use]
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// A key that may only read.
    #[must_use]
    pub fn read_only_api_key(mut self, key: impl Into<String>) -> Self {
        self.read_only_api_key = Some(key.into());
        self
    }

    /// Embedded nodes, even where `QDRANT_BIN` is set: for faults that no real server can be made to show.
    #[must_use]
    pub fn embedded(mut self) -> Self {
        self.binary = None;
        self
    }

    /// Real servers of this binary, whatever `QDRANT_BIN` says.
    #[must_use]
    pub fn real(mut self, binary: impl Into<PathBuf>) -> Self {
        self.binary = Some(absolute(binary.into().into()));
        self
    }

    /// The version that embedded nodes show, and in what matters to routing have, instead of 1.18.3. For mixed versions
    /// see [`Cluster::set_version`].
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// What decides the balancer's choices.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How long any state may be waited for: readiness, settling.
    #[must_use]
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = limit;
        self
    }

    /// Starts the nodes, DNS and the balancer, and returns when the cluster is ready.
    ///
    /// # Errors
    ///
    /// When addresses or ports are taken, a real server should be of another version, a node does not come up, or the nodes do not find each other in time.
    pub async fn start(self) -> Result<Cluster, ClusterError> {
        if self.binary.is_some() && self.version.is_some() {
            return Err(ClusterError::Unsupported { fault: "be of another version" });
        }
        let block = if self.fixed_addresses { Block::fixed() } else { Block::claim() };
        let block = block.map_err(|source| ClusterError::Addresses { source })?;
        let dns = DnsServer::start(block.dns()).await.map_err(|source| ClusterError::Listen {
            what: "DNS",
            ip: block.dns(),
            source,
        })?;
        let balancer = Balancer::start(block.balancer(), self.seed)
            .await
            .map_err(|source| ClusterError::Listen { what: "the balancer", ip: block.balancer(), source })?;
        dns.set(SERVICE, vec![balancer.ip()]);
        let count = self.nodes;
        let mut cluster = Cluster {
            options: self,
            consensus: Consensus::new(),
            nodes: Vec::with_capacity(count),
            moves: AtomicUsize::new(0),
            balancer,
            dns,
            block,
        };
        for _ in 0..count {
            cluster.join().await?;
        }
        cluster.wait_ready().await?;
        Ok(cluster)
    }
}

/// A server runs in a directory of its own, where a relative path would mean something else.
fn absolute(path: OsString) -> PathBuf {
    let path = PathBuf::from(path);
    std::path::absolute(&path).unwrap_or(path)
}

// === impl Cluster ===

impl Cluster {
    /// Starts the next node and waits until the others know it: Raft takes one change of membership at a time, and
    /// drops the second of two at once.
    pub(super) async fn join(&mut self) -> Result<(), ClusterError> {
        let index = self.nodes.len();
        let node = self.launch(index, self.block.node(index), 0).await?;
        self.publish(&node);
        self.nodes.push(node);
        self.wait("joined by the new node", Cluster::missing_for_joined).await
    }

    /// Has node `i` lose its storage: the same pod at the same address comes back as a new peer without any data. The
    /// others keep the peer that it was until somebody removes that.
    ///
    /// # Errors
    ///
    /// When it does not come up or is not accepted in time.
    pub async fn lose_volume(&mut self, i: usize) -> Result<&Node, ClusterError> {
        self.kill(i).await?;
        let lives = self.moves.fetch_add(1, Ordering::Relaxed) + 1;
        self.nodes[i] = self.launch(i, self.node(i).ip(), lives).await?;
        self.wait("joined by the node without its volume", Cluster::missing_for_joined).await?;
        Ok(&self.nodes[i])
    }

    /// Starts a new peer as node `index`, and returns when it answers. `lives` tells it from those that were node
    /// `index` before.
    async fn launch(&self, index: usize, ip: IpAddr, lives: usize) -> Result<Node, ClusterError> {
        let options = &self.options;
        let name = format!("qdrant-{index}");
        // Ids without order: nothing may work only because peers happen to be numbered as they were started.
        let number = index as u64 + 1 + 1000 * lives as u64;
        let peer_id = (mix(number ^ options.seed.rotate_left(32)) & PEER_ID_MASK).max(1);
        let member = self.nodes.iter().find(|node| node.ip() != ip && node.condition() == Condition::Up);
        let started = match &options.binary {
            Some(binary) => RealNode::start(RealOptions {
                binary: binary.clone(),
                ip,
                peer_id,
                bootstrap: member.map(Node::ip),
                api_key: options.api_key.clone(),
                read_only_api_key: options.read_only_api_key.clone(),
                cluster_enabled: !options.standalone,
            })
            .map(|node| Backend::Real(Box::new(node))),
            None => {
                let options = NodeOptions {
                    ip,
                    rest_port: REST_PORT,
                    grpc_port: GRPC_PORT,
                    p2p_port: P2P_PORT,
                    peer_id,
                    uri_host: format!("{name}.qdrant-headless"),
                    api_key: options.api_key.clone(),
                    read_only_api_key: options.read_only_api_key.clone(),
                    cluster_enabled: !options.standalone,
                    version: options.version.clone().unwrap_or_else(|| DEFAULT_VERSION.to_owned()),
                };
                let node = EmbeddedNode::start(options, Arc::clone(&self.consensus)).await;
                node.map(|node| Backend::Embedded(Box::new(node)))
            }
        };
        let backend = started.map_err(|source| ClusterError::Node {
            node: name.clone(),
            ip,
            action: "start",
            source,
        })?;
        let place = Mutex::new(Place { ip, condition: Condition::Down });
        let mut node = Node { name, peer_id, api_key: options.api_key.clone(), place, backend };
        self.wait_answering(&node).await?;
        if !self.options.standalone {
            // An older server has chosen a peer id itself.
            let answer = node.rest().get("/cluster").await?;
            node.peer_id = answer["result"]["peer_id"].as_u64().unwrap_or(node.peer_id);
        }
        Ok(node)
    }

    /// Adds a new node to every name it belongs to.
    fn publish(&self, node: &Node) {
        let mut listed = self.dns.get(HEADLESS);
        listed.push(node.ip());
        self.dns.set(HEADLESS, listed);
        self.dns.set(&node.host(), vec![node.ip()]);
        let hosts: Vec<String> = self.nodes.iter().chain([node]).map(Node::host).collect();
        for (service, port) in [("http", REST_PORT), ("grpc", GRPC_PORT), ("p2p", P2P_PORT)] {
            let targets: Vec<(&str, u16)> = hosts.iter().map(|host| (host.as_str(), port)).collect();
            self.dns.set_srv(&format!("_{service}._tcp.{HEADLESS}"), &targets);
        }
        self.balancer.add(node.ip());
    }
}
