//! `qdrant-router serve`

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use qdrant_router::{
    Router,
    discovery::Sources,
    topology::{ApiError, Problem, Settings},
};
use rustls::ServerConfig;
use tokio::net::TcpListener;

mod log;
mod reload;
mod telemetry;
mod tls;

use self::{
    log::{Log, LogFormat},
    reload::Reload,
    telemetry::TelemetryKeys,
};
use super::{CliError, Invocation, connect::Connect};
use crate::{
    config::{Origins, value, watch::Watch},
    lifecycle::{self, Listeners, Proxy, Shutdown},
};

/// How long the first survey of the nodes may take before its outcome is reported.
const FIRST_SURVEY: Duration = Duration::from_secs(5);

/// Serve REST and gRPC clients and route their requests.
#[derive(Args, Clone, Debug)]
pub struct Serve {
    #[command(flatten)]
    connect: Connect,

    /// Where REST clients connect
    ///
    /// Both protocols are served on both ports. Takes effect at the start only.
    ///
    /// Example: 127.0.0.1:6333
    #[arg(
        long,
        value_name = "IP:PORT",
        env = "QDRANT_ROUTER_LISTEN_REST",
        default_value = "0.0.0.0:6333",
        value_parser = value::socket_address
    )]
    listen_rest: SocketAddr,

    /// Where gRPC clients connect
    ///
    /// Takes effect at the start only.
    ///
    /// Example: 127.0.0.1:6334
    #[arg(
        long,
        value_name = "IP:PORT",
        env = "QDRANT_ROUTER_LISTEN_GRPC",
        default_value = "0.0.0.0:6334",
        value_parser = value::socket_address
    )]
    listen_grpc: SocketAddr,

    /// The admin port: health, metrics, topology
    ///
    /// It shows the topology to whoever reaches it. Takes effect at the start only.
    ///
    /// Example: 0.0.0.0:9633
    #[arg(
        long,
        value_name = "IP:PORT",
        env = "QDRANT_ROUTER_LISTEN_ADMIN",
        default_value = "127.0.0.1:9633",
        value_parser = value::socket_address
    )]
    listen_admin: SocketAddr,

    /// Certificate chain in PEM, to speak TLS with clients on both ports; with --tls-key-file
    ///
    /// Read again when the file changes; connections that are open go on.
    ///
    /// Example: /etc/qdrant-router/tls.crt
    #[arg(long, value_name = "FILE", env = "QDRANT_ROUTER_TLS_CERT_FILE")]
    tls_cert_file: Option<PathBuf>,

    /// Private key of that certificate in PEM
    ///
    /// Example: /etc/qdrant-router/tls.key
    #[arg(long, value_name = "FILE", env = "QDRANT_ROUTER_TLS_KEY_FILE")]
    tls_key_file: Option<PathBuf>,

    /// CA certificates in PEM: clients must show a certificate of one of them, on both ports
    ///
    /// Needs `tls_cert_file`.
    ///
    /// Example: /etc/qdrant-router/clients.crt
    #[arg(long, value_name = "FILE", env = "QDRANT_ROUTER_TLS_CLIENT_CA_FILE")]
    tls_client_ca_file: Option<PathBuf>,

    /// Largest body that is looked into and kept for another attempt, in bytes, or in KiB, MiB or GiB
    ///
    /// Larger ones stream to the node that their path tells. Qdrant's own limit for JSON is 32 MiB.
    ///
    /// Example: 64MiB
    #[arg(
        long,
        value_name = "BYTES",
        env = "QDRANT_ROUTER_BODY_LIMIT",
        default_value = "32MiB",
        allow_hyphen_values = true,
        value_parser = value::bytes(1 << 10, 1 << 30)
    )]
    body_limit: usize,

    /// Threads that serve connections [default: one per core]
    ///
    /// Each has connections to the nodes of its own. Takes effect at the start only.
    ///
    /// Example: 1
    #[arg(
        long,
        value_name = "COUNT",
        env = "QDRANT_ROUTER_WORKERS",
        allow_hyphen_values = true,
        value_parser = value::count(1, 1024)
    )]
    workers: Option<usize>,

    /// Requests under way at once
    ///
    /// Beyond it they are refused at once, with 503 or RESOURCE_EXHAUSTED. The admin port is not counted.
    ///
    /// Example: 2000
    #[arg(
        long,
        value_name = "COUNT",
        env = "QDRANT_ROUTER_MAX_REQUESTS",
        default_value_t = 10_000,
        allow_hyphen_values = true,
        value_parser = value::count(1, 10_000_000)
    )]
    max_requests: usize,

    /// Requests in flight to one node at once
    ///
    /// Beyond it they go to other nodes, and are refused with 503 or UNAVAILABLE where no other is left: a node
    /// that is slow must not take the room of all.
    ///
    /// Example: 1000
    #[arg(
        long,
        value_name = "COUNT",
        env = "QDRANT_ROUTER_MAX_REQUESTS_PER_NODE",
        default_value_t = 5_000,
        allow_hyphen_values = true,
        value_parser = value::count(1, 10_000_000)
    )]
    max_requests_per_node: usize,

    /// Bytes of request bodies in memory at once, or in KiB, MiB or GiB
    ///
    /// Beyond it bodies stream to the node that their path tells, and are sent once.
    ///
    /// Example: 256MiB
    #[arg(
        long,
        value_name = "BYTES",
        env = "QDRANT_ROUTER_MAX_HELD_BYTES",
        default_value = "1GiB",
        allow_hyphen_values = true,
        value_parser = value::bytes(1 << 20, 1 << 40)
    )]
    max_held_bytes: usize,

    /// How old a client's connection may become
    ///
    /// It is then told to end, after what is under way: the next request opens another, which may reach another router.
    /// Without that, gRPC clients would stay for good with those that were there when they began. Each connection ends up
    /// to a fifth earlier, so that not all come back at once. From 1s to 24h, or 0s for no limit. Takes effect at the
    /// start only.
    ///
    /// Example: 10m
    #[arg(
        long,
        value_name = "DURATION",
        env = "QDRANT_ROUTER_MAX_CONNECTION_AGE",
        default_value = "1h",
        allow_hyphen_values = true,
        value_parser = value::duration_or_none(Duration::from_secs(1), Duration::from_secs(24 * 3600))
    )]
    max_connection_age: Duration,

    /// How often each node is asked what it holds
    ///
    /// Also how long a change that did not go through this router may go unnoticed. From 100ms to 1h.
    ///
    /// Example: 5s
    #[arg(
        long,
        value_name = "DURATION",
        env = "QDRANT_ROUTER_TOPOLOGY_INTERVAL",
        default_value = value::show(Settings::default().probe_interval),
        allow_hyphen_values = true,
        value_parser = value::duration(Duration::from_millis(100), Duration::from_secs(3600))
    )]
    topology_interval: Duration,

    /// How long to go on serving after SIGTERM, while no longer ready
    ///
    /// Load balancers need a moment to notice that, and send new connections until then. SIGINT, or a second
    /// signal, skips it. At most 1h. Takes effect at the start only.
    ///
    /// Example: 10s
    #[arg(
        long,
        value_name = "DURATION",
        env = "QDRANT_ROUTER_SHUTDOWN_DELAY",
        default_value = value::show(lifecycle::SHUTDOWN.delay),
        allow_hyphen_values = true,
        value_parser = value::duration(Duration::ZERO, Duration::from_secs(3600))
    )]
    shutdown_delay: Duration,

    /// How long requests in flight may take to finish after that
    ///
    /// On Kubernetes, with `shutdown_delay` less than the pod's `terminationGracePeriodSeconds`. At most 1h.
    /// Takes effect at the start only.
    ///
    /// Example: 10s
    #[arg(
        long,
        value_name = "DURATION",
        env = "QDRANT_ROUTER_DRAIN_TIMEOUT",
        default_value = value::show(lifecycle::SHUTDOWN.drain_timeout),
        allow_hyphen_values = true,
        value_parser = value::duration(Duration::ZERO, Duration::from_secs(3600))
    )]
    drain_timeout: Duration,

    /// What is logged: a level, or levels by target
    ///
    /// Levels are off, error, warn, info, debug and trace; several directives are separated by commas.
    ///
    /// Example: warn,qdrant_router=debug
    #[arg(
        long,
        value_name = "FILTER",
        env = "QDRANT_ROUTER_LOG",
        default_value = "info",
        value_parser = value::log_filter
    )]
    log: String,

    /// How log lines are written
    ///
    /// Takes effect at the start only.
    ///
    /// Example: json
    #[arg(
        long,
        value_name = "FORMAT",
        env = "QDRANT_ROUTER_LOG_FORMAT",
        value_enum,
        default_value_t = LogFormat::Text,
        hide_possible_values = true
    )]
    log_format: LogFormat,

    #[command(flatten)]
    telemetry: TelemetryKeys,
}

