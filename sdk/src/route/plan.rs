//! Choosing among the nodes.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    Reason,
    costs::{Avoided, Costs},
    shards::{Shards, Untold, touched},
};
use crate::{
    dice::mix,
    request::{Action, Class, Intent},
    topology::{Address, Collection, Node, PeerId, Replica, ShardId, Topology, WriteOrdering},
};

/// What is to be placed.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// An operation on points whose collection and intent are known.
    Points(&'a Collection, &'a Intent),
    /// An operation on points that could not be looked into, and why.
    Opaque(Reason),
    /// A node-local request, and the node that it means.
    Local(&'a Local),
    /// Everything else, by its class.
    Class(Class),
    /// Whatever it is, it is not routed.
    Unrouted,
}

/// Which node a node-local request means.
#[derive(Clone, Debug)]
pub enum Local {
    /// This one and no other, and why.
    Node(Address, Reason),
    /// One that holds this shard of the collection, the same each time.
    Holder(Arc<Collection>, ShardId),
    /// The one that such requests go to, the same each time; another for another collection.
    Home(Option<String>),
}

/// Whether a node takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fitness {
    /// Requests may be sent there.
    Fit,
    /// It can be reached, and should be spared.
    Spared,
    /// It cannot be reached.
    Out,
}

/// What is known of the nodes at this moment.
pub trait Conditions {
    /// Whether it takes requests.
    fn fitness(&self, address: Address) -> Fitness;

    /// Whether requests may be sent there.
    fn is_usable(&self, address: Address) -> bool {
        self.fitness(address) == Fitness::Fit
    }

    /// How loaded it is; lower is better.
    fn load(&self, address: Address) -> u64;

    /// Whether it has applied the changes of metadata that this request could notice.
    fn is_current(&self, _: Address) -> bool {
        true
    }

    /// Whether `node` can be reached, may be used, and is current.
    fn may_take(&self, node: &Node) -> bool {
        node.reachable && self.is_usable(node.address) && self.is_current(node.address)
    }
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The address to send it to.
    pub address: Address,
    /// The peer there, where known.
    pub peer: Option<PeerId>,
    /// Why.
    pub reason: Reason,
    /// The internal RPCs that Qdrant is expected to need, where that can be told: for operations on
    /// points of a known collection.
    pub expected_rpcs: Option<u32>,
    /// What of them the choice of the node avoids, where that can be told.
    pub(crate) avoided: Option<Avoided>,
    /// Whether another node could answer as well: a read of shards that each have two readable replicas.
    pub(crate) can_hedge: bool,
    /// Whether its node should be spared, and is chosen because no other has a replica.
    pub(crate) is_spared: bool,
}

/// Places `target`. `dice` is one random number; the same inputs always give the same plan.
///
/// Nodes in `tried` are left out. `None` when nothing is left to try.
#[must_use]
pub fn plan(
    target: Target<'_>,
    topology: &Topology,
    conditions: &impl Conditions,
    tried: &[Address],
    dice: u64,
) -> Option<Plan> {
    if let Target::Local(&Local::Node(address, reason)) = target {
        return the_one(address, reason, topology, tried);
    }
    if let Target::Points(collection, intent) = target
        && let Some(plan) = among_holders(collection, intent, topology, conditions, tried, dice)
    {
        return Some(plan);
    }
    if let Target::Unrouted = target
        && let Some(plan) =
            service(topology, |address| conditions.is_usable(address), conditions, tried, dice)
    {
        return Some(Plan { reason: Reason::NotRouted, ..plan });
    }
    let Some(mut field) = Field::of(topology, conditions, tried, dice) else {
        return last_resort(topology, conditions, tried, dice);
    };
    if !matches!(target, Target::Local(_)) {
        field.prefer_current();
    }
    let plan = match target {
        Target::Points(collection, intent) => field.for_points(collection, intent),
        Target::Opaque(reason) => field.any(reason),
        Target::Local(Local::Holder(collection, shard)) => field.holder(collection, *shard),
        Target::Local(Local::Home(collection)) => {
            field.stable(collection.as_deref().map_or("", |name| topology.resolve(name)))
        }
        Target::Local(Local::Node(..)) => field.any(Reason::AnyNode),
        Target::Class(Class::Consensus) => {
            match topology.consensus_leader().and_then(|peer| field.node(peer)) {
                Some(leader) => Plan::to(leader, Reason::ConsensusLeader, None),
                None => field.any(Reason::AnyNode),
            }
        }
        Target::Class(Class::Unknown) => field.any(Reason::UnknownOperation),
        Target::Class(_) => field.any(Reason::AnyNode),
        Target::Unrouted => field.any(Reason::NotRouted),
    };
    Some(plan)
}

