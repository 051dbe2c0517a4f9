//! The one task that owns the topology.
//!
//! It asks every address from discovery for its `GET /cluster`, fetches the placement of collections
//! that traffic needs, and publishes a new snapshot whenever something changed. All waiting is done by
//! short tasks of its own that report back as events, so a node that hangs delays nothing but its own
//! answer.
//!
//! Wishes coalesce instead of queueing: while a batch of collections is being fetched, further names
//! gather, each once, and form the next batch. Waiters hold no place in a queue; they watch the
//! snapshot until it knows their name.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use rustc_hash::FxHashMap;
use tokio::{
    sync::{Notify, watch},
    task::{JoinError, JoinSet},
    time::Instant,
};

use super::{
    Address, ApiError, Change, ClusterApi, ClusterView, Epoch, Hashing, Lookup, Node, Topology, Version,
    ViewKind,
    fetch::{Batch, Fetched},
    membership::{Member, Membership, Peers, Progress},
    snapshot::{Applied, Known},
};
use crate::{
    dice::Dice,
    discovery::{Candidates, DiscoveryHandle, ResolveError},
    task::AbortOnDrop,
};

/// Rounds on demand are at least this far apart.
const REFRESH_GAP: Duration = Duration::from_millis(100);

/// Collection names that may wait for their first fetch; beyond it, unknown names are routed unknown.
const MAX_WANTED: usize = 256;

/// Collections whose placement is kept.
const MAX_FOUND: usize = 10_000;

/// Names that are remembered as absent.
const MAX_ABSENT: usize = 1_000;

/// The pause before a collection that could not be read is asked for again.
const FETCH_PAUSE: Duration = Duration::from_secs(1);

/// How long the first requests wait for a node to be found.
const FIRST_NODE: Duration = Duration::from_secs(2);

/// A change that a node has not applied within this time is no longer waited for; Qdrant itself waits
/// as long for consensus.
const CHANGE_DEADLINE: Duration = Duration::from_secs(10);

/// How long the version that a node has told is believed.
const VERSION_AGE: Duration = Duration::from_secs(60);

/// How long all nodes may tell of less than was told before, until that counts as lost. A node that starts again has read
/// its log sooner.
const ROLLED_BACK: Duration = Duration::from_secs(15);

/// How the topology is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How often every node is asked for its `GET /cluster`. Default: two seconds, jittered.
    pub probe_interval: Duration,
    /// How long the first request for a collection waits for its placement. Default: 500 ms.
    pub first_fetch: Duration,
}

/// Learns which addresses answer; balancing uses it to bring back a node that had failed.
pub trait Observer: Send + Sync + 'static {
    /// The address answered.
    fn answered(&self, address: Address);
    /// The address did not answer.
    fn failed(&self, address: Address);
    /// The address now belongs to another peer, or to none.
    fn forgotten(&self, address: Address);
}

/// Something that stands in the way of a full topology.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Problem {
    /// A name did not resolve.
    Name(ResolveError),
    /// A node could not be asked.
    Node(Address, ApiError),
    /// A node runs without cluster mode.
    Standalone(Address),
    /// An address answers as a peer of another cluster.
    Stranger(Address),
}

/// Reads the topology and asks for more of it; the worker stops when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct TopologyHandle {
    shared: Arc<Shared>,
    published: watch::Receiver<()>,
    settings: Settings,
    _worker: Arc<AbortOnDrop>,
}

/// What the worker shares with the handles.
#[derive(Debug, Default)]
struct Shared {
    current: ArcSwap<Topology>,
    /// The newest change of metadata that went through this router.
    change: ArcSwap<Change>,
    problems: ArcSwap<Vec<Problem>>,
    /// When a node last told what it knows.
    heard: ArcSwap<Option<Instant>>,
    /// Whether every candidate of a complete discovery has been asked at least once.
    surveyed: AtomicBool,
    /// The names whose placement is wanted, and since when.
    wanted: DashMap<String, Instant>,
    refresh: AtomicBool,
    wake: Notify,
}

enum Event {
    /// With the number of the newest change when the node was asked.
    Probed(Address, u64, Result<ClusterView, ApiError>),
    Versioned(Address, Result<Version, ApiError>),
    Fetched(Batch, Fetched),
}

/// Parts of the topology that a snapshot must be made anew for.
#[derive(Clone, Copy, Debug, Default)]
struct Changed {
    members: bool,
    collections: bool,
}