// === impl Serve ===

impl Serve {
    pub(super) fn run(self, invocation: Invocation, origins: &Origins) -> Result<(), CliError> {
        let log = Log::start(&self.log, self.log_format);
        if !origins.of_services.is_empty() {
            let variables = origins.of_services.join(", ");
            tracing::info!(variables, "variables of a Service of this name are no keys, and left aside");
        }
        // Limits are low by default for programs that know no more than a thousand files; each connection is one.
        match rlimit::increase_nofile_limit(u64::MAX) {
            Ok(files) => tracing::info!(files, "open files are limited"),
            Err(error) => tracing::warn!(%error, "the limit of open files could not be raised"),
        }
        // Connections are served by threads of their own; what is left is little.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.serve(invocation, log))
    }

    async fn serve(self, invocation: Invocation, log: Log) -> Result<(), CliError> {
        let watch = Watch::new(self.files())?;
        let router = self.router()?;
        let listeners = self.listen().await?;
        let mut proxy = Proxy::new(router.clone());
        proxy.max_connection_age = Some(self.max_connection_age).filter(|age| !age.is_zero());
        proxy.speak_tls(self.tls()?);
        self.telemetry.apply(&proxy.telemetry).await?;
        let workers = self.workers();
        let shutdown = Shutdown { delay: self.shutdown_delay, drain_timeout: self.drain_timeout };
        let reload = Reload { invocation, watch, proxy: proxy.clone(), log, current: self };
        let failed = async move {
            if let Err(error) = report_survey(router).await {
                return error;
            }
            match reload.run().await {}
        };
        lifecycle::serve(proxy, listeners, workers, shutdown, failed).await
    }