/// Where an operation on points goes, if a node that holds some of it takes requests. Those are few, however many
/// nodes there are.
fn among_holders(
    collection: &Collection,
    intent: &Intent,
    topology: &Topology,
    conditions: &impl Conditions,
    tried: &[Address],
    dice: u64,
) -> Option<Plan> {
    let (touched, costs);
    if intent.reads_all() && collection.resharding.is_none() {
        touched = Shards::new();
        costs = Costs::of_reading_all(collection.readers());
    } else {
        touched = self::touched(intent, collection, topology.hashing()).ok()?;
        costs = Costs::of(&touched, collection, intent);
    }
    let mut best = Best::default();
    for (peer, saved) in costs.holders() {
        if let Some(node) = topology.node(peer)
            && !tried.contains(&node.address)
            && conditions.may_take(node)
        {
            best.add(node, saved);
        }
    }
    let choice = Choice { intent, costs: &costs, touched: &touched, topology, conditions, dice };
    choice.of(&best)
}

/// Those nodes that save the most internal RPCs, of all that are added.
#[derive(Default)]
struct Best<'n> {
    alike: SmallVec<[&'n Node; 8]>,
    saved: u32,
}

impl<'n> Best<'n> {
    fn add(&mut self, node: &'n Node, saved: u32) {
        if saved > self.saved {
            self.alike.clear();
            self.saved = saved;
        }
        if saved == self.saved {
            self.alike.push(node);
        }
    }
}

/// What is chosen by, among nodes that hold some of what an operation on points touches.
struct Choice<'a, C> {
    intent: &'a Intent,
    costs: &'a Costs,
    /// The shards that a write touches.
    touched: &'a [ShardId],
    topology: &'a Topology,
    conditions: &'a C,
    dice: u64,
}

impl<C: Conditions> Choice<'_, C> {
    /// The node where the fewest internal RPCs are needed.
    fn of(&self, Best { alike, saved: most }: &Best<'_>) -> Option<Plan> {
        let expected_rpcs = self.costs.without_replica.saturating_sub(*most);
        let lightest = || lighter(alike, self.conditions, self.dice);
        let agreed = || rendezvous(alike, self.touched.iter().min().copied());
        let (node, reason) = match self.intent.action {
            Action::Read if self.intent.affinity.is_some() => (lightest(), Reason::RouteAffinity),
            Action::Read if expected_rpcs == 0 => (lightest(), Reason::ReadableReplica),
            Action::Read => (lightest(), Reason::MostReplicas),
            Action::Write(WriteOrdering::Weak) => (agreed(), Reason::ReplicaHolder),
            Action::Write(WriteOrdering::Medium | WriteOrdering::Strong) => (agreed(), Reason::ShardLeader),
        };
        Some(Plan {
            avoided: Some(self.costs.avoided(*most, self.topology)),
            can_hedge: self.intent.action == Action::Read && self.costs.is_replicated,
            ..Plan::to(node?, reason, Some(expected_rpcs))
        })
    }
}

