//! Sends a request until somebody answers it, or until trying again would not be safe.
//!
//! Each attempt asks [`plan`] again, without the nodes already tried. Whether a failed attempt may be
//! repeated is decided by [`may_repeat`], a pure function of what the request does and of what is
//! known about the failure.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use hyper::body::Incoming;
use smallvec::SmallVec;

use crate::{
    balance::{Balance, InFlight},
    dice::Dice,
    discovery::DiscoveryHandle,
    request::{Action, Body, Class, Intent, Protocol, Repeat},
    route::{Conditions, Local, Plan, Reason, Target, plan},
    topology::{Address, Change, Collection, PeerId, Topology, TopologyHandle, WriteOrdering},
    transport::{Sent, Transport},
};

mod direct;
mod explain;
mod merge;
mod nodes;
mod parts;
mod refusal;

pub(crate) use self::{
    direct::DirectAnswer,
    merge::{Reply, sum_usage},
    nodes::{Credentials, Gathered},
    parts::Merged,
    refusal::{Failure, refuse},
};

/// Attempts per request: every copy of a shard in a common cluster, and the Service.
const MAX_ATTEMPTS: usize = 4;

/// What carries requests to nodes.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    pub(crate) transport: Arc<Transport>,
    pub(crate) balance: Arc<Balance>,
    pub(crate) topology: TopologyHandle,
    pub(crate) discovery: DiscoveryHandle,
    pub(crate) dice: Arc<Dice>,
    /// Whether points are read by id from the shards that own them.
    pub(crate) direct_point_reads: bool,
}

/// A request that knows what it asks for.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) protocol: Protocol,
    pub(crate) class: Class,
    pub(crate) repeat: Repeat,
    pub(crate) placement: Placement,
    /// The collection that it names, if any.
    pub(crate) collection: Option<String>,
    /// The view that the whole request is decided on.
    pub(crate) snapshot: Arc<Topology>,
    pub(crate) head: Parts,
    pub(crate) body: Body,
    /// The body as it is looked into, where it was read.
    pub(crate) plain: Option<Bytes>,
}

/// What is known of where a request belongs.
#[derive(Debug)]
pub(crate) enum Placement {
    /// An operation on points of this collection.
    Points(Arc<Collection>, Intent),
    /// An operation on points that could not be looked into.
    Opaque(Reason),
    /// A node-local request.
    Local(Local),
    /// Something that every node does for itself.
    AllNodes,
    /// Everything else; but never to this peer.
    Class {
        /// The peer that is to be removed.
        not: Option<PeerId>,
    },
}

/// An answer, and how it came about.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) plan: Plan,
    pub(crate) attempts: usize,
    pub(crate) in_flight: InFlight,
}

// === impl Job ===

impl Job {
    fn target(&self) -> Target<'_> {
        match &self.placement {
            Placement::Points(collection, intent) => Target::Points(collection, intent),
            Placement::Opaque(reason) => Target::Opaque(*reason),
            Placement::Local(local) => Target::Local(local),
            Placement::AllNodes | Placement::Class { .. } => Target::Class(self.class),
        }
    }

    /// The nodes that it must not go to.
    fn excluded(&self) -> SmallVec<[Address; MAX_ATTEMPTS]> {
        let Placement::Class { not: Some(peer) } = self.placement else { return SmallVec::new() };
        self.snapshot.node(peer).map(|node| node.address).into_iter().collect()
    }
}

// === impl Dispatcher ===

impl Dispatcher {
    /// Sends the request to the node that `plan` names, and on to others while that is safe.
    pub(crate) async fn send(&self, job: &mut Job) -> Result<Answer, Failure> {
        let repeatable = Repeatable::of(job.repeat, &job.placement);
        let change = self.topology.change();
        let conditions = Now::of(self, &change, &job.snapshot, job.collection.as_deref());
        let mut tried = job.excluded();
        let excluded = tried.len();
        let mut failures = Vec::new();
        let mut unknown_outcomes = 0;
        while tried.len() - excluded < MAX_ATTEMPTS {
            let Some(plan) = plan(job.target(), &job.snapshot, &conditions, &tried, self.dice.throw()) else {
                break;
            };
            let body = match &mut job.body {
                Body::Full(bytes) => Body::Full(bytes.clone()),
                Body::Stream(_) => std::mem::replace(&mut job.body, Body::Full(Bytes::new())),
            };
            let can_send_again = matches!(body, Body::Full(_));
            let in_flight = self.balance.start(plan.address);
            let request = Request::from_parts(job.head.clone(), body);
            let error = match self.transport.send(plan.address, job.protocol, request).await {
                Ok(response) => {
                    // Reads alone compare: a snapshot takes long, and a quick error is no merit.
                    if job.class == Class::Read && !response.status().is_server_error() {
                        in_flight.answered();
                    }
                    return Ok(Answer { response, plan, attempts: tried.len() - excluded + 1, in_flight });
                }
                Err(error) => error,
            };
            tracing::debug!(address = %plan.address, sent = ?error.sent, "attempt failed: {}", error.reason);
            if error.no_connection {
                self.balance.eject(plan.address);
                self.discovery.refresh();
            }
            self.topology.refresh();
            tried.push(plan.address);
            failures.push((plan.address, error.reason));
            if error.sent == Sent::Unknown {
                unknown_outcomes += 1;
            }
            if !can_send_again || !may_repeat(repeatable, error.sent, unknown_outcomes) {
                return Err(Failure::Broken {
                    attempts: failures,
                    sent: outcome(repeatable, unknown_outcomes),
                });
            }
        }
        Err(if failures.is_empty() {
            Failure::NoNode { problems: self.topology.problems().iter().map(ToString::to_string).collect() }
        } else {
            Failure::Broken { attempts: failures, sent: outcome(repeatable, unknown_outcomes) }
        })
    }
}

