//! What happened between two looks at the cluster: a pure function.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use qdrant_router::topology::{Collection, PeerId, ReplicaState, Shard, ShardId, WriteOrdering, leader};

use super::{
    Event, EventKind,
    view::{Condition, Identity, SeenNode, View},
};

/// Events of one kind that one look may bring; the rest of them is told as a number.
const MAX_ALIKE: usize = 16;

/// Shards that an event names.
const MAX_NAMED_SHARDS: usize = 8;

/// What happened between `old` and `new`, in the order in which it is best told.
pub(super) fn changes(old: &View, new: &View) -> Vec<Event> {
    let mut events = Vec::new();
    compare_nodes(old, new, &mut events);
    compare_leaders(old, new, &mut events);
    if !Arc::ptr_eq(&old.collections, &new.collections) {
        let mut names: Vec<&String> = new.collections.keys().collect();
        names.sort();
        for name in names {
            if let (Some(before), Some(after)) = (old.collections.get(name), new.collections.get(name))
                && !Arc::ptr_eq(before, after)
            {
                compare_collections(new, name, before, after, &mut events);
            }
        }
    }
    bounded(events)
}

fn compare_nodes(old: &View, new: &View, events: &mut Vec<Event>) {
    for (identity, node) in &new.nodes {
        match old.nodes.get(identity) {
            Some(before) => compare_node(before, node, events),
            None => events.push(match old.departed.get(identity) {
                Some(before) if before.address != node.address => moved(before, node),
                Some(_) => back(node),
                None => joined(identity, node, new),
            }),
        }
    }
    for (identity, node) in old.nodes.iter().filter(|(identity, _)| !new.nodes.contains_key(identity)) {
        let cause = match identity {
            // An address that now says who it is has not gone anywhere.
            Identity::Address(address) if new.nodes.values().any(|node| node.address == *address) => continue,
            _ if node.condition == Condition::Unreachable => {
                "it did not answer, and discovery no longer lists it"
            }
            _ => "discovery no longer lists it, or the cluster no longer knows it",
        };
        events.push(event(EventKind::NodeLeft, node, "left".to_owned(), cause.to_owned()));
    }
}

fn joined(identity: &Identity, node: &SeenNode, new: &View) -> Event {
    let cause = match identity {
        Identity::Peer(peer) => format!("{} answers as peer {peer}", node.address.ip),
        Identity::Address(address) => format!("discovery lists {}", address.ip),
    };
    let at = new.epoch.map(|epoch| format!(", epoch {epoch}")).unwrap_or_default();
    event(EventKind::NodeJoined, node, "joined".to_owned(), cause + &at)
}

fn moved(before: &SeenNode, node: &SeenNode) -> Event {
    let text = format!("moved from {} to {}", before.address.ip, node.address.ip);
    event(EventKind::NodeMoved, node, text, format!("the same peer answers at {}", node.address))
}

fn back(node: &SeenNode) -> Event {
    event(EventKind::NodeBack, node, "is back".to_owned(), format!("it answers at {}", node.address))
}

fn compare_node(before: &SeenNode, node: &SeenNode, events: &mut Vec<Event>) {
    if before.address != node.address {
        events.push(moved(before, node));
    }
    let problem = || node.problem.clone();
    let no_connection = || format!("no connection to {}", node.address);
    match (before.condition, node.condition) {
        (before, now) if before == now => {}
        (_, Condition::Usable) => events.push(back(node)),
        (_, Condition::Ejected) => {
            let cause = problem().unwrap_or_else(no_connection);
            events.push(event(EventKind::NodeEjected, node, "taken out".to_owned(), cause));
        }
        (_, Condition::Spared) => {
            let cause =
                "it answered reads with errors of its own only, and is tried again in a while".to_owned();
            events.push(event(EventKind::NodeEjected, node, "spared".to_owned(), cause));
        }
        (_, Condition::Unreachable) => {
            let cause = problem().unwrap_or_else(no_connection);
            events.push(event(EventKind::NodeUnreachable, node, "does not answer".to_owned(), cause));
        }
    }
    if let (Some(from), Some(to)) = (before.version, node.version)
        && from != to
    {
        let text = format!("runs {to}, before {from}");
        events.push(event(EventKind::NodeVersion, node, text, "the node says so".to_owned()));
    }
}

