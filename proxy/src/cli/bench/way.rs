//! The ways that requests can take.
//!
//! Over gRPC they are asked as applications ask: with the official client, or with the SDK's own.

use std::{
    convert::Infallible,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response, Uri, uri::Authority};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use qdrant_client::QdrantError;
use qdrant_router::Router;
use tower::ServiceExt;

use super::{
    super::CliError,
    work::{Ask, Rpc, TIMEOUT, Work},
};

/// A way as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Node,
    RoundRobin,
    Fallback,
    Sdk,
    Proxy(Authority),
}

/// A way to send requests.
#[derive(Clone)]
pub(super) struct Via {
    pub(super) name: String,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Router(qdrant_router::Qdrant),
    Direct(Arc<Direct>),
}

/// To addresses, without a look at the request.
struct Direct {
    http1: Client<HttpConnector, Full<Bytes>>,
    /// For REST and for gRPC.
    targets: Vec<(Authority, qdrant_client::Qdrant)>,
    next: AtomicUsize,
}

/// Has a client make a call. Both clients have the same methods.
macro_rules! call {
    ($client:expr, $rpc:expr) => {
        match $rpc {
            Rpc::Upsert(request) => $client.upsert_points(request).await.map(drop),
            Rpc::Get(request) => $client.get_points(request).await.map(drop),
            Rpc::Query(request) => $client.query(*request).await.map(drop),
            Rpc::Scroll(request) => $client.scroll(request).await.map(drop),
        }
    };
}

// === impl Way ===

impl FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "node" => Ok(Self::Node),
            "round-robin" => Ok(Self::RoundRobin),
            "fallback" => Ok(Self::Fallback),
            "sdk" => Ok(Self::Sdk),
            _ => {
                let uri = text.parse::<Uri>().ok().filter(|uri| uri.scheme_str() == Some("http"));
                let authority = uri.and_then(|uri| uri.authority().cloned()).filter(|it| it.port().is_some());
                authority.map(Self::Proxy).ok_or_else(|| {
                    "not a way; there are node, round-robin, fallback, sdk, and http://HOST:PORT of a proxy"
                        .to_owned()
                })
            }
        }
    }
}

// === impl Via ===

impl Via {
    /// The way through the cluster that `router` knows, with the key of `work`.
    pub(super) fn new(
        way: &Way,
        router: &Router,
        work: &Work,
        connections: u16,
        is_encrypted: bool,
    ) -> Result<Self, CliError> {
        let topology = router.topology().snapshot();
        let refused = |reason: &str| CliError::Argument { argument: "--through", reason: reason.to_owned() };
        if is_encrypted && *way != Way::Sdk {
            return Err(refused(
                "with TLS there is only `sdk`; leave out the others, or measure without TLS",
            ));
        }
        let place = |rest: Authority, grpc: &str| {
            let mut config = qdrant_client::Qdrant::from_url(&format!("http://{grpc}"))
                .api_key(work.key())
                .timeout(TIMEOUT)
                .skip_compatibility_check();
            config.set_pool_size(connections.into());
            Ok::<_, CliError>((rest, config.build().map_err(|error| refused(&error.to_string()))?))
        };
        let node = |address: qdrant_router::discovery::Address| {
            let rest = address.rest().to_string().parse::<Authority>();
            place(rest.map_err(|error| refused(&error.to_string()))?, &address.grpc().to_string())
        };
        let nodes = || topology.nodes().iter().filter(|node| node.reachable).map(|node| node.address);
        let none = "no node answers; `qdrant-router doctor` with the same flags tells why";
        let (name, targets) = match way {
            Way::Sdk => {
                let client = qdrant_router::Qdrant::with_router(router.clone()).with_timeout(TIMEOUT);
                let client = match work.key() {
                    Some(key) => client.with_header("api-key", key),
                    None => client,
                };
                return Ok(Self { name: "sdk".to_owned(), kind: Kind::Router(client) });
            }
            Way::Node => ("node".to_owned(), vec![node(nodes().next().ok_or_else(|| refused(none))?)?]),
            Way::RoundRobin => ("round-robin".to_owned(), nodes().map(node).collect::<Result<Vec<_>, _>>()?),
            Way::Fallback => {
                let fallback = topology.fallback().first();
                let reason = "there is no fallback, or it does not resolve; name one with --fallback";
                ("fallback".to_owned(), vec![node(*fallback.ok_or_else(|| refused(reason))?)?])
            }
            Way::Proxy(authority) => {
                (authority.to_string(), vec![place(authority.clone(), authority.as_str())?])
            }
        };
        if targets.is_empty() {
            return Err(refused(none));
        }
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let http1 = Client::builder(TokioExecutor::new()).build(connector);
        let direct = Direct { http1, targets, next: AtomicUsize::new(0) };
        Ok(Self { name, kind: Kind::Direct(Arc::new(direct)) })
    }

    /// Makes a request and waits for all of the answer; fails where it is not what was hoped for.
    pub(super) async fn ask(&self, ask: Ask) -> Result<(), String> {
        match ask {
            Ask::Rest(request) => self.rest(request).await.map(drop),
            Ask::Grpc(rpc) => self.grpc(rpc).await.map_err(|error| error.to_string()),
        }
    }

    /// The body of the answer over REST.
    pub(super) async fn rest(&self, request: Request<Full<Bytes>>) -> Result<Bytes, String> {
        let exchange = async {
            match &self.kind {
                Kind::Router(client) => {
                    let answer: Result<_, Infallible> = client.router().clone().oneshot(request).await;
                    match answer {
                        Ok(response) => judge(response).await,
                        Err(never) => match never {},
                    }
                }
                Kind::Direct(direct) => judge(direct.send(request).await?).await,
            }
        };
        match tokio::time::timeout(TIMEOUT, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {TIMEOUT:?}")),
        }
    }

    async fn grpc(&self, rpc: Rpc) -> Result<(), QdrantError> {
        match &self.kind {
            Kind::Router(client) => call!(client, rpc),
            Kind::Direct(direct) => call!(direct.next().1, rpc),
        }
    }
}

impl Direct {
    /// Each has its turn.
    fn next(&self) -> &(Authority, qdrant_client::Qdrant) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        &self.targets[number % self.targets.len()]
    }

    async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<hyper::body::Incoming>, String> {
        let (authority, _) = self.next();
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(http::uri::Scheme::HTTP);
        parts.authority = Some(authority.clone());
        *request.uri_mut() = Uri::from_parts(parts).map_err(|error| error.to_string())?;
        self.http1.request(request).await.map_err(|error| {
            let mut line = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                line = format!("{line}: {error}");
                cause = error.source();
            }
            format!("{authority}: {line}")
        })
    }
}

/// The body of an answer that says that all is well.
async fn judge<B: Body<Data = Bytes>>(response: Response<B>) -> Result<Bytes, String>
where
    B::Error: std::fmt::Display,
{
    let status = response.status();
    let body = response.collect().await.map_err(|error| format!("the answer broke off: {error}"))?.to_bytes();
    if status.is_success() {
        Ok(body)
    } else {
        Err(format!("answered {status}: {}", String::from_utf8_lossy(&body)))
    }
}
