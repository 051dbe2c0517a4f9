//! The ways that requests can take.

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
use qdrant_router::Router;
use tower::ServiceExt;

use super::{
    super::CliError,
    work::{Protocol, TIMEOUT},
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
#[derive(Clone, Debug)]
pub(super) struct Via {
    pub(super) name: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Router(Router),
    Direct(Arc<Direct>),
}

/// To addresses, without a look at the request.
#[derive(Debug)]
struct Direct {
    /// Each with connections of its own.
    http2: Vec<Client<HttpConnector, Full<Bytes>>>,
    http1: Client<HttpConnector, Full<Bytes>>,
    /// For REST and for gRPC.
    targets: Vec<(Authority, Authority)>,
    next: AtomicUsize,
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
    /// The way through the cluster that `router` knows.
    pub(super) fn new(
        way: &Way,
        router: &Router,
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
        let place = |address: qdrant_router::discovery::Address| {
            let authority = |address: std::net::SocketAddr| {
                address.to_string().parse::<Authority>().map_err(|error| refused(&error.to_string()))
            };
            Ok::<_, CliError>((authority(address.rest())?, authority(address.grpc())?))
        };
        let nodes = || topology.nodes().iter().filter(|node| node.reachable).map(|node| node.address);
        let none = "no node answers; `qdrant-router doctor` with the same flags tells why";
        let (name, targets) = match way {
            Way::Sdk => return Ok(Self { name: "sdk".to_owned(), kind: Kind::Router(router.clone()) }),
            Way::Node => ("node".to_owned(), vec![place(nodes().next().ok_or_else(|| refused(none))?)?]),
            Way::RoundRobin => ("round-robin".to_owned(), nodes().map(place).collect::<Result<Vec<_>, _>>()?),
            Way::Fallback => {
                let fallback = topology.fallback().first();
                let reason = "there is no fallback, or it does not resolve; name one with --fallback";
                ("fallback".to_owned(), vec![place(*fallback.ok_or_else(|| refused(reason))?)?])
            }
            Way::Proxy(authority) => (authority.to_string(), vec![(authority.clone(), authority.clone())]),
        };
        if targets.is_empty() {
            return Err(refused(none));
        }
        let connector = || {
            let mut connector = HttpConnector::new();
            connector.set_nodelay(true);
            connector
        };
        let http2 = || Client::builder(TokioExecutor::new()).http2_only(true).build(connector());
        let direct = Direct {
            http2: (0..connections).map(|_| http2()).collect(),
            http1: Client::builder(TokioExecutor::new()).build(connector()),
            targets,
            next: AtomicUsize::new(0),
        };
        Ok(Self { name, kind: Kind::Direct(Arc::new(direct)) })
    }

    /// Sends a request and waits for all of the answer; fails where it is not what was hoped for.
    pub(super) async fn ask(
        &self,
        request: Request<Full<Bytes>>,
        protocol: Protocol,
    ) -> Result<Bytes, String> {
        let exchange = async {
            match &self.kind {
                Kind::Router(router) => {
                    let answer: Result<_, Infallible> = router.clone().oneshot(request).await;
                    match answer {
                        Ok(response) => judge(response, protocol).await,
                        Err(never) => match never {},
                    }
                }
                Kind::Direct(direct) => judge(direct.send(request, protocol).await?, protocol).await,
            }
        };
        match tokio::time::timeout(TIMEOUT, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {TIMEOUT:?}")),
        }
    }
}

impl Direct {
    async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        protocol: Protocol,
    ) -> Result<Response<hyper::body::Incoming>, String> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let targets = self.targets.len().max(1);
        let target = self.targets.get(number % targets);
        // After each target had its turn, the next connection has.
        let http2 = self.http2.get(number / targets % self.http2.len().max(1));
        let (Some((rest, grpc)), Some(http2)) = (target, http2) else {
            return Err("there is no address".to_owned());
        };
        let (client, authority) = match protocol {
            Protocol::Rest => (&self.http1, rest),
            Protocol::Grpc => (http2, grpc),
        };
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(http::uri::Scheme::HTTP);
        parts.authority = Some(authority.clone());
        *request.uri_mut() = Uri::from_parts(parts).map_err(|error| error.to_string())?;
        client.request(request).await.map_err(|error| {
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
async fn judge<B: Body<Data = Bytes>>(response: Response<B>, protocol: Protocol) -> Result<Bytes, String>
where
    B::Error: std::fmt::Display,
{
    let status = response.status();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| format!("the answer broke off: {error}"))?;
    let trailers = body.trailers().cloned();
    let body = body.to_bytes();
    if !status.is_success() {
        return Err(format!("answered {status}: {}", String::from_utf8_lossy(&body)));
    }
    if protocol == Protocol::Grpc {
        let all = trailers.iter().chain([&parts.headers]);
        let field = |name: &str| all.clone().find_map(|headers| headers.get(name)?.to_str().ok());
        match field("grpc-status") {
            Some("0") => {}
            Some(code) => {
                return Err(format!("answered status {code}: {}", field("grpc-message").unwrap_or_default()));
            }
            None => return Err("answered without a gRPC status".to_owned()),
        }
    }
    Ok(body)
}
