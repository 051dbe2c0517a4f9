//! Two nodes that read strictly and hold what they read against what was sent.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use testkit::Block;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    marker::{Kind, Marker},
    strict::{self, Request},
};

/// The peers, one per node.
const PEERS: [u64; 2] = [1001, 1002];

/// How many mistakes are kept; one is enough to fail.
const KEPT: usize = 20;

/// What the nodes have read.
#[derive(Clone, Default)]
pub(crate) struct Spies(Arc<Mutex<Seen>>);

/// See [`Spies`].
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// What no node may be sent.
    pub(crate) mistakes: Vec<String>,
    /// Marked requests that were forwarded.
    pub(crate) forwarded: u64,
    /// Requests whose end had not come when they were looked at.
    pub(crate) begun: usize,
    /// Requests that broke off, as their clients did.
    pub(crate) broken_off: u64,
    arrivals: HashMap<(usize, Marker), u32>,
    /// Every request, where they are to be kept.
    pub(crate) kept: Option<Vec<Request>>,
}

// === impl Spies ===

impl Spies {
    /// Starts two nodes on the addresses of `block`. Each holds one shard of the collection `books`.
    pub(crate) async fn start(block: &Block) -> Self {
        let spies = Self::default();
        for node in 0..PEERS.len() {
            let ip = block.node(node);
            let rest = TcpListener::bind((ip, testkit::REST_PORT)).await.expect("a free port");
            let grpc = TcpListener::bind((ip, testkit::GRPC_PORT)).await.expect("a free port");
            let (on_rest, on_grpc) = (spies.clone(), spies.clone());
            tokio::spawn(async move {
                while let Ok((tcp, _)) = rest.accept().await {
                    drop(tcp.set_nodelay(true));
                    tokio::spawn(on_rest.clone().read_rest(node, ip, tcp));
                }
            });
            tokio::spawn(async move {
                while let Ok((tcp, _)) = grpc.accept().await {
                    drop(tcp.set_nodelay(true));
                    tokio::spawn(on_grpc.clone().read_grpc(node, ip, tcp));
                }
            });
        }
        spies
    }

    /// What they have seen so far.
    pub(crate) fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().expect("a lock")
    }

    async fn read_rest(self, node: usize, ip: IpAddr, mut tcp: TcpStream) {
        let host = SocketAddr::new(ip, testkit::REST_PORT).to_string();
        let mut unread = Vec::new();
        let mut has_begun = false;
        let mut buffer = vec![0; 64 << 10];
        loop {
            match tcp.read(&mut buffer).await {
                Ok(read @ 1..) => unread.extend_from_slice(&buffer[..read]),
                _ if unread.is_empty() => return,
                _ => return self.seen().broken_off += 1,
            }
            // All that is there is looked at once: a long body is not read anew with each piece of it.
            while let Ok(read @ 1..) = tcp.try_read(&mut buffer) {
                unread.extend_from_slice(&buffer[..read]);
            }
            let (request, used) = match strict::read(&unread, &host) {
                Ok(Some(read)) => read,
                Ok(None) => {
                    self.seen().begun += usize::from(!std::mem::replace(&mut has_begun, true));
                    continue;
                }
                Err(mistake) => return self.seen().mistake(&mistake, &unread),
            };
            // Nothing comes before the answer: the router does not pipeline.
            if used < unread.len() {
                self.seen().mistake("bytes after the end of a request", &unread);
                return;
            }
            self.seen().judge(node, &request);
            unread.clear();
            has_begun = false;
            if request.target.contains("/broken") {
                return;
            }
            if tcp.write_all(&answer(node, &request)).await.is_err() {
                return;
            }
        }
    }

    async fn read_grpc(self, node: usize, ip: IpAddr, tcp: TcpStream) {
        let host = SocketAddr::new(ip, testkit::GRPC_PORT).to_string();
        let service = service_fn(move |request: http::Request<Incoming>| {
            let (spies, host) = (self.clone(), host.clone());
            async move {
                let (head, body) = request.into_parts();
                let target = head.uri.path_and_query().map_or("", |target| target.as_str()).to_owned();
                match body.collect().await {
                    Ok(body) => {
                        let headers = head.headers.iter().map(|(name, value)| {
                            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
                        });
                        let request = Request {
                            method: head.method.to_string(),
                            target: target.clone(),
                            headers: headers.collect(),
                            body: body.to_bytes().to_vec(),
                        };
                        let mut seen = spies.seen();
                        if head.uri.authority().map(http::uri::Authority::as_str) != Some(&*host) {
                            seen.mistake("an authority that is not the node's", target.as_bytes());
                        }
                        for name in ["host", "connection", "transfer-encoding", "upgrade"] {
                            if head.headers.contains_key(name) {
                                seen.mistake(name, target.as_bytes());
                            }
                        }
                        seen.judge(node, &request);
                    }
                    Err(_) => spies.seen().broken_off += 1,
                }
                let trailers = HeaderMap::from_iter([(
                    http::HeaderName::from_static("grpc-status"),
                    HeaderValue::from_static("0"),
                )]);
                let frames = [Frame::data(Bytes::from_static(&[0; 5])), Frame::trailers(trailers)];
                let mut answer =
                    http::Response::new(StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>))));
                answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
                if let Ok(target) = HeaderValue::from_str(&target) {
                    answer.headers_mut().insert("x-target", target);
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        drop(server.serve_connection(TokioIo::new(tcp), service).await);
    }
}

