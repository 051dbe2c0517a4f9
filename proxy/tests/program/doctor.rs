//! `qdrant-router doctor`: what it finds, and how it ends.

use std::{net::SocketAddr, sync::Arc};

use serde_json::{Value, json};
use testkit::{Block, Cluster};
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

use crate::program::run;

/// The findings as `LEVEL ABOUT WHAT FIX`, and the exit code.
async fn doctor(arguments: &[&str]) -> (Option<i32>, Vec<String>) {
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let ended = tokio::task::spawn_blocking(move || {
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        arguments.push("--output=json");
        run("doctor", &arguments, &[])
    });
    let ended = ended.await.expect("a thread");
    let document: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"));
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let findings = document["findings"].as_array().expect("findings").iter();
    let findings = findings
        .map(|finding| ["level", "about", "what", "fix"].map(|key| text(finding, key)).join(" "))
        .collect();
    (ended.code, findings)
}

#[track_caller]
fn assert_says(findings: &[String], parts: &[&str]) {
    let said = findings.iter().any(|finding| parts.iter().all(|part| finding.contains(part)));
    assert!(said, "{parts:?}: {findings:#?}");
}

async fn create(cluster: &Cluster, name: &str, copies: usize) {
    let collection = json!({
        "vectors": { "size": 4, "distance": "Dot" }, "shard_number": 2, "replication_factor": copies,
    });
    cluster.rest(0).put(&format!("/collections/{name}"), collection).await.expect("created");
    cluster.settled().await.expect("settled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_cluster_has_no_problem() {
    let cluster = Cluster::builder().nodes(2).start().await.expect("a cluster");
    create(&cluster, "books", 2).await;
    let dns = format!("--dns={}", cluster.dns().addr());
    // A preset knows two names for the ClusterIP Service, of which one is there.
    let service = format!("--fallback={}", cluster.service_name());
    let arguments = [&dns, "--headless", cluster.headless_name(), "--fallback=former.demo.svc", &service];
    let (code, findings) = doctor(&arguments).await;
    assert_eq!(code, Some(0), "{findings:#?}");
    assert!(findings.iter().all(|finding| finding.starts_with("ok ")), "{findings:#?}");
    assert_says(&findings, &["ok dns", cluster.headless_name(), "has 2 A (", "TTL"]);
    assert_says(&findings, &["ok node", &cluster.node(1).ip().to_string(), "both ports can be reached"]);
    assert_says(&findings, &["ok credentials the nodes ask for no key"]);
    assert_says(&findings, &["ok version all nodes run Qdrant 1."]);
    assert_says(&findings, &["ok cluster 2 nodes agree"]);
    assert_says(&findings, &["ok collections books: 2 shards, 2 copies each"]);
    assert_says(&findings, &["ok fallback", "answers"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_found_in_all_its_consequences() {
    let cluster = Cluster::builder().nodes(3).start().await.expect("a cluster");
    create(&cluster, "books", 3).await;
    create(&cluster, "single", 1).await;
    cluster.kill(2).await.expect("killed");
    let dns = format!("--dns={}", cluster.dns().addr());
    let arguments = [&dns, "--headless", cluster.headless_name(), "--fallback", "no-such.demo.svc"];
    let (code, findings) = doctor(&arguments).await;
    assert_eq!(code, Some(1), "{findings:#?}");
    let dead = cluster.node(2);
    assert_says(&findings, &["problem node", &dead.ip().to_string(), "the REST port 6333 cannot be reached"]);
    assert_says(&findings, &["problem node", "the gRPC port 6334 cannot be reached"]);
    assert_says(&findings, &["problem cluster", "no address answers as peer", &dead.peer_id().to_string()]);
    assert_says(&findings, &["problem collections books: shards 0, 1 have fewer than 3 copies"]);
    assert_says(&findings, &["warning collections single: one copy of each shard"]);
    assert_says(&findings, &["problem dns no-such.demo.svc", "check the name"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_without_records_is_found() {
    let cluster = Cluster::builder().nodes(1).start().await.expect("a cluster");
    let dns = format!("--dns={}", cluster.dns().addr());
    let (code, findings) = doctor(&[&dns, "--headless=nobody.demo.svc.cluster.local."]).await;
    assert_eq!(code, Some(1));
    assert_says(&findings, &["problem dns nobody", "publishNotReadyAddresses"]);
    assert_says(&findings, &["problem node there is no address"]);
    assert_says(&findings, &["warning fallback there is no fallback"]);
    assert_says(&findings, &["problem collections no node has told"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_and_a_wrong_key_are_told_apart() {
    let cluster = Cluster::builder().nodes(1).api_key("right").start().await.expect("a cluster");
    let node = format!("--node={}", cluster.node(0).ip());
    let (code, findings) = doctor(&[&node]).await;
    assert_eq!(code, Some(1));
    assert_says(&findings, &["problem credentials", "ask for a key", "api_key_file"]);

    let file = tempfile::NamedTempFile::new().expect("a file");
    let key = format!("--api-key-file={}", file.path().display());
    std::fs::write(file.path(), "wrong").expect("written");
    let (_, findings) = doctor(&[&node, &key]).await;
    assert_says(&findings, &["problem credentials", "do not accept the router's key"]);
    std::fs::write(file.path(), "right").expect("written");
    let (code, findings) = doctor(&[&node, &key]).await;
    assert_eq!(code, Some(0), "{findings:#?}");
    assert_says(&findings, &["ok credentials the router's key reads the topology"]);
}

/// A server that shows a certificate for `names` and then hangs up; its CA in PEM.
async fn tls_server(address: SocketAddr, names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let issued = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(issued.signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .expect("a key");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(address).await.expect("a free port");
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move { acceptor.accept(tcp).await.map(drop) });
        }
    });
    issued.cert.pem()
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_on_one_side_only_is_found() {
    let cluster = Cluster::builder().nodes(1).start().await.expect("a cluster");
    let node = format!("--node={}", cluster.node(0).ip());
    let (_, findings) = doctor(&[&node, "--upstream-tls", "--upstream-server-name=q"]).await;
    assert_says(&findings, &["problem node", "the node speaks no TLS; leave out `upstream_tls`"]);

    let block = Block::claim().expect("addresses");
    let pem = tls_server((block.node(0), 6333).into(), &["*.q.demo.svc"]).await;
    let node = format!("--node={}", block.node(0));
    let (_, findings) = doctor(&[&node]).await;
    assert_says(&findings, &["problem node", "the node speaks TLS; set `upstream_tls: true`"]);

    let ca = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(ca.path(), pem).expect("written");
    let ca = format!("--upstream-ca-file={}", ca.path().display());
    let (_, findings) = doctor(&[&node, "--upstream-tls", &ca, "--upstream-server-name=q"]).await;
    assert_says(
        &findings,
        &["problem certificate", "is for *.q.demo.svc, and not for q", "such as any.q.demo.svc"],
    );
    let (_, findings) =
        doctor(&[&node, "--upstream-tls", &ca, "--upstream-server-name=any.q.demo.svc"]).await;
    assert_says(&findings, &["ok certificate", "for *.q.demo.svc, ends in"]);
}
