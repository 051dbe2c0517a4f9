//! A decision laid open.

use serde::Serialize;

use super::{
    Conditions, Plan, Reason,
    costs::Costs,
    shards::{Shards, sort, touched},
};
use crate::{
    request::Intent,
    topology::{Collection, PeerId, ShardId, Topology},
};

/// Where a request would go, and why. Nothing has been sent.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// `rest` or `grpc`.
    pub protocol: &'static str,
    /// What the operation works on.
    pub class: &'static str,
    /// The collection, as the request names it.
    pub collection: Option<String>,
    /// The collection that this name means, where it is an alias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved: Option<String>,
    /// The age of the view, `{term}/{commit}`.
    pub epoch: Option<String>,
    /// The shards that the request touches, where they can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards: Option<Vec<ShardId>>,
    /// Why it would go where it would go; `None` where there is nobody to send it to.
    pub reason: Option<Reason>,
    /// The requests that the router would send: one, or the parts of a split.
    pub parts: Vec<Part>,
    /// The internal RPCs that Qdrant would need for all of them, where that can be told.
    pub internal_rpcs: Option<u32>,
    /// Every node that the request could go to whole, and what that would cost; cheapest first.
    pub candidates: Vec<Candidate>,
    /// Whether the request is sent where this says; not where [`Routing`](super::Routing) leaves it unrouted.
    pub followed: bool,
}

/// A request that the router would send.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Part {
    /// The node: its pod name where known, else its address.
    pub node: String,
    /// Its peer id, where known.
    pub peer_id: Option<PeerId>,
    /// The points in it, for the parts of a split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub points: Option<usize>,
    /// The internal RPCs that Qdrant would need for it, where that can be told.
    pub internal_rpcs: Option<u32>,
}

/// A node that a request could go to.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Candidate {
    /// The node: its pod name where known, else its address.
    pub node: String,
    /// Its peer id.
    pub peer_id: PeerId,
    /// The internal RPCs that Qdrant would need if this node coordinated the whole request.
    pub internal_rpcs: u32,
    /// Whether requests are sent there now.
    pub usable: bool,
}

// === impl Explanation ===

impl Explanation {
    /// The internal RPCs that Qdrant would need if `peer` coordinated the whole request; where the peer is not
    /// known, the mean over the nodes that could be used. `None` where that cannot be told.
    #[must_use]
    pub fn rpcs_at(&self, peer: Option<PeerId>) -> Option<f64> {
        let rpcs = |candidate: &Candidate| f64::from(candidate.internal_rpcs);
        if let Some(peer) = peer {
            return self.candidates.iter().find(|candidate| candidate.peer_id == peer).map(rpcs);
        }
        let usable = || self.candidates.iter().filter(|candidate| candidate.usable);
        let count = u32::try_from(usable().count()).ok().filter(|&count| count > 0)?;
        Some(usable().map(rpcs).sum::<f64>() / f64::from(count))
    }

    /// The nodes it would go to, with commas between.
    pub(crate) fn nodes(&self) -> String {
        self.parts.iter().map(|part| &*part.node).collect::<Vec<_>>().join(",")
    }

    /// Takes over where the requests would go.
    pub(crate) fn go(&mut self, reason: Reason, plans: &[(Plan, Option<usize>)], topology: &Topology) {
        self.reason = Some(reason);
        self.parts = plans.iter().map(|(plan, points)| Part::of(plan, *points, topology)).collect();
        self.internal_rpcs = plans.iter().map(|(plan, _)| plan.expected_rpcs).sum();
    }
}

// === impl Part ===

impl Part {
    fn of(plan: &Plan, points: Option<usize>, topology: &Topology) -> Self {
        let node = plan.peer.and_then(|peer| topology.node(peer));
        Self {
            node: node.map_or_else(|| plan.address.ip.to_string(), crate::topology::Node::label),
            peer_id: plan.peer,
            points,
            internal_rpcs: plan.expected_rpcs,
        }
    }
}

/// The shards that `intent` touches, and every node with what coordinating it would cost there.
pub(crate) fn candidates(
    intent: &Intent,
    collection: &Collection,
    topology: &Topology,
    conditions: &impl Conditions,
) -> Option<(Shards, Vec<Candidate>)> {
    let mut touched = touched(intent, collection, topology.hashing()).ok()?;
    let costs = Costs::of(&touched, collection, intent);
    let candidate = |node: &crate::topology::Node| {
        let peer_id = node.peer?;
        Some(Candidate {
            node: node.label(),
            peer_id,
            internal_rpcs: costs.without_replica.saturating_sub(costs.saved(peer_id).unwrap_or(0)),
            usable: node.reachable && conditions.is_usable(node.address),
        })
    };
    let mut candidates: Vec<Candidate> = topology.nodes().iter().filter_map(candidate).collect();
    candidates.sort_by_key(|candidate| (candidate.internal_rpcs, candidate.peer_id));
    sort(&mut touched);
    Some((touched, candidates))
}
