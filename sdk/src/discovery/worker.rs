//! Keeps the list of candidates fresh.

use std::{net::IpAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{Address, Host, Resolve, ResolveError};
use crate::{dice::Dice, task::AbortOnDrop};

/// Names are asked for again no sooner than this, whatever their TTL, and no sooner on demand.
const REFRESH_FLOOR: Duration = Duration::from_secs(1);

/// And no later than this: a new pod should not wait for a long TTL.
const REFRESH_CAP: Duration = Duration::from_secs(10);

/// More addresses than this are not a cluster but a mistake.
const MAX_ADDRESSES: usize = 1024;

/// Where nodes are looked for.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The headless Service.
    pub headless: Option<Host>,
    /// Fixed nodes, instead of or beside it.
    pub nodes: Vec<Host>,
    /// The ClusterIP Service; of several names, the first that resolves is used.
    pub fallback: Vec<Host>,
    /// The nodes' REST port, where a host names none.
    pub rest_port: u16,
    /// The nodes' gRPC port, where a host names none.
    pub grpc_port: u16,
}

/// What discovery has found so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    /// Addresses that may be nodes, ascending, each once.
    pub nodes: Vec<Address>,
    /// Addresses of the ClusterIP Service.
    pub fallback: Vec<Address>,
    /// Names that did not resolve when they were last asked for.
    pub problems: Vec<ResolveError>,
    /// Whether every name has been asked for at least once.
    pub complete: bool,
}

/// Follows the candidates; the worker stops when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct DiscoveryHandle {
    candidates: watch::Receiver<Candidates>,
    refresh: Arc<Notify>,
    _worker: Arc<AbortOnDrop>,
}

struct Worker<R> {
    resolver: R,
    sources: Vec<Source>,
    candidates: watch::Sender<Candidates>,
    refresh: Arc<Notify>,
    dice: Arc<Dice>,
}

/// One configured host and its last good answer.
struct Source {
    host: Host,
    role: Role,
    ports: (u16, u16),
    last_good: Vec<IpAddr>,
    problem: Option<ResolveError>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Node,
    Fallback,
}

// === impl Sources ===

impl Sources {
    /// No hosts yet, and Qdrant's own ports.
    #[must_use]
    pub fn new() -> Self {
        Self { rest_port: super::REST_PORT, grpc_port: super::GRPC_PORT, ..Self::default() }
    }

    /// Starts to resolve, on the current tokio runtime.
    #[must_use]
    pub fn follow<R: Resolve>(self, resolver: R, dice: Arc<Dice>) -> DiscoveryHandle {
        let ports = |host: &Host| {
            (host.rest_port.unwrap_or(self.rest_port), host.grpc_port.unwrap_or(self.grpc_port))
        };
        let nodes = self.headless.iter().chain(&self.nodes).map(|host| (host, Role::Node));
        let fallback = self.fallback.iter().map(|host| (host, Role::Fallback));
        let sources = nodes
            .chain(fallback)
            .map(|(host, role)| Source {
                ports: ports(host),
                host: host.clone(),
                role,
                last_good: Vec::new(),
                problem: None,
            })
            .collect();
        let (sender, candidates) = watch::channel(Candidates::default());
        let refresh = Arc::new(Notify::new());
        let worker = Worker { resolver, sources, candidates: sender, refresh: refresh.clone(), dice };
        let worker = AbortOnDrop::spawn(worker.run());
        DiscoveryHandle { candidates, refresh, _worker: Arc::new(worker) }
    }
}

// === impl DiscoveryHandle ===

impl DiscoveryHandle {
    /// The candidates as they are now.
    #[must_use]
    pub fn candidates(&self) -> Candidates {
        self.candidates.borrow().clone()
    }

    /// Waits until they change.
    pub(crate) async fn changed(&mut self) {
        if self.candidates.changed().await.is_err() {
            // The worker lives as long as this handle, so only a runtime that shuts down comes here.
            std::future::pending::<()>().await;
        }
    }

    /// The candidates, marked as seen.
    pub(crate) fn take(&mut self) -> Candidates {
        self.candidates.borrow_and_update().clone()
    }

    /// Asks for a look before the next one is due, at most one a second.
    pub fn refresh(&self) {
        self.refresh.notify_one();
    }
}

