use smallvec::smallvec;

use super::*;
use crate::route::Fitness;
use crate::{
    request::Scope,
    topology::{Address, Epoch, HashRing, Replica, ReplicaState, Resharding, ReshardingDirection, Shard},
};

struct Calm(Vec<PeerId>);

impl Conditions for Calm {
    fn fitness(&self, at: Address) -> Fitness {
        if self.0.iter().any(|&down| address(down) == at) { Fitness::Out } else { Fitness::Fit }
    }

    fn load(&self, _: Address) -> u64 {
        0
    }
}

fn address(peer: PeerId) -> Address {
    Address { ip: [10, 0, 0, peer as u8].into(), rest_port: 6333, grpc_port: 6334 }
}

/// Six shards on three nodes, `factor` copies of each, round robin.
fn collection(factor: u64, resharding: Option<Resharding>) -> Collection {
    let shard = |id: ShardId| Shard {
        id,
        key: None,
        replicas: (0..factor)
            .map(|k| Replica { peer: (u64::from(id) + k) % 3 + 1, state: ReplicaState::Active })
            .collect(),
    };
    Collection::new(Epoch::default(), (0..6).map(shard).collect(), resharding, 0)
}

fn write(ordering: WriteOrdering, ids: impl IntoIterator<Item = u64>) -> Intent {
    let points = Points::Ids(ids.into_iter().map(PointId::Num).collect());
    Intent {
        action: Action::Write(ordering),
        scopes: smallvec![Scope { points, ..Scope::EVERYTHING }],
        affinity: None,
    }
}

fn split(intent: &Intent, collection: &Collection, down: &[PeerId]) -> Option<Vec<Vec<ShardId>>> {
    let topology = Topology::of_nodes((1..=3).map(|peer| (peer, address(peer))));
    let takers = takers(&topology, &Calm(down.to_vec()));
    Split::of(intent, collection, &topology, &takers).map(|split| split.parts)
}

#[test]
fn one_copy_is_dealt_out_to_its_nodes() {
    let parts = split(&write(WriteOrdering::Weak, 0..100), &collection(1, None), &[]);
    assert_eq!(parts, Some(vec![vec![0, 3], vec![1, 4], vec![2, 5]]));
}

#[test]
fn each_point_goes_where_its_shard_goes() {
    let (ids, collection) = (0..100, collection(2, None));
    let topology = Topology::of_nodes((1..=3).map(|peer| (peer, address(peer))));
    let write = write(WriteOrdering::Weak, ids.clone());
    let takers = takers(&topology, &Calm(vec![]));
    let split = Split::of(&write, &collection, &topology, &takers).expect("a split");
    let ring = HashRing::new(0..6);
    let gets = |id| &split.parts[split.part_of[id as usize]];
    assert_eq!(split.part_of.len(), 100);
    for id in ids {
        let shard = ring.shard(&PointId::Num(id)).expect("a shard");
        assert!(gets(id).contains(&shard), "{id}");
    }
}

#[test]
fn two_copies_need_only_two_of_three_nodes() {
    let parts = split(&write(WriteOrdering::Weak, 0..100), &collection(2, None), &[]).expect("parts");
    assert_eq!(parts.len(), 2);
    let mut all: Vec<ShardId> = parts.concat();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_collection_that_is_everywhere_is_not_dealt_out() {
    assert_eq!(split(&write(WriteOrdering::Weak, 0..100), &collection(3, None), &[]), None);
    // With ordering, the highest peer leads every shard.
    assert_eq!(split(&write(WriteOrdering::Medium, 0..100), &collection(3, None), &[]), None);
}

#[test]
fn ordered_writes_are_dealt_out_to_the_leaders() {
    // The higher of each pair leads: 2 of shards 0 and 3, 3 of all others.
    let mut parts = split(&write(WriteOrdering::Strong, 0..100), &collection(2, None), &[]).expect("parts");
    parts.sort();
    assert_eq!(parts, [vec![0, 3], vec![1, 2, 4, 5]]);
}

#[test]
fn what_saves_nothing_goes_whole() {
    // Ids 0 and 42 belong to the shards 5 and 1: one request and one RPC, or two requests.
    assert_eq!(split(&write(WriteOrdering::Weak, [0, 42]), &collection(1, None), &[]), None);
    assert_eq!(split(&write(WriteOrdering::Weak, [7]), &collection(1, None), &[]), None);
    let whole = Intent {
        action: Action::Write(WriteOrdering::Weak),
        scopes: smallvec![Scope::EVERYTHING],
        affinity: None,
    };
    assert_eq!(split(&whole, &collection(1, None), &[]), None);
    let read = Intent { action: Action::Read, ..write(WriteOrdering::Weak, 0..100) };
    assert_eq!(split(&read, &collection(1, None), &[]), None);
}

#[test]
fn nothing_is_dealt_out_while_shards_move_or_their_holders_are_away() {
    let resharding = Resharding { direction: ReshardingDirection::Up, shard: 5 };
    assert_eq!(split(&write(WriteOrdering::Weak, 0..100), &collection(1, Some(resharding)), &[]), None);
    assert_eq!(split(&write(WriteOrdering::Weak, 0..100), &collection(1, None), &[2]), None);
    // With two copies the other two nodes hold everything.
    let parts = split(&write(WriteOrdering::Weak, 0..100), &collection(2, None), &[2]);
    assert_eq!(parts.map(|parts| parts.len()), Some(2));
}