/// The nodes to choose from, of which there is at least one.
struct Field<'a, C> {
    topology: &'a Topology,
    conditions: &'a C,
    first: &'a Node,
    nodes: SmallVec<[&'a Node; 8]>,
    /// Nodes that should be spared: better than none, where no other has a replica.
    spared: SmallVec<[&'a Node; 4]>,
    dice: u64,
}

impl<'a, C: Conditions> Field<'a, C> {
    /// The identified nodes that may be used; where none may, the fallback decides; without a
    /// fallback, those that should not be used are better than nothing.
    fn of(topology: &'a Topology, conditions: &'a C, tried: &[Address], dice: u64) -> Option<Self> {
        let left =
            || topology.nodes().iter().filter(|node| node.peer.is_some() && !tried.contains(&node.address));
        let (mut nodes, mut spared) = (SmallVec::new(), SmallVec::new());
        for node in left().filter(|node| node.reachable) {
            match conditions.fitness(node.address) {
                Fitness::Fit => nodes.push(node),
                Fitness::Spared => spared.push(node),
                Fitness::Out => {}
            }
        }
        if nodes.is_empty() && topology.fallback().iter().all(|address| tried.contains(address)) {
            nodes = left().collect();
        }
        nodes.first().copied().map(|first| Self { topology, conditions, first, nodes, spared, dice })
    }

    /// Leaves out the nodes that have not applied what this client has just changed, if others have.
    fn prefer_current(&mut self) {
        let is_current = |node: &&Node| self.conditions.is_current(node.address);
        if let Some(first) = self.nodes.iter().copied().find(is_current) {
            self.first = first;
            self.nodes.retain(|node| self.conditions.is_current(node.address));
        }
    }

    fn node(&self, peer: PeerId) -> Option<&'a Node> {
        self.nodes.iter().copied().find(|node| node.peer == Some(peer))
    }

    /// The better of two random nodes.
    fn any(&self, reason: Reason) -> Plan {
        Plan::to(lighter(&self.nodes, self.conditions, self.dice).unwrap_or(self.first), reason, None)
    }

    /// The same node each time, as long as it can be used; others for other collections.
    fn stable(&self, collection: &str) -> Plan {
        let seed = collection.bytes().fold(0, |seed, byte| mix(seed ^ u64::from(byte)));
        let home = self.nodes.iter().copied().max_by_key(|node| mix(seed ^ node.peer.unwrap_or_default()));
        Plan::to(home.unwrap_or(self.first), Reason::StableNode, None)
    }

    /// A node with a replica of `shard`, readable where there is one: the same each time, because what
    /// one call leaves there the next one asks for.
    fn holder(&self, collection: &Collection, shard: ShardId) -> Plan {
        let replicas = collection.shard(shard).map(|shard| &shard.replicas[..]).unwrap_or_default();
        let holders = |is_wanted: &dyn Fn(&Replica) -> bool| -> SmallVec<[&Node; 8]> {
            let is_holder = |node: &&Node| replicas.iter().any(|r| Some(r.peer) == node.peer && is_wanted(r));
            self.nodes.iter().copied().filter(is_holder).collect()
        };
        let readable = holders(&|replica| replica.state.is_readable());
        match rendezvous(&readable, Some(shard)).or_else(|| rendezvous(&holders(&|_| true), Some(shard))) {
            Some(node) => Plan::to(node, Reason::ShardHolder, None),
            None => self.any(Reason::NoReplica),
        }
    }

    /// With no holder that takes requests.
    fn for_points(&self, collection: &Collection, intent: &Intent) -> Plan {
        let touched = match touched(intent, collection, self.topology.hashing()) {
            Ok(touched) => touched,
            Err(Untold::UnknownKey) => return self.any(Reason::UnknownShardKey),
            Err(Untold::TooMany) => return self.any(Reason::NotUnderstood),
        };
        let costs = Costs::of(&touched, collection, intent);
        let &Self { topology, conditions, dice, .. } = self;
        let choice = Choice { intent, costs: &costs, touched: &touched, topology, conditions, dice };
        let among = |nodes: &[&'a Node]| {
            let mut best = Best::default();
            for node in nodes {
                if let Some(saved) = node.peer.and_then(|peer| costs.saved(peer)) {
                    best.add(node, saved);
                }
            }
            choice.of(&best)
        };
        // The last replica is never given up, however poorly its node does.
        let spared = || among(&self.spared).map(|plan| Plan { is_spared: true, ..plan });
        among(&self.nodes).or_else(spared).unwrap_or_else(|| Plan {
            expected_rpcs: Some(costs.without_replica),
            avoided: Some(Avoided::NOTHING),
            ..self.any(Reason::NoReplica)
        })
    }
}