struct Worker<A, O> {
    api: Arc<A>,
    observer: Arc<O>,
    discovery: DiscoveryHandle,
    settings: Settings,
    dice: Arc<Dice>,
    shared: Arc<Shared>,
    published: watch::Sender<()>,

    members: BTreeMap<Address, Member>,
    errors: HashMap<Address, ApiError>,
    candidates: Candidates,
    membership: Membership,
    /// The nodes of the cluster, as long as it is this one.
    cluster: Vec<Node>,
    epoch: Option<Epoch>,
    /// Since when all nodes have been behind that epoch.
    behind_since: Option<Instant>,
    aliases: (Option<Epoch>, Arc<HashMap<String, String>>),
    /// Shared with the last snapshot until something of it changes.
    collections: Arc<FxHashMap<Arc<str>, Lookup>>,
    /// The peers that somebody told last.
    peers: Arc<Peers>,
    /// What has changed since the last snapshot: an unchanged answer of a node costs next to nothing.
    changed: Changed,

    tasks: JoinSet<Event>,
    probing: BTreeSet<Address>,
    versioning: BTreeSet<Address>,
    fetching: bool,
    /// Collections that could not be read, and when they may be asked for again.
    unreadable: HashMap<String, Instant>,
    last_round: Instant,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self { probe_interval: Duration::from_secs(2), first_fetch: Duration::from_millis(500) }
    }
}

// === impl Problem ===

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(error) => error.fmt(f),
            Self::Node(_, error) => error.fmt(f),
            Self::Standalone(address) => write!(
                f,
                "{address}: runs without cluster mode; set `cluster.enabled: true` on every node, or point the client at it directly"
            ),
            Self::Stranger(address) => write!(
                f,
                "{address}: belongs to another cluster; check that the headless Service selects the pods of one cluster only"
            ),
        }
    }
}

// === impl TopologyHandle ===

impl TopologyHandle {
    /// Starts the worker on the current tokio runtime.
    #[must_use]
    pub fn follow<A: ClusterApi, O: Observer>(
        discovery: DiscoveryHandle,
        api: A,
        observer: Arc<O>,
        settings: Settings,
        dice: Arc<Dice>,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let (sender, published) = watch::channel(());
        let worker = Worker {
            api: Arc::new(api),
            observer,
            discovery,
            settings,
            dice,
            shared: shared.clone(),
            published: sender,
            members: BTreeMap::new(),
            errors: HashMap::new(),
            candidates: Candidates::default(),
            membership: Membership::default(),
            cluster: Vec::new(),
            epoch: None,
            behind_since: None,
            aliases: Default::default(),
            collections: Arc::default(),
            peers: Arc::default(),
            changed: Changed::default(),
            tasks: JoinSet::new(),
            probing: BTreeSet::new(),
            versioning: BTreeSet::new(),
            fetching: false,
            unreadable: HashMap::new(),
            last_round: Instant::now(),
        };
        let worker = AbortOnDrop::spawn(worker.run());
        Self { shared, published, settings, _worker: Arc::new(worker) }
    }

