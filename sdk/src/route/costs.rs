//! What coordinating a request costs on each node, in internal RPCs.

use smallvec::SmallVec;

use super::shards::Touched;
use crate::{
    request::{Action, Intent},
    topology::{Collection, PeerId, Replica, Topology, WriteOrdering, leader},
};

/// What coordinating a request costs: internal RPCs on a node that holds nothing of the shards, and
/// what each holder saves of them.
pub(super) struct Costs {
    pub(super) without_replica: u32,
    /// Whether every shard has two readable replicas.
    pub(super) is_replicated: bool,
    savings: SmallVec<[(PeerId, u32); 8]>,
}

/// Internal RPCs that a node avoids, beside one drawn at random. The best avoids some or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avoided {
    /// Added up over the nodes.
    rpcs: u64,
    nodes: u32,
}

// === impl Costs ===

impl Costs {
    pub(super) fn of(touched: &Touched, collection: &Collection, intent: &Intent) -> Self {
        let mut costs = Self { without_replica: 0, is_replicated: true, savings: SmallVec::new() };
        let shards = touched.rounds.iter().flatten().filter_map(|&id| collection.shard(id));
        for replicas in shards.map(|shard| &shard.replicas) {
            let readable = || replicas.iter().filter(|replica| replica.state.is_readable());
            costs.is_replicated &= readable().nth(1).is_some();
            match (intent.action, intent.affinity) {
                (Action::Read, Some(affinity)) => {
                    let first = readable().min_by_key(|replica| affinity.rank(replica.peer));
                    costs.add(usize::from(first.is_some()), 0, first.into_iter());
                }
                (Action::Read, None) => {
                    // Without a local replica Qdrant asks two remote ones at once, where there are two.
                    costs.add(readable().count().min(2), 0, readable());
                }
                (Action::Write(WriteOrdering::Weak), _) => {
                    let updatable = || replicas.iter().filter(|replica| replica.state.is_updatable());
                    costs.add(updatable().count(), updatable().count().saturating_sub(1), updatable());
                }
                (Action::Write(ordering), _) => {
                    let updatable = replicas.iter().filter(|replica| replica.state.is_updatable()).count();
                    let leader = leader(replicas, ordering);
                    let leads = replicas.iter().filter(|replica| Some(replica.peer) == leader);
                    costs.add(updatable, updatable.saturating_sub(1), leads);
                }
            }
        }
        costs
    }

    /// A shard costs `elsewhere` RPCs, but only `here` on one of `holders`.
    fn add<'r>(&mut self, elsewhere: usize, here: usize, holders: impl Iterator<Item = &'r Replica>) {
        let count = |rpcs: usize| u32::try_from(rpcs).unwrap_or(u32::MAX);
        self.without_replica += count(elsewhere);
        let saved = count(elsewhere) - count(here);
        for holder in holders {
            match self.savings.iter_mut().find(|(peer, _)| *peer == holder.peer) {
                Some((_, sum)) => *sum += saved,
                None => self.savings.push((holder.peer, saved)),
            }
        }
    }

    /// What a node that saves `most` avoids, beside one drawn at random of all.
    pub(super) fn avoided(&self, most: u32, topology: &Topology) -> Avoided {
        let nodes = u32::try_from(topology.nodes().len()).unwrap_or(u32::MAX).max(1);
        let all: u64 = self.savings.iter().map(|&(_, saved)| u64::from(saved)).sum();
        Avoided { rpcs: (u64::from(most) * u64::from(nodes)).saturating_sub(all), nodes }
    }

    /// The peers that hold some of it.
    pub(super) fn holders(&self) -> impl Iterator<Item = PeerId> {
        self.savings.iter().map(|&(peer, _)| peer)
    }

    pub(super) fn saved(&self, peer: PeerId) -> Option<u32> {
        self.savings.iter().find(|(holder, _)| *holder == peer).map(|&(_, saved)| saved)
    }
}

// === impl Avoided ===

impl Avoided {
    /// Nobody saves anything.
    pub(super) const NOTHING: Self = Self { rpcs: 0, nodes: 1 };

    /// For each request.
    pub(super) fn rpcs(self) -> f64 {
        self.rpcs as f64 / f64::from(self.nodes)
    }
}
