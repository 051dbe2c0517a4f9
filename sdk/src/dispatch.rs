//! Sends a request until somebody answers it, or until trying again would not be safe.
//!
//! Each attempt asks [`plan`] again, without the nodes already tried. Whether a failed attempt may be
//! repeated is decided by [`Repeatable`], a pure function of what the request does and of what is
//! known about the failure. Repeats and hedges are paid from one budget, so that a cluster in trouble is
//! not asked more than it was.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Response, request::Parts};
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::{
    aside::Aside,
    balance::Balance,
    dice::Dice,
    discovery::DiscoveryHandle,
    request::{Body, Class, Intent, Protocol, Repeat},
    route::{Conditions, Fitness, Local, Plan, Reason, Split, Target, plan},
    topology::{Address, Change, Collection, PeerId, Topology, TopologyHandle},
    transport::{Outgoing, SendError, Sent, Transport},
};

mod admission;
mod attempt;
mod budget;
mod deadline;
mod direct;
mod explain;
mod merge;
mod nodes;
mod observer;
mod parts;
mod refusal;
mod repeat;
mod reply;
mod watch;

pub(crate) use self::{
    admission::{Admission, Admitted},
    budget::Budget,
    deadline::{deadline, in_time},
    direct::DirectAnswer,
    merge::{Reply, sum_usage},
    nodes::{Credentials, Gathered},
    parts::Merged,
    refusal::{Failure, refuse},
    reply::ReplyBody,
    watch::watch,
};
use self::{
    attempt::{Attempt, Event, Race},
    budget::Credit,
    observer::Observed,
    repeat::{Asks, Repeatable},
};
#[cfg(feature = "internals")]
pub(crate) use self::{
    merge::{PartReply, merge},
    parts::cut,
};
pub use self::{
    observer::{AttemptEnd, AttemptObserver, AttemptOutcome, AttemptStart, ObserveAttempts, Sending},
    repeat::{RetryWrites, RetryWritesError},
};

/// Attempts per request: every copy of a shard in a common cluster, and the Service.
const MAX_ATTEMPTS: usize = 4;

/// A read is hedged after the time within which 95 of 100 are answered and a little more, within bounds.
const HEDGE_MARGIN: f64 = 1.25;
const HEDGE_SOONEST: Duration = Duration::from_millis(5);
const HEDGE_LATEST: Duration = Duration::from_millis(500);

/// As long as that time is not known.
const HEDGE_DEFAULT: Duration = Duration::from_millis(100);

/// What carries requests to nodes. A clone shares everything, connections included.
#[derive(Clone, Debug)]
pub(crate) struct Dispatcher {
    pub(crate) transport: Arc<Transport>,
    pub(crate) balance: Arc<Balance>,
    pub(crate) topology: TopologyHandle,
    pub(crate) discovery: DiscoveryHandle,
    pub(crate) dice: Arc<Dice>,
    /// Whether points are read by id from the shards that own them.
    pub(crate) direct_point_reads: bool,
    /// How many requests a node may have in flight from here.
    pub(crate) max_requests_per_node: usize,
    /// What repeats and hedges are paid from.
    pub(crate) budget: Arc<Budget>,
    /// How many reads were sent to a second node because the first was slow.
    pub(crate) hedges: Arc<AtomicU64>,
    /// Where long bodies are looked into and cut.
    pub(crate) aside: Aside,
}

/// A request that knows what it asks for.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) protocol: Protocol,
    pub(crate) class: Class,
    pub(crate) repeat: Repeat,
    pub(crate) retry_writes: RetryWrites,
    /// When the client stops waiting, where it says.
    pub(crate) deadline: Option<Instant>,
    pub(crate) placement: Placement,
    /// The collection that it names, if any.
    pub(crate) collection: Option<Arc<str>>,
    /// The view that the whole request is decided on.
    pub(crate) snapshot: Arc<Topology>,
    pub(crate) head: Parts,
    pub(crate) body: Body,
    /// The body as it is looked into, where it was read.
    pub(crate) plain: Option<Bytes>,
    /// Counts it as under way as long as any of its attempts is; `None` where it is only explained, or asked
    /// on behalf of one that counts.
    pub(crate) admitted: Option<Arc<Admitted>>,
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
    /// It is not routed.
    Unrouted,
}

