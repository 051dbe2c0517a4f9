//! Clients that behave well, beside those that do not.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use prost::Message;
use qdrant_client::qdrant::{GetPoints, GetResponse, PointId};
use serde_json::{Value, json};
use tokio::runtime;

/// How long a well-behaved client waits, and its pause between requests.
const DEADLINE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(2);

/// Who answers: each answer shows whether it belongs to its request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Nodes {
    /// Spies, who repeat the target.
    Spies,
    /// A cluster with [`POINTS`] in the collection `books`, for those with [`KEY`].
    Cluster,
}

/// The key that strangers do not have.
pub(crate) const KEY: &str = "well-behaved";

/// The points of a cluster have the ids up to this, each nearest to its own [`vector`].
pub(crate) const POINTS: u64 = 1000;

pub(crate) fn vector(id: u64) -> [u64; 4] {
    [id, 1, 2, 3]
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
    pub(crate) fn start(rest: SocketAddr, grpc: SocketAddr, nodes: Nodes) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let told = stop.clone();
        let clients = thread::spawn(move || {
            runtime.block_on(async {
                let (rest, grpc) =
                    tokio::join!(ask(rest, false, nodes, &told), ask(grpc, true, nodes, &told));
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

async fn ask(port: SocketAddr, is_grpc: bool, nodes: Nodes, stop: &AtomicBool) -> Served {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).http2_only(is_grpc).build(connector);
    let mut served = Served::default();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let target = target(nodes, is_grpc, number);
        let body = body(nodes, is_grpc, number);
        let mut request = match body.is_empty() {
            true => Request::get(format!("http://{port}{target}")),
            false => Request::post(format!("http://{port}{target}")),
        };
        request = request.header("api-key", KEY);
        request = match is_grpc {
            true => request.header("content-type", "application/grpc").header("te", "trailers"),
            false => request.header("content-type", "application/json"),
        };
        let request = request.body(Full::from(body)).expect("a request");
        let began = Instant::now();
        let answer = async {
            let answer = client.request(request).await.map_err(|error| format!("{error:?}"))?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(|error| format!("{error:?}"))?;
            let took = began.elapsed();
            match is_answer(nodes, is_grpc, number, &Response::from_parts(head, body.to_bytes())) {
                Ok(()) => Ok(took),
                Err(reason) => Err(reason),
            }
        };
        match tokio::time::timeout(DEADLINE, answer).await.unwrap_or_else(|_| Err("no answer".to_owned())) {
            Ok(took) => served.took.push(took),
            Err(reason) => served.failures.push(format!("{target}: {reason}")),
        }
        tokio::time::sleep(PAUSE).await;
    }
    served
}

fn id(number: u64) -> u64 {
    number % POINTS
}

fn target(nodes: Nodes, is_grpc: bool, number: u64) -> String {
    match (nodes, is_grpc, number % 2) {
        (Nodes::Spies, true, _) => format!("/qdrant.Points/Get?well-behaved={number}"),
        (Nodes::Spies, false, 0) => format!("/collections/books/points/{number}?well-behaved"),
        (Nodes::Spies, false, _) => format!("/collections/books/points/search?well-behaved={number}"),
        (Nodes::Cluster, true, _) => "/qdrant.Points/Get".to_owned(),
        (Nodes::Cluster, false, 0) => format!("/collections/books/points/{}", id(number)),
        (Nodes::Cluster, false, _) => "/collections/books/points/search".to_owned(),
    }
}

fn body(nodes: Nodes, is_grpc: bool, number: u64) -> Vec<u8> {
    match (nodes, is_grpc, number % 2) {
        (Nodes::Spies, true, _) => b"\0\0\0\0\x07\x0a\x05books".to_vec(),
        (Nodes::Cluster, true, _) => {
            let ids = vec![PointId::from(id(number))];
            let get = GetPoints { collection_name: "books".to_owned(), ids, ..GetPoints::default() };
            let message = get.encode_to_vec();
            let length = u32::try_from(message.len()).expect("a short message").to_be_bytes();
            [&[0][..], &length, &message].concat()
        }
        (_, false, 0) => Vec::new(),
        (_, false, _) => json!({ "vector": vector(id(number)), "limit": 3 }).to_string().into_bytes(),
    }
}

fn is_answer(nodes: Nodes, is_grpc: bool, number: u64, answer: &Response<Bytes>) -> Result<(), String> {
    let body = answer.body();
    let is_right = match (nodes, is_grpc, number % 2) {
        (Nodes::Spies, ..) => {
            let whose = answer.headers().get("x-target").and_then(|whose| whose.to_str().ok());
            whose == Some(&*target(nodes, is_grpc, number))
        }
        (Nodes::Cluster, true, _) => {
            let points = body.get(5..).and_then(|message| GetResponse::decode(message).ok());
            let first = points.and_then(|points| points.result.into_iter().next());
            first.and_then(|point| point.id) == Some(PointId::from(id(number)))
        }
        (Nodes::Cluster, false, kind) => {
            let answer: Value = serde_json::from_slice(body).unwrap_or_default();
            let point = if kind == 0 { &answer["result"] } else { &answer["result"][0] };
            point["id"] == id(number)
        }
    };
    match answer.status().is_success() && is_right {
        true => Ok(()),
        false => Err(format!("{}: {}", answer.status(), body.escape_ascii())),
    }
}
