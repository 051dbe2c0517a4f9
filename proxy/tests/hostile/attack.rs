//! Feeds cases to the program over many connections, while well-behaved clients keep asking.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime,
    task::JoinSet,
};

use crate::wire::{Case, Generator};

/// Connections of the attack at a time.
const CONNECTIONS: usize = 48;

/// How long a hostile client waits for more of an answer, for room to write, and for the end.
const PATIENCE: Duration = Duration::from_millis(25);

/// How long a well-behaved client waits, and its pause between requests.
const DEADLINE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(2);

/// Feeds `requests` of what `generator` makes to the ports of the program, at most so many a second where
/// `rate` says.
pub(crate) async fn attack(ports: [SocketAddr; 2], generator: Generator, requests: u64, rate: Option<f64>) {
    let source = Arc::new(Mutex::new((generator, 0)));
    let began = Instant::now();
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let source = source.clone();
        connections.spawn(async move {
            loop {
                let (port, case, reads, fed) = {
                    let (generator, fed) = &mut *source.lock().expect("a lock");
                    if *fed >= requests {
                        return;
                    }
                    let case = if generator.below(3) > 0 { generator.http1() } else { generator.http2() };
                    *fed += case.requests;
                    (generator.any(&ports), case, generator.below(8) > 0, *fed)
                };
                if let Some(rate) = rate {
                    let due = began + Duration::from_secs_f64(fed as f64 / rate);
                    tokio::time::sleep_until(due.into()).await;
                }
                feed(port, &case, reads).await;
            }
        });
    }
    connections.join_all().await;
}

/// One connection. Its client may go away without reading.
pub(crate) async fn feed(port: SocketAddr, case: &Case, reads: bool) {
    let Ok(tcp) = TcpStream::connect(port).await else { return };
    let (mut from, mut to) = tcp.into_split();
    let write = tokio::time::timeout(4 * PATIENCE, to.write_all(&case.bytes));
    if !reads {
        let _ = write.await;
        return;
    }
    let mut buffer = vec![0; 16 << 10];
    let read =
        async { while let Ok(Ok(1..)) = tokio::time::timeout(PATIENCE, from.read(&mut buffer)).await {} };
    let _ = tokio::join!(write, read);
    if case.half_closes {
        let _ = to.shutdown().await;
        while let Ok(Ok(1..)) = tokio::time::timeout(PATIENCE, from.read(&mut buffer)).await {}
    }
}

/// How the well-behaved were served.
#[derive(Debug, Default)]
pub(crate) struct Served {
    took: Vec<Duration>,
    /// What went wrong.
    pub(crate) failures: Vec<String>,
}

impl Served {
    pub(crate) fn count(&self) -> usize {
        self.took.len()
    }

    /// The time within which 99 of 100 were answered.
    pub(crate) fn p99(&mut self) -> Duration {
        self.took.sort_unstable();
        self.took.get(self.took.len() * 99 / 100).copied().unwrap_or_default()
    }
}

/// Clients that ask politely, one of each protocol, until they are told to stop; on a thread of their own.
pub(crate) struct WellBehaved {
    stop: Arc<AtomicBool>,
    clients: thread::JoinHandle<Vec<Served>>,
}

impl WellBehaved {
    pub(crate) fn start(rest: SocketAddr, grpc: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let told = stop.clone();
        let clients = thread::spawn(move || {
            runtime.block_on(async {
                let (rest, grpc) =
                    tokio::join!(ask(rest, false, told.clone()), ask(grpc, true, told.clone()));
                vec![rest, grpc]
            })
        });
        Self { stop, clients }
    }

    /// How they were served.
    pub(crate) async fn end(self) -> Served {
        self.stop.store(true, Ordering::Relaxed);
        let clients = tokio::task::spawn_blocking(|| self.clients.join().expect("no panic"));
        let mut all = Served::default();
        for served in clients.await.expect("no panic") {
            all.took.extend(served.took);
            all.failures.extend(served.failures);
        }
        all
    }
}

async fn ask(port: SocketAddr, is_grpc: bool, stop: Arc<AtomicBool>) -> Served {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).http2_only(is_grpc).build(connector);
    let mut served = Served::default();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let target = match (is_grpc, number % 2) {
            (true, _) => format!("/qdrant.Points/Get?well-behaved={number}"),
            (false, 0) => format!("/collections/books/points/{number}?well-behaved"),
            (false, _) => format!("/collections/books/points/search?well-behaved={number}"),
        };
        let (request, body) = match (is_grpc, number % 2) {
            (true, _) => (
                Request::post(format!("http://{port}{target}"))
                    .header("content-type", "application/grpc")
                    .header("te", "trailers"),
                &b"\0\0\0\0\x07\x0a\x05books"[..],
            ),
            (false, 0) => (Request::get(format!("http://{port}{target}")), &b""[..]),
            (false, _) => {
                (Request::post(format!("http://{port}{target}")), &br#"{"vector":[1,2,3,4],"limit":3}"#[..])
            }
        };
        let request = request.body(Full::new(Bytes::from_static(body))).expect("a request");
        let began = Instant::now();
        let answer = async {
            let answer = client.request(request).await.map_err(|error| format!("{error:?}"))?;
            let (head, body) = answer.into_parts();
            body.collect().await.map_err(|error| format!("{error:?}"))?;
            let whose = head.headers.get("x-target").and_then(|target| target.to_str().ok());
            match head.status.is_success() && whose == Some(&*target) {
                true => Ok(()),
                false => Err(format!("{} for {whose:?}", head.status)),
            }
        };
        match tokio::time::timeout(DEADLINE, answer).await.unwrap_or_else(|_| Err("no answer".to_owned())) {
            Ok(()) => served.took.push(began.elapsed()),
            Err(reason) => served.failures.push(format!("{target}: {reason}")),
        }
        tokio::time::sleep(PAUSE).await;
    }
    served
}
