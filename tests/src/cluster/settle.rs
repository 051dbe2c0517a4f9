//! Waiting for a cluster to be what a test expects of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::time::Instant;

use super::node::{Backend, Condition};
use super::{Cluster, ClusterError, Node};

/// Short against everything that is waited for, long against the cost of asking.
pub(super) const POLL: Duration = Duration::from_millis(20);

/// What one node's `GET /cluster` says, reduced to what is waited for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) peer_id: u64,
    pub(super) peers: BTreeSet<u64>,
    pub(super) leader: u64,
    pub(super) term: u64,
    pub(super) commit: u64,
    pub(super) pending: u64,
    pub(super) voter: bool,
}

/// An overall time limit for a loop that polls.
struct Deadline {
    start: Instant,
    limit: Duration,
}

// === impl Cluster ===

impl Cluster {
    /// Returns when every node that is up is ready, sees all others, and knows the same consensus leader.
    ///
    /// # Errors
    ///
    /// When that does not happen in time, or a server ends.
    pub async fn wait_ready(&self) -> Result<(), ClusterError> {
        self.wait("ready", Cluster::missing_for_ready).await
    }

    /// Returns when nothing is on its way: all nodes that are up have applied the same log to its end, no shard is
    /// being moved, and all replicas on these nodes are active, in everybody's view.
    ///
    /// # Errors
    ///
    /// When that does not happen in time, or a server ends.
    pub async fn settled(&self) -> Result<(), ClusterError> {
        self.wait("settled", Cluster::missing_for_settled).await
    }

    /// The number of the node that leads consensus, as the first node that is up sees it.
    ///
    /// # Errors
    ///
    /// When there is none, or nobody to ask.
    pub async fn leader(&self) -> Result<usize, ClusterError> {
        let deadline = Deadline::new(self.options.deadline);
        loop {
            let detail = match self.views().await {
                Ok(views) => {
                    let leader = views.first().map(|view| view.leader).unwrap_or_default();
                    match self.nodes.iter().position(|node| node.peer_id == leader) {
                        Some(index) => return Ok(index),
                        None => {
                            format!("the leader is peer {leader}, which is no node of this cluster")
                        }
                    }
                }
                Err(detail) => detail,
            };
            self.pause(&deadline, "led by anyone", detail).await?;
        }
    }

    pub(super) async fn wait<'a, F>(
        &'a self,
        what: &'static str,
        missing: fn(&'a Cluster) -> F,
    ) -> Result<(), ClusterError>
    where
        F: Future<Output = Result<(), String>>,
    {
        let deadline = Deadline::new(self.options.deadline);
        while let Err(detail) = missing(self).await {
            self.pause(&deadline, what, detail).await?;
        }
        Ok(())
    }

    /// Waits for a node to answer anything after it was started, which is also when it counts as up again.
    pub(super) async fn wait_answering(&self, node: &Node) -> Result<(), ClusterError> {
        let deadline = Deadline::new(self.options.deadline);
        let rest = node.poll();
        while let Err(error) = rest.get("/cluster").await {
            if let Some(exited) = node.exited() {
                return Err(exited);
            }
            self.pause_for(&deadline, "answering", error.to_string(), std::slice::from_ref(node)).await?;
        }
        node.set_condition(Condition::Up);
        Ok(())
    }

    async fn pause(
        &self,
        deadline: &Deadline,
        what: &'static str,
        detail: String,
    ) -> Result<(), ClusterError> {
        self.pause_for(deadline, what, detail, &self.nodes).await
    }

    async fn pause_for(
        &self,
        deadline: &Deadline,
        what: &'static str,
        detail: String,
        nodes: &[Node],
    ) -> Result<(), ClusterError> {
        if let Some(exited) =
            nodes.iter().filter(|node| node.condition() == Condition::Up).find_map(Node::exited)
        {
            return Err(exited);
        }
        if deadline.passed() {
            let log = nodes.iter().filter_map(Node::log).collect();
            return Err(ClusterError::Deadline { what, waited: deadline.limit, detail, log });
        }
        tokio::time::sleep(POLL).await;
        Ok(())
    }

    async fn missing_for_ready(&self) -> Result<(), String> {
        for node in self.up() {
            let request = Request::get("/readyz").body(Bytes::new()).map_err(|error| error.to_string())?;
            let answer = node.poll().raw(request).await.map_err(|error| error.to_string())?;
            if answer.status() != StatusCode::OK {
                let body = String::from_utf8_lossy(answer.body()).into_owned();
                return Err(format!("{}: /readyz says {}: {body}", node.name, answer.status()));
            }
        }
        if self.options.standalone {
            return Ok(());
        }
        let everybody: BTreeSet<u64> = self.nodes.iter().map(Node::peer_id).collect();
        let views = self.views().await?;
        for view in &views {
            let name = self.name_of(view.peer_id);
            if view.peers != everybody {
                return Err(format!("{name} knows the peers {:?} and not {everybody:?}", view.peers));
            }
            if view.leader == 0 {
                return Err(format!("{name} knows no consensus leader"));
            }
            if !view.voter {
                return Err(format!("{name} is still a learner"));
            }
        }
        applied_alike(&views)
    }

