//! Metrics by protocol, with their labels resolved once: who counts there takes no lock.

use prometheus_client::{encoding::EncodeLabelSet, metrics::family::Family};
use qdrant_router::request::Protocol;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ProtocolLabels {
    protocol: &'static str,
}

/// One metric for each protocol.
#[derive(Debug)]
pub(super) struct ByProtocol<M> {
    rest: M,
    grpc: M,
}

// === impl ProtocolLabels ===

impl ProtocolLabels {
    pub(super) fn of(protocol: Protocol) -> Self {
        Self { protocol: protocol.as_str() }
    }
}

// === impl ByProtocol ===

impl<M: Clone> ByProtocol<M> {
    /// Those of `family`, which has both from now on.
    pub(super) fn of(family: &Family<ProtocolLabels, M>) -> Self {
        let resolved = |protocol| family.get_or_create_owned(&ProtocolLabels::of(protocol));
        Self { rest: resolved(Protocol::Rest), grpc: resolved(Protocol::Grpc) }
    }

    pub(super) fn get(&self, protocol: Protocol) -> &M {
        match protocol {
            Protocol::Rest => &self.rest,
            Protocol::Grpc => &self.grpc,
        }
    }
}
