//! Closed and open loop.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use tokio::{task::JoinSet, time::Instant};

use super::{way::Via, work::Work};

/// The longest latency that is told apart, in microseconds.
const LONGEST: u64 = 60_000_000;

/// How one turn goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice {
    pub(super) duration: Duration,
    pub(super) concurrency: u16,
    /// Open loop with this many requests per second; closed loop where `None`.
    pub(super) rate: Option<u32>,
}

/// What one turn showed.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    /// Of the requests that succeeded, in microseconds.
    pub(super) latencies: Histogram<u64>,
    /// What went wrong, and how often.
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) elapsed: Duration,
    /// Between nodes; `None` where a node did not tell.
    pub(super) internal_rpcs: Option<u64>,
}

// === impl Turn ===

impl Turn {
    fn new() -> Self {
        let latencies = Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are in order");
        Self { latencies, errors: BTreeMap::new(), elapsed: Duration::ZERO, internal_rpcs: None }
    }

    pub(super) fn requests(&self) -> u64 {
        self.latencies.len() + self.failed()
    }

    pub(super) fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Successes per second.
    pub(super) fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.latencies += &other.latencies;
        for (error, count) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
        self.elapsed += other.elapsed;
        self.internal_rpcs = self.internal_rpcs.zip(other.internal_rpcs).map(|(one, other)| one + other);
    }

    /// Several turns as one.
    pub(super) fn sum<'a>(turns: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut sum = Self { internal_rpcs: Some(0), ..Self::new() };
        turns.into_iter().for_each(|turn| sum.merge(turn));
        sum
    }
}

/// Sends requests by one way for a while. All have been answered when this returns.
pub(super) async fn run(via: &Via, work: &Arc<Work>, slice: Slice) -> Turn {
    let began = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..slice.concurrency {
        let (via, work, next) = (via.clone(), work.clone(), next.clone());
        workers.spawn(async move {
            let mut turn = Turn::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let due = match slice.rate {
                    // What is late counts from when it should have begun: waiting for others is waiting too.
                    Some(rate) => {
                        let due = began + Duration::from_secs_f64(number as f64 / f64::from(rate));
                        if due < began + slice.duration {
                            tokio::time::sleep_until(due).await;
                        }
                        due
                    }
                    None => Instant::now(),
                };
                if due >= began + slice.duration {
                    return turn;
                }
                match via.ask(work.request(number)).await {
                    Ok(()) => {
                        let latency = u64::try_from(due.elapsed().as_micros()).unwrap_or(LONGEST);
                        turn.latencies.saturating_record(latency.max(1));
                    }
                    Err(error) => *turn.errors.entry(error).or_default() += 1,
                }
            }
        });
    }
    let mut sum = Turn::new();
    while let Some(turn) = workers.join_next().await {
        match turn {
            Ok(turn) => sum.merge(&turn),
            Err(error) => *sum.errors.entry(error.to_string()).or_default() += 1,
        }
    }
    sum.elapsed = began.elapsed();
    sum
}