fn compare_leaders(old: &View, new: &View, events: &mut Vec<Event>) {
    let (Some(before), Some(now)) = (old.leader, new.leader) else { return };
    if before == now {
        return;
    }
    let cause = match (old.epoch, new.epoch) {
        (Some(before), Some(now)) if before.term != now.term => {
            format!("an election: term {}, before {}", now.term, before.term)
        }
        _ => "the nodes say so".to_owned(),
    };
    events.push(Event {
        kind: EventKind::ConsensusLeader,
        subject: new.label(now),
        text: format!("leads consensus, before {}", old.label(before)),
        cause,
    });
}

/// What happened to replicas of one collection, so that shards alike are told together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Came(PeerId),
    Went(PeerId),
    /// From one state to another.
    Turned(PeerId, &'static str, &'static str),
    /// From one leader to another.
    Led(Option<PeerId>, Option<PeerId>),
}

fn compare_collections(
    new: &View,
    name: &str,
    before: &Collection,
    after: &Collection,
    events: &mut Vec<Event>,
) {
    let old_shards: HashMap<ShardId, &Shard> =
        before.shards().iter().map(|shard| (shard.id, shard)).collect();
    let mut steps: BTreeMap<Step, Vec<ShardId>> = BTreeMap::new();
    for shard in after.shards() {
        let Some(old) = old_shards.get(&shard.id) else { continue };
        for step in steps_of(old, shard) {
            steps.entry(step).or_default().push(shard.id);
        }
    }
    events.extend(steps.into_iter().map(|(step, shards)| told(new, name, after, step, &shards)));
    if before.resharding != after.resharding {
        let text = match &after.resharding {
            Some(resharding) => format!("resharding: shard {}", resharding.shard),
            None => "no longer resharding".to_owned(),
        };
        events.push(Event {
            kind: EventKind::Resharding,
            subject: name.to_owned(),
            text,
            cause: format!("consensus, epoch {}", after.epoch),
        });
    }
}

fn steps_of(old: &Shard, new: &Shard) -> Vec<Step> {
    let mut steps = Vec::new();
    let states = |shard: &Shard| -> BTreeMap<PeerId, ReplicaState> {
        shard.replicas.iter().map(|replica| (replica.peer, replica.state)).collect()
    };
    let (before, after) = (states(old), states(new));
    for (&peer, &state) in &after {
        match before.get(&peer) {
            None => steps.push(Step::Came(peer)),
            Some(&was) if was != state => steps.push(Step::Turned(peer, was.as_str(), state.as_str())),
            Some(_) => {}
        }
    }
    steps.extend(before.keys().filter(|peer| !after.contains_key(peer)).map(|&peer| Step::Went(peer)));
    let led = |shard: &Shard| leader(&shard.replicas, WriteOrdering::Medium);
    if led(old) != led(new) {
        steps.push(Step::Led(led(old), led(new)));
    }
    steps
}