/// Of two nodes drawn at random, the one with less load.
fn lighter<'n>(nodes: &[&'n Node], conditions: &impl Conditions, dice: u64) -> Option<&'n Node> {
    two_choices(nodes.len(), dice, |at| conditions.load(nodes[at].address)).map(|at| nodes[at])
}

/// The one node that can answer. It is asked a second time where the first connection broke, which
/// an idle one may do at any moment.
fn the_one(address: Address, reason: Reason, topology: &Topology, tried: &[Address]) -> Option<Plan> {
    let peer = topology.nodes().iter().find(|node| node.address == address).and_then(|node| node.peer);
    let again = tried.iter().filter(|&&tried| tried == address).count() < 2;
    again.then_some(Plan::at(address, peer, reason))
}

/// The ClusterIP Service, at one of its addresses that `is_wanted`.
fn service(
    topology: &Topology,
    is_wanted: impl Fn(Address) -> bool,
    conditions: &impl Conditions,
    tried: &[Address],
    dice: u64,
) -> Option<Plan> {
    let left = topology.fallback().iter().copied().filter(|&at| !tried.contains(&at) && is_wanted(at));
    let left: SmallVec<[Address; 2]> = left.collect();
    let at = two_choices(left.len(), dice, |at| conditions.load(left[at]))?;
    Some(Plan::at(left[at], None, Reason::Fallback))
}

/// With no identified node left: the ClusterIP Service, then whatever answers.
fn last_resort(
    topology: &Topology,
    conditions: &impl Conditions,
    tried: &[Address],
    dice: u64,
) -> Option<Plan> {
    if let Some(plan) = service(topology, |_| true, conditions, tried, dice) {
        return Some(plan);
    }
    let anonymous: SmallVec<[&Node; 8]> = topology
        .nodes()
        .iter()
        .filter(|node| node.peer.is_none() && !tried.contains(&node.address))
        .collect();
    let load = |at: usize| {
        let address = anonymous[at].address;
        (!conditions.is_usable(address), conditions.load(address))
    };
    let at = two_choices(anonymous.len(), dice, load)?;
    Some(Plan::at(anonymous[at].address, None, Reason::UnidentifiedNode))
}

/// Draws two of `count` and returns the one of lower load.
fn two_choices<L: Ord>(count: usize, dice: u64, load: impl Fn(usize) -> L) -> Option<usize> {
    match count {
        0 => None,
        1 => Some(0),
        _ => {
            let first = (dice as u32) as usize % count;
            let second = (first + 1 + (dice >> 32) as usize % (count - 1)) % count;
            Some(if load(second) < load(first) { second } else { first })
        }
    }
}

/// The node whose hash with the shard is highest. Every router picks the same one without talking to
/// any other, so that one shard's writes keep their order, and the shards spread over the nodes.
pub(super) fn rendezvous<'n>(nodes: &[&'n Node], shard: Option<ShardId>) -> Option<&'n Node> {
    if let [node] = nodes {
        return Some(node);
    }
    let shard = u64::from(shard.unwrap_or_default());
    nodes.iter().copied().max_by_key(|node| mix(mix(shard) ^ node.peer.unwrap_or_default()))
}

// === impl Plan ===

impl Plan {
    /// The internal RPCs that Qdrant would have needed on average over the nodes, as behind a Service
    /// that picks one at random, less those that it is expected to need; never negative, and a fraction more often
    /// than not. `None` where [`expected_rpcs`](Self::expected_rpcs) is.
    #[must_use]
    pub fn avoided_rpcs(&self) -> Option<f64> {
        self.avoided.map(Avoided::rpcs)
    }

    /// At `address`, at a cost that nobody can tell.
    pub(crate) fn at(address: Address, peer: Option<PeerId>, reason: Reason) -> Self {
        Self { address, peer, reason, expected_rpcs: None, avoided: None, can_hedge: false, is_spared: false }
    }

    fn to(node: &Node, reason: Reason, expected_rpcs: Option<u32>) -> Self {
        Self { expected_rpcs, ..Self::at(node.address, node.peer, reason) }
    }
}

#[cfg(test)]
mod tests;
