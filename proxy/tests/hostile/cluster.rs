//! Strangers in front of a cluster, of real nodes where `QDRANT_BIN` names a server. They do not have its key.
//!
//! What exactly reaches the nodes is for the spies to say. Here it is asked what a cluster and its clients notice.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;
use futures_util::future::{join_all, select_all};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use qdrant_client::qdrant::CountPoints;
use serde_json::{Value, json};
use testkit::{Cluster, GRPC_PORT, REST_PORT};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    generated::{attacked, number, settings},
    polite::{KEY, Nodes, POINTS, vector},
    process::MAX_GROWTH,
    program::{Program, eventually, get},
};

/// How many generated requests are sent, and how many are cancelled, unless the environment says otherwise.
const REQUESTS: u64 = 5_000;
const CANCELLED: u64 = 2_000;

/// How many of them are under way together.
const TOGETHER: usize = 50;

/// The same of streams: more than twenty that are reset before the router has looked at them end a connection.
const STREAMS: usize = 20;

/// A cluster with points in `books`, and the program in front of it.
struct Bed {
    cluster: Cluster,
    program: Program,
    proxy: IpAddr,
    _folder: tempfile::TempDir,
}

impl Bed {
    async fn start() -> Self {
        let cluster = Cluster::builder().nodes(3).api_key(KEY).start().await.expect("a cluster");
        let collection = json!({
            "vectors": { "size": 4, "distance": "Euclid" }, "shard_number": 6, "replication_factor": 2,
        });
        let rest = cluster.rest(0);
        rest.put("/collections/books", collection).await.expect("a collection");
        let points: Vec<Value> = (0..POINTS).map(|id| json!({ "id": id, "vector": vector(id) })).collect();
        rest.put("/collections/books/points?wait=true", json!({ "points": points })).await.expect("points");
        cluster.settled().await.expect("a settled cluster");

        let folder = tempfile::tempdir().expect("a folder");
        let key = folder.path().join("key");
        fs::write(&key, KEY).expect("written");
        let proxy = cluster.block().proxy();
        let mut arguments: Vec<_> =
            cluster.nodes().iter().map(|node| format!("--node={}", node.ip())).collect();
        arguments.extend([format!("--api-key-file={}", key.display()), "--log=warn".to_owned()]);
        arguments.extend(settings());
        let program = Program::serve(proxy, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        eventually("it is ready", async || {
            get(proxy, 9633, "/readyz").await.is_some_and(|(status, _)| status == StatusCode::OK)
        })
        .await;
        Self { cluster, program, proxy, _folder: folder }
    }

    /// From which ports the program is connected to this port of the nodes.
    fn connections(&self, port: u16) -> BTreeSet<(IpAddr, u16)> {
        const ESTABLISHED: &str = "01";
        let table = fs::read_to_string(format!("/proc/{}/net/tcp", self.program.id())).expect("a table");
        let rows = table.lines().skip(1).filter_map(|row| {
            let mut columns = row.split_whitespace().skip(1);
            let (from, to) = (address(columns.next()?)?, address(columns.next()?)?);
            (columns.next()? == ESTABLISHED).then_some((from, to))
        });
        let nodes: Vec<IpAddr> = self.cluster.nodes().iter().map(testkit::Node::ip).collect();
        rows.filter(|(_, to)| to.port() == port && nodes.contains(&to.ip()))
            .map(|(from, to)| (to.ip(), from.port()))
            .collect()
    }

    /// How many requests the program has sent to nodes that have not been answered.
    async fn under_way(&self) -> u64 {
        let (_, metrics) = get(self.proxy, 9633, "/metrics").await.expect("metrics");
        let lines = metrics.lines().filter(|line| line.starts_with("qdrant_router_node_requests_in_flight{"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }
}

/// An address as the system's table has it: a number of the machine's order, and a port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let ip = u32::from_str_radix(ip, 16).ok()?.to_ne_bytes();
    Some(SocketAddr::new(ip.into(), u16::from_str_radix(port, 16).ok()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_harm_nobody() {
    let requests = number("QDRANT_ROUTER_HOSTILE", REQUESTS);
    let bed = Bed::start().await;
    let ports = [6333, 6334].map(|port| SocketAddr::new(bed.proxy, port));
    let growth = attacked(&bed.program, ports, Nodes::Cluster, requests).await;
    let said = bed.program.said();
    assert!(!said.contains("panicked"), "{said}");
    assert!(growth <= MAX_GROWTH, "memory grew by {growth} bytes");
    for node in 0..3 {
        let count = bed.cluster.rest(node).post("/collections/books/points/count", json!({})).await;
        assert_eq!(count.expect("an answer")["result"]["count"], POINTS, "on node {node}");
    }
}

async fn connect(proxy: SocketAddr) -> SendRequest<Full<Bytes>> {
    let tcp = TcpStream::connect(proxy).await.expect("a connection");
    tcp.set_nodelay(true).expect("an option");
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

fn count(proxy: SocketAddr) -> Request<Full<Bytes>> {
    let count =
        CountPoints { collection_name: "books".to_owned(), exact: Some(true), ..CountPoints::default() };
    let message = count.encode_to_vec();
    let length = u32::try_from(message.len()).expect("a short message").to_be_bytes();
    Request::post(format!("http://{proxy}/qdrant.Points/Count"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header("api-key", KEY)
        .body(Full::from([&[0][..], &length, &message].concat()))
        .expect("a request")
}

async fn check(answer: hyper::Result<Response<Incoming>>) {
    let (head, body) = answer.expect("an answer").into_parts();
    let is_ok = head.status == StatusCode::OK && !head.headers.contains_key("grpc-status");
    assert!(is_ok, "{head:?}");
    body.collect().await.expect("all of the answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_requests_cost_a_cluster_no_connection() {
    let enough = number("QDRANT_ROUTER_CANCELLED", CANCELLED);
    let bed = Bed::start().await;
    let [rest, grpc] = [6333, 6334].map(|port| SocketAddr::new(bed.proxy, port));
    let mut sender = connect(grpc).await;
    let get = format!("GET /collections/books/points/1 HTTP/1.1\r\nhost: q\r\napi-key: {KEY}\r\n\r\n");
    let (mut seen, mut to_rest) = (BTreeSet::new(), BTreeSet::new());
    let mut cancelled = 0;
    while cancelled < enough {
        // gRPC: as soon as one is answered, the streams of the others are reset.
        sender.ready().await.expect("a connection");
        let requests = (0..STREAMS).map(|_| sender.send_request(count(grpc)));
        let (first, _, others) = select_all(requests.map(Box::pin)).await;
        check(first).await;
        cancelled += others.len() as u64;
        drop(others);
        assert!(!sender.is_closed(), "the client's own connection goes on");

        // REST: likewise, and the connections are closed.
        let connections = (0..TOGETHER).map(|_| async {
            let mut tcp = TcpStream::connect(rest).await.expect("a connection");
            tcp.write_all(get.as_bytes()).await.expect("a request");
            tcp
        });
        let connections = join_all(connections).await;
        let (first, ..) = select_all(connections.iter().map(|tcp| Box::pin(tcp.readable()))).await;
        first.expect("an answer");
        cancelled += connections.len() as u64 - 1;
        drop(connections);

        seen.extend(bed.connections(GRPC_PORT));
        to_rest.extend(bed.connections(REST_PORT));
    }
    eventually("what was cancelled has ended", async || bed.under_way().await == 0).await;
    check(sender.send_request(count(grpc)).await).await;
    let left = bed.connections(GRPC_PORT);
    println!(
        "{cancelled} cancelled: of {} connections for gRPC {} are left, and of {} for REST {}",
        seen.len(),
        left.intersection(&seen).count(),
        to_rest.len(),
        bed.connections(REST_PORT).len()
    );
    assert_eq!(
        seen.difference(&left).collect::<Vec<_>>(),
        Vec::<&(IpAddr, u16)>::new(),
        "those that were lost"
    );
    // Those of one round serve the next; what is idle for four seconds is closed.
    assert!(to_rest.len() <= 10 * TOGETHER, "{} connections for REST", to_rest.len());
}
