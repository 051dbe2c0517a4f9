//! How loaded and how healthy each address is.
//!
//! Load is requests in flight × latency, where latency is a peak-sensitive moving average: it rises at
//! once with a slow answer and decays slowly, so that a node that stalls is noticed by the next
//! request rather than by the hundredth.
//!
//! Health here is two things. A failed connection, or silence while requests wait, takes a node out, and
//! the topology's own probe, not a client's request, brings it back. A node that answers with nothing but
//! errors of its own is spared for a time. This module does not know what a shard is.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use rustc_hash::FxBuildHasher;
use tokio::{sync::Notify, time::Instant};

use crate::{
    route::{Conditions, Fitness},
    topology::{Address, Observer},
};

mod latencies;
mod percentile;
mod sparing;

pub use self::latencies::Latencies;
use self::{latencies::LatencyCounter, percentile::RecentReads, sparing::Sparing};

/// The weight of a past answer falls to a third in this time.
const DECAY: Duration = Duration::from_secs(10);

/// A node that is new or back takes this long to get its full share: its caches are cold.
const SLOW_START: Duration = Duration::from_secs(10);

/// It begins with a tenth.
const MAX_HANDICAP: u64 = 10;

/// What a node is assumed to take before it has answered anything.
const FIRST_GUESS: Duration = Duration::from_millis(1);

/// Load and health of every address that requests were sent to.
#[derive(Debug)]
pub struct Balance {
    /// Times are microseconds since then.
    started: Instant,
    /// When a request was last sent anywhere: near enough to now for what changes in seconds.
    recent: AtomicU64,
    nodes: DashMap<Address, Arc<NodeState>, FxBuildHasher>,
    reads: RecentReads,
    ejections: AtomicU64,
}

/// What an address has been sent since it became known, parts and repeats counted each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Requests sent.
    pub sent: u64,
    /// Answers, by the time to their head.
    pub latencies: Latencies,
}

/// Load and health of one address.
#[derive(Debug)]
struct NodeState {
    started: Instant,
    in_flight: AtomicUsize,
    /// Those of them whose answer has not begun.
    waiting: AtomicUsize,
    /// When it last gave a sign of life, or was first asked for one.
    heard_at: AtomicU64,
    ejected: AtomicBool,
    sparing: Sparing,
    /// When it came or came back, by its own clock; zero where nobody has seen it come.
    joined_at: AtomicU64,
    /// Tells those that wait that it hangs.
    hung: Arc<Notify>,
    latency: PeakEwma,
    sent: AtomicU64,
    latencies: LatencyCounter,
}

/// One request on its way. It counts as in flight until this is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    node: Arc<NodeState>,
    /// By the node's clock.
    sent_at: u64,
    /// When the wait for the answer was over; zero before.
    heard_at: AtomicU64,
}

/// A moving average in microseconds that jumps up and decays down.
#[derive(Debug)]
struct PeakEwma {
    /// Microseconds, as the bits of an `f64`.
    average: AtomicU64,
    updated: AtomicU64,
}

// === impl Balance ===

