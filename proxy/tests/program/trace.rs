//! Traces: one span per request, one per attempt, joined to the client's, and no secret in them.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value,
    trace::v1::{Span, span::SpanKind, status::StatusCode as SpanStatus},
};
use serde_json::json;
use testkit::{Block, Cluster, Rest};
use tokio::net::TcpListener;

use crate::program::{Program, eventually, get};

const CANARY: &str = "canary-9e2b";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector that keeps what it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let request = request.into_inner();
        assert!(!format!("{request:?}").contains(CANARY), "{request:?}");
        let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.0.lock().expect("lock").extend(scopes.flat_map(|scope| scope.spans));
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Listens; the endpoint.
    async fn start(&self) -> String {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let service = TraceServiceServer::new(self.clone());
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        endpoint
    }

    /// The spans of a trace, by their ids.
    fn trace(&self, id: &str) -> Vec<Span> {
        self.0.lock().expect("lock").iter().filter(|span| hex(&span.trace_id) == id).cloned().collect()
    }
}

/// Takes the place of the ClusterIP Service, and keeps the headers that it is sent.
async fn service() -> (SocketAddr, Arc<Mutex<Vec<HeaderMap>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let seen: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
    let heard = seen.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let heard = heard.clone();
            let answer = service_fn(move |request: Request<hyper::body::Incoming>| {
                heard.lock().expect("lock").push(request.headers().clone());
                async { Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from_static(b"{}")))) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(tcp), answer));
        }
    });
    (address, seen)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn trace_id(number: u64) -> String {
    format!("4bf92f3577b34da6{number:016x}")
}

fn attributes(span: &Span) -> HashMap<&str, String> {
    let text = |value: &any_value::Value| match value {
        any_value::Value::StringValue(text) => text.clone(),
        any_value::Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let value = |pair: &opentelemetry_proto::tonic::common::v1::KeyValue| {
        pair.value.as_ref().and_then(|value| value.value.as_ref()).map(text).unwrap_or_default()
    };
    span.attributes.iter().map(|pair| (&*pair.key, value(pair))).collect()
}

fn is_error(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code() == SpanStatus::Error)
}

/// Counts the points of `books` with this `traceparent`.
async fn count(ip: IpAddr, traceparent: &str) -> Response<Bytes> {
    let request = Request::post(format!("/collections/books/points/count?note={CANARY}"))
        .header("content-type", "application/json")
        .header("api-key", CANARY)
        .header("authorization", format!("Bearer {CANARY}"))
        .header("tracestate", "vendor=opaque")
        .header("traceparent", traceparent)
        .header("x-qdrant-router-explain", "1")
        .body(Bytes::from(
            json!({ "filter": { "must": [{ "key": CANARY, "match": { "value": CANARY } }] } }).to_string(),
        ))
        .expect("a request");
    Rest::new((ip, 6333).into(), None).raw(request).await.expect("an answer")
}

