//! How long reads take, all nodes together: what a hedge waits for.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

/// Buckets per doubling of the latency: steps of a fifth.
const STEPS: u32 = 4;

/// From one microsecond to more than a minute.
const BUCKETS: usize = 27 * STEPS as usize;

/// Fewer answers than this tell nothing.
const ENOUGH: u64 = 50;

/// A histogram of recent latencies that any task may add to.
#[derive(Debug)]
pub(crate) struct RecentReads {
    buckets: [AtomicU32; BUCKETS],
    /// Microseconds; zero while too few answers have come.
    p95: AtomicU64,
}

// === impl RecentReads ===

impl RecentReads {
    pub(crate) fn observe(&self, latency: Duration) {
        self.buckets[bucket(latency)].fetch_add(1, Ordering::Relaxed);
    }

    /// The time within which 95 of 100 recent reads were answered, once that can be told.
    pub(crate) fn p95(&self) -> Option<Duration> {
        match self.p95.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    /// Computes the percentile anew and lets what is old count half. Called at regular times.
    pub(crate) fn settle(&self) {
        let counts: Vec<u64> =
            self.buckets.iter().map(|count| u64::from(count.load(Ordering::Relaxed))).collect();
        let total: u64 = counts.iter().sum();
        if total < ENOUGH {
            return;
        }
        let mut seen = 0;
        let at = counts.iter().position(|count| {
            seen += count;
            seen * 100 >= total * 95
        });
        let upper = upper_bound(at.unwrap_or(BUCKETS - 1));
        self.p95.store(u64::try_from(upper.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        for (bucket, count) in self.buckets.iter().zip(counts) {
            // What has come since it was counted stays whole.
            let gone = u32::try_from(count - count / 2).unwrap_or(u32::MAX);
            bucket.fetch_sub(gone, Ordering::Relaxed);
        }
    }
}

impl Default for RecentReads {
    fn default() -> Self {
        Self { buckets: [const { AtomicU32::new(0) }; BUCKETS], p95: AtomicU64::new(0) }
    }
}

fn bucket(latency: Duration) -> usize {
    let micros = (latency.as_micros() as f64).max(1.0);
    ((micros.log2() * f64::from(STEPS)) as usize).min(BUCKETS - 1)
}

fn upper_bound(bucket: usize) -> Duration {
    let doublings = (bucket + 1) as f64 / f64::from(STEPS);
    Duration::from_micros(doublings.exp2() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_is_within_a_fifth() {
        let latencies = RecentReads::default();
        latencies.settle();
        assert_eq!(latencies.p95(), None);
        for millis in 1..=100 {
            latencies.observe(Duration::from_millis(millis));
        }
        latencies.settle();
        let p95 = latencies.p95().expect("enough answers").as_millis();
        assert!((95..=114).contains(&p95), "{p95}");
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let latencies = RecentReads::default();
        for _ in 0..1000 {
            latencies.observe(Duration::from_millis(500));
        }
        for _ in 0..12 {
            latencies.settle();
            for _ in 0..100 {
                latencies.observe(Duration::from_millis(1));
            }
        }
        latencies.settle();
        assert!(latencies.p95().expect("enough answers") < Duration::from_millis(2));
    }

    #[test]
    fn no_latency_is_out_of_range() {
        for latency in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            assert!(bucket(latency) < BUCKETS);
        }
    }
}
