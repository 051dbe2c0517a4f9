//! The cluster as it was seen at one moment, in the form that is compared.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use qdrant_router::{
    Router,
    route::{Conditions, Fitness},
    topology::{Address, Collection, Epoch, PeerId, Problem, Topology, Version},
};

/// Nodes that have left and are still remembered.
const MAX_DEPARTED: usize = 1_000;

#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// What it was taken from.
    pub(super) topology: Option<Arc<Topology>>,
    pub(super) epoch: Option<Epoch>,
    pub(super) leader: Option<PeerId>,
    pub(super) nodes: BTreeMap<Identity, SeenNode>,
    /// Nodes that have left: one that moves may be gone for a moment.
    pub(super) departed: BTreeMap<Identity, SeenNode>,
    pub(super) collections: Arc<HashMap<String, Arc<Collection>>>,
}

/// A node is who it says it is; where it does not say, it is its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Identity {
    Peer(PeerId),
    Address(Address),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SeenNode {
    pub(super) label: String,
    pub(super) address: Address,
    pub(super) version: Option<Version>,
    pub(super) condition: Condition,
    /// What it, or the way to it, failed with.
    pub(super) problem: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Usable,
    /// It answers the router's own questions, but requests could not be sent to it.
    Ejected,
    /// It answers requests, and none of them well.
    Spared,
    Unreachable,
}

// === impl View ===

impl View {
    /// The cluster now. What `last` holds of the same topology is taken over.
    pub(super) fn of(router: &Router, last: &Self) -> Self {
        let topology = router.topology().snapshot();
        let problems = router.topology().problems();
        let problems: HashMap<Address, String> = problems
            .iter()
            .filter_map(|problem| match problem {
                Problem::Node(address, error) => Some((*address, error.to_string())),
                _ => None,
            })
            .collect();
        let nodes = topology.nodes().iter().map(|node| {
            let condition = match (node.reachable, router.balance().fitness(node.address)) {
                (false, _) => Condition::Unreachable,
                (true, Fitness::Out) => Condition::Ejected,
                (true, Fitness::Spared) => Condition::Spared,
                (true, Fitness::Fit) => Condition::Usable,
            };
            let seen = SeenNode {
                label: node.label(),
                address: node.address,
                version: node.version,
                condition,
                problem: problems.get(&node.address).cloned(),
            };
            (node.peer.map_or(Identity::Address(node.address), Identity::Peer), seen)
        });
        let is_same = last.topology.as_ref().is_some_and(|last| Arc::ptr_eq(last, &topology));
        let collections = match is_same {
            true => last.collections.clone(),
            false => {
                let known = topology.collections();
                Arc::new(known.map(|(name, collection)| (name.to_owned(), collection.clone())).collect())
            }
        };
        let view = Self {
            epoch: topology.epoch(),
            leader: topology.consensus_leader(),
            nodes: nodes.collect(),
            departed: BTreeMap::new(),
            collections,
            topology: Some(topology),
        };
        view.remembering(last)
    }

    /// Remembers who has left since `last` and before.
    pub(super) fn remembering(mut self, last: &Self) -> Self {
        let gone = last.departed.iter().chain(&last.nodes);
        let gone = gone.filter(|(identity, _)| !self.nodes.contains_key(identity));
        self.departed = gone.map(|(identity, node)| (*identity, node.clone())).collect();
        while self.departed.len() > MAX_DEPARTED {
            self.departed.pop_first();
        }
        self
    }

    /// The name of a peer for people.
    pub(super) fn label(&self, peer: PeerId) -> String {
        self.nodes
            .get(&Identity::Peer(peer))
            .map_or_else(|| format!("peer {peer}"), |node| node.label.clone())
    }
}
