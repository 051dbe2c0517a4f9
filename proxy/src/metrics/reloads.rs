//! Whether new configurations took over.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// The outcomes of reading the configuration again.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    outcomes: Family<OutcomeLabels, Counter>,
    last_successful: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

const OK: OutcomeLabels = OutcomeLabels { outcome: "ok" };
const FAILED: OutcomeLabels = OutcomeLabels { outcome: "failed" };

// === impl Reloads ===

impl Reloads {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let reloads = Self::default();
        registry.register(
            "config_reloads",
            "New configurations, by whether they took over from the old one",
            reloads.outcomes.clone(),
        );
        registry.register(
            "config_last_reload_successful",
            "Whether the configuration is the one that was read last: 0 where the old one stayed",
            reloads.last_successful.clone(),
        );
        // Both can be told from the start on, where the configuration has just been read.
        for outcome in [OK, FAILED] {
            reloads.outcomes.get_or_create(&outcome).inc_by(0);
        }
        reloads.last_successful.set(1);
        reloads
    }

    pub(super) fn succeeded(&self) {
        self.outcomes.get_or_create(&OK).inc();
        self.last_successful.set(1);
    }

    pub(super) fn failed(&self) {
        self.outcomes.get_or_create(&FAILED).inc();
        self.last_successful.set(0);
    }
}
