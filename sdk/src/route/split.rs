//! Whether a write is worth dealing out to several nodes, and to whom each of its shards goes.
//!
//! A coordinator pays one internal RPC for each further replica of each shard, and one more for a
//! shard that it does not hold. Dealing the write out saves the latter and costs a request per part.
//! So it is dealt out only where the parts with all their RPCs are fewer than the one request with its
//! own, and then among as few nodes as together hold (or lead) every shard touched. Dealing out point
//! by point, to *some* holder each, would multiply the RPCs instead.

use smallvec::SmallVec;

use super::{
    costs::Costs,
    plan::{Conditions, rendezvous},
    shards::{Shards, sort},
};
use crate::{
    request::{Action, Intent, Keys, Points, Scope},
    topology::{Collection, KeyGroup, Node, PeerId, PointId, ShardId, Topology, WriteOrdering, leader},
};

/// More holders than this are covered greedily rather than optimally.
const EXACT_COVER: usize = 12;

/// How a write is dealt out: at least two parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    /// The shards of each part, one part for each node.
    pub(crate) parts: Vec<Vec<ShardId>>,
    /// For each point that the write lists, the part that gets it.
    pub(crate) part_of: Vec<usize>,
}

/// The nodes that may take a part of a write at this moment.
pub(crate) fn takers(topology: &Topology, conditions: &impl Conditions) -> SmallVec<[PeerId; 8]> {
    topology.nodes().iter().filter(|node| conditions.may_take(node)).filter_map(|node| node.peer).collect()
}

// === impl Split ===

impl Split {
    /// How many points there are to deal out, whatever the placement: none, or at least two.
    pub(crate) fn points(intent: &Intent) -> usize {
        listed(intent).map_or(0, |(.., ids)| ids.len())
    }

    /// Deals out `intent` to [`takers`] where that needs fewer requests in all; `None` where it goes whole.
    ///
    /// What selects by filter, names several shard keys, or meets a resharding (whose hidden stage
    /// decides where points belong) is never dealt out.
    pub(crate) fn of(
        intent: &Intent,
        collection: &Collection,
        topology: &Topology,
        takers: &[PeerId],
    ) -> Option<Self> {
        let (ordering, scope, ids) = listed(intent)?;
        // A request that is too large for strict mode must not slip through in parts.
        let is_too_large = collection.max_points_per_write.is_some_and(|limit| ids.len() > limit);
        if is_too_large || collection.resharding.is_some() {
            return None;
        }
        let group = group(collection, &scope.keys)?;
        // Nothing is resharded, so each point has one owner.
        let owner = |id| group.owners(topology.hashing(), id).next();
        let owners: Vec<ShardId> = ids.iter().map(owner).collect::<Option<_>>()?;
        let mut shards = Shards::from_slice(&owners);
        sort(&mut shards);
        if shards.len() < 2 {
            return None;
        }
        let costs = Costs::of(&shards, collection, intent);
        let usable: SmallVec<[&Node; 8]> = takers.iter().filter_map(|&peer| topology.node(peer)).collect();
        let whole = costs.without_replica - usable.iter().filter_map(|node| costs.saved(node.peer?)).max()?;

        let holders = Holders::of(&shards, collection, ordering, &usable)?;
        let cover = holders.smallest_cover()?;
        // Every shard is on a holder of its own part, so each saves what a holder can save.
        let dealt = holders.rpcs + u32::try_from(cover.len()).ok()?;
        if dealt > whole || cover.len() < 2 {
            return None;
        }
        let parts = Some(holders.deal(&cover)).filter(|parts| parts.len() > 1)?;
        let part_of = |shard| parts.iter().position(|part| part.contains(shard));
        let part_of = owners.iter().map(part_of).collect::<Option<_>>()?;
        Some(Self { parts, part_of })
    }
}

/// The ordering of a write, its one scope, and the points that it lists there, where those are several.
fn listed(intent: &Intent) -> Option<(WriteOrdering, &Scope, &[PointId])> {
    match (intent.action, &intent.scopes[..]) {
        (Action::Write(ordering), [scope @ Scope { points: Points::Ids(ids), .. }]) if ids.len() > 1 => {
            Some((ordering, scope, ids))
        }
        _ => None,
    }
}

