//! Where the cluster is and how to read its topology: the keys that every verb takes.

use std::{
    fmt::Display,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use clap::Args;
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Full};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use qdrant_router::{
    BuildError, RetryWrites, Router, RouterBuilder, Routing, Tls, TlsError, TlsIdentity, TlsOptions,
    discovery::{DnsResolver, Host, Preset},
    topology::HttpApi,
};
use tower::ServiceExt;

use super::CliError;
use crate::{config::value, doctor::Patient};

/// Where the cluster is and how to read its topology.
#[derive(Args, Clone, Debug)]
pub(super) struct Connect {
    /// YAML file with any of these keys, named as the flags with underscores
    ///
    /// A flag wins over a variable, a variable over the file. Unknown keys are errors. `serve` reads the
    /// file again when it changes, and on SIGHUP.
    #[arg(long, value_name = "FILE", env = "QDRANT_ROUTER_CONFIG")]
    config: Option<PathBuf>,

    /// Headless Service to resolve: NAME[:REST[:GRPC]]
    ///
    /// Every address that it resolves to is asked whether it is a node. The ports are the nodes' where
    /// they differ from `upstream_rest_port` and `upstream_grpc_port`.
    ///
    /// Example: my-headless.my-namespace.svc
    #[arg(long, value_name = "NAME", env = "QDRANT_ROUTER_HEADLESS", value_parser = value::checked::<Host>)]
    headless: Option<String>,

