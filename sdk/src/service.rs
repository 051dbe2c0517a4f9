//! [`Router`]: one Tower service for every REST and gRPC request.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use crate::{
    balance::{Balance, InFlight},
    connect::{Tls, TlsError},
    dice::Dice,
    discovery::{DnsResolver, Host, HostError, Preset, PresetError, ResolverError, Sources},
    dispatch::{Answer, Dispatcher, Failure, Job, Placement, refuse},
    request::{Body, BoxError, Call, Class, Collected, Protocol, collect},
    route::{Reason, depth},
    topology::{HttpApi, Lookup, PeerId, Settings, Topology, TopologyHandle},
    transport::Transport,
};

/// Bodies up to this size are looked into and kept for another attempt; Qdrant's own limit for JSON.
const DEFAULT_BODY_LIMIT: usize = 32 << 20;

const EXPLAIN: HeaderName = HeaderName::from_static("x-qdrant-router-explain");

/// Sends each request straight to the node that holds its data.
///
/// A Tower service over `http::Request`s of either protocol: gRPC where the content type says so,
/// REST otherwise. Cloning is cheap, and all clones share their connections and their view of the
/// cluster. The service never fails: where no node answers, the response says so in the
/// client's protocol.
///
/// ```no_run
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use qdrant_router::Router;
/// use tower::ServiceExt;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let router = Router::builder()
///     .headless("qdrant-headless.demo.svc")
///     .fallback("qdrant.demo.svc")
///     .build()?;
///
/// let request = http::Request::post("/collections/books/points/count").body(Full::<Bytes>::from("{}"))?;
/// let response = router.oneshot(request).await?;
/// println!("{}", response.status());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Router(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dispatcher: Dispatcher,
    body_limit: usize,
    /// Drops connections to addresses that are no longer nodes.
    _janitor: AbortOnDrop,
}

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
    seed: Option<u64>,
}

/// TLS towards the nodes.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// The CA certificates to trust, in PEM; the system's where `None`.
    pub roots: Option<Vec<u8>>,
    /// The name that every node's certificate is checked against. Default: the headless Service, or
    /// the first fixed node.
    pub server_name: Option<String>,
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

/// How a request was routed. Every response of a [`Router`] carries one in its extensions.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Routed {
    /// The protocol of the request.
    pub protocol: Protocol,
    /// What it worked on.
    pub class: Class,
    /// Why it went where it went; `None` where there was nobody to send it to.
    pub reason: Option<Reason>,
    /// The node that answered: its pod name where known, else its address.
    pub node: Option<String>,
    /// The peer that answered, where known.
    pub peer: Option<PeerId>,
    /// How many times it was sent.
    pub attempts: usize,
    /// The internal RPCs that Qdrant was expected to need for it, where that can be told.
    pub expected_rpcs: Option<u32>,
    /// Whether a node answered.
    pub answered: bool,
}

/// What is known of a request before it is sent.
struct Prepared {
    placement: Placement,
    collection: Option<String>,
    snapshot: Arc<Topology>,
    body: Body,
}

/// The body of a response: streamed from the node as the client takes it.
#[derive(Debug)]
pub struct ResponseBody(ResponseBodyKind);

#[derive(Debug)]
enum ResponseBodyKind {
    /// With the guard that counts the request as in flight until its last byte.
    Node(Incoming, Option<InFlight>),
    Local(Bytes),
}

#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// === impl Router ===

impl Router {
    /// Starts to configure a router.
    pub fn builder() -> RouterBuilder {
        RouterBuilder {
            headless: None,
            nodes: Vec::new(),
            fallback: Vec::new(),
            preset: None,
            rest_port: crate::discovery::REST_PORT,
            grpc_port: crate::discovery::GRPC_PORT,
            dns: None,
            api_key: None,
            tls: None,
            settings: Settings::default(),
            body_limit: DEFAULT_BODY_LIMIT,
            seed: None,
        }
    }

    /// The router's view of the cluster, which it keeps fresh.
    #[must_use]
    pub fn topology(&self) -> &TopologyHandle {
        &self.0.dispatcher.topology
    }

    /// Load and health of the nodes.
    #[must_use]
    pub fn balance(&self) -> &Balance {
        &self.0.dispatcher.balance
    }

