//! What is counted. Label values come from closed lists only.

use std::{
    hash::{Hash, Hasher},
    sync::atomic::AtomicU64,
    time::Duration,
};

use http::{HeaderMap, HeaderName, Response};
use prometheus_client::{
    encoding::{
        EncodeLabelSet,
        text::{encode_eof, encode_registry},
    },
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use qdrant_router::{Routed, Router, request::Protocol};

mod by_protocol;
mod clients;
mod cluster;
mod observed;
mod reloads;
mod tally;

use self::{
    by_protocol::{ByProtocol, ProtocolLabels},
    clients::Clients,
    cluster::ClusterMetrics,
    observed::Observed,
    reloads::Reloads,
    tally::Tally,
};

pub(crate) use self::{clients::Refusal, observed::ObservedTotals, tally::Totals};

/// What all names begin with.
const PREFIX: &str = "qdrant_router";

/// The metrics of one proxy.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    given_up: Counter,
    duration: ByProtocol<Histogram>,
    repeats: ByProtocol<Counter>,
    expected_rpcs: ByProtocol<Counter>,
    avoided_rpcs: ByProtocol<Counter<f64, AtomicU64>>,
    known_hops: ByProtocol<Counter>,
    without_hop: ByProtocol<Counter>,
    /// Those of connections.
    pub(crate) clients: Clients,
    observed: Observed,
    reloads: Reloads,
    tally: Tally,
    nodes: Gauge,
    reachable_nodes: Gauge,
    in_flight: Gauge,
    term: Gauge,
    commit: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    protocol: &'static str,
    class: &'static str,
    operation: &'static str,
    reason: &'static str,
    outcome: &'static str,
}

/// What differs within an operation is few enough for the rest of the labels to be compared.
impl Hash for RequestLabels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.operation.hash(state);
    }
}

/// A request that has no answer yet.
pub(crate) struct Waiting<'a>(&'a Metrics);

// === impl Waiting ===

impl Waiting<'_> {
    /// There is an answer.
    pub(crate) fn end(self) {
        std::mem::forget(self);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.given_up.inc();
    }
}

// === impl Metrics ===

