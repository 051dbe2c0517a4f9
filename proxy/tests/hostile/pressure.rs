//! Much data and nobody to take it: clients that do not read, nodes that do not read, bodies that never end,
//! lists of very many things, and small bodies that stand for large ones. Memory stays bounded, and others are served.

use std::{
    io::Write,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{Method, Request, StatusCode};
use qdrant_router::Router;
use qdrant_router_proxy::{lifecycle::Proxy, listen};
use testkit::{Block, Rest};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::{
    process::{MAX_GROWTH, Memory},
    program::{Program, eventually, get},
    spy::Spies,
    talk::greedy,
};

/// What is too much for everybody, and how often.
const SIZE: u64 = 200 << 20;
const TIMES: usize = 8;

/// How long nothing may move before all of it counts as stuck.
const STUCK: Duration = Duration::from_millis(500);

static CHUNK: [u8; 64 << 10] = [b'0'; 64 << 10];

/// A node whose paths below `/big` answer with more than anybody reads, and which never reads what is sent to
/// those below `/sink`.
async fn big_node(ip: IpAddr, moved: Arc<AtomicU64>) {
    let listener = TcpListener::bind((ip, testkit::REST_PORT)).await.expect("a free port");
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(serve_big(tcp, moved.clone()));
        }
    });
}

async fn serve_big(mut tcp: TcpStream, moved: Arc<AtomicU64>) {
    let mut head = Vec::new();
    let mut byte = [0];
    loop {
        head.clear();
        while !head.ends_with(b"\r\n\r\n") {
            match tcp.read(&mut byte).await {
                Ok(1..) => head.push(byte[0]),
                _ => return,
            }
        }
        let head = String::from_utf8_lossy(&head);
        let target = head.split(' ').nth(1).unwrap_or_default();
        if target.contains("sink") {
            return std::future::pending().await;
        }
        let length = if target.contains("big") { SIZE } else { 0 };
        let body = match target {
            "/" => r#"{"title":"qdrant","version":"1.18.3"}"#,
            "/cluster" => r#"{"result":{"status":"disabled"}}"#,
            _ => "",
        };
        let length = length.max(body.len() as u64);
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
        if tcp.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        if target.contains("big") {
            give(&mut tcp, &moved).await;
        }
    }
}

/// Writes until all is written, or nobody is left to take it.
async fn give(tcp: &mut TcpStream, moved: &AtomicU64) {
    let mut left = SIZE;
    while left > 0 {
        match tcp.write(&CHUNK[..CHUNK.len().min(usize::try_from(left).unwrap_or(usize::MAX))]).await {
            Ok(written @ 1..) => {
                moved.fetch_add(written as u64, Relaxed);
                left -= written as u64;
            }
            _ => return,
        }
    }
}

/// Waits until something has moved, and moves no more.
async fn stuck(moved: &AtomicU64) {
    let mut before = 0;
    let mut since = tokio::time::Instant::now();
    eventually("nothing moves any more", async || {
        let now = moved.load(Relaxed);
        if now != before {
            (before, since) = (now, tokio::time::Instant::now());
        }
        before > 0 && since.elapsed() > STUCK
    })
    .await;
}