    async fn answer<B>(self, request: Request<B>) -> Response<ResponseBody>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut head, body) = request.into_parts();
        let explain = head.headers.remove(EXPLAIN).is_some_and(|value| value == "1");
        let protocol = Protocol::of(&head.headers);
        let call = Call::of(protocol, &head.method, &head.uri);
        let mut routed = Routed::unanswered(&call);

        let prepared = self.prepare(&call, &head.headers, body).await;
        let mut job = match prepared {
            Ok(Prepared { placement, collection, snapshot, body }) => {
                Job { protocol, class: call.class, placement, collection, snapshot, head, body }
            }
            Err(error) => {
                let failure = Failure::ClientGone(error.to_string());
                return local(refuse(protocol, &failure), routed);
            }
        };
        let dispatcher = &self.0.dispatcher;
        let mut response = match dispatcher.send(&mut job).await {
            Ok(Answer { response, plan, attempts, in_flight }) => {
                routed.reason = Some(plan.reason);
                routed.peer = plan.peer;
                routed.node = Some(label(&job.snapshot, plan.peer, plan.address));
                routed.attempts = attempts;
                routed.expected_rpcs = plan.expected_rpcs;
                routed.answered = true;
                // A gRPC error comes with a success of HTTP; taking it for a change does no harm.
                if call.class == Class::Consensus && response.status().is_success() {
                    dispatcher.topology.note_change(plan.address, job.collection.as_deref());
                }
                let mut response =
                    response.map(|body| ResponseBody(ResponseBodyKind::Node(body, Some(in_flight))));
                response.extensions_mut().insert(routed.clone());
                response
            }
            Err(failure) => local(refuse(protocol, &failure), routed.clone()),
        };
        if explain {
            routed.write_headers(&job.snapshot, response.headers_mut());
        }
        response
    }

    /// Finds out where a request belongs, reading its body where that matters.
    async fn prepare<B>(&self, call: &Call, headers: &HeaderMap, body: B) -> Result<Prepared, BoxError>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let topology = &self.0.dispatcher.topology;
        let unread = |placement, body| Prepared {
            placement,
            collection: call.collection(&[]).map(str::to_owned),
            snapshot: topology.snapshot(),
            body,
        };
        // Uploads and what is not known may be endless: passed on as they come.
        if matches!(call.class, Class::NodeLocal | Class::Unknown) {
            return Ok(unread(Placement::Class, Body::stream(body)));
        }
        let body = match collect(body, self.0.body_limit).await? {
            Collected::Whole(bytes) => bytes,
            Collected::TooLarge(body) if call.is_on_points() => {
                return Ok(unread(Placement::Opaque(Reason::NotUnderstood), body));
            }
            Collected::TooLarge(body) => return Ok(unread(Placement::Class, body)),
        };
        if !call.is_on_points() {
            return Ok(unread(Placement::Class, Body::Full(body)));
        }
        let (placement, snapshot) = self.place(call, headers, &body).await;
        let collection = call.collection(&body).map(str::to_owned);
        Ok(Prepared { placement, collection, snapshot, body: Body::Full(body) })
    }

    /// Where an operation on points belongs.
    async fn place(&self, call: &Call, headers: &HeaderMap, body: &[u8]) -> (Placement, Arc<Topology>) {
        let topology = &self.0.dispatcher.topology;
        let Some(name) = call.collection(body) else {
            return (Placement::Opaque(Reason::NotUnderstood), topology.snapshot());
        };
        let snapshot = topology.knowing(name).await;
        let Some(Lookup::Found(collection)) = snapshot.collection(name) else {
            return (Placement::Opaque(Reason::UnknownCollection), snapshot);
        };
        let depth = depth(collection);
        let is_encoded = depth != Default::default() && headers.contains_key(header::CONTENT_ENCODING);
        let placement = match call.intent(body, depth) {
            Ok(intent) if !is_encoded => Placement::Points(collection.clone(), intent),
            _ => Placement::Opaque(Reason::NotUnderstood),
        };
        (placement, snapshot)
    }
}

impl<B> tower::Service<Request<B>> for Router
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let router = self.clone();
        Box::pin(async move { Ok(router.answer(request).await) })
    }
}

