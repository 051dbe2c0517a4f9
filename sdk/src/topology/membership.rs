//! Which of the discovered addresses are nodes of the cluster, and who they are: a pure function.
//!
//! The identity of a node is the peer id that its own address reports. Everything else follows:
//!
//! * The same pod with a new address: two addresses have claimed one peer id, and the one that
//!   answers has it.
//! * A new pod on an old address: the address reports another peer id from now on.
//! * Two peer ids with one URI (a pod that lost its volume): only the one that an address reports
//!   has a node.
//! * A pod of another cluster on a freed address, or one that bootstrapped a cluster of its own: the
//!   peers of our cluster do not list it, so it is no node of ours.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{Address, ClusterView, Epoch, Node, PeerId, Version, ViewKind};

/// By when a peer has queued the entries that its `commit` tells: many times what was measured.
const QUEUE_TIME: Duration = Duration::from_millis(50);

/// What is known of one address.
#[derive(Clone, Debug, Default)]
pub(super) struct Member {
    /// Whether discovery still lists it.
    pub(super) listed: bool,
    /// Whether it answered when it was last asked.
    pub(super) reachable: bool,
    /// Its last readable answer.
    pub(super) view: Option<ClusterView>,
    /// How far it has applied the consensus log.
    pub(super) progress: Progress,
    /// Whether it answered but would not or could not say who it is.
    pub(super) anonymous: bool,
    /// The number of the newest change of metadata when it was asked for that answer.
    pub(super) asked_after: u64,
    /// The version of its server, and when it was told.
    pub(super) version: Option<(Version, Instant)>,
}

/// How far a peer has applied the consensus log.
///
/// Qdrant tells a new `commit` a moment before it queues the entries, so a view with nothing left to
/// apply may still lack the last of them (measured on 1.18: for 1 to 15 ms). A view counts once it is
/// [`QUEUE_TIME`] old and a later one has nothing left to apply either.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Everything up to here is applied.
    applied: Option<Epoch>,
    /// What it told since, and when.
    told: Option<(Epoch, Instant)>,
}

/// The nodes of the cluster, and what they agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Membership {
    /// By peer id; without any, the addresses that answer without saying who they are.
    pub(super) nodes: Vec<Node>,
    /// The newest epoch that a reachable node has applied.
    pub(super) epoch: Option<Epoch>,
    /// The consensus leader in the newest view.
    pub(super) leader: Option<PeerId>,
    /// The nodes that have applied that epoch: whom to ask about collections.
    pub(super) freshest: Vec<Address>,
    /// Addresses that belong to another cluster.
    pub(super) strangers: Vec<Address>,
}

/// The peers that a peer knows, with the host of each.
pub(super) type Peers = HashMap<PeerId, Option<String>>;

/// One address that said who it is.
struct Peer<'a> {
    address: Address,
    member: &'a Member,
    id: PeerId,
    peers: &'a Arc<Peers>,
    leader: Option<PeerId>,
    settled: bool,
    epoch: Epoch,
}

// === impl ClusterView ===

impl ClusterView {
    /// Has the view share its list of peers with the first of `known` that is like it, and returns that
    /// list: a thousand nodes that each keep a list of a thousand would take more memory than all else.
    pub(super) fn share_peers<'k>(
        &mut self,
        known: impl IntoIterator<Item = &'k Arc<Peers>>,
    ) -> Option<Arc<Peers>> {
        let ViewKind::Member { peers, .. } = &mut self.kind else { return None };
        if let Some(known) = known.into_iter().find(|known| *known == peers) {
            *peers = known.clone();
        }
        Some(peers.clone())
    }

    fn peers(&self) -> Option<&Arc<Peers>> {
        match &self.kind {
            ViewKind::Member { peers, .. } => Some(peers),
            ViewKind::Standalone => None,
        }
    }
}

// === impl Member ===

impl Member {
    /// The peers that it last told.
    pub(super) fn peers(&self) -> Option<&Arc<Peers>> {
        self.view.as_ref()?.peers()
    }

    /// Whether nothing has changed since `before` that the membership depends on.
    pub(super) fn is_like(&self, before: &Self) -> bool {
        let rest = |member: &Self| {
            (member.listed, member.reachable, member.anonymous, member.progress.applied(), member.version)
        };
        rest(self) == rest(before) && self.view == before.view
    }
}

// === impl Progress ===

