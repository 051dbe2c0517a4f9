//! Pooled connections to the nodes: HTTP/1.1 for REST, HTTP/2 for gRPC.
//!
//! A request goes out from the parts that its job keeps, so that it can go out again; nothing of it is copied but what
//! a protocol's own table of headers takes.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use dashmap::DashMap;
use http::{HeaderMap, HeaderName, Method, Response, Uri, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use qdrant_router_http2 as http2;
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::{
    connect::{Dialer, Tls},
    request::{Body, Protocol},
    topology::{Address, chain},
};

mod grpc;
mod open;
mod rest;
mod wire;

pub use self::open::Connections;
use self::{
    grpc::GrpcBody,
    open::{Census, Counts},
    rest::RestBody,
};

/// Connections to every node that requests were sent to.
pub(crate) struct Transport {
    tls: Option<Tls>,
    upstreams: DashMap<Address, Arc<Upstream>, FxBuildHasher>,
    /// Shared with those that are [afresh](Self::afresh).
    census: Arc<Census>,
    /// Whether one thread reads all requests and writes them. Of several, another one would take a request over that
    /// waits for others, which costs more than is gained.
    is_alone: bool,
}

/// Connections to one node.
struct Upstream {
    rest: Arc<rest::Pool>,
    grpc: Arc<grpc::Pool>,
    /// Kept as long as there is a pool that counts here.
    _counts: Arc<Counts>,
}

/// The head of a request that is to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
}

/// A request under way; resolves with the head of its answer.
pub(crate) enum Exchange {
    Rest { future: Pin<Box<dyn Future<Output = Result<Response<RestBody>, SendError>> + Send>>, begun: Begun },
    Grpc(grpc::Exchange),
}

/// Whether a request may have left: before that it waits for a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Begun(Arc<AtomicBool>);

/// The body of a node's answer.
#[derive(Debug)]
pub(crate) enum NodeBody {
    Rest(RestBody),
    Grpc(GrpcBody),
}

/// A request got no answer.
#[derive(Debug)]
pub(crate) struct SendError {
    pub(crate) sent: Sent,
    /// Whether the node could not even be connected to.
    pub(crate) no_connection: bool,
    pub(crate) reason: String,
}

/// What is known of a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The node has certainly not processed it.
    No,
    /// It may have.
    Unknown,
}

/// The answer of a node broke off.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the answer of the node broke off: {0}; the request may be made again")]
pub struct BrokenAnswer(String);

// === impl Transport ===

impl Transport {
    pub(crate) fn new(tls: Option<Tls>) -> Self {
        let runtime = Handle::try_current().map(|runtime| runtime.runtime_flavor());
        let is_alone = matches!(runtime, Ok(RuntimeFlavor::CurrentThread));
        Self { tls, upstreams: DashMap::default(), census: Arc::default(), is_alone }
    }

    /// The same nodes by connections of its own.
    pub(crate) fn afresh(&self) -> Self {
        Self { census: self.census.clone(), ..Self::new(self.tls.clone()) }
    }

    /// Resolves when a request should be sent: over REST, after the tasks that can run now have run.
    ///
    /// The requests of many clients go out one right after the other then. A node that is idle is woken by the first of
    /// them and finds the others there, where it would otherwise fall asleep between two and have to be woken for each.
    /// Connections of gRPC gather by themselves.
    pub(crate) async fn gather(&self, protocol: Protocol) {
        if self.is_alone && protocol == Protocol::Rest {
            http2::after_others().await;
        }
    }

    /// Sends the request of `head` with `body` to the node at `address`. Path and query go out as they came in; headers
    /// that concern one connection only stay behind.
    pub(crate) fn send(
        &self,
        address: Address,
        protocol: Protocol,
        head: Outgoing<'_>,
        body: Body,
    ) -> Exchange {
        let upstream = self.upstream(address);
        match protocol {
            Protocol::Rest => {
                let begun = Begun::default();
                let flag = begun.clone();
                let (pool, request) = (upstream.rest.clone(), upstream.rest.outgoing(head, body));
                // Made inside its box, and not copied into it.
                let exchange =
                    Box::write(Box::new_uninit(), async move { pool.exchange(request, &flag).await });
                Exchange::Rest { future: Box::into_pin(exchange), begun }
            }
            Protocol::Grpc => Exchange::Grpc(upstream.grpc.send(head, body)),
        }
    }

    /// Drops the connections to addresses that are no longer of interest, and those that have been idle for too long.
    pub(crate) fn retain(&self, is_wanted: impl Fn(Address) -> bool) {
        self.upstreams.retain(|&address, upstream| {
            upstream.rest.prune();
            is_wanted(address)
        });
        self.census.prune();
    }

    /// The connections to the node at `address`, those of transports that are [afresh](Self::afresh) included.
    pub(crate) fn connections(&self, address: Address) -> Connections {
        self.census.read(address)
    }

