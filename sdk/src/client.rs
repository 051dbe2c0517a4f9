//! [`Qdrant`]: the methods of `qdrant_client::Qdrant`, routed.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use qdrant_client::{
    QdrantError,
    qdrant::{
        collections_client::CollectionsClient, points_client::PointsClient, qdrant_client::QdrantClient,
        snapshots_client::SnapshotsClient,
    },
};
use tonic::Status;

use crate::{
    connect::TlsOptions,
    dispatch::RetryWrites,
    route::Routing,
    service::{BuildError, ResponseBody, Router, RouterBuilder},
    topology::Settings,
};

/// Methods that hand their request to one RPC and return its reply.
macro_rules! rpcs {
    ($($(#[$meta:meta])* $service:ident: $name:ident($request:ty) = $rpc:ident -> $reply:ty;)*) => {
        impl crate::Qdrant {
            $(
                $(#[$meta])*
                ///
                /// # Errors
                ///
                /// What Qdrant answers, or `UNAVAILABLE` where no node could be reached.
                pub async fn $name(&self, request: impl Into<$request>) -> crate::client::QdrantResult<$reply> {
                    Ok(self.$service().$rpc(request.into()).await?.into_inner())
                }
            )*
        }
    };
}

/// Methods without arguments.
macro_rules! bare_rpcs {
    ($($(#[$meta:meta])* $service:ident: $name:ident() = $rpc:ident($request:expr) -> $reply:ty;)*) => {
        impl crate::Qdrant {
            $(
                $(#[$meta])*
                ///
                /// # Errors
                ///
                /// What Qdrant answers, or `UNAVAILABLE` where no node could be reached.
                pub async fn $name(&self) -> crate::client::QdrantResult<$reply> {
                    Ok(self.$service().$rpc($request).await?.into_inner())
                }
            )*
        }
    };
}

use {bare_rpcs, rpcs};

mod bulk;
mod collections;
mod points;

pub use self::bulk::Progress;

/// How long a call may take unless the builder says otherwise; the official client's default.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// What the methods return: the same as those of the official client.
pub(crate) type QdrantResult<T> = Result<T, QdrantError>;

/// A client for a Qdrant cluster that sends each call straight to the node that holds its data.
///
/// Takes the place of `qdrant_client::Qdrant`: the same methods, builder types and results. Only the
/// construction differs, because it names a cluster rather than one URL.
///
/// ```no_run
/// use qdrant_client::qdrant::{PointStruct, UpsertPointsBuilder};
/// use qdrant_router::Qdrant;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Qdrant::builder()
///     .headless("qdrant-headless.demo.svc")
///     .fallback("qdrant.demo.svc")
///     .api_key("the key of the application")
///     .build()?;
///
/// let point = PointStruct::new(42, vec![0.1; 4], [("title", "Dune".into())]);
/// client.upsert_points(UpsertPointsBuilder::new("books", vec![point]).wait(true)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Qdrant {
    channel: Channel,
}

/// Builds a [`Qdrant`].
#[derive(Clone, Debug)]
#[must_use]
pub struct QdrantBuilder {
    router: RouterBuilder,
    api_key: Option<String>,
    topology_api_key: Option<String>,
    timeout: Duration,
}

/// The router as a gRPC channel: adds the client's key, its own headers, and the deadline.
#[derive(Clone, Debug)]
pub(crate) struct Channel {
    router: Router,
    headers: Arc<HeaderMap>,
    timeout: Duration,
}

// === impl Qdrant ===

impl Qdrant {
    /// Starts to configure a client.
    pub fn builder() -> QdrantBuilder {
        QdrantBuilder {
            router: Router::builder(),
            api_key: None,
            topology_api_key: None,
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// A client on a router that exists already, sharing its connections and its view of the cluster. It
    /// carries no key and waits five seconds for each call; see [`with_header`](Self::with_header) and
    /// [`with_timeout`](Self::with_timeout).
    #[must_use]
    pub fn with_router(router: Router) -> Self {
        Self { channel: Channel { router, headers: Arc::default(), timeout: DEFAULT_TIMEOUT } }
    }

    /// The same client with one more header on every call.
    ///
    /// A header that HTTP cannot carry is left out, as the official client does.
    #[must_use]
    pub fn with_header(&self, name: &str, value: &str) -> Self {
        let mut client = self.clone();
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            Arc::make_mut(&mut client.channel.headers).append(name, value);
        }
        client
    }

    /// The same client with another time for each call, repeats included. See [`QdrantBuilder::timeout`].
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        let mut client = self.clone();
        client.channel.timeout = timeout;
        client
    }

    /// The router beneath: a Tower service for requests that have no method here.
    #[must_use]
    pub fn router(&self) -> &Router {
        &self.channel.router
    }

    fn points(&self) -> PointsClient<Channel> {
        PointsClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    fn collections(&self) -> CollectionsClient<Channel> {
        CollectionsClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    fn service(&self) -> QdrantClient<Channel> {
        QdrantClient::new(self.channel.clone())
    }
}

// === impl QdrantBuilder ===

impl QdrantBuilder {
    /// See [`RouterBuilder::headless`].
    pub fn headless(self, name: impl Into<String>) -> Self {
        self.router(|router| router.headless(name))
    }

    /// See [`RouterBuilder::node`].
    pub fn node(self, host: impl Into<String>) -> Self {
        self.router(|router| router.node(host))
    }

    /// See [`RouterBuilder::fallback`].
    pub fn fallback(self, host: impl Into<String>) -> Self {
        self.router(|router| router.fallback(host))
    }

    /// See [`RouterBuilder::preset`].
    pub fn preset(self, preset: impl Into<String>) -> Self {
        self.router(|router| router.preset(preset))
    }

    /// See [`RouterBuilder::dns`].
    pub fn dns(self, server: impl Into<Option<SocketAddr>>) -> Self {
        self.router(|router| router.dns(server))
    }

    /// See [`RouterBuilder::upstream_rest_port`].
    pub fn upstream_rest_port(self, port: u16) -> Self {
        self.router(|router| router.upstream_rest_port(port))
    }

    /// See [`RouterBuilder::upstream_grpc_port`].
    pub fn upstream_grpc_port(self, port: u16) -> Self {
        self.router(|router| router.upstream_grpc_port(port))
    }

    /// See [`RouterBuilder::tls`].
    pub fn tls(self, options: TlsOptions) -> Self {
        self.router(|router| router.tls(options))
    }

    /// See [`RouterBuilder::routing`].
    pub fn routing(self, routing: Routing) -> Self {
        self.router(|router| router.routing(routing))
    }

    /// See [`RouterBuilder::retry_writes`].
    pub fn retry_writes(self, policy: RetryWrites) -> Self {
        self.router(|router| router.retry_writes(policy))
    }

    /// See [`RouterBuilder::topology_settings`].
    pub fn topology_settings(self, settings: Settings) -> Self {
        self.router(|router| router.topology_settings(settings))
    }

    /// The key that every call carries. Unless [`topology_api_key`](Self::topology_api_key) is given,
    /// the topology is read with it too, which needs global read access.
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// The key that the topology is read with, for applications whose own key is limited to some
    /// collections. A read-only key is enough.
    pub fn topology_api_key(mut self, key: impl Into<String>) -> Self {
        self.topology_api_key = Some(key.into());
        self
    }

    /// How long a call may take, repeats included. Default: five seconds.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Builds the client, which starts to look for the nodes at once. Must be called on a tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// When the configuration cannot work.
    pub fn build(self) -> Result<Qdrant, BuildError> {
        let mut headers = HeaderMap::new();
        if let Some(key) = &self.api_key {
            let mut key = HeaderValue::from_str(key).map_err(|_| BuildError::ApiKey)?;
            key.set_sensitive(true);
            headers.insert("api-key", key);
        }
        let router = match self.topology_api_key.as_ref().or(self.api_key.as_ref()) {
            Some(key) => self.router.api_key(key)?,
            None => self.router,
        };
        let channel = Channel { router: router.build()?, headers: Arc::new(headers), timeout: self.timeout };
        Ok(Qdrant { channel })
    }

    /// Configures the router beneath, for what has no method here.
    ///
    /// ```
    /// let client = qdrant_router::Qdrant::builder()
    ///     .preset("kubeblocks:my-cluster")
    ///     .router(|router| router.max_requests(1_000));
    /// ```
    pub fn router(mut self, configure: impl FnOnce(RouterBuilder) -> RouterBuilder) -> Self {
        self.router = configure(self.router);
        self
    }
}

// === impl Channel ===

impl tower::Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<ResponseBody>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<tonic::body::Body>) -> Self::Future {
        let headers = request.headers_mut();
        for (name, value) in &*self.headers {
            headers.append(name, value.clone());
        }
        // At most eight digits, of which milliseconds give a day.
        let deadline = format!("{}m", self.timeout.as_millis().min(99_999_999));
        if let Ok(deadline) = HeaderValue::from_str(&deadline) {
            headers.entry("grpc-timeout").or_insert(deadline);
        }
        let answer = tower::Service::call(&mut self.router, request);
        let timeout = self.timeout;
        Box::pin(async move {
            match tokio::time::timeout(timeout, answer).await {
                Ok(Ok(response)) => Ok(response),
                Ok(Err(never)) => match never {},
                Err(_) => Err(Status::deadline_exceeded(format!("no answer within {timeout:?}"))),
            }
        })
    }
}