impl Progress {
    /// Notes a view with nothing left to apply.
    ///
    /// The first view counts at once, for all but its last entry: what is fetched meanwhile serves, and
    /// is fetched again.
    pub(super) fn note(&mut self, epoch: Epoch, now: Instant) {
        match self.told {
            None if self.applied == Some(epoch) => {}
            None => {
                let before = Epoch { commit: epoch.commit.saturating_sub(1), ..epoch };
                self.applied = self.applied.or(Some(before));
                self.told = Some((epoch, now));
            }
            Some((told, at)) if now.duration_since(at) >= QUEUE_TIME => {
                self.applied = Some(told);
                self.told = (told != epoch).then_some((epoch, now));
            }
            Some(_) => {}
        }
    }

    /// Everything up to this epoch is applied.
    pub(super) fn applied(&self) -> Option<Epoch> {
        self.applied
    }

    /// Whether another look soon tells more.
    pub(super) fn is_settling(&self) -> bool {
        self.told.is_some()
    }
}

// === impl Membership ===

impl Membership {
    /// The nodes among `members`, where `known` are those of before.
    pub(super) fn of(members: &BTreeMap<Address, Member>, known: &[Node]) -> Self {
        let peers: Vec<Peer<'_>> =
            members.iter().filter_map(|(&address, member)| Peer::of(address, member)).collect();
        let Some(reference) = reference(&peers, known) else {
            return Self { nodes: anonymous(members), ..Self::default() };
        };

        let mut admitted: BTreeMap<PeerId, &Peer<'_>> = BTreeMap::new();
        let mut strangers = Vec::new();
        for peer in &peers {
            if !reference.peers.contains_key(&peer.id) {
                strangers.push(peer.address);
                continue;
            }
            let holder = admitted.entry(peer.id).or_insert(peer);
            // Of several addresses, the one that answers is the peer's; then the one that is listed.
            if (peer.member.reachable, peer.member.listed) > (holder.member.reachable, holder.member.listed) {
                *holder = peer;
            }
        }

        let live = || admitted.values().filter(|peer| peer.member.reachable);
        let applied = |peer: &Peer<'_>| peer.member.progress.applied();
        let epoch = live().filter_map(|peer| applied(peer)).max();
        let freshest = live()
            .filter(|peer| peer.settled && epoch.is_some() && applied(peer) == epoch)
            .map(|peer| peer.address)
            .collect();
        let leader =
            live().max_by_key(|peer| (peer.leader.is_some(), peer.epoch)).and_then(|peer| peer.leader);
        let nodes = admitted
            .values()
            .map(|peer| Node {
                address: peer.address,
                peer: Some(peer.id),
                name: reference.peers.get(&peer.id).and_then(|host| pod_name(host.as_deref()?)),
                version: peer.member.version.map(|(version, _)| version),
                reachable: peer.member.reachable,
            })
            .collect();
        Self { nodes, epoch, leader, freshest, strangers }
    }

    /// Whether this node was among the nodes, as it is.
    pub(super) fn has(&self, node: &Node) -> bool {
        match self.nodes.binary_search_by_key(&node.peer, |node| node.peer) {
            Ok(at) if node.peer.is_some() => self.nodes[at] == *node,
            Ok(_) | Err(_) => self.nodes.contains(node),
        }
    }
}

impl<'a> Peer<'a> {
    fn of(address: Address, member: &'a Member) -> Option<Self> {
        let view = member.view.as_ref()?;
        match &view.kind {
            ViewKind::Standalone => None,
            ViewKind::Member { peer, peers, leader, settled } => Some(Self {
                address,
                member,
                id: *peer,
                peers,
                leader: *leader,
                settled: *settled,
                epoch: view.epoch,
            }),
        }
    }
}

/// Peers that know the same peers: mostly all. A list is one object as long as it does not change, so that
/// telling who agrees with whom takes no longer than there are peers.
struct Mind<'a> {
    list: &'a Arc<Peers>,
    voices: Vec<PeerId>,
    /// How many voices of each mind are in this one's list.
    lists_of: Vec<usize>,
}

