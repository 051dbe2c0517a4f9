//! Asks all nodes: for the snapshots that each keeps, or for one on each.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Dispatcher, Failure, Job, Placement, RetryWrites,
    merge::{PartReply, Reply, merge_created, merge_lists},
    parts::Part,
};
use crate::{
    request::{Body, Class, Protocol, Repeat},
    route::{Local, Plan, Reason},
    topology::{Node, Topology},
};

/// The nodes whose snapshots are missing in a list, because they did not answer.
const MISSING: HeaderName = HeaderName::from_static("x-qdrant-router-missing");

/// What a client shows to be let in.
#[derive(Clone, Debug)]
pub(crate) struct Credentials(HeaderMap);

/// The answer of all nodes.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) reply: Reply,
    pub(crate) plans: Vec<Plan>,
    pub(crate) attempts: usize,
    /// The nodes that were asked.
    pub(crate) parts: usize,
    /// Whether every node has answered.
    pub(crate) is_complete: bool,
}

// === impl Credentials ===

impl Credentials {
    /// Those of a request of either protocol; both use the same names.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut credentials = HeaderMap::new();
        for name in [HeaderName::from_static("api-key"), header::AUTHORIZATION] {
            if let Some(value) = headers.get(&name) {
                credentials.insert(name, value.clone());
            }
        }
        Self(credentials)
    }
}

// === impl Dispatcher ===

impl Dispatcher {
    /// Sends `job` to every node of the cluster and makes one answer of theirs.
    pub(crate) async fn gather(&self, job: Job) -> Gathered {
        let began = Instant::now();
        let nodes = peers(&job.snapshot);
        let (protocol, class) = (job.protocol, job.class);
        let answers = self.ask(job, &nodes).await;
        let took = began.elapsed();
        let plans = answers.iter().filter_map(|(_, plan, _)| *plan).collect();
        let attempts = answers.iter().map(|(.., attempts)| attempts).sum();
        let asked = answers.len();
        let is_complete = answers.iter().all(|(part, ..)| part.reply.is_ok());
        let parts: Vec<PartReply> = answers.into_iter().map(|(part, ..)| part).collect();
        let reply = if class == Class::SnapshotList {
            let (mut reply, failed) = merge_lists(protocol, parts, took);
            let count = failed.len();
            let missing: Vec<String> = failed.into_iter().map(|at| nodes[at].label()).collect();
            if let Ok(missing) = HeaderValue::from_str(&missing.join(","))
                && (1..nodes.len()).contains(&count)
            {
                reply.headers.insert(MISSING, missing);
            }
            reply
        } else {
            merge_created(protocol, parts, took)
        };
        Gathered { reply, plans, attempts, parts: asked, is_complete }
    }

    /// The node that lists the snapshot `file` at `path`, where one does.
    pub(crate) async fn keeper(
        &self,
        snapshot: &Arc<Topology>,
        credentials: &Credentials,
        path: &str,
        file: &str,
    ) -> Option<Node> {
        let nodes = peers(snapshot);
        let job = Job::question(snapshot, credentials, path)?;
        let answers = self.ask(job, &nodes).await;
        let lists = |part: &PartReply| {
            let list = part.reply.as_ref().ok().and_then(|reply| {
                let body: Value = serde_json::from_slice(&reply.body).ok()?;
                Some(body.get("result")?.as_array()?.iter().any(|row| row["name"] == json!(file)))
            });
            list == Some(true)
        };
        let at = answers.iter().position(|(part, ..)| lists(part))?;
        Some(nodes[at].clone())
    }

    /// Whether Qdrant tells these credentials who its nodes are: what it answers to them where it does not.
    pub(crate) async fn refusal(
        &self,
        snapshot: &Arc<Topology>,
        credentials: &Credentials,
    ) -> Result<(), Failure> {
        // A token for some collections may ask for much, and not for this.
        let Some(mut job) = Job::question(snapshot, credentials, "/cluster") else { return Ok(()) };
        job.placement = Placement::Class { not: None };
        let (part, ..) = self.send_part(Part { shards: 1, job }).await;
        let reply = part.reply?;
        match reply.status.is_success() {
            true => Ok(()),
            false => Err(Failure::NotLetIn { status: reply.status, text: words(&reply.body) }),
        }
    }

    async fn ask(&self, job: Job, nodes: &[Node]) -> Vec<(PartReply, Option<Plan>, usize)> {
        let parts: Vec<Part> = nodes.iter().map(|node| Part { shards: 1, job: job.to(node) }).collect();
        drop(job);
        join_all(parts.into_iter().map(|part| self.send_part(part))).await
    }
}

/// What an answer says is wrong, in Qdrant's envelope or outside of it.
fn words(body: &[u8]) -> String {
    let envelope: Option<Value> = serde_json::from_slice(body).ok();
    match envelope.as_ref().and_then(|envelope| envelope["status"]["error"].as_str()) {
        Some(words) => words.to_owned(),
        None => String::from_utf8_lossy(body).into_owned(),
    }
}

/// The nodes that are known to be peers of the cluster.
fn peers(snapshot: &Topology) -> Vec<Node> {
    snapshot.nodes().iter().filter(|node| node.peer.is_some()).cloned().collect()
}

impl Job {
    /// The same request for one node and no other.
    fn to(&self, node: &Node) -> Self {
        let body = match &self.body {
            Body::Full(bytes) => bytes.clone(),
            Body::Stream(_) => Bytes::new(),
        };
        self.with(Placement::Local(Local::Node(node.address, Reason::AllNodes)), body)
    }

    /// `GET path` on behalf of a client.
    fn question(snapshot: &Arc<Topology>, credentials: &Credentials, path: &str) -> Option<Self> {
        let (mut head, ()) = Request::builder().method(Method::GET).uri(path).body(()).ok()?.into_parts();
        head.headers = credentials.0.clone();
        Some(Self {
            protocol: Protocol::Rest,
            class: Class::SnapshotList,
            repeat: Repeat::Safe,
            retry_writes: RetryWrites::Never,
            deadline: None,
            placement: Placement::AllNodes,
            collection: None,
            snapshot: snapshot.clone(),
            head,
            body: Body::Full(Bytes::new()),
            plain: None,
            admitted: None,
        })
    }
}
