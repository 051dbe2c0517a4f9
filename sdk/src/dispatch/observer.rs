//! A seam for tracing: who wants to know of every attempt of a request puts [`ObserveAttempts`] into its
//! extensions. Without one nothing is done.

use std::{fmt, sync::Arc};

use http::{HeaderMap, StatusCode, request::Parts};

use super::Plan;
use crate::{
    request::Protocol,
    route::Reason,
    topology::{Address, Node, PeerId, Topology},
};

/// An extension of a request: who is told of its attempts, those of its parts included.
#[derive(Clone, Debug)]
pub struct ObserveAttempts(pub Arc<dyn AttemptObserver>);

/// Is told of the attempts of one request.
pub trait AttemptObserver: fmt::Debug + Send + Sync {
    /// An attempt is about to be sent with these headers, to which it may add, such as a `traceparent`. What is
    /// returned is called once, with what became of it.
    fn start(&self, attempt: &AttemptStart<'_>, headers: &mut HeaderMap) -> AttemptEnd;
}

/// Is called when an attempt has ended.
pub type AttemptEnd = Box<dyn FnOnce(AttemptOutcome<'_>) + Send>;

/// An attempt that is about to be sent.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AttemptStart<'a> {
    /// Its protocol towards the node.
    pub protocol: Protocol,
    /// Where it goes.
    pub address: Address,
    /// The node there: its pod name where known, else its address.
    pub node: &'a str,
    /// The peer there, where known.
    pub peer: Option<PeerId>,
    /// Why it goes there.
    pub reason: Reason,
    /// The internal RPCs that Qdrant is expected to need for it, where that can be told.
    pub expected_rpcs: Option<u32>,
    /// Why it is sent at all.
    pub sending: Sending,
}

/// Why something is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sending {
    /// It is the first attempt.
    First,
    /// Another one has failed, or its node hangs.
    Repeat,
    /// Another one is slow.
    Hedge,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum AttemptOutcome<'a> {
    /// The head of an answer has come.
    Answered {
        /// Its status.
        status: StatusCode,
        /// Its headers.
        headers: &'a HeaderMap,
    },
    /// There was none.
    Failed {
        /// What went wrong.
        reason: &'a str,
    },
    /// Nobody waits for it any more: another attempt was faster, or the client is gone.
    Abandoned,
}

/// An attempt that somebody may be told of.
pub(super) struct Observed(Option<AttemptEnd>);

// === impl Sending ===

impl Sending {
    /// The name for traces and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Repeat => "repeat",
            Self::Hedge => "hedge",
        }
    }
}

// === impl Observed ===

impl Observed {
    /// Tells who wants to know that the request of `head` is about to go where `plan` says. `headers` are those of this
    /// attempt alone, if it has any.
    pub(super) fn start(
        head: &Parts,
        headers: &mut Option<HeaderMap>,
        protocol: Protocol,
        plan: &Plan,
        sending: Sending,
        topology: &Topology,
    ) -> Self {
        let Some(ObserveAttempts(observer)) = head.extensions.get() else { return Self(None) };
        let node = plan.peer.and_then(|peer| topology.node(peer));
        let node = node.map_or_else(|| plan.address.ip.to_string(), Node::label);
        let start = AttemptStart {
            protocol,
            address: plan.address,
            node: &node,
            peer: plan.peer,
            reason: plan.reason,
            expected_rpcs: plan.expected_rpcs,
            sending,
        };
        Self(Some(observer.start(&start, headers.get_or_insert_with(|| head.headers.clone()))))
    }

    /// Tells what became of it.
    pub(super) fn end(&mut self, outcome: AttemptOutcome<'_>) {
        if let Some(end) = self.0.take() {
            end(outcome);
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.end(AttemptOutcome::Abandoned);
    }
}
