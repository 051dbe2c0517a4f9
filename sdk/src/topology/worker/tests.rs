use std::sync::Mutex;

use super::*;
use crate::{
    discovery::{Answer, Host, Resolve, Sources},
    topology::{Collection, PeerId, Shard},
};

/// A cluster that answers as the test says and counts what it was asked.
#[derive(Clone, Default)]
struct FakeCluster(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    nodes: BTreeMap<u8, FakeNode>,
    collections: BTreeSet<String>,
    aliases: HashMap<String, String>,
    /// Placements, for every node.
    unreadable: bool,
    placements_asked: usize,
    cluster_asked: usize,
}

#[derive(Clone)]
struct FakeNode {
    peer: PeerId,
    peers: Vec<PeerId>,
    epoch: Epoch,
    leader: Option<PeerId>,
    settled: bool,
    /// Accepts and never answers.
    hangs: bool,
    refuses: bool,
}

impl FakeCluster {
    /// Nodes 10.0.0.1, .2, … with peer ids 1, 2, …, all at commit 10.
    fn of(count: u8) -> Self {
        let cluster = Self::default();
        let peers: Vec<PeerId> = (1..=count).map(PeerId::from).collect();
        for last in 1..=count {
            let node = FakeNode {
                peer: last.into(),
                peers: peers.clone(),
                epoch: Epoch { term: 1, commit: 10 },
                leader: Some(1),
                settled: true,
                hangs: false,
                refuses: false,
            };
            cluster.lock().nodes.insert(last, node);
        }
        cluster
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("lock")
    }

    fn node(&self, last: u8, change: impl FnOnce(&mut FakeNode)) {
        change(self.lock().nodes.get_mut(&last).expect("a node"));
    }

    /// All nodes apply entries up to this one.
    fn commit(&self, commit: u64) {
        self.lock().nodes.values_mut().for_each(|node| node.epoch.commit = commit);
    }

    async fn find(&self, at: Address) -> Result<FakeNode, ApiError> {
        let last = match at.ip {
            std::net::IpAddr::V4(ip) => ip.octets()[3],
            std::net::IpAddr::V6(_) => 0,
        };
        let node = self.lock().nodes.get(&last).cloned();
        let url = at.to_string();
        match node {
            Some(node) if node.hangs => {
                tokio::time::sleep(Duration::from_secs(2)).await;
                Err(ApiError::Unreachable { url, reason: "no answer".to_owned() })
            }
            Some(node) if node.refuses => {
                Err(ApiError::Refused { url, status: http::StatusCode::UNAUTHORIZED, key: "a test" })
            }
            Some(node) => Ok(node),
            None => Err(ApiError::Unreachable { url, reason: "refused".to_owned() }),
        }
    }
}

impl ClusterApi for FakeCluster {
    async fn version(&self, _: Address) -> Result<Version, ApiError> {
        Ok(Version { major: 1, minor: 18, patch: 3 })
    }

    async fn cluster(&self, address: Address) -> Result<ClusterView, ApiError> {
        self.lock().cluster_asked += 1;
        let node = self.find(address).await?;
        let peers = node.peers.iter().map(|&peer| (peer, Some(format!("q-{peer}.q-headless")))).collect();
        let kind = ViewKind::Member {
            peer: node.peer,
            peers: Arc::new(peers),
            leader: node.leader,
            settled: node.settled,
        };
        Ok(ClusterView { kind, epoch: node.epoch })
    }

    async fn placement(
        &self,
        address: Address,
        name: &str,
        epoch: Epoch,
    ) -> Result<Option<Collection>, ApiError> {
        self.lock().placements_asked += 1;
        self.find(address).await?;
        // As long as a real answer takes, so that others can ask meanwhile.
        tokio::time::sleep(Duration::from_millis(1)).await;
        if self.lock().unreadable {
            let url = address.to_string();
            return Err(ApiError::Unexpected { url, reason: "a test".to_owned() });
        }
        let shards: Vec<Shard> = Vec::new();
        Ok(self.lock().collections.contains(name).then(|| Collection::new(epoch, shards, None, 0)))
    }

    async fn aliases(&self, address: Address) -> Result<HashMap<String, String>, ApiError> {
        self.find(address).await?;
        Ok(self.lock().aliases.clone())
    }
}