impl Balance {
    /// Notes a request that is about to be sent to `address`.
    pub(crate) fn start(&self, address: Address) -> InFlight {
        let node = self.node(address);
        node.in_flight.fetch_add(1, Ordering::Relaxed);
        node.sent.fetch_add(1, Ordering::Relaxed);
        let sent_at = node.clock();
        self.recent.store(sent_at, Ordering::Relaxed);
        if node.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            node.heard_at.store(sent_at, Ordering::Relaxed);
        }
        InFlight { node, sent_at, heard_at: AtomicU64::new(0) }
    }

    /// Notes how long a read took, for the hedges of others.
    pub(crate) fn observe_read(&self, took: Duration) {
        self.reads.observe(took);
    }

    /// The time within which 95 of 100 recent reads were answered, once that can be told.
    pub(crate) fn p95(&self) -> Option<Duration> {
        self.reads.p95()
    }

    /// Brings what is computed from time to time up to date.
    pub(crate) fn settle(&self) {
        self.reads.settle();
    }

    /// Whether the node at `address` takes requests, and reads of the collection `reads` in particular.
    pub(crate) fn fitness_for(&self, address: Address, reads: Option<&str>) -> Fitness {
        let Some(node) = self.nodes.get(&address) else { return Fitness::Fit };
        let spares = |collection| node.sparing.spares_reads(collection, || node.clock());
        match node.ejected.load(Ordering::Relaxed) {
            true => Fitness::Out,
            false if node.is_spared() || reads.is_some_and(spares) => Fitness::Spared,
            false => Fitness::Fit,
        }
    }

    /// The addresses that have given no sign of life for `silence`, though requests wait there.
    pub(crate) fn silent(&self, silence: Duration) -> Vec<Address> {
        let is_silent = |node: &NodeState| {
            node.waiting.load(Ordering::Relaxed) > 0
                && !node.ejected.load(Ordering::Relaxed)
                && node.silence() >= silence
        };
        self.nodes.iter().filter(|entry| is_silent(entry.value())).map(|entry| *entry.key()).collect()
    }

    /// Notes a sign of life from `address`.
    pub(crate) fn hear(&self, address: Address) {
        if let Some(node) = self.nodes.get(&address) {
            node.hear();
        }
    }

    /// Takes `address` out because it hangs, and tells the requests that wait there.
    pub(crate) fn give_up(&self, address: Address) {
        let node = self.node(address);
        if !node.ejected.swap(true, Ordering::Relaxed) {
            self.ejections.fetch_add(1, Ordering::Relaxed);
            tracing::info!(%address, "taken out: it does not answer");
        }
        node.hung.notify_waiters();
    }

    /// Takes `address` out until the topology's probe has reached it again.
    pub(crate) fn eject(&self, address: Address) {
        if !self.node(address).ejected.swap(true, Ordering::Relaxed) {
            self.ejections.fetch_add(1, Ordering::Relaxed);
            tracing::info!(%address, "taken out: no connection");
        }
    }

    /// Notes that the node at `address` could not answer a read of `collection`, or broke its answer off, and
    /// that no other node is to blame for it. Some such answers in a row, with no good one in between, and it
    /// is spared for a time that doubles while that goes on.
    pub(crate) fn poor(&self, address: Address, collection: Option<&str>) {
        let node = self.node(address);
        if let Some(time) = node.sparing.poor(collection, node.clock()) {
            tracing::info!(%address, ?time, collection, "spared: it answers nothing well");
        }
    }

    /// Requests in flight to `address`.
    #[must_use]
    pub fn in_flight(&self, address: Address) -> usize {
        self.nodes.get(&address).map_or(0, |node| node.in_flight.load(Ordering::Relaxed))
    }

    /// Requests in flight to all nodes and to the fallback.
    #[must_use]
    pub fn all_in_flight(&self) -> usize {
        self.nodes.iter().map(|node| node.in_flight.load(Ordering::Relaxed)).sum()
    }

    /// What `address` has been sent.
    #[must_use]
    pub fn traffic(&self, address: Address) -> Traffic {
        self.nodes.get(&address).map_or_else(Traffic::default, |node| Traffic {
            sent: node.sent.load(Ordering::Relaxed),
            latencies: node.latencies.read(),
        })
    }

    /// How many times an address has been taken out.
    #[must_use]
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Ordering::Relaxed)
    }

    fn node(&self, address: Address) -> Arc<NodeState> {
        if let Some(node) = self.nodes.get(&address) {
            return node.clone();
        }
        self.nodes.entry(address).or_insert_with(|| Arc::new(NodeState::new(self.started))).clone()
    }
}

impl Default for Balance {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            recent: AtomicU64::new(0),
            nodes: DashMap::default(),
            reads: RecentReads::default(),
            ejections: AtomicU64::new(0),
        }
    }
}

impl Conditions for Balance {
    fn fitness(&self, address: Address) -> Fitness {
        self.fitness_for(address, None)
    }

    fn load(&self, address: Address) -> u64 {
        self.nodes.get(&address).map_or(FIRST_GUESS.as_micros() as u64, |node| {
            let waiting = node.in_flight.load(Ordering::Relaxed) as u64 + 1;
            // Quick errors are no merit: of two nodes that are both spared, the better one is asked.
            let poor = node.sparing.poor_streak() + 1;
            let recent = self.recent.load(Ordering::Relaxed);
            let latency = node.latency.at(recent) as u64 + 1;
            waiting.saturating_mul(latency).saturating_mul(node.handicap(recent)).saturating_mul(poor)
        })
    }
}

impl Observer for Balance {
    fn answered(&self, address: Address) {
        let Some(node) = self.nodes.get(&address) else {
            self.node(address).join();
            return;
        };
        if node.ejected.swap(false, Ordering::Relaxed) {
            node.join();
            tracing::info!(%address, "back: it answers again");
        }
    }

    fn failed(&self, address: Address) {
        self.eject(address);
    }

    fn forgotten(&self, address: Address) {
        self.nodes.remove(&address);
    }
}

// === impl NodeState ===

