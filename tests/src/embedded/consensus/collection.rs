//! What consensus knows of one collection, and the questions routing asks of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::super::error::{Kind, OpError, OpResult};
use super::super::model::{KeySelector, PointId, ShardKey};
use super::super::ring::{Hashing, Ring};
use super::Schema;

/// The state of one replica, under Qdrant's names.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaState {
    Active,
    Dead,
    Partial,
    Initializing,
    Listener,
    PartialSnapshot,
    Recovery,
    Resharding,
    ReshardingScaleDown,
    ActiveRead,
    ManualRecovery,
}

/// Whether resharding adds or removes a shard.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReshardingDirection {
    Up,
    Down,
}

/// One collection.
#[derive(Clone, Debug)]
pub(crate) struct CollectionMeta {
    /// Tells a collection from a later one of the same name.
    pub(crate) uid: u64,
    pub(crate) name: String,
    pub(crate) schema: Schema,
    pub(crate) shard_number: u32,
    pub(crate) replication_factor: u32,
    pub(crate) write_consistency_factor: u32,
    pub(crate) read_fan_out_factor: Option<u32>,
    pub(crate) custom_sharding: bool,
    /// Configuration that is only repeated back to clients.
    pub(crate) other_config: Map<String, Value>,
    pub(crate) indexes: BTreeMap<String, Value>,
    pub(crate) shards: BTreeMap<u32, ShardMeta>,
    pub(crate) transfers: Vec<Transfer>,
    pub(crate) resharding: Option<ReshardingMeta>,
    /// Writers share it, a transfer takes it alone: no write may slip between a copy and the state that follows it.
    pub(crate) gate: Arc<tokio::sync::RwLock<()>>,
    pub(crate) rings: BTreeMap<Option<ShardKey>, RingPair>,
}

/// One shard and its replicas.
#[derive(Clone, Debug)]
pub(crate) struct ShardMeta {
    pub(crate) key: Option<ShardKey>,
    pub(crate) replicas: BTreeMap<u64, ReplicaState>,
}

/// A running copy of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub(crate) shard: u32,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// False when the source goes away afterwards.
    pub(crate) sync: bool,
}

/// A running change of the number of shards.
#[derive(Clone, Debug)]
pub(crate) struct ReshardingMeta {
    pub(crate) uuid: Uuid,
    pub(crate) direction: ReshardingDirection,
    pub(crate) shard: u32,
    pub(crate) peer: u64,
    pub(crate) key: Option<ShardKey>,
}

/// The ring of a key; two of them while resharding, and writes follow both.
#[derive(Clone, Debug, Default)]
pub(crate) struct RingPair {
    pub(crate) old: Ring,
    pub(crate) new: Option<Ring>,
}

// === impl ReplicaState ===

impl ReplicaState {
    /// May answer reads.
    pub fn is_readable(self) -> bool {
        matches!(self, Self::Active | Self::ReshardingScaleDown | Self::ActiveRead)
    }

    /// Receives replicated writes.
    pub fn is_updatable(self) -> bool {
        match self {
            Self::Active
            | Self::Partial
            | Self::Initializing
            | Self::Listener
            | Self::Resharding
            | Self::ReshardingScaleDown
            | Self::ActiveRead => true,
            Self::Dead | Self::PartialSnapshot | Self::Recovery | Self::ManualRecovery => false,
        }
    }

    /// May lead `medium` writes, and makes a write count.
    pub fn is_source_of_truth(self) -> bool {
        self.is_readable() || self == Self::Resharding
    }
}

// === impl RingPair ===

impl RingPair {
    /// The shards a write to `id` goes to: one, or two while resharding moves it.
    pub(crate) fn shards(&self, id: &PointId, hashing: Hashing) -> Vec<u32> {
        let mut shards: Vec<u32> = self.old.shard(id, hashing).into_iter().collect();
        if let Some(new) = self.new.as_ref().and_then(|ring| ring.shard(id, hashing))
            && !shards.contains(&new)
        {
            shards.push(new);
        }
        shards
    }
}

// === impl CollectionMeta ===

impl CollectionMeta {
    /// All shard keys, each once.
    pub(crate) fn keys(&self) -> BTreeSet<&ShardKey> {
        self.shards.values().filter_map(|shard| shard.key.as_ref()).collect()
    }