/// An answer, and how it came about.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<ReplyBody>,
    pub(crate) plan: Plan,
    pub(crate) attempts: usize,
}

// === impl Job ===

impl Job {
    fn target(&self) -> Target<'_> {
        match &self.placement {
            Placement::Points(collection, intent) => Target::Points(collection, intent),
            Placement::Opaque(reason) => Target::Opaque(*reason),
            Placement::Local(local) => Target::Local(local),
            Placement::AllNodes | Placement::Class { .. } => Target::Class(self.class),
            Placement::Unrouted => Target::Unrouted,
        }
    }

    /// Whether it may be worth dealing out.
    pub(crate) fn lists_points(&self) -> bool {
        matches!(&self.placement, Placement::Points(_, intent) if Split::points(intent) > 0)
    }

    /// The nodes that it must not go to.
    fn excluded(&self) -> SmallVec<[Address; MAX_ATTEMPTS]> {
        let Placement::Class { not: Some(peer) } = self.placement else { return SmallVec::new() };
        self.snapshot.node(peer).map(|node| node.address).into_iter().collect()
    }
}

// === impl Dispatcher ===

impl Dispatcher {
    /// Sends the request to the node that `plan` names, and on to others while that is safe and the
    /// client waits.
    pub(crate) async fn send(&self, job: &mut Job) -> Result<Answer, Failure> {
        let Some(deadline) = job.deadline else { return self.send_on(job).await };
        // What is polled once may have gone out.
        if deadline <= Instant::now() {
            return Err(Failure::Late);
        }
        in_time(deadline, self.send_on(job)).await
    }