fn told(new: &View, name: &str, collection: &Collection, step: Step, shards: &[ShardId]) -> Event {
    let shards_text = named(shards);
    let consensus = || format!("consensus, epoch {}", collection.epoch);
    let trouble = |peer: PeerId| {
        let node = new.nodes.get(&Identity::Peer(peer));
        match node.map(|node| node.condition) {
            None => Some(format!("{} is gone", new.label(peer))),
            Some(Condition::Unreachable | Condition::Ejected) => {
                Some(format!("{} does not answer", new.label(peer)))
            }
            Some(Condition::Usable | Condition::Spared) => None,
        }
    };
    let (kind, text, cause) = match step {
        Step::Came(peer) => {
            let text = format!("{shards_text}: a replica on {}", new.label(peer));
            (EventKind::ReplicasMoved, text, consensus())
        }
        Step::Went(peer) => {
            let text = format!("{shards_text}: no replica on {} any more", new.label(peer));
            (EventKind::ReplicasMoved, text, trouble(peer).unwrap_or_else(consensus))
        }
        Step::Turned(peer, from, to) => {
            let text = format!("{shards_text} on {}: {to}, before {from}", new.label(peer));
            let cause = trouble(peer).filter(|_| to == "Dead").unwrap_or_else(consensus);
            (EventKind::ReplicaState, text, cause)
        }
        Step::Led(from, to) => {
            let text = match to {
                Some(to) => format!("{shards_text}: led by {}", new.label(to)),
                None => format!("{shards_text}: nobody leads"),
            };
            let cause = match from {
                Some(from) => old_leader(new, collection, from, shards),
                None => "a replica can lead again".to_owned(),
            };
            (EventKind::ShardLeader, text, cause)
        }
    };
    Event { kind, subject: name.to_owned(), text, cause }
}

/// Why `from` no longer leads.
fn old_leader(new: &View, collection: &Collection, from: PeerId, shards: &[ShardId]) -> String {
    let shard = collection.shards().iter().find(|shard| Some(&shard.id) == shards.first());
    let replica = shard.and_then(|shard| shard.replicas.iter().find(|replica| replica.peer == from));
    match replica {
        None => format!("{} holds no replica any more", new.label(from)),
        Some(replica) if !replica.state.is_source_of_truth() => {
            format!("the replica on {} is {}", new.label(from), replica.state.as_str())
        }
        Some(_) => format!("{} has the lower peer id", new.label(from)),
    }
}