    /// The shards of a key; of the whole collection for none.
    pub(crate) fn shards_of(&self, key: Option<&ShardKey>) -> Vec<u32> {
        let chosen = self.shards.iter().filter(|(_, shard)| key.is_none() || shard.key.as_ref() == key);
        chosen.map(|(id, _)| *id).collect()
    }

    /// Recomputes the rings; to be called after every change of shards or resharding.
    pub(crate) fn rebuild_rings(&mut self) {
        let mut groups: BTreeMap<Option<ShardKey>, Vec<u32>> = BTreeMap::new();
        for (id, shard) in &self.shards {
            groups.entry(shard.key.clone()).or_default().push(*id);
        }
        let resharding = self.resharding.as_ref();
        self.rings = groups
            .into_iter()
            .map(|(key, ids)| {
                let all = Ring::new(ids.iter().copied());
                let pair = match resharding.filter(|resharding| resharding.key == key) {
                    None => RingPair { old: all, new: None },
                    Some(resharding) => {
                        let without = Ring::new(ids.iter().copied().filter(|id| *id != resharding.shard));
                        match resharding.direction {
                            ReshardingDirection::Up => RingPair { old: without, new: Some(all) },
                            ReshardingDirection::Down => RingPair { old: all, new: Some(without) },
                        }
                    }
                };
                (key, pair)
            })
            .collect();
    }

    /// The shards a read asks.
    pub(crate) fn select(&self, keys: Option<&KeySelector>) -> OpResult<Vec<u32>> {
        let shards = match keys {
            None => {
                // A key that is still being filled has no readable replica yet and must not fail the others.
                let skip = |shard: &ShardMeta| self.custom_sharding && !shard.is_readable();
                self.shards.iter().filter(|(_, shard)| !skip(shard)).map(|(id, _)| *id).collect()
            }
            Some(KeySelector::One(key)) => self.known_key(key)?,
            Some(KeySelector::Many(keys)) => {
                let ids: Vec<Vec<u32>> =
                    keys.iter().map(|key| self.known_key(key)).collect::<OpResult<_>>()?;
                let unique: BTreeSet<u32> = ids.into_iter().flatten().collect();
                unique.into_iter().collect()
            }
            Some(KeySelector::Fallback { target, fallback }) => {
                let ids = self.shards_of(Some(target));
                let usable = |id: &u32| self.shards.get(id).is_some_and(ShardMeta::is_readable);
                if !ids.is_empty() && ids.iter().all(usable) {
                    ids
                } else {
                    match self.known_key(fallback) {
                        Ok(ids) => ids,
                        Err(_) if ids.is_empty() => {
                            return Err(OpError::not_found(format!(
                                "Neither target shard key {target} nor fallback shard key {fallback} exist"
                            )));
                        }
                        Err(_) => {
                            return Err(OpError::new(
                                Kind::Unavailable,
                                format!(
                                    "Shard key {target} is not active and fallback {fallback} does not exist"
                                ),
                            ));
                        }
                    }
                }
            }
        };
        let hidden = self
            .resharding
            .as_ref()
            .filter(|resharding| resharding.direction == ReshardingDirection::Up)
            .map(|resharding| resharding.shard);
        Ok(shards.into_iter().filter(|id| Some(*id) != hidden).collect())
    }

    fn known_key(&self, key: &ShardKey) -> OpResult<Vec<u32>> {
        let ids = self.shards_of(Some(key));
        if ids.is_empty() {
            return Err(OpError::bad_request(format!("Shard key {key} not found")));
        }
        Ok(ids)
    }
}

// === impl ShardMeta ===

impl ShardMeta {
    pub(crate) fn is_readable(&self) -> bool {
        self.replicas.values().any(|state| state.is_readable())
    }

    pub(crate) fn updatable(&self) -> impl Iterator<Item = u64> {
        self.replicas.iter().filter(|(_, state)| state.is_updatable()).map(|(peer, _)| *peer)
    }

    pub(crate) fn readable(&self) -> impl Iterator<Item = u64> {
        self.replicas.iter().filter(|(_, state)| state.is_readable()).map(|(peer, _)| *peer)
    }

    /// The leader of `medium` writes.
    pub(crate) fn highest_source_of_truth(&self) -> Option<u64> {
        self.replicas.iter().filter(|(_, state)| state.is_source_of_truth()).map(|(peer, _)| *peer).max()
    }

    /// The leader of `strong` writes.
    pub(crate) fn highest(&self) -> Option<u64> {
        self.replicas.keys().max().copied()
    }
}