    async fn send_on(&self, job: &mut Job) -> Result<Answer, Failure> {
        self.budget.deposit();
        let repeatable = Repeatable::of(job.repeat, &job.placement, job.retry_writes);
        let can_send_again = matches!(job.body, Body::Full(_));
        let change = self.topology.change();
        let snapshot = job.snapshot.clone();
        let collection = job.collection.clone();
        let collection = collection.as_deref();
        let conditions = Now::of(self, &change, &snapshot, job.class, collection);
        let mut tried = job.excluded();
        let excluded = tried.len();
        let mut race = Race::default();
        let mut failures = Vec::new();
        // How many attempts broke off or hang, and how many were answered with an error that asks for another: none of
        // them says what became of the request.
        let (mut broken, mut errors) = (0, 0);
        // Whether an attempt ended without an answer after it may have been processed.
        let mut is_lost = false;
        let mut credit = Credit::default();
        // An answer that asks for another node, for when no other has a better one.
        let mut poor: Option<(Asks, Answer)> = None;
        // Nodes that answered poorly what others have a part in: theirs is the fault once another node answers
        // the same request well.
        let mut suspects: SmallVec<[Address; MAX_ATTEMPTS]> = SmallVec::new();
        let mut next = Next::Attempt;
        loop {
            let attempts = tried.len() - excluded;
            let may_start = next != Next::Answer && attempts < MAX_ATTEMPTS;
            let other = match may_start {
                true => plan(job.target(), &snapshot, &conditions, &tried, self.dice.throw()),
                false => None,
            };
            // The first sending is free, and so is another one of what no node has seen.
            let other = other.filter(|other| match next {
                // A node that has to be spared is no help, and the budget is for those that need it.
                Next::Hedge { expected_rpcs } => {
                    other.can_hedge
                        && other.expected_rpcs <= expected_rpcs
                        && conditions.is_usable(other.address)
                        && self.budget.withdraw()
                }
                Next::Attempt | Next::Answer => broken + errors == 0 || credit.pay(&self.budget),
            });
            let may_break = can_send_again && repeatable.allows(Sent::Unknown, broken + 1);
            let other = match other {
                Some(spared)
                    if spared.is_spared && may_break && (attempts > 0 || !credit.open(&self.budget)) =>
                {
                    Some(self.beside(job, &conditions, &tried, spared))
                }
                other => other,
            };
            if let Some(other) = other {
                if next != Next::Attempt {
                    self.hedges.fetch_add(1, Ordering::Relaxed);
                }
                let sending = match next {
                    Next::Hedge { .. } => Sending::Hedge,
                    Next::Attempt | Next::Answer if attempts > 0 => Sending::Repeat,
                    Next::Attempt | Next::Answer => Sending::First,
                };
                tried.push(other.address);
                match self.start(job, other, sending) {
                    Ok(attempt) => {
                        let is_first = attempts == 0 && other.can_hedge && can_send_again;
                        race.start(attempt, is_first.then(|| self.hedge_delay()));
                    }
                    Err(error) => {
                        failures.push((other.address, error.reason));
                        continue;
                    }
                }
            } else if race.is_over() {
                break;
            }
            next = Next::Answer;
            let (plan, error) = match race.next().await {
                Event::Slow(plan) => {
                    next = Next::Hedge { expected_rpcs: plan.expected_rpcs };
                    continue;
                }
                // It may answer yet, so it stays in the race.
                Event::Hung => {
                    if may_break {
                        broken += 1;
                        next = Next::Attempt;
                    }
                    continue;
                }
                Event::Ended(plan, Ok((response, in_flight))) => {
                    let attempts = tried.len() - excluded;
                    let asks = Asks::of(job.protocol, job.class, &response);
                    let may_go_on = match asks {
                        Asks::Another => repeatable.allows(Sent::Unknown, errors + 1),
                        Asks::Elsewhere => repeatable.allows(Sent::No, 0),
                        Asks::Pause(_) | Asks::Nothing => false,
                    };
                    let is_poor =
                        may_go_on && can_send_again && !matches!(job.placement, Placement::Local(_));
                    let is_read = job.class == Class::Read;
                    match (is_read, collection, asks) {
                        (false, ..) => {}
                        (true, Some(collection), Asks::Pause(pause)) => in_flight.rest(collection, pause),
                        (true, ..) if is_poor && plan.expected_rpcs == Some(0) => {
                            self.balance.poor(plan.address, collection);
                        }
                        (true, ..) if is_poor => suspects.push(plan.address),
                        (true, ..) => in_flight.good(collection),
                    }
                    // Reads alone compare: a snapshot takes long, and a quick error is no merit.
                    let is_error =
                        is_poor || matches!(asks, Asks::Pause(_)) || response.status().is_server_error();
                    let tells_load = is_read && !is_error;
                    let took = in_flight.answered(tells_load);
                    if tells_load {
                        self.balance.observe_read(took);
                    }
                    let (head, body) = response.into_parts();
                    let mut body = ReplyBody::new(body, in_flight);
                    let primed = if is_primed(job.class) { body.prime().await } else { Ok(()) };
                    match primed {
                        Ok(()) => {
                            let answer =
                                Answer { response: Response::from_parts(head, body), plan, attempts };
                            if !is_poor {
                                if is_read && !is_error {
                                    suspects.iter().for_each(|&node| self.balance.poor(node, collection));
                                }
                                return Ok(answer);
                            }
                            tracing::debug!(address = %plan.address, "asks for another node");
                            // What was refused is as if it had not been sent.
                            errors += usize::from(asks == Asks::Another);
                            poor.get_or_insert((asks, answer));
                            self.topology.refresh();
                            // Of what may not be sent at will, one copy at a time is enough.
                            if repeatable == Repeatable::Freely || race.is_over() {
                                next = Next::Attempt;
                            }
                            continue;
                        }
                        Err(error) => (plan, SendError::from(error)),
                    }
                }
                Event::Ended(plan, Err(error)) => (plan, error),
            };
            tracing::debug!(address = %plan.address, sent = ?error.sent, "attempt failed: {}", error.reason);
            if error.no_connection {
                self.balance.eject(plan.address);
                self.discovery.refresh();
            } else if error.sent == Sent::Unknown && job.class == Class::Read && can_send_again {
                self.balance.poor(plan.address, collection);
            }
            self.topology.refresh();
            failures.push((plan.address, error.reason));
            if error.sent == Sent::Unknown {
                broken += 1;
                is_lost = true;
            }
            if can_send_again && repeatable.allows(error.sent, broken) {
                next = Next::Attempt;
            }
        }
        // That one node has refused says nothing of an attempt after it that broke off.
        if let Some((asks, answer)) = poor
            && !(asks == Asks::Elsewhere && is_lost)
        {
            return Ok(Answer { attempts: tried.len() - excluded, ..answer });
        }
        Err(if failures.is_empty() {
            Failure::NoNode { problems: self.topology.problems().iter().map(ToString::to_string).collect() }
        } else {
            Failure::Broken { attempts: failures, sent: repeatable.outcome(broken) }
        })
    }