/// Names are the last octets of the addresses: "1 2 3".
#[derive(Clone, Default)]
struct Octets {
    fails: Arc<AtomicBool>,
}

impl Resolve for Octets {
    async fn resolve(&self, name: &str) -> Result<Answer, ResolveError> {
        if self.fails.load(Ordering::Relaxed) {
            let name = name.to_owned();
            return Err(ResolveError { asked: name.clone(), name, reason: "no answer".to_owned() });
        }
        let addresses =
            name.split('-').filter_map(|last| Some([10, 0, 0, last.parse().ok()?].into())).collect();
        Ok(Answer { addresses, ttl: Duration::from_secs(5) })
    }
}

#[derive(Default)]
struct Nobody;

impl Observer for Nobody {
    fn answered(&self, _: Address) {}
    fn failed(&self, _: Address) {}
    fn forgotten(&self, _: Address) {}
}

async fn follow(cluster: &FakeCluster, names: &str) -> TopologyHandle {
    follow_by(Octets::default(), cluster, names).await
}

async fn follow_by(octets: Octets, cluster: &FakeCluster, names: &str) -> TopologyHandle {
    let dice = Arc::new(Dice::seeded(3));
    let sources = Sources { headless: Some(Host::named(names)), ..Sources::new() };
    let discovery = sources.follow(octets, dice.clone());
    let handle =
        TopologyHandle::follow(discovery, cluster.clone(), Arc::new(Nobody), Settings::default(), dice);
    handle.surveyed().await;
    a_while().await;
    handle
}

fn address(last: u8) -> Address {
    Address { ip: [10, 0, 0, last].into(), rest_port: 6333, grpc_port: 6334 }
}

/// Several probe intervals.
async fn a_while() {
    tokio::time::sleep(Duration::from_secs(10)).await;
}

fn is_found(snapshot: &Topology, name: &str) -> bool {
    matches!(snapshot.collection(name), Some(Lookup::Found(_)))
}

