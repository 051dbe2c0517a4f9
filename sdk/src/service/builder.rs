//! Configuring a [`Router`].

use std::{net::SocketAddr, sync::Arc};

use http::HeaderValue;

use super::{Inner, Router, sweep};
use crate::{
    aside::Aside,
    balance::Balance,
    connect::{Tls, TlsError, TlsOptions},
    dice::Dice,
    discovery::{
        DnsResolver, GRPC_PORT, Host, HostError, Preset, PresetError, REST_PORT, Resolve, ResolverError,
        Sources,
    },
    dispatch::{Admission, Budget, Dispatcher, RetryWrites, watch},
    route::Routing,
    task::AbortOnDrop,
    topology::{HttpApi, Settings, TopologyHandle},
    transport::Transport,
};

/// Bodies up to this size are looked into and kept for another attempt; Qdrant's own limit for JSON.
const DEFAULT_BODY_LIMIT: usize = 32 << 20;

/// Requests under way at once.
const DEFAULT_MAX_REQUESTS: usize = 10_000;

/// Requests in flight to one node at once: one that is slow must not take the room of all.
const DEFAULT_MAX_REQUESTS_PER_NODE: usize = 5_000;

/// Bytes of bodies in memory at once.
const DEFAULT_MAX_HELD_BYTES: usize = 1 << 30;

/// Builds a [`Router`].
#[derive(Clone, Debug)]
#[must_use]
pub struct RouterBuilder {
    headless: Option<String>,
    nodes: Vec<String>,
    fallback: Vec<String>,
    preset: Option<String>,
    rest_port: u16,
    grpc_port: u16,
    dns: Option<SocketAddr>,
    api_key: Option<HeaderValue>,
    tls: Option<TlsOptions>,
    settings: Settings,
    body_limit: usize,
    routing: Routing,
    direct_point_reads: bool,
    retry_writes: RetryWrites,
    max_requests: usize,
    max_requests_per_node: usize,
    max_held_bytes: usize,
    seed: Option<u64>,
}