    /// A plan without the nodes that should be spared, where there is one: any node hands on what it does not
    /// hold.
    fn beside(&self, job: &Job, conditions: &Now<'_>, tried: &[Address], spared: Plan) -> Plan {
        let mut left_out: SmallVec<[Address; 8]> = tried.into();
        left_out.push(spared.address);
        while let Some(plan) = plan(job.target(), &job.snapshot, conditions, &left_out, self.dice.throw()) {
            if !plan.is_spared {
                return plan;
            }
            left_out.push(plan.address);
        }
        spared
    }

    /// Sends `job` where `plan` says.
    fn start(&self, job: &mut Job, plan: Plan, sending: Sending) -> Result<Attempt, SendError> {
        let limit = self.max_requests_per_node;
        if self.balance.in_flight(plan.address) >= limit {
            return Err(SendError::not_sent(format!("it has {limit} requests in flight, as many as it may")));
        }
        let body = match &mut job.body {
            Body::Full(bytes) => Body::Full(bytes.clone()),
            Body::Stream(_) => std::mem::replace(&mut job.body, Body::Full(Bytes::new())),
        };
        let is_repeatable = matches!(body, Body::Full(_));
        // Headers of this attempt alone, where they differ from the client's.
        let mut headers = None;
        if let Some(at) = job.deadline.filter(|_| sending != Sending::First) {
            deadline::shrink(headers.get_or_insert_with(|| job.head.headers.clone()), at);
        }
        let observed = Observed::start(&job.head, &mut headers, job.protocol, &plan, sending, &job.snapshot);
        let head = Outgoing {
            method: &job.head.method,
            uri: &job.head.uri,
            headers: headers.as_ref().unwrap_or(&job.head.headers),
        };
        let exchange = self.transport.send(plan.address, job.protocol, head, body);
        let is_read = job.class == Class::Read;
        let admitted = job.admitted.clone();
        Ok(Attempt::new(plan, exchange, &self.balance, is_repeatable, is_read, observed, admitted))
    }

    /// How long a read is waited for before another node is asked too: a little longer than reads
    /// usually take.
    fn hedge_delay(&self) -> Duration {
        let usual = self.balance.p95().map_or(HEDGE_DEFAULT, |p95| p95.mul_f64(HEDGE_MARGIN));
        usual.clamp(HEDGE_SOONEST, HEDGE_LATEST)
    }
}

/// Whether answers are read some way in advance, so that one that breaks off does so before anything of it
/// has gone to the client. Files of snapshots stream from the first byte.
fn is_primed(class: Class) -> bool {
    match class {
        Class::Read | Class::Write | Class::Consensus | Class::Anywhere => true,
        Class::NodeLocal | Class::SnapshotList | Class::SnapshotCreate | Class::Unknown => false,
    }
}

/// What a request needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// An attempt, or another one.
    Attempt,
    /// A hedge, which must not cost more than the attempt that it stands beside.
    Hedge { expected_rpcs: Option<u32> },
    /// Nothing but an answer of those under way.
    Answer,
}

/// The nodes as they are at this moment, for one request.
struct Now<'a> {
    balance: &'a Balance,
    snapshot: &'a Topology,
    /// What it reads, as nodes may have to be spared that.
    reads: Option<&'a str>,
    /// A change of metadata that the request could notice.
    change: Option<&'a Change>,
}

impl<'a> Now<'a> {
    fn of(
        dispatcher: &'a Dispatcher,
        change: &'a Change,
        snapshot: &'a Topology,
        class: Class,
        collection: Option<&'a str>,
    ) -> Self {
        let is_noticed = change.concerns(collection, snapshot);
        Self {
            balance: &dispatcher.balance,
            snapshot,
            reads: collection.filter(|_| class == Class::Read),
            change: is_noticed.then_some(change),
        }
    }
}

impl Conditions for Now<'_> {
    fn fitness(&self, address: Address) -> Fitness {
        self.balance.fitness_for(address, self.reads)
    }

    fn load(&self, address: Address) -> u64 {
        self.balance.load(address)
    }

    fn is_current(&self, address: Address) -> bool {
        self.change.is_none_or(|change| change.is_applied_by(address, self.snapshot))
    }
}