    /// The topology as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Topology> {
        self.shared.current.load_full()
    }

    /// What stands in the way of a full topology, as it is now.
    #[must_use]
    pub fn problems(&self) -> Arc<Vec<Problem>> {
        self.shared.problems.load_full()
    }

    /// How long ago a node last told what it knows, and so confirmed the snapshot or changed it; `None` before any has. What a
    /// node tells that knows of no leader, or has changes to apply, is not counted.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.shared.heard.load().map(|heard| heard.elapsed())
    }

    /// Waits for the next snapshot.
    pub async fn changed(&mut self) {
        if self.published.changed().await.is_err() {
            // The worker lives as long as this handle, so only a runtime that shuts down comes here.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until every candidate has been asked once, so that [`snapshot`](Self::snapshot) and
    /// [`problems`](Self::problems) say how the first survey went.
    pub async fn surveyed(&self) {
        let mut published = self.published.clone();
        while !self.shared.surveyed.load(Ordering::Acquire) {
            if published.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// A snapshot that knows `collection` where it can be known.
    ///
    /// Returns at once unless this is the first request for the name: then it waits for the
    /// placement, at most [`Settings::first_fetch`]. A placement of an earlier epoch is used as it
    /// is while a newer one is fetched.
    pub async fn knowing(&self, collection: &str) -> Arc<Topology> {
        self.look_up(self.snapshot(), collection).await.0
    }

    /// Like [`knowing`](Self::knowing), with what that snapshot knows of `collection`. It is `newest`, unless there was
    /// something to wait for.
    pub(crate) async fn look_up(
        &self,
        newest: Arc<Topology>,
        collection: &str,
    ) -> (Arc<Topology>, Option<Known>) {
        match self.glance(&newest, collection) {
            Ok(known) => (newest, known),
            // The wait lies in a box, which keeps the future of everybody else small.
            Err(wanted_since) => Box::pin(self.learn(collection, wanted_since)).await,
        }
    }

    /// What `newest` knows of `collection`. As an error, since when it is wanted, if that is worth waiting for.
    pub(crate) fn glance(&self, newest: &Topology, collection: &str) -> Result<Option<Known>, Instant> {
        let known = newest.known(collection);
        let Some(epoch) = newest.epoch() else { return Ok(known) };
        let is_stale = match &known {
            Some(Known { lookup: Lookup::Found(found), .. }) => found.epoch < epoch,
            Some(Known { lookup: Lookup::Absent(as_of), .. }) => *as_of < epoch,
            None => true,
        };
        let wanted_since = if is_stale { self.want(collection) } else { None };
        match wanted_since {
            Some(wanted_since) if known.is_none() => Err(wanted_since),
            _ => Ok(known),
        }
    }

    /// What is known of `collection` once its placement has been read, or has been waited for long enough.
    pub(crate) async fn learn(
        &self,
        collection: &str,
        wanted_since: Instant,
    ) -> (Arc<Topology>, Option<Known>) {
        let learnt = async {
            let mut published = self.published.clone();
            loop {
                published.borrow_and_update();
                let snapshot = self.snapshot();
                let known = snapshot.known(collection);
                if known.is_some() || published.changed().await.is_err() {
                    return (snapshot, known);
                }
            }
        };
        // Whoever comes later waits for the rest of that time only, and after it not at all.
        let in_time = tokio::time::timeout_at(wanted_since + self.settings.first_fetch, learnt).await;
        in_time.unwrap_or_else(|_| {
            let snapshot = self.snapshot();
            let known = snapshot.known(collection);
            (snapshot, known)
        })
    }

    /// A snapshot with somebody to send requests to, where there is one.
    ///
    /// Returns at once but for the moments after the start: then it waits until a node or the
    /// fallback has been found, or all candidates have been asked, for two seconds at most.
    pub async fn found(&self) -> Arc<Topology> {
        let is_over = |snapshot: &Topology| {
            let is_found = !snapshot.nodes().is_empty() || !snapshot.fallback().is_empty();
            is_found || self.shared.surveyed.load(Ordering::Acquire)
        };
        let snapshot = self.snapshot();
        if is_over(&snapshot) {
            return snapshot;
        }
        let mut published = self.published.clone();
        let found = async {
            loop {
                published.borrow_and_update();
                let snapshot = self.snapshot();
                if is_over(&snapshot) || published.changed().await.is_err() {
                    return snapshot;
                }
            }
        };
        tokio::time::timeout(FIRST_NODE, found).await.unwrap_or_else(|_| self.snapshot())
    }

    /// Notes that the node at `by` has applied a change of `collection`, or of metadata at large.
    ///
    /// Consensus brings it to the other nodes a little later. Until they are known to have it, those
    /// that do are preferred for what the change concerns: see [`Change::is_applied_by`].
    pub fn note_change(&self, by: Address, collection: Option<&str>) {
        self.shared.change.rcu(|last| Change {
            number: last.number + 1,
            by: Some(by),
            at: Some(Instant::now()),
            // Of two changes under way, only "everything" covers both.
            collection: collection
                .filter(|&name| {
                    self.snapshot().applied.covers(last) || last.collection.as_deref() == Some(name)
                })
                .map(str::to_owned),
        });
        self.refresh();
    }

    /// The newest change of metadata that went through this router.
    #[must_use]
    pub fn change(&self) -> Arc<Change> {
        self.shared.change.load_full()
    }

    /// Asks for a look at every node before the next one is due.
    pub fn refresh(&self) {
        if !self.shared.refresh.swap(true, Ordering::AcqRel) {
            self.shared.wake.notify_one();
        }
    }

    /// Notes that the placement of `collection` is wanted, and tells since when; `None` where too
    /// many are wanted already.
    fn want(&self, collection: &str) -> Option<Instant> {
        if let Some(since) = self.shared.wanted.get(collection) {
            return Some(*since);
        }
        if self.shared.wanted.len() >= MAX_WANTED {
            return None;
        }
        let now = Instant::now();
        self.shared.wanted.insert(collection.to_owned(), now);
        self.shared.wake.notify_one();
        Some(now)
    }
}

// === impl Worker ===

impl<A: ClusterApi, O: Observer> Worker<A, O> {
    async fn run(mut self) {
        self.adopt_candidates();
        loop {
            let due = self.next_round();
            let shared = self.shared.clone();
            tokio::select! {
                biased;
                () = self.discovery.changed() => self.adopt_candidates(),
                Some(event) = self.tasks.join_next() => {
                    self.note(event);
                    // Of many answers at once one topology is made.
                    while let Some(event) = self.tasks.try_join_next() {
                        self.note(event);
                    }
                    self.publish();
                }
                () = shared.wake.notified() => {}
                () = tokio::time::sleep_until(due) => self.start_round(),
            }
            self.start_fetch();
        }
    }

    fn note(&mut self, event: Result<Event, JoinError>) {
        match event {
            Ok(Event::Probed(address, asked_after, outcome)) => {
                self.probing.remove(&address);
                self.observe(address, asked_after, outcome);
            }
            Ok(Event::Versioned(address, outcome)) => self.note_version(address, outcome),
            Ok(Event::Fetched(batch, fetched)) => self.adopt_fetched(batch, fetched),
            Err(error) => tracing::error!(%error, "a topology task ended early"),
        }
    }

    fn next_round(&self) -> Instant {
        let pause = if self.shared.refresh.load(Ordering::Acquire) {
            REFRESH_GAP
        } else {
            self.dice.jitter(self.settings.probe_interval)
        };
        self.last_round + pause
    }

    fn start_round(&mut self) {
        self.shared.refresh.store(false, Ordering::Release);
        self.last_round = Instant::now();
        let addresses: Vec<Address> = self.members.keys().copied().collect();
        addresses.into_iter().for_each(|address| self.probe(address));
    }

    fn probe(&mut self, address: Address) {
        if self.probing.insert(address) {
            let api = self.api.clone();
            let change = self.shared.change.load().number;
            self.tasks.spawn(async move { Event::Probed(address, change, api.cluster(address).await) });
        }
    }

    /// Takes over what discovery lists. An address that vanished stays while it answers.
    fn adopt_candidates(&mut self) {
        self.candidates = self.discovery.take();
        let mut vanished = Vec::new();
        for (&address, member) in &mut self.members {
            let was_listed =
                std::mem::replace(&mut member.listed, self.candidates.nodes.binary_search(&address).is_ok());
            if was_listed && !member.listed {
                vanished.push(address);
            }
        }
        self.changed.members = true;
        // Another pod may have the address by now.
        vanished.into_iter().for_each(|address| self.probe(address));
        for address in self.candidates.nodes.clone() {
            if let Entry::Vacant(entry) = self.members.entry(address) {
                entry.insert(Member { listed: true, ..Member::default() });
                self.probe(address);
            }
        }
        self.forget_vanished();
        self.publish();
    }

    /// Notes what `address` answered when it was asked after change number `asked_after`.
    fn observe(&mut self, address: Address, asked_after: u64, outcome: Result<ClusterView, ApiError>) {
        let Some(member) = self.members.get_mut(&address) else { return };
        let before = member.clone();
        match outcome {
            Ok(mut view) => {
                if let Some(peers) = view.share_peers(member.peers().into_iter().chain([&self.peers])) {
                    self.peers = peers;
                }
                let is_reliable = matches!(
                    view.kind,
                    ViewKind::Standalone | ViewKind::Member { settled: true, leader: Some(_), .. }
                );
                if is_reliable {
                    self.shared.heard.store(Arc::new(Some(Instant::now())));
                }
                let peer = |view: &ClusterView| match view.kind {
                    ViewKind::Standalone => None,
                    ViewKind::Member { peer, .. } => Some(peer),
                };
                if member.view.as_ref().is_some_and(|old| peer(old) != peer(&view)) {
                    tracing::info!(%address, peer = ?peer(&view), "another peer answers at this address");
                    self.observer.forgotten(address);
                    member.version = None;
                    member.progress = Progress::default();
                }
                if matches!(view.kind, ViewKind::Member { settled: true, .. }) {
                    member.progress.note(view.epoch, Instant::now());
                }
                if member.progress.is_settling() {
                    self.shared.refresh.store(true, Ordering::Release);
                }
                *member =
                    Member { reachable: true, view: Some(view), anonymous: false, asked_after, ..*member };
                self.observer.answered(address);
                self.errors.remove(&address);
                self.ask_version(address);
            }
            Err(error) => {
                match &error {
                    ApiError::Unreachable { .. } => {
                        member.reachable = false;
                        // What comes back may be another server.
                        member.version = None;
                        self.observer.failed(address);
                    }
                    // It answers, so requests may be sent to it; it only does not say who it is.
                    ApiError::Refused { .. } | ApiError::Unexpected { .. } => {
                        *member = Member { reachable: true, anonymous: true, ..member.clone() };
                        self.observer.answered(address);
                    }
                }
                if self.errors.get(&address).is_none_or(|old| old.to_string() != error.to_string()) {
                    tracing::warn!("{error}");
                }
                self.errors.insert(address, error);
            }
        }
        self.changed.members |= self.members.get(&address).is_none_or(|member| !member.is_like(&before));
        self.forget_vanished();
    }

    /// Asks for the version of a node that has not told it lately: a server changes its version only
    /// with a restart, which may go unnoticed.
    fn ask_version(&mut self, address: Address) {
        let told = self.members.get(&address).and_then(|member| member.version);
        if told.is_none_or(|(_, at)| at.elapsed() > VERSION_AGE) && self.versioning.insert(address) {
            let api = self.api.clone();
            self.tasks.spawn(async move { Event::Versioned(address, api.version(address).await) });
        }
    }

    fn note_version(&mut self, address: Address, outcome: Result<Version, ApiError>) {
        self.versioning.remove(&address);
        match (self.members.get_mut(&address), outcome) {
            (Some(member), Ok(version)) => {
                self.changed.members |= member.version.is_none_or(|(told, _)| told != version);
                member.version = Some((version, Instant::now()));
            }
            (_, Err(error)) => tracing::debug!("{error}"),
            (None, Ok(_)) => {}
        }
    }

    /// Drops what discovery no longer lists once it does not answer or is no peer of ours any more.
    fn forget_vanished(&mut self) {
        let strangers = &self.membership.strangers;
        let is_gone = |address: &Address, member: &Member| {
            !member.listed && (!member.reachable || strangers.contains(address))
        };
        let gone: Vec<Address> = self
            .members
            .iter()
            .filter(|(address, member)| is_gone(address, member))
            .map(|(&a, _)| a)
            .collect();
        for address in gone {
            self.changed.members = true;
            self.members.remove(&address);
            self.errors.remove(&address);
            self.observer.forgotten(address);
        }
    }

    /// Starts to fetch what is wanted from the nodes with the newest view, one batch at a time.
    fn start_fetch(&mut self) {
        let now = Instant::now();
        self.unreadable.retain(|_, until| *until > now);
        let aliases = &self.aliases.1;
        let is_unreadable = |name: &String| self.unreadable.contains_key(name);
        let is_readable =
            |name: &String| !is_unreadable(name) && !aliases.get(name).is_some_and(is_unreadable);
        self.shared.wanted.retain(|name, _| is_readable(name));
        let is_idle = self.shared.wanted.is_empty() || self.membership.freshest.is_empty();
        if self.fetching || is_idle {
            return;
        }
        let Some(epoch) = self.epoch.filter(|&epoch| self.membership.epoch == Some(epoch)) else { return };
        let mut nodes = self.membership.freshest.clone();
        let first = self.dice.throw() as usize % nodes.len();
        nodes.rotate_left(first);
        let mut names: Vec<String> = self.shared.wanted.iter().map(|wanted| wanted.key().clone()).collect();
        names.sort_unstable();
        let known_aliases = (self.aliases.0 == Some(epoch)).then(|| self.aliases.1.clone());
        let api = self.api.clone();
        self.fetching = true;
        let asked_after = self.shared.change.load().number;
        let batch = Batch { epoch, names, known_aliases, asked_after };
        self.tasks.spawn(async move {
            let fetched = batch.fetch(&*api, &nodes).await;
            Event::Fetched(batch, fetched)
        });
    }

    fn adopt_fetched(&mut self, batch: Batch, fetched: Fetched) {
        self.fetching = false;
        let Batch { epoch, names, asked_after, .. } = batch;
        if let Some(aliases) = fetched.aliases {
            let aliases = if *self.aliases.1 == aliases { self.aliases.1.clone() } else { Arc::new(aliases) };
            self.aliases = (Some(epoch), aliases);
        }
        let asked_nothing = fetched.collections.is_empty();
        for (name, outcome) in fetched.collections {
            match outcome {
                Ok(Some(collection)) => self.remember(name, Lookup::Found(Arc::new(collection))),
                Ok(None) => self.remember(name, Lookup::Absent(epoch)),
                Err(error) => self.note_unreadable(name, &error),
            }
        }
        match &fetched.after {
            // The names stay wanted: another node is asked at once.
            Err(ApiError::Unreachable { .. }) if asked_nothing => {}
            outcome => {
                for name in &names {
                    self.shared.wanted.remove(name);
                }
                if let (true, Err(error)) = (asked_nothing, outcome) {
                    names.into_iter().for_each(|name| self.note_unreadable(name, error));
                }
            }
        }
        self.observe(fetched.from, asked_after, fetched.after);
    }

    /// Lets requests for a collection that cannot be read go on without its placement. It counts as
    /// stale, so that it is asked for again while there is traffic, but not at every request.
    fn note_unreadable(&mut self, name: String, error: &ApiError) {
        tracing::warn!(collection = name, "placement unknown: {error}");
        self.remember(name.clone(), Lookup::Absent(Epoch::default()));
        if self.unreadable.len() < MAX_ABSENT {
            self.unreadable.insert(name, Instant::now() + FETCH_PAUSE);
        }
    }

    /// Stores a lookup unless a newer one is there, and keeps their number bounded.
    fn remember(&mut self, name: String, lookup: Lookup) {
        let age = |lookup: &Lookup| match lookup {
            Lookup::Found(collection) => collection.epoch,
            Lookup::Absent(epoch) => *epoch,
        };
        let is_found = |lookup: &Lookup| matches!(lookup, Lookup::Found(_));
        if self.collections.get(&*name).is_some_and(|old| age(old) > age(&lookup)) {
            return;
        }
        self.changed.collections = true;
        let cap = if is_found(&lookup) { MAX_FOUND } else { MAX_ABSENT };
        let alike = || self.collections.iter().filter(|(_, other)| is_found(other) == is_found(&lookup));
        if !self.collections.contains_key(&*name) && alike().count() >= cap {
            let oldest = alike().min_by_key(|(_, other)| age(other)).map(|(name, _)| name.clone());
            if let Some(oldest) = oldest {
                Arc::make_mut(&mut self.collections).remove(&oldest);
            }
        }
        Arc::make_mut(&mut self.collections).insert(name.into(), lookup);
    }

    /// Publishes what is known, if it differs from the last snapshot.
    fn publish(&mut self) {
        let mut changed = std::mem::take(&mut self.changed);
        changed.members |= self.is_rolled_back();
        if changed.members {
            self.derive_membership();
        }
        let previous = self.shared.current.load_full();
        let applied = self.applied();
        let is_same = !(changed.members || changed.collections || self.changed.collections)
            && previous.applied == applied
            && Arc::ptr_eq(&previous.aliases, &self.aliases.1);
        let first_survey = self.survey();
        if is_same && !first_survey {
            return;
        }
        self.changed = Changed::default();
        let nodes = match *previous.nodes == *self.membership.nodes {
            true => previous.nodes.clone(),
            false => self.membership.nodes.clone().into(),
        };
        let topology = Topology {
            epoch: self.epoch,
            consensus_leader: self.membership.leader,
            nodes,
            fallback: self.candidates.fallback.clone().into(),
            aliases: self.aliases.1.clone(),
            collections: self.collections.clone(),
            applied,
            hashing: Hashing::of(self.membership.nodes.iter().map(|node| node.version)),
        };
        // Each of a thousand nodes that tell the same news makes a new membership, and no news.
        if topology.is_like(&previous) && !first_survey {
            return;
        }
        self.shared.current.store(Arc::new(topology));
        self.published.send_replace(());
    }

    /// Who the nodes are, from what all of them say.
    fn derive_membership(&mut self) {
        let mut membership = Membership::of(&self.members, &self.cluster);
        let is_behind = membership.epoch.is_some()
            && membership.epoch < self.epoch
            && membership.nodes.iter().all(|node| node.reachable);
        self.behind_since = is_behind.then(|| self.behind_since.unwrap_or_else(Instant::now));
        if is_another_cluster(&self.cluster, &membership.nodes) {
            // Addresses may have gone to other pods since the names last resolved.
            if self.candidates.problems.is_empty() {
                tracing::warn!("all nodes belong to another cluster than before: starting from nothing");
                self.forget_collections();
            } else {
                self.behind_since = None;
                let strangers = membership.nodes.iter().map(|node| node.address).collect();
                membership = Membership { strangers, ..Membership::default() };
            }
        } else if self.is_rolled_back() {
            tracing::warn!("all nodes tell of less than before, as after a backup: starting from nothing");
            self.forget_collections();
        }
        if membership.nodes.iter().any(|node| node.peer.is_some()) {
            self.cluster.clone_from(&membership.nodes);
        }
        // An older view never replaces a newer one, as long as somebody may still have that.
        self.epoch = self.epoch.max(membership.epoch);
        for node in membership.nodes.iter().filter(|node| !self.membership.has(node)) {
            tracing::info!(address = %node.address, peer = node.peer, reachable = node.reachable, "node");
        }
        self.membership = membership;
    }

    /// Whether all nodes have been behind for so long that none of them will come to what they told before.
    fn is_rolled_back(&self) -> bool {
        self.behind_since.is_some_and(|since| since.elapsed() >= ROLLED_BACK)
    }

    fn forget_collections(&mut self) {
        (self.epoch, self.behind_since) = (None, None);
        self.aliases = Default::default();
        self.collections = Arc::default();
        self.changed.collections = true;
    }

    /// Who is known to have applied the newest change. While somebody who answers has not, the next
    /// round of questions comes soon.
    fn applied(&self) -> Applied {
        let change = self.shared.change.load();
        let required_of = |by: &Address| {
            let member = self.members.get(by).filter(|member| member.asked_after >= change.number)?;
            match member.view {
                Some(ClusterView { kind: ViewKind::Member { settled: true, .. }, epoch }) => Some(epoch),
                _ => None,
            }
        };
        let live = || self.membership.nodes.iter().filter(|node| node.reachable).map(|node| node.address);
        let is_over = change.at.is_none_or(|at| at.elapsed() > CHANGE_DEADLINE);
        let Some(by) = change.by.filter(|&by| !is_over && live().any(|address| address == by)) else {
            return Applied { change: change.number, by: None };
        };
        let required = required_of(&by);
        let applied =
            |address: &Address| self.members.get(address).and_then(|member| member.progress.applied());
        let has_it = |address: &Address| required.is_some() && applied(address) >= required;
        if live().all(|address| has_it(&address)) {
            return Applied { change: change.number, by: None };
        }
        self.shared.refresh.store(true, Ordering::Release);
        Applied { change: change.number, by: Some(live().filter(has_it).collect()) }
    }

    /// Tells the problems, and whether the first survey has just ended.
    fn survey(&self) -> bool {
        let names = self.candidates.problems.iter().cloned().map(Problem::Name);
        let nodes = self.errors.iter().map(|(&address, error)| Problem::Node(address, error.clone()));
        let standalone = self.members.iter().filter_map(|(&address, member)| match &member.view {
            Some(ClusterView { kind: ViewKind::Standalone, .. }) => Some(Problem::Standalone(address)),
            _ => None,
        });
        let strangers = self.membership.strangers.iter().copied().map(Problem::Stranger);
        self.shared.problems.store(Arc::new(names.chain(nodes).chain(standalone).chain(strangers).collect()));

        let asked = |(address, member): (&Address, &Member)| {
            member.view.is_some() || member.anonymous || self.errors.contains_key(address)
        };
        let surveyed = self.candidates.complete && self.members.iter().all(asked);
        surveyed && !self.shared.surveyed.swap(true, Ordering::AcqRel)
    }
}

/// Whether `nodes` form another cluster than the one that is known.
fn is_another_cluster(known: &[Node], nodes: &[Node]) -> bool {
    let peers = |nodes: &[Node]| nodes.iter().filter_map(|node| node.peer).collect::<BTreeSet<_>>();
    let (known, nodes) = (peers(known), peers(nodes));
    !known.is_empty() && !nodes.is_empty() && known.is_disjoint(&nodes)
}

#[cfg(test)]
mod tests;