// === impl Seen ===

impl Seen {
    fn mistake(&mut self, what: &str, bytes: &[u8]) {
        if self.mistakes.len() < KEPT {
            let shown = &bytes[..bytes.len().min(1000)];
            self.mistakes.push(format!("{what}: {}", shown.escape_ascii()));
        }
    }

    /// Holds a request that arrived against what was sent.
    fn judge(&mut self, node: usize, request: &Request) {
        if let Some(kept) = &mut self.kept {
            kept.push(request.clone());
        }
        let shown = || format!("{request:?}").into_bytes();
        if request.headers.iter().any(|(name, _)| name == "x-injected") {
            self.mistake("an injected header", &shown());
        }
        let of_header = request.header("x-mark").and_then(|value| Marker::all(value).next());
        let of_target = Marker::all(&request.target).next();
        let Some(marker) = of_target.or(of_header) else {
            if !is_expected(&request.target) {
                self.mistake("nobody sent this", &shown());
            }
            return;
        };
        self.forwarded += 1;
        if of_header.is_some_and(|other| other != marker) {
            self.mistake("a head of two requests", &shown());
        }
        match marker.kind {
            Kind::Whole => {}
            Kind::Broken => self.mistake("a broken request arrived complete", &shown()),
            Kind::Inside => self.mistake("a smuggled request", &shown()),
        }
        let body = String::from_utf8_lossy(&request.body);
        if Marker::of_kind(&body, Kind::Whole).is_some_and(|other| other != marker) {
            self.mistake("the body of another request", &shown());
        }
        let arrivals = self.arrivals.entry((node, marker)).or_default();
        *arrivals += 1;
        if *arrivals > 1 {
            self.mistake("a request that came twice", &shown());
        }
    }
}

/// Whether the router asks this of its own accord, or the well-behaved client does.
fn is_expected(target: &str) -> bool {
    const OWN: [&str; 5] = ["/", "/cluster", "/aliases", "/healthz", "/snapshots"];
    OWN.contains(&target) || target.starts_with("/collections/") || target.contains("well-behaved")
}

/// The answer of node `node`. It repeats the target, so that a client can tell whose answer it got.
fn answer(node: usize, request: &Request) -> Vec<u8> {
    let is_own = Marker::all(&request.target).next().is_none() && !request.target.contains("well-behaved");
    let result = match request.target.as_str() {
        "/" => return written(request, "200 OK", &json!({ "title": "qdrant", "version": "1.18.3" })),
        "/cluster" => cluster(node),
        "/aliases" => json!({ "aliases": [] }),
        "/collections/books" => json!({ "status": "green", "config": { "params": {} } }),
        "/collections/books/cluster" => placement(node),
        target if target.contains("/refused") => {
            return written(request, "401 Unauthorized", &json!("Must provide an API key"));
        }
        target if is_own && target.starts_with("/collections/") => {
            return written(
                request,
                "404 Not Found",
                &json!({ "status": { "error": "Not found" }, "time": 0 }),
            );
        }
        _ => json!({ "operation_id": 1, "status": "completed" }),
    };
    written(request, "200 OK", &json!({ "result": result, "status": "ok", "time": 0.0 }))
}

fn written(request: &Request, status: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let length = body.len();
    let target = request.target.escape_default();
    let body = if request.method == "HEAD" { "" } else { &body };
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nx-target: {target}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn cluster(node: usize) -> Value {
    let peers: HashMap<String, Value> = PEERS
        .iter()
        .map(|peer| (peer.to_string(), json!({ "uri": format!("http://qdrant-{peer}:6335/") })))
        .collect();
    json!({
        "status": "enabled",
        "peer_id": PEERS[node],
        "peers": peers,
        "raft_info": {
            "term": 1, "commit": 7, "pending_operations": 0, "leader": PEERS[0], "role": "Follower", "is_voter": true,
        },
        "consensus_thread_status": { "consensus_thread_status": "working", "last_update": "2026-01-01T00:00:00Z" },
        "message_send_failures": {},
    })
}

fn placement(node: usize) -> Value {
    let other = 1 - node;
    json!({
        "peer_id": PEERS[node],
        "shard_count": 2,
        "local_shards": [{ "shard_id": node, "points_count": 0, "state": "Active" }],
        "remote_shards": [{ "shard_id": other, "peer_id": PEERS[other], "state": "Active" }],
        "shard_transfers": [],
    })
}
