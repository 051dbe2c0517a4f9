//! The pulse: what a dashboard shows at a glance, taken once per second for all that watch.
//!
//! Its size is bounded whatever the cluster's, and its cost does not grow with the collections: it
//! tells of at most [`MAX_NODES`] nodes, and of collections only that something has changed.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use qdrant_router::{
    Latencies, Routing, Traffic,
    topology::{Address, Node},
};
use serde::Serialize;
use tokio::time::Instant;

use super::nodes::{self, Flow, NodeRow, per_second};
use crate::{
    lifecycle::Proxy,
    metrics::{ObservedTotals, Totals},
};

/// Nodes in one pulse: those in trouble first, then those with the most traffic.
const MAX_NODES: usize = 50;

/// Rates and latencies are those of the last seconds.
const SAMPLES: usize = 6;

/// Problems in one pulse.
const MAX_PROBLEMS: usize = 10;

/// What was counted at a few moments, the last ones.
#[derive(Debug, Default)]
pub(super) struct Window {
    samples: VecDeque<Sample>,
}

#[derive(Debug)]
struct Sample {
    at: Instant,
    totals: Totals,
    traffic: HashMap<Address, Traffic>,
}

/// The cluster and its traffic at one moment.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) pulse: Pulse,
    /// All nodes, by name.
    pub(super) nodes: Vec<NodeRow>,
}

#[derive(Debug, Serialize)]
pub(super) struct Pulse {
    epoch: Option<String>,
    /// Seconds since a node last told what it knows.
    age: Option<f64>,
    draining: bool,
    leader: Option<String>,
    /// Changes whenever the topology does.
    revision: u64,
    /// Events ever written.
    events: u64,
    known_nodes: usize,
    usable_nodes: usize,
    /// Whether there is a Service to fall back to.
    fallback: bool,
    /// Which requests are routed: `off`, `observe`, `reads` or `all`.
    routing: String,
    /// What routing would have done; `null` unless it only observes.
    observed: Option<ObservedTotals>,
    in_flight: usize,
    ejections: u64,
    hedges: u64,
    total: Counts,
    /// Of the last seconds; `null` in the first pulse.
    recent: Option<Recent>,
    reasons: Vec<ReasonRow>,
    nodes: Vec<NodeRow>,
    problems: Vec<String>,
}

/// Counts since the start.
#[derive(Debug, Serialize)]
struct Counts {
    requests: u64,
    failed: u64,
    repeats: u64,
    known_hops: u64,
    without_hop: u64,
}

#[derive(Debug, Serialize)]
struct Recent {
    /// Requests per second.
    rate: f64,
    failed_rate: f64,
    repeats_rate: f64,
    /// The share of requests that needed no internal hop; `null` where none can be told.
    without_hop: Option<f64>,
    p50: Option<f64>,
    p99: Option<f64>,
}

#[derive(Debug, Serialize)]
struct ReasonRow {
    reason: &'static str,
    total: u64,
    rate: f64,
}

// === impl Window ===

impl Window {
    /// Looks at what has been counted, and compares it with the oldest look that is kept.
    pub(super) fn look(&mut self, proxy: &Proxy) -> Figures {
        let (router, now) = (&proxy.router(), Instant::now());
        let snapshot = router.topology().snapshot();
        let traffic =
            snapshot.nodes().iter().map(|node| (node.address, router.balance().traffic(node.address)));
        let sample = Sample { at: now, totals: proxy.metrics.totals(), traffic: traffic.collect() };
        let earlier = self.samples.front();
        let flow = |node: &Node| {
            let earlier = earlier?;
            let before = earlier.traffic.get(&node.address).copied().unwrap_or_default();
            Some(Flow::between(&before, sample.traffic.get(&node.address)?, now - earlier.at))
        };
        let nodes = nodes::rows(router, flow);
        let span = earlier.map_or(Duration::ZERO, |earlier| now - earlier.at);
        let lately = sample.totals.since(earlier.map_or(&sample.totals, |earlier| &earlier.totals));
        let rate = |count: u64| if span.is_zero() { 0.0 } else { per_second(count, span) };
        let recent = earlier.map(|earlier| {
            let latencies = sample.traffic.iter().fold(Latencies::default(), |sum, (address, traffic)| {
                let before = earlier.traffic.get(address).copied().unwrap_or_default();
                sum.plus(&traffic.latencies.since(&before.latencies))
            });
            let millis = |share| latencies.quantile(share).map(|latency| latency.as_secs_f64() * 1e3);
            Recent {
                rate: rate(lately.requests),
                failed_rate: rate(lately.failed),
                repeats_rate: rate(lately.repeats),
                without_hop: (lately.known_hops > 0)
                    .then(|| lately.without_hop as f64 / lately.known_hops as f64),
                p50: millis(0.5),
                p99: millis(0.99),
            }
        });
        let rates: HashMap<&str, f64> =
            lately.reasons().map(|(reason, count)| (reason, rate(count))).collect();
        let mut reasons: Vec<ReasonRow> = sample
            .totals
            .reasons()
            .map(|(reason, total)| {
                let rate = rates.get(reason).copied().unwrap_or_default();
                ReasonRow { reason, total, rate }
            })
            .collect();
        reasons.sort_by_key(|row| std::cmp::Reverse(row.total));
        let totals = sample.totals;
        let pulse = Pulse {
            epoch: snapshot.epoch().map(|epoch| epoch.to_string()),
            age: router.topology().age().map(|age| age.as_secs_f64()),
            draining: proxy.is_draining(),
            leader: snapshot.consensus_leader().and_then(|peer| snapshot.node(peer)).map(Node::label),
            revision: proxy.journal.revision(),
            events: proxy.journal.written(),
            known_nodes: nodes.len(),
            usable_nodes: nodes.iter().filter(|node| node.state == "usable").count(),
            fallback: !snapshot.fallback().is_empty(),
            routing: router.routing().to_string(),
            observed: (router.routing() == Routing::Observe).then(|| proxy.metrics.observed_totals()),
            in_flight: router.balance().all_in_flight(),
            ejections: router.balance().ejections(),
            hedges: router.hedges(),
            total: Counts {
                requests: totals.requests,
                failed: totals.failed,
                repeats: totals.repeats,
                known_hops: totals.known_hops,
                without_hop: totals.without_hop,
            },
            recent,
            reasons,
            nodes: most_telling(&nodes),
            problems: router
                .topology()
                .problems()
                .iter()
                .take(MAX_PROBLEMS)
                .map(ToString::to_string)
                .collect(),
        };
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        Figures { pulse, nodes }
    }
}

/// The nodes that one looks for first, by name.
fn most_telling(nodes: &[NodeRow]) -> Vec<NodeRow> {
    if nodes.len() <= MAX_NODES {
        return nodes.to_vec();
    }
    let weight = |node: &NodeRow| {
        let rate = node.flow.map_or(0.0, |flow| flow.rate);
        (node.state == "usable", std::cmp::Reverse((rate * 1e3) as u64))
    };
    let mut places: Vec<usize> = (0..nodes.len()).collect();
    places.sort_by_key(|&place| weight(&nodes[place]));
    places.truncate(MAX_NODES);
    places.sort_unstable();
    places.into_iter().map(|place| nodes[place].clone()).collect()
}
