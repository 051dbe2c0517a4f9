use std::collections::{HashMap, HashSet};

use smallvec::smallvec;

use super::*;
use crate::{
    request::{Affinity, Keys, Points, Scope},
    route::{settle, shards::MAX_TOUCHED},
    topology::{Epoch, PointId, ReplicaState, Resharding, ReshardingDirection, Shard, ShardKey},
};

/// Peers 1, 2, 3 at 10.0.0.1, .2, .3.
fn address(peer: PeerId) -> Address {
    Address { ip: [10, 0, 0, peer as u8].into(), rest_port: 6333, grpc_port: 6334 }
}

fn topology() -> Topology {
    Topology::of_nodes((1..=3).map(|peer| (peer, address(peer)))).with_leader(3)
}

#[derive(Default)]
struct Weather {
    down: Vec<PeerId>,
    spared: Vec<PeerId>,
    behind: Vec<PeerId>,
    loads: HashMap<Address, u64>,
}

impl Conditions for Weather {
    fn fitness(&self, at: Address) -> Fitness {
        let is_in = |peers: &[PeerId]| peers.iter().any(|&peer| address(peer) == at);
        match (is_in(&self.down), is_in(&self.spared)) {
            (true, _) => Fitness::Out,
            (false, true) => Fitness::Spared,
            (false, false) => Fitness::Fit,
        }
    }

    fn load(&self, at: Address) -> u64 {
        self.loads.get(&at).copied().unwrap_or(0)
    }

    fn is_current(&self, at: Address) -> bool {
        !self.behind.iter().any(|&peer| address(peer) == at)
    }
}

use ReplicaState::{Active, Dead, Partial};

type Row<'a> = (ShardId, Option<&'a str>, &'a [(PeerId, ReplicaState)]);

