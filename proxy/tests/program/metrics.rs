//! What Prometheus reads of a running proxy.

use std::net::IpAddr;

use http::StatusCode;
use serde_json::{Value, json};
use testkit::{Block, Canned, Cluster, Rest};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use crate::{
    program::{Program, eventually, get},
    telling::{metric, ready},
};

async fn three_nodes(arguments: &[&str]) -> (Cluster, Program, IpAddr, Rest) {
    let cluster = Cluster::builder().nodes(3).start().await.expect("a cluster");
    let ip = cluster.block().proxy();
    let nodes = cluster.nodes().iter().map(|node| format!("--node={}", node.ip()));
    let nodes: Vec<String> = nodes.chain(arguments.iter().map(|&argument| argument.to_owned())).collect();
    let program = Program::serve(ip, &nodes.iter().map(String::as_str).collect::<Vec<_>>());
    ready(ip).await;
    eventually("three nodes", async || metric(ip, "qdrant_router_reachable_nodes").await == Some(3.0)).await;
    (cluster, program, ip, Rest::new((ip, 6333).into(), None))
}

/// Behind the proxy's back, so that it has no change of its own to wait for.
async fn create(cluster: &Cluster) {
    let settings = json!({ "vectors": { "size": 4, "distance": "Dot" }, "shard_number": 6 });
    cluster.rest(0).put("/collections/books", settings).await.expect("a collection");
    cluster.settled().await.expect("a settled cluster");
}

fn points(ids: impl Iterator<Item = u64>) -> Value {
    json!({ "points": ids.map(|id| json!({ "id": id, "vector": [1, 2, 3, 4] })).collect::<Vec<_>>() })
}

/// Qdrant stands still behind its Service, and a client gives up.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_fallback_is_counted_and_who_gives_up_too() {
    let block = Block::claim().expect("addresses");
    let (ip, service) = (block.proxy(), block.spare(0));
    let _silent = TcpListener::bind((service, 6333)).await.expect("a free port");
    let _program =
        Program::serve(ip, &[&format!("--node={}", block.node(0)), &format!("--fallback={service}")]);
    let in_flight = async || metric(ip, "qdrant_router_requests_in_flight").await;
    eventually("it listens", async || in_flight().await == Some(0.0)).await;
    let given_up = async || metric(ip, "qdrant_router_requests_given_up_total").await;
    for (count, port) in [(1.0, 6333), (2.0, 6334)] {
        let mut client = TcpStream::connect((ip, port)).await.expect("a connection");
        client.write_all(b"GET /collections HTTP/1.1\r\nhost: q\r\n\r\n").await.expect("a request");
        // What was sent is not taken back.
        eventually("it is under way", async || in_flight().await == Some(count)).await;
        assert_eq!(given_up().await, Some(count - 1.0));
        drop(client);
        eventually("it is given up", async || given_up().await == Some(count)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn internal_rpcs_that_a_service_would_have_cost_are_counted_as_avoided() {
    let (cluster, _program, ip, rest) = three_nodes(&["--direct-point-reads"]).await;
    create(&cluster).await;
    let avoided = async || {
        let avoided = metric(ip, "qdrant_router_avoided_internal_rpcs_total{protocol=\"rest\"}").await;
        avoided.unwrap_or_default()
    };
    let about = |value: f64, expected: f64| (value - expected).abs() < 1e-6;
    let write = "/collections/books/points?wait=true";
    for id in 0..30 {
        rest.put(write, points(id..id + 1)).await.expect("a write");
    }
    // Of three nodes, one holds the point and two would ask it.
    let by_writes = avoided().await;
    assert!(about(by_writes, 20.0), "{by_writes}");

    // In parts, each to who holds it; whole, any node would hand on four shards of six.
    rest.put(write, points(0..30)).await.expect("a write");
    let by_split = avoided().await - by_writes;
    assert!(about(by_split, 4.0), "{by_split}");

    // From the one shard that has it; otherwise any node would ask four others.
    rest.get("/collections/books/points/7").await.expect("a point");
    let by_direct_read = avoided().await - by_writes - by_split;
    assert!(about(by_direct_read, 4.0), "{by_direct_read}");

    // All nodes hold as much of the whole collection.
    rest.post("/collections/books/points/count", json!({})).await.expect("a count");
    assert!(about(avoided().await, by_writes + by_split + by_direct_read));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_all_workers_are_counted_for_each_node() {
    let cluster = Cluster::builder().nodes(1).start().await.expect("a cluster");
    let (ip, node) = (cluster.block().proxy(), format!("--node={}", cluster.node(0).ip()));
    let _program = Program::serve(ip, &[&node, "--workers=2"]);
    ready(ip).await;
    let open = async |protocol: &str| {
        let name = cluster.node(0).name();
        metric(ip, &format!("qdrant_router_connections{{node=\"{name}\",protocol=\"{protocol}\"}}")).await
    };
    assert_eq!((open("rest").await, open("grpc").await), (Some(0.0), Some(0.0)));

    // The least busy worker serves a connection, and has connections of its own.
    let client = || {
        let client = qdrant_client::Qdrant::from_url(&format!("http://{ip}:6334"));
        client.skip_compatibility_check().build().expect("a client")
    };
    let clients = [client(), client()];
    for client in &clients {
        client.list_collections().await.expect("an answer");
    }
    assert_eq!(open("grpc").await, Some(2.0));
    get(ip, 6333, "/collections").await.expect("an answer");
    assert_eq!(open("rest").await, Some(1.0));

    cluster.kill(0).await.expect("killed");
    eventually("none is open", async || (open("rest").await, open("grpc").await) == (Some(0.0), Some(0.0)))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeats_that_the_budget_has_no_room_for_are_counted() {
    let (cluster, _program, ip, _rest) = three_nodes(&[]).await;
    create(&cluster).await;
    assert_eq!(metric(ip, "qdrant_router_repeats_refused_total").await, Some(0.0));
    for node in 0..3 {
        cluster.answer_with(node, Canned::unavailable()).await.expect("errors");
    }
    eventually("the budget is spent", async || {
        let (status, _) = get(ip, 6333, "/collections/books/points/1").await.expect("an answer");
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        metric(ip, "qdrant_router_repeats_refused_total").await > Some(10.0)
    })
    .await;
}