async fn serve(ip: IpAddr, arguments: &[&str]) -> Program {
    let program = Program::serve(ip, arguments);
    eventually("it answers", async || {
        get(ip, 6333, "/collections").await.is_some_and(|(status, _)| status == StatusCode::OK)
    })
    .await;
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_holds_up_the_other_side_and_not_the_memory() {
    let block = Block::claim().expect("addresses");
    let moved = Arc::<AtomicU64>::default();
    big_node(block.node(0), moved.clone()).await;
    let program = serve(block.proxy(), &[&format!("--node={}", block.node(0)), "--log=warn"]).await;
    let memory = Memory::of(&program);
    let proxy = SocketAddr::new(block.proxy(), 6333);
    let connect = async || TcpStream::connect(proxy).await.expect("a connection");

    // Answers to clients that do not read.
    let mut kept = Vec::new();
    for path in ["/collections/big", "/big", "/collections/c/snapshots/big", "/telemetry?big"] {
        for _ in 0..TIMES / 4 {
            let mut http1 = connect().await;
            http1
                .write_all(format!("GET {path} HTTP/1.1\r\nhost: q\r\n\r\n").as_bytes())
                .await
                .expect("written");
            let mut http2 = connect().await;
            http2.write_all(&greedy(path)).await.expect("written");
            kept.extend([http1, http2]);
        }
    }
    stuck(&moved).await;
    let from_nodes = moved.swap(0, Relaxed);

    // Uploads to nodes that do not read.
    let mut uploads = JoinSet::new();
    for path in ["/collections/sink/points", "/collections/sink/snapshots/upload", "/sink", "/sink/sink"] {
        for _ in 0..TIMES / 4 {
            let (mut tcp, moved) = (connect().await, moved.clone());
            let head = format!("PUT {path} HTTP/1.1\r\nhost: q\r\ncontent-length: {SIZE}\r\n\r\n");
            uploads.spawn(async move {
                tcp.write_all(head.as_bytes()).await.expect("written");
                give(&mut tcp, &moved).await;
            });
        }
    }
    stuck(&moved).await;
    let to_nodes = moved.load(Relaxed);

    let answered = get(block.proxy(), 6333, "/collections").await.map(|(status, _)| status);
    assert_eq!(answered, Some(StatusCode::OK), "others are served meanwhile");
    let growth = memory.growth();
    println!("stuck after {from_nodes} bytes of answers and {to_nodes} of uploads; memory grew by {growth}");
    let all = SIZE * TIMES as u64;
    assert!(from_nodes < all && to_nodes < all, "{from_nodes} and {to_nodes}");
    assert!(growth <= MAX_GROWTH, "memory grew by {growth} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_never_end_are_counted_while_they_come() {
    const HELD: usize = 100_000;
    const EACH: usize = 40_000;
    let block = Block::claim().expect("addresses");
    let spies = Spies::start(&block).await;
    let nodes = [0, 1].map(|node| block.node(node).to_string());
    let router = Router::builder().node(&nodes[0]).node(&nodes[1]).max_held_bytes(HELD);
    let router = router.build().expect("a router");
    router.topology().surveyed().await;
    let listener = TcpListener::bind((block.proxy(), 6333)).await.expect("a free port");
    let proxy = listener.local_addr().expect("an address");
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(listen::serve(listener, Proxy::new(router), stopped));

    let mut clients = Vec::new();
    for _ in 0..TIMES {
        let mut tcp = TcpStream::connect(proxy).await.expect("a connection");
        let head = "PUT /collections/books/points?well-behaved HTTP/1.1\r\nhost: q\r\ntransfer-encoding: chunked\r\n\r\n";
        let chunk = format!("{EACH:x}\r\n{}\r\n", "[".repeat(EACH));
        tcp.write_all((head.to_owned() + &chunk).as_bytes()).await.expect("written");
        clients.push(tcp);
    }
    // What there is no room for goes on as it comes; the node reads it, and its end never comes.
    let streamed = TIMES - HELD / EACH - 1;
    eventually("those without room are streamed", async || spies.seen().begun >= streamed).await;
    drop(clients);
    eventually("they break off as their clients do", async || spies.seen().broken_off >= streamed as u64)
        .await;
    assert_eq!(spies.seen().mistakes, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_without_end_are_not_listed() {
    /// Ids of one digit, of which a list takes twelve times as much memory.
    const BYTES: usize = 16 << 20;
    let block = Block::claim().expect("addresses");
    let _spies = Spies::start(&block).await;
    let nodes = [0, 1].map(|node| format!("--node={}", block.node(node)));
    let program = serve(block.proxy(), &[&nodes[0], &nodes[1], "--log=warn"]).await;
    let memory = Memory::of(&program);
    let client = Rest::new(SocketAddr::new(block.proxy(), 6333), None);
    let operation = r#"{"delete":{"points":[1]}},"#;
    for (path, body) in [
        ("points/delete", format!(r#"{{"points":[{}1]}}"#, "1,".repeat(BYTES / 2))),
        ("points", format!(r#"{{"batch":{{"ids":[{}1],"vectors":[]}}}}"#, "1,".repeat(BYTES / 2))),
        (
            "points/batch",
            format!(
                r#"{{"operations":[{}]}}"#,
                operation.repeat(BYTES / operation.len()).trim_end_matches(',')
            ),
        ),
    ] {
        let method = if path == "points" { Method::PUT } else { Method::POST };
        let request = Request::builder()
            .method(method)
            .uri(format!("/collections/books/{path}?well-behaved"))
            .header("content-type", "application/json")
            .body(Bytes::from(body))
            .expect("a request");
        let answer = client.raw(request).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
    }
    let growth = memory.growth();
    println!("memory grew by {growth}");
    assert!(growth <= MAX_GROWTH, "memory grew by {growth} bytes");
}

/// A gigabyte of zeros, and more, in each encoding.
fn bombs() -> [(&'static str, Vec<u8>); 3] {
    const GIGABYTE: usize = 1 << 30;
    // Blocks that stand for 16 MiB each; nobody gets as far as the end.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&[0; 1 << 20]).expect("memory");
    encoder.flush().expect("memory");
    let head = encoder.get_ref().len();
    for _ in 0..16 {
        encoder.write_all(&[0; 1 << 20]).expect("memory");
    }
    encoder.flush().expect("memory");
    let repeated = encoder.get_ref()[head..].repeat(GIGABYTE / (16 << 20));
    let gzip = [&encoder.get_ref()[..head], &repeated].concat();
    // A frame with a window of 128 KiB and blocks that repeat one byte as often.
    let mut zstd = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38];
    let block = ((128_u32 << 10) << 3 | 1 << 1).to_le_bytes();
    for _ in 0..GIGABYTE / (128 << 10) {
        zstd.extend([block[0], block[1], block[2], b'0']);
    }
    [("gzip", gzip), ("zstd", zstd), ("br", include_bytes!("zeros.br").to_vec())]
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_are_looked_into_up_to_the_limit_and_forwarded_as_they_came() {
    let block = Block::claim().expect("addresses");
    let spies = Spies::start(&block).await;
    spies.seen().kept = Some(Vec::new());
    let nodes = [0, 1].map(|node| format!("--node={}", block.node(node)));
    let program = serve(block.proxy(), &[&nodes[0], &nodes[1], "--log=warn", "--body-limit=4MiB"]).await;
    let memory = Memory::of(&program);
    let client = Rest::new(SocketAddr::new(block.proxy(), 6333), None);
    let bombs = bombs();
    for _ in 0..TIMES {
        for (encoding, bomb) in &bombs {
            let request = Request::put("/collections/books/points?well-behaved")
                .header("content-encoding", *encoding)
                .header("content-type", "application/json")
                .body(Bytes::from(bomb.clone()))
                .expect("a request");
            let answer = client.raw(request).await.expect("an answer");
            assert_eq!(answer.status(), StatusCode::OK, "{encoding}");
        }
    }
    let growth = memory.growth();
    println!("memory grew by {growth}");
    // Beside what is decoded, each thread that decodes has had a window of brotli, of 16 MiB.
    assert!(growth <= 2 * MAX_GROWTH, "memory grew by {growth} bytes");
    let seen = spies.seen();
    for (encoding, bomb) in &bombs {
        let is_whole = |request: &&crate::strict::Request| {
            request.header("content-encoding") == Some(*encoding) && request.body == *bomb
        };
        let arrived = seen.kept.iter().flatten().filter(is_whole).count();
        assert_eq!(arrived, TIMES, "{encoding}, of {} bytes", bomb.len());
    }
}
