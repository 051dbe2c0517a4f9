//! The node itself: version, health, cluster, telemetry.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::super::clock;
use super::super::engine::Engine;
use super::super::error::{OpError, OpResult};
use super::super::lie::{GARBAGE, Lie};
use super::{Ask, Reply};

/// The routes of this module.
#[derive(Clone, Copy, Debug)]
pub(super) enum Page {
    Root,
    Healthz,
    Readyz,
    Cluster,
    Telemetry,
    Metrics,
    RemovePeer,
}

pub(super) fn run(page: Page, engine: &Arc<Engine>, ask: &Ask) -> OpResult<Reply> {
    match page {
        Page::Root => Ok(Reply::Document(json!({
            "title": "qdrant - vector search engine",
            "version": engine.version.text(),
            "commit": "embedded",
        }))),
        Page::Healthz => Ok(Reply::Text(StatusCode::OK, "healthz check passed".into())),
        Page::Readyz => Ok(readyz(engine)),
        Page::Cluster => Ok(said(engine, cluster(engine), Lie::about_cluster)),
        Page::Telemetry => Ok(Reply::Result(telemetry(engine, ask.number("details_level")?.unwrap_or(0)))),
        Page::Metrics => Err(OpError::lacking("GET /metrics")),
        Page::RemovePeer => remove_peer(engine, ask),
    }
}

/// What is said of the cluster: the truth, or what a lie makes of it.
pub(super) fn said(engine: &Engine, truth: Value, distort: impl FnOnce(Lie, Value) -> Value) -> Reply {
    match engine.misconduct.lies.now() {
        None => Reply::Result(truth),
        Some(Lie::Garbage) => Reply::Garbage(GARBAGE),
        Some(lie) => Reply::Result(distort(lie, truth)),
    }
}

/// Latched: once ready, always ready.
fn readyz(engine: &Engine) -> Reply {
    if engine.ready.load(Ordering::Relaxed) || engine.is_healthy() {
        engine.ready.store(true, Ordering::Relaxed);
        Reply::Text(StatusCode::OK, "all shards are ready".into())
    } else {
        Reply::Text(StatusCode::SERVICE_UNAVAILABLE, "some shards are not ready".into())
    }
}

fn cluster(engine: &Engine) -> Value {
    if !engine.cluster_enabled {
        return json!({ "status": "disabled" });
    }
    engine.misconduct.lies.state(&engine.consensus, |state| {
        let peers: Map<String, Value> =
            state.peers.iter().map(|(id, peer)| (id.to_string(), json!({ "uri": peer.uri }))).collect();
        let member = state.peers.contains_key(&engine.peer_id);
        let thread = if member {
            json!({ "consensus_thread_status": "working", "last_update": clock::now() })
        } else {
            json!({ "consensus_thread_status": "stopped" })
        };
        json!({
            "status": "enabled",
            "peer_id": engine.peer_id,
            "peers": peers,
            "raft_info": {
                "term": state.term,
                "commit": state.commit,
                "pending_operations": 0,
                "leader": state.leader,
                "role": role(state.leader, engine.peer_id),
                "is_voter": member,
            },
            "consensus_thread_status": thread,
            "message_send_failures": {},
        })
    })
}

fn role(leader: u64, peer: u64) -> &'static str {
    match leader {
        0 => "Candidate",
        leader if leader == peer => "Leader",
        _ => "Follower",
    }
}

/// Level 0 has the counters; level 2 adds the peers, level 3 the shards, as far as routers read them.
fn telemetry(engine: &Engine, level: u64) -> Value {
    let mut cluster = json!({ "enabled": engine.cluster_enabled });
    let mut collections = Vec::new();
    engine.consensus.view(|state| {
        if engine.cluster_enabled
            && let Value::Object(cluster) = &mut cluster
        {
            cluster.insert(
                "status".to_owned(),
                json!({
                    "number_of_peers": state.peers.len(),
                    "term": state.term,
                    "commit": state.commit,
                    "pending_operations": 0,
                    "role": role(state.leader, engine.peer_id),
                    "is_voter": state.peers.contains_key(&engine.peer_id),
                    "peer_id": engine.peer_id,
                    "consensus_thread_status":
                        { "consensus_thread_status": "working", "last_update": clock::now() },
                }),
            );
            if level >= 2 {
                let peers: Map<String, Value> = state
                    .peers
                    .iter()
                    .map(|(id, peer)| (id.to_string(), json!({ "uri": peer.uri })))
                    .collect();
                cluster.insert("peers".to_owned(), Value::Object(peers));
            }
            if level >= 3 {
                let versions: Map<String, Value> = state
                    .peers
                    .iter()
                    .map(|(id, peer)| (id.to_string(), json!({ "version": peer.version.text() })))
                    .collect();
                cluster.insert("peer_metadata".to_owned(), Value::Object(versions));
            }
        }
        if level >= 3 {
            for meta in state.collections.values() {
                let shards: Vec<Value> = meta
                    .shards
                    .iter()
                    .map(|(id, shard)| {
                        let states: Map<String, Value> = shard
                            .replicas
                            .iter()
                            .map(|(peer, state)| (peer.to_string(), json!(state)))
                            .collect();
                        json!({ "id": id, "key": shard.key, "replicate_states": states })
                    })
                    .collect();
                collections.push(json!({ "id": meta.name, "shards": shards }));
            }
        }
    });
    let count = engine.consensus.view(|state| state.collections.len());
    json!({
        "id": format!("embedded-{}", engine.peer_id),
        "app": { "name": "qdrant", "version": engine.version.text(), "startup": clock::format(engine.started.1) },
        "collections": { "number_of_collections": count, "collections": collections },
        "cluster": cluster,
        "requests": engine.telemetry.to_json(),
    })
}

fn remove_peer(engine: &Engine, ask: &Ask) -> OpResult<Reply> {
    let peer: u64 = ask.param(0).parse().map_err(|_| {
        OpError::new(super::Kind::Invalid, "Deserialize error in path parameters: invalid digit found")
    })?;
    let force = ask.flag("force", false)?;
    engine.consensus.propose(|state| {
        let holds = state
            .collections
            .values()
            .any(|meta| meta.shards.values().any(|s| s.replicas.contains_key(&peer)));
        if holds && !force {
            return Err(OpError::bad_request(format!("Cannot remove peer {peer} as there are shards on it")));
        }
        state.remove_peer(peer)
    })?;
    Ok(Reply::Result(Value::Bool(true)))
}
