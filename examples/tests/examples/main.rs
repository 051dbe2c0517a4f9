//! Every example, run on a cluster as its readers run it, does what its page says.

use std::{collections::BTreeSet, process::Command};

use serde_json::{Value, json};
use testkit::{Cluster, ClusterBuilder, Rest};

use crate::program::{Program, run};

mod program;

async fn started(cluster: ClusterBuilder) -> Cluster {
    cluster.start().await.expect("a cluster")
}

async fn three_nodes() -> Cluster {
    started(Cluster::builder().nodes(3)).await
}

/// A collection of two points, known to all nodes.
async fn create_books(cluster: &Cluster, settings: Value) {
    let rest = cluster.rest(0);
    let mut body = json!({ "vectors": { "size": 4, "distance": "Cosine" } });
    body.as_object_mut().expect("an object").extend(settings.as_object().expect("an object").clone());
    rest.put("/collections/books", body).await.expect("a collection");
    cluster.settled().await.expect("a settled cluster");
    let points = json!([
        { "id": 1, "vector": [0.9, 0.1, 0.1, 0.3], "payload": { "title": "Dune" } },
        { "id": 2, "vector": [0.1, 0.9, 0.4, 0.1], "payload": { "title": "Emma" } },
    ]);
    let upsert = rest.put("/collections/books/points?wait=true", json!({ "points": points })).await;
    upsert.expect("points");
}

