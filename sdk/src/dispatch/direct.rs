//! Reads points by id from the shards that own them, without an internal RPC.
//!
//! Qdrant asks every shard for every id, because nothing tells it which shard has a point. The router
//! knows the ring, and Qdrant has an endpoint that reads one shard's local replica alone
//! (`POST /collections/{c}/shards/{id}/points`). So each shard's points can be read from a node that
//! holds them, and a read that costs four RPCs on six shards and three nodes costs none.
//!
//! The endpoint is not documented, so this is off unless asked for, and whatever is surprising (a
//! point that is not where it should be, an answer of another shape) leads back to the ordinary path.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderValue, Method, header, uri::PathAndQuery};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::value::RawValue;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{
    Dispatcher, Job, Now, Placement,
    merge::{PartReply, Reply, merge_usage},
    parts::Part,
};
use crate::{
    aside::is_long,
    request::{Action, Affinity, Body, Call, Class, Keys, Protocol, Repeat, retrieve},
    route::{Conditions, Local, Plan, Reason, Target, plan},
    topology::{Address, Collection, PointId, ShardId, Topology},
};

/// Longer bodies and more points go the ordinary way. So many UUIDs are shorter; Qdrant takes two megabytes here.
const MAX_BODY: usize = 512 << 10;
const MAX_IDS: usize = 10_000;

/// A read of points by id that is to be made shard by shard.
#[derive(Debug)]
pub(crate) struct DirectRead {
    pub(super) parts: Vec<ShardRead>,
    order: Vec<PointId>,
    /// The internal RPCs that the ordinary way would have needed on average over the nodes.
    unrouted_rpcs: Option<f64>,
    /// Whether one point is asked for by its path.
    is_single: bool,
}

/// The part of one shard.
#[derive(Debug)]
pub(super) struct ShardRead {
    pub(super) plan: Plan,
    pub(super) ids: Vec<PointId>,
    job: Job,
}

/// The answer to a direct read.
#[derive(Debug)]
pub(crate) struct DirectAnswer {
    pub(crate) reply: Reply,
    pub(crate) plans: Vec<Plan>,
    pub(crate) attempts: usize,
    /// The internal RPCs that were avoided, all of them.
    pub(crate) avoided_rpcs: Option<f64>,
}

impl Dispatcher {
    /// How to read the points of `job` shard by shard; `None` where the ordinary path is as good, or the
    /// only one.
    pub(crate) fn direct(&self, call: &Call, job: &Job) -> Option<DirectRead> {
        let Placement::Points(collection, intent) = &job.placement else { return None };
        if !self.direct_point_reads || intent.action != Action::Read {
            return None;
        }
        // One shard is asked as it is, whatever the affinity; a node of 1.19 heeds it also where others do not yet.
        if Affinity::of(&job.head.headers).is_some() {
            return None;
        }
        let wanted = retrieve(call, job.plain.as_deref().filter(|body| body.len() <= MAX_BODY)?)?;
        let has_consistency = job
            .head
            .uri
            .query()
            .is_some_and(|query| query.split('&').any(|pair| pair.starts_with("consistency=")));
        // A key where there are none is an error that Qdrant words itself.
        if wanted.has_key && !collection.has_shard_keys() {
            return None;
        }
        // Strict mode is checked on the ordinary path; the stage of a resharding is not published.
        if has_consistency
            || collection.is_strict
            || collection.resharding.is_some()
            || wanted.ids.len() > MAX_IDS
        {
            return None;
        }
        let group = match &intent.scopes.first()?.keys {
            Keys::Unspecified => collection.group(None),
            Keys::Any(keys) if keys.len() == 1 => collection.group(keys.first()),
            Keys::Any(_) | Keys::WithFallback { .. } => None,
        }?;
        let change = self.topology.change();
        let conditions = Now::of(self, &change, &job.snapshot, job.class, job.collection.as_deref());
        let ordinary = plan(job.target(), &job.snapshot, &conditions, &[], 0)?;
        if ordinary.expected_rpcs == Some(0) {
            return None;
        }
        let unrouted_rpcs = ordinary
            .expected_rpcs
            .zip(ordinary.avoided_rpcs())
            .map(|(rpcs, avoided)| f64::from(rpcs) + avoided);
        let mut shards: BTreeMap<ShardId, Vec<PointId>> = BTreeMap::new();
        for id in &wanted.ids {
            let shard = group.owners(job.snapshot.hashing(), id).next()?;
            shards.entry(shard).or_default().push(*id);
        }
        let name = job.collection.as_deref()?;
        let parts = shards.into_iter().map(|(shard, ids)| {
            let address = holder(collection, shard, &job.snapshot, &conditions)?;
            let local = Local::Node(address, Reason::DirectRead);
            let plan = plan(Target::Local(&local), &job.snapshot, &conditions, &[], 0)?;
            let job = job.of_shard(name, shard, local, wanted.body(&ids)?)?;
            Some(ShardRead { plan: Plan { expected_rpcs: Some(0), ..plan }, ids, job })
        });
        let parts: Vec<ShardRead> = parts.collect::<Option<_>>()?;
        Some(DirectRead { parts, order: wanted.ids, unrouted_rpcs, is_single: wanted.is_single })
    }

