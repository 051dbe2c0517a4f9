//! What routing would have done, counted while it only observes.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use qdrant_router::{
    Routed,
    route::{Explanation, Reason},
};

/// The counters of requests that were observed.
#[derive(Debug, Default)]
pub(super) struct Observed {
    requests: Family<ReasonLabels, Counter>,
    internal_rpcs: Family<WayLabels, Counter<f64, AtomicU64>>,
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
        // Both or none, so that the difference is what would have been saved.
        if let Some((unrouted, rpcs)) = observed.rpcs_at(routed.peer).zip(observed.internal_rpcs) {
            for (way, rpcs) in [("unrouted", unrouted), ("routed", f64::from(rpcs))] {
                self.internal_rpcs.get_or_create(&WayLabels { protocol, way }).inc_by(rpcs);
            }
        }
    }
}