/// What an example created it removes.
async fn assert_tidy(cluster: &Cluster) {
    cluster.settled().await.expect("a settled cluster");
    let list = cluster.rest(0).get("/collections").await.expect("a list");
    assert_eq!(list["result"]["collections"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn quickstart_finds_the_nearest() {
    let cluster = three_nodes().await;
    let said = run("quickstart", &cluster, &[]).await;
    assert!(matches!(&*said, [line] if line.contains("Dune")), "{said:#?}");
    assert_tidy(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_in_gives_the_same_answer_with_both_clients() {
    let cluster = three_nodes().await;
    // The test's DNS knows the names, but not to the official client, which asks the system's.
    let url = format!("http://{}", cluster.node(0).grpc_addr());
    let mut program = Program::start("drop_in", &cluster, &[&url]);
    for client in ["before", "after"] {
        let line = program.says(client).await;
        assert!(line.ends_with(r#"["Dune", "Emma"]"#), "{line}");
    }
    program.ends().await;
    assert_tidy(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn multi_tenant_keeps_each_tenant_on_one_node() {
    let cluster = three_nodes().await;
    let said = run("multi_tenant", &cluster, &[]).await;
    let mut homes = Vec::new();
    for tenant in said.chunks(3) {
        let [title, writes, reads] = tenant else { panic!("{said:#?}") };
        assert!(title.ends_with(": 1 point"), "{title}");
        let home = writes.strip_prefix("  writes: ").expect("where writes go");
        assert_eq!(reads.strip_prefix("  reads:  "), Some(home));
        homes.push(home.strip_suffix(", 0 internal RPCs").expect("no internal RPC"));
    }
    assert_eq!(homes.len(), 3, "{said:#?}");

    // What the nodes themselves have counted.
    for (node, telemetry) in cluster.nodes().iter().zip(cluster.telemetry().await.expect("telemetry")) {
        let tenants = homes.iter().filter(|home| **home == node.name()).count() as u64;
        for rpc in ["/qdrant.Points/Upsert", "/qdrant.Points/Count"] {
            assert_eq!(telemetry.grpc(rpc), tenants, "{} {rpc}: {said:#?}", node.name());
        }
        let internal = telemetry.internal_by_path();
        assert!(!internal.keys().any(|path| path.contains("PointsInternal")), "{internal:?}");
    }
    assert_tidy(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_upload_writes_all_points() {
    let cluster = three_nodes().await;
    let said = run("bulk_upload", &cluster, &[]).await;
    assert!(matches!(&*said, [line] if line.starts_with("20000 points are there")), "{said:#?}");
    assert_tidy(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tower_stack_adds_the_key_and_counts_every_answer() {
    let cluster = started(Cluster::builder().nodes(3).api_key("a key")).await;
    let said = run("tower_stack", &cluster, &[]).await;
    let mut answers = 0;
    for line in &said {
        let (node, count) = line.split_once(" gave ").expect("a count");
        assert!(node.starts_with("qdrant-"), "{line}");
        answers += count.trim_end_matches(" answers").parse::<usize>().expect("a number");
    }
    assert_eq!(answers, 100, "{said:#?}");
    assert!(said.len() > 1, "more than one node answers: {said:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn axum_app_searches_and_stops_when_told() {
    let cluster = three_nodes().await;
    create_books(&cluster, json!({ "shard_number": 3 })).await;
    let listen = format!("{}:0", cluster.block().proxy());
    let mut program = Program::start("axum_app", &cluster, &[&listen]);
    let line = program.says("listening on ").await;
    let address = line.trim_start_matches("listening on ").parse().expect("an address");
    let client = Rest::new(address, None);

    let search = json!({ "vector": [1.0, 0.0, 0.0, 0.5], "limit": 1 });
    let found = client.post("/books/search", &search).await.expect("an answer");
    let titles: Vec<_> = found.as_array().expect("hits").iter().map(|hit| &hit["payload"]["title"]).collect();
    assert_eq!(titles, ["Dune"]);
    let error = client.post("/films/search", &search).await.expect_err("no such collection");
    assert!(error.to_string().contains("films"), "{error}");

    program.terminate();
    assert_eq!(program.ends().await.last().map(String::as_str), Some("stopped"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_through_the_sdk_tells_who_answered() {
    let cluster = three_nodes().await;
    create_books(&cluster, json!({})).await;
    let said = run("rest_through_the_sdk", &cluster, &[]).await;
    let [routed, body] = &*said else { panic!("{said:#?}") };
    assert!(routed.contains("qdrant-"), "{routed}");
    let body: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(body["result"]["collections"], json!([{ "name": "books" }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn topology_events_tells_of_nodes_the_leader_and_replicas() {
    let mut cluster = three_nodes().await;
    create_books(&cluster, json!({ "shard_number": 1, "replication_factor": 3 })).await;
    let mut program = Program::start("topology_events", &cluster, &["books"]);
    let leader = cluster.leader().await.expect("a leader");
    let name = cluster.node(leader).name().to_owned();
    program.says(&format!("consensus: led by {name}")).await;
    program.says(&format!("books, shard 0 on {name}: Active")).await;

    cluster.kill(leader).await.expect("a dead node");
    program.says(&format!("{name}: does not answer")).await;
    program.says(&format!("(before: led by {name})")).await;
    // A replica is dead once a write could not reach it.
    let living = cluster.rest((leader + 1) % 3);
    let point = json!({ "points": [{ "id": 3, "vector": [0.1, 0.2, 0.3, 0.4] }] });
    living.put("/collections/books/points?wait=true", point).await.expect("a write");
    program.says(&format!("books, shard 0 on {name}: Dead (before: Active)")).await;

    cluster.restart(leader).await.expect("a node that is back");
    program.says(&format!("{name}: answers at")).await;
    program.says(&format!("books, shard 0 on {name}: Active (before: ")).await;
    let new = cluster.add_node().await.expect("a fourth node").name().to_owned();
    program.says(&format!("{new}: answers at")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failover_fails_no_read() {
    let cluster = three_nodes().await;
    let mut program = Program::start("failover", &cluster, &["50"]);
    let node =
        |line: &str| line.split([' ', ',']).find(|word| word.starts_with("qdrant-")).map(str::to_owned);
    let first = node(&program.says("read 5:").await).expect("a node");
    let index = cluster.nodes().iter().position(|node| node.name() == first).expect("one of the cluster");
    cluster.kill(index).await.expect("a dead node");

    let said = program.ends().await;
    assert_eq!(said.last().map(String::as_str), Some("50 of 50 reads were answered"), "{said:#?}");
    let last: BTreeSet<String> = said[40..50].iter().filter_map(|line| node(line)).collect();
    assert_eq!(last.len(), 1, "the other copy answers: {said:#?}");
    assert!(!last.contains(&first), "{said:#?}");
}

#[test]
fn the_demo_shows_what_it_says() {
    let demo = Command::new(env!("CARGO_BIN_EXE_demo")).arg("--check").output().expect("the demo starts");
    let said = String::from_utf8_lossy(&demo.stdout);
    assert!(demo.status.success(), "{said}{}", String::from_utf8_lossy(&demo.stderr));
    assert!(said.ends_with("All of it holds.\n"), "{said}");
}
