//! `qdrant-router serve`

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use qdrant_router::{
    BuildError, Router, TlsOptions,
    topology::{ApiError, Problem},
};
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

use crate::lifecycle::{self, Listeners};

/// How long the first survey of the nodes may take before its outcome is reported.
const FIRST_SURVEY: Duration = Duration::from_secs(5);

/// Serve REST and gRPC clients and route their requests.
#[derive(Args, Clone, Debug)]
pub struct Serve {
    /// Headless Service to resolve: NAME[:REST[:GRPC]]
    #[arg(long, value_name = "NAME", env = "QDRANT_ROUTER_HEADLESS")]
    headless: Option<String>,

    /// A fixed node, instead of or beside --headless; repeatable
    #[arg(
        long = "node",
        value_name = "HOST[:REST[:GRPC]]",
        env = "QDRANT_ROUTER_NODE",
        value_delimiter = ','
    )]
    nodes: Vec<String>,

    /// ClusterIP Service, used when no node can be
    #[arg(long, value_name = "HOST[:REST[:GRPC]]", env = "QDRANT_ROUTER_FALLBACK", value_delimiter = ',')]
    fallback: Vec<String>,

    /// Fill in the names of a known deployment: kubeblocks:CLUSTER[.NAMESPACE] or helm:RELEASE[.NAMESPACE]
    #[arg(long, value_name = "PRESET", env = "QDRANT_ROUTER_PRESET")]
    preset: Option<String>,

    /// The nodes' REST port
    #[arg(long, value_name = "PORT", env = "QDRANT_ROUTER_UPSTREAM_REST_PORT", default_value_t = 6333, value_parser = clap::value_parser!(u16).range(1..))]
    upstream_rest_port: u16,

    /// The nodes' gRPC port
    #[arg(long, value_name = "PORT", env = "QDRANT_ROUTER_UPSTREAM_GRPC_PORT", default_value_t = 6334, value_parser = clap::value_parser!(u16).range(1..))]
    upstream_grpc_port: u16,

    /// DNS resolver to ask [default: the system's]
    #[arg(long, value_name = "IP:PORT", env = "QDRANT_ROUTER_DNS")]
    dns: Option<SocketAddr>,

    /// Where REST clients connect
    #[arg(long, value_name = "IP:PORT", env = "QDRANT_ROUTER_LISTEN_REST", default_value = "0.0.0.0:6333")]
    listen_rest: SocketAddr,

    /// Where gRPC clients connect
    #[arg(long, value_name = "IP:PORT", env = "QDRANT_ROUTER_LISTEN_GRPC", default_value = "0.0.0.0:6334")]
    listen_grpc: SocketAddr,

    /// The admin port: health, metrics, topology
    #[arg(
        long,
        value_name = "IP:PORT",
        env = "QDRANT_ROUTER_LISTEN_ADMIN",
        default_value = "127.0.0.1:9633"
    )]
    listen_admin: SocketAddr,

    /// File with the router's own API key, which reads the topology and nothing else; a read-only key is enough
    #[arg(long, value_name = "FILE", env = "QDRANT_ROUTER_API_KEY_FILE")]
    api_key_file: Option<PathBuf>,

    /// Speak TLS to the nodes
    #[arg(long, env = "QDRANT_ROUTER_UPSTREAM_TLS")]
    upstream_tls: bool,

    /// CA certificates to trust for the nodes, in PEM [default: the system's]
    #[arg(long, value_name = "FILE", env = "QDRANT_ROUTER_UPSTREAM_CA_FILE", requires = "upstream_tls")]
    upstream_ca_file: Option<PathBuf>,

    /// Name that the nodes' certificates are checked against [default: the headless Service]
    #[arg(long, value_name = "NAME", env = "QDRANT_ROUTER_UPSTREAM_SERVER_NAME", requires = "upstream_tls")]
    upstream_server_name: Option<String>,
}

