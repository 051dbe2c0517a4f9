//! Sends a write in parts, each to the node that holds its shards.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderName, header};
use http_body_util::{BodyExt, Limited};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{
    Answer, Dispatcher, Failure, Job, Now, Placement, in_time,
    merge::{PartReply, Reply, merge},
};
use crate::{
    aside::is_long,
    request::{Body, Call, Intent, Pieces, Points, Protocol, Scope},
    route::{Plan, Split, settle, takers},
    topology::{Collection, PeerId, Topology},
};

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// Replies to writes are a few hundred bytes.
const MAX_REPLY_BYTES: usize = 4 << 20;

/// One part of a write.
#[derive(Debug)]
pub(crate) struct Part {
    pub(super) shards: usize,
    pub(super) job: Job,
}

/// The merged reply to a write in parts.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) reply: Reply,
    /// Where each part went, for those that somebody answered.
    pub(crate) plans: Vec<Plan>,
    pub(crate) attempts: usize,
    pub(crate) parts: usize,
}

// === impl Dispatcher ===

impl Dispatcher {
    /// Sends all parts and merges their replies.
    pub(crate) async fn send_parts(&self, protocol: Protocol, parts: Vec<Part>) -> Merged {
        let began = Instant::now();
        let count = parts.len();
        let outcomes = join_all(parts.into_iter().map(|part| self.send_part(part))).await;
        let mut replies = Vec::with_capacity(count);
        let mut plans = Vec::with_capacity(count);
        let mut attempts = 0;
        for (reply, plan, tries) in outcomes {
            replies.push(reply);
            plans.extend(plan);
            attempts += tries;
        }
        Merged { reply: merge(protocol, replies, began.elapsed()), plans, attempts, parts: count }
    }

    pub(super) async fn send_part(&self, mut part: Part) -> (PartReply, Option<Plan>, usize) {
        match self.send(&mut part.job).await {
            Ok(Answer { response, plan, attempts }) => {
                let (head, body) = response.into_parts();
                let body = Limited::new(body, MAX_REPLY_BYTES).collect().await;
                let reply = body
                    .map(|body| Reply {
                        status: head.status,
                        headers: head.headers,
                        trailers: body.trailers().cloned(),
                        body: body.to_bytes(),
                    })
                    .map_err(|error| Failure::broken_reply(plan.address, error.to_string()));
                (PartReply { shards: part.shards, reply }, Some(plan), attempts)
            }
            Err(failure) => {
                let attempts = failure.attempts();
                (PartReply { shards: part.shards, reply: Err(failure) }, None, attempts)
            }
        }
    }

    /// The parts of a write, where sending it in parts needs fewer requests in all; `None` where it
    /// goes whole. The job is not shared between threads, as its body may not be.
    ///
    /// # Errors
    ///
    /// Where the client stops waiting before.
    pub(crate) async fn deal(&self, call: &Call, job: &mut Job) -> Result<Option<Vec<Part>>, Failure> {
        let takers = {
            let change = self.topology.change();
            let conditions = Now::of(self, &change, &job.snapshot, job.class, job.collection.as_deref());
            takers(&job.snapshot, &conditions)
        };
        let (Placement::Points(collection, intent), Some(body)) = (&mut job.placement, &job.plain) else {
            return Ok(None);
        };
        let collection = collection.clone();
        let shares = if is_long(body.len(), Split::points(intent)) {
            let (call, body, topology) = (call.clone(), body.clone(), job.snapshot.clone());
            // Lent to the other thread, as it may be long.
            let (mut whole, placed) = (intent.take(), collection.clone());
            let work = move || {
                let shares = cut(&call, &body, &whole, &placed, &topology, &takers);
                if shares.is_none() {
                    settle(&mut whole, &placed, topology.hashing());
                }
                (shares, whole)
            };
            let work = async { Ok(self.aside.run(work).await) };
            let shares;
            (shares, *intent) = match job.deadline {
                Some(deadline) => in_time(deadline, work).await,
                None => work.await,
            }?;
            shares
        } else {
            cut(call, body, intent, &collection, &job.snapshot, &takers)
        };
        let part =
            |Share { shards, intent, body }| Part { shards, job: job.part(collection.clone(), intent, body) };
        Ok(shares.map(|shares| shares.into_iter().map(part).collect()))
    }
}

/// What one node gets of a write.
#[derive(Debug)]
pub(crate) struct Share {
    shards: usize,
    intent: Intent,
    pub(crate) body: Bytes,
}

/// Cuts a write between its points for those who take parts, where that needs fewer requests in all.
pub(crate) fn cut(
    call: &Call,
    body: &Bytes,
    intent: &Intent,
    collection: &Collection,
    topology: &Topology,
    takers: &[PeerId],
) -> Option<Vec<Share>> {
    let split = Split::of(intent, collection, topology, takers)?;
    let [Scope { keys, points: Points::Ids(ids), .. }] = &intent.scopes[..] else { return None };
    // What the parts were made for is what is cut.
    let pieces = Pieces::of(call, body).ok().filter(|pieces| pieces.ids == ids[..])?;
    let shares = split.parts.iter().enumerate().map(|(part, shards)| {
        let is_of_part = |at: usize| split.part_of[at] == part;
        let ids = (0..ids.len()).filter(|&at| is_of_part(at)).count();
        let points = Points::Owned { by: SmallVec::from_slice(shards), ids };
        let intent = Intent {
            scopes: SmallVec::from([Scope { keys: keys.clone(), points, is_conditional: false }]),
            ..*intent
        };
        Share { shards: shards.len(), intent, body: pieces.part(is_of_part) }
    });
    Some(shares.collect())
}

impl Job {
    /// The same request for some of its points.
    fn part(&self, collection: Arc<Collection>, intent: Intent, body: Bytes) -> Self {
        let mut part = self.with(Placement::Points(collection, intent), body);
        for name in [header::CONTENT_LENGTH, header::CONTENT_ENCODING, GRPC_ENCODING] {
            part.head.headers.remove(name);
        }
        part
    }

    /// The same request elsewhere, whose reply comes as it is, to be merged with others.
    pub(super) fn with(&self, placement: Placement, body: Bytes) -> Self {
        let mut head = self.head.clone();
        for name in [header::ACCEPT_ENCODING, GRPC_ACCEPT_ENCODING] {
            head.headers.remove(name);
        }
        Self {
            protocol: self.protocol,
            class: self.class,
            repeat: self.repeat,
            retry_writes: self.retry_writes,
            deadline: self.deadline,
            placement,
            collection: self.collection.clone(),
            snapshot: self.snapshot.clone(),
            head,
            body: Body::Full(body),
            plain: None,
            admitted: self.admitted.clone(),
        }
    }
}