    fn upstream(&self, address: Address) -> Arc<Upstream> {
        if let Some(upstream) = self.upstreams.get(&address) {
            return upstream.clone();
        }
        let new = || Arc::new(Upstream::new(address, self.tls.as_ref(), self.census.of(address)));
        self.upstreams.entry(address).or_insert_with(new).clone()
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("upstreams", &self.upstreams.len()).finish_non_exhaustive()
    }
}

// === impl Upstream ===

impl Upstream {
    fn new(address: Address, tls: Option<&Tls>, counts: Arc<Counts>) -> Self {
        let offering = |protocol: &[u8]| tls.map(|tls| tls.offering(protocol));
        let rest = Dialer::new(address.rest(), offering(b"http/1.1"));
        let grpc = Dialer::new(address.grpc(), offering(b"h2"));
        Self {
            rest: Arc::new(rest::Pool::new(rest, counts.rest.clone())),
            grpc: Arc::new(grpc::Pool::new(grpc, counts.grpc.clone())),
            _counts: counts,
        }
    }
}

// === impl Begun ===

impl Begun {
    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

// === impl Exchange ===

impl Exchange {
    /// Whether the request may have left.
    pub(crate) fn is_begun(&self) -> bool {
        match self {
            Self::Rest { begun, .. } => begun.0.load(Ordering::Relaxed),
            Self::Grpc(exchange) => exchange.is_begun(),
        }
    }
}

impl Future for Exchange {
    type Output = Result<Response<NodeBody>, SendError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Rest { future, .. } => future.as_mut().poll(cx).map_ok(|answer| answer.map(NodeBody::Rest)),
            Self::Grpc(exchange) => Pin::new(exchange).poll(cx).map_ok(|answer| answer.map(NodeBody::Grpc)),
        }
    }
}

// === impl NodeBody ===

impl HttpBody for NodeBody {
    type Data = Bytes;
    type Error = BrokenAnswer;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenAnswer>>> {
        match self.get_mut() {
            Self::Rest(body) => Pin::new(body).poll_frame(cx),
            Self::Grpc(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Rest(body) => body.is_end_stream(),
            Self::Grpc(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Rest(body) => body.size_hint(),
            Self::Grpc(body) => body.size_hint(),
        }
    }
}

// === impl BrokenAnswer ===

impl BrokenAnswer {
    fn new(error: &(dyn std::error::Error + 'static)) -> Self {
        Self(chain(error))
    }
}

// === impl SendError ===

impl SendError {
    /// The request never left.
    pub(crate) fn not_sent(reason: String) -> Self {
        Self { sent: Sent::No, no_connection: false, reason }
    }

    /// There is no way to the node; unless it is this host that has run out of descriptors, ports or memory, which says
    /// nothing about the node.
    fn no_connection(error: &std::io::Error) -> Self {
        const ENOMEM: i32 = 12;
        const ENFILE: i32 = 23;
        const EMFILE: i32 = 24;
        const EADDRNOTAVAIL: i32 = 99;
        const ENOBUFS: i32 = 105;
        let is_ours =
            matches!(error.raw_os_error(), Some(ENOMEM | ENFILE | EMFILE | EADDRNOTAVAIL | ENOBUFS));
        Self { no_connection: !is_ours, ..Self::not_sent(chain(error)) }
    }
}

impl From<BrokenAnswer> for SendError {
    fn from(error: BrokenAnswer) -> Self {
        Self { sent: Sent::Unknown, no_connection: false, reason: error.0 }
    }
}

// === headers of one connection ===

/// Whether a header of a request says nothing beyond the connection that it came by: each connection has its own host,
/// and its own way to say that a body is welcome.
fn is_of_one_connection(name: &HeaderName) -> bool {
    // Trailers of a request do not go on.
    http2::is_of_one_connection(name)
        || matches!(*name, header::HOST | header::TE | header::EXPECT | header::TRAILER)
}

/// Drops `Connection`, every header it names, and the others that concern one connection only.
fn strip_connection_headers(headers: &mut HeaderMap) {
    if !headers.keys().any(http2::is_of_one_connection) {
        return;
    }
    let named = wire::Named::by(headers);
    let names =
        headers.keys().filter(|name| http2::is_of_one_connection(name) || named.contains(name)).cloned();
    let names: SmallVec<[HeaderName; 4]> = names.collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rest_is_sent_after_what_can_run_has_run() {
        let transport = Transport::new(None);
        for (protocol, order) in
            [(Protocol::Rest, ["other", "request"]), (Protocol::Grpc, ["request", "other"])]
        {
            let seen = std::sync::Mutex::new(Vec::new());
            let note = |what| seen.lock().expect("no panic").push(what);
            let request = async {
                transport.gather(protocol).await;
                note("request");
            };
            tokio::join!(request, async { note("other") });
            assert_eq!(seen.into_inner().expect("no panic"), order, "{protocol:?}");
        }
    }
}