    /// A fixed node, instead of or beside --headless; repeatable
    ///
    /// Several in the variable are separated by commas.
    ///
    /// Example: 10.0.0.7:6333:6334
    #[arg(
        long = "node",
        value_name = "HOST[:REST[:GRPC]]",
        env = "QDRANT_ROUTER_NODE",
        value_delimiter = ',',
        value_parser = value::checked::<Host>
    )]
    nodes: Vec<String>,

    /// ClusterIP Service, used when no node can be
    ///
    /// Of several, the first that resolves.
    ///
    /// Example: my-service.my-namespace.svc
    #[arg(
        long,
        value_name = "HOST[:REST[:GRPC]]",
        env = "QDRANT_ROUTER_FALLBACK",
        value_delimiter = ',',
        value_parser = value::checked::<Host>
    )]
    fallback: Vec<String>,

    /// Fill in the names of a known deployment: kubeblocks:CLUSTER[.NAMESPACE] or helm:RELEASE[.NAMESPACE]
    ///
    /// Names its headless Service and its ClusterIP Service, where `headless` and `fallback` do not.
    ///
    /// Example: kubeblocks:my-cluster.my-namespace
    #[arg(long, value_name = "PRESET", env = "QDRANT_ROUTER_PRESET", value_parser = value::checked::<Preset>)]
    preset: Option<String>,

    /// The nodes' REST port
    ///
    /// Example: 7333
    #[arg(long, value_name = "PORT", env = "QDRANT_ROUTER_UPSTREAM_REST_PORT", default_value_t = 6333, value_parser = value::port)]
    upstream_rest_port: u16,

    /// The nodes' gRPC port
    ///
    /// Example: 7334
    #[arg(long, value_name = "PORT", env = "QDRANT_ROUTER_UPSTREAM_GRPC_PORT", default_value_t = 6334, value_parser = value::port)]
    upstream_grpc_port: u16,

    /// DNS resolver to ask [default: the system's]
    ///
    /// Example: 10.96.0.10:53
    #[arg(long, value_name = "IP:PORT", env = "QDRANT_ROUTER_DNS", value_parser = value::socket_address)]
    dns: Option<SocketAddr>,

    /// Which requests are sent to the node that holds their data
    ///
    /// `all`; `reads`: writes and changes of metadata are not; `observe`: none, but where each would go is found
    /// out and told, in metrics and headers; `off`: none, and bodies are not looked into. What is not routed goes
    /// to the ClusterIP Service, or to any healthy node without one. Requests for one node (pins, snapshots,
    /// shards) go where they belong in every mode.
    ///
    /// Example: observe
    #[arg(
        long,
        value_name = "off|observe|reads|all",
        env = "QDRANT_ROUTER_ROUTING",
        default_value_t = Routing::All
    )]
    routing: Routing,

    /// Read points by id over REST from the shards that own them, through an API that Qdrant does not document
    ///
    /// Only where the ordinary read would cost internal RPCs; whatever is surprising leads back to it.
    ///
    /// Example: true
    #[arg(long, env = "QDRANT_ROUTER_DIRECT_POINT_READS")]
    direct_point_reads: bool,

    /// Which writes are sent again when it is unknown whether the first sending was processed
    ///
    /// `never`; `idempotent`: writes of points with weak ordering, of batches those that name all their points;
    /// `always`: also other batches, writes of other orderings, and changes of metadata. Once after a connection that
    /// broke, and once after an error that asks for a retry. A request may say otherwise with the header
    /// `x-qdrant-router-retry-writes`.
    ///
    /// Example: never
    #[arg(
        long,
        value_name = "never|idempotent|always",
        env = "QDRANT_ROUTER_RETRY_WRITES",
        default_value_t = RetryWrites::Idempotent
    )]
    retry_writes: RetryWrites,

    /// File with the router's own API key, which reads the topology and nothing else; a read-only key is enough
    ///
    /// Clients' keys pass through to Qdrant and are not affected.
    ///
    /// Example: /etc/qdrant-router/api-key
    #[arg(long, value_name = "FILE", env = "QDRANT_ROUTER_API_KEY_FILE")]
    api_key_file: Option<PathBuf>,

    /// Speak TLS to the nodes
    ///
    /// Example: true
    #[arg(long, env = "QDRANT_ROUTER_UPSTREAM_TLS")]
    upstream_tls: bool,

    /// CA certificates to trust for the nodes, in PEM [default: the system's]
    ///
    /// Needs `upstream_tls`.
    ///
    /// Example: /etc/qdrant-router/ca.crt
    #[arg(long, value_name = "FILE", env = "QDRANT_ROUTER_UPSTREAM_CA_FILE")]
    upstream_ca_file: Option<PathBuf>,

    /// Name that the nodes' certificates are checked against [default: the headless Service; with a KubeBlocks preset and its namespace, a name that KubeBlocks' certificates carry]
    ///
    /// Nodes are dialled by address, which certificates seldom carry. Needs `upstream_tls`.
    ///
    /// Example: any.my-headless.my-namespace.svc.cluster.local
    #[arg(long, value_name = "NAME", env = "QDRANT_ROUTER_UPSTREAM_SERVER_NAME")]
    upstream_server_name: Option<String>,

    /// Certificate chain in PEM that the router shows to nodes that ask for one; with --upstream-key-file
    ///
    /// Needed where the nodes set `verify_https_client_certificate`. Needs `upstream_tls`.
    ///
    /// Example: /etc/qdrant-router/client.crt
    #[arg(long, value_name = "FILE", env = "QDRANT_ROUTER_UPSTREAM_CERT_FILE")]
    upstream_cert_file: Option<PathBuf>,

    /// Private key of that certificate in PEM
    ///
    /// Example: /etc/qdrant-router/client.key
    #[arg(long, value_name = "FILE", env = "QDRANT_ROUTER_UPSTREAM_KEY_FILE")]
    upstream_key_file: Option<PathBuf>,
}

// === impl Connect ===

impl Connect {
    /// A router for the cluster. It begins to look for the nodes at once.
    pub(super) fn router(&self) -> Result<Router, CliError> {
        self.build(self.builder()?)
    }