/// The nodes as they are at this moment, for one request.
struct Now<'a> {
    balance: &'a Balance,
    snapshot: &'a Topology,
    /// A change of metadata that the request could notice.
    change: Option<&'a Change>,
}

impl<'a> Now<'a> {
    fn of(
        dispatcher: &'a Dispatcher,
        change: &'a Change,
        snapshot: &'a Topology,
        collection: Option<&str>,
    ) -> Self {
        let is_noticed = change.concerns(collection, snapshot);
        Self { balance: &dispatcher.balance, snapshot, change: is_noticed.then_some(change) }
    }
}

impl Conditions for Now<'_> {
    fn is_usable(&self, address: Address) -> bool {
        self.balance.is_usable(address)
    }

    fn load(&self, address: Address) -> u64 {
        self.balance.load(address)
    }

    fn is_current(&self, address: Address) -> bool {
        self.change.is_none_or(|change| change.is_applied_by(address, self.snapshot))
    }
}

/// What repeating a request would do if the first attempt had been processed after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeatable {
    /// Nothing.
    Freely,
    /// The same effect again; other writers may see it twice. Qdrant's own client repeats these once.
    Once,
    /// Something else than was asked.
    Never,
}

// === impl Repeatable ===

impl Repeatable {
    fn of(repeat: Repeat, placement: &Placement) -> Self {
        match (repeat, placement) {
            (Repeat::Safe, _) => Self::Freely,
            (
                Repeat::Idempotent,
                Placement::Points(_, Intent { action: Action::Write(WriteOrdering::Weak), .. }),
            ) => Self::Once,
            (Repeat::Idempotent | Repeat::Verify | Repeat::Never, _) => Self::Never,
        }
    }
}

/// What is known of a request that no attempt got an answer to. What changes nothing has changed
/// nothing, processed or not.
fn outcome(repeatable: Repeatable, unknown_outcomes: usize) -> Sent {
    match repeatable {
        Repeatable::Once | Repeatable::Never if unknown_outcomes > 0 => Sent::Unknown,
        Repeatable::Freely | Repeatable::Once | Repeatable::Never => Sent::No,
    }
}

/// Whether a request may be sent to another node after an attempt failed; `unknown_outcomes` counts
/// the attempts so far, this one included, that may have been processed.
fn may_repeat(repeatable: Repeatable, sent: Sent, unknown_outcomes: usize) -> bool {
    match (sent, repeatable) {
        (Sent::No, _) | (Sent::Unknown, Repeatable::Freely) => true,
        (Sent::Unknown, Repeatable::Once) => unknown_outcomes <= 1,
        (Sent::Unknown, Repeatable::Never) => false,
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;
    use crate::{request::Scope, topology::Epoch};

    fn write(ordering: WriteOrdering) -> Placement {
        let collection = Collection::new(Epoch::default(), Vec::new(), None, 0);
        let intent =
            Intent { action: Action::Write(ordering), scopes: smallvec![Scope::EVERYTHING], affinity: None };
        Placement::Points(Arc::new(collection), intent)
    }

    #[test]
    fn what_was_not_processed_may_always_go_elsewhere() {
        for repeatable in [Repeatable::Freely, Repeatable::Once, Repeatable::Never] {
            assert!(may_repeat(repeatable, Sent::No, 0));
        }
    }

    #[test]
    fn what_may_have_been_processed_is_repeated_where_that_does_no_harm() {
        let class = || Placement::Class { not: None };
        let opaque = || Placement::Opaque(Reason::UnknownCollection);
        for (repeat, placement, first, second) in [
            (Repeat::Safe, opaque(), true, true),
            (Repeat::Safe, class(), true, true),
            (Repeat::Idempotent, write(WriteOrdering::Weak), true, false),
            (Repeat::Idempotent, write(WriteOrdering::Medium), false, false),
            (Repeat::Idempotent, write(WriteOrdering::Strong), false, false),
            (Repeat::Idempotent, opaque(), false, false),
            (Repeat::Idempotent, class(), false, false),
            (Repeat::Verify, class(), false, false),
            (Repeat::Never, class(), false, false),
        ] {
            let repeatable = Repeatable::of(repeat, &placement);
            let verdicts =
                (may_repeat(repeatable, Sent::Unknown, 1), may_repeat(repeatable, Sent::Unknown, 2));
            assert_eq!(verdicts, (first, second), "{repeat:?} {placement:?}");
        }
    }
}
