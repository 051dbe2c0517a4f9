//! Changes of metadata that clients ask for. Each is one entry of the log.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::super::consensus::{
    AliasAction, CollectionMeta, NewCollection, ReplicaState, ReshardingDirection, Transfer,
};
use super::super::error::{OpError, OpResult};
use super::super::model::ShardKey;
use super::Engine;

/// A change of where shards and keys live.
#[derive(Clone, Debug)]
pub(crate) enum ClusterChange {
    Move { shard: u32, from: u64, to: u64 },
    Replicate { shard: u32, from: u64, to: u64 },
    AbortTransfer { shard: u32, from: u64, to: u64 },
    DropReplica { shard: u32, peer: u64 },
    CreateKey(NewShardKey),
    DropKey(ShardKey),
    StartResharding(ReshardingDirection, Option<ShardKey>),
    AbortResharding,
}

/// A shard key to be created.
#[derive(Clone, Debug)]
pub(crate) struct NewShardKey {
    pub(crate) key: ShardKey,
    pub(crate) shard_number: Option<u32>,
    pub(crate) replication_factor: Option<u32>,
    pub(crate) placement: Vec<u64>,
    pub(crate) initial: Option<ReplicaState>,
}

/// The settings of a collection that may change later.
#[derive(Clone, Debug, Default)]
pub(crate) struct CollectionPatch {
    pub(crate) replication_factor: Option<u32>,
    pub(crate) write_consistency_factor: Option<u32>,
    pub(crate) read_fan_out_factor: Option<u32>,
    pub(crate) other_config: Map<String, Value>,
}

/// How long a transfer that a client started can be seen at work.
const VISIBLE_TRANSFER: Duration = Duration::from_millis(100);

impl Engine {
    pub(crate) fn create_collection(&self, name: &str, new: NewCollection) -> OpResult<()> {
        self.consensus.propose(|state| state.create_collection(name, new))
    }

    /// False if there was no such collection.
    pub(crate) fn delete_collection(&self, name: &str) -> OpResult<bool> {
        self.consensus.propose(|state| state.delete_collection(name))
    }

    pub(crate) fn patch_collection(&self, name: &str, patch: CollectionPatch) -> OpResult<()> {
        self.consensus.propose(|state| {
            state.edit(name, |meta| {
                meta.replication_factor = patch.replication_factor.unwrap_or(meta.replication_factor);
                meta.write_consistency_factor =
                    patch.write_consistency_factor.unwrap_or(meta.write_consistency_factor);
                meta.read_fan_out_factor = patch.read_fan_out_factor.or(meta.read_fan_out_factor);
                meta.other_config.extend(patch.other_config);
                Ok(())
            })
        })
    }

    pub(crate) fn change_aliases(&self, actions: &[AliasAction]) -> OpResult<()> {
        self.consensus.propose(|state| state.change_aliases(actions))
    }

    /// Aliases with their targets; of one collection, or all of them.
    pub(crate) fn aliases(&self, collection: Option<&str>) -> Vec<(String, String)> {
        self.consensus.view(|state| {
            let wanted =
                state.aliases.iter().filter(|(_, target)| collection.is_none_or(|name| name == *target));
            wanted.map(|(alias, target)| (alias.clone(), target.clone())).collect()
        })
    }

    pub(crate) fn collections(&self) -> Vec<String> {
        self.consensus.view(|state| state.collections.keys().cloned().collect())
    }

    /// Notes a payload index. It makes nothing faster here, but it is a log entry and shows in the description.
    pub(crate) fn create_index(&self, collection: &str, field: &str, schema: Value) -> OpResult<()> {
        self.consensus.propose(|state| {
            state.edit(collection, |meta| {
                meta.indexes.insert(field.to_owned(), schema);
                Ok(())
            })
        })
    }

    pub(crate) fn delete_index(&self, collection: &str, field: &str) -> OpResult<()> {
        self.consensus.propose(|state| {
            state.edit(collection, |meta| {
                meta.indexes.remove(field);
                Ok(())
            })
        })
    }

    /// Starts a change; transfers go on behind the answer.
    pub(crate) fn change_cluster(self: &Arc<Self>, collection: &str, change: ClusterChange) -> OpResult<()> {
        if !self.cluster_enabled {
            return Err(OpError::bad_request("Distributed mode disabled"));
        }
        match change {
            ClusterChange::Move { shard, from, to } => {
                self.start_transfer(collection, Transfer { shard, from, to, sync: false })
            }
            ClusterChange::Replicate { shard, from, to } => {
                self.start_transfer(collection, Transfer { shard, from, to, sync: true })
            }
            ClusterChange::AbortTransfer { shard, from, to } => {
                let meta = self.consensus.collection(collection)?;
                let running = meta
                    .transfers
                    .iter()
                    .find(|t| t.shard == shard && t.from == from && t.to == to)
                    .ok_or_else(|| {
                        OpError::not_found(format!(
                            "Shard transfer {from} -> {to} for collection {collection}:{shard} does not exist"
                        ))
                    })?;
                self.consensus.propose(|state| state.abort_transfer(collection, running))
            }
            ClusterChange::DropReplica { shard, peer } => {
                self.consensus.propose(|state| state.drop_replica(collection, shard, peer))
            }
            ClusterChange::CreateKey(new) => {
                let initial = new.initial.unwrap_or(ReplicaState::Active);
                if !matches!(initial, ReplicaState::Active | ReplicaState::Partial) {
                    return Err(OpError::bad_request(format!(
                        "Initial state cannot be {initial:?}, only Active or Partial are allowed"
                    )));
                }
                self.consensus.propose(|state| state.create_shard_key(collection, &new, initial))
            }
            ClusterChange::DropKey(key) => {
                self.consensus.propose(|state| state.drop_shard_key(collection, &key))
            }
            ClusterChange::StartResharding(direction, key) => self
                .consensus
                .propose(|state| state.start_resharding(collection, direction, key.clone()).map(drop)),
            ClusterChange::AbortResharding => {
                self.consensus.propose(|state| state.abort_resharding(collection))
            }
        }
    }

    fn start_transfer(self: &Arc<Self>, collection: &str, transfer: Transfer) -> OpResult<()> {
        let meta: Arc<CollectionMeta> = self.consensus.collection(collection)?;
        self.consensus.propose(|state| state.start_transfer(&meta.name, &transfer))?;
        let consensus = Arc::clone(&self.consensus);
        drop(self.life.spawn(async move {
            // An aborted transfer has said so through the replica's state.
            drop(consensus.run_transfer(&meta.name, &transfer, VISIBLE_TRANSFER).await);
        }));
        Ok(())
    }
}
