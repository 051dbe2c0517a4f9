//! Credentials: the client's pass through, the router's own stay where they are.

use http::StatusCode;
use qdrant_router::{
    Qdrant,
    topology::{ApiError, Problem},
};
use serde_json::json;
use testkit::{Cluster, Rest};

use crate::bed::{Bed, eventually, router_for};

const KEY: &str = "key-of-the-application";
const READ_ONLY: &str = "key-of-the-router";

async fn locked() -> Bed {
    Bed::with(Cluster::builder().nodes(3).api_key(KEY).read_only_api_key(READ_ONLY), |router| router).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_key_is_enough_for_topology_and_never_rides_on_a_clients_request() {
    let bed = locked().await;
    bed.collection("books", json!({ "shard_number": 3 })).await;
    let without_key = Rest::new(bed.proxy.rest_addr, None);
    for path in [
        "/collections",
        "/collections/books",
        "/collections/books/points/1",
        "/cluster",
        "/telemetry",
        "/no/such/path",
    ] {
        let refused = without_key.get(path).await.expect_err("a key is required");
        assert_eq!(refused.status(), Some(StatusCode::UNAUTHORIZED), "{path}: {refused}");
    }
    let refused = bed.official().list_collections().await.expect_err("a key is required");
    assert!(refused.to_string().contains("API key"), "{refused}");

    let with_wrong_key = Rest::new(bed.proxy.rest_addr, Some("another"));
    assert_eq!(
        with_wrong_key.get("/collections").await.expect_err("wrong").status(),
        Some(StatusCode::UNAUTHORIZED)
    );
    let read_only = Rest::new(bed.proxy.rest_addr, Some(READ_ONLY));
    read_only.get("/collections/books").await.expect("reading is allowed");
    let refused = read_only
        .put("/collections/books/points", json!({ "points": [{ "id": 1, "vector": [1, 1, 1, 1] }] }))
        .await;
    assert_eq!(refused.expect_err("writing is not").status(), Some(StatusCode::FORBIDDEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_sends_its_own_key() {
    let cluster = Cluster::builder()
        .nodes(3)
        .api_key(KEY)
        .read_only_api_key(READ_ONLY)
        .start()
        .await
        .expect("a cluster");
    let client = Qdrant::builder()
        .headless(cluster.headless_name())
        .dns(cluster.dns().addr())
        .api_key(KEY)
        .topology_api_key(READ_ONLY)
        .build()
        .expect("a client");
    client.router().topology().surveyed().await;
    assert!(client.list_collections().await.expect("a list").collections.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_is_named_and_requests_still_pass() {
    let cluster = Cluster::builder().nodes(3).api_key(KEY).start().await.expect("a cluster");
    let router = router_for(&cluster).api_key("a wrong one").expect("a key").build().expect("a router");
    router.topology().surveyed().await;
    let problems = router.topology().problems();
    assert_eq!(problems.len(), 3);
    for problem in problems.iter() {
        assert!(matches!(problem, Problem::Node(_, ApiError::Refused { .. })), "{problem}");
        assert!(problem.to_string().contains("the router's API key"), "{problem}");
        assert!(!problem.to_string().contains("a wrong one"), "{problem}");
    }
    // The client's own key is none of the router's business.
    let proxy = crate::bed::RunningProxy::start(router, &cluster).await;
    let client = Rest::new(proxy.rest_addr, Some(KEY));
    eventually("requests pass", async || client.get("/collections").await.is_ok()).await;
}
