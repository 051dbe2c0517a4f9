//! Taking over a new configuration while requests go on.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::symlink,
    path::Path,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use testkit::{Block, Cluster};
use tokio::net::TcpStream;

use crate::{
    program::{Program, eventually, get},
    telling::{event, metric, ready},
};

/// One connection to the proxy.
struct Connection(SendRequest<Empty<Bytes>>);

impl Connection {
    async fn open(ip: IpAddr) -> Self {
        let tcp = TcpStream::connect(SocketAddr::new(ip, 6333)).await.expect("a connection");
        let (sender, connection) = handshake(TokioIo::new(tcp)).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        Self(sender)
    }

    /// The node that answers a request on this connection.
    async fn answering_node(&mut self) -> String {
        let request = Request::get("/collections").header("x-qdrant-router-explain", "1");
        let request = request.header("host", "router").body(Empty::new()).expect("a request");
        self.0.ready().await.expect("the connection stays open");
        let response = self.0.send_request(request).await.expect("the connection stays open");
        assert_eq!(response.status(), StatusCode::OK);
        let node = response.headers()["x-qdrant-router-node"].to_str().expect("text").to_owned();
        response.into_body().collect().await.expect("a body");
        node
    }
}

async fn end(program: Program) -> String {
    program.terminate();
    let (status, said) = tokio::task::spawn_blocking(move || program.end()).await.expect("a thread");
    assert_eq!(status.code(), Some(0), "{said}");
    said
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_that_changes_is_taken_over_on_open_connections() {
    let old = Cluster::builder().nodes(1).start().await.expect("a cluster");
    let new = Cluster::builder().nodes(1).start().await.expect("a cluster");
    let ip = old.block().proxy();

    // As the kubelet mounts it: the file is a link into `..data`, itself a link that is replaced.
    let volume = tempfile::tempdir().expect("a folder");
    let at = |name: &str| volume.path().join(name);
    for (version, cluster) in [("..1", &old), ("..2", &new)] {
        fs::create_dir(at(version)).expect("a folder");
        let config = format!("node: {}\nlog: warn,qdrant_router_proxy=info\n", cluster.node(0).ip());
        fs::write(at(version).join("router.yaml"), config).expect("written");
    }
    symlink("..1", at("..data")).expect("a link");
    symlink("..data/router.yaml", at("router.yaml")).expect("a link");

    let program = Program::serve(ip, &["--config", text(&at("router.yaml"))]);
    ready(ip).await;
    let mut connection = Connection::open(ip).await;
    let before = connection.answering_node().await;

    symlink("..2", at("..tmp")).expect("a link");
    fs::rename(at("..tmp"), at("..data")).expect("renamed");
    eventually("the new configuration is in use", async || {
        connection.answering_node().await;
        program.said().contains("the new configuration is in use")
    })
    .await;
    connection.answering_node().await;
    let (_, topology) = get(ip, 9633, "/topology").await.expect("an answer");
    assert!(topology.contains(&new.node(0).ip().to_string()), "{before}: {topology}");
    end(program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_leaves_the_old_configuration_and_what_cannot_change_is_named() {
    let cluster = Cluster::builder().nodes(1).start().await.expect("a cluster");
    let ip = cluster.block().proxy();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("router.yaml");
    let node = format!("node: {}\n", cluster.node(0).ip());
    fs::write(&file, &node).expect("written");
    let program = Program::serve(ip, &["--config", text(&file)]);
    ready(ip).await;
    assert_eq!(metric(ip, "qdrant_router_config_last_reload_successful").await, Some(1.0));

    fs::write(&file, "nod: q\n").expect("written");
    program.signal("HUP");
    eventually("the mistake is named", async || {
        let said = program.said();
        said.contains("the old one stays")
            && said.contains("router.yaml:1: unknown key `nod`; did you mean `node`?")
    })
    .await;
    assert_eq!(get(ip, 6333, "/collections").await.map(|(status, _)| status), Some(StatusCode::OK));
    let counts = async || {
        let reloads = async |outcome: &str| {
            metric(ip, &format!("qdrant_router_config_reloads_total{{outcome=\"{outcome}\"}}")).await
        };
        let last = metric(ip, "qdrant_router_config_last_reload_successful").await;
        [reloads("ok").await, reloads("failed").await, last].map(|value| value.expect("a value"))
    };
    let [ok, failed, last] = counts().await;
    assert_eq!((ok, last), (0.0, 0.0));
    assert!(failed > 0.0, "by the signal, and by the file where that was seen on its own");
    let told = event(ip, "reload_failed").await.expect("an event");
    let cause = told["cause"].as_str().expect("text");
    assert!(cause.ends_with("router.yaml:1: unknown key `nod`; did you mean `node`?"), "{cause}");

    fs::write(&file, format!("{node}drain_timeout: 1s\n")).expect("written");
    eventually("what cannot change is named", async || {
        let said = program.said();
        said.contains("these keys change at a restart only") && said.contains("drain_timeout")
    })
    .await;
    // The mistake counts once more where the file was looked at before the signal came.
    eventually("it is counted", async || matches!(counts().await, [1.0, 1.0..=2.0, 1.0])).await;
    eventually("it is told", async || event(ip, "reloaded").await.is_some()).await;
    assert_eq!(get(ip, 6333, "/collections").await.map(|(status, _)| status), Some(StatusCode::OK));
    end(program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_accepted_yet_waits() {
    let cluster = Cluster::builder().nodes(1).api_key("right").start().await.expect("a cluster");
    let ip = cluster.block().proxy();
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("key");
    fs::write(&key, "right").expect("written");
    let node = format!("--node={}", cluster.node(0).ip());
    let program = Program::serve(ip, &[&node, "--api-key-file", text(&key)]);
    ready(ip).await;

    fs::write(&key, "next").expect("written");
    eventually("the refusal is told", async || {
        program.said().contains("does not reach the cluster, the old one stays until it does")
    })
    .await;
    let (_, topology) = get(ip, 9633, "/topology").await.expect("an answer");
    assert!(!topology.contains("\"epoch\":null"), "{topology}");
    let told = event(ip, "reload_failed").await.expect("an event");
    assert!(told["cause"].as_str().is_some_and(|cause| cause.contains("401")), "{told}");
    assert_eq!(metric(ip, "qdrant_router_config_last_reload_successful").await, Some(0.0));

    fs::write(&key, "right").expect("written");
    eventually("the key is in use", async || program.said().contains("the new configuration is in use"))
        .await;
    end(program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_knows_nothing_is_replaced_at_once() {
    let block = Block::claim().expect("addresses");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("router.yaml");
    fs::write(&file, format!("node: {}\n", block.node(0))).expect("written");
    let program = Program::serve(block.proxy(), &["--config", text(&file)]);
    eventually("it is alive", async || get(block.proxy(), 9633, "/livez").await.is_some()).await;
    fs::write(&file, format!("node: {}\n", block.node(1))).expect("written");
    program.signal("HUP");
    eventually("the new configuration is in use", async || {
        program.said().contains("the new configuration is in use")
    })
    .await;
    end(program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routing_is_switched_on_under_open_connections() {
    let cluster = Cluster::builder().nodes(1).start().await.expect("a cluster");
    let ip = cluster.block().proxy();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("router.yaml");
    let service = cluster.balancer().ip();
    let places = format!("node: {}\nfallback: {service}\n", cluster.node(0).ip());
    fs::write(&file, format!("{places}routing: off\n")).expect("written");
    let program = Program::serve(ip, &["--config", text(&file)]);
    ready(ip).await;
    let mut connection = Connection::open(ip).await;
    assert_eq!(connection.answering_node().await, service.to_string());
    fs::write(&file, format!("{places}routing: all\n")).expect("written");
    program.signal("HUP");
    eventually("the node is asked itself", async || connection.answering_node().await != service.to_string())
        .await;
    end(program).await;
}
