//! Pooled connections to the nodes: HTTP/1.1 for REST, HTTP/2 for gRPC.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use dashmap::DashMap;
use http::{
    HeaderMap, HeaderName, Request, Response, Uri, Version,
    header::{self, HeaderValue},
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, Error as ClientError, ResponseFuture},
    rt::{TokioExecutor, TokioTimer},
};
use rustc_hash::FxBuildHasher;

use crate::{
    connect::{Dialer, Tls},
    request::{Body, Protocol},
    topology::{Address, chain},
};

/// Qdrant closes idle HTTP/1.1 connections after five seconds; ours go first, so that no request is
/// written into a connection that is being closed.
const REST_IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Idle HTTP/1.1 connections kept per node.
const REST_IDLE_CONNECTIONS: usize = 256;

/// What is read of an answer before the client has taken it. Every client that does not read has it filled.
const REST_BUFFER: usize = 64 << 10;

/// A quiet HTTP/2 connection is asked whether it still lives this often,
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// and is given up when the answer takes longer than this.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Flow-control windows. A reply of ten megabytes should not wait for a round trip per 64 KiB.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Connections to every node that requests were sent to.
pub(crate) struct Transport {
    tls: Option<Tls>,
    upstreams: DashMap<Address, Arc<Upstream>, FxBuildHasher>,
}

/// Connections to one node.
struct Upstream {
    rest: Client<Dialer, Body>,
    grpc: Client<Dialer, Body>,
    rest_authority: Authority,
    grpc_authority: Authority,
}

/// A request under way; resolves with the head of its answer.
pub(crate) struct Exchange(ResponseFuture);

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

// === impl Transport ===

impl Transport {
    pub(crate) fn new(tls: Option<Tls>) -> Self {
        Self { tls, upstreams: DashMap::default() }
    }

    /// Sends `request` to the node at `address`. Its URI is reduced to path and query, which go out
    /// as they came in; headers that concern one connection only are dropped.
    pub(crate) fn send(
        &self,
        address: Address,
        protocol: Protocol,
        mut request: Request<Body>,
    ) -> Result<Exchange, SendError> {
        let upstream = self.upstream(address).map_err(|reason| SendError::not_sent(reason.to_string()))?;
        let (client, authority, version) = match protocol {
            Protocol::Rest => (&upstream.rest, &upstream.rest_authority, Version::HTTP_11),
            Protocol::Grpc => (&upstream.grpc, &upstream.grpc_authority, Version::HTTP_2),
        };
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(if self.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = Some(authority.clone());
        parts.path_and_query =
            Some(request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
        *request.uri_mut() =
            Uri::from_parts(parts).map_err(|error| SendError::not_sent(error.to_string()))?;
        *request.version_mut() = version;
        strip_request_headers(request.headers_mut(), protocol);

        Ok(Exchange(client.request(request)))
    }

    /// Drops the connections to addresses that are no longer of interest.
    pub(crate) fn retain(&self, is_wanted: impl Fn(Address) -> bool) {
        self.upstreams.retain(|&address, _| is_wanted(address));
    }

    fn upstream(&self, address: Address) -> Result<Arc<Upstream>, http::Error> {
        if let Some(upstream) = self.upstreams.get(&address) {
            return Ok(upstream.clone());
        }
        let upstream = Arc::new(Upstream::new(address, self.tls.as_ref())?);
        Ok(self.upstreams.entry(address).or_insert(upstream).clone())
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("upstreams", &self.upstreams.len()).finish_non_exhaustive()
    }
}

// === impl Exchange ===

impl Future for Exchange {
    type Output = Result<Response<Incoming>, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(match outcome {
            Ok(mut response) => {
                strip_connection_headers(response.headers_mut());
                Ok(response)
            }
            Err(error) => Err(SendError::from(&error)),
        })
    }
}

// === impl Upstream ===

impl Upstream {
    fn new(address: Address, tls: Option<&Tls>) -> Result<Self, http::Error> {
        let offering = |protocol: &[u8]| tls.map(|tls| tls.offering(protocol));
        let rest = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(REST_IDLE_TIMEOUT)
            .pool_max_idle_per_host(REST_IDLE_CONNECTIONS)
            .http1_max_buf_size(REST_BUFFER)
            .build(Dialer::new(address.rest(), offering(b"http/1.1")));
        let grpc = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .build(Dialer::new(address.grpc(), offering(b"h2")));
        Ok(Self {
            rest,
            grpc,
            rest_authority: Authority::try_from(address.rest().to_string())?,
            grpc_authority: Authority::try_from(address.grpc().to_string())?,
        })
    }
}

// === impl SendError ===

impl SendError {
    /// The answer broke off.
    pub(crate) fn broken(error: &hyper::Error) -> Self {
        Self { sent: Sent::Unknown, no_connection: false, reason: chain(error) }
    }

    fn not_sent(reason: String) -> Self {
        Self { sent: Sent::No, no_connection: false, reason }
    }
}

impl From<&ClientError> for SendError {
    fn from(error: &ClientError) -> Self {
        let sent = if error.is_connect() || was_refused(error) { Sent::No } else { Sent::Unknown };
        // Requests that waited for a connection which another one gave up fail to connect, too, but
        // that says nothing about the node.
        let no_connection = error.is_connect() && is_io(error);
        Self { sent, no_connection, reason: chain(error) }
    }
}

fn is_io(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(<dyn std::error::Error>::is::<std::io::Error>)
}

/// Whether the node said that it has not looked at the request: a refused stream, or one beyond the
/// last that its GOAWAY names.
fn was_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.reason() == Some(h2::Reason::REFUSED_STREAM)
                || (error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR));
        }
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        cause = error.source();
    }
    false
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

fn strip_request_headers(headers: &mut HeaderMap, protocol: Protocol) {
    strip_connection_headers(headers);
    // Each connection has its own host, and its own way to say that a body is welcome.
    headers.remove(header::HOST);
    headers.remove(header::EXPECT);
    headers.remove(header::TE);
    // Trailers do not go on.
    headers.remove(header::TRAILER);
    if protocol == Protocol::Grpc {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Drops `Connection`, every header it names, and the others that concern one connection only.
fn strip_connection_headers(headers: &mut HeaderMap) {
    if let Some(connection) = headers.remove(header::CONNECTION) {
        let named = connection.to_str().unwrap_or_default().split(',');
        let named: Vec<HeaderName> = named.filter_map(|name| name.trim().parse().ok()).collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_one_connection_stay_with_it() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("te", "trailers, deflate"),
            ("host", "router"),
            ("expect", "100-continue"),
            ("trailer", "x-sum"),
            ("api-key", "secret"),
            ("x-request-id", "7"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let names = |headers: &HeaderMap| {
            let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).map(str::to_owned).collect();
            names.sort_unstable();
            names
        };
        let mut rest = headers.clone();
        strip_request_headers(&mut rest, Protocol::Rest);
        assert_eq!(names(&rest), ["api-key", "x-request-id"]);
        strip_request_headers(&mut headers, Protocol::Grpc);
        assert_eq!(names(&headers), ["api-key", "te", "x-request-id"]);
        assert_eq!(headers["te"], "trailers");
    }
}