impl NodeState {
    fn new(started: Instant) -> Self {
        Self {
            started,
            in_flight: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            heard_at: AtomicU64::new(0),
            sparing: Sparing::default(),
            joined_at: AtomicU64::new(0),
            hung: Arc::default(),
            ejected: AtomicBool::new(false),
            latency: PeakEwma::new(FIRST_GUESS, started.elapsed().as_micros() as u64),
            sent: AtomicU64::new(0),
            latencies: LatencyCounter::default(),
        }
    }

    fn is_spared(&self) -> bool {
        self.sparing.spares_node(|| self.clock())
    }

    fn join(&self) {
        self.joined_at.store(self.clock().max(1), Ordering::Relaxed);
    }

    /// How many times its load counts. It falls to one as the node's time grows, so that among loaded nodes
    /// its share grows evenly. `now` may be the time of the last request, which saves reading the clock.
    fn handicap(&self, now: u64) -> u64 {
        match self.joined_at.load(Ordering::Relaxed) {
            0 => 1,
            joined_at => {
                let slow_start = SLOW_START.as_micros() as u64;
                let age = now.saturating_sub(joined_at).max(1);
                if age >= slow_start {
                    self.joined_at.store(0, Ordering::Relaxed);
                }
                (slow_start / age).clamp(1, MAX_HANDICAP)
            }
        }
    }

    fn hear(&self) {
        self.heard_at.store(self.clock(), Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        let since = self.heard_at.load(Ordering::Relaxed);
        Duration::from_micros(self.clock().saturating_sub(since))
    }

    /// Microseconds since the beginning, one for all nodes.
    fn clock(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }
}

// === impl InFlight ===

impl InFlight {
    /// Notes that the head of the answer has come, how long that took, and whether this tells how loaded
    /// the node is.
    pub(crate) fn answered(&self, tells_load: bool) -> Duration {
        let heard_at = match self.heard_at.load(Ordering::Relaxed) {
            0 => self.node.clock(),
            heard_at => heard_at,
        };
        let took = Duration::from_micros(heard_at.saturating_sub(self.sent_at));
        self.node.latencies.observe(took);
        if tells_load {
            self.node.latency.observe(took, heard_at);
        }
        took
    }

    /// Notes that the answer takes longer than usual: at least as long as it has been waited for.
    pub(crate) fn is_late(&self) {
        let now = self.node.clock();
        self.node.latency.observe(Duration::from_micros(now.saturating_sub(self.sent_at)), now);
    }

    /// Notes that a read of `collection` was answered well, as answers go.
    pub(crate) fn good(&self, collection: Option<&str>) {
        self.node.sparing.good(collection);
    }

    /// Notes that the node asks for a pause from reads of `collection`.
    pub(crate) fn rest(&self, collection: &str, time: Duration) {
        self.node.sparing.rest(collection, time, self.node.clock());
    }

    /// Notes that the wait is over: an answer has begun, or never will.
    pub(crate) fn heard(&self) {
        let now = self.node.clock().max(1);
        if self.heard_at.swap(now, Ordering::Relaxed) == 0 {
            self.node.waiting.fetch_sub(1, Ordering::Relaxed);
            self.node.heard_at.store(now, Ordering::Relaxed);
        }
    }

