//! Clients that go away while their requests are under way: no connection to a node is lost over it.
//!
//! Qdrant's gRPC server, as hyper's by default, ends a connection on which more than twenty streams were reset
//! before it looked at them, and with it every other request there.

use std::{
    convert::Infallible,
    env,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::http2::SendRequest,
    service::{HttpService, service_fn},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use qdrant_router::Router;
use qdrant_router_proxy::{lifecycle::Proxy, listen};
use serde_json::json;
use testkit::Block;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::{
    program::eventually,
    talk::{END_HEADERS, RST_STREAM, Talk, fields},
};

/// How many requests are cancelled, half of them over each protocol, unless `QDRANT_ROUTER_CANCELLED` says
/// otherwise.
const CANCELLED: usize = 10_000;

/// How many of them are under way together.
const TOGETHER: usize = 50;

/// How long the node is busy with a stream before it looks at the next.
const LOOK: Duration = Duration::from_millis(1);

/// A node that answers when it is told to, and counts.
#[derive(Debug, Default)]
struct Slow {
    /// Requests that it has begun to work on, and that it has answered.
    begun: AtomicUsize,
    answered: AtomicUsize,
    /// How many of them may be answered, in the order of their coming.
    released: watch::Sender<usize>,
    /// Connections for gRPC.
    accepted: AtomicUsize,
    ended: AtomicUsize,
    /// Requests that the router took back: it reset the stream, or closed the connection.
    taken_back: AtomicUsize,
}

/// A request that the node works on.
struct Underway {
    node: Arc<Slow>,
    is_answered: bool,
}

impl Drop for Underway {
    fn drop(&mut self) {
        let count = if self.is_answered { &self.node.answered } else { &self.node.taken_back };
        count.fetch_add(1, SeqCst);
    }
}

/// Takes its time before it looks at the next request.
#[derive(Clone, Debug)]
struct Unhurried;

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Unhurried {
    fn execute(&self, task: F) {
        std::thread::sleep(LOOK);
        tokio::spawn(task);
    }
}

impl Slow {
    async fn start(ip: IpAddr) -> Arc<Self> {
        let node = Arc::new(Self::default());
        let rest = TcpListener::bind((ip, testkit::REST_PORT)).await.expect("a free port");
        let grpc = TcpListener::bind((ip, testkit::GRPC_PORT)).await.expect("a free port");
        let counts = node.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = rest.accept().await {
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tcp), counts.clone().service());
                tokio::spawn(connection);
            }
        });
        let counts = node.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = grpc.accept().await {
                counts.accepted.fetch_add(1, SeqCst);
                let connection = hyper::server::conn::http2::Builder::new(Unhurried)
                    .serve_connection(TokioIo::new(tcp), counts.clone().service());
                let counts = counts.clone();
                tokio::spawn(async move {
                    drop(connection.await);
                    counts.ended.fetch_add(1, SeqCst);
                });
            }
        });
        node
    }

    fn service(
        self: Arc<Self>,
    ) -> impl HttpService<Incoming, ResBody = Full<Bytes>, Error = Infallible, Future: Send + 'static> {
        service_fn(move |request: Request<Incoming>| {
            let node = self.clone();
            async move {
                let answer = match request.uri().path() {
                    "/" => json!({ "title": "qdrant", "version": "1.18.3" }),
                    "/healthz" => json!("healthy"),
                    "/cluster" => json!({ "result": { "status": "disabled" }, "status": "ok", "time": 0 }),
                    _ => {
                        let number = node.begun.fetch_add(1, SeqCst);
                        let mut released = node.released.subscribe();
                        let mut underway = Underway { node, is_answered: false };
                        underway.is_answered = released.wait_for(|&released| number < released).await.is_ok();
                        json!({ "result": true, "status": "ok", "time": 0 })
                    }
                };
                let mut answer = Response::new(Full::from(answer.to_string()));
                if let Some(kind) = request.headers().get(header::CONTENT_TYPE) {
                    answer.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
                }
                Ok::<_, Infallible>(answer)
            }
        })
    }

    /// Waits until all of `requests` have begun.
    async fn has_begun(&self, requests: usize) {
        eventually("the node has begun", async || self.begun.load(SeqCst) >= requests).await;
    }
}