    fn workers(&self) -> NonZeroUsize {
        let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        self.workers.and_then(NonZeroUsize::new).unwrap_or_else(cores)
    }

    /// The files that the configuration is read from.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = self.connect.files();
        let tls = [&self.tls_cert_file, &self.tls_key_file, &self.tls_client_ca_file];
        files.extend(tls.into_iter().flatten().cloned());
        files
    }

    /// What listeners speak TLS with, where they should.
    pub(super) fn tls(&self) -> Result<Option<Arc<ServerConfig>>, CliError> {
        match (&self.tls_cert_file, &self.tls_key_file) {
            (Some(certificates), Some(key)) => {
                tls::server_config(certificates, key, self.tls_client_ca_file.as_deref()).map(Some)
            }
            (Some(certificates), None) => {
                let reason = "a certificate needs its private key: give tls_key_file too";
                Err(CliError::setting("tls_cert_file", &certificates.display(), &reason))
            }
            (None, Some(key)) => {
                let reason = "a private key needs its certificate: give tls_cert_file too";
                Err(CliError::setting("tls_key_file", &key.display(), &reason))
            }
            (None, None) => match &self.tls_client_ca_file {
                None => Ok(None),
                Some(path) => {
                    let reason =
                        "only TLS asks clients for certificates: give tls_cert_file and tls_key_file too";
                    Err(CliError::setting("tls_client_ca_file", &path.display(), &reason))
                }
            },
        }
    }

    /// The keys that take effect at the start only, with their values.
    fn fixed(&self) -> [(&'static str, String); 8] {
        let [rest, grpc, admin] = self.listeners().map(|(key, address)| (key, address.to_string()));
        let shutdown_delay = ("shutdown_delay", value::show(self.shutdown_delay));
        let drain_timeout = ("drain_timeout", value::show(self.drain_timeout));
        let workers = ("workers", self.workers().to_string());
        [
            rest,
            grpc,
            admin,
            workers,
            ("max_connection_age", value::show(self.max_connection_age)),
            shutdown_delay,
            drain_timeout,
            ("log_format", format!("{:?}", self.log_format)),
        ]
    }

    /// The router as configured. It begins to look for the nodes at once.
    pub(super) fn router(&self) -> Result<Router, CliError> {
        self.different_listeners()?;
        let builder = self.connect.builder()?;
        self.not_itself(&builder.sources()?)?;
        let router = builder
            .body_limit(self.body_limit)
            .max_requests(self.max_requests)
            .max_requests_per_node(self.max_requests_per_node)
            .max_held_bytes(self.max_held_bytes)
            .topology_settings(Settings { probe_interval: self.topology_interval, ..Settings::default() });
        self.connect.build(router)
    }

    /// Fails where two listeners would share a port.
    fn different_listeners(&self) -> Result<(), CliError> {
        let listeners = self.listeners();
        for (at, (key, address)) in listeners.iter().enumerate() {
            for (other, taken) in listeners.iter().take(at) {
                if collide(*address, *taken) {
                    let reason =
                        format!("{other} already has this port, at {taken}; give each a port of its own");
                    return Err(CliError::setting(key, &address, &reason));
                }
            }
        }
        Ok(())
    }

    /// Fails where a node or the fallback is the router itself. Only what an address tells is seen: names
    /// are not resolved here.
    fn not_itself(&self, sources: &Sources) -> Result<(), CliError> {
        let nodes = sources.nodes.iter().map(|host| ("node", host));
        for (key, host) in nodes.chain(sources.fallback.iter().map(|host| ("fallback", host))) {
            let ip = match host.name.as_str() {
                "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
                name => name.parse(),
            };
            let Ok(ip) = ip else { continue };
            let rest = SocketAddr::new(ip, host.rest_port.unwrap_or(sources.rest_port));
            let grpc = SocketAddr::new(ip, host.grpc_port.unwrap_or(sources.grpc_port));
            for (listener, address) in self.listeners() {
                // Another host may have the address that this one merely covers with `0.0.0.0`.
                let is_here = ip.is_loopback() || ip == address.ip();
                if is_here && (collide(address, rest) || collide(address, grpc)) {
                    let reason = format!(
                        "the router would call itself: {listener} is at {address}; listen elsewhere, or give the port that Qdrant has"
                    );
                    return Err(CliError::setting(key, host, &reason));
                }
            }
        }
        Ok(())
    }

    fn listeners(&self) -> [(&'static str, SocketAddr); 3] {
        [
            ("listen_rest", self.listen_rest),
            ("listen_grpc", self.listen_grpc),
            ("listen_admin", self.listen_admin),
        ]
    }

    async fn listen(&self) -> Result<Listeners, CliError> {
        let bind = async |(key, address): (&'static str, SocketAddr)| {
            TcpListener::bind(address).await.map_err(|error| {
                let reason = format!(
                    "{error}; another process may use the port (see `ss -ltnp`), or the address is not this host's"
                );
                CliError::setting(key, &address, &reason)
            })
        };
        let [rest, grpc, admin] = self.listeners();
        Ok(Listeners { rest: bind(rest).await?, grpc: bind(grpc).await?, admin: bind(admin).await? })
    }
}

/// Whether one socket on each cannot be.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    // `[::]` takes IPv4 too.
    let covers = |any: IpAddr, ip: IpAddr| any.is_unspecified() && (any.is_ipv6() || ip.is_ipv4());
    let is_same_ip = one.ip() == other.ip() || covers(one.ip(), other.ip()) || covers(other.ip(), one.ip());
    // The system picks another port for each zero.
    is_same_ip && one.port() == other.port() && one.port() != 0
}

/// Says how the first survey went. Fails where it shows that the configuration is wrong: every node
/// that answered refused the router's key. Everything else is the world's doing and may pass.
async fn report_survey(router: Router) -> Result<(), CliError> {
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
        Some(error) if is_refused => Err(CliError::Refused(error.clone())),
        _ => Ok(()),
    }
}