    /// Resolves when the node turns out to hang.
    pub(crate) fn hung(&self) -> impl Future<Output = ()> + Send + use<> {
        self.node.hung.clone().notified_owned()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if *self.heard_at.get_mut() == 0 {
            self.node.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        self.node.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl PeakEwma ===

impl PeakEwma {
    fn new(first: Duration, now: u64) -> Self {
        Self { average: AtomicU64::new(micros(first).to_bits()), updated: AtomicU64::new(now) }
    }

    /// Takes an answer into account. Two at the same moment may lose one of each other: an average
    /// does not mind, and a lock would cost more than it is worth.
    fn observe(&self, latency: Duration, now: u64) {
        let latency = micros(latency);
        let average = f64::from_bits(self.average.load(Ordering::Relaxed));
        let next = if latency >= average {
            latency
        } else {
            let weight = self.weight(now);
            average * weight + latency * (1.0 - weight)
        };
        self.average.store(next.to_bits(), Ordering::Relaxed);
        self.updated.store(now, Ordering::Relaxed);
    }

    /// The average at `now`. Without answers it decays, so that a node that was slow is tried again.
    fn at(&self, now: u64) -> f64 {
        f64::from_bits(self.average.load(Ordering::Relaxed)) * self.weight(now)
    }

    fn weight(&self, now: u64) -> f64 {
        let age = now.saturating_sub(self.updated.load(Ordering::Relaxed)) as f64;
        (-age / micros(DECAY)).exp()
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Address {
        Address { ip: [10, 0, 0, last].into(), rest_port: 6333, grpc_port: 6334 }
    }

    async fn answer(balance: &Balance, address: Address, after: Duration) {
        let request = balance.start(address);
        tokio::time::advance(after).await;
        request.answered(true);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_answer_weighs_at_once_and_is_forgiven_slowly() {
        let balance = Balance::default();
        let (fast, slow) = (address(1), address(2));
        answer(&balance, fast, Duration::from_millis(1)).await;
        answer(&balance, slow, Duration::from_millis(200)).await;
        assert!(balance.load(slow) > 100 * balance.load(fast));

        answer(&balance, slow, Duration::from_millis(1)).await;
        assert!(balance.load(slow) > 100 * balance.load(fast), "one good answer is no proof");

        tokio::time::advance(Duration::from_secs(60)).await;
        answer(&balance, slow, Duration::from_millis(1)).await;
        answer(&balance, fast, Duration::from_millis(1)).await;
        assert!(balance.load(slow) < 2 * balance.load(fast));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_in_flight_add_up_and_end_with_their_guard() {
        let balance = Balance::default();
        let node = address(1);
        let idle = balance.load(node);
        let requests: Vec<InFlight> = (0..9).map(|_| balance.start(node)).collect();
        assert_eq!(balance.in_flight(node), 9);
        assert!(balance.load(node) >= 9 * idle);
        drop(requests);
        assert_eq!(balance.in_flight(node), 0);
        assert_eq!(balance.traffic(node).sent, 9);
        assert_eq!(balance.traffic(node).latencies.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_answers_poorly_is_spared_for_longer_each_time() {
        let balance = Balance::default();
        let node = address(1);
        let poorly = |times: usize| (0..times).for_each(|_| balance.poor(node, None));
        poorly(4);
        balance.start(node).good(None);
        poorly(4);
        assert!(balance.is_usable(node), "a good answer in between");
        poorly(1);
        for seconds in [1, 2, 4] {
            assert!(!balance.is_usable(node));
            tokio::time::advance(Duration::from_secs(seconds) - Duration::from_millis(1)).await;
            assert!(!balance.is_usable(node), "for {seconds} seconds");
            tokio::time::advance(Duration::from_millis(2)).await;
            assert!(balance.is_usable(node), "after {seconds} seconds");
            poorly(5);
        }
        tokio::time::advance(Duration::from_secs(8)).await;
        balance.start(node).good(None);
        poorly(5);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(balance.is_usable(node), "a good answer begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_back_gets_its_share_little_by_little() {
        let balance = Balance::default();
        let (steady, back) = (address(1), address(2));
        // Loads are as of the last request, here one to another node.
        let pass = async |time| {
            tokio::time::advance(time).await;
            drop(balance.start(address(3)));
        };
        balance.answered(steady);
        balance.answered(back);
        pass(SLOW_START).await;
        let share = || balance.load(back) / balance.load(steady);
        assert_eq!(share(), 1);
        balance.eject(back);
        balance.answered(back);
        assert_eq!(share(), 10);
        pass(SLOW_START / 4).await;
        balance.answered(back);
        assert_eq!(share(), 4, "a probe that finds it well begins nothing anew");
        pass(SLOW_START).await;
        assert_eq!(share(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_told_while_somebody_waits() {
        let balance = Balance::default();
        let (node, silence) = (address(1), Duration::from_millis(250));
        let first = balance.start(node);
        tokio::time::advance(silence).await;
        assert_eq!(balance.silent(silence), [node]);
        balance.hear(node);
        assert_eq!(balance.silent(silence), []);
        first.heard();
        tokio::time::advance(silence).await;
        assert_eq!(balance.silent(silence), [], "nobody waits");

        let waiting = balance.start(node);
        let hung = waiting.hung();
        balance.give_up(node);
        tokio::time::timeout(silence, hung).await.expect("those that wait are told");
        assert!(!balance.is_usable(node));
        assert_eq!(balance.silent(Duration::ZERO), [], "it is out already");
    }

    #[tokio::test(start_paused = true)]
    async fn an_ejected_node_is_back_when_the_probe_reaches_it() {
        let balance = Balance::default();
        let node = address(1);
        assert!(balance.is_usable(node));
        balance.eject(node);
        assert!(!balance.is_usable(node));
        balance.eject(node);
        assert_eq!(balance.ejections(), 1, "it was out already");
        balance.answered(node);
        assert!(balance.is_usable(node));
    }
}
