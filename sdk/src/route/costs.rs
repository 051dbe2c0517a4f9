//! What coordinating a request costs on each node, in internal RPCs.

use smallvec::SmallVec;

use crate::{
    request::{Action, Affinity, Intent},
    topology::{
        Collection, PeerId, Readable, Readers, Replica, ReplicaState, ShardId, Topology, WriteOrdering,
        leader,
    },
};

/// Without a local replica Qdrant reads two remote ones at once, where there are two.
const READ_TWICE: u32 = 2;

/// What coordinating a request costs: internal RPCs on a node that holds nothing of the shards, and
/// what each holder saves of them.
pub(super) struct Costs {
    pub(super) without_replica: u32,
    /// Whether every shard that is read has two readable replicas.
    pub(super) is_replicated: bool,
    /// By ascending peer.
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
    /// `touched` has each shard as often as there are rounds of RPCs to it.
    pub(super) fn of(touched: &[ShardId], collection: &Collection, intent: &Intent) -> Self {
        let mut costs = Self { without_replica: 0, is_replicated: true, savings: SmallVec::new() };
        for &id in touched {
            let Some(shard) = collection.shard(id) else { continue };
            let replicas = &shard.replicas[..];
            match intent.action {
                Action::Read => {
                    let readable = count(replicas, ReplicaState::is_readable);
                    costs.is_replicated &= readable > 1;
                    costs.add_read(replicas, readable, intent.affinity);
                }
                Action::Write(ordering) => costs.add_write(replicas, ordering),
            }
        }
        costs
    }

    fn add_read(&mut self, replicas: &[Replica], readable: u32, affinity: Option<Affinity>) {
        match affinity {
            None => self.add(readable.min(READ_TWICE), 0, replicas, |replica| replica.state.is_readable()),
            Some(affinity) => {
                let readable = replicas.iter().filter(|replica| replica.state.is_readable());
                let first = readable.map(|replica| replica.peer).min_by_key(|&peer| affinity.rank(peer));
                self.add(u32::from(first.is_some()), 0, replicas, |replica| Some(replica.peer) == first);
            }
        }
    }

    fn add_write(&mut self, replicas: &[Replica], ordering: WriteOrdering) {
        let updatable = count(replicas, ReplicaState::is_updatable);
        let here = updatable.saturating_sub(1);
        match ordering {
            WriteOrdering::Weak => {
                self.add(updatable, here, replicas, |replica| replica.state.is_updatable());
            }
            WriteOrdering::Medium | WriteOrdering::Strong => {
                let leader = leader(replicas, ordering);
                self.add(updatable, here, replicas, |replica| Some(replica.peer) == leader);
            }
        }
    }

    /// What reading all shards costs, without a look at each.
    pub(super) fn of_reading_all(readers: &Readers) -> Self {
        let saved = |Readable { alone, shared }: Readable| alone + READ_TWICE * shared;
        Self {
            without_replica: saved(readers.all),
            is_replicated: readers.is_replicated,
            savings: readers.by_peer.iter().map(|&(peer, readable)| (peer, saved(readable))).collect(),
        }
    }

    /// A shard costs `elsewhere` RPCs, but only `here` where one of its replicas lies that `saves` them.
    fn add(&mut self, elsewhere: u32, here: u32, replicas: &[Replica], saves: impl Fn(&Replica) -> bool) {
        self.without_replica += elsewhere;
        for replica in replicas.iter().filter(|replica| saves(replica)) {
            match self.find(replica.peer) {
                Ok(at) => self.savings[at].1 += elsewhere - here,
                Err(at) => self.savings.insert(at, (replica.peer, elsewhere - here)),
            }
        }
    }

    /// What a node that saves `most` avoids, beside one drawn at random of all.
    pub(super) fn avoided(&self, most: u32, topology: &Topology) -> Avoided {
        let nodes = u32::try_from(topology.nodes().len()).unwrap_or(u32::MAX).max(1);
        let all: u64 = self.savings.iter().map(|&(_, saved)| u64::from(saved)).sum();
        Avoided { rpcs: (u64::from(most) * u64::from(nodes)).saturating_sub(all), nodes }
    }

    /// The peers that hold some of it, and what each saves.
    pub(super) fn holders(&self) -> impl Iterator<Item = (PeerId, u32)> {
        self.savings.iter().copied()
    }

    pub(super) fn saved(&self, peer: PeerId) -> Option<u32> {
        self.find(peer).ok().map(|at| self.savings[at].1)
    }

    fn find(&self, peer: PeerId) -> Result<usize, usize> {
        self.savings.binary_search_by_key(&peer, |&(holder, _)| holder)
    }
}

fn count(replicas: &[Replica], is: impl Fn(ReplicaState) -> bool) -> u32 {
    replicas.iter().map(|replica| u32::from(is(replica.state))).sum()
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

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;
    use crate::{
        dice::Dice,
        request::Scope,
        route::shards::touched,
        topology::{Epoch, Hashing, Shard},
    };

    const STATES: [ReplicaState; 4] =
        [ReplicaState::Active, ReplicaState::ActiveRead, ReplicaState::Partial, ReplicaState::Dead];

    #[test]
    fn reading_all_costs_what_its_shards_cost_one_by_one() {
        let dice = Dice::seeded(5);
        let below = |limit: u64| dice.throw() % limit;
        let everything =
            Intent { action: Action::Read, scopes: smallvec![Scope::EVERYTHING], affinity: None };
        for _ in 0..500 {
            let shards = (0..1 + below(12) as u32).map(|id| {
                let first = below(6);
                let replicas = (0..below(4)).map(|n| {
                    let state = STATES[below(4) as usize];
                    Replica { peer: (first + n) % 6, state }
                });
                Shard { id: 3 * id, key: None, replicas: replicas.collect() }
            });
            let collection = Collection::new(Epoch { term: 1, commit: 1 }, shards.collect(), None, 0);
            let touched = touched(&everything, &collection, Hashing::default()).expect("no keys");
            let [one_by_one, at_once] =
                [Costs::of(&touched, &collection, &everything), Costs::of_reading_all(collection.readers())]
                    .map(|costs| (costs.without_replica, costs.is_replicated, costs.savings));
            assert_eq!(one_by_one, at_once, "{:?}", collection.shards());
        }
    }
}
