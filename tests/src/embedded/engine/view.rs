//! A collection's placement as one node describes it: its own replicas apart from everybody else's.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::super::consensus::{CollectionMeta, ReplicaState, ReshardingMeta, Transfer};
use super::super::error::OpResult;
use super::super::model::ShardKey;
use super::Engine;

/// The answer to `GET /collections/{c}/cluster`, and to its gRPC sister.
#[derive(Clone, Debug)]
pub(crate) struct ClusterView {
    pub(crate) peer_id: u64,
    pub(crate) shard_count: usize,
    pub(crate) local: Vec<LocalRow>,
    pub(crate) remote: Vec<RemoteRow>,
    pub(crate) transfers: Vec<Transfer>,
    pub(crate) resharding: Option<ReshardingMeta>,
}

/// A replica on the answering node.
#[derive(Clone, Debug)]
pub(crate) struct LocalRow {
    pub(crate) shard: u32,
    pub(crate) key: Option<ShardKey>,
    pub(crate) points: usize,
    pub(crate) state: ReplicaState,
}

/// A replica elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct RemoteRow {
    pub(crate) shard: u32,
    pub(crate) key: Option<ShardKey>,
    pub(crate) peer: u64,
    pub(crate) state: ReplicaState,
}

impl Engine {
    pub(crate) fn cluster_view(&self, collection: &str) -> OpResult<ClusterView> {
        let lies = &self.misconduct.lies;
        let (meta, members) = lies.state(&self.consensus, |state| {
            let members: BTreeSet<u64> = state.peers.keys().copied().collect();
            state.collection(collection).map(|meta| (meta, members))
        })?;
        let mut view = self.cluster_view_of(&meta);
        if let Some(lie) = lies.now() {
            lie.about_placement(&mut view, &members);
        }
        Ok(view)
    }

    fn cluster_view_of(&self, meta: &CollectionMeta) -> ClusterView {
        let mut local = Vec::new();
        let mut remote = Vec::new();
        for (id, shard) in &meta.shards {
            for (peer, state) in &shard.replicas {
                let (key, state) = (shard.key.clone(), *state);
                if *peer == self.peer_id {
                    let points = self.storage.shard(meta.uid, *id).len();
                    local.push(LocalRow { shard: *id, key, points, state });
                } else {
                    remote.push(RemoteRow { shard: *id, key, peer: *peer, state });
                }
            }
        }
        ClusterView {
            peer_id: self.peer_id,
            shard_count: meta.shards.len(),
            local,
            remote,
            transfers: meta.transfers.clone(),
            resharding: meta.resharding.clone(),
        }
    }
}

impl ClusterView {
    pub(crate) fn to_json(&self) -> Value {
        let keyed = |mut row: Value, key: &Option<ShardKey>| {
            if let (Some(key), Value::Object(row)) = (key, &mut row) {
                row.insert("shard_key".to_owned(), json!(key));
            }
            row
        };
        let local = self.local.iter().map(|row| {
            keyed(json!({ "shard_id": row.shard, "points_count": row.points, "state": row.state }), &row.key)
        });
        let remote = self.remote.iter().map(|row| {
            keyed(json!({ "shard_id": row.shard, "peer_id": row.peer, "state": row.state }), &row.key)
        });
        let transfers = self.transfers.iter().map(|transfer| {
            json!({
                "shard_id": transfer.shard,
                "from": transfer.from,
                "to": transfer.to,
                "sync": transfer.sync,
                "method": "stream_records",
            })
        });
        let mut view = Map::new();
        view.insert("peer_id".to_owned(), self.peer_id.into());
        view.insert("shard_count".to_owned(), self.shard_count.into());
        view.insert("local_shards".to_owned(), local.collect());
        view.insert("remote_shards".to_owned(), remote.collect());
        view.insert("shard_transfers".to_owned(), transfers.collect());
        if let Some(resharding) = &self.resharding {
            view.insert(
                "resharding_operations".to_owned(),
                json!([{
                    "uuid": resharding.uuid.to_string(),
                    "direction": resharding.direction,
                    "shard_id": resharding.shard,
                    "peer_id": resharding.peer,
                    "shard_key": resharding.key,
                }]),
            );
        }
        Value::Object(view)
    }
}
