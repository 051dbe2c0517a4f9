//! What routing would have done, counted while it only observes.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use qdrant_router::{
    Routed,
    route::{Explanation, Reason},
};
use serde::Serialize;

/// The counters of requests that were observed.
#[derive(Debug, Default)]
pub(super) struct Observed {
    requests: Family<ReasonLabels, Counter>,
    internal_rpcs: Family<WayLabels, Counter<f64, AtomicU64>>,
    sum: Sum,
}

/// The same over all labels.
#[derive(Debug, Default)]
struct Sum {
    requests: AtomicU64,
    unrouted_rpcs: Counter<f64, AtomicU64>,
    routed_rpcs: Counter<f64, AtomicU64>,
}

/// What was counted since the start, as the dashboard is told it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct ObservedTotals {
    /// Requests that were observed.
    pub(crate) requests: u64,
    /// Internal RPCs expected of those of which they can be told, as they went.
    pub(crate) unrouted_rpcs: f64,
    /// As they would have gone.
    pub(crate) routed_rpcs: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    protocol: &'static str,
    class: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WayLabels {
    protocol: &'static str,
    way: &'static str,
}

// === impl Observed ===

impl Observed {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let observed = Self::default();
        registry.register(
            "observed_requests",
            "Requests that were observed, by why they would have gone where routing would have sent them",
            observed.requests.clone(),
        );
        registry.register(
            "observed_internal_rpcs",
            "Internal RPCs expected of observed requests: as they went, and as they would have gone",
            observed.internal_rpcs.clone(),
        );
        observed
    }

    pub(super) fn count(&self, routed: &Routed, observed: &Explanation) {
        let (protocol, class) = (routed.protocol.as_str(), routed.class.as_str());
        let reason = observed.reason.map_or("none", Reason::as_str);
        self.requests.get_or_create(&ReasonLabels { protocol, class, reason }).inc();
        self.sum.requests.fetch_add(1, Ordering::Relaxed);
        // Both or none, so that the difference is what would have been saved.
        if let Some((unrouted, rpcs)) = observed.rpcs_at(routed.peer).zip(observed.internal_rpcs) {
            for (way, rpcs) in [("unrouted", unrouted), ("routed", f64::from(rpcs))] {
                self.internal_rpcs.get_or_create(&WayLabels { protocol, way }).inc_by(rpcs);
            }
            self.sum.unrouted_rpcs.inc_by(unrouted);
            self.sum.routed_rpcs.inc_by(f64::from(rpcs));
        }
    }

    pub(super) fn totals(&self) -> ObservedTotals {
        ObservedTotals {
            requests: self.sum.requests.load(Ordering::Relaxed),
            unrouted_rpcs: self.sum.unrouted_rpcs.get(),
            routed_rpcs: self.sum.routed_rpcs.get(),
        }
    }
}