    /// What the keys say of the router.
    pub(super) fn builder(&self) -> Result<RouterBuilder, CliError> {
        let mut router = Router::builder()
            .upstream_rest_port(self.upstream_rest_port)
            .upstream_grpc_port(self.upstream_grpc_port)
            .routing(self.routing)
            .direct_point_reads(self.direct_point_reads)
            .retry_writes(self.retry_writes)
            .dns(self.dns);
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
        if let Some(key) = self.api_key()? {
            router = router.api_key(&key).map_err(|error| self.blame(error))?;
        }
        if let Some(tls) = self.tls()? {
            router = router.tls(tls);
        }
        Ok(router)
    }

    /// Builds what [`builder`](Self::builder) began.
    pub(super) fn build(&self, router: RouterBuilder) -> Result<Router, CliError> {
        router.build().map_err(|error| self.blame(error))
    }

    /// What `doctor` examines.
    pub(super) fn patient(&self) -> Result<Patient, CliError> {
        let builder = self.builder()?;
        let sources = builder.sources()?;
        let resolver = match self.dns {
            Some(server) => DnsResolver::at(server),
            None => DnsResolver::system(),
        };
        let resolver = resolver.map_err(BuildError::from)?;
        let (tls, server_name) = match self.tls()? {
            Some(options) => {
                let default_name = builder.server_name()?;
                let tls = Tls::new(&options, &default_name).map_err(|error| self.blame(error.into()))?;
                (Some(tls), Some(options.server_name.unwrap_or(default_name)))
            }
            None => (None, None),
        };
        let key = self.api_key()?;
        let header = key.as_deref().map(HeaderValue::from_str).transpose();
        let header = header.map_err(|_| self.blame(BuildError::ApiKey))?;
        let api = Arc::new(HttpApi::new(header, tls.as_ref()));
        Ok(Patient { sources, resolver, api, server_name, has_key: key.is_some() })
    }

    /// The names of all collections that the key may see.
    pub(super) async fn collections(&self, router: &Router) -> Result<Vec<String>, CliError> {
        let result = self.ask(router, "/collections").await?;
        let rows = result["collections"].as_array().into_iter().flatten();
        let mut names: Vec<String> = rows.filter_map(|row| row["name"].as_str().map(str::to_owned)).collect();
        names.sort();
        Ok(names)
    }

    /// How many copies of each shard a collection is configured to have.
    pub(super) async fn replication_factor(
        &self,
        router: &Router,
        collection: &str,
    ) -> Result<Option<u64>, CliError> {
        let path = format!("/collections/{}", utf8_percent_encode(collection, NON_ALPHANUMERIC));
        let result = self.ask(router, &path).await?;
        Ok(result["config"]["params"]["replication_factor"].as_u64())
    }

