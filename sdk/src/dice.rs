//! Randomness as an input: one seed, so that a test can repeat what it saw.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A stream of random numbers (SplitMix64) that many tasks may draw from.
///
/// Good enough to spread load and jitter timers; not for secrets.
#[derive(Debug)]
pub struct Dice(AtomicU64);

// === impl Dice ===

impl Dice {
    /// Dice that every process throws differently.
    #[must_use]
    pub fn random() -> Self {
        Self::seeded(RandomState::new().build_hasher().finish())
    }

    /// Dice that repeat themselves.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The next number.
    pub fn throw(&self) -> u64 {
        mix(self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed))
    }

    /// `duration` give or take a tenth, so that routers started together do not ask together.
    pub fn jitter(&self, duration: Duration) -> Duration {
        let share = (self.throw() % 2001) as f64 / 10_000.0; // 0 to 0.2
        duration.mul_f64(0.9 + share)
    }
}

/// Spreads the bits of `value` (the finaliser of SplitMix64).
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_throws_the_same_numbers() {
        let (a, b) = (Dice::seeded(7), Dice::seeded(7));
        let throws = |dice: &Dice| (0..8).map(|_| dice.throw()).collect::<Vec<_>>();
        assert_eq!(throws(&a), throws(&b));
        assert_ne!(throws(&a), throws(&Dice::seeded(8)));
    }

    #[test]
    fn jitter_stays_within_a_tenth() {
        let dice = Dice::seeded(1);
        for _ in 0..1000 {
            let jittered = dice.jitter(Duration::from_secs(10));
            assert!((Duration::from_secs(9)..=Duration::from_secs(11)).contains(&jittered), "{jittered:?}");
        }
    }
}