fn named(shards: &[ShardId]) -> String {
    let names: Vec<String> = shards.iter().take(MAX_NAMED_SHARDS).map(ToString::to_string).collect();
    let more = match shards.len().saturating_sub(MAX_NAMED_SHARDS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("shard{} {}{more}", if shards.len() == 1 { "" } else { "s" }, names.join(", "))
}

fn event(kind: EventKind, node: &SeenNode, text: String, cause: String) -> Event {
    Event { kind, subject: node.label.clone(), text, cause }
}

/// Tells what goes beyond [`MAX_ALIKE`] events of one kind as a number.
fn bounded(events: Vec<Event>) -> Vec<Event> {
    let mut alike: HashMap<EventKind, usize> = HashMap::new();
    for event in &events {
        *alike.entry(event.kind).or_default() += 1;
    }
    let mut told: HashMap<EventKind, usize> = HashMap::new();
    let mut summed: HashSet<EventKind> = HashSet::new();
    let mut kept = Vec::new();
    for mut event in events {
        let (all, told) = (alike[&event.kind], told.entry(event.kind).or_default());
        if all <= MAX_ALIKE || *told < MAX_ALIKE - 1 {
            *told += 1;
            kept.push(event);
        } else if summed.insert(event.kind) {
            event.subject = format!("{} more", all - *told);
            "and others at the same time".clone_into(&mut event.text);
            kept.push(event);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use qdrant_router::topology::{Address, Epoch, Replica, Version};

    use super::*;

    fn node(label: &str, last: u8) -> SeenNode {
        SeenNode {
            label: label.to_owned(),
            address: Address { ip: IpAddr::from([10, 0, 0, last]), rest_port: 6333, grpc_port: 6334 },
            version: None,
            condition: Condition::Usable,
            problem: None,
        }
    }

    /// Peers 1, 2 and 3 on q-1, q-2 and q-3.
    fn view() -> View {
        let mut view = View { epoch: Some(Epoch { term: 1, commit: 5 }), leader: Some(1), ..View::default() };
        for peer in 1..=3 {
            view.nodes.insert(Identity::Peer(peer), node(&format!("q-{peer}"), peer as u8));
        }
        view
    }

    fn with_collection(mut view: View, replicas: &[(ShardId, PeerId, ReplicaState)]) -> View {
        let mut shards: Vec<Shard> = Vec::new();
        for &(id, peer, state) in replicas {
            let replica = Replica { peer, state };
            match shards.iter_mut().find(|shard| shard.id == id) {
                Some(shard) => shard.replicas.push(replica),
                None => shards.push(Shard { id, key: None, replicas: [replica].into_iter().collect() }),
            }
        }
        let epoch = view.epoch.unwrap_or_default();
        let collection = Arc::new(Collection::new(epoch, shards, None, 0));
        view.collections = Arc::new(HashMap::from([("books".to_owned(), collection)]));
        view
    }

    fn kinds(events: &[Event]) -> Vec<EventKind> {
        events.iter().map(|event| event.kind).collect()
    }

    #[test]
    fn nothing_happens_between_two_looks_alike() {
        let replicas = [(0, 1, ReplicaState::Active)];
        assert_eq!(changes(&with_collection(view(), &replicas), &with_collection(view(), &replicas)), []);
    }

    #[test]
    fn nodes_come_and_go() {
        let mut without = view();
        without.nodes.remove(&Identity::Peer(3));
        let joined = changes(&without, &view());
        assert_eq!(kinds(&joined), [EventKind::NodeJoined]);
        assert_eq!(joined[0].subject, "q-3");
        assert_eq!(joined[0].cause, "10.0.0.3 answers as peer 3, epoch 1/5");
        assert_eq!(kinds(&changes(&view(), &without)), [EventKind::NodeLeft]);
    }

    #[test]
    fn an_address_that_says_who_it_is_has_not_left() {
        let mut anonymous = View::default();
        let unnamed = node("10.0.0.1", 1);
        anonymous.nodes.insert(Identity::Address(unnamed.address), unnamed);
        let events = changes(&anonymous, &view());
        assert_eq!(kinds(&events), [EventKind::NodeJoined; 3]);
    }

    #[test]
    fn a_node_is_taken_out_does_not_answer_and_is_back() {
        let mut ejected = view();
        let node = ejected.nodes.get_mut(&Identity::Peer(2)).expect("a node");
        node.condition = Condition::Ejected;
        let mut spared = view();
        spared.nodes.get_mut(&Identity::Peer(2)).expect("a node").condition = Condition::Spared;
        let events = changes(&view(), &spared);
        assert_eq!((events[0].kind, &*events[0].text), (EventKind::NodeEjected, "spared"));
        assert!(events[0].cause.contains("errors of its own"), "{}", events[0].cause);

        let mut unreachable = view();
        let node = unreachable.nodes.get_mut(&Identity::Peer(2)).expect("a node");
        node.condition = Condition::Unreachable;
        node.problem = Some("connection refused <b>".to_owned());

        let events = changes(&view(), &ejected);
        assert_eq!(kinds(&events), [EventKind::NodeEjected]);
        assert_eq!(events[0].cause, "no connection to 10.0.0.2:6333");
        let events = changes(&ejected, &unreachable);
        assert_eq!(kinds(&events), [EventKind::NodeUnreachable]);
        assert_eq!(events[0].cause, "connection refused <b>");
        assert_eq!(kinds(&changes(&unreachable, &view())), [EventKind::NodeBack]);
    }

    #[test]
    fn a_node_moves_and_is_upgraded() {
        let version = |text: &str| text.parse::<Version>().ok();
        let mut before = view();
        before.nodes.get_mut(&Identity::Peer(2)).expect("a node").version = version("1.15.0");
        let mut after = view();
        let node = after.nodes.get_mut(&Identity::Peer(2)).expect("a node");
        node.address.ip = IpAddr::from([10, 0, 0, 77]);
        node.version = version("1.16.1");
        let events = changes(&before, &after);
        assert_eq!(kinds(&events), [EventKind::NodeMoved, EventKind::NodeVersion]);
        assert_eq!(events[0].text, "moved from 10.0.0.2 to 10.0.0.77");
        assert_eq!(events[1].text, "runs 1.16.1, before 1.15.0");
    }

    #[test]
    fn a_node_that_was_gone_for_a_moment_is_recognised() {
        let mut without = view();
        without.nodes.remove(&Identity::Peer(2));
        let gone = without.remembering(&view());
        assert_eq!(kinds(&changes(&gone, &view().remembering(&gone))), [EventKind::NodeBack]);

        let mut elsewhere = view();
        elsewhere.nodes.get_mut(&Identity::Peer(2)).expect("a node").address.ip =
            IpAddr::from([10, 0, 0, 77]);
        let elsewhere = elsewhere.remembering(&gone);
        let events = changes(&gone, &elsewhere);
        assert_eq!(kinds(&events), [EventKind::NodeMoved]);
        assert_eq!(events[0].text, "moved from 10.0.0.2 to 10.0.0.77");
        assert!(elsewhere.departed.is_empty());
    }

    #[test]
    fn an_election_names_its_terms() {
        let mut after = view();
        after.leader = Some(2);
        after.epoch = Some(Epoch { term: 2, commit: 6 });
        let events = changes(&view(), &after);
        assert_eq!(kinds(&events), [EventKind::ConsensusLeader]);
        assert_eq!(
            (&*events[0].subject, &*events[0].text, &*events[0].cause),
            ("q-2", "leads consensus, before q-1", "an election: term 2, before 1")
        );
    }

    #[test]
    fn shards_alike_are_told_together() {
        use ReplicaState::{Active, Dead};
        let before =
            with_collection(view(), &[(0, 1, Active), (0, 2, Active), (1, 1, Active), (1, 2, Active)]);
        let after = with_collection(view(), &[(0, 1, Active), (0, 2, Dead), (1, 1, Active), (1, 2, Dead)]);
        let events = changes(&before, &after);
        assert_eq!(kinds(&events), [EventKind::ReplicaState, EventKind::ShardLeader]);
        assert_eq!(events[0].text, "shards 0, 1 on q-2: Dead, before Active");
        assert_eq!(events[0].cause, "consensus, epoch 1/5");
        assert_eq!(events[1].text, "shards 0, 1: led by q-1");
        assert_eq!(events[1].cause, "the replica on q-2 is Dead");

        let mut gone = after.clone();
        gone.nodes.get_mut(&Identity::Peer(2)).expect("a node").condition = Condition::Unreachable;
        let events = changes(&before, &gone);
        let state = events.iter().find(|event| event.kind == EventKind::ReplicaState).expect("an event");
        assert_eq!(state.cause, "q-2 does not answer");
    }

    #[test]
    fn replicas_move() {
        use ReplicaState::Active;
        let before = with_collection(view(), &[(0, 1, Active)]);
        let after = with_collection(view(), &[(0, 2, Active)]);
        let events = changes(&before, &after);
        assert_eq!(
            kinds(&events),
            [EventKind::ReplicasMoved, EventKind::ReplicasMoved, EventKind::ShardLeader]
        );
        assert_eq!(events[2].cause, "q-1 holds no replica any more");
    }

    #[test]
    fn a_thousand_nodes_at_once_are_a_few_events() {
        let mut many = View::default();
        for peer in 0..1_000 {
            many.nodes.insert(Identity::Peer(peer), node(&format!("q-{peer}"), 1));
        }
        let events = changes(&View::default(), &many);
        assert_eq!(events.len(), MAX_ALIKE);
        assert_eq!(events[MAX_ALIKE - 1].subject, "985 more");
    }
}
