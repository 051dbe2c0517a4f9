//! Shapes of ambiguous requests, one by one.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use qdrant_router::Router;
use qdrant_router_proxy::{lifecycle::Proxy, listen};
use testkit::Block;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

const DEADLINE: Duration = Duration::from_secs(20);

/// A node that answers everything with `{}` and keeps what it read.
struct Spy {
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Spy {
    async fn start(ip: IpAddr) -> Self {
        let listener = TcpListener::bind((ip, 6333)).await.expect("a free port");
        let seen = Arc::<Mutex<Vec<u8>>>::default();
        let log = seen.clone();
        tokio::spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                let log = log.clone();
                tokio::spawn(async move {
                    let mut buffer = vec![0; 64 << 10];
                    let mut unanswered = Vec::new();
                    while let Ok(read @ 1..) = tcp.read(&mut buffer).await {
                        log.lock().expect("a log").extend_from_slice(&buffer[..read]);
                        unanswered.extend_from_slice(&buffer[..read]);
                        // Every head that is complete gets its answer; bodies here are short.
                        while let Some(end) = find(&unanswered, b"\r\n\r\n") {
                            unanswered.drain(..end + 4);
                            let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
                        }
                    }
                });
            }
        });
        Self { seen }
    }

    /// What the node read since it was last asked.
    fn take(&self) -> String {
        let bytes = std::mem::take(&mut *self.seen.lock().expect("a log"));
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Sends `bytes` and reads to the end of the connection, which what is good asks for and what is not gets.
async fn exchange(proxy: SocketAddr, bytes: &[u8]) -> String {
    let talk = async {
        let mut tcp = TcpStream::connect(proxy).await.expect("a connection");
        // The proxy may close before it has read everything.
        let _ = tcp.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    tokio::time::timeout(DEADLINE, talk).await.expect("an end")
}

async fn proxy(block: &Block) -> (SocketAddr, watch::Sender<bool>) {
    let node = block.node(0);
    let router = Router::builder().node(node.to_string()).build().expect("a router");
    router.topology().surveyed().await;
    let listener = TcpListener::bind((block.proxy(), 6333)).await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(listen::serve(listener, Proxy::new(router), stopped));
    (address, stop)
}

#[tokio::test]
async fn ambiguous_requests_are_refused_or_made_plain() {
    let block = Block::claim().expect("addresses");
    let spy = Spy::start(block.node(0)).await;
    let (proxy, _stop) = proxy(&block).await;
    spy.take();

    for (what, request) in [
        ("two lengths", "POST /x HTTP/1.1\r\nhost: q\r\ncontent-length: 2\r\ncontent-length: 5\r\n\r\n{}XXX"),
        ("a list of lengths", "POST /x HTTP/1.1\r\nhost: q\r\ncontent-length: 2, 5\r\n\r\n{}XXX"),
        ("a signed length", "POST /x HTTP/1.1\r\nhost: q\r\ncontent-length: +2\r\n\r\n{}"),
        ("chunks in HTTP/1.0", "POST /x HTTP/1.0\r\nhost: q\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("an unknown coding", "POST /x HTTP/1.1\r\nhost: q\r\ntransfer-encoding: cow\r\n\r\n{}"),
        (
            "chunked not last",
            "POST /x HTTP/1.1\r\nhost: q\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        ),
        (
            "a folded header",
            "POST /x HTTP/1.1\r\nhost: q\r\nx-a: 1\r\n content-length: 9\r\ncontent-length: 2\r\n\r\n{}",
        ),
        ("a space before the colon", "POST /x HTTP/1.1\r\nhost: q\r\ncontent-length : 2\r\n\r\n{}"),
        ("a header without a colon", "GET /x HTTP/1.1\r\nhost: q\r\nnonsense\r\n\r\n"),
        ("a NUL in a value", "GET /x HTTP/1.1\r\nhost: q\r\nx-a: a\0b\r\n\r\n"),
        ("a bare CR in a value", "GET /x HTTP/1.1\r\nhost: q\r\nx-a: a\rb: c\r\n\r\n"),
        ("no version", "GET /x\r\n\r\n"),
    ] {
        let answer = exchange(proxy, request.as_bytes()).await;
        let forwarded = spy.take();
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.0 4"),
            "{what}: {answer}"
        );
        assert!(!forwarded.contains("/x"), "{what}: {forwarded}");
    }
}

#[tokio::test]
async fn what_is_forwarded_has_one_framing() {
    let block = Block::claim().expect("addresses");
    let spy = Spy::start(block.node(0)).await;
    let (proxy, _stop) = proxy(&block).await;
    spy.take();

    // Chunks outweigh a length, and the length does not go on beside them.
    let both = "POST /x HTTP/1.1\r\nhost: q\r\nconnection: close\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n2;ext=\"a\"\r\n{}\r\n0\r\n\r\n";
    exchange(proxy, both.as_bytes()).await;
    let forwarded = spy.take();
    let framings =
        forwarded.matches("content-length:").count() + forwarded.matches("transfer-encoding:").count();
    assert_eq!(framings, 1, "{forwarded}");
    assert!(!forwarded.contains("ext="), "{forwarded}");

    // Headers of one connection stay with it, however they are named.
    let hop = "GET /x HTTP/1.1\r\nhost: q\r\nconnection: close, x-hop\r\nx-hop: 1\r\nte: trailers\r\nupgrade: h2c\r\nproxy-connection: close\r\n\r\n";
    exchange(proxy, hop.as_bytes()).await;
    let forwarded = spy.take();
    for header in ["x-hop", "upgrade", "proxy-connection", "te:"] {
        assert!(!forwarded.contains(header), "{header}: {forwarded}");
    }
    // The client's path goes on as it came, odd or not.
    for path in ["/collections/a%2Fb", "/a/../b", "/%2e%2e/x", "//x//", "/x?y=%00&z"] {
        exchange(proxy, format!("GET {path} HTTP/1.1\r\nhost: q\r\nconnection: close\r\n\r\n").as_bytes())
            .await;
        let forwarded = spy.take();
        assert!(forwarded.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{path}: {forwarded}");
    }
    // One host goes on: the node's own address.
    exchange(proxy, b"GET /x HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n").await;
    let forwarded = spy.take();
    assert!(forwarded.matches("host:").count() <= 1, "{forwarded}");
}

#[tokio::test]
async fn nothing_follows_a_request_whose_end_is_unclear() {
    let block = Block::claim().expect("addresses");
    let spy = Spy::start(block.node(0)).await;
    let (proxy, _stop) = proxy(&block).await;
    spy.take();
    for (what, request) in [
        (
            "a length and chunks",
            "POST /x HTTP/1.1\r\nhost: q\r\ncontent-length: 60\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "chunks and a length",
            "POST /x HTTP/1.1\r\nhost: q\r\ntransfer-encoding: chunked\r\ncontent-length: 60\r\n\r\n0\r\n\r\n",
        ),
        ("a tunnel", "CONNECT q:6333 HTTP/1.1\r\nhost: q:6333\r\n\r\n"),
    ] {
        let answer =
            exchange(proxy, format!("{request}GET /next HTTP/1.1\r\nhost: q\r\n\r\n").as_bytes()).await;
        let forwarded = spy.take();
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{what}: {answer}");
        assert!(answer.contains("connection: close"), "{what}: {answer}");
        assert!(!forwarded.contains("/next") && !forwarded.contains("CONNECT"), "{what}: {forwarded}");
    }
}

#[tokio::test]
async fn trailers_of_requests_stay_behind() {
    let block = Block::claim().expect("addresses");
    let spy = Spy::start(block.node(0)).await;
    let (proxy, _stop) = proxy(&block).await;
    spy.take();
    let request = "POST /x HTTP/1.1\r\nhost: q\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx-sum: 1\r\n\r\n";
    exchange(proxy, request.as_bytes()).await;
    let forwarded = spy.take();
    assert!(forwarded.contains("/x") && !forwarded.contains("x-sum"), "{forwarded}");
}

#[tokio::test]
async fn oversized_heads_are_refused() {
    let block = Block::claim().expect("addresses");
    let spy = Spy::start(block.node(0)).await;
    let (proxy, _stop) = proxy(&block).await;
    spy.take();
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    let long = format!("x-long: {}\r\n", "a".repeat(130 << 10));
    for headers in [many, long] {
        let answer = exchange(proxy, format!("GET /x HTTP/1.1\r\nhost: q\r\n{headers}\r\n").as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{} bytes: {answer}", headers.len());
        assert!(!spy.take().contains("/x"));
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_is_let_go() {
    let block = Block::claim().expect("addresses");
    let _spy = Spy::start(block.node(0)).await;
    let (proxy, _stop) = proxy(&block).await;
    for beginning in [&b""[..], b"PRI * HT", b"GET /x HTTP/1.1\r\nhost"] {
        let mut tcp = TcpStream::connect(proxy).await.expect("a connection");
        tcp.write_all(beginning).await.expect("some bytes");
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(DEADLINE, tcp.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{beginning:?}");
    }
}
