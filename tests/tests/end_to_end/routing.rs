//! The switch for routing: off, observe, reads, all.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{Method, Request, Response};
use qdrant_client::qdrant::CountPointsBuilder;
use qdrant_router::{Router, RouterBuilder, Routing};
use serde_json::{Value, json};
use testkit::{Cluster, Rest};

use crate::bed::{Bed, RunningProxy, official_at, router_for};

const UPSERT: &str = "/collections/books/points?wait=true";

async fn bed(routing: Routing) -> Bed {
    let bed = Bed::with(Cluster::builder().nodes(3), |router| router.routing(routing)).await;
    bed.collection("books", json!({ "shard_number": 6 })).await;
    bed
}

fn upsert(id: u64) -> Value {
    json!({ "points": [{ "id": id, "vector": [id, 1, 2, 3] }] })
}

/// Sends a request with these headers, and has its way told.
async fn send(
    rest: &Rest,
    method: Method,
    path: &str,
    body: Value,
    headers: &[(&str, &str)],
) -> Response<Bytes> {
    let mut request = Request::builder().method(method).uri(path);
    request = request.header("content-type", "application/json").header("x-qdrant-router-explain", "1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let response = rest.raw(request.body(body).expect("a request")).await.expect("an answer");
    assert!(response.status().is_success(), "{path}: {response:?}");
    response
}

/// What the answer's headers tell.
fn told<'a>(response: &'a Response<Bytes>, what: &str) -> Option<&'a str> {
    response.headers().get(format!("x-qdrant-router-{what}")).map(|value| value.to_str().expect("text"))
}