// === impl Worker ===

impl<R: Resolve> Worker<R> {
    async fn run(mut self) {
        loop {
            let asked_at = Instant::now();
            let ttl = self.round().await;
            let due = asked_at + self.dice.jitter(ttl.clamp(REFRESH_FLOOR, REFRESH_CAP));
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(due) => {}
                () = self.refresh.notified() => {
                    tokio::time::sleep_until(asked_at + REFRESH_FLOOR).await;
                }
            }
        }
    }

    /// Asks for every name, publishes what came of it, and tells for how long it holds.
    async fn round(&mut self) -> Duration {
        let answers = join_all(self.sources.iter().map(|source| async {
            match source.host.name.parse() {
                Ok(ip) => Ok((vec![ip], Duration::MAX)),
                Err(_) => self.resolver.resolve(&source.host.name).await.map(|a| (a.addresses, a.ttl)),
            }
        }))
        .await;
        // One of several names for the ClusterIP Service is enough.
        let has_fallback = self
            .sources
            .iter()
            .zip(&answers)
            .any(|(source, answer)| source.role == Role::Fallback && answer.is_ok());
        let mut holds = Duration::MAX;
        for (source, answer) in self.sources.iter_mut().zip(answers) {
            match answer {
                Ok((addresses, ttl)) => {
                    source.last_good = addresses;
                    source.problem = None;
                    holds = holds.min(ttl);
                }
                Err(_) if source.role == Role::Fallback && has_fallback => {
                    (source.last_good, source.problem) = (Vec::new(), None);
                }
                Err(problem) => {
                    if source.problem.as_ref() != Some(&problem) {
                        tracing::warn!(kept = source.last_good.len(), "{problem}");
                    }
                    source.problem = Some(problem);
                    holds = REFRESH_FLOOR;
                }
            }
        }
        let candidates = self.gather();
        self.candidates.send_if_modified(|current| {
            let changed = *current != candidates;
            *current = candidates;
            changed
        });
        holds
    }

    fn gather(&self) -> Candidates {
        let addresses = |source: &Source| -> Vec<Address> {
            let (rest_port, grpc_port) = source.ports;
            source.last_good.iter().map(|&ip| Address { ip, rest_port, grpc_port }).collect()
        };
        let of = |role: Role| self.sources.iter().filter(move |source| source.role == role);
        let mut nodes: Vec<Address> = of(Role::Node).flat_map(addresses).collect();
        nodes.sort_unstable();
        nodes.dedup();
        if nodes.len() > MAX_ADDRESSES {
            tracing::warn!(found = nodes.len(), used = MAX_ADDRESSES, "discovery found too many addresses");
            nodes.truncate(MAX_ADDRESSES);
        }
        let mut fallback =
            of(Role::Fallback).map(addresses).find(|list| !list.is_empty()).unwrap_or_default();
        fallback.sort_unstable();
        let problems = of(Role::Node)
            .chain(of(Role::Fallback).filter(|_| fallback.is_empty()))
            .filter_map(|source| source.problem.clone())
            .collect();
        Candidates { nodes, fallback, problems, complete: true }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Mutex};

    use super::*;
    use crate::discovery::Answer;

    /// A resolver whose answers the test sets.
    #[derive(Clone, Default)]
    struct Zone(Arc<Mutex<State>>);

    #[derive(Default)]
    struct State {
        records: HashMap<String, Answer>,
        queries: usize,
    }

    impl Zone {
        fn set(&self, name: &str, ips: &[&str], ttl: u64) {
            let addresses = ips.iter().map(|ip| ip.parse().expect("an address")).collect();
            let answer = Answer { addresses, ttl: Duration::from_secs(ttl) };
            self.0.lock().expect("lock").records.insert(name.to_owned(), answer);
        }

        fn clear(&self) {
            self.0.lock().expect("lock").records.clear();
        }

        fn queries(&self) -> usize {
            self.0.lock().expect("lock").queries
        }
    }

    impl Resolve for Zone {
        async fn resolve(&self, name: &str) -> Result<Answer, ResolveError> {
            let mut state = self.0.lock().expect("lock");
            state.queries += 1;
            state.records.get(name).cloned().ok_or_else(|| ResolveError {
                name: name.to_owned(),
                asked: name.to_owned(),
                reason: "no such name".to_owned(),
            })
        }
    }

    fn follow(zone: &Zone, sources: Sources) -> DiscoveryHandle {
        sources.follow(zone.clone(), Arc::new(Dice::seeded(1)))
    }

    fn ips(candidates: &Candidates) -> Vec<String> {
        candidates.nodes.iter().map(|address| address.ip.to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_answer_outlives_the_name() {
        let zone = Zone::default();
        zone.set("q", &["10.0.0.2", "10.0.0.1"], 5);
        let mut discovery = follow(&zone, Sources { headless: Some(Host::named("q")), ..Sources::new() });
        discovery.changed().await;
        assert_eq!(ips(&discovery.take()), ["10.0.0.1", "10.0.0.2"]);

        zone.clear();
        discovery.changed().await;
        let candidates = discovery.take();
        assert_eq!(ips(&candidates), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(candidates.problems.len(), 1);

        zone.set("q", &["10.0.0.3"], 5);
        discovery.changed().await;
        let candidates = discovery.take();
        assert_eq!(ips(&candidates), ["10.0.0.3"]);
        assert!(candidates.problems.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_ttl_has_a_floor_and_a_cap() {
        for (ttl, at_least, at_most) in [(0, 50, 70), (5, 10, 14), (86_400, 5, 8)] {
            let zone = Zone::default();
            zone.set("q", &["10.0.0.1"], ttl);
            let _discovery = follow(&zone, Sources { headless: Some(Host::named("q")), ..Sources::new() });
            tokio::time::sleep(Duration::from_secs(60)).await;
            let queries = zone.queries();
            assert!((at_least..=at_most).contains(&queries), "TTL {ttl}: {queries} queries a minute");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refresh_on_demand_is_rate_limited() {
        let zone = Zone::default();
        zone.set("q", &["10.0.0.1"], 86_400);
        let mut discovery = follow(&zone, Sources { headless: Some(Host::named("q")), ..Sources::new() });
        discovery.changed().await;
        for _ in 0..500 {
            discovery.refresh();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!((4..=6).contains(&zone.queries()), "{} queries in five seconds", zone.queries());
    }

    #[tokio::test(start_paused = true)]
    async fn fixed_nodes_need_no_dns_and_the_first_fallback_that_resolves_is_used() {
        let zone = Zone::default();
        zone.set("second", &["10.0.0.9"], 5);
        let sources = Sources {
            nodes: vec!["127.0.0.1:7333".parse().expect("host"), "[::1]".parse().expect("host")],
            fallback: vec![Host::named("first"), Host::named("second")],
            ..Sources::new()
        };
        let mut discovery = follow(&zone, sources);
        discovery.changed().await;
        let candidates = discovery.take();
        let printed: Vec<_> = candidates.nodes.iter().map(|a| (a.rest().to_string(), a.grpc_port)).collect();
        assert_eq!(printed, [("127.0.0.1:7333".to_owned(), 6334), ("[::1]:6333".to_owned(), 6334)]);
        assert_eq!(candidates.fallback[0].ip.to_string(), "10.0.0.9");
        assert!(candidates.problems.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_fallback_that_is_not_needed_is_not_looked_for_all_the_time() {
        let zone = Zone::default();
        zone.set("q", &["10.0.0.1"], 10);
        zone.set("first", &["10.0.0.9"], 10);
        let sources = Sources {
            headless: Some(Host::named("q")),
            fallback: vec![Host::named("first"), Host::named("second")],
            ..Sources::new()
        };
        let discovery = follow(&zone, sources);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!((15..=21).contains(&zone.queries()), "{} queries a minute", zone.queries());
        zone.clear();
        zone.set("q", &["10.0.0.1"], 10);
        tokio::time::sleep(Duration::from_secs(70)).await;
        assert!(zone.queries() > 100, "{} queries without any fallback", zone.queries());
        let fallback =
            || discovery.candidates().fallback.iter().map(|at| at.ip.to_string()).collect::<Vec<_>>();
        assert_eq!(fallback(), ["10.0.0.9"], "the last good answer");
        zone.set("second", &["10.0.0.8"], 10);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(fallback(), ["10.0.0.8"], "the one that resolves");
    }
}
