//! What is done to routers at work: a new configuration, and a new program, one router after the other.

use std::{
    collections::VecDeque,
    fs,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use prost::Message;
use qdrant_client::qdrant::{CountPoints, PointStruct, UpsertPoints};
use serde_json::json;
use testkit::Cluster;
use tokio::{task::JoinSet, time::sleep};

use crate::program::{Program, eventually, get};

/// Clients of each kind.
const CLIENTS: u64 = 3;

/// How often readiness is looked at, by those who send new requests to whoever is ready.
const WATCH: Duration = Duration::from_millis(20);

/// How long a router that stops serves on: what Kubernetes needs to notice, here.
const DELAY: &str = "--shutdown-delay=3s";

/// The routers, and which of them are ready: what a Service goes by.
struct Service {
    routers: Vec<(IpAddr, AtomicBool)>,
    sent: AtomicU64,
    failures: Mutex<Vec<String>>,
    over: AtomicBool,
}

/// Clients of a [`Service`] that keep asking until they are told to stop.
struct Load {
    service: Arc<Service>,
    clients: JoinSet<()>,
}

impl Service {
    /// One of those that are ready, in turn.
    fn any(&self, turn: u64) -> Option<IpAddr> {
        let ready: Vec<IpAddr> =
            self.routers.iter().map(|&(ip, _)| ip).filter(|&ip| self.is_ready(ip)).collect();
        ready.get(turn as usize % ready.len().max(1)).copied()
    }

    fn is_ready(&self, ip: IpAddr) -> bool {
        self.routers.iter().any(|(router, ready)| *router == ip && ready.load(Ordering::Relaxed))
    }

    async fn watch(&self) {
        while !self.over.load(Ordering::Relaxed) {
            for (ip, ready) in &self.routers {
                let status = get(*ip, 9633, "/readyz").await.map(|(status, _)| status);
                ready.store(status == Some(StatusCode::OK), Ordering::Relaxed);
            }
            sleep(WATCH).await;
        }
    }

    async fn ask(&self, is_grpc: bool, first: u64) {
        let client: Client<HttpConnector, Full<Bytes>> =
            Client::builder(TokioExecutor::new()).http2_only(is_grpc).build(HttpConnector::new());
        for id in (first..).step_by(1_000) {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let Some(ip) = self.any(id / 2_000) else {
                self.failures.lock().expect("lock").push("no router is ready".to_owned());
                return;
            };
            let request = if is_grpc { grpc(ip, id) } else { rest(ip, id) };
            self.sent.fetch_add(1, Ordering::Relaxed);
            if let Err(reason) = outcome(client.request(request).await).await {
                self.failures.lock().expect("lock").push(format!("{id} at {ip}: {reason}"));
            }
        }
    }
}

impl Load {
    async fn start(routers: &[IpAddr]) -> Self {
        let routers = routers.iter().map(|&ip| (ip, AtomicBool::new(false))).collect();
        let service = Arc::new(Service {
            routers,
            sent: AtomicU64::default(),
            failures: Mutex::default(),
            over: AtomicBool::default(),
        });
        let mut clients = JoinSet::new();
        let watched = service.clone();
        clients.spawn(async move { watched.watch().await });
        for (ip, _) in &service.routers {
            eventually("all routers are ready", async || service.is_ready(*ip)).await;
        }
        for number in 0..2 * CLIENTS {
            let service = service.clone();
            clients.spawn(async move { service.ask(number < CLIENTS, number).await });
        }
        Self { service, clients }
    }

    /// Until so many more requests have been sent.
    async fn goes_on(&self, requests: u64) {
        let until = self.service.sent.load(Ordering::Relaxed) + requests;
        eventually("requests go on", async || self.service.sent.load(Ordering::Relaxed) >= until).await;
    }

    /// Nothing has failed.
    async fn stop(self, what: &str) {
        self.service.over.store(true, Ordering::Relaxed);
        self.clients.join_all().await;
        let failures = self.service.failures.lock().expect("lock");
        println!("{what}: {} requests, {} failed", self.service.sent.load(Ordering::Relaxed), failures.len());
        assert_eq!(*failures, Vec::<String>::new(), "{what}");
    }
}

/// Reads and writes take turns.
fn is_write(id: u64) -> bool {
    (id / 1_000).is_multiple_of(2)
}

fn rest(ip: IpAddr, id: u64) -> Request<Full<Bytes>> {
    let (request, body) = if is_write(id) {
        let body = json!({ "points": [{ "id": id, "vector": [1.0, 2.0, 3.0, 4.0] }] });
        (Request::put(format!("http://{ip}:6333/collections/books/points")), body)
    } else {
        (Request::post(format!("http://{ip}:6333/collections/books/points/count")), json!({}))
    };
    let request = request.header("content-type", "application/json");
    request.body(Full::new(body.to_string().into())).expect("a request")
}

fn grpc(ip: IpAddr, id: u64) -> Request<Full<Bytes>> {
    let (method, message) = if is_write(id) {
        let point = PointStruct::new(id, vec![1.0, 2.0, 3.0, 4.0], qdrant_client::Payload::new());
        let points = vec![point];
        let upsert = UpsertPoints { collection_name: "books".to_owned(), points, ..UpsertPoints::default() };
        ("Upsert", upsert.encode_to_vec())
    } else {
        let count = CountPoints { collection_name: "books".to_owned(), ..CountPoints::default() };
        ("Count", count.encode_to_vec())
    };
    let length = u32::try_from(message.len()).expect("a short message").to_be_bytes();
    let frame = [&[0][..], &length, &message].concat();
    Request::post(format!("http://{ip}:6334/qdrant.Points/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(frame.into()))
        .expect("a request")
}

async fn outcome(
    answer: Result<http::Response<hyper::body::Incoming>, hyper_util::client::legacy::Error>,
) -> Result<(), String> {
    let (head, body) = answer.map_err(|error| format!("{error:?}"))?.into_parts();
    let body = body.collect().await.map_err(|error| format!("{error:?}"))?;
    let trailers = body.trailers().and_then(|trailers| trailers.get("grpc-status"));
    let status = trailers.or(head.headers.get("grpc-status"));
    match head.status == StatusCode::OK && status.is_none_or(|status| status == "0") {
        true => Ok(()),
        false => Err(format!("{head:?}")),
    }
}

/// Three nodes, with `books` on two of them each.
async fn cluster() -> Cluster {
    let cluster = Cluster::builder().nodes(3).start().await.expect("a cluster");
    let settings = json!({
        "vectors": { "size": 4, "distance": "Dot" }, "shard_number": 6, "replication_factor": 2,
    });
    cluster.rest(0).put("/collections/books", settings).await.expect("a collection");
    cluster.settled().await.expect("a settled cluster");
    cluster
}

fn nodes(cluster: &Cluster) -> Vec<String> {
    cluster.nodes().iter().map(|node| format!("--node={}", node.ip())).collect()
}

async fn ends(program: Program) {
    program.terminate();
    let (status, said) = tokio::task::spawn_blocking(move || program.end()).await.expect("a thread");
    assert_eq!(status.code(), Some(0), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn routers_that_are_restarted_one_after_the_other_fail_nothing() {
    let cluster = cluster().await;
    let ips = [cluster.block().proxy(), cluster.block().spare(0)];
    let nodes = nodes(&cluster);
    let start = |ip: IpAddr| {
        let arguments = nodes.iter().map(String::as_str).chain([DELAY, "--log=warn"]);
        Program::serve(ip, &arguments.collect::<Vec<_>>())
    };
    let mut programs = VecDeque::from(ips.map(start));
    let load = Load::start(&ips).await;
    load.goes_on(300).await;
    for ip in ips {
        ends(programs.pop_front().expect("the oldest")).await;
        eventually("it is seen to be away", async || !load.service.is_ready(ip)).await;
        programs.push_back(start(ip));
        eventually("it is ready again", async || load.service.is_ready(ip)).await;
        load.goes_on(300).await;
    }
    load.stop("routers restarted by SIGTERM, one after the other").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_is_reloaded_fails_nothing() {
    let cluster = cluster().await;
    let ip = cluster.block().proxy();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("router.yaml");
    let configure = |version: usize| {
        let nodes: Vec<String> = cluster.nodes().iter().map(|node| format!("  - {}\n", node.ip())).collect();
        let log = "log: warn,qdrant_router_proxy=info";
        let text = format!("node:\n{}body_limit: {}MiB\n{log}\n", nodes.concat(), 16 + version);
        fs::write(&file, text).expect("written");
    };
    configure(0);
    let program = Program::serve(ip, &["--config", file.to_str().expect("text")]);
    let load = Load::start(&[ip]).await;
    load.goes_on(300).await;
    for version in 1..=5 {
        configure(version);
        program.signal("HUP");
        eventually("the new configuration is in use", async || {
            program.said().matches("the new configuration is in use").count() >= version
        })
        .await;
        load.goes_on(100).await;
    }
    load.stop("a router reloaded five times").await;
    ends(program).await;
}