/// A [`Router`] could not be built.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Nothing says where the nodes are.
    #[error(
        "nothing says where Qdrant is: name a headless Service (`headless`), a preset (`preset`), or fixed nodes (`node`)"
    )]
    NoNodes,
    /// A host is not a host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A preset is not a preset.
    #[error(transparent)]
    Preset(#[from] PresetError),
    /// The DNS resolver cannot be set up.
    #[error(transparent)]
    Resolver(#[from] ResolverError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The API key cannot be sent in a header.
    #[error("the API key has a character that no HTTP header can carry; check for line breaks")]
    ApiKey,
    /// No tokio runtime to work on.
    #[error("a Router lives on a tokio runtime: build it inside one")]
    NoRuntime,
}

// === impl RouterBuilder ===

impl RouterBuilder {
    pub(super) fn new() -> Self {
        Self {
            headless: None,
            nodes: Vec::new(),
            fallback: Vec::new(),
            preset: None,
            rest_port: REST_PORT,
            grpc_port: GRPC_PORT,
            dns: None,
            api_key: None,
            tls: None,
            settings: Settings::default(),
            body_limit: DEFAULT_BODY_LIMIT,
            routing: Routing::default(),
            direct_point_reads: false,
            retry_writes: RetryWrites::default(),
            max_requests: DEFAULT_MAX_REQUESTS,
            max_requests_per_node: DEFAULT_MAX_REQUESTS_PER_NODE,
            max_held_bytes: DEFAULT_MAX_HELD_BYTES,
            seed: None,
        }
    }

    /// The headless Service, `NAME[:REST[:GRPC]]`. A name of four dots or more is taken as complete;
    /// shorter ones go through the resolver's search list, as `{svc}.{namespace}.svc` should.
    pub fn headless(mut self, name: impl Into<String>) -> Self {
        self.headless = Some(name.into());
        self
    }

    /// A fixed node, `HOST[:REST[:GRPC]]`, instead of or beside a headless Service. May be repeated.
    pub fn node(mut self, host: impl Into<String>) -> Self {
        self.nodes.push(host.into());
        self
    }

    /// The ClusterIP Service, `HOST[:REST[:GRPC]]`, used when no node can be. Of several, the first
    /// that resolves.
    pub fn fallback(mut self, host: impl Into<String>) -> Self {
        self.fallback.push(host.into());
        self
    }

    /// A known deployment, `kubeblocks:CLUSTER[.NAMESPACE]` or `helm:RELEASE[.NAMESPACE]`, whose
    /// names are used where none is given.
    pub fn preset(mut self, preset: impl Into<String>) -> Self {
        self.preset = Some(preset.into());
        self
    }

    /// The nodes' REST port. Default: 6333.
    pub fn upstream_rest_port(mut self, port: u16) -> Self {
        self.rest_port = port;
        self
    }

    /// The nodes' gRPC port. Default: 6334.
    pub fn upstream_grpc_port(mut self, port: u16) -> Self {
        self.grpc_port = port;
        self
    }

    /// The DNS server to ask; the system's for `None`, which is the default.
    pub fn dns(mut self, server: impl Into<Option<SocketAddr>>) -> Self {
        self.dns = server.into();
        self
    }

    /// The router's own key, for topology alone; a read-only key is enough. It rides on no client's
    /// request.
    ///
    /// # Errors
    ///
    /// When the key cannot be sent in a header.
    pub fn api_key(mut self, key: &str) -> Result<Self, BuildError> {
        let mut key = HeaderValue::from_str(key).map_err(|_| BuildError::ApiKey)?;
        key.set_sensitive(true);
        self.api_key = Some(key);
        Ok(self)
    }

    /// Speaks TLS to the nodes.
    pub fn tls(mut self, options: TlsOptions) -> Self {
        self.tls = Some(options);
        self
    }

    /// How the topology is kept.
    pub fn topology_settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// The largest body, in bytes, that is looked into and kept for another attempt. Larger ones
    /// stream to the node that their path tells. Default: 32 MiB, Qdrant's own limit for JSON.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// Which requests are routed. Default: [`Routing::All`].
    ///
    /// With [`Routing::Observe`], every answer carries where its request would have gone, in
    /// [`Routed::observed`](crate::Routed::observed).
    pub fn routing(mut self, routing: Routing) -> Self {
        self.routing = routing;
        self
    }

    /// Reads points by id over REST from the shards that own them, where the ordinary read would cost
    /// internal RPCs. Default: off.
    ///
    /// Uses `POST /collections/{c}/shards/{id}/points`, which Qdrant has had since 1.12 and does not
    /// document. Whatever is surprising leads back to the ordinary read.
    pub fn direct_point_reads(mut self, direct: bool) -> Self {
        self.direct_point_reads = direct;
        self
    }

    /// Which writes are repeated when it is unknown whether the first sending was processed. Default:
    /// [`RetryWrites::Idempotent`]. A request may say otherwise with `x-qdrant-router-retry-writes`.
    pub fn retry_writes(mut self, policy: RetryWrites) -> Self {
        self.retry_writes = policy;
        self
    }

    /// How many requests may be under way at once; beyond it they are refused at once, with 503 or
    /// `RESOURCE_EXHAUSTED`. Default: 10,000.
    pub fn max_requests(mut self, requests: usize) -> Self {
        self.max_requests = requests;
        self
    }

    /// How many requests one node may have in flight; beyond it they go to other nodes, and are refused where
    /// no other is left, with 503 or `UNAVAILABLE`. Default: 5,000.
    pub fn max_requests_per_node(mut self, requests: usize) -> Self {
        self.max_requests_per_node = requests;
        self
    }

    /// How many bytes of request bodies may be kept in memory together; beyond it bodies stream to the
    /// node that their path tells. Default: 1 GiB.
    pub fn max_held_bytes(mut self, bytes: usize) -> Self {
        self.max_held_bytes = bytes;
        self
    }

    /// Fixes the dice, so that a test can repeat what it saw.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Builds the router, which starts to look for the nodes at once. Must be called on a tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// When the configuration cannot work. What the world answers later is no error here: see
    /// [`TopologyHandle::problems`].
    pub fn build(self) -> Result<Router, BuildError> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(BuildError::NoRuntime);
        }
        let resolver = match self.dns {
            Some(server) => DnsResolver::at(server)?,
            None => DnsResolver::system()?,
        };
        self.build_with(resolver)
    }

    /// Builds the router on names that `resolver` resolves.
    pub(crate) fn build_with(self, resolver: impl Resolve) -> Result<Router, BuildError> {
        let sources = self.sources()?;
        let tls = match self.tls {
            None => None,
            Some(ref options) => Some(Tls::new(options, &self.server_name()?)?),
        };
        let dice = Arc::new(self.seed.map_or_else(Dice::random, Dice::seeded));
        let balance = Arc::new(Balance::default());
        let discovery = sources.follow(resolver, dice.clone());
        let api = HttpApi::new(self.api_key, tls.as_ref());
        let topology =
            TopologyHandle::follow(discovery.clone(), api, balance.clone(), self.settings, dice.clone());
        let transport = Arc::new(Transport::new(tls));
        let janitor = AbortOnDrop::spawn(sweep(topology.clone(), transport.clone()));
        let direct_point_reads = self.direct_point_reads;
        let watch = AbortOnDrop::spawn(watch(balance.clone(), transport.clone(), topology.clone()));
        let dispatcher = Dispatcher {
            transport,
            balance,
            topology,
            discovery,
            dice,
            direct_point_reads,
            max_requests_per_node: self.max_requests_per_node,
            budget: Arc::new(Budget::new()),
            hedges: Arc::default(),
            aside: Aside::new(),
        };
        Ok(Router(Arc::new(Inner {
            dispatcher,
            admission: Arc::new(Admission::new(self.max_requests, self.max_held_bytes)),
            body_limit: self.body_limit,
            routing: self.routing,
            retry_writes: self.retry_writes,
            watch: Arc::new(watch),
            _janitor: janitor,
        })))
    }

    /// The name that the nodes' certificates are checked against unless [`TlsOptions`] give one: what those of the preset
    /// carry, else the headless Service, else the first fixed node.
    ///
    /// # Errors
    ///
    /// As [`sources`](Self::sources).
    pub fn server_name(&self) -> Result<String, BuildError> {
        let sources = self.sources()?;
        let preset = self.preset.as_deref().map(str::parse::<Preset>).transpose()?;
        let of_preset = preset.filter(|_| self.headless.is_none()).and_then(|preset| preset.server_name());
        let first = || sources.headless.iter().chain(&sources.nodes).map(|host| host.name.clone()).next();
        Ok(of_preset.or_else(first).unwrap_or_default())
    }

    /// Where the nodes will be looked for, with the names that a preset stands for.
    ///
    /// # Errors
    ///
    /// When a host or the preset is none, or nothing says where the nodes are.
    pub fn sources(&self) -> Result<Sources, BuildError> {
        let hosts =
            |hosts: &[String]| hosts.iter().map(|host| host.parse()).collect::<Result<Vec<Host>, _>>();
        let mut sources = Sources {
            headless: self.headless.as_deref().map(str::parse).transpose()?,
            nodes: hosts(&self.nodes)?,
            fallback: hosts(&self.fallback)?,
            rest_port: self.rest_port,
            grpc_port: self.grpc_port,
        };
        if let Some(preset) = &self.preset {
            let preset: Preset = preset.parse()?;
            sources.headless.get_or_insert_with(|| Host::named(preset.headless()));
            if sources.fallback.is_empty() {
                sources.fallback = preset.fallbacks();
            }
        }
        if sources.headless.is_none() && sources.nodes.is_empty() {
            return Err(BuildError::NoNodes);
        }
        Ok(sources)
    }
}
