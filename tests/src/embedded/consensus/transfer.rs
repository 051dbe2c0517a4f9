//! Changes that move points: transfers, recovery, resharding.
//!
//! Points are copied between storages directly, not over the wire, so a transfer costs none of the RPCs that tests count.
//! Writes are held for the moment of the copy.

use std::sync::Arc;
use std::time::Duration;

use super::super::error::{OpError, OpResult};
use super::super::model::ShardKey;
use super::super::ring::Hashing;
use super::collection::{CollectionMeta, ReplicaState, ReshardingDirection, Transfer};
use super::{Consensus, Refused};

impl Consensus {
    /// Moves a replica, points included. Returns when the target is active and the source is gone.
    pub async fn move_shard(&self, collection: &str, shard: u32, from: u64, to: u64) -> Result<(), Refused> {
        let transfer = Transfer { shard, from, to, sync: false };
        self.force(|state| state.start_transfer(collection, &transfer))?;
        self.run_transfer(collection, &transfer, Duration::ZERO).await?;
        Ok(())
    }

    /// Adds a replica, points included.
    pub async fn replicate_shard(
        &self,
        collection: &str,
        shard: u32,
        from: u64,
        to: u64,
    ) -> Result<(), Refused> {
        let transfer = Transfer { shard, from, to, sync: true };
        self.force(|state| state.start_transfer(collection, &transfer))?;
        self.run_transfer(collection, &transfer, Duration::ZERO).await?;
        Ok(())
    }

    /// Starts resharding of a collection with automatic sharding and returns the shard that is added or removed.
    /// Writes follow both rings until [`Self::finish_resharding`].
    pub fn start_resharding(&self, collection: &str, direction: ReshardingDirection) -> Result<u32, Refused> {
        Ok(self.force(|state| state.start_resharding(collection, direction, None))?)
    }

    /// Moves the points that the new ring places elsewhere, and makes it the only ring.
    pub async fn finish_resharding(&self, collection: &str) -> Result<(), Refused> {
        let gate = Arc::clone(&self.collection(collection)?.gate);
        let _alone = gate.write().await;
        let meta = self.collection(collection)?;
        self.migrate(&meta)?;
        self.force(|state| state.finish_resharding(collection))?;
        Ok(())
    }

    /// Gives the resharding up.
    pub fn abort_resharding(&self, collection: &str) -> Result<(), Refused> {
        Ok(self.force(|state| state.abort_resharding(collection))?)
    }

    /// Copies the replica of a started transfer after showing it for `visible`.
    pub(crate) async fn run_transfer(
        &self,
        collection: &str,
        transfer: &Transfer,
        visible: Duration,
    ) -> OpResult<()> {
        tokio::time::sleep(visible).await;
        let gate = Arc::clone(&self.collection(collection)?.gate);
        let _alone = gate.write().await;
        let meta = self.collection(collection)?;
        if !meta.transfers.contains(transfer) {
            return Err(OpError::bad_request("the transfer was aborted"));
        }
        let (from, to) = self.view(|state| {
            let living = |id: u64| {
                state.peers.get(&id).filter(|peer| peer.alive).map(|peer| Arc::clone(&peer.storage))
            };
            (living(transfer.from), living(transfer.to))
        });
        let (Some(from), Some(to)) = (from, to) else {
            self.force(|state| state.abort_transfer(collection, transfer))?;
            return Err(OpError::service("a peer of the transfer is gone"));
        };
        to.shard(meta.uid, transfer.shard).copy_from(&from.shard(meta.uid, transfer.shard));
        self.force(|state| state.finish_transfer(collection, transfer))
    }

    /// Brings back the dead replicas of `peer`, as far as a living source exists.
    pub(crate) async fn recover(&self, peer: u64) {
        for (collection, transfer) in self.view(|state| state.recoverable(peer)) {
            if self.propose(|state| state.start_transfer(&collection, &transfer)).is_ok() {
                // Failure leaves the replica dead; the next round tries again.
                drop(self.run_transfer(&collection, &transfer, Duration::from_millis(50)).await);
            }
        }
    }

    fn migrate(&self, meta: &CollectionMeta) -> OpResult<()> {
        let Some(resharding) = &meta.resharding else {
            return Err(OpError::bad_request(format!(
                "resharding is not in progress for collection {}",
                meta.name
            )));
        };
        let key: &Option<ShardKey> = &resharding.key;
        let ring = meta.rings.get(key).and_then(|pair| pair.new.as_ref());
        let Some(ring) = ring else { return Ok(()) };
        let storages = self.view(|state| state.peers.clone());
        let shards = meta.shards_of(key.as_ref());
        let (sources, targets): (Vec<u32>, Vec<u32>) = match resharding.direction {
            ReshardingDirection::Up => shards.into_iter().partition(|id| *id != resharding.shard),
            ReshardingDirection::Down => shards.into_iter().partition(|id| *id == resharding.shard),
        };
        for target in &targets {
            for source in &sources {
                let donor = meta.shards.get(source).and_then(super::ShardMeta::highest_source_of_truth);
                let Some(donor) = donor.and_then(|peer| storages.get(&peer)) else {
                    continue;
                };
                let donor = donor.storage.shard(meta.uid, *source);
                for peer in meta.shards.get(target).into_iter().flat_map(|shard| shard.replicas.keys()) {
                    if let Some(peer) = storages.get(peer) {
                        peer.storage
                            .shard(meta.uid, *target)
                            .adopt(&donor, |id| ring.shard(id, Hashing::Stable) == Some(*target));
                    }
                }
            }
        }
        for (id, shard) in &meta.shards {
            for peer in shard.replicas.keys().filter_map(|peer| storages.get(peer)) {
                if &shard.key == key && *id != resharding.shard {
                    peer.storage
                        .shard(meta.uid, *id)
                        .retain(|point| ring.shard(point, Hashing::Stable) == Some(*id));
                }
            }
        }
        Ok(())
    }
}

impl super::State {
    /// The transfers that would heal the replicas of `peer`.
    fn recoverable(&self, peer: u64) -> Vec<(String, Transfer)> {
        let mut found = Vec::new();
        for meta in self.collections.values() {
            for (id, shard) in &meta.shards {
                let mine = shard.replicas.get(&peer).copied();
                let busy = meta.transfers.iter().any(|transfer| transfer.shard == *id && transfer.to == peer);
                let held = self.held.contains(&(meta.uid, *id, peer));
                if mine != Some(ReplicaState::Dead) || busy || held {
                    continue;
                }
                let source = shard.replicas.iter().find(|(other, state)| {
                    **other != peer
                        && state.is_readable()
                        && self.peers.get(other).is_some_and(|peer| peer.alive)
                });
                if let Some((from, _)) = source {
                    found.push((
                        meta.name.clone(),
                        Transfer { shard: *id, from: *from, to: peer, sync: true },
                    ));
                }
            }
        }
        found
    }
}