impl Metrics {
    /// Metrics that count from zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let requests = Family::default();
        registry.register(
            "requests",
            "Requests answered, by why they went where they went",
            requests.clone(),
        );
        let given_up = Counter::default();
        registry.register(
            "requests_given_up",
            "Requests whose clients went before there was an answer",
            given_up.clone(),
        );
        let duration = Family::<ProtocolLabels, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.000_25, 2.0, 18))
        });
        registry.register("request_duration_seconds", "Time to the head of the answer", duration.clone());
        let repeats = Family::default();
        registry.register("repeats", "Attempts beyond the first, of each part of a request", repeats.clone());
        let expected_rpcs = Family::default();
        registry.register(
            "expected_internal_rpcs",
            "Internal RPCs that Qdrant was expected to need for what was routed",
            expected_rpcs.clone(),
        );
        let avoided_rpcs = Family::default();
        registry.register(
            "avoided_internal_rpcs",
            "Internal RPCs that what was routed would have needed on average over the nodes, less those expected",
            avoided_rpcs.clone(),
        );
        let known_hops = Family::default();
        registry.register(
            "requests_with_known_hops",
            "Requests of which the internal RPCs can be told",
            known_hops.clone(),
        );
        let without_hop = Family::default();
        registry.register(
            "requests_without_hop",
            "Requests that needed no internal RPC, of those with known hops",
            without_hop.clone(),
        );
        let clients = Clients::register(&mut registry);
        let observed = Observed::register(&mut registry);
        let reloads = Reloads::register(&mut registry);
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let nodes = gauge("nodes", "Nodes known");
        let reachable_nodes = gauge("reachable_nodes", "Nodes that answered when they were last asked");
        let in_flight = gauge("requests_in_flight", "Requests sent and not yet answered in full");
        let term = gauge("topology_term", "Raft term of the topology");
        let commit = gauge("topology_commit", "Raft commit index of the topology");
        Self {
            registry,
            requests,
            given_up,
            duration: ByProtocol::of(&duration),
            repeats: ByProtocol::of(&repeats),
            expected_rpcs: ByProtocol::of(&expected_rpcs),
            avoided_rpcs: ByProtocol::of(&avoided_rpcs),
            known_hops: ByProtocol::of(&known_hops),
            without_hop: ByProtocol::of(&without_hop),
            clients,
            observed,
            reloads,
            tally: Tally::default(),
            nodes,
            reachable_nodes,
            in_flight,
            term,
            commit,
        }
    }

    /// Counts one request, and tells whether it was answered with a success.
    pub fn observe<B>(&self, routed: &Routed, response: &Response<B>, took: Duration) -> bool {
        let protocol = routed.protocol;
        let outcome = outcome(routed, response);
        self.requests
            .get_or_create(&RequestLabels {
                protocol: protocol.as_str(),
                class: routed.class.as_str(),
                operation: routed.operation,
                reason: routed.reason.map_or("none", qdrant_router::route::Reason::as_str),
                outcome,
            })
            .inc();
        self.duration.get(protocol).observe(took.as_secs_f64());
        if let repeats @ 1.. = routed.attempts.saturating_sub(routed.parts) {
            self.repeats.get(protocol).inc_by(repeats as u64);
        }
        if let Some(rpcs) = routed.expected_rpcs {
            self.known_hops.get(protocol).inc();
            if rpcs == 0 {
                self.without_hop.get(protocol).inc();
            } else {
                self.expected_rpcs.get(protocol).inc_by(rpcs.into());
            }
        }
        if let Some(rpcs) = routed.avoided_rpcs {
            self.avoided_rpcs.get(protocol).inc_by(rpcs);
        }
        if let Some(observed) = &routed.observed {
            self.observed.count(routed, observed);
        }
        self.tally.count(routed, matches!(outcome, "unanswered" | "server_error"));
        outcome == "ok" && response.status().is_success()
    }

    /// Counts a request that is given up, unless it is [answered](Waiting::end).
    pub(crate) fn wait(&self) -> Waiting<'_> {
        Waiting(self)
    }

    /// Counts a new configuration that is in use.
    pub fn reloaded(&self) {
        self.reloads.succeeded();
    }

    /// Counts a new configuration that could not take over, so that the old one stayed.
    pub fn reload_failed(&self) {
        self.reloads.failed();
    }

    /// What has been counted so far.
    pub(crate) fn totals(&self) -> Totals {
        self.tally.read()
    }

    /// What has been counted so far of requests that were observed.
    pub(crate) fn observed_totals(&self) -> ObservedTotals {
        self.observed.totals()
    }

    /// All metrics in Prometheus' text format, with the gauges as they are now.
    #[must_use]
    pub fn render(&self, router: &Router) -> String {
        let snapshot = router.topology().snapshot();
        let nodes = snapshot.nodes();
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.nodes.set(count(nodes.len()));
        self.reachable_nodes.set(count(nodes.iter().filter(|node| node.reachable).count()));
        self.in_flight.set(count(router.balance().all_in_flight()));
        if let Some(epoch) = snapshot.epoch() {
            self.term.set(epoch.term.try_into().unwrap_or(i64::MAX));
            self.commit.set(epoch.commit.try_into().unwrap_or(i64::MAX));
        }
        let mut cluster = Registry::with_prefix(PREFIX);
        cluster.register_collector(Box::new(ClusterMetrics::of(router)));
        let mut text = String::new();
        let written = encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &cluster))
            .and_then(|()| encode_eof(&mut text));
        if let Err(error) = written {
            tracing::error!(%error, "metrics could not be written");
        }
        text
    }
}

/// How a request ended, by the status of HTTP, and of gRPC where the head of the answer tells it.
pub(crate) fn outcome<B>(routed: &Routed, response: &Response<B>) -> &'static str {
    let code = match routed.protocol {
        Protocol::Grpc => grpc_status(response.headers()),
        Protocol::Rest => None,
    };
    match (routed.answered, response.status().as_u16(), code) {
        (false, ..) => "unanswered",
        (true, 500.., _) => "server_error",
        (true, 400.., _) => "client_error",
        (true, _, Some(code)) if is_fault(code) => "server_error",
        (true, _, Some(code)) if code != "0" => "client_error",
        (true, ..) => "ok",
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The status of gRPC in the head of an answer.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<&str> {
    headers.get(GRPC_STATUS).and_then(|status| status.to_str().ok())
}

/// Whether a status of gRPC blames the server: UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS.
pub(crate) fn is_fault(status: &str) -> bool {
    matches!(status, "2" | "4" | "13" | "14" | "15")
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
