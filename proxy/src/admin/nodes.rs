//! The nodes with what they are sent, as the dashboard shows them.

use std::{collections::HashMap, time::Duration};

use qdrant_router::{
    Router, Traffic,
    route::Conditions,
    topology::{Address, Node, Problem},
};
use serde::Serialize;

/// A node at one moment, and its traffic of the last seconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct NodeRow {
    name: String,
    /// Text, because a browser's numbers are too short for it.
    peer_id: Option<String>,
    address: String,
    version: Option<String>,
    /// `usable`, `ejected` or `unreachable`.
    pub(super) state: &'static str,
    /// Whether it leads consensus.
    leader: bool,
    in_flight: usize,
    #[serde(flatten)]
    pub(super) flow: Option<Flow>,
    /// What its address last failed with.
    problem: Option<String>,
}

/// Traffic over a span of time.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Flow {
    /// Requests per second.
    pub(super) rate: f64,
    /// Milliseconds to the head of an answer; `null` where none came.
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
}

// === impl NodeRow ===

impl NodeRow {
    /// Whether its name, its address or its state is searched for.
    pub(super) fn matches(&self, finds: impl Fn(&str) -> bool) -> bool {
        finds(&self.name) || finds(&self.address) || finds(self.state)
    }
}

// === impl Flow ===

impl Flow {
    /// What was sent between two looks that lie `span` apart.
    pub(super) fn between(earlier: &Traffic, now: &Traffic, span: Duration) -> Self {
        let latencies = now.latencies.since(&earlier.latencies);
        let millis = |share| latencies.quantile(share).map(|latency| latency.as_secs_f64() * 1e3);
        Self {
            rate: per_second(now.sent.saturating_sub(earlier.sent), span),
            p50: millis(0.5),
            p99: millis(0.99),
        }
    }
}

pub(super) fn per_second(count: u64, span: Duration) -> f64 {
    count as f64 / span.as_secs_f64().max(f64::EPSILON)
}

/// All nodes as they are now; `flow` tells their traffic.
pub(super) fn rows(router: &Router, flow: impl Fn(&Node) -> Option<Flow>) -> Vec<NodeRow> {
    let (snapshot, balance) = (router.topology().snapshot(), router.balance());
    let problems = router.topology().problems();
    let problems: HashMap<Address, String> = problems
        .iter()
        .filter_map(|problem| match problem {
            Problem::Node(address, error) => Some((*address, error.to_string())),
            _ => None,
        })
        .collect();
    let row = |node: &Node| NodeRow {
        name: node.label(),
        peer_id: node.peer.map(|peer| peer.to_string()),
        address: node.address.ip.to_string(),
        version: node.version.map(|version| version.to_string()),
        state: match (node.reachable, balance.is_usable(node.address)) {
            (false, _) => "unreachable",
            (true, false) => "ejected",
            (true, true) => "usable",
        },
        leader: node.peer.is_some() && node.peer == snapshot.consensus_leader(),
        in_flight: balance.in_flight(node.address),
        flow: flow(node),
        problem: problems.get(&node.address).cloned(),
    };
    let mut rows: Vec<NodeRow> = snapshot.nodes().iter().map(row).collect();
    rows.sort_by(|a, b| natural(&a.name).cmp(&natural(&b.name)));
    rows
}

/// Sorts `q-10` behind `q-9`.
fn natural(name: &str) -> (&str, u64, &str) {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    (stem, name[stem.len()..].parse().unwrap_or(0), name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_sort_by_their_ordinal() {
        let mut names = ["q-10", "q-9", "p-11", "q", "127.0.0.11", "q-99999999999999999999999"];
        names.sort_by(|a, b| natural(a).cmp(&natural(b)));
        assert_eq!(names, ["127.0.0.11", "p-11", "q", "q-99999999999999999999999", "q-9", "q-10"]);
    }
}
