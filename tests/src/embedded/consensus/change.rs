//! The entries of the log: every change that clients and tests can ask for.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};
use uuid::Uuid;

use super::super::engine::NewShardKey;
use super::super::error::{Kind, OpError, OpResult};
use super::super::model::ShardKey;
use super::collection::{
    CollectionMeta, ReplicaState, ReshardingDirection, ReshardingMeta, ShardMeta, Transfer,
};
use super::placement::spread;
use super::{Schema, State};

/// A collection to be created.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewCollection {
    pub(crate) schema: Schema,
    pub(crate) shard_number: Option<u32>,
    pub(crate) replication_factor: Option<u32>,
    pub(crate) write_consistency_factor: Option<u32>,
    pub(crate) custom_sharding: bool,
    pub(crate) other_config: Map<String, Value>,
}

/// One step of a change of aliases.
#[derive(Clone, Debug)]
pub(crate) enum AliasAction {
    Create { collection: String, alias: String },
    Rename { old: String, new: String },
    Delete { alias: String },
}

impl State {
    /// Changes one collection in place; the rings follow.
    pub(crate) fn edit<T>(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut CollectionMeta) -> OpResult<T>,
    ) -> OpResult<T> {
        let real = self.aliases.get(name).cloned().unwrap_or_else(|| name.to_owned());
        let meta = self.collections.get_mut(&real).ok_or_else(|| OpError::no_collection(name))?;
        // Readers keep the meta they started with; the clone is small.
        let mut next = CollectionMeta::clone(meta);
        let done = change(&mut next)?;
        next.rebuild_rings();
        *meta = Arc::new(next);
        Ok(done)
    }

    pub(crate) fn create_collection(&mut self, name: &str, new: NewCollection) -> OpResult<()> {
        if self.collections.contains_key(name) {
            return Err(OpError::new(Kind::AlreadyExists, format!("Collection `{name}` already exists!")));
        }
        if self.aliases.contains_key(name) {
            return Err(OpError::bad_input(format!(
                "Can't create collection with name {name}. Alias with the same name already exists"
            )));
        }
        let peers: Vec<u64> = self.peers.keys().copied().collect();
        let automatic = if new.custom_sharding { 1 } else { u32::try_from(peers.len()).unwrap_or(1) };
        let shard_number = new.shard_number.unwrap_or(automatic);
        let replication_factor = new.replication_factor.unwrap_or(1);
        for (value, what) in [(shard_number, "shard_number"), (replication_factor, "replication_factor")] {
            if value == 0 {
                return Err(OpError::bad_input(format!("`{what}` cannot be 0")));
            }
        }
        let placed = if new.custom_sharding {
            Vec::new()
        } else {
            spread(&peers, shard_number, replication_factor, &BTreeMap::new())
        };
        let shards = (0..)
            .zip(placed)
            .map(|(id, peers)| (id, ShardMeta { key: None, replicas: active(&peers, ReplicaState::Active) }))
            .collect();
        self.next_uid += 1;
        let mut meta = CollectionMeta {
            uid: self.next_uid,
            name: name.to_owned(),
            schema: new.schema,
            shard_number,
            replication_factor,
            write_consistency_factor: new.write_consistency_factor.unwrap_or(1),
            read_fan_out_factor: None,
            custom_sharding: new.custom_sharding,
            other_config: new.other_config,
            indexes: BTreeMap::new(),
            shards,
            transfers: Vec::new(),
            resharding: None,
            gate: Arc::default(),
            rings: BTreeMap::new(),
        };
        meta.rebuild_rings();
        self.collections.insert(name.to_owned(), Arc::new(meta));
        Ok(())
    }

    /// Deletes by the literal name, together with the aliases that point there. False if there was nothing.
    pub(crate) fn delete_collection(&mut self, name: &str) -> OpResult<bool> {
        self.aliases.retain(|_, target| target != name);
        let gone = self.collections.remove(name);
        if let Some(meta) = &gone {
            for peer in self.peers.values() {
                peer.storage.retain(|uid, _| uid != meta.uid);
            }
        }
        Ok(gone.is_some())
    }

    /// All of the actions or none.
    pub(crate) fn change_aliases(&mut self, actions: &[AliasAction]) -> OpResult<()> {
        let mut aliases = self.aliases.clone();
        let unknown = |alias: &str| OpError::not_found(format!("Alias {alias} does not exists!"));
        for action in actions {
            match action {
                AliasAction::Create { collection, alias } => {
                    if !self.collections.contains_key(collection) {
                        return Err(OpError::no_collection(collection));
                    }
                    if self.collections.contains_key(alias) {
                        return Err(OpError::new(
                            Kind::AlreadyExists,
                            format!("Collection `{alias}` already exists!"),
                        ));
                    }
                    aliases.insert(alias.clone(), collection.clone());
                }
                AliasAction::Rename { old, new } => {
                    let target = aliases.remove(old).ok_or_else(|| unknown(old))?;
                    aliases.insert(new.clone(), target);
                }
                AliasAction::Delete { alias } => {
                    aliases.remove(alias);
                }
            }
        }
        self.aliases = aliases;
        Ok(())
    }

    pub(crate) fn create_shard_key(
        &mut self,
        collection: &str,
        new: &NewShardKey,
        initial: ReplicaState,
    ) -> OpResult<()> {
        let NewShardKey { key, shard_number, replication_factor, placement, initial: _ } = new;
        let all: Vec<u64> = self.peers.keys().copied().collect();
        if let Some(unknown) = placement.iter().find(|peer| !all.contains(peer)) {
            return Err(OpError::bad_request(format!("Peer {unknown} does not exist")));
        }
        self.edit(collection, |meta| {
            if !meta.custom_sharding {
                return Err(OpError::bad_request("Shard Key cannot be created with Auto sharding method"));
            }
            if meta.keys().contains(key) {
                return Err(OpError::bad_request(format!(
                    "Sharding key {key} already exists for collection {collection}"
                )));
            }
            let peers = if placement.is_empty() { &all } else { placement };
            let mut taken = BTreeMap::new();
            for peer in meta.shards.values().flat_map(|shard| shard.replicas.keys()) {
                *taken.entry(*peer).or_insert(0) += 1;
            }
            let shards = shard_number.unwrap_or(meta.shard_number);
            let placed = spread(peers, shards, replication_factor.unwrap_or(meta.replication_factor), &taken);
            // Ids start behind the highest one; an empty collection counts as having shard zero.
            let first = meta.shards.keys().max().copied().unwrap_or(0) + 1;
            for (id, peers) in (first..).zip(placed) {
                meta.shards
                    .insert(id, ShardMeta { key: Some(key.clone()), replicas: active(&peers, initial) });
            }
            Ok(())
        })
    }

    pub(crate) fn drop_shard_key(&mut self, collection: &str, key: &ShardKey) -> OpResult<()> {
        self.edit(collection, |meta| {
            if !meta.custom_sharding {
                return Err(OpError::bad_request("Shard Key cannot be created with Auto sharding method"));
            }
            let before = meta.shards.len();
            meta.shards.retain(|_, shard| shard.key.as_ref() != Some(key));
            if meta.shards.len() == before {
                return Err(OpError::bad_request(format!(
                    "Sharding key {key} does not exist for collection {collection}"
                )));
            }
            Ok(())
        })?;
        self.sweep();
        Ok(())
    }

    pub(crate) fn set_replica_state(
        &mut self,
        collection: &str,
        shard: u32,
        peer: u64,
        to: ReplicaState,
    ) -> OpResult<()> {
        self.edit(collection, |meta| {
            let state =
                meta.shards.get_mut(&shard).and_then(|shard| shard.replicas.get_mut(&peer)).ok_or_else(
                    || OpError::not_found(format!("Replica {peer} of shard {shard} of {collection}")),
                )?;
            *state = to;
            Ok(())
        })
    }

    /// Marks a replica dead unless it is the last one that holds the truth.
    pub(crate) fn deactivate(&mut self, collection: &str, shard: u32, peer: u64) -> OpResult<()> {
        self.edit(collection, |meta| {
            let Some(shard) = meta.shards.get_mut(&shard) else {
                return Ok(());
            };
            let others = shard.replicas.iter().any(|(id, state)| *id != peer && state.is_source_of_truth());
            if let Some(state) = shard.replicas.get_mut(&peer).filter(|_| others) {
                *state = ReplicaState::Dead;
            }
            Ok(())
        })
    }

    pub(crate) fn drop_replica(&mut self, collection: &str, shard: u32, peer: u64) -> OpResult<()> {
        self.edit(collection, |meta| {
            let replicas = &mut meta
                .shards
                .get_mut(&shard)
                .ok_or_else(|| OpError::bad_request(format!("Shard {shard} of {collection} does not exist")))?
                .replicas;
            let last = !replicas.iter().any(|(id, state)| *id != peer && state.is_source_of_truth());
            if !replicas.contains_key(&peer) {
                return Err(OpError::bad_request(format!("Peer {peer} has no replica of shard {shard}")));
            }
            if last {
                return Err(OpError::bad_request(format!(
                    "Cannot remove the last active replica of shard {shard}"
                )));
            }
            replicas.remove(&peer);
            meta.transfers
                .retain(|transfer| transfer.shard != shard || (transfer.from != peer && transfer.to != peer));
            Ok(())
        })?;
        self.sweep();
        Ok(())
    }

    pub(crate) fn remove_peer(&mut self, peer: u64) -> OpResult<()> {
        if self.peers.remove(&peer).is_none() {
            return Err(OpError::not_found(format!("Peer {peer} does not exist")));
        }
        let names: Vec<String> = self.collections.keys().cloned().collect();
        for name in names {
            self.edit(&name, |meta| {
                for shard in meta.shards.values_mut() {
                    shard.replicas.remove(&peer);
                }
                meta.transfers.retain(|transfer| transfer.from != peer && transfer.to != peer);
                Ok(())
            })?;
        }
        self.elect();
        Ok(())
    }

    /// Adds the target replica of a transfer, or turns an existing one into it.
    pub(crate) fn start_transfer(&mut self, collection: &str, transfer: &Transfer) -> OpResult<()> {
        for peer in [transfer.from, transfer.to] {
            if !self.peers.contains_key(&peer) {
                return Err(OpError::bad_request(format!("Peer {peer} does not exist")));
            }
        }
        self.edit(collection, |meta| {
            let id = transfer.shard;
            let shard = meta
                .shards
                .get_mut(&id)
                .ok_or_else(|| OpError::bad_request(format!("Shard {id} of {collection} does not exist")))?;
            if !shard.replicas.get(&transfer.from).is_some_and(|state| state.is_source_of_truth()) {
                return Err(OpError::bad_request(format!(
                    "Shard {id} is not active on peer {}",
                    transfer.from
                )));
            }
            if shard.replicas.get(&transfer.to).is_some_and(|state| state.is_readable()) {
                return Err(OpError::bad_request(format!(
                    "Shard {id} is already active on peer {}",
                    transfer.to
                )));
            }
            shard.replicas.insert(transfer.to, ReplicaState::Partial);
            meta.transfers.retain(|other| other.shard != id || other.to != transfer.to);
            meta.transfers.push(transfer.clone());
            Ok(())
        })
    }

    /// Ends a transfer: the target is active, and a move gives the source up.
    pub(crate) fn finish_transfer(&mut self, collection: &str, transfer: &Transfer) -> OpResult<()> {
        self.edit(collection, |meta| {
            meta.transfers.retain(|other| other != transfer);
            let Some(shard) = meta.shards.get_mut(&transfer.shard) else {
                return Ok(());
            };
            if let Some(target) = shard.replicas.get_mut(&transfer.to) {
                *target = ReplicaState::Active;
                if !transfer.sync {
                    shard.replicas.remove(&transfer.from);
                }
            }
            Ok(())
        })?;
        self.sweep();
        Ok(())
    }

    /// Gives a transfer up: a replica that was to be healed is dead again, one that was to be made is gone.
    pub(crate) fn abort_transfer(&mut self, collection: &str, transfer: &Transfer) -> OpResult<()> {
        self.edit(collection, |meta| {
            meta.transfers.retain(|other| other != transfer);
            let Some(shard) = meta.shards.get_mut(&transfer.shard) else {
                return Ok(());
            };
            if !transfer.sync {
                shard.replicas.remove(&transfer.to);
            } else if let Some(state) = shard.replicas.get_mut(&transfer.to) {
                *state = ReplicaState::Dead;
            }
            Ok(())
        })
    }

    /// Gives up every transfer from or to a peer that is gone.
    pub(crate) fn abort_transfers_of(&mut self, peer: u64) {
        let concerned: Vec<(String, Transfer)> = self
            .collections
            .values()
            .flat_map(|meta| meta.transfers.iter().map(|transfer| (meta.name.clone(), transfer.clone())))
            .filter(|(_, transfer)| transfer.from == peer || transfer.to == peer)
            .collect();
        for (collection, transfer) in concerned {
            if self.abort_transfer(&collection, &transfer).is_ok() {
                self.commit += 1;
            }
        }
    }

    pub(crate) fn start_resharding(
        &mut self,
        collection: &str,
        direction: ReshardingDirection,
        key: Option<ShardKey>,
    ) -> OpResult<u32> {
        let peers: Vec<u64> = self.peers.keys().copied().collect();
        self.edit(collection, |meta| {
            if meta.resharding.is_some() {
                return Err(OpError::bad_request(format!(
                    "resharding is already in progress for collection {collection}"
                )));
            }
            let ids = meta.shards_of(key.as_ref());
            let highest = ids.iter().max().copied().ok_or_else(|| {
                OpError::bad_request(format!("sharding key does not exist for collection {collection}"))
            })?;
            let (shard, peer) = match direction {
                ReshardingDirection::Up => {
                    let mut taken = BTreeMap::new();
                    for peer in meta.shards.values().flat_map(|shard| shard.replicas.keys()) {
                        *taken.entry(*peer).or_insert(0) += 1;
                    }
                    let shard = meta.shards.keys().max().copied().unwrap_or(0) + 1;
                    let placed = spread(&peers, 1, meta.replication_factor, &taken).pop().unwrap_or_default();
                    let peer = placed.first().copied().unwrap_or(0);
                    let replicas = active(&placed, ReplicaState::Resharding);
                    meta.shards.insert(shard, ShardMeta { key: key.clone(), replicas });
                    (shard, peer)
                }
                ReshardingDirection::Down => {
                    if ids.len() < 2 {
                        return Err(OpError::bad_request("cannot remove the last shard"));
                    }
                    for id in ids.iter().filter(|id| **id != highest) {
                        let replicas = meta.shards.get_mut(id).map(|shard| &mut shard.replicas);
                        for state in replicas.into_iter().flat_map(|replicas| replicas.values_mut()) {
                            if *state == ReplicaState::Active {
                                *state = ReplicaState::ReshardingScaleDown;
                            }
                        }
                    }
                    let holder =
                        meta.shards.get(&highest).and_then(|shard| shard.replicas.keys().next().copied());
                    (highest, holder.unwrap_or(0))
                }
            };
            meta.resharding = Some(ReshardingMeta { uuid: Uuid::new_v4(), direction, shard, peer, key });
            Ok(shard)
        })
    }

    /// Makes the new ring the only one. Points have been moved by then.
    pub(crate) fn finish_resharding(&mut self, collection: &str) -> OpResult<()> {
        self.edit(collection, |meta| {
            let resharding = meta.resharding.take().ok_or_else(|| no_resharding(collection))?;
            match resharding.direction {
                ReshardingDirection::Up => meta.shard_number += u32::from(!meta.custom_sharding),
                ReshardingDirection::Down => {
                    meta.shards.remove(&resharding.shard);
                    meta.shard_number -= u32::from(!meta.custom_sharding);
                }
            }
            settle(meta);
            Ok(())
        })?;
        self.sweep();
        Ok(())
    }

    /// Forgets the resharding; the old ring is the only one again.
    pub(crate) fn abort_resharding(&mut self, collection: &str) -> OpResult<()> {
        self.edit(collection, |meta| {
            let resharding = meta.resharding.take().ok_or_else(|| no_resharding(collection))?;
            if resharding.direction == ReshardingDirection::Up {
                meta.shards.remove(&resharding.shard);
            }
            settle(meta);
            Ok(())
        })?;
        self.sweep();
        Ok(())
    }

    /// Drops replicas that consensus no longer knows from every node's storage.
    fn sweep(&self) {
        for (id, peer) in &self.peers {
            peer.storage.retain(|uid, shard| {
                self.collections.values().any(|meta| {
                    meta.uid == uid
                        && meta.shards.get(&shard).is_some_and(|shard| shard.replicas.contains_key(id))
                })
            });
        }
    }
}

fn active(peers: &[u64], state: ReplicaState) -> BTreeMap<u64, ReplicaState> {
    peers.iter().map(|peer| (*peer, state)).collect()
}

fn no_resharding(collection: &str) -> OpError {
    OpError::bad_request(format!("resharding is not in progress for collection {collection}"))
}

fn settle(meta: &mut CollectionMeta) {
    for state in meta.shards.values_mut().flat_map(|shard| shard.replicas.values_mut()) {
        if matches!(state, ReplicaState::Resharding | ReplicaState::ReshardingScaleDown) {
            *state = ReplicaState::Active;
        }
    }
}