    /// The `result` of `GET path`, asked with the router's own key.
    async fn ask(&self, router: &Router, path: &str) -> Result<serde_json::Value, CliError> {
        let failed = |reason: &dyn Display| CliError::Cluster(format!("GET {path}: {reason}"));
        let mut request = Request::get(path);
        if let Some(key) = self.api_key()? {
            request = request.header("api-key", key);
        }
        let request = request.body(Full::<Bytes>::default()).map_err(|error| failed(&error))?;
        let response = match router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| failed(&error))?.to_bytes();
        let mut document: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        match document.get_mut("result").map(serde_json::Value::take) {
            Some(result) if status.is_success() => Ok(result),
            _ => Err(failed(&format!("answered {status}: {}", String::from_utf8_lossy(&body)))),
        }
    }

    /// The files that the configuration is read from.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let tls = [&self.upstream_ca_file, &self.upstream_cert_file, &self.upstream_key_file];
        let files = [&self.config, &self.api_key_file].into_iter().chain(tls);
        files.flatten().cloned().collect()
    }

    /// The router's own key, where one is given.
    pub(super) fn api_key(&self) -> Result<Option<String>, CliError> {
        self.api_key_file.as_deref().map(|path| key("api_key_file", path)).transpose()
    }

    /// Whether the nodes speak TLS.
    pub(super) fn is_encrypted(&self) -> bool {
        self.upstream_tls
    }

    fn tls(&self) -> Result<Option<TlsOptions>, CliError> {
        let files = [
            ("upstream_ca_file", &self.upstream_ca_file),
            ("upstream_cert_file", &self.upstream_cert_file),
            ("upstream_key_file", &self.upstream_key_file),
        ];
        if self.upstream_tls {
            let contents = |(key, path): (&'static str, &Option<PathBuf>)| {
                path.as_ref().map(|path| read(key, path)).transpose()
            };
            let [roots, certificates, key] = files.map(contents);
            let identity = match (certificates?, key?) {
                (Some(certificates), Some(key)) => Some(TlsIdentity { certificates, key }),
                (None, None) => None,
                (Some(_), None) => return Err(lonely(files[1], files[2].0)),
                (None, Some(_)) => return Err(lonely(files[2], files[1].0)),
            };
            return Ok(Some(TlsOptions {
                roots: roots?,
                server_name: self.upstream_server_name.clone(),
                identity,
            }));
        }
        let needs_tls = "works with TLS only; set upstream_tls (--upstream-tls) too, or leave this out";
        for (key, path) in files {
            if let Some(path) = path {
                return Err(CliError::setting(key, &path.display(), &needs_tls));
            }
        }
        if let Some(name) = &self.upstream_server_name {
            return Err(CliError::setting("upstream_server_name", name, &needs_tls));
        }
        Ok(None)
    }

    /// Names the key whose value `error` is about.
    fn blame(&self, error: BuildError) -> CliError {
        let shown = |path: &Option<PathBuf>| path.as_deref().map(Path::display).map(|path| path.to_string());
        let (key, value) = match &error {
            BuildError::ApiKey => ("api_key_file", shown(&self.api_key_file)),
            BuildError::Tls(TlsError::Roots(_)) => ("upstream_ca_file", shown(&self.upstream_ca_file)),
            BuildError::Tls(TlsError::Identity(_)) => ("upstream_cert_file", shown(&self.upstream_cert_file)),
            BuildError::Tls(TlsError::ServerName(_)) => {
                ("upstream_server_name", self.upstream_server_name.clone())
            }
            _ => return error.into(),
        };
        match value {
            Some(value) => CliError::setting(key, &value, &error),
            None => error.into(),
        }
    }
}

/// A certificate without its key, or a key without its certificate.
fn lonely((key, path): (&'static str, &Option<PathBuf>), other: &str) -> CliError {
    let shown = path.as_deref().map(Path::display).map(|path| path.to_string()).unwrap_or_default();
    CliError::setting(
        key,
        &shown,
        &format!("a certificate and its private key go together: give {other} too"),
    )
}

/// The API key in the file that `name` gives.
pub(super) fn key(name: &'static str, path: &Path) -> Result<String, CliError> {
    if !path.exists() && !is_surely_a_path(path) {
        let reason = "there is no such file; it takes the path of a file, and not the key itself";
        return Err(CliError::setting(name, &"(not shown)", &reason));
    }
    let key = read(name, path)?;
    let key = String::from_utf8_lossy(&key).trim().to_owned();
    if key.is_empty() {
        let reason = "the file is empty; it should hold the API key and nothing else";
        return Err(CliError::setting(name, &path.display(), &reason));
    }
    Ok(key)
}

/// Whether this is hardly a key, which may have slashes in it, too.
fn is_surely_a_path(path: &Path) -> bool {
    let is_there = |dir: &Path| !dir.as_os_str().is_empty() && dir.is_dir();
    path.is_absolute() || path.parent().is_some_and(is_there)
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, CliError> {
    std::fs::read(path).map_err(|error| {
        let reason = format!("{error}; check that the file exists and that this user may read it");
        CliError::setting(key, &path.display(), &reason)
    })
}
