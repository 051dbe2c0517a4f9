//! `qdrant-router serve`: what it says, and how it ends.

use std::{
    net::TcpListener,
    process::{Child, Stdio},
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use testkit::{Block, Cluster};
use tokio::net::TcpStream;

use crate::{
    program::{Program, eventually, get, listeners, program},
    telling::{metric, ready},
};

#[test]
fn a_wrong_configuration_is_named_and_ends_with_two() {
    let block = Block::claim().expect("addresses");
    for (arguments, says) in [
        (&[][..], "nothing says where Qdrant is"),
        (&["--headless=not a name"], "`not a name` is not HOST[:REST[:GRPC]]"),
        (&["--node=q:99999"], "a port is a number from 1 to 65535"),
        (&["--preset=openshift:q"], "`openshift:q` is not a preset"),
        (&["--node=127.0.0.1", "--api-key-file=/no/such/file"], "--api-key-file /no/such/file"),
        (&["--node=127.0.0.1", "--api-key-file=s3cret"], "--api-key-file (not shown): there is no such file"),
        (&["--node=127.0.0.1", "--api-key-file=s3cret/w8+="], "--api-key-file (not shown)"),
        (&["--node=127.0.0.1", "--dns=nowhere"], "--dns"),
        (&["--node=127.0.0.1", "--upstream-tls", "--upstream-ca-file=/dev/null"], "no usable CA certificate"),
        (&["--hedless=q"], "--headless"),
    ] {
        let (status, said) = Program::serve(block.proxy(), arguments).end();
        assert_eq!(status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
        assert!(!said.contains("s3cret"), "{said}");
    }
}

#[test]
fn an_empty_key_file_is_named() {
    let block = Block::claim().expect("addresses");
    let file = tempfile::NamedTempFile::new().expect("a file");
    let key = format!("--api-key-file={}", file.path().display());
    let (status, said) = Program::serve(block.proxy(), &["--node=127.0.0.1", &key]).end();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("the file is empty"), "{said}");
}

#[test]
fn a_port_in_use_is_named() {
    let block = Block::claim().expect("addresses");
    let taken = TcpListener::bind((block.proxy(), 6334)).expect("a free port");
    let (status, said) = Program::serve(block.proxy(), &["--node=127.0.0.1"]).end();
    assert_eq!(status.code(), Some(2), "{said}");
    let address = taken.local_addr().expect("an address");
    assert!(said.contains(&format!("--listen-grpc {address}")), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_is_a_wrong_configuration() {
    let cluster = Cluster::builder().nodes(1).api_key("right").start().await.expect("a cluster");
    let node = format!("--node={}", cluster.node(0).ip());
    let ip = cluster.block().proxy();
    let (status, said) =
        tokio::task::spawn_blocking(move || Program::serve(ip, &[&node]).end()).await.expect("a thread");
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("401") && said.contains("--api-key-file"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_world_that_is_not_there_yet_is_waited_for() {
    let cluster = Cluster::builder().nodes(1).start().await.expect("a cluster");
    let (ip, dns) = (cluster.block().proxy(), format!("--dns={}", cluster.dns().addr()));
    let addresses = cluster.dns().get(cluster.headless_name());
    cluster.dns().remove(cluster.headless_name());
    let headless = format!("--headless={}", cluster.headless_name());
    let program = Program::serve(ip, &[&headless, &dns]);
    let ready = async || get(ip, 9633, "/readyz").await;
    eventually("it says what is missing", async || {
        ready().await.is_some_and(|(status, said)| {
            status == StatusCode::SERVICE_UNAVAILABLE && said.contains("check the name")
        })
    })
    .await;
    assert_eq!(get(ip, 9633, "/livez").await.map(|(status, _)| status), Some(StatusCode::OK));
    let (status, said) = get(ip, 6333, "/collections").await.expect("an answer at once");
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(said.contains("no Qdrant node can be used"), "{said}");

    cluster.dns().set(cluster.headless_name(), addresses);
    eventually("it is ready", async || ready().await.is_some_and(|(status, _)| status == StatusCode::OK))
        .await;
    assert_eq!(get(ip, 6333, "/collections").await.map(|(status, _)| status), Some(StatusCode::OK));

    program.terminate();
    let (status, said) = tokio::task::spawn_blocking(move || program.end()).await.expect("a thread");
    assert_eq!(status.code(), Some(0), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_server_is_served_and_so_ready() {
    let cluster = Cluster::builder().standalone().start().await.expect("a server");
    let (ip, node) = (cluster.block().proxy(), format!("--node={}", cluster.node(0).ip()));
    let _program = Program::serve(ip, &[&node]);
    let ready = (StatusCode::OK, "ready: through servers that do not say who they are\n".to_owned());
    eventually("it is ready", async || get(ip, 9633, "/readyz").await.as_ref() == Some(&ready)).await;
    assert_eq!(get(ip, 6333, "/collections").await.map(|(status, _)| status), Some(StatusCode::OK));
}

/// A program that ends with its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runtimes of containers give programs 1,024, which a tenth of the connections that may be open would take.
#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_open_files_is_the_hard_one() {
    let block = Block::claim().expect("addresses");
    let ip = block.proxy();
    let killed = Killed(
        program("sh")
            .args([
                "-c",
                "ulimit -Sn 60 && ulimit -Hn 4000 && exec \"$0\" serve \"$@\"",
                env!("CARGO_BIN_EXE_qdrant-router"),
            ])
            .args(listeners(ip))
            .arg("--node=127.0.0.1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell"),
    );
    let limits = format!("/proc/{}/limits", killed.0.id());
    eventually("it listens", async || get(ip, 9633, "/livez").await.is_some()).await;
    let limits = std::fs::read_to_string(limits).expect("its limits");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    assert_eq!(files.split_whitespace().collect::<Vec<_>>()[3..5], ["4000", "4000"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_to_stop_serves_on_while_others_notice() {
    let cluster = Cluster::builder().nodes(1).start().await.expect("a cluster");
    let (ip, node) = (cluster.block().proxy(), format!("--node={}", cluster.node(0).ip()));
    let program = Program::serve(ip, &[&node, "--shutdown-delay=1h"]);
    let status = async |port, path| get(ip, port, path).await.map(|(status, _)| status);
    eventually("it is ready", async || status(9633, "/readyz").await == Some(StatusCode::OK)).await;

    program.terminate();
    eventually("it is not ready any more", async || {
        get(ip, 9633, "/readyz").await == Some((StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned()))
    })
    .await;
    assert_eq!(status(6333, "/collections").await, Some(StatusCode::OK), "a new connection");
    assert_eq!(status(9633, "/livez").await, Some(StatusCode::OK));

    program.terminate();
    let (ended, said) = tokio::task::spawn_blocking(move || program.end()).await.expect("a thread");
    assert_eq!(ended.code(), Some(0), "{said}");
    assert_eq!(status(6333, "/collections").await, None, "a second signal skips the rest of the delay");
}

/// Both protocols tell their clients.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_old_end_in_good_order() {
    let cluster = Cluster::builder().nodes(1).start().await.expect("a cluster");
    let (ip, node) = (cluster.block().proxy(), format!("--node={}", cluster.node(0).ip()));
    let _program = Program::serve(ip, &[&node, "--max-connection-age=1s"]);
    ready(ip).await;
    let request =
        || Request::get(format!("http://{ip}/collections")).body(Empty::<Bytes>::new()).expect("one");
    let connect = async |port| TokioIo::new(TcpStream::connect((ip, port)).await.expect("a connection"));

    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), connect(6334).await).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let mut count = 0;
    while sender.ready().await.is_ok() {
        // The end may be told in the meantime; that it was in good order, the connection tells.
        let Ok(answer) = sender.send_request(request()).await else { break };
        assert_eq!(answer.status(), StatusCode::OK);
        answer.into_body().collect().await.expect("all of it");
        count += 1;
    }
    connection.await.expect("no panic").expect("an orderly end");
    assert!(count > 1, "{count} requests");

    let (mut sender, connection) = http1::handshake(connect(6333).await).await.expect("HTTP/1.1");
    let connection = tokio::spawn(connection);
    loop {
        sender.ready().await.expect("it has not said that it ends");
        let answer = sender.send_request(request()).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        let is_last = answer.headers().get(header::CONNECTION).is_some_and(|value| value == "close");
        answer.into_body().collect().await.expect("all of it");
        if is_last {
            break;
        }
    }
    connection.await.expect("no panic").expect("an orderly end");
    eventually("none is open", async || metric(ip, "qdrant_router_client_connections").await == Some(0.0))
        .await;
}
