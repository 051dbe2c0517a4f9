//! What the dashboard is told by the admin port.

use std::{net::SocketAddr, time::Duration};

use http::{Response, StatusCode, header};
use qdrant_router::{Router, Routing};
use qdrant_router_proxy::{admin, lifecycle::Proxy, listen};
use serde_json::{Value, json};
use testkit::{Cluster, Rest};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::Instant,
};

const DEADLINE: Duration = Duration::from_secs(20);

const HOSTILE: &str = "<script>alert(\"'1'\")</script>";

/// A cluster of three with a proxy in front.
struct Bed {
    cluster: Cluster,
    rest: Rest,
    admin: Rest,
    admin_addr: SocketAddr,
    _tasks: JoinSet<()>,
    _stop: watch::Sender<bool>,
}

impl Bed {
    async fn start() -> Self {
        Self::with(Routing::All).await
    }

    async fn with(routing: Routing) -> Self {
        let cluster = Cluster::builder().nodes(3).start().await.expect("a cluster");
        let router = Router::builder()
            .headless(cluster.headless_name())
            .fallback(cluster.service_name())
            .dns(cluster.dns().addr())
            .routing(routing)
            .build()
            .expect("a router");
        let bind = async || TcpListener::bind((cluster.block().proxy(), 0)).await.expect("a port");
        let (rest, admin) = (bind().await, bind().await);
        let address = |listener: &TcpListener| listener.local_addr().expect("an address");
        let (rest_addr, admin_addr) = (address(&rest), address(&admin));
        let (stop, stopped) = watch::channel(false);
        let proxy = Proxy::new(router.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(listen::serve(rest, proxy.clone(), stopped));
        tasks.spawn(admin::serve(admin, proxy));
        let (rest, admin) = (Rest::new(rest_addr, None), Rest::new(admin_addr, None));
        let bed = Self { cluster, rest, admin, admin_addr, _tasks: tasks, _stop: stop };
        bed.eventually("three nodes", async || bed.states().await == ["usable"; 3]).await;
        bed
    }

    async fn eventually(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !holds().await {
            assert!(Instant::now() < deadline, "within {DEADLINE:?}: {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn get(&self, path: &str) -> Value {
        self.admin.get(path).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    async fn raw(&self, path: &str) -> Response<bytes::Bytes> {
        let request = http::Request::get(path).body(Default::default()).expect("a request");
        self.admin.raw(request).await.expect("an answer")
    }

    async fn states(&self) -> Vec<String> {
        let nodes = self.get("/topology/nodes").await;
        let states = nodes["rows"].as_array().expect("rows").iter().map(|node| &node["state"]);
        states.map(|state| state.as_str().expect("a state").to_owned()).collect()
    }

    async fn has_event(&self, kind: &str) -> bool {
        let recent = self.get("/events/recent").await;
        let events = recent["events"].as_array().expect("events");
        events.iter().any(|event| {
            event["kind"] == kind && event["cause"].as_str().is_some_and(|cause| !cause.is_empty())
        })
    }

    /// The first pulses of a subscription of its own.
    async fn pulses(&self, count: usize) -> Vec<Value> {
        let mut stream = TcpStream::connect(self.admin_addr).await.expect("a connection");
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: admin\r\n\r\n").await.expect("a request");
        let mut text = String::new();
        let read = async {
            let mut buffer = [0; 16 << 10];
            loop {
                let length = stream.read(&mut buffer).await.expect("a pulse");
                assert_ne!(length, 0, "it does not end: {text}");
                text += std::str::from_utf8(&buffer[..length]).expect("text");
                let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
                let pulses: Vec<Value> = lines.filter_map(|line| serde_json::from_str(line).ok()).collect();
                if pulses.len() >= count {
                    return pulses;
                }
            }
        };
        tokio::time::timeout(DEADLINE, read).await.expect("pulses in time")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_leaves_and_returns_before_the_eyes_of_who_watches() {
    let bed = Bed::start().await;
    let settings =
        json!({ "vectors": { "size": 4, "distance": "Dot" }, "shard_number": 6, "replication_factor": 2 });
    bed.rest.put("/collections/books", settings).await.expect("a collection");
    bed.cluster.settled().await.expect("settled");
    for id in 0..20 {
        let point = json!({ "points": [{ "id": id, "vector": [1.0, 2.0, 3.0, id] }] });
        bed.rest.put("/collections/books/points?wait=true", point).await.expect("a write");
    }

    let page = bed.get("/topology/collections?search=BOO").await;
    assert_eq!((&page["total"], &page["rows"][0]["name"]), (&json!(1), &json!("books")));
    assert_eq!(bed.get("/topology/collections?search=nothing").await["rows"], json!([]));
    let books = bed.get("/topology/collections/books").await;
    assert_eq!(books["shards"]["rows"].as_array().map(Vec::len), Some(6));
    assert_eq!(books["nodes"].as_array().map(Vec::len), Some(3));
    assert_eq!(books["shards"]["rows"][0]["replicas"].as_array().map(Vec::len), Some(2));
    assert!(books["shards"]["rows"][0]["leader"].is_string());

    let pulses = bed.pulses(2).await;
    let pulse = &pulses[1];
    assert_eq!(pulse["usable_nodes"], 3);
    assert_eq!((&pulse["routing"], &pulse["observed"]), (&json!("all"), &Value::Null));
    assert!(pulse["total"]["requests"].as_u64() >= Some(21), "{pulse}");
    assert!(pulse["recent"]["rate"].is_number());
    assert_eq!(pulse["nodes"].as_array().map(Vec::len), Some(3));
    assert!(!pulse["reasons"].as_array().expect("reasons").is_empty());
    assert!(bed.has_event("node_joined").await);

    let metrics = String::from_utf8(bed.raw("/metrics").await.into_body().to_vec()).expect("text");
    for name in [
        "qdrant_router_requests_without_hop_total",
        "qdrant_router_requests_with_known_hops_total{protocol=\"rest\"}",
        "qdrant_router_node_requests_total{node=",
        "qdrant_router_node_request_duration_seconds_bucket{le=",
        "qdrant_router_node_requests_in_flight{node=",
        "qdrant_router_replicas{state=\"Active\"} 12",
        "qdrant_router_ejections_total 0",
    ] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
    assert_eq!(metrics.matches("# EOF").count(), 1);
    // All nodes are asked anew every two seconds.
    let age = metrics.lines().find_map(|line| line.strip_prefix("qdrant_router_topology_age_seconds "));
    let age: f64 = age.expect("an age").parse().expect("a number");
    assert!(age < 5.0, "{age}");

    bed.cluster.kill(1).await.expect("killed");
    bed.eventually("one does not answer", async || {
        bed.states().await.iter().filter(|&state| state == "unreachable").count() == 1
    })
    .await;
    bed.eventually("it is told", async || bed.has_event("node_unreachable").await).await;
    bed.cluster.restart(1).await.expect("restarted");
    bed.eventually("all are back", async || bed.states().await == ["usable"; 3]).await;
    bed.eventually("that is told", async || bed.has_event("node_back").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_observes_is_told_what_routing_would_save() {
    let bed = Bed::with(Routing::Observe).await;
    let settings = json!({ "vectors": { "size": 4, "distance": "Dot" }, "shard_number": 3 });
    bed.cluster.rest(0).put("/collections/books", settings).await.expect("a collection");
    bed.cluster.settled().await.expect("settled");
    for id in 0..6 {
        let point = json!({ "points": [{ "id": id, "vector": [1.0, 2.0, 3.0, id] }] });
        bed.rest.put("/collections/books/points?wait=true", point).await.expect("a write");
    }
    let pulse = &bed.pulses(1).await[0];
    assert_eq!(pulse["routing"], "observe");
    let observed = &pulse["observed"];
    assert_eq!(observed["requests"], 6);
    // Two of three nodes would ask the one that holds the point.
    assert!(observed["unrouted_rpcs"].as_f64().is_some_and(|rpcs| (rpcs - 4.0).abs() < 1e-6), "{observed}");
    assert_eq!(observed["routed_rpcs"], 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_topology_is_as_its_schema_says() {
    let bed = Bed::start().await;
    let settings = json!({
        "vectors": { "size": 4, "distance": "Dot" }, "sharding_method": "custom", "replication_factor": 2
    });
    bed.rest.put("/collections/books", settings).await.expect("a collection");
    bed.rest.put("/collections/books/shards", json!({ "shard_key": "poems" })).await.expect("a shard key");
    let alias = json!({ "create_alias": { "collection_name": "books", "alias_name": "works" } });
    bed.rest.post("/collections/aliases", json!({ "actions": [alias] })).await.expect("an alias");
    bed.cluster.settled().await.expect("settled");
    bed.rest.post("/collections/works/points/count", json!({})).await.expect("a count");
    let has_all = async || {
        let topology = bed.get("/topology").await;
        topology["collections"]["books"]["shards"][0]["key"].is_string()
            && topology["aliases"]["works"] == "books"
    };
    bed.eventually("the collection, its key and its alias are told", has_all).await;

    let schema: Value = serde_json::from_str(include_str!("../../docs/topology.schema.json")).expect("JSON");
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    compiler.add_resource("http://docs/topology", schema).expect("a schema");
    let schema = compiler.compile("http://docs/topology", &mut schemas).expect("a schema");
    let mut topology = bed.get("/topology").await;
    if let Err(error) = schemas.validate(&topology, schema) {
        panic!("{error}: {topology:#}");
    }
    topology["nodes"][0].as_object_mut().expect("a node").remove("reachable");
    assert!(schemas.validate(&topology, schema).is_err(), "the schema says what has to be there");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_asked_comes_back_as_data() {
    let bed = Bed::start().await;
    let page = bed.raw("/").await;
    assert_eq!(page.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
    let policy = page.headers()[header::CONTENT_SECURITY_POLICY].to_str().expect("text").to_owned();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let html = std::str::from_utf8(page.body()).expect("text");
    assert!(!html.contains("://") && !html.contains("<script>") && !html.contains("style="), "{html}");
    for path in ["/dashboard.js", "/dashboard.css"] {
        let file = bed.raw(path).await;
        let text = std::str::from_utf8(file.body()).expect("text");
        for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https://"] {
            assert!(!text.contains(sink), "{sink} in {path}");
        }
    }

    let encoded = "%3Cscript%3Ealert(%22'1'%22)%3C%2Fscript%3E";
    for path in [
        &*format!("/topology/collections/{encoded}"),
        &*format!("/topology/collections?search={encoded}&page=18446744073709551615"),
        &*format!("/topology/nodes?search={encoded}"),
        "/topology/collections?page=-1",
        "/topology/collections/%ff%fe",
        "/nothing-like-it",
    ] {
        let answer = bed.raw(path).await;
        let kind = answer.headers().get(header::CONTENT_TYPE).map(|kind| kind.to_str().expect("text"));
        assert!(kind.is_none_or(|kind| !kind.contains("html")), "{path}: {kind:?}");
        assert_eq!(answer.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
    }
    for question in [
        json!({ "path": format!("/collections/{HOSTILE}/points"), "body": HOSTILE }),
        json!({ "path": format!("/collections/{encoded}/points"), "body": { HOSTILE: [HOSTILE] } }),
        json!({ "path": "/", "headers": { HOSTILE: HOSTILE } }),
        json!({ "grpc": HOSTILE }),
        json!({ HOSTILE: 1 }),
        json!([[[HOSTILE]]]),
    ] {
        let body = bytes::Bytes::from(question.to_string());
        let request = http::Request::post("/explain").body(body).expect("a request");
        let answer = bed.admin.raw(request).await.expect("an answer");
        assert!(matches!(answer.status(), StatusCode::OK | StatusCode::BAD_REQUEST), "{question}");
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/json", "{question}");
        serde_json::from_slice::<Value>(answer.body()).expect("JSON");
    }
}
