//! Snapshots through one address: every call about them reaches the node that has them.

use bytes::Bytes;
use http::{Method, Request, Response};
use qdrant_client::qdrant::{DeleteSnapshotRequestBuilder, SnapshotDownloadBuilder};
use serde_json::{Value, json};
use testkit::Cluster;

use crate::bed::{Bed, router_for};

#[tokio::test(flavor = "multi_thread")]
async fn both_protocols_find_the_same_snapshots() {
    let bed = Bed::new().await;
    let (sdk, rest) = (bed.sdk(), bed.rest());
    for name in ["books", "covers", "orders", "tenants"] {
        bed.collection(name, json!({ "shard_number": 3 })).await;
        let taken =
            sdk.create_snapshot(name).await.expect("a snapshot").snapshot_description.expect("its name").name;
        let listed = rest.get(&format!("/collections/{name}/snapshots")).await.expect("a list");
        assert_eq!(listed["result"][0]["name"], json!(taken), "{name}");
        let listed = bed.official().list_snapshots(name).await.expect("a list").snapshot_descriptions;
        assert_eq!(listed.iter().map(|snapshot| &snapshot.name).collect::<Vec<_>>(), [&taken]);

        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("snapshot");
        sdk.download_snapshot(SnapshotDownloadBuilder::new(&path, name)).await.expect("a download");
        assert!(std::fs::metadata(&path).expect("a file").len() > 0);
        sdk.delete_snapshot(DeleteSnapshotRequestBuilder::new(name, &taken)).await.expect("a deletion");
        let missing =
            sdk.download_snapshot(SnapshotDownloadBuilder::new(&path, name).snapshot_name(taken)).await;
        assert!(missing.is_err(), "it is gone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_very_first_request_is_answered() {
    let cluster = testkit::Cluster::builder().nodes(3).start().await.expect("a cluster");
    for _ in 0..10 {
        let client = qdrant_router::Qdrant::with_router(router_for(&cluster).build().expect("a router"));
        client.list_collections().await.expect("a list");
    }
}

fn names(list: &Value) -> Vec<String> {
    let rows = list["result"].as_array().expect("a list");
    rows.iter().map(|row| row["name"].as_str().expect("a name").to_owned()).collect()
}

/// Sends a request to the proxy with `x-qdrant-node`.
async fn pinned(bed: &Bed, method: Method, path: &str, node: &str) -> Response<Bytes> {
    let request = Request::builder().method(method).uri(path).header("x-qdrant-node", node);
    bed.rest().raw(request.body(Bytes::new()).expect("a request")).await.expect("an answer")
}

async fn download(bed: &Bed, path: &str) -> Response<Bytes> {
    let request = Request::get(path).body(Bytes::new()).expect("a request");
    bed.rest().raw(request).await.expect("an answer")
}

fn json_of(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_every_node_is_found_through_one_address() {
    let bed = Bed::new().await;
    bed.collection("books", json!({ "shard_number": 3 })).await;
    let snapshots = "/collections/books/snapshots";
    let made = pinned(&bed, Method::POST, snapshots, "all").await;
    assert_eq!(made.status(), 200);
    let mut made = names(&json_of(&made));
    assert_eq!(made.len(), 3, "one on each node: {made:?}");

    let mut listed = names(&bed.rest().get(snapshots).await.expect("a list"));
    made.sort();
    listed.sort();
    assert_eq!(listed, made);
    let over_grpc = bed.official().list_snapshots("books").await.expect("a list").snapshot_descriptions;
    assert_eq!(over_grpc.len(), 3);

    for name in &made {
        let path = format!("{snapshots}/{name}");
        let file = download(&bed, &path).await;
        assert_eq!((file.status().as_u16(), file.body().is_empty()), (200, false), "{name}");
        assert!(file.headers().get("x-qdrant-node").is_none());
        bed.rest().delete(&path).await.expect("a deletion");
    }
    assert_eq!(names(&bed.rest().get(snapshots).await.expect("a list")), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_snapshot_is_found_though_its_name_tells_no_peer() {
    let bed = Bed::new().await;
    bed.collection("books", json!({ "shard_number": 3 })).await;
    for node in 0..3 {
        let peer = bed.cluster.node(node).peer_id().to_string();
        let made = pinned(&bed, Method::POST, "/snapshots", &peer).await;
        let name = json_of(&made)["result"]["name"].as_str().expect("a name").to_owned();
        assert_eq!(names(&bed.cluster.rest(node).get("/snapshots").await.expect("a list")), [&*name]);
        assert_eq!(names(&bed.rest().get("/snapshots").await.expect("a list")), [&*name]);
        let file = download(&bed, &format!("/snapshots/{name}")).await;
        assert_eq!(file.status(), 200);
        bed.sdk().delete_full_snapshot(&name).await.expect("a deletion");
        assert_eq!(names(&bed.rest().get("/snapshots").await.expect("a list")), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_names_the_node_that_answers() {
    let bed = Bed::new().await;
    for node in 0..3 {
        let peer = bed.cluster.node(node).peer_id();
        // Real nodes of the test kit register by address, so that they have no pod names.
        let label = bed.router.topology().snapshot().node(peer).expect("a node").label();
        for name in [peer.to_string(), bed.cluster.node(node).ip().to_string(), label] {
            let answer = pinned(&bed, Method::GET, "/cluster", &name).await;
            assert_eq!(json_of(&answer)["result"]["peer_id"], json!(peer), "{name}");
        }
    }
    let unknown = pinned(&bed, Method::GET, "/cluster", "qdrant-9").await;
    let error = json_of(&unknown)["status"]["error"].as_str().expect("an error").to_owned();
    assert_eq!(unknown.status(), 404);
    assert!((0..3).all(|node| error.contains(&bed.cluster.node(node).peer_id().to_string())), "{error}");
    let status = bed.sdk().with_header("x-qdrant-node", "qdrant-9").health_check().await;
    assert!(status.is_err_and(|error| error.to_string().contains("qdrant-9")));

    let all = pinned(&bed, Method::GET, "/metrics", "all").await;
    assert_eq!(all.status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_ask_is_not_told_the_nodes() {
    let bed = Bed::with(Cluster::builder().nodes(3).api_key("secret"), |router| router).await;
    let request = Request::get("/cluster").header("x-qdrant-node", "qdrant-9");
    let stranger = testkit::Rest::new(bed.proxy.rest_addr, None);
    let answer = stranger.raw(request.body(Bytes::new()).expect("a request")).await.expect("an answer");
    assert_eq!(answer.status(), 401);
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    assert!((0..3).all(|node| !text.contains(&bed.cluster.node(node).peer_id().to_string())), "{text}");
}