impl<'a> Mind<'a> {
    fn all(peers: &[Peer<'a>]) -> Vec<Self> {
        // Two addresses of one peer have one say.
        let voices: BTreeMap<PeerId, &Peer<'a>> = peers.iter().map(|peer| (peer.id, peer)).collect();
        let mut minds: Vec<Self> = Vec::new();
        let mut at_of: HashMap<*const Peers, usize> = HashMap::new();
        for peer in peers {
            at_of.entry(Arc::as_ptr(peer.peers)).or_insert_with(|| {
                minds.push(Self { list: peer.peers, voices: Vec::new(), lists_of: Vec::new() });
                minds.len() - 1
            });
        }
        for (&id, peer) in &voices {
            if let Some(&at) = at_of.get(&Arc::as_ptr(peer.peers)) {
                minds[at].voices.push(id);
            }
        }
        for at in 0..minds.len() {
            let list = minds[at].list;
            let listed = |mind: &Self| mind.voices.iter().filter(|id| list.contains_key(id)).count();
            minds[at].lists_of = minds.iter().map(listed).collect();
        }
        minds
    }
}

/// The peer whose list of peers defines the cluster: it agrees mutually with the most others, was known
/// before, and its view is the newest of those.
///
/// Peers that do not answer keep their say, so that a pod of another cluster on the address of one that
/// went does not become the cluster while the others are away for a moment.
fn reference<'a>(peers: &'a [Peer<'a>], known: &[Node]) -> Option<&'a Peer<'a>> {
    let minds = Mind::all(peers);
    peers.iter().max_by_key(|peer| {
        let mine = minds.iter().find(|mind| Arc::ptr_eq(mind.list, peer.peers));
        let agreeing: usize = minds
            .iter()
            .zip(mine.map(|mine| &mine.lists_of[..]).unwrap_or_default())
            .filter(|(mind, _)| mind.list.contains_key(&peer.id))
            .map(|(_, &listed)| listed)
            .sum();
        let is_known = known.iter().any(|node| node.peer.is_some_and(|id| peer.peers.contains_key(&id)));
        (agreeing, is_known, peer.member.reachable, peer.settled, peer.epoch, peer.id)
    })
}

fn anonymous(members: &BTreeMap<Address, Member>) -> Vec<Node> {
    let standalone =
        |member: &Member| matches!(&member.view, Some(ClusterView { kind: ViewKind::Standalone, .. }));
    members
        .iter()
        .filter(|(_, member)| member.anonymous || standalone(member))
        .map(|(&address, member)| Node {
            address,
            peer: None,
            name: None,
            version: member.version.map(|(version, _)| version),
            reachable: member.reachable,
        })
        .collect()
}

/// The first label of a host name; an IP address names no pod.
fn pod_name(host: &str) -> Option<String> {
    if host.parse::<std::net::IpAddr>().is_ok() || host.starts_with('[') {
        return None;
    }
    host.split('.').next().filter(|label| !label.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Address {
        Address { ip: [10, 0, 0, last].into(), rest_port: 6333, grpc_port: 6334 }
    }

    fn peer(id: PeerId, peers: &[PeerId], commit: u64) -> Member {
        let peers = peers.iter().map(|&id| (id, Some(format!("qdrant-{id}.qdrant-headless.demo.svc"))));
        Member {
            listed: true,
            reachable: true,
            view: Some(ClusterView {
                kind: ViewKind::Member {
                    peer: id,
                    peers: Arc::new(peers.collect()),
                    leader: Some(1),
                    settled: true,
                },
                epoch: Epoch { term: 1, commit },
            }),
            progress: Progress { applied: Some(Epoch { term: 1, commit }), told: None },
            ..Member::default()
        }
    }

    fn of(members: impl IntoIterator<Item = (u8, Member)>) -> Membership {
        Membership::of(&members.into_iter().map(|(last, member)| (address(last), member)).collect(), &[])
    }

    fn who(membership: &Membership) -> Vec<(Option<PeerId>, Address)> {
        membership.nodes.iter().map(|node| (node.peer, node.address)).collect()
    }

    #[test]
    fn nodes_are_whoever_their_own_address_says() {
        let membership = of([(9, peer(1, &[1, 2], 7)), (8, peer(2, &[1, 2], 6))]);
        assert_eq!(who(&membership), [(Some(1), address(9)), (Some(2), address(8))]);
        assert_eq!(membership.epoch, Some(Epoch { term: 1, commit: 7 }));
        assert_eq!(membership.freshest, [address(9)]);
        assert_eq!(membership.nodes[0].name.as_deref(), Some("qdrant-1"));
    }

    #[test]
    fn the_same_pod_with_a_new_address_is_where_it_answers() {
        let gone = Member { reachable: false, ..peer(1, &[1, 2], 7) };
        let membership = of([(1, gone), (2, peer(2, &[1, 2], 7)), (3, peer(1, &[1, 2], 7))]);
        assert_eq!(who(&membership), [(Some(1), address(3)), (Some(2), address(2))]);
    }

    #[test]
    fn a_listed_address_wins_over_one_that_vanished_while_both_answer() {
        let vanished = Member { listed: false, ..peer(1, &[1], 7) };
        assert_eq!(who(&of([(1, vanished), (3, peer(1, &[1], 7))])), [(Some(1), address(3))]);
    }

    #[test]
    fn a_pod_that_lost_its_volume_is_its_new_peer_alone() {
        // Peer 1 lost its volume and came back as peer 5; the cluster still lists both.
        let membership = of([(1, peer(5, &[1, 2, 5], 9)), (2, peer(2, &[1, 2, 5], 9))]);
        assert_eq!(who(&membership), [(Some(2), address(2)), (Some(5), address(1))]);
    }

    #[test]
    fn another_cluster_on_our_addresses_is_left_out() {
        let membership =
            of([(1, peer(1, &[1, 2], 7)), (2, peer(2, &[1, 2], 7)), (3, peer(77, &[77, 78], 90_000))]);
        assert_eq!(who(&membership), [(Some(1), address(1)), (Some(2), address(2))]);
        assert_eq!(membership.strangers, [address(3)]);
        assert_eq!(membership.epoch, Some(Epoch { term: 1, commit: 7 }));
    }

    #[test]
    fn another_cluster_does_not_take_over_while_ours_is_away() {
        let away = |id| Member { reachable: false, ..peer(id, &[1, 2], 7) };
        let membership = of([(1, away(1)), (2, away(2)), (3, peer(77, &[77], 90_000))]);
        assert_eq!(who(&membership), [(Some(1), address(1)), (Some(2), address(2))]);
        assert_eq!((membership.strangers, membership.epoch), (vec![address(3)], None));

        let rebuilt = of([(1, away(1)), (2, peer(77, &[77, 78], 3)), (3, peer(78, &[77, 78], 3))]);
        assert_eq!(who(&rebuilt), [(Some(77), address(2)), (Some(78), address(3))]);
    }

    #[test]
    fn a_peer_that_still_applies_its_log_tells_no_epoch() {
        let mut behind = peer(2, &[1, 2], 12);
        behind.progress = peer(2, &[1, 2], 10).progress;
        if let Some(ClusterView { kind: ViewKind::Member { settled, .. }, .. }) = &mut behind.view {
            *settled = false;
        }
        let membership = of([(1, peer(1, &[1, 2], 11)), (2, behind)]);
        assert_eq!(membership.epoch, Some(Epoch { term: 1, commit: 11 }));
        assert_eq!(membership.freshest, [address(1)]);
    }

    #[test]
    fn a_view_counts_once_its_entries_must_have_been_queued() {
        let (mut progress, began) = (Progress::default(), Instant::now());
        let epoch = |commit| Epoch { term: 1, commit };
        let mut tell = |commit, after: u64| {
            progress.note(epoch(commit), began + Duration::from_millis(after));
            progress.applied().map(|epoch| epoch.commit)
        };
        assert_eq!(tell(10, 0), Some(9), "the first view counts for all but its last entry");
        assert_eq!(tell(10, 49), Some(9));
        assert_eq!(tell(10, 50), Some(10));
        assert_eq!(tell(11, 2000), Some(10));
        assert_eq!(tell(12, 2049), Some(10), "a newer one does not begin the wait anew");
        assert_eq!(tell(13, 2050), Some(11), "so that constant change is followed");
        assert_eq!(tell(13, 2100), Some(13));
        assert!(!progress.is_settling());
    }

    #[test]
    fn without_peers_what_answers_is_kept_for_the_worst_case() {
        let standalone = Member {
            view: Some(ClusterView { kind: ViewKind::Standalone, epoch: Epoch::default() }),
            reachable: true,
            ..Member::default()
        };
        let refused = Member { anonymous: true, reachable: true, ..Member::default() };
        let silent = Member { listed: true, ..Member::default() };
        let membership = of([(1, standalone), (2, refused), (3, silent)]);
        assert_eq!(who(&membership), [(None, address(1)), (None, address(2))]);
    }
}
