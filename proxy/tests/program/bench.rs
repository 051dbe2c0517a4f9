//! `qdrant-router bench`: what it measures, and what it leaves behind.

use std::process::{Command, Stdio};

use serde_json::{Value, json};
use testkit::{Authority, Cluster, Front, Validity};

use crate::program::{Ended, Program, command, eventually, run};

/// Runs it, briefly.
async fn bench(arguments: &[&str]) -> Ended {
    let brief = ["--rounds=2", "--duration=200ms", "--points=60", "--dimensions=4", "--concurrency=4"];
    let arguments: Vec<String> = brief.iter().chain(arguments).map(|&argument| argument.to_owned()).collect();
    let ended = tokio::task::spawn_blocking(move || {
        run("bench", &arguments.iter().map(String::as_str).collect::<Vec<_>>(), &[])
    });
    ended.await.expect("a thread")
}

fn document(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"))
}

async fn collections(cluster: &Cluster) -> Vec<String> {
    let answer = cluster.rest(0).get("/collections").await.expect("an answer");
    let rows = answer["result"]["collections"].as_array().cloned().unwrap_or_default();
    rows.iter().map(|row| row["name"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn three_nodes() -> (Cluster, String) {
    let cluster = Cluster::builder().nodes(3).start().await.expect("a cluster");
    let nodes: Vec<_> = cluster.nodes().iter().map(|node| node.ip().to_string()).collect();
    let nodes = format!("--node={}", nodes.join(","));
    (cluster, nodes)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_ways_are_compared_and_nothing_stays_behind() {
    let (cluster, nodes) = three_nodes().await;
    let ip = cluster.block().proxy();
    let _proxy = Program::serve(ip, &[&nodes]);
    eventually("the proxy listens", async || tokio::net::TcpStream::connect((ip, 6334)).await.is_ok()).await;
    let through = format!("--through=node,round-robin,fallback,sdk,http://{ip}:6334");
    let dns = format!("--dns={}", cluster.dns().addr());
    let fallback = format!("--fallback={}", cluster.service_name());
    for protocol in ["--protocol=grpc", "--protocol=rest"] {
        let ended = bench(&[&nodes, &dns, &fallback, &through, protocol, "--output=json"]).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let document = document(&ended);
        let ways = document["ways"].as_array().expect("ways");
        assert_eq!(ways.len(), 5, "{document:#}");
        for way in ways {
            assert_eq!(way["failed"], 0, "{way:#}");
            assert!(way["rate"].as_f64().expect("a rate") > 0.0, "{way:#}");
            assert_eq!(way["rounds"].as_array().expect("rounds").len(), 2);
            let hops = way["internal_rpcs_per_request"].as_f64().expect("hops");
            let is_routed = way["way"] == "sdk" || way["way"] == format!("{ip}:6334");
            assert!(if is_routed { hops < 0.01 } else { (0.4..0.9).contains(&hops) }, "{way:#}");
        }
    }
    assert!(collections(&cluster).await.is_empty());
}

/// The key goes to no node that is asked without TLS.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_behind_tls_are_measured_through_the_router() {
    let cluster = Cluster::builder().nodes(2).api_key("secret").start().await.expect("a cluster");
    let authority = Authority::new();
    let issued = authority.issue(&["any.q.demo.svc"], Validity::Current);
    let mut fronts = Vec::new();
    for (i, node) in cluster.nodes().iter().enumerate() {
        let tls = ["http/1.1", "h2"].map(|protocol| authority.server(&issued, &[protocol], false));
        fronts.push(
            Front::start(cluster.block().spare(100 + i), node.ip(), Some(tls)).await.expect("an address"),
        );
    }
    let (ca, key) =
        (tempfile::NamedTempFile::new().expect("a file"), tempfile::NamedTempFile::new().expect("a file"));
    std::fs::write(ca.path(), authority.certificate()).expect("written");
    std::fs::write(key.path(), "secret").expect("written");
    let nodes: Vec<_> = fronts.iter().map(|front| front.ip().to_string()).collect();
    let nodes = format!("--node={}", nodes.join(","));
    let (ca, key) = (
        format!("--upstream-ca-file={}", ca.path().display()),
        format!("--api-key-file={}", key.path().display()),
    );
    let encrypted = [&*nodes, &key, "--upstream-tls", &ca, "--upstream-server-name=any.q.demo.svc"];
    let ended = bench(&[&encrypted[..], &["--through=sdk", "--output=json"]].concat()).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let way = &document(&ended)["ways"][0];
    assert_eq!((&way["failed"], &way["internal_rpcs_per_request"]), (&json!(0), &json!(0.0)), "{way:#}");
    assert!(collections(&cluster).await.is_empty());

    let ended = bench(&[&encrypted[..], &["--through=round-robin"]].concat()).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("with TLS there is only `sdk`"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mixes_shard_keys_and_a_fixed_rate() {
    let (cluster, nodes) = three_nodes().await;
    let picture = tempfile::NamedTempFile::new().expect("a file");
    let plot = format!("--plot={}", picture.path().display());
    for protocol in ["--protocol=grpc", "--protocol=rest"] {
        let ended = bench(&[
            &nodes,
            "--mix=upsert,get,query=2,scroll",
            "--batch=7",
            "--shards=1",
            "--shard-keys=3",
            "--rate=100",
            "--output=json",
            &plot,
            protocol,
        ])
        .await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let document = document(&ended);
        for way in document["ways"].as_array().expect("ways") {
            // Twenty per turn, in two turns.
            assert_eq!(way["requests"], 40, "{way:#}");
            assert_eq!(way["failed"], 0, "{way:#}");
        }
    }
    let svg = std::fs::read_to_string(picture.path()).expect("a picture");
    assert!(svg.starts_with("<svg") && svg.contains("round-robin"), "{svg}");
    assert!(collections(&cluster).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_said_and_other_collections_left_alone() {
    let (cluster, nodes) = three_nodes().await;
    let books = json!({ "vectors": { "size": 4, "distance": "Dot" } });
    cluster.rest(0).put("/collections/books", books).await.expect("created");
    cluster.settled().await.expect("settled");
    let nobody = format!("--through=node,http://{}:9", cluster.block().proxy());
    let ended = bench(&[&nodes, &nobody]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.is_empty(), "{ended:?}");
    assert!(ended.stderr.contains("no request succeeds") && ended.stderr.contains("refused"), "{ended:?}");
    assert_eq!(collections(&cluster).await, ["books"]);

    let ended = bench(&[&nodes, "--through=fallback"]).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("--fallback"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_removes_the_collection() {
    let (cluster, nodes) = three_nodes().await;
    let mut child = command("bench")
        .args([&nodes, "--duration=60s", "--dimensions=4", "--points=10"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    eventually("there is a collection", async || !collections(&cluster).await.is_empty()).await;
    let kill = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().expect("kill");
    assert!(kill.success());
    let status = tokio::task::spawn_blocking(move || child.wait()).await.expect("a thread").expect("a child");
    assert_eq!(status.code(), Some(1));
    assert!(collections(&cluster).await.is_empty());
}
