//! How long answers take, counted in buckets.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Buckets with a bound. The first ends at 64 µs, each other at twice the bound before: 33 s at last.
const BOUNDED: usize = 20;

/// The bound of the first bucket is this power of two, in microseconds.
const FIRST_BITS: u32 = 6;

/// Answers counted by how long they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// The last bucket has no bound.
    counts: [u64; BOUNDED + 1],
    sum_micros: u64,
}

/// Counts answers while others look.
#[derive(Debug, Default)]
pub(super) struct LatencyCounter {
    counts: [AtomicU64; BOUNDED + 1],
    sum_micros: AtomicU64,
}

// === impl Latencies ===

impl Latencies {
    /// Each bucket with its inclusive bound; the last has none.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        self.counts.iter().enumerate().map(|(i, &count)| ((i < BOUNDED).then(|| bound(i)), count))
    }

    /// The number of answers.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What all of them took together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_micros)
    }

    /// Both counts together.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        self.counts.iter_mut().zip(other.counts).for_each(|(count, other)| *count += other);
        self.sum_micros += other.sum_micros;
        self
    }

    /// What has been counted since `earlier`.
    #[must_use]
    pub fn since(mut self, earlier: &Self) -> Self {
        let less = |count: &mut u64, earlier: u64| *count = count.saturating_sub(earlier);
        self.counts.iter_mut().zip(earlier.counts).for_each(|(count, earlier)| less(count, earlier));
        less(&mut self.sum_micros, earlier.sum_micros);
        self
    }

    /// What the given share of the answers took at most, as far as the buckets tell; `None` without
    /// answers.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = self.count() as f64 * share;
        let mut below = 0.0;
        for (i, &count) in self.counts.iter().enumerate().filter(|&(_, &count)| count > 0) {
            let count = count as f64;
            if below + count >= rank {
                let (low, high) = match i {
                    0 => (Duration::ZERO, bound(0)),
                    BOUNDED => (bound(BOUNDED - 1), bound(BOUNDED - 1)),
                    _ => (bound(i - 1), bound(i)),
                };
                return Some(low + (high - low).mul_f64(((rank - below) / count).clamp(0.0, 1.0)));
            }
            below += count;
        }
        None
    }
}

fn bound(bucket: usize) -> Duration {
    Duration::from_micros(1 << (FIRST_BITS as usize + bucket))
}

// === impl LatencyCounter ===

impl LatencyCounter {
    pub(super) fn observe(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let bits = u64::BITS - micros.saturating_sub(1).leading_zeros();
        let bucket = (bits.saturating_sub(FIRST_BITS) as usize).min(BOUNDED);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Latencies {
        Latencies {
            counts: std::array::from_fn(|i| self.counts[i].load(Ordering::Relaxed)),
            sum_micros: self.sum_micros.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(micros: &[u64]) -> Latencies {
        let counter = LatencyCounter::default();
        micros.iter().for_each(|&micros| counter.observe(Duration::from_micros(micros)));
        counter.read()
    }

    #[test]
    fn an_answer_is_counted_in_the_bucket_whose_bound_it_does_not_exceed() {
        for micros in [0, 1, 63, 64, 65, 128, 129, 1_000, 1 << 25, (1 << 25) + 1, u64::MAX] {
            let latencies = counted(&[micros]);
            let (bound, _) = latencies.buckets().find(|&(_, count)| count == 1).expect("a bucket");
            let expected = latencies
                .buckets()
                .map(|(bound, _)| bound)
                .find(|bound| bound.is_none_or(|bound| u128::from(micros) <= bound.as_micros()));
            assert_eq!(Some(bound), expected, "{micros} µs");
        }
    }

    #[test]
    fn quantiles_lie_where_the_answers_do() {
        assert_eq!(Latencies::default().quantile(0.5), None);
        let mut micros = vec![1_000; 98];
        micros.extend([1_000_000; 2]);
        let latencies = counted(&micros);
        let millis = |share| latencies.quantile(share).expect("answers").as_secs_f64() * 1e3;
        assert!((0.5..=1.1).contains(&millis(0.5)), "{}", millis(0.5));
        assert!((500.0..=1_100.0).contains(&millis(0.99)), "{}", millis(0.99));
        assert_eq!(latencies.count(), 100);
        assert_eq!(latencies.sum(), Duration::from_micros(98 * 1_000 + 2 * 1_000_000));
    }

    #[test]
    fn what_came_since_is_what_was_added() {
        let (earlier, later) = (counted(&[70, 900]), counted(&[5_000]));
        assert_eq!(earlier.plus(&later).since(&earlier), later);
        assert_eq!(earlier.since(&earlier.plus(&later)), Latencies::default());
    }
}