async fn end(program: Program) -> String {
    program.terminate();
    let (status, said) = tokio::task::spawn_blocking(move || program.end()).await.expect("a thread");
    assert_eq!(status.code(), Some(0), "{said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_dead_is_one_span_of_the_request_and_the_next_one_is_another() {
    let cluster = Cluster::builder().nodes(3).start().await.expect("a cluster");
    let ip = cluster.block().proxy();
    let settings =
        json!({ "vectors": { "size": 4, "distance": "Dot" }, "shard_number": 1, "replication_factor": 3 });
    cluster.rest(0).put("/collections/books", settings).await.expect("a collection");
    cluster.settled().await.expect("a settled cluster");
    let collector = Collector::default();
    let endpoint = collector.start().await;
    let mut arguments: Vec<String> =
        cluster.nodes().iter().map(|node| format!("--node={}", node.ip())).collect();
    // So that the router finds out by a request.
    arguments.push("--topology-interval=1h".to_owned());
    arguments.push(format!("--otlp-endpoint={endpoint}"));
    arguments.push("--trace-sample=0".to_owned());
    arguments.push("--access-log=all".to_owned());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let program = Program::serve(ip, &arguments);
    let sampled = |number: u64| format!("00-{}-{PARENT}-01", trace_id(number));
    eventually("it knows the nodes", async || {
        get(ip, 9633, "/topology")
            .await
            .is_some_and(|(_, topology)| topology.matches("\"reachable\":true").count() == 3)
    })
    .await;
    assert_eq!(count(ip, &sampled(0)).await.status(), StatusCode::OK);
    cluster.kill(1).await.expect("a dead node");
    // One of them meets the dead node, however quick the others are: of those that come together some find them busy. A slow
    // one may be sent twice, too, and tells another story.
    for first in (1..=50).step_by(5) {
        let answers =
            join_all((first..first + 5).map(async |number| count(ip, &sampled(number)).await)).await;
        assert!(answers.iter().all(|answer| answer.status() == StatusCode::OK), "{answers:?}");
    }
    let said = end(program).await;

    let met = |&number: &u64| collector.trace(&trace_id(number)).iter().any(is_error);
    let number = (1..=50).find(met).expect("a request that meets the dead node");
    let spans = collector.trace(&trace_id(number));
    let of_kind = |kind: SpanKind| spans.iter().filter(move |span| span.kind() == kind).collect::<Vec<_>>();
    let (requests, mut attempts) = (of_kind(SpanKind::Server), of_kind(SpanKind::Client));
    assert_eq!((requests.len(), attempts.len(), spans.len()), (1, 2, 3), "{spans:#?}");
    let request = requests[0];
    assert_eq!(hex(&request.parent_span_id), PARENT);
    assert_eq!(request.name, "POST /collections/{c}/points/count");
    let told = attributes(request);
    for (name, value) in [
        ("http.response.status_code", "200"),
        ("db.collection.name", "books"),
        ("qdrant_router.reason", "readable_replica"),
        ("qdrant_router.attempts", "2"),
        ("qdrant_router.outcome", "ok"),
    ] {
        assert_eq!(told.get(name).map(String::as_str), Some(value), "{name}: {told:?}");
    }
    attempts.sort_by_key(|span| span.start_time_unix_nano);
    for (attempt, sending, outcome) in [(attempts[0], "first", "failed"), (attempts[1], "repeat", "answered")]
    {
        assert_eq!(attempt.parent_span_id, request.span_id);
        let told = attributes(attempt);
        assert_eq!((&*told["qdrant_router.sending"], &*told["qdrant_router.outcome"]), (sending, outcome));
        assert_eq!(is_error(attempt), outcome == "failed", "{attempt:?}");
        let is_dead = told["server.address"] == cluster.node(1).ip().to_string();
        assert_eq!(is_dead, outcome == "failed", "{told:?}");
    }
    let spans = collector.trace(&trace_id(0));
    let (hedges, others): (Vec<_>, Vec<_>) = spans.iter().partition(|span| {
        attributes(span).get("qdrant_router.sending").is_some_and(|sending| sending == "hedge")
    });
    assert_eq!(others.len(), 2, "a request and its attempt, beside {hedges:?}: {others:#?}");
    assert!(said.contains(&trace_id(number)), "the access log names the trace: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_gets_the_span_of_the_attempt_and_what_is_not_sampled_passes_untouched() {
    let block = Block::claim().expect("addresses");
    let (ip, dead) = (block.proxy(), format!("--node={}", block.node(0)));
    let (address, seen) = service().await;
    let fallback = format!("--fallback={}:{}", address.ip(), address.port());
    let collector = Collector::default();
    let otlp = format!("--otlp-endpoint={}", collector.start().await);
    let parent = |trace: u64, flags: &str| format!("00-{}-{PARENT}-{flags}", trace_id(trace));
    let received = || seen.lock().expect("lock").pop().expect("a request");

    let program = Program::serve(ip, &[&dead, &fallback, "--routing=off", &otlp, "--trace-sample=1"]);
    eventually("it is ready", async || {
        get(ip, 9633, "/readyz").await.is_some_and(|(status, _)| status == StatusCode::OK)
    })
    .await;
    count(ip, &parent(1, "01")).await;
    let sent = received();
    assert_eq!(sent["tracestate"], "vendor=opaque");
    assert_eq!(sent["api-key"], CANARY);
    let own = sent["traceparent"].to_str().expect("text").to_owned();

    count(ip, &parent(2, "00")).await;
    assert_eq!(received()["traceparent"], parent(2, "00"));

    assert_eq!(get(ip, 6333, "/collections").await.map(|(status, _)| status), Some(StatusCode::OK));
    let begun = received()["traceparent"].to_str().expect("text").to_owned();
    end(program).await;

    let spans = collector.trace(&trace_id(1));
    let attempt = spans.iter().find(|span| span.kind() == SpanKind::Client).expect("an attempt");
    assert_eq!(own, format!("00-{}-{}-01", trace_id(1), hex(&attempt.span_id)));
    assert!(collector.trace(&trace_id(2)).is_empty());
    let [_, trace, span, "01"] = begun.split('-').collect::<Vec<_>>()[..] else { panic!("{begun}") };
    let spans = collector.trace(trace);
    assert_eq!(spans.len(), 2, "a trace that begins here");
    assert!(spans.iter().any(|found| hex(&found.span_id) == span && found.kind() == SpanKind::Client));
    assert!(spans.iter().any(|found| found.parent_span_id.is_empty() && found.kind() == SpanKind::Server));

    let untraced = Program::serve(ip, &[&dead, &fallback, "--routing=off"]);
    eventually("it is ready", async || {
        get(ip, 9633, "/readyz").await.is_some_and(|(status, _)| status == StatusCode::OK)
    })
    .await;
    count(ip, &parent(3, "01")).await;
    assert_eq!(received()["traceparent"], parent(3, "01"));
    end(untraced).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_no_request() {
    let cluster = Cluster::builder().nodes(1).start().await.expect("a cluster");
    let ip = cluster.block().proxy();
    let node = format!("--node={}", cluster.node(0).ip());
    let nobody = format!("--otlp-endpoint=http://{}:4317", cluster.block().proxy());
    let program = Program::serve(ip, &[&node, &nobody, "--trace-sample=1"]);
    eventually("it serves", async || {
        get(ip, 6333, "/collections").await.is_some_and(|(status, _)| status == StatusCode::OK)
    })
    .await;
    for _ in 0..50 {
        assert_eq!(get(ip, 6333, "/collections").await.map(|(status, _)| status), Some(StatusCode::OK));
    }
    let said = end(program).await;
    assert!(said.contains("opentelemetry"), "and it is told: {said}");
}