fn local(response: Response<Bytes>, routed: Routed) -> Response<ResponseBody> {
    let mut response = response.map(|bytes| ResponseBody(ResponseBodyKind::Local(bytes)));
    response.extensions_mut().insert(routed);
    response
}

/// The name of a node for people.
fn label(snapshot: &Topology, peer: Option<PeerId>, address: crate::topology::Address) -> String {
    peer.and_then(|peer| snapshot.node(peer))
        .map_or_else(|| address.ip.to_string(), crate::topology::Node::label)
}

// === impl Routed ===

impl Routed {
    fn unanswered(call: &Call) -> Self {
        Self {
            protocol: call.protocol,
            class: call.class,
            reason: None,
            node: None,
            peer: None,
            attempts: 0,
            expected_rpcs: None,
            answered: false,
        }
    }

    fn write_headers(&self, snapshot: &Topology, headers: &mut HeaderMap) {
        let mut set = |name: &'static str, value: String| {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        if let Some(node) = &self.node {
            set("x-qdrant-router-node", node.clone());
        }
        if let Some(reason) = self.reason {
            set("x-qdrant-router-reason", reason.as_str().to_owned());
        }
        set("x-qdrant-router-attempts", self.attempts.to_string());
        if let Some(epoch) = snapshot.epoch() {
            set("x-qdrant-router-epoch", epoch.to_string());
        }
    }
}

// === impl ResponseBody ===

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.get_mut().0 {
            ResponseBodyKind::Node(body, in_flight) => {
                let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
                if frame.is_none() {
                    in_flight.take();
                }
                Poll::Ready(frame)
            }
            ResponseBodyKind::Local(bytes) if bytes.is_empty() => Poll::Ready(None),
            ResponseBodyKind::Local(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            ResponseBodyKind::Node(body, _) => body.is_end_stream(),
            ResponseBodyKind::Local(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            ResponseBodyKind::Node(body, _) => body.size_hint(),
            ResponseBodyKind::Local(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

// === impl RouterBuilder ===

impl RouterBuilder {
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

    /// The DNS server to ask. Default: the system's.
    pub fn dns(mut self, server: SocketAddr) -> Self {
        self.dns = Some(server);
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
    /// stream to any node. Default: 32 MiB, Qdrant's own limit for JSON.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
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
        let sources = self.sources()?;
        let tls = match self.tls {
            None => None,
            Some(options) => {
                let default_name =
                    || sources.headless.iter().chain(&sources.nodes).map(|host| host.name.clone()).next();
                let name = options.server_name.or_else(default_name).unwrap_or_default();
                Some(Tls::new(options.roots.as_deref(), &name)?)
            }
        };
        let resolver = match self.dns {
            Some(server) => DnsResolver::at(server)?,
            None => DnsResolver::system()?,
        };
        let dice = Arc::new(self.seed.map_or_else(Dice::random, Dice::seeded));
        let balance = Arc::new(Balance::default());
        let discovery = sources.follow(resolver, dice.clone());
        let api = HttpApi::new(self.api_key, tls.as_ref());
        let topology =
            TopologyHandle::follow(discovery.clone(), api, balance.clone(), self.settings, dice.clone());
        let dispatcher = Dispatcher { transport: Transport::new(tls), balance, topology, discovery, dice };
        Ok(Router(Arc::new_cyclic(|router| Inner {
            dispatcher,
            body_limit: self.body_limit,
            _janitor: AbortOnDrop(tokio::spawn(sweep(router.clone()))),
        })))
    }

    fn sources(&self) -> Result<Sources, BuildError> {
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
                sources.fallback.push(preset.fallback());
            }
        }
        if sources.headless.is_none() && sources.nodes.is_empty() {
            return Err(BuildError::NoNodes);
        }
        Ok(sources)
    }
}

/// Closes connections to addresses that are nodes no longer, whenever the topology changes.
async fn sweep(router: std::sync::Weak<Inner>) {
    let Some(mut topology) = router.upgrade().map(|router| router.dispatcher.topology.clone()) else {
        return;
    };
    loop {
        topology.changed().await;
        let Some(router) = router.upgrade() else { return };
        let snapshot = topology.snapshot();
        let is_node = |address| snapshot.nodes().iter().any(|node| node.address == address);
        router
            .dispatcher
            .transport
            .retain(|address| is_node(address) || snapshot.fallback().contains(&address));
    }
}
