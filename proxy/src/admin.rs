//! The admin port: health, metrics, topology and the dashboard, for people and machines that watch.
//!
//! It has a listener of its own, on the loopback interface unless configured otherwise, and answers
//! whether or not Qdrant does.

use std::sync::Arc;

use axum::{
    Json, Router as Routes,
    extract::{FromRef, Query, State},
    http::{StatusCode, header},
    middleware::map_response,
    response::IntoResponse,
    routing::{get, post},
};
use bytes::Bytes;
use http_body_util::Empty;
use qdrant_router::Question;
use tokio::net::TcpListener;
use tower::ServiceExt;

pub(crate) use self::topology::TopologyDocument;
use self::{feed::Feed, paging::Paging};
use crate::lifecycle::Proxy;

mod collections;
mod dashboard;
mod feed;
mod nodes;
mod paging;
mod pulse;
mod topology;

/// What Prometheus expects of the text that [`prometheus_client`] writes.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the handlers share.
#[derive(Clone, Debug)]
struct Admin {
    proxy: Proxy,
    feed: Arc<Feed>,
}

impl FromRef<Admin> for Proxy {
    fn from_ref(admin: &Admin) -> Self {
        admin.proxy.clone()
    }
}

impl FromRef<Admin> for Arc<Feed> {
    fn from_ref(admin: &Admin) -> Self {
        admin.feed.clone()
    }
}

/// Serves the admin port, and watches the cluster for its dashboard, until the task is dropped.
pub async fn serve(listener: TcpListener, proxy: Proxy) {
    let feed = Arc::new(Feed::new());
    let routes = routes(Admin { proxy: proxy.clone(), feed: feed.clone() });
    tokio::select! {
        () = proxy.journal.follow(&proxy) => {}
        () = feed.run(&proxy) => {}
        served = axum::serve(listener, routes) => {
            if let Err(error) = served {
                tracing::error!(%error, "the admin port failed");
            }
        }
    }
}

fn routes(admin: Admin) -> Routes {
    Routes::new()
        .route("/", get(dashboard::page))
        .route("/dashboard.css", get(dashboard::style))
        .route("/dashboard.js", get(dashboard::script))
        .route("/favicon.svg", get(dashboard::icon))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/topology", get(topology))
        .route("/topology/nodes", get(nodes))
        .route("/topology/collections", get(collections::list))
        .route("/topology/collections/{name}", get(collections::show))
        .route("/explain", post(explain))
        .route("/events", get(feed::events))
        .route("/events/recent", get(recent))
        .layer(map_response(dashboard::guarded))
        .with_state(admin)
}

/// Ready means that requests have somewhere to go: the topology is known, or the fallback answers, or a server that does not
/// say who it is. A single node that is down changes nothing.
async fn ready(State(proxy): State<Proxy>) -> (StatusCode, String) {
    if proxy.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned());
    }
    let router = proxy.router();
    let topology = router.topology();
    let snapshot = topology.snapshot();
    let reachable = snapshot.nodes().iter().filter(|node| node.peer.is_some() && node.reachable).count();
    if reachable > 0 {
        return (StatusCode::OK, format!("ready: {reachable} of {} nodes\n", snapshot.nodes().len()));
    }
    let way = match snapshot.fallback() {
        [] => "servers that do not say who they are",
        _ => "the fallback",
    };
    let is_any_there = !snapshot.fallback().is_empty() || snapshot.nodes().iter().any(|node| node.reachable);
    if is_any_there && answers(&proxy).await {
        return (StatusCode::OK, format!("ready: through {way}\n"));
    }
    let problems: Vec<String> = topology.problems().iter().map(ToString::to_string).collect();
    let problems =
        if problems.is_empty() { "no node has been found yet".to_owned() } else { problems.join("\n") };
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {problems}\n"))
}

/// Whether a request that needs no credential is answered, wherever it goes.
async fn answers(proxy: &Proxy) -> bool {
    let request = http::Request::get("/healthz").body(Empty::<Bytes>::new());
    let Ok(request) = request else { return false };
    match proxy.router().oneshot(request).await {
        Ok(response) => response.status().is_success(),
        Err(never) => match never {},
    }
}

async fn metrics(State(proxy): State<Proxy>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], proxy.metrics.render(&proxy.router()))
}

/// Tells where a request would go: `{"method", "path", "body"}` or `{"grpc", "body"}`.
async fn explain(State(proxy): State<Proxy>, body: Bytes) -> impl IntoResponse {
    let question: Question = match serde_json::from_slice(&body) {
        Ok(question) => question,
        Err(error) => return refused(&format!("the question is not understood: {error}")),
    };
    match proxy.router().explain(question).await {
        Ok(explanation) => (StatusCode::OK, Json(serde_json::json!(explanation))),
        Err(error) => refused(&error.to_string()),
    }
}

fn refused(error: &str) -> (StatusCode, Json<serde_json::Value>) {
    (StatusCode::BAD_REQUEST, Json(serde_json::json!({ "error": error })))
}

async fn topology(State(proxy): State<Proxy>) -> Json<TopologyDocument> {
    Json(TopologyDocument::of(&proxy.router()))
}

/// The nodes with their traffic, `?search=&page=`.
async fn nodes(
    State(Admin { proxy, feed }): State<Admin>,
    Query(paging): Query<Paging>,
) -> impl IntoResponse {
    let (finds, rows) = (paging.finder(), feed.nodes(&proxy));
    let found: Vec<_> = rows.iter().filter(|row| row.matches(&finds)).collect();
    Json(serde_json::json!(paging.of(found, |row| row)))
}

/// What happened lately, the newest first.
async fn recent(State(proxy): State<Proxy>) -> impl IntoResponse {
    Json(serde_json::json!({ "events": proxy.journal.recent() }))
}