/// The one group of shards that `keys` select.
fn group<'a>(collection: &'a Collection, keys: &Keys) -> Option<&'a KeyGroup> {
    match keys {
        Keys::Unspecified => collection.group(None),
        Keys::Any(keys) => match &keys[..] {
            [key] => collection.group(Some(key)),
            _ => None,
        },
        Keys::WithFallback { .. } => None,
    }
}

/// For each shard touched, the nodes that may take it.
struct Holders<'a> {
    shards: Vec<(ShardId, SmallVec<[&'a Node; 4]>)>,
    /// What all shards cost when each is on a holder.
    rpcs: u32,
}

impl<'a> Holders<'a> {
    /// `None` where a shard has no usable holder: then whoever gets the whole forwards it.
    fn of(
        shards: &[ShardId],
        collection: &Collection,
        ordering: WriteOrdering,
        usable: &[&'a Node],
    ) -> Option<Self> {
        let mut holders = Self { shards: Vec::with_capacity(shards.len()), rpcs: 0 };
        for &id in shards {
            let replicas = &collection.shard(id)?.replicas;
            let leader = leader(replicas, ordering);
            let takes = |peer: PeerId| match leader {
                Some(leader) => peer == leader,
                None => replicas.iter().any(|replica| replica.peer == peer && replica.state.is_updatable()),
            };
            let nodes: SmallVec<[&Node; 4]> =
                usable.iter().copied().filter(|node| node.peer.is_some_and(takes)).collect();
            if nodes.is_empty() {
                return None;
            }
            let updatable = replicas.iter().filter(|replica| replica.state.is_updatable()).count();
            holders.rpcs += u32::try_from(updatable).ok()?.saturating_sub(1);
            holders.shards.push((id, nodes));
        }
        Some(holders)
    }

    /// As few nodes as together take every shard.
    fn smallest_cover(&self) -> Option<SmallVec<[PeerId; 8]>> {
        let mut peers: SmallVec<[PeerId; 8]> =
            self.shards.iter().flat_map(|(_, nodes)| nodes.iter().filter_map(|node| node.peer)).collect();
        peers.sort_unstable();
        peers.dedup();
        let covers = |cover: &[PeerId]| {
            self.shards
                .iter()
                .all(|(_, nodes)| nodes.iter().any(|node| node.peer.is_some_and(|p| cover.contains(&p))))
        };
        if peers.len() <= EXACT_COVER {
            let subsets = (1_u32..1 << peers.len()).map(|set| {
                peers.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1).map(|(_, &p)| p).collect()
            });
            let covering = subsets.filter(|cover: &SmallVec<[PeerId; 8]>| covers(cover));
            return covering.min_by_key(SmallVec::len);
        }
        let mut cover: SmallVec<[PeerId; 8]> = SmallVec::new();
        while !covers(&cover) {
            let open = |peer: PeerId| {
                let is_covered = |node: &&Node| node.peer.is_some_and(|p| cover.contains(&p));
                let takes = |node: &&Node| node.peer == Some(peer);
                self.shards
                    .iter()
                    .filter(|(_, nodes)| !nodes.iter().any(is_covered) && nodes.iter().any(takes))
                    .count()
            };
            let best = peers.iter().copied().max_by_key(|&peer| open(peer))?;
            cover.push(best);
        }
        Some(cover)
    }

    /// Gives each shard to one node of the cover; where several take it, every router picks the same.
    fn deal(&self, cover: &[PeerId]) -> Vec<Vec<ShardId>> {
        let mut parts = vec![Vec::new(); cover.len()];
        for (shard, nodes) in &self.shards {
            let in_cover: SmallVec<[&Node; 4]> =
                nodes.iter().copied().filter(|node| node.peer.is_some_and(|p| cover.contains(&p))).collect();
            let chosen = rendezvous(&in_cover, Some(*shard)).and_then(|node| node.peer);
            if let Some(part) = cover.iter().position(|&peer| Some(peer) == chosen) {
                parts[part].push(*shard);
            }
        }
        parts.retain(|part| !part.is_empty());
        parts
    }
}

#[cfg(test)]
mod tests;