async fn connect(proxy: SocketAddr) -> SendRequest<Full<Bytes>> {
    let tcp = TcpStream::connect(proxy).await.expect("a connection");
    tcp.set_nodelay(true).expect("an option");
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

fn count(proxy: SocketAddr) -> Request<Full<Bytes>> {
    Request::builder()
        .method(Method::POST)
        .uri(format!("http://{proxy}/qdrant.Points/Count"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::from(&b"\0\0\0\0\x07\x0a\x05books"[..]))
        .expect("a request")
}

/// A node, and a proxy in front of it with its router.
async fn serve(block: &Block) -> (Arc<Slow>, Router, SocketAddr, watch::Sender<bool>) {
    let node = Slow::start(block.node(0)).await;
    let router = Router::builder().node(block.node(0).to_string()).build().expect("a router");
    router.topology().surveyed().await;
    let listener = TcpListener::bind((block.proxy(), 6333)).await.expect("a free port");
    let proxy = listener.local_addr().expect("an address");
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(listen::serve(listener, Proxy::new(router.clone()), stopped));
    (node, router, proxy, stop)
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_requests_cost_no_connection_to_a_node() {
    let cancelled =
        env::var("QDRANT_ROUTER_CANCELLED").map_or(CANCELLED, |text| text.parse().expect("a number"));
    let block = Block::claim().expect("addresses");
    let (node, _router, proxy, _stop) = serve(&block).await;

    let mut sent = 0;
    let mut sender = connect(proxy).await;
    for _ in 0..cancelled / 2 / TOGETHER {
        // gRPC: each stream is reset.
        let requests: Vec<_> = (0..TOGETHER).map(|_| sender.send_request(count(proxy))).collect();
        sent += TOGETHER;
        tokio::select! {
            () = node.has_begun(sent) => {}
            _ = join_all(requests) => panic!("the node answers nothing yet"),
        }
        assert!(!sender.is_closed(), "the client's own connection goes on");

        // REST: each connection is closed.
        let get = format!("GET /collections/books/points/1 HTTP/1.1\r\nhost: {proxy}\r\n\r\n");
        let connections = (0..TOGETHER).map(|_| async {
            let mut tcp = TcpStream::connect(proxy).await.expect("a connection");
            tcp.write_all(get.as_bytes()).await.expect("a request");
            tcp
        });
        let connections = join_all(connections).await;
        sent += TOGETHER;
        node.has_begun(sent).await;
        drop(connections);
        // By now it is known that those before are cancelled.
        node.released.send_replace(sent - 2 * TOGETHER);
    }

    node.released.send_replace(usize::MAX);
    let answer = sender.send_request(count(proxy)).await.expect("an answer");
    answer.into_body().collect().await.expect("a body");
    let ended = || node.answered.load(SeqCst) + node.taken_back.load(SeqCst);
    eventually("what was begun has ended", async || ended() > sent).await;
    assert_eq!(node.ended.load(SeqCst), 0, "connections for gRPC that were lost");
    // One, and others while that one is busy, of which there are eight at most.
    assert!((1..=8).contains(&node.accepted.load(SeqCst)), "{:?}", node.accepted);
    assert_eq!(node.taken_back.load(SeqCst), 0, "requests that were taken back");
}

/// What is not known here streams, and has no end once its client is gone.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_break_off_cost_no_connection_to_a_node() {
    const CLIENTS: usize = 5;
    const EACH: usize = 12;
    let block = Block::claim().expect("addresses");
    let (node, router, proxy, _stop) = serve(&block).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut tcp = TcpStream::connect(proxy).await.expect("a connection");
        let mut talk = Talk::begun();
        for _ in 0..EACH {
            let block = fields(&[
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":authority", b"q"),
                (b":path", b"/qdrant.Unknown/Call"),
                (b"content-type", b"application/grpc"),
            ]);
            talk.open(END_HEADERS, &block);
        }
        tcp.write_all(&talk.bytes).await.expect("requests");
        clients.push(tcp);
    }
    // On their way to the node, which has looked at few of them: one that is reset before never goes there.
    let all = CLIENTS * EACH;
    let address = router.topology().snapshot().nodes()[0].address;
    eventually("all are under way", async || router.balance().in_flight(address) == all).await;
    for tcp in &mut clients {
        let mut talk = Talk::default();
        (0..EACH as u32).for_each(|stream| talk.frame(RST_STREAM, 0, 2 * stream + 1, &[0, 0, 0, 8]));
        tcp.write_all(&talk.bytes).await.expect("resets");
    }
    let ended = || node.taken_back.load(SeqCst) >= all || node.ended.load(SeqCst) > 0;
    eventually("the node has seen all of them end", async || ended()).await;
    assert_eq!(node.ended.load(SeqCst), 0, "connections for gRPC that were lost");
}