    /// Reads shard by shard; `None` where something is surprising.
    pub(crate) async fn read_direct(&self, read: DirectRead) -> Option<DirectAnswer> {
        let began = Instant::now();
        let plans = read.parts.iter().map(|part| part.plan).collect();
        let answers =
            join_all(read.parts.into_iter().map(|part| self.send_part(Part { shards: 1, job: part.job })))
                .await;
        let attempts = answers.iter().map(|(.., attempts)| attempts).sum();
        let replies: Option<Vec<Reply>> = answers
            .into_iter()
            .map(|(PartReply { reply, .. }, ..)| reply.ok().filter(|reply| reply.status.is_success()))
            .collect();
        let (replies, took) = (replies?, began.elapsed().as_secs_f64());
        let length = replies.iter().map(|reply| reply.body.len()).sum();
        let (order, is_single) = (read.order, read.is_single);
        let reply = if is_long(length, order.len()) {
            self.aside.run(move || merge(&replies, &order, is_single, took)).await
        } else {
            merge(&replies, &order, is_single, took)
        }?;
        Some(DirectAnswer { reply, plans, attempts, avoided_rpcs: read.unrouted_rpcs })
    }
}

/// The usable node of least load that holds a readable replica of `shard`.
fn holder(
    collection: &Collection,
    shard: ShardId,
    topology: &Topology,
    conditions: &impl Conditions,
) -> Option<Address> {
    let replicas = &collection.shard(shard)?.replicas;
    let readable: SmallVec<[Address; 4]> = replicas
        .iter()
        .filter(|replica| replica.state.is_readable())
        .filter_map(|replica| topology.node(replica.peer))
        .filter(|node| conditions.may_take(node))
        .map(|node| node.address)
        .collect();
    readable.into_iter().min_by_key(|&address| conditions.load(address))
}

/// One reply in the order in which the points were asked for, each once, as Qdrant orders them. Every
/// point must be there: one that is not where it should be may be elsewhere.
fn merge(replies: &[Reply], order: &[PointId], is_single: bool, took: f64) -> Option<Reply> {
    #[derive(Deserialize)]
    struct Document<'a> {
        #[serde(borrow)]
        result: Vec<&'a RawValue>,
        #[serde(borrow, default)]
        usage: Option<&'a RawValue>,
    }

    let documents: Vec<Document<'_>> =
        replies.iter().map(|reply| serde_json::from_slice(&reply.body).ok()).collect::<Option<_>>()?;
    let mut points: HashMap<PointId, &RawValue> = HashMap::new();
    for row in documents.iter().flat_map(|document| &document.result) {
        points.insert(crate::request::row_id(row)?, row);
    }
    let mut rows: Vec<&str> = Vec::with_capacity(points.len());
    let mut seen = HashSet::new();
    // What is asked for twice is given once.
    for id in order.iter().filter(|&&id| seen.insert(id)) {
        rows.push(points.remove(id)?.get());
    }
    if !points.is_empty() {
        return None;
    }
    let usage = merge_usage(documents.iter().filter_map(|document| document.usage))
        .map(|usage| format!(r#""usage":{usage},"#))
        .unwrap_or_default();
    let result = match (is_single, &rows[..]) {
        (true, [row]) => (*row).to_owned(),
        (true, _) => return None,
        (false, rows) => format!("[{}]", rows.join(",")),
    };
    let body = format!(r#"{{{usage}"result":{result},"status":"ok","time":{took}}}"#);
    Some(replies.first()?.with_body(Bytes::from(body)))
}

impl Job {
    /// The read of one shard's points on behalf of the same client.
    fn of_shard(&self, collection: &str, shard: ShardId, local: Local, body: Bytes) -> Option<Self> {
        let mut part = self.with(Placement::Local(local), body);
        let collection = utf8_percent_encode(collection, NON_ALPHANUMERIC);
        let query = self.head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let path = format!("/collections/{collection}/shards/{shard}/points{query}");
        part.head.uri = PathAndQuery::try_from(path).ok()?.into();
        part.head.method = Method::POST;
        let headers = &mut part.head.headers;
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::CONTENT_ENCODING);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        part.protocol = Protocol::Rest;
        part.class = Class::Read;
        part.repeat = Repeat::Safe;
        debug_assert!(matches!(part.body, Body::Full(_)), "parts are small");
        Some(part)
    }
}
