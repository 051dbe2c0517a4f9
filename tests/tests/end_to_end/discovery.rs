//! Finding the nodes, and losing them again.

use qdrant_router::{Router, topology::Problem};
use serde_json::json;
use testkit::{Cluster, DnsMode};

use crate::bed::{Bed, RunningProxy, eventually, in_time, router_for};

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_stops_resolving_changes_nothing() {
    let bed = Bed::new().await;
    bed.cluster.dns().set_ttl(0);
    for mode in [DnsMode::NxDomain, DnsMode::ServFail, DnsMode::Empty, DnsMode::Timeout] {
        bed.cluster.dns().set_mode(mode);
        let has_noticed =
            || bed.router.topology().problems().iter().any(|problem| matches!(problem, Problem::Name(_)));
        eventually("the answer was asked for", async || has_noticed()).await;
        assert_eq!(bed.router.topology().snapshot().nodes().len(), 3, "{mode:?}");
        bed.rest().get("/collections").await.expect("an answer");
        bed.cluster.dns().heal();
        eventually("the name resolves again", async || !has_noticed()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_comes_over_tcp() {
    let cluster = Cluster::builder().nodes(1).start().await.expect("a cluster");
    let mut addresses: Vec<std::net::IpAddr> = (0..200).map(|i| cluster.block().spare(i % 50)).collect();
    addresses.push(cluster.node(0).ip());
    addresses.extend((1..=120_u8).map(|last| std::net::IpAddr::from([127, 255, 255, last])));
    addresses.sort_unstable();
    addresses.dedup();
    assert!(addresses.len() > 100, "more than a UDP answer holds");
    cluster.dns().set(cluster.headless_name(), addresses);
    let router = router_for(&cluster).build().expect("a router");
    eventually("the one node among many addresses is found", async || {
        router.topology().snapshot().nodes().iter().any(|node| node.reachable)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_a_new_address_is_the_same_node() {
    let bed = Bed::new().await;
    bed.cluster.dns().set_ttl(1);
    bed.collection("books", json!({ "shard_number": 6 })).await;
    let peer = bed.cluster.node(2).peer_id();
    let address = || {
        bed.router.topology().snapshot().node(peer).filter(|node| node.reachable).map(|node| node.address.ip)
    };
    let before = address();
    let moved = bed.cluster.restart_at_new_address(2).await.expect("a new address");
    assert_ne!(before, Some(moved));
    eventually("the node is at its new address", async || address() == Some(moved)).await;
    assert_eq!(bed.router.topology().snapshot().nodes().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn fixed_nodes_need_no_dns() {
    let cluster = Cluster::builder().nodes(3).start().await.expect("a cluster");
    let router =
        cluster.nodes().iter().fold(Router::builder(), |router, node| router.node(node.ip().to_string()));
    let router = router.build().expect("a router");
    in_time("a survey", router.topology().surveyed()).await;
    let snapshot = router.topology().snapshot();
    let mut peers: Vec<_> = cluster.nodes().iter().map(testkit::Node::peer_id).collect();
    peers.sort_unstable();
    assert_eq!(snapshot.nodes().iter().filter_map(|node| node.peer).collect::<Vec<_>>(), peers);
    assert!(snapshot.consensus_leader().is_some_and(|leader| peers.contains(&leader)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_cluster_mode_is_named_and_served() {
    let cluster = Cluster::builder().standalone().start().await.expect("a server");
    let router = Router::builder().node(cluster.node(0).ip().to_string()).build().expect("a router");
    in_time("a survey", router.topology().surveyed()).await;
    assert!(matches!(router.topology().problems()[..], [Problem::Standalone(_)]));
    let proxy = RunningProxy::start(router, &cluster).await;
    let answer = testkit::Rest::new(proxy.rest_addr, None).get("/collections").await.expect("an answer");
    assert_eq!(answer["status"], "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn before_any_node_is_found_the_service_serves() {
    let cluster = Cluster::builder().nodes(3).start().await.expect("a cluster");
    cluster.dns().set_mode_for(cluster.headless_name(), DnsMode::NxDomain);
    let router = router_for(&cluster).build().expect("a router");
    in_time("a survey", router.topology().surveyed()).await;
    let proxy = RunningProxy::start(router.clone(), &cluster).await;
    let rest = testkit::Rest::new(proxy.rest_addr, None);
    rest.get("/collections").await.expect("an answer through the Service");
    let ready = proxy
        .admin()
        .raw(http::Request::get("/readyz").body(Default::default()).expect("a request"))
        .await
        .expect("an answer");
    assert_eq!(ready.status(), 200);
    assert!(String::from_utf8_lossy(ready.body()).contains("through the fallback"), "{:?}", ready.body());

    cluster.dns().heal();
    router.topology().refresh();
    eventually("the nodes are found", async || router.topology().snapshot().nodes().len() == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_tells_what_the_router_sees() {
    let bed = Bed::new().await;
    bed.collection("books", json!({ "shard_number": 2, "replication_factor": 2 })).await;
    let admin = bed.proxy.admin();
    let topology = admin.get("/topology").await.expect("the topology");
    assert_eq!(topology["nodes"].as_array().map(Vec::len), Some(3));
    assert_eq!(topology["collections"]["books"]["shards"].as_array().map(Vec::len), Some(2));
    assert_eq!(topology["problems"], json!([]));
    let get = async |path: &str| {
        let request = http::Request::get(path).body(Default::default()).expect("a request");
        let response = admin.raw(request).await.expect("an answer");
        (response.status().as_u16(), String::from_utf8_lossy(response.body()).into_owned())
    };
    assert_eq!(get("/livez").await.0, 200);
    assert_eq!(get("/readyz").await, (200, "ready: 3 of 3 nodes\n".to_owned()));
    let (status, metrics) = get("/metrics").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("qdrant_router_nodes 3"), "{metrics}");
    assert!(metrics.contains(r#"qdrant_router_requests_total{protocol="rest",class="consensus",operation="/collections/{c}",reason="consensus_leader",outcome="ok"}"#), "{metrics}");
}