/// The reason of each of: a write, a read, a list of collections, a change of metadata.
async fn reasons(bed: &Bed) -> [String; 4] {
    let rest = bed.rest();
    let mut reasons = Vec::new();
    for (method, path, body) in [
        (Method::PUT, UPSERT, upsert(7)),
        (Method::POST, "/collections/books/points/count", json!({})),
        (Method::GET, "/collections", Value::Null),
        (Method::PATCH, "/collections/books", json!({ "optimizers_config": {} })),
    ] {
        let response = send(&rest, method, path, body, &[]).await;
        reasons.push(told(&response, "reason").expect("a reason").to_owned());
    }
    reasons.try_into().expect("four")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_routes_what_it_says() {
    const NOT: &str = "not_routed";
    for (routing, expected) in [
        (Routing::Off, [NOT; 4]),
        (Routing::Observe, [NOT; 4]),
        (Routing::Reads, [NOT, "most_replicas", "any_node", NOT]),
        (Routing::All, ["replica_holder", "most_replicas", "any_node", "consensus_leader"]),
    ] {
        let bed = bed(routing).await;
        assert_eq!(reasons(&bed).await, expected, "{routing}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_everything_goes_through_the_service_over_both_protocols() {
    let bed = bed(Routing::Off).await;
    let (rest, balancer) = (bed.rest(), bed.cluster.balancer());
    let service = balancer.ip().to_string();
    for id in 0..6 {
        let response = send(&rest, Method::PUT, UPSERT, upsert(id), &[]).await;
        assert_eq!(told(&response, "node"), Some(&*service));
    }
    let connections = || balancer.connections_by_backend().values().sum::<u64>();
    let before = connections();
    let count = bed.official().count(CountPointsBuilder::new("books").exact(true)).await.expect("a count");
    assert_eq!(count.result.expect("a result").count, 6);
    assert!(connections() > before, "gRPC has its own connection to the Service");
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_nobody_looks_where_a_collection_is() {
    let cluster = Cluster::builder().nodes(3).start().await.expect("a cluster");
    let settings = json!({ "vectors": { "size": 4, "distance": "Dot" }, "shard_number": 6 });
    cluster.rest(0).put("/collections/books", settings).await.expect("a collection");
    cluster.settled().await.expect("a settled cluster");
    for (routing, known) in [(Routing::Off, 0), (Routing::Observe, 1)] {
        let router = router_for(&cluster).routing(routing).build().expect("a router");
        router.topology().surveyed().await;
        let proxy = RunningProxy::start(router.clone(), &cluster).await;
        send(&Rest::new(proxy.rest_addr, None), Method::PUT, UPSERT, upsert(7), &[]).await;
        let client = official_at(proxy.grpc_addr);
        client.count(CountPointsBuilder::new("books")).await.expect("a count");
        assert_eq!(router.topology().snapshot().collections().count(), known, "{routing}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_nobody_is_behind_costs_no_read() {
    let cluster = Cluster::builder().nodes(3).start().await.expect("a cluster");
    cluster.balancer().set_backends(Vec::new());
    let router = router_for(&cluster).routing(Routing::Off).build().expect("a router");
    router.topology().surveyed().await;
    let proxy = RunningProxy::start(router, &cluster).await;
    let rest = Rest::new(proxy.rest_addr, None);
    let response = send(&rest, Method::GET, "/collections", Value::Null, &[]).await;
    assert_eq!((told(&response, "attempts"), told(&response, "reason")), (Some("2"), Some("not_routed")));
    assert_ne!(told(&response, "node"), Some(&*cluster.balancer().ip().to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_service_any_healthy_node_is_asked() {
    let cluster = Cluster::builder().nodes(3).start().await.expect("a cluster");
    let nodes = cluster.nodes().iter().map(|node| node.ip().to_string());
    let router = nodes.fold(Router::builder().seed(7), RouterBuilder::node);
    let router = router.routing(Routing::Off).build().expect("a router");
    let proxy = RunningProxy::start(router.clone(), &cluster).await;
    router.topology().surveyed().await;
    let rest = Rest::new(proxy.rest_addr, None);
    let ask = async |_| {
        let response = send(&rest, Method::GET, "/collections", Value::Null, &[]).await;
        assert_eq!(told(&response, "reason"), Some("not_routed"));
        told(&response, "node").expect("a node").to_owned()
    };
    let mut answering = BTreeSet::new();
    for i in 0..40 {
        answering.insert(ask(i).await);
    }
    assert_eq!(answering.len(), 3, "{answering:?}");
    cluster.kill(0).await.expect("a dead node");
    for i in 0..40 {
        ask(i).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_meant_for_one_node_gets_there_in_every_mode() {
    for routing in [Routing::Off, Routing::Observe, Routing::Reads] {
        let bed = bed(routing).await;
        let rest = bed.rest();
        let peer = bed.cluster.node(1).peer_id().to_string();
        let pin = [("x-qdrant-node", &*peer)];
        let response = send(&rest, Method::GET, "/cluster", Value::Null, &pin).await;
        assert_eq!(told(&response, "reason"), Some("pinned_node"), "{routing}");
        let seen: Value = serde_json::from_slice(response.body()).expect("JSON");
        assert_eq!(seen["result"]["peer_id"], json!(bed.cluster.node(1).peer_id()), "{routing}");

        let snapshots = "/collections/books/snapshots";
        send(&rest, Method::POST, snapshots, Value::Null, &[("x-qdrant-node", "all")]).await;
        let list = send(&rest, Method::GET, snapshots, Value::Null, &[]).await;
        assert_eq!(told(&list, "reason"), Some("all_nodes"), "{routing}");
        let list: Value = serde_json::from_slice(list.body()).expect("JSON");
        let rows = list["result"].as_array().expect("a list");
        assert_eq!(rows.len(), 3, "{routing}");
        for row in rows {
            let file = format!("{snapshots}/{}", row["name"].as_str().expect("a name"));
            send(&rest, Method::DELETE, &file, Value::Null, &[]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_observed_is_told_and_not_done() {
    let bed = bed(Routing::Observe).await;
    let (rest, admin) = (bed.rest(), bed.proxy.admin());
    let service = bed.cluster.balancer().ip().to_string();
    let ids = 24_u64;
    let mut watched = 0_u64;
    let counted = bed
        .rpcs_per_round(1, async || {
            for id in 0..ids {
                let question = json!({ "method": "PUT", "path": UPSERT, "body": upsert(id) });
                let explained = admin.post("/explain", question).await.expect("an explanation");
                assert_eq!(explained["followed"], json!(false));
                let response = send(&rest, Method::PUT, UPSERT, upsert(id), &[]).await;
                assert_eq!(told(&response, "reason"), Some("not_routed"));
                assert_eq!(told(&response, "node"), Some(&*service));
                assert_eq!(told(&response, "observed-reason"), Some("replica_holder"));
                assert_eq!(told(&response, "observed-node"), explained["parts"][0]["node"].as_str());
                watched += 1;
            }
        })
        .await;
    assert!(counted > 0.0, "they went as without the router");

    let metrics = Request::get("/metrics").body(Bytes::new()).expect("a request");
    let metrics = admin.raw(metrics).await.expect("metrics").into_body();
    let metrics = String::from_utf8(metrics.to_vec()).expect("text");
    let value = |series: &str| -> f64 {
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(series))
            .unwrap_or_else(|| panic!("{series}: {metrics}"));
        line.trim().parse().expect("a number")
    };
    let observed =
        "qdrant_router_observed_requests_total{protocol=\"rest\",class=\"write\",reason=\"replica_holder\"}";
    assert_eq!(value(observed), watched as f64);
    let rpcs = |way: &str| {
        value(&format!("qdrant_router_observed_internal_rpcs_total{{protocol=\"rest\",way=\"{way}\"}}"))
    };
    // Of three nodes, one holds the point and two would ask it.
    assert!((rpcs("unrouted") - watched as f64 * 2.0 / 3.0).abs() < 1e-6, "{}", rpcs("unrouted"));
    assert_eq!(rpcs("routed"), 0.0);

    let points: Vec<Value> = (0..100).map(|id| upsert(id)["points"][0].clone()).collect();
    let response = send(&rest, Method::PUT, UPSERT, json!({ "points": points }), &[]).await;
    assert_eq!(told(&response, "observed-reason"), Some("split"));
    assert_eq!(told(&response, "observed-node").map(|nodes| nodes.split(',').count()), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explanation_is_followed_where_routing_is_on() {
    let cluster = Cluster::builder().nodes(3).start().await.expect("a cluster");
    let router = router_for(&cluster).routing(Routing::Reads).build().expect("a router");
    router.topology().surveyed().await;
    for (path, is_followed) in
        [("/collections/books/points/count", true), ("/collections/books/points/delete", false)]
    {
        let question = json!({ "method": "POST", "path": path, "body": {} });
        let question = serde_json::from_value(question).expect("a question");
        assert_eq!(router.explain(question).await.expect("an explanation").followed, is_followed, "{path}");
    }
}
