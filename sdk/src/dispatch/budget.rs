//! What repeats and hedges are paid from, so that a cluster in trouble is not asked more than it was.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tower::retry::budget::{Budget as _, TpsBudget};

/// Repeats and hedges together are at most this share of the requests of the last ten seconds, and
/// always as many as this a second.
const SHARE: f32 = 0.2;
const PER_SECOND: u32 = 5;
const TIME: Duration = Duration::from_secs(10);

/// What a router may spend, and how often that was not enough.
#[derive(Debug)]
pub(crate) struct Budget {
    tokens: TpsBudget,
    refused: AtomicU64,
}

/// The price of one repeat, paid before it is known to be needed: whoever asks a node that has to be spared
/// must be able to ask another one.
#[derive(Debug, Default)]
pub(super) struct Credit {
    is_paid: bool,
}

// === impl Budget ===

impl Budget {
    pub(crate) fn new() -> Self {
        Self { tokens: TpsBudget::new(TIME, PER_SECOND, SHARE), refused: AtomicU64::new(0) }
    }

    /// Earns a share of a repeat.
    pub(super) fn deposit(&self) {
        self.tokens.deposit();
    }

    /// Whether there is enough for a repeat or a hedge, which is paid with that.
    pub(super) fn withdraw(&self) -> bool {
        let is_paid = self.tokens.withdraw();
        if !is_paid {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        is_paid
    }

    /// How often there was not enough.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

// === impl Credit ===

impl Credit {
    /// Whether a repeat is paid for from now on.
    pub(super) fn open(&mut self, budget: &Budget) -> bool {
        self.is_paid = self.is_paid || budget.withdraw();
        self.is_paid
    }

    /// Whether a repeat may be sent.
    pub(super) fn pay(&mut self, budget: &Budget) -> bool {
        std::mem::take(&mut self.is_paid) || budget.withdraw()
    }
}