/// `serve` ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The configuration cannot work.
    #[error("{0}")]
    Build(#[from] BuildError),
    /// A file that the configuration names cannot be read.
    #[error("{flag} {path}: {error}; check that the file exists and that this user may read it")]
    File {
        /// The flag that names it.
        flag: &'static str,
        /// Its path.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// The key file holds no key.
    #[error("--api-key-file {0}: the file is empty; it should hold the API key and nothing else")]
    EmptyKey(String),
    /// An address cannot be listened on.
    #[error(
        "{flag} {address}: {error}; another process may use the port (see `ss -ltnp`), or the address is not this host's"
    )]
    Listen {
        /// The flag that names it.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// No node accepts the router's key, and there is no fallback.
    #[error("{0}")]
    Refused(ApiError),
    /// The system failed.
    #[error("{0}")]
    System(#[from] io::Error),
}

// === impl ServeError ===

impl ServeError {
    /// Whether starting again without a change would end the same way.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Build(_)
            | Self::File { .. }
            | Self::EmptyKey(_)
            | Self::Listen { .. }
            | Self::Refused(_) => true,
            Self::System(_) => false,
        }
    }
}

// === impl Serve ===

impl Serve {
    pub(super) fn run(self) -> Result<(), ServeError> {
        let filter = EnvFilter::try_from_env("QDRANT_ROUTER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> Result<(), ServeError> {
        let listeners = self.listen().await?;
        let router = self.router()?;
        let surveyed = report_survey(router.clone());
        lifecycle::serve(router, listeners, surveyed).await
    }

    async fn listen(&self) -> Result<Listeners, ServeError> {
        let bind = async |flag, address: SocketAddr| {
            TcpListener::bind(address).await.map_err(|error| ServeError::Listen { flag, address, error })
        };
        Ok(Listeners {
            rest: bind("--listen-rest", self.listen_rest).await?,
            grpc: bind("--listen-grpc", self.listen_grpc).await?,
            admin: bind("--listen-admin", self.listen_admin).await?,
        })
    }

    fn router(&self) -> Result<Router, ServeError> {
        let mut router = Router::builder()
            .upstream_rest_port(self.upstream_rest_port)
            .upstream_grpc_port(self.upstream_grpc_port);
        if let Some(name) = &self.headless {
            router = router.headless(name);
        }
        if let Some(preset) = &self.preset {
            router = router.preset(preset);
        }
        for node in &self.nodes {
            router = router.node(node);
        }
        for fallback in &self.fallback {
            router = router.fallback(fallback);
        }
        if let Some(dns) = self.dns {
            router = router.dns(dns);
        }
        if let Some(path) = &self.api_key_file {
            let key = read("--api-key-file", path)?;
            let key = String::from_utf8_lossy(&key);
            if key.trim().is_empty() {
                return Err(ServeError::EmptyKey(path.display().to_string()));
            }
            router = router.api_key(key.trim())?;
        }
        if self.upstream_tls {
            let roots =
                self.upstream_ca_file.as_ref().map(|path| read("--upstream-ca-file", path)).transpose()?;
            router = router.tls(TlsOptions { roots, server_name: self.upstream_server_name.clone() });
        }
        Ok(router.build()?)
    }
}

fn read(flag: &'static str, path: &PathBuf) -> Result<Vec<u8>, ServeError> {
    std::fs::read(path).map_err(|error| ServeError::File { flag, path: path.display().to_string(), error })
}

/// Says how the first survey went. Fails where it shows that the configuration is wrong: every node
/// that answered refused the router's key. Everything else is the world's doing and may pass.
async fn report_survey(router: Router) -> Result<(), ServeError> {
    let topology = router.topology().clone();
    let in_time = tokio::time::timeout(FIRST_SURVEY, topology.surveyed()).await.is_ok();
    let snapshot = topology.snapshot();
    let problems = topology.problems();
    match snapshot.epoch() {
        Some(epoch) => {
            tracing::info!(nodes = snapshot.nodes().len(), %epoch, "the topology is known");
        }
        None => {
            let serving = if snapshot.fallback().is_empty() { "nothing" } else { "the fallback" };
            tracing::warn!(serving, in_time, "the topology is not known yet; still trying");
        }
    }
    for problem in problems.iter() {
        tracing::warn!("{problem}");
    }
    let refusals = || {
        problems.iter().filter_map(|problem| match problem {
            Problem::Node(_, error @ ApiError::Refused { .. }) => Some(error),
            _ => None,
        })
    };
    // With a fallback there is somebody to serve clients meanwhile.
    let is_refused = snapshot.epoch().is_none()
        && snapshot.fallback().is_empty()
        && refusals().count() > 0
        && snapshot.nodes().iter().filter(|node| node.reachable).count() == refusals().count();
    match refusals().next() {
        Some(error) if is_refused => Err(ServeError::Refused(error.clone())),
        _ => Ok(()),
    }
}
