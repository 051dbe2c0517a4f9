//! `GET /topology/collections` and `GET /topology/collections/{name}`: placement in pieces that a
//! page can show. Peer ids are text here, because a browser's numbers are too short for them.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use qdrant_router::topology::{Collection, Lookup, PeerId, ShardId, Topology, WriteOrdering, leader};
use serde::Serialize;
use serde_json::json;

use super::paging::{Page, Paging};
use crate::lifecycle::Proxy;

#[derive(Debug, Serialize)]
struct CollectionRow {
    name: String,
    shards: usize,
    replicas: usize,
    /// Replicas that reads do not use.
    unreadable: usize,
    transfers: usize,
    resharding: bool,
}

#[derive(Debug, Serialize)]
struct CollectionView {
    name: String,
    aliases: Vec<String>,
    epoch: String,
    transfers: usize,
    /// The shard that is being added or removed.
    resharding: Option<ShardId>,
    /// The columns: who holds a replica of a shard in these rows.
    nodes: Vec<Column>,
    shards: Page<ShardRow>,
}

#[derive(Debug, Serialize)]
struct Column {
    peer_id: String,
    name: String,
    /// Whether it answered when it was last asked.
    reachable: bool,
}

#[derive(Debug, Serialize)]
struct ShardRow {
    id: ShardId,
    key: Option<String>,
    /// Who leads writes of `medium` ordering.
    leader: Option<String>,
    replicas: Vec<Cell>,
}

#[derive(Debug, Serialize)]
struct Cell {
    peer_id: String,
    state: &'static str,
}

/// The collections that traffic has asked for, by name.
pub(super) async fn list(State(proxy): State<Proxy>, Query(paging): Query<Paging>) -> impl IntoResponse {
    let snapshot = proxy.router().topology().snapshot();
    let finds = paging.finder();
    let mut found: Vec<_> = snapshot.collections().filter(|(name, _)| finds(name)).collect();
    found.sort_unstable_by_key(|&(name, _)| name);
    Json(paging.of(found, |(name, collection)| CollectionRow::of(name, collection)))
}

/// One collection, by its name or an alias. As a request would, it asks the nodes for a placement that
/// is not known yet, or not of this epoch.
pub(super) async fn show(
    State(proxy): State<Proxy>,
    Path(name): Path<String>,
    Query(paging): Query<Paging>,
) -> Response {
    let snapshot = proxy.router().topology().knowing(&name).await;
    match snapshot.collection(&name) {
        Some(Lookup::Found(collection)) => {
            Json(CollectionView::of(snapshot.resolve(&name), collection, &snapshot, &paging)).into_response()
        }
        known => {
            let error = match known {
                Some(_) => "no such collection",
                None => "the nodes have not told about this collection",
            };
            (StatusCode::NOT_FOUND, Json(json!({ "error": error }))).into_response()
        }
    }
}

// === impl CollectionRow ===

impl CollectionRow {
    fn of(name: &str, collection: &Collection) -> Self {
        let replicas = || collection.shards().iter().flat_map(|shard| &shard.replicas);
        Self {
            name: name.to_owned(),
            shards: collection.shards().len(),
            replicas: replicas().count(),
            unreadable: replicas().filter(|replica| !replica.state.is_readable()).count(),
            transfers: collection.transfers,
            resharding: collection.resharding.is_some(),
        }
    }
}

// === impl CollectionView ===

impl CollectionView {
    fn of(name: &str, collection: &Collection, topology: &Topology, paging: &Paging) -> Self {
        let shards = paging.of(collection.shards().iter().collect(), |shard| shard);
        let holders = shards.rows.iter().flat_map(|shard| &shard.replicas).map(|replica| replica.peer);
        let mut columns: Vec<(String, PeerId)> = holders
            .map(|peer| {
                let label = topology.node(peer).map(qdrant_router::topology::Node::label);
                (label.unwrap_or_else(|| format!("peer {peer}")), peer)
            })
            .collect();
        columns.sort_unstable();
        columns.dedup();
        let aliases = topology.aliases().iter().filter(|(_, collection)| *collection == name);
        let mut aliases: Vec<String> = aliases.map(|(alias, _)| alias.clone()).collect();
        aliases.sort_unstable();
        let rows = shards.rows.iter().map(|shard| ShardRow {
            id: shard.id,
            key: shard.key.as_ref().map(ToString::to_string),
            leader: leader(&shard.replicas, WriteOrdering::Medium).map(|peer| peer.to_string()),
            replicas: shard
                .replicas
                .iter()
                .map(|replica| Cell { peer_id: replica.peer.to_string(), state: replica.state.as_str() })
                .collect(),
        });
        Self {
            name: name.to_owned(),
            aliases,
            epoch: collection.epoch.to_string(),
            transfers: collection.transfers,
            resharding: collection.resharding.as_ref().map(|resharding| resharding.shard),
            nodes: columns
                .into_iter()
                .map(|(name, peer)| Column {
                    peer_id: peer.to_string(),
                    name,
                    reachable: topology.node(peer).is_some_and(|node| node.reachable),
                })
                .collect(),
            shards: Page {
                rows: rows.collect(),
                total: shards.total,
                page: shards.page,
                pages: shards.pages,
            },
        }
    }
}
