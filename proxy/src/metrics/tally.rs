//! What the dashboard reads back: the same requests as the metrics, in numbers that can be compared
//! from one moment to the next.

use std::sync::atomic::{AtomicU64, Ordering};

use qdrant_router::{Routed, route::Reason};

/// One counter per reason, and one for requests that nobody could be asked.
const REASONS: usize = Reason::ALL.len() + 1;

/// Counts while others look.
#[derive(Debug, Default)]
pub(super) struct Tally {
    requests: AtomicU64,
    failed: AtomicU64,
    repeats: AtomicU64,
    known_hops: AtomicU64,
    without_hop: AtomicU64,
    reasons: [AtomicU64; REASONS],
}

/// What was counted up to one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Requests answered, by a node or by the router itself.
    pub(crate) requests: u64,
    /// Those that no node answered, or with a server error.
    pub(crate) failed: u64,
    /// Attempts beyond the first, of each part of a request.
    pub(crate) repeats: u64,
    /// Requests of which the internal RPCs can be told.
    pub(crate) known_hops: u64,
    /// Those of them that needed none.
    pub(crate) without_hop: u64,
    reasons: [u64; REASONS],
}

// === impl Tally ===

impl Tally {
    pub(super) fn count(&self, routed: &Routed, is_failed: bool) {
        let add = |counter: &AtomicU64, count: u64| counter.fetch_add(count, Ordering::Relaxed);
        add(&self.requests, 1);
        add(&self.failed, is_failed.into());
        add(&self.repeats, routed.attempts.saturating_sub(routed.parts) as u64);
        add(&self.known_hops, routed.expected_rpcs.is_some().into());
        add(&self.without_hop, (routed.expected_rpcs == Some(0)).into());
        add(&self.reasons[place(routed.reason)], 1);
    }

    pub(super) fn read(&self) -> Totals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            requests: read(&self.requests),
            failed: read(&self.failed),
            repeats: read(&self.repeats),
            known_hops: read(&self.known_hops),
            without_hop: read(&self.without_hop),
            reasons: std::array::from_fn(|i| read(&self.reasons[i])),
        }
    }
}

// === impl Totals ===

impl Totals {
    /// The reasons that occurred, with their counts.
    pub(crate) fn reasons(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let names = Reason::ALL.iter().copied().map(Reason::as_str).chain(["none"]);
        names.zip(self.reasons).filter(|&(_, count)| count > 0)
    }

    /// What has been counted since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            failed: self.failed.saturating_sub(earlier.failed),
            repeats: self.repeats.saturating_sub(earlier.repeats),
            known_hops: self.known_hops.saturating_sub(earlier.known_hops),
            without_hop: self.without_hop.saturating_sub(earlier.without_hop),
            reasons: std::array::from_fn(|i| self.reasons[i].saturating_sub(earlier.reasons[i])),
        }
    }
}

fn place(reason: Option<Reason>) -> usize {
    let named = reason.and_then(|reason| Reason::ALL.iter().position(|&other| other == reason));
    named.unwrap_or(REASONS - 1)
}
