//! Snapshots through one address: every call about them reaches the node that has them.

use qdrant_client::qdrant::{DeleteSnapshotRequestBuilder, SnapshotDownloadBuilder};
use serde_json::json;

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
