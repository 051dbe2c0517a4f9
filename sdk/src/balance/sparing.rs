//! For how long a node is spared: with all that is not bound to it, or with its reads of one collection.
//!
//! A node whose view of one collection is behind answers the reads of that collection poorly and all
//! others well: it loses those reads, not its traffic. A node that answers nothing well is spared as a
//! whole. Times here are microseconds of the node's own clock.

use std::{
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustc_hash::FxHashMap;

/// So many poor answers in a row, and a node is spared,
const POOR_STREAK: usize = 5;

/// for this long at first,
const FIRST_PENALTY: Duration = Duration::from_secs(1);

/// doubled each time up to 32 seconds.
const MAX_DOUBLINGS: usize = 5;

/// Nodes that ask for more time than this are tried again all the same.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// Collections that one node may be spared the reads of.
const MAX_COLLECTIONS: usize = 1_000;

/// What one node is spared.
#[derive(Debug, Default)]
pub(super) struct Sparing {
    node: Streak,
    collections: RwLock<FxHashMap<Box<str>, Streak>>,
    /// The number of those, so that reads need no lock while there are none.
    count: AtomicUsize,
}

/// Poor answers in a row, and what they led to.
#[derive(Debug, Default)]
struct Streak {
    poor: AtomicUsize,
    penalties: AtomicUsize,
    until: AtomicU64,
}

// === impl Sparing ===

impl Sparing {
    /// Whether the node is to be spared as a whole.
    pub(super) fn spares_node(&self, now: impl FnOnce() -> u64) -> bool {
        self.node.is_spared(now)
    }

    /// Poor answers in a row.
    pub(super) fn poor_streak(&self) -> u64 {
        self.node.poor.load(Ordering::Relaxed) as u64
    }

    /// Whether the node is to be spared the reads of `collection`.
    pub(super) fn spares_reads(&self, collection: &str, now: impl FnOnce() -> u64) -> bool {
        self.look(collection, |streak| streak.is_spared(now)).unwrap_or(false)
    }

    /// Notes a good answer.
    pub(super) fn good(&self, collection: Option<&str>) {
        self.node.end();
        let Some(collection) = collection else { return };
        if self.look(collection, |_| ()).is_some() {
            let mut collections = self.collections.write().unwrap_or_else(PoisonError::into_inner);
            collections.remove(collection);
            self.count.store(collections.len(), Ordering::Relaxed);
        }
    }

    /// Notes a poor answer, and tells how long the node, or its reads of the collection, are spared from
    /// now on, where that begins with it.
    pub(super) fn poor(&self, collection: Option<&str>, now: u64) -> Option<Duration> {
        let reads = collection.and_then(|collection| self.look_or_add(collection, |reads| reads.count(now)));
        self.node.count(now).or(reads.flatten())
    }

    /// Spares the reads of `collection` for as long as the node asks for.
    pub(super) fn rest(&self, collection: &str, time: Duration, now: u64) {
        self.look_or_add(collection, |streak| streak.spare(time.min(LONGEST_REST), now));
    }

    fn look<T>(&self, collection: &str, look: impl FnOnce(&Streak) -> T) -> Option<T> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let collections = self.collections.read().unwrap_or_else(PoisonError::into_inner);
        collections.get(collection).map(look)
    }

    fn look_or_add<T>(&self, collection: &str, look: impl FnOnce(&Streak) -> T) -> Option<T> {
        let mut collections = self.collections.write().unwrap_or_else(PoisonError::into_inner);
        if !collections.contains_key(collection) {
            if collections.len() >= MAX_COLLECTIONS {
                return None;
            }
            collections.insert(collection.into(), Streak::default());
            self.count.store(collections.len(), Ordering::Relaxed);
        }
        collections.get(collection).map(look)
    }
}

// === impl Streak ===

impl Streak {
    /// The clock is not read for a node that is well.
    fn is_spared(&self, now: impl FnOnce() -> u64) -> bool {
        match self.until.load(Ordering::Relaxed) {
            0 => false,
            until => now() < until,
        }
    }

    /// Counts a poor answer.
    fn count(&self, now: u64) -> Option<Duration> {
        let is_enough = (self.poor.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(POOR_STREAK);
        is_enough.then(|| {
            let doublings = self.penalties.fetch_add(1, Ordering::Relaxed).min(MAX_DOUBLINGS);
            let time = FIRST_PENALTY * (1 << doublings);
            self.spare(time, now);
            time
        })
    }

    fn spare(&self, time: Duration, now: u64) {
        self.until.fetch_max(now + time.as_micros() as u64, Ordering::Relaxed);
    }

    fn end(&self) {
        if self.poor.load(Ordering::Relaxed) != 0 {
            self.poor.store(0, Ordering::Relaxed);
            self.penalties.store(0, Ordering::Relaxed);
            self.until.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn reads_of_one_collection_are_spared_while_others_are_answered_well() {
        let sparing = Sparing::default();
        for now in 0..5 {
            sparing.good(Some("well"));
            assert!(!sparing.spares_reads("behind", || now));
            sparing.poor(Some("behind"), now);
        }
        assert!(sparing.spares_reads("behind", || SECOND) && !sparing.spares_reads("well", || SECOND));
        assert!(!sparing.spares_node(|| SECOND), "a good answer in between");

        assert!(!sparing.spares_reads("behind", || 4 + SECOND), "it is tried again");
        (0..5).for_each(|_| _ = sparing.poor(Some("behind"), 2 * SECOND));
        assert!(sparing.spares_reads("behind", || 4 * SECOND - 1), "and spared for longer");
        sparing.good(Some("behind"));
        assert!(!sparing.spares_reads("behind", || 2 * SECOND), "until it answers well");
    }

    #[test]
    fn a_node_that_answers_nothing_well_is_spared_as_a_whole() {
        let sparing = Sparing::default();
        for collection in ["a", "b", "c", "d"] {
            assert_eq!(sparing.poor(Some(collection), 0), None);
        }
        assert_eq!(sparing.poor(None, 0), Some(FIRST_PENALTY));
        assert!(sparing.spares_node(|| SECOND - 1) && !sparing.spares_node(|| SECOND));
        assert!(!sparing.spares_reads("a", || 0));
    }

    #[test]
    fn a_node_rests_as_long_as_it_asks_for_within_reason() {
        let sparing = Sparing::default();
        sparing.rest("busy", Duration::from_secs(7), 0);
        sparing.rest("busy", Duration::from_secs(2), 0);
        assert!(
            sparing.spares_reads("busy", || 7 * SECOND - 1) && !sparing.spares_reads("busy", || 7 * SECOND)
        );
        sparing.rest("busy", Duration::from_secs(1 << 40), 0);
        assert!(!sparing.spares_reads("busy", || 60 * SECOND));
    }

    #[test]
    fn names_of_collections_do_not_fill_the_memory() {
        let sparing = Sparing::default();
        (0..5_000).for_each(|i| sparing.rest(&format!("{i}"), FIRST_PENALTY, 0));
        assert_eq!(sparing.count.load(Ordering::Relaxed), MAX_COLLECTIONS);
    }
}