fn collection(rows: &[Row<'_>]) -> Collection {
    let shards = rows.iter().map(|&(id, key, replicas)| Shard {
        id,
        key: key.map(|key| Arc::new(ShardKey::Keyword(key.to_owned()))),
        replicas: replicas.iter().map(|&(peer, state)| Replica { peer, state }).collect(),
    });
    Collection::new(Epoch { term: 1, commit: 1 }, shards.collect(), None, 0)
}

/// Six shards, two on each peer: 0 and 3 on peer 1, 1 and 4 on peer 2, 2 and 5 on peer 3.
fn spread() -> Collection {
    collection(&[
        (0, None, &[(1, Active)]),
        (1, None, &[(2, Active)]),
        (2, None, &[(3, Active)]),
        (3, None, &[(1, Active)]),
        (4, None, &[(2, Active)]),
        (5, None, &[(3, Active)]),
    ])
}

fn intent(action: Action, keys: Keys, points: Points) -> Intent {
    Intent { action, scopes: smallvec![Scope { keys, points, is_conditional: false }], affinity: None }
}

fn write(ordering: WriteOrdering, ids: &[u64]) -> Intent {
    let ids = ids.iter().copied().map(PointId::Num).collect();
    intent(Action::Write(ordering), Keys::Unspecified, Points::Ids(ids))
}

fn read() -> Intent {
    intent(Action::Read, Keys::Unspecified, Points::All)
}

/// Peer, reason and expected RPCs for every throw of some dice; they must agree on all but the peer. So must the plans
/// for an intent that names the owners of its points.
fn outcomes(
    collection: &Collection,
    intent: &Intent,
    weather: &Weather,
) -> (Vec<PeerId>, Reason, Option<u32>) {
    let topology = topology();
    let plans = |intent: &Intent| -> Vec<Plan> {
        let of_throw = |throw| plan(Target::Points(collection, intent), &topology, weather, &[], mix(throw));
        (0..64).map(|throw| of_throw(throw).expect("a plan")).collect()
    };
    let mut settled = intent.clone();
    settle(&mut settled, collection, topology.hashing());
    let (plans, of_settled) = (plans(intent), plans(&settled));
    assert_eq!(of_settled, plans);
    let mut peers: Vec<PeerId> = plans.iter().filter_map(|plan| plan.peer).collect();
    peers.sort_unstable();
    peers.dedup();
    let first = plans[0];
    assert!(plans.iter().all(|p| (p.reason, p.expected_rpcs) == (first.reason, first.expected_rpcs)));
    (peers, first.reason, first.expected_rpcs)
}

fn calm() -> Weather {
    Weather::default()
}

#[test]
fn a_weak_write_goes_to_the_holder() {
    // Ids by shard of six, from the vectors of the ring: 0 -> 5, 1 -> 3, 2 -> 4, 42 -> 1.
    for (id, holder) in [(0, 3), (1, 1), (2, 2), (42, 2)] {
        let found = outcomes(&spread(), &write(WriteOrdering::Weak, &[id]), &calm());
        assert_eq!(found, (vec![holder], Reason::ReplicaHolder, Some(0)), "id {id}");
    }
}

#[test]
fn a_weak_write_over_several_shards_goes_to_whom_holds_the_most() {
    // Shards 4, 1 (peer 2) and 3 (peer 1).
    let found = outcomes(&spread(), &write(WriteOrdering::Weak, &[2, 42, 1]), &calm());
    assert_eq!(found, (vec![2], Reason::ReplicaHolder, Some(1)));
}

#[test]
fn replicated_writes_cost_the_other_replicas_and_stay_with_one_holder() {
    let everywhere: &[(PeerId, ReplicaState)] = &[(1, Active), (2, Active), (3, Active)];
    let rows: Vec<Row<'_>> = (0..24).map(|shard| (shard, None, everywhere)).collect();
    let collection = collection(&rows);
    let mut holders = Vec::new();
    for id in 0..64 {
        let (peers, reason, rpcs) = outcomes(&collection, &write(WriteOrdering::Weak, &[id]), &calm());
        assert_eq!((peers.len(), reason, rpcs), (1, Reason::ReplicaHolder, Some(2)));
        holders.extend(peers);
    }
    for peer in 1..=3 {
        assert!(holders.contains(&peer), "shards spread over all holders, not {holders:?}");
    }
}

#[test]
fn the_shard_that_resharding_fills_is_not_read() {
    let rows: [Row<'_>; 3] =
        [(0, None, &[(1, Active)]), (1, None, &[(2, Active)]), (2, None, &[(1, Active)])];
    let resharding = Resharding { direction: ReshardingDirection::Up, shard: 2 };
    let Collection { epoch, transfers, .. } = collection(&rows);
    let filling = Collection::new(epoch, collection(&rows).shards().to_vec(), Some(resharding), transfers);
    assert_eq!(outcomes(&collection(&rows), &read(), &calm()), (vec![1], Reason::MostReplicas, Some(1)));
    assert_eq!(outcomes(&filling, &read(), &calm()), (vec![1, 2], Reason::MostReplicas, Some(1)));
}

#[test]
fn a_replica_that_takes_no_writes_saves_nothing() {
    let collection = collection(&[(0, None, &[(1, Dead), (2, Active), (3, Partial)])]);
    let (peers, _, rpcs) = outcomes(&collection, &write(WriteOrdering::Weak, &[1]), &calm());
    assert!(!peers.contains(&1), "{peers:?}");
    assert_eq!(rpcs, Some(1));
}

#[test]
fn ordered_writes_go_to_the_leader() {
    let collection = collection(&[(0, None, &[(1, Active), (2, Active), (3, Dead)])]);
    for (ordering, leader, rpcs) in [(WriteOrdering::Medium, 2, 1), (WriteOrdering::Strong, 3, 1)] {
        let found = outcomes(&collection, &write(ordering, &[1]), &calm());
        assert_eq!(found, (vec![leader], Reason::ShardLeader, Some(rpcs)), "{ordering:?}");
    }
    let storm = Weather { down: vec![2], ..calm() };
    let (_, reason, rpcs) = outcomes(&collection, &write(WriteOrdering::Medium, &[1]), &storm);
    assert_eq!((reason, rpcs), (Reason::NoReplica, Some(2)));
}

#[test]
fn a_read_goes_to_a_readable_replica() {
    let one_shard = collection(&[(0, None, &[(1, Partial), (2, Active), (3, Active)])]);
    let found = outcomes(&one_shard, &read(), &calm());
    assert_eq!(found, (vec![2, 3], Reason::ReadableReplica, Some(0)));

    let (peers, reason, rpcs) = outcomes(&spread(), &read(), &calm());
    assert_eq!((peers, reason, rpcs), (vec![1, 2, 3], Reason::MostReplicas, Some(4)));
}

#[test]
fn a_misrouted_read_is_expected_to_cost_two_rpcs() {
    let collection = collection(&[(0, None, &[(2, Active), (3, Active)])]);
    let storm = Weather { down: vec![2, 3], ..calm() };
    assert_eq!(outcomes(&collection, &read(), &storm), (vec![1], Reason::NoReplica, Some(2)));
}

#[test]
fn of_equal_replicas_the_less_loaded_one_is_preferred() {
    let collection = collection(&[(0, None, &[(1, Active), (2, Active)])]);
    let uneven = Weather { loads: HashMap::from([(address(1), 10)]), ..calm() };
    assert_eq!(outcomes(&collection, &read(), &uneven).0, [2]);
}

#[test]
fn shard_keys_narrow_reads_and_writes() {
    let tenants = collection(&[(1, Some("a"), &[(1, Active)]), (2, Some("b"), &[(2, Active)])]);
    let keys = |key: &str| Keys::Any(vec![ShardKey::Keyword(key.to_owned())]);
    let weak = Action::Write(WriteOrdering::Weak);
    let ids = || Points::Ids(smallvec![PointId::Num(5)]);
    for (action, keys, points, expected) in [
        (Action::Read, keys("b"), Points::All, (vec![2], Reason::ReadableReplica, Some(0))),
        (weak, keys("a"), ids(), (vec![1], Reason::ReplicaHolder, Some(0))),
        (Action::Read, Keys::Unspecified, Points::All, (vec![1, 2], Reason::MostReplicas, Some(1))),
        (Action::Read, keys("z"), Points::All, (vec![1, 2, 3], Reason::UnknownShardKey, None)),
        (weak, Keys::Unspecified, ids(), (vec![1, 2, 3], Reason::UnknownShardKey, None)),
    ] {
        assert_eq!(outcomes(&tenants, &intent(action, keys, points), &calm()), expected);
    }
}

#[test]
fn a_key_that_is_named_again_and_again_counts_once() {
    let tenants = collection(&[(1, Some("a"), &[(1, Active)]), (2, Some("a"), &[(2, Active)])]);
    let key = ShardKey::Keyword("a".to_owned());
    let ids = Points::Ids((0..10_000).map(PointId::Num).collect());
    let weak = Action::Write(WriteOrdering::Weak);
    // Asked for each, it would take a thousand million look-ups.
    let often = intent(weak, Keys::Any(vec![key.clone(); 100_000]), ids.clone());
    let once = intent(weak, Keys::Any(vec![key]), ids);
    let topology = topology();
    let planned =
        |intent: &Intent| plan(Target::Points(&tenants, intent), &topology, &calm(), &[], 1).expect("a plan");
    assert_eq!(planned(&often), planned(&once));
}

#[test]
fn a_target_key_that_is_not_served_gives_way_to_its_fallback() {
    let rows: [Row<'_>; 2] = [(1, Some("new"), &[(1, Partial)]), (2, Some("shared"), &[(2, Active)])];
    let key = |key: &str| ShardKey::Keyword(key.to_owned());
    let keys = Keys::WithFallback { target: key("new").into(), fallback: key("shared").into() };
    let found = outcomes(&collection(&rows), &intent(Action::Read, keys, Points::All), &calm());
    assert_eq!(found, (vec![2], Reason::ReadableReplica, Some(0)));
}

fn target<'a>(class: Class) -> Target<'a> {
    static HOME: Local = Local::Home(None);
    if class == Class::NodeLocal { Target::Local(&HOME) } else { Target::Class(class) }
}

#[test]
fn a_node_that_is_meant_is_asked_twice_and_no_other_is() {
    let topology = topology();
    let node = topology.node(2).expect("a node").address;
    let local = Local::Node(node, Reason::PinnedNode);
    let of = |tried: &[Address]| {
        let storm = Weather { down: vec![2], ..calm() };
        plan(Target::Local(&local), &topology, &storm, tried, 1).map(|plan| (plan.peer, plan.reason))
    };
    assert_eq!(of(&[]), Some((Some(2), Reason::PinnedNode)));
    assert_eq!(of(&[node]), Some((Some(2), Reason::PinnedNode)));
    assert_eq!(of(&[node, node]), None);
}

#[test]
fn a_shard_is_asked_of_the_same_holder_each_time() {
    let topology = topology();
    let rows: [Row<'_>; 2] = [(0, None, &[(1, Partial), (2, Active), (3, Active)]), (1, None, &[(1, Dead)])];
    let collection = Arc::new(collection(&rows));
    let of = |shard, weather: &Weather, dice| {
        let local = Local::Holder(collection.clone(), shard);
        plan(Target::Local(&local), &topology, weather, &[], dice).map(|plan| (plan.peer, plan.reason))
    };
    let (peer, reason) = of(0, &calm(), 1).expect("a plan");
    assert!(matches!(peer, Some(2 | 3)) && reason == Reason::ShardHolder, "a readable replica: {peer:?}");
    assert!((0..64).all(|throw| of(0, &calm(), mix(throw)) == Some((peer, reason))));
    let storm = Weather { down: vec![2, 3], ..calm() };
    assert_eq!(of(0, &storm, 1), Some((Some(1), Reason::ShardHolder)), "better than none");
    assert_eq!(of(1, &calm(), 1), Some((Some(1), Reason::ShardHolder)));
    assert_eq!(of(7, &calm(), 1).map(|plan| plan.1), Some(Reason::NoReplica));
}

#[test]
fn what_is_not_on_points_goes_by_its_class() {
    let topology = topology();
    let of = |class, weather: &Weather, dice| {
        let plan = plan(target(class), &topology, weather, &[], dice).expect("a plan");
        (plan.peer.expect("a peer"), plan.reason)
    };
    assert_eq!(of(Class::Consensus, &calm(), 1), (3, Reason::ConsensusLeader));
    let storm = Weather { down: vec![3], ..calm() };
    assert_eq!(of(Class::Consensus, &storm, 1).1, Reason::AnyNode);
    assert_eq!(of(Class::Unknown, &calm(), 1).1, Reason::UnknownOperation);

    let home = of(Class::NodeLocal, &calm(), 1);
    assert!((0..64).all(|throw| of(Class::NodeLocal, &calm(), mix(throw)) == home));
    let without_home = Weather { down: vec![home.0], ..calm() };
    assert_ne!(of(Class::NodeLocal, &without_home, 1).0, home.0);
}

#[test]
fn nodes_that_are_behind_are_left_out_while_others_are_not() {
    let topology = topology();
    let peers = |class, weather: &Weather| {
        let plans = (0..64).filter_map(|throw| plan(target(class), &topology, weather, &[], mix(throw)));
        let mut peers: Vec<PeerId> = plans.filter_map(|plan| plan.peer).collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    };
    let weather = Weather { behind: vec![1, 3], ..calm() };
    assert_eq!(peers(Class::Anywhere, &weather), [2]);
    assert_eq!(peers(Class::NodeLocal, &weather), peers(Class::NodeLocal, &calm()));
    let all_behind = Weather { behind: vec![1, 2, 3], ..calm() };
    assert_eq!(peers(Class::Anywhere, &all_behind), [1, 2, 3]);
}

#[test]
fn tried_nodes_are_left_out_until_nothing_is_left() {
    let service = Address { ip: [10, 96, 0, 1].into(), rest_port: 6333, grpc_port: 6334 };
    let topology = topology().with_fallback(service);
    let collection = spread();
    let intent = write(WriteOrdering::Weak, &[42]);
    let mut tried = Vec::new();
    let mut reasons = Vec::new();
    while let Some(plan) = plan(Target::Points(&collection, &intent), &topology, &calm(), &tried, 5) {
        assert!(!tried.contains(&plan.address));
        tried.push(plan.address);
        reasons.push(plan.reason);
    }
    // The holder; then the others, whose own replicas do not hold this shard; then the Service.
    assert_eq!(reasons, [Reason::ReplicaHolder, Reason::NoReplica, Reason::NoReplica, Reason::Fallback]);
}

#[test]
fn with_no_usable_node_the_service_decides_and_without_one_any_node_is_better_than_none() {
    let storm = Weather { down: vec![1, 2, 3], ..calm() };
    let service = Address { ip: [10, 96, 0, 1].into(), rest_port: 6333, grpc_port: 6334 };
    let place = |topology: &Topology| {
        plan(Target::Class(Class::Anywhere), topology, &storm, &[], 1).map(|p| p.reason)
    };
    assert_eq!(place(&topology().with_fallback(service)), Some(Reason::Fallback));
    assert_eq!(place(&topology()), Some(Reason::AnyNode));
    assert_eq!(place(&Topology::default()), None);
}

#[test]
fn what_is_not_routed_goes_to_the_service_and_to_any_node_where_that_does_not_answer() {
    let service = address(9);
    let with_service = topology().with_fallback(service);
    let place = |topology: &Topology, weather: &Weather, tried: &[Address]| {
        let plans = (0..64).map(|throw| plan(Target::Unrouted, topology, weather, tried, mix(throw)));
        let places = plans.flatten().map(|plan| (plan.peer, plan.reason));
        places.collect::<HashSet<_>>()
    };
    let any = || HashSet::from([1, 2, 3].map(|peer| (Some(peer), Reason::NotRouted)));
    let storm = |down: &[PeerId]| Weather { down: down.to_vec(), ..calm() };
    assert_eq!(place(&with_service, &calm(), &[]), HashSet::from([(None, Reason::NotRouted)]));
    assert_eq!(place(&topology(), &calm(), &[]), any());
    assert_eq!(place(&with_service, &calm(), &[service]), any(), "it did not answer");
    assert_eq!(place(&with_service, &storm(&[9]), &[]), any(), "it cannot be reached");
    let nobody = storm(&[1, 2, 3, 9]);
    assert_eq!(place(&with_service, &nobody, &[]), HashSet::from([(None, Reason::Fallback)]));
}

#[test]
fn the_last_replica_is_never_given_up() {
    let rows: [Row<'_>; 1] = [(0, None, &[(1, Active)])];
    let storm = Weather { spared: vec![1], ..calm() };
    let read = intent(Action::Read, Keys::Unspecified, Points::All);
    assert_eq!(outcomes(&collection(&rows), &read, &storm), (vec![1], Reason::ReadableReplica, Some(0)));
    let write = write(WriteOrdering::Medium, &[7]);
    assert_eq!(outcomes(&collection(&rows), &write, &storm), (vec![1], Reason::ShardLeader, Some(0)));
}

#[test]
fn an_affinity_reads_from_the_replicas_that_qdrant_selects() {
    // Of the peers 1, 2 and 3, `user-42` selects 1 first, then 2: see the vectors of the reference.
    let rows: [Row<'_>; 3] = [
        (0, None, &[(1, Active), (2, Active), (3, Active)]),
        (1, None, &[(1, Active), (3, Active)]),
        (2, None, &[(2, Active), (3, Active)]),
    ];
    let affinity = Affinity::new(b"user-42");
    let read = Intent { affinity, ..intent(Action::Read, Keys::Unspecified, Points::All) };
    let found = outcomes(&collection(&rows), &read, &calm());
    assert_eq!(found, (vec![1], Reason::RouteAffinity, Some(1)), "two of three shards are first there");
}

#[test]
fn a_choice_avoids_what_the_nodes_cost_more_on_average() {
    let topology = topology();
    let avoided = |target: Target<'_>, weather: &Weather| {
        let plan = plan(target, &topology, weather, &[], 0).expect("a plan");
        plan.avoided_rpcs()
    };
    // Shard 1 is on peer 2 alone: the other two of three nodes would ask it.
    let (spread, one) = (spread(), write(WriteOrdering::Weak, &[42]));
    let spared = Weather { spared: vec![2], ..calm() };
    for weather in [calm(), spared] {
        assert_eq!(avoided(Target::Points(&spread, &one), &weather), Some(2.0 / 3.0), "{:?}", weather.spared);
    }
    assert_eq!(avoided(Target::Points(&spread, &read()), &calm()), Some(0.0), "all hold as many");
    let on_one = collection(&[(0, None, &[(1, Active)]), (1, None, &[(1, Active)])]);
    assert_eq!(avoided(Target::Points(&on_one, &read()), &calm()), Some(4.0 / 3.0));
    let down = Weather { down: vec![1], ..calm() };
    assert_eq!(avoided(Target::Points(&on_one, &read()), &down), Some(0.0), "nobody holds anything");
    assert_eq!(avoided(Target::Opaque(Reason::UnknownCollection), &calm()), None);
}

/// Holders are looked at first because they are few; among all nodes the choice is no other.
#[test]
fn the_choice_among_holders_is_that_among_all_nodes() {
    let dice = crate::dice::Dice::seeded(3);
    let some =
        |of: &[PeerId]| of.iter().copied().filter(|_| dice.throw().is_multiple_of(4)).collect::<Vec<_>>();
    let topology = topology();
    for _ in 0..2_000 {
        let peers = [1, 2, 3];
        let state = || [Active, Active, Partial, Dead][(dice.throw() % 4) as usize];
        let rows: Vec<Vec<(PeerId, ReplicaState)>> =
            (0..4).map(|_| some(&peers).into_iter().map(|peer| (peer, state())).collect()).collect();
        let rows: Vec<Row<'_>> = (0..).zip(&rows).map(|(id, replicas)| (id, None, &replicas[..])).collect();
        let collection = collection(&rows);
        let weather =
            Weather { down: some(&peers), spared: some(&peers), behind: some(&peers), loads: HashMap::new() };
        let tried: Vec<Address> = some(&peers).into_iter().map(address).collect();
        let intent = match dice.throw() % 3 {
            0 => read(),
            1 => write(WriteOrdering::Weak, &[dice.throw()]),
            _ => write(WriteOrdering::Strong, &[dice.throw(), dice.throw()]),
        };
        let throw = dice.throw();
        let Some(plan) = among_holders(&collection, &intent, &topology, &weather, &tried, throw) else {
            continue;
        };
        let mut field = Field::of(&topology, &weather, &tried, throw).expect("it has the holder");
        field.prefer_current();
        let other = field.for_points(&collection, &intent);
        let told =
            |plan: &Plan| (plan.reason, plan.expected_rpcs, plan.can_hedge, plan.is_spared, plan.avoided);
        assert_eq!(told(&plan), told(&other));
        if intent.action != Action::Read {
            assert_eq!(plan.peer, other.peer, "all routers write to the same node");
        }
    }
}

#[test]
fn what_touches_too_many_shards_goes_to_any_node() {
    const SHARDS: usize = 1024;
    let shards = (0..SHARDS as ShardId).map(|id| (id, None, &[(1, Active)][..]));
    let collection = collection(&shards.collect::<Vec<_>>());
    let by_filter = |operations: usize| {
        let scope = Scope::EVERYTHING;
        let action = Action::Write(WriteOrdering::Weak);
        let intent = Intent { action, scopes: smallvec![scope; operations], affinity: None };
        let plan = plan(Target::Points(&collection, &intent), &topology(), &Weather::default(), &[], 7);
        let plan = plan.expect("nodes");
        (plan.reason, plan.expected_rpcs)
    };
    let most = MAX_TOUCHED / SHARDS;
    assert_eq!(by_filter(most), (Reason::ReplicaHolder, Some(0)));
    assert_eq!(by_filter(most + 1), (Reason::NotUnderstood, None));
}
