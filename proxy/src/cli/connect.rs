//! Where the cluster is and how to read its topology: the flags that every verb takes.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use qdrant_router::{Router, TlsOptions};

use super::CliError;

/// Where the cluster is and how to read its topology.
#[derive(Args, Clone, Debug)]
pub(super) struct Connect {
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

    /// Read points by id over REST from the shards that own them, through an API that Qdrant does not document
    #[arg(long, env = "QDRANT_ROUTER_DIRECT_POINT_READS")]
    direct_point_reads: bool,

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

// === impl Connect ===

impl Connect {
    /// A router for the cluster. It begins to look for the nodes at once.
    pub(super) fn router(&self) -> Result<Router, CliError> {
        let mut router = Router::builder()
            .upstream_rest_port(self.upstream_rest_port)
            .upstream_grpc_port(self.upstream_grpc_port)
            .direct_point_reads(self.direct_point_reads);
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
        if let Some(key) = self.api_key()? {
            router = router.api_key(&key)?;
        }
        if self.upstream_tls {
            let roots =
                self.upstream_ca_file.as_ref().map(|path| read("--upstream-ca-file", path)).transpose()?;
            router = router.tls(TlsOptions { roots, server_name: self.upstream_server_name.clone() });
        }
        Ok(router.build()?)
    }

    /// The router's own key, where one is given.
    pub(super) fn api_key(&self) -> Result<Option<String>, CliError> {
        let Some(path) = &self.api_key_file else { return Ok(None) };
        let key = read("--api-key-file", path)?;
        let key = String::from_utf8_lossy(&key).trim().to_owned();
        if key.is_empty() {
            return Err(CliError::EmptyKey(path.display().to_string()));
        }
        Ok(Some(key))
    }
}

fn read(flag: &'static str, path: &PathBuf) -> Result<Vec<u8>, CliError> {
    std::fs::read(path).map_err(|error| CliError::File { flag, path: path.display().to_string(), error })
}
