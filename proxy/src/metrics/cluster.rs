//! What Prometheus reads of the cluster itself: taken from the router when it is asked for.
//!
//! Labels are bounded by what is known: a node that has left leaves the metrics too, and beyond
//! [`MAX_NODES`] nodes the rest is counted together.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use qdrant_router::{Router, Traffic, request::Protocol, topology::ReplicaState};

/// Nodes with a label of their own.
const MAX_NODES: usize = 1_000;

/// The label of all other nodes.
const OTHER_NODES: &str = "other";

/// A label is at most as long as that of a host.
const MAX_LABEL: usize = 63;

/// The cluster as one scrape sees it.
#[derive(Debug)]
pub(super) struct ClusterMetrics {
    nodes: BTreeMap<String, NodeMetrics>,
    replicas: Vec<(&'static str, u64)>,
    topology_age: Option<f64>,
    ejections: u64,
    hedges: u64,
    repeats_refused: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct NodeMetrics {
    traffic: Traffic,
    in_flight: u64,
    rest_connections: u64,
    grpc_connections: u64,
}

// === impl ClusterMetrics ===

impl ClusterMetrics {
    pub(super) fn of(router: &Router) -> Self {
        let (snapshot, balance) = (router.topology().snapshot(), router.balance());
        let mut nodes: BTreeMap<String, NodeMetrics> = BTreeMap::new();
        for node in snapshot.nodes() {
            let mut label: String = node.label().chars().take(MAX_LABEL).collect();
            if nodes.len() >= MAX_NODES && !nodes.contains_key(&label) {
                OTHER_NODES.clone_into(&mut label);
            }
            let sum = nodes.entry(label).or_default();
            let traffic = balance.traffic(node.address);
            sum.traffic.sent += traffic.sent;
            sum.traffic.latencies = sum.traffic.latencies.plus(&traffic.latencies);
            sum.in_flight += balance.in_flight(node.address) as u64;
            let connections = router.connections(node.address);
            sum.rest_connections += connections.rest as u64;
            sum.grpc_connections += connections.grpc as u64;
        }
        let mut counts: BTreeMap<&'static str, u64> =
            ReplicaState::NAMED.iter().map(|state| (state.as_str(), 0)).collect();
        let shards = snapshot.collections().flat_map(|(_, collection)| collection.shards());
        for replica in shards.flat_map(|shard| &shard.replicas) {
            *counts.entry(replica.state.as_str()).or_default() += 1;
        }
        Self {
            nodes,
            replicas: counts.into_iter().collect(),
            topology_age: router.topology().age().map(|age| age.as_secs_f64()),
            ejections: balance.ejections(),
            hedges: router.hedges(),
            repeats_refused: router.repeats_refused(),
        }
    }
}

impl Collector for ClusterMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut sent = encoder.encode_descriptor(
            "node_requests",
            "Requests sent to the node, parts and repeats counted each",
            None,
            MetricType::Counter,
        )?;
        for (node, metrics) in &self.nodes {
            let counter = ConstCounter::new(metrics.traffic.sent);
            counter.encode(sent.encode_family(&[("node", node.as_str())])?)?;
        }
        let mut in_flight = encoder.encode_descriptor(
            "node_requests_in_flight",
            "Requests sent to the node and not yet answered in full",
            None,
            MetricType::Gauge,
        )?;
        for (node, metrics) in &self.nodes {
            let gauge = ConstGauge::new(metrics.in_flight);
            gauge.encode(in_flight.encode_family(&[("node", node.as_str())])?)?;
        }
        let mut connections = encoder.encode_descriptor(
            "connections",
            "Open connections to the node",
            None,
            MetricType::Gauge,
        )?;
        for (node, metrics) in &self.nodes {
            for (protocol, open) in
                [(Protocol::Rest, metrics.rest_connections), (Protocol::Grpc, metrics.grpc_connections)]
            {
                let labels = [("node", node.as_str()), ("protocol", protocol.as_str())];
                ConstGauge::new(open).encode(connections.encode_family(&labels)?)?;
            }
        }
        let mut latency = encoder.encode_descriptor(
            "node_request_duration_seconds",
            "Time to the head of the node's answer",
            None,
            MetricType::Histogram,
        )?;
        for (node, metrics) in &self.nodes {
            encode_latencies(metrics, latency.encode_family(&[("node", node.as_str())])?)?;
        }
        let mut replicas = encoder.encode_descriptor(
            "replicas",
            "Replicas of the collections that are known, by state",
            None,
            MetricType::Gauge,
        )?;
        for &(state, count) in &self.replicas {
            ConstGauge::new(count).encode(replicas.encode_family(&[("state", state)])?)?;
        }
        if let Some(age) = self.topology_age {
            ConstGauge::new(age).encode(encoder.encode_descriptor(
                "topology_age_seconds",
                "Time since a node last told what it knows of the cluster",
                None,
                MetricType::Gauge,
            )?)?;
        }
        ConstCounter::new(self.hedges).encode(encoder.encode_descriptor(
            "hedges",
            "Reads sent to a second node because the first was slower than usual",
            None,
            MetricType::Counter,
        )?)?;
        ConstCounter::new(self.repeats_refused).encode(encoder.encode_descriptor(
            "repeats_refused",
            "Repeats and hedges that were left out because the budget for them was spent",
            None,
            MetricType::Counter,
        )?)?;
        ConstCounter::new(self.ejections).encode(encoder.encode_descriptor(
            "ejections",
            "How many times a node was taken out because it could not be reached or did not answer",
            None,
            MetricType::Counter,
        )?)
    }
}

/// Every second bucket: a thousand nodes make many series.
fn encode_latencies(metrics: &NodeMetrics, mut encoder: MetricEncoder<'_>) -> fmt::Result {
    let latencies = metrics.traffic.latencies;
    let mut buckets: Vec<(f64, u64)> = Vec::new();
    let mut waiting = 0;
    for (i, (bound, count)) in latencies.buckets().enumerate() {
        waiting += count;
        let bound = bound.map_or(f64::INFINITY, |bound| bound.as_secs_f64());
        if i % 2 == 0 {
            buckets.push((bound, std::mem::take(&mut waiting)));
        }
    }
    encoder.encode_histogram::<NoLabelSet>(latencies.sum().as_secs_f64(), latencies.count(), &buckets, None)
}