    pub(super) async fn missing_for_joined(&self) -> Result<(), String> {
        let everybody: BTreeSet<u64> = self.nodes.iter().map(Node::peer_id).collect();
        for view in self.views().await? {
            if view.leader == 0 || !everybody.is_subset(&view.peers) {
                return Err(format!("{} sees {view:?}", self.name_of(view.peer_id)));
            }
        }
        Ok(())
    }

    async fn missing_for_settled(&self) -> Result<(), String> {
        for node in self.up() {
            if let Backend::Embedded(embedded) = &node.backend
                && !embedded.settled().await
            {
                return Err(format!("{} is still at work", node.name));
            }
        }
        let before = self.views().await?;
        applied_alike(&before)?;
        let down: BTreeSet<u64> =
            self.nodes.iter().filter(|node| !node.condition().is_serving()).map(Node::peer_id).collect();
        for node in self.up() {
            node.missing_for_settled(&down).await?;
        }
        // The collections were read one after the other. Only if the log stood still meanwhile is that one state.
        let after = self.views().await?;
        if before == after { Ok(()) } else { Err(format!("consensus moved on: {before:?}, then {after:?}")) }
    }

    /// How consensus looks to each node that is up; nothing in standalone mode.
    async fn views(&self) -> Result<Vec<View>, String> {
        let mut views = Vec::with_capacity(self.nodes.len());
        if self.options.standalone {
            return Ok(views);
        }
        for node in self.up() {
            let answer = node.poll().get("/cluster").await.map_err(|error| error.to_string())?;
            views.push(
                View::parse(&answer)
                    .ok_or_else(|| format!("{}: not the answer of a peer: {answer}", node.name))?,
            );
        }
        Ok(views)
    }

    fn up(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.condition() == Condition::Up)
    }

    fn name_of(&self, peer_id: u64) -> String {
        self.node_by_peer_id(peer_id).map_or_else(|| format!("peer {peer_id}"), |node| node.name.clone())
    }
}

// === impl Node ===

impl Node {
    /// What this node still lacks, by its own account of every collection.
    async fn missing_for_settled(&self, down: &BTreeSet<u64>) -> Result<(), String> {
        let rest = self.poll();
        let answer = rest.get("/collections").await.map_err(|error| error.to_string())?;
        for collection in entries(&answer["result"]["collections"]) {
            let Some(name) = collection["name"].as_str() else {
                continue;
            };
            let path = format!("/collections/{}/cluster", utf8_percent_encode(name, NON_ALPHANUMERIC));
            let placement = rest.get(&path).await.map_err(|error| error.to_string())?;
            if let Some(missing) = unsettled(&placement["result"], down) {
                return Err(format!("{}: collection {name}: {missing}", self.name));
            }
        }
        Ok(())
    }
}

// === impl View ===

impl View {
    pub(super) fn parse(answer: &Value) -> Option<View> {
        let result = &answer["result"];
        let raft = &result["raft_info"];
        Some(View {
            peer_id: result["peer_id"].as_u64()?,
            peers: result["peers"].as_object()?.keys().filter_map(|id| id.parse().ok()).collect(),
            // Null before the first election, zero when the leader is lost.
            leader: raft["leader"].as_u64().unwrap_or_default(),
            term: raft["term"].as_u64()?,
            commit: raft["commit"].as_u64()?,
            pending: raft["pending_operations"].as_u64()?,
            voter: raft["is_voter"].as_bool().unwrap_or(true),
        })
    }
}

/// Whether all views are of the same log position, applied.
pub(super) fn applied_alike(views: &[View]) -> Result<(), String> {
    let positions: BTreeSet<(u64, u64, u64)> =
        views.iter().map(|view| (view.term, view.commit, view.leader)).collect();
    if positions.len() <= 1 && views.iter().all(|view| view.pending == 0) {
        return Ok(());
    }
    let each: BTreeMap<u64, _> = views
        .iter()
        .map(|view| (view.peer_id, (view.term, view.commit, view.pending, view.leader)))
        .collect();
    Err(format!("peers differ in (term, commit, pending, leader): {each:?}"))
}

/// What one peer's view of a collection still lacks. Replicas on nodes that are down do not count: they stay dead.
pub(super) fn unsettled(placement: &Value, down: &BTreeSet<u64>) -> Option<String> {
    for list in ["shard_transfers", "resharding_operations"] {
        if !entries(&placement[list]).is_empty() {
            return Some(format!("{list}: {}", placement[list]));
        }
    }
    let local = entries(&placement["local_shards"]).iter();
    let remote = entries(&placement["remote_shards"]).iter();
    let alive = remote.filter(|shard| shard["peer_id"].as_u64().is_none_or(|peer| !down.contains(&peer)));
    local.chain(alive).find(|shard| shard["state"] != "Active").map(|shard| format!("replica {shard}"))
}

fn entries(list: &Value) -> &[Value] {
    list.as_array().map(Vec::as_slice).unwrap_or_default()
}

// === impl Deadline ===

impl Deadline {
    fn new(limit: Duration) -> Deadline {
        Deadline { start: Instant::now(), limit }
    }

    fn passed(&self) -> bool {
        self.start.elapsed() >= self.limit
    }
}