#[tokio::test(start_paused = true)]
async fn one_fetch_serves_all_who_wait() {
    let cluster = FakeCluster::of(3);
    cluster.lock().collections.insert("books".to_owned());
    let topology = follow(&cluster, "1-2-3").await;
    let asked: Vec<_> = (0..100)
        .map(|_| {
            let topology = topology.clone();
            tokio::spawn(async move { topology.knowing("books").await })
        })
        .collect();
    for snapshot in asked {
        assert!(is_found(&snapshot.await.expect("a snapshot"), "books"));
    }
    assert_eq!(cluster.lock().placements_asked, 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_hangs_keeps_nobody_waiting() {
    for hanging in 1..=3 {
        let cluster = FakeCluster::of(3);
        cluster.lock().collections.insert("books".to_owned());
        let topology = follow(&cluster, "1-2-3").await;
        cluster.node(hanging, |node| node.hangs = true);
        let snapshot = topology.knowing("books").await;
        assert!(is_found(&snapshot, "books"), "{hanging} hangs");
    }
}

#[tokio::test(start_paused = true)]
async fn another_cluster_is_believed_while_names_resolve() {
    let cluster = FakeCluster::of(2);
    let octets = Octets::default();
    let topology = follow_by(octets.clone(), &cluster, "1-2").await;
    octets.fails.store(true, Ordering::Relaxed);
    a_while().await;
    for last in [1, 2] {
        cluster.node(last, |node| (node.peer, node.peers) = (PeerId::from(last) + 90, vec![91, 92]));
    }
    a_while().await;
    assert_eq!(topology.snapshot().nodes(), [], "the addresses may have gone to other pods");

    octets.fails.store(false, Ordering::Relaxed);
    a_while().await;
    let peers: Vec<_> = topology.snapshot().nodes().iter().map(|node| node.peer).collect();
    assert_eq!(peers, [Some(91), Some(92)], "it is where the names say");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_fetched_while_the_epoch_stands_still() {
    let cluster = FakeCluster::of(3);
    cluster.lock().collections.insert("books".to_owned());
    let topology = follow(&cluster, "1-2-3").await;
    for _ in 0..10 {
        topology.knowing("books").await;
        topology.knowing("nowhere").await;
        a_while().await;
    }
    assert_eq!(cluster.lock().placements_asked, 2);

    cluster.commit(11);
    a_while().await;
    assert_eq!(cluster.lock().placements_asked, 2, "without traffic nothing is needed");
    let stale = topology.knowing("books").await;
    assert!(is_found(&stale, "books"), "the earlier placement serves at once");
    a_while().await;
    assert_eq!(cluster.lock().placements_asked, 3);
    let Some(Lookup::Found(books)) = topology.snapshot().collection("books").cloned() else {
        panic!("books is known");
    };
    assert_eq!(books.epoch.commit, 11);
}

#[tokio::test(start_paused = true)]
async fn a_placement_read_before_its_entry_is_applied_is_read_again() {
    let cluster = FakeCluster::of(3);
    let topology = follow(&cluster, "1-2-3").await;
    topology.knowing("books").await;
    // The nodes tell the new commit, and nothing left to apply, before the collection is there.
    cluster.commit(11);
    topology.refresh();
    for _ in 0..30 {
        topology.knowing("books").await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    cluster.lock().collections.insert("books".to_owned());
    for _ in 0..30 {
        topology.knowing("books").await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(is_found(&topology.snapshot(), "books"));
}

#[tokio::test(start_paused = true)]
async fn an_alias_leads_to_its_collection() {
    let cluster = FakeCluster::of(3);
    cluster.lock().collections.insert("books-v2".to_owned());
    cluster.lock().aliases.insert("books".to_owned(), "books-v2".to_owned());
    let topology = follow(&cluster, "1-2-3").await;
    assert!(is_found(&*topology.knowing("books").await, "books"));
    assert!(is_found(&*topology.knowing("books-v2").await, "books-v2"));
    assert_eq!(cluster.lock().placements_asked, 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_grows_old_without_a_leader() {
    let cluster = FakeCluster::of(3);
    let topology = follow(&cluster, "1-2-3").await;
    a_while().await;
    assert!(topology.age().is_some_and(|age| age < Duration::from_secs(5)), "{:?}", topology.age());
    for last in 1..=3 {
        cluster.node(last, |node| node.leader = None);
    }
    a_while().await;
    assert!(topology.age().is_some_and(|age| age > Duration::from_secs(5)), "{:?}", topology.age());
}

#[tokio::test(start_paused = true)]
async fn an_older_view_never_replaces_a_newer_one() {
    let cluster = FakeCluster::of(3);
    cluster.commit(20);
    let topology = follow(&cluster, "1-2-3").await;
    cluster.commit(15);
    a_while().await;
    assert_eq!(topology.snapshot().epoch(), Some(Epoch { term: 1, commit: 20 }));
    cluster.commit(21);
    a_while().await;
    assert_eq!(topology.snapshot().epoch(), Some(Epoch { term: 1, commit: 21 }));
}

#[tokio::test(start_paused = true)]
async fn a_cluster_restored_from_a_backup_starts_a_new_view() {
    let cluster = FakeCluster::of(3);
    cluster.commit(500);
    cluster.lock().collections.insert("books".to_owned());
    let topology = follow(&cluster, "1-2-3").await;
    topology.knowing("books").await;
    cluster.lock().collections.clear();
    cluster.commit(300);
    // The third may have what the others lack.
    cluster.node(3, |node| node.hangs = true);
    a_while().await;
    a_while().await;
    a_while().await;
    assert!(is_found(&topology.snapshot(), "books"));
    cluster.node(3, |node| node.hangs = false);
    a_while().await;
    a_while().await;
    let snapshot = topology.knowing("books").await;
    assert_eq!(snapshot.epoch(), Some(Epoch { term: 1, commit: 300 }));
    assert!(!is_found(&snapshot, "books"));
}

#[tokio::test(start_paused = true)]
async fn a_cluster_built_anew_starts_a_new_view() {
    let cluster = FakeCluster::of(2);
    cluster.commit(500);
    cluster.lock().collections.insert("books".to_owned());
    let topology = follow(&cluster, "1-2").await;
    topology.knowing("books").await;
    for last in 1..=2 {
        cluster.node(last, |node| {
            node.peer += 100;
            node.peers = vec![101, 102];
            node.epoch = Epoch { term: 1, commit: 3 };
        });
    }
    a_while().await;
    let snapshot = topology.snapshot();
    assert_eq!(snapshot.epoch(), Some(Epoch { term: 1, commit: 3 }));
    assert_eq!(snapshot.nodes().iter().filter_map(|node| node.peer).collect::<Vec<_>>(), [101, 102]);
    assert!(snapshot.collection("books").is_none(), "what the old cluster held is forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_hangs_delays_nobody_and_is_not_asked_about_collections() {
    let cluster = FakeCluster::of(3);
    cluster.lock().collections.insert("books".to_owned());
    let topology = follow(&cluster, "1-2-3").await;
    cluster.node(2, |node| node.hangs = true);
    a_while().await;
    let node = topology.snapshot().node(2).cloned().expect("it is still a node");
    assert!(!node.reachable);
    let began = Instant::now();
    assert!(is_found(&*topology.knowing("books").await, "books"));
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_first_request_waits_no_longer_than_allowed() {
    let cluster = FakeCluster::of(1);
    let topology = follow(&cluster, "1").await;
    cluster.node(1, |node| node.hangs = true);
    let began = Instant::now();
    let snapshot = topology.knowing("books").await;
    assert!(snapshot.collection("books").is_none());
    assert_eq!(began.elapsed(), Settings::default().first_fetch);
}

#[tokio::test(start_paused = true)]
async fn a_placement_that_cannot_be_read_holds_up_no_second_request() {
    let cluster = FakeCluster::of(1);
    let topology = follow(&cluster, "1").await;
    cluster.node(1, |node| node.refuses = true);
    topology.knowing("books").await;
    let began = Instant::now();
    for _ in 0..1000 {
        topology.knowing("books").await;
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    let before = cluster.lock().cluster_asked;
    a_while().await;
    assert!(cluster.lock().cluster_asked - before < 20, "no busy loop");
}

#[tokio::test(start_paused = true)]
async fn a_collection_that_cannot_be_read_is_let_be_for_a_while_under_any_name() {
    let cluster = FakeCluster::of(1);
    cluster.lock().collections.insert("books-v2".to_owned());
    cluster.lock().aliases.insert("books".to_owned(), "books-v2".to_owned());
    let topology = follow(&cluster, "1").await;
    topology.knowing("books").await;
    cluster.lock().unreadable = true;
    cluster.commit(20);
    a_while().await;
    let before = cluster.lock().placements_asked;
    for _ in 0..1000 {
        topology.knowing("books").await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let asked = cluster.lock().placements_asked - before;
    assert!(asked <= 2, "{asked} times within a second");
}

#[tokio::test(start_paused = true)]
async fn the_name_of_the_collection_is_forgotten_before_memory_is() {
    let cluster = FakeCluster::of(1);
    let topology = follow(&cluster, "1").await;
    for i in 0..MAX_ABSENT + 200 {
        topology.knowing(&format!("nowhere-{i}")).await;
    }
    assert_eq!(topology.snapshot().collections.len(), MAX_ABSENT);
}

#[tokio::test(start_paused = true)]
async fn a_change_is_with_whoever_answered_it_until_all_have_it() {
    let cluster = FakeCluster::of(3);
    let topology = follow(&cluster, "1-2-3").await;
    assert!(!topology.change().concerns(None, &topology.snapshot()));

    // Node 1 has applied entry 11; node 2 follows soon, node 3 much later.
    cluster.node(1, |node| node.epoch.commit = 11);
    topology.note_change(address(1), Some("books"));
    let who = |topology: &TopologyHandle| {
        let (change, snapshot) = (topology.change(), topology.snapshot());
        (1..=3).filter(|&last| change.is_applied_by(address(last), &snapshot)).collect::<Vec<u8>>()
    };
    assert_eq!(who(&topology), [1], "at once, before anybody was asked");
    let (change, snapshot) = (topology.change(), topology.snapshot());
    assert!(change.concerns(Some("books"), &snapshot) && change.concerns(None, &snapshot));
    assert!(!change.concerns(Some("other"), &snapshot));

    cluster.node(2, |node| node.epoch.commit = 11);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(who(&topology), [1, 2]);

    cluster.node(3, |node| node.epoch.commit = 12);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(who(&topology), [1, 2, 3]);
    assert!(!topology.change().concerns(Some("books"), &topology.snapshot()));
}
