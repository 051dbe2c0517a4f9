//! Connections of clients.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// How many there are, and how many could not be.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    open: Gauge,
    refused: Family<RefusalLabels, Counter>,
}

/// Why a connection was closed before its client could ask for anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// As many are open as may be.
    TooMany,
    /// Its TLS handshake failed, or took too long.
    Tls,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    reason: &'static str,
}

/// Counts a connection as open until it is dropped.
pub(crate) struct Connected(Gauge);

// === impl Clients ===

impl Clients {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let clients = Self::default();
        registry.register("client_connections", "Open connections of clients", clients.open.clone());
        registry.register(
            "client_connections_refused",
            "Connections of clients that were closed before they could ask for anything",
            clients.refused.clone(),
        );
        // Both can be told from the start on, so that the first one is a change.
        for reason in [Refusal::TooMany, Refusal::Tls] {
            clients.refused.get_or_create(&reason.labels()).inc_by(0);
        }
        clients
    }

    pub(crate) fn connected(&self) -> Connected {
        self.open.inc();
        Connected(self.open.clone())
    }

    pub(crate) fn refused(&self, reason: Refusal) {
        self.refused.get_or_create(&reason.labels()).inc();
    }
}

// === impl Refusal ===

impl Refusal {
    fn labels(self) -> RefusalLabels {
        let reason = match self {
            Self::TooMany => "too_many",
            Self::Tls => "tls",
        };
        RefusalLabels { reason }
    }
}

// === impl Connected ===

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}
