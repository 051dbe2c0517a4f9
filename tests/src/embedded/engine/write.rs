//! Writes: leadership, replication, and what counts as success.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::super::consensus::{CollectionMeta, ReshardingDirection};
use super::super::error::{Kind, OpError, OpResult};
use super::super::model::{KeySelector, Ordering, ShardKey, Update, UpdateResult, UpdateStatus, WriteParams};
use super::super::peer_rpc::{Ask, Call, Told};
use super::Engine;
use super::split::split;

/// How long Qdrant waits for a write when the client names no timeout.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

impl Engine {
    /// Executes a client's write.
    pub(crate) async fn update(
        self: &Arc<Self>,
        collection: &str,
        update: Update,
        keys: Option<&KeySelector>,
        params: WriteParams,
    ) -> OpResult<UpdateResult> {
        let meta = self.consensus.collection(collection)?;
        let keys = write_keys(&meta, keys)?;
        let engine = Arc::clone(self);
        // Detached from the request: an accepted write completes even when the client goes away.
        let work = self.life.spawn(async move {
            let _pending = engine.pend();
            let parts = keys.into_iter().map(|key| engine.update_key(&meta, key, update.clone(), params));
            let mut results = join_all(parts).await.into_iter();
            let first = results.next().unwrap_or_else(|| Err(OpError::bad_request("Empty update request")));
            results.find(OpResult::is_err).filter(|_| first.is_ok()).unwrap_or(first)
        });
        let limit = params.timeout.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
        match tokio::time::timeout(limit, work).await {
            Ok(Ok(Some(result))) => result,
            Ok(_) => Err(OpError::service("the node is going down")),
            Err(_) if params.timeout.is_some() => {
                Ok(UpdateResult { operation_id: None, status: UpdateStatus::WaitTimeout })
            }
            Err(_) => Err(OpError::new(
                Kind::Timeout,
                format!("Update operation timed out in {:.2} seconds", limit.as_secs_f32()),
            )),
        }
    }

    async fn update_key(
        self: &Arc<Self>,
        meta: &CollectionMeta,
        key: Option<ShardKey>,
        update: Update,
        params: WriteParams,
    ) -> OpResult<UpdateResult> {
        // Closed while points are copied, for the whole cluster at once: a write that is split by one ring must not be
        // applied under another. A leader it is forwarded to works under this node's hold.
        let _open = meta.gate.read().await;
        let meta = &*self.consensus.collection(&meta.name)?;
        let parts = split(meta, key.as_ref(), update, self.version.hashing())?;
        let total = parts.len();
        // A shard that is being filled may not have the point yet; the shard that gives it up reports what is missing.
        let filling = meta
            .resharding
            .as_ref()
            .filter(|resharding| resharding.direction == ReshardingDirection::Up || total > 1)
            .is_some();
        let writes = parts.into_iter().map(|(shard, update)| {
            self.update_shard(meta.name.clone(), shard, update, params.wait, params.ordering, filling)
        });
        let results = join_all(writes).await;
        let failed = results.iter().filter(|result| result.is_err()).count();
        let mut merged = UpdateResult { operation_id: None, status: UpdateStatus::Acknowledged };
        for result in results {
            match result {
                Ok(part) => {
                    merged.operation_id = merged.operation_id.max(part.operation_id);
                    merged.status = merged.status.max(part.status);
                }
                Err(error) if failed == total => return Err(error),
                Err(error) => {
                    return Err(OpError::new(
                        error.kind,
                        format!(
                            "{failed} out of {total} shards failed to apply operation. First error captured: {error}"
                        ),
                    ));
                }
            }
        }
        Ok(merged)
    }

    async fn update_shard(
        self: &Arc<Self>,
        collection: String,
        shard: u32,
        update: Update,
        wait: bool,
        ordering: Ordering,
        forgive_missing: bool,
    ) -> OpResult<UpdateResult> {
        let leader = self.leader(&collection, shard, ordering)?;
        if leader == self.peer_id {
            return self.replicate(collection, shard, update, wait, ordering, forgive_missing).await;
        }
        let call = Call { collection, shard, ask: Ask::Lead { update, wait, ordering, forgive_missing } };
        match self.call_peer(leader, &call).await {
            Ok(Told::Updated(result)) => Ok(result),
            Ok(Told::Answer(_)) => Err(OpError::service("a peer answered a write with a read")),
            Err(error) if error.is_transient() => {
                // A later retry then finds the next leader. Refusal only means that consensus cannot help now.
                drop(self.consensus.propose(|state| state.deactivate(&call.collection, shard, leader)));
                Err(OpError::service(format!(
                    "Failed to apply update with {ordering:?} ordering via leader peer {leader}: {error}"
                )))
            }
            Err(error) => Err(error),
        }
    }

    /// Takes a write that another node forwarded. The rule is evaluated again, with this node's view.
    pub(super) async fn lead(
        self: &Arc<Self>,
        collection: String,
        shard: u32,
        update: Update,
        wait: bool,
        ordering: Ordering,
        forgive_missing: bool,
    ) -> OpResult<UpdateResult> {
        let leader = self.leader(&collection, shard, ordering)?;
        if leader != self.peer_id {
            return Err(OpError::service(format!(
                "peer {} does not lead shard {shard}, {leader} does",
                self.peer_id
            )));
        }
        let engine = Arc::clone(self);
        let work = self.life.spawn(async move {
            let _pending = engine.pend();
            engine.replicate(collection, shard, update, wait, ordering, forgive_missing).await
        });
        match work.await {
            Ok(Some(result)) => result,
            Ok(None) | Err(_) => Err(OpError::service("the node is going down")),
        }
    }

    fn leader(&self, collection: &str, shard: u32, ordering: Ordering) -> OpResult<u64> {
        let meta = self.consensus.collection(collection)?;
        let replicas = meta
            .shards
            .get(&shard)
            .ok_or_else(|| OpError::service(format!("Shard {shard} of {collection} does not exist")))?;
        let leader = match ordering {
            Ordering::Weak => Some(self.peer_id),
            Ordering::Medium => replicas.highest_source_of_truth(),
            Ordering::Strong => replicas.highest(),
        };
        leader.ok_or_else(|| {
            OpError::service(format!(
                "Cannot update shard {}:{shard} with {ordering:?} ordering because no leader could be selected",
                meta.name
            ))
        })
    }

    /// Sends a write to every updatable replica at once and waits for all of them.
    async fn replicate(
        &self,
        collection: String,
        shard: u32,
        update: Update,
        wait: bool,
        ordering: Ordering,
        forgive_missing: bool,
    ) -> OpResult<UpdateResult> {
        let meta = self.consensus.collection(&collection)?;
        let local = self.storage.shard(meta.uid, shard);
        let _order = match ordering {
            Ordering::Weak => None,
            Ordering::Medium | Ordering::Strong => Some(local.order.lock().await),
        };
        // Another write may have changed the replicas' states while this one queued.
        let meta = self.consensus.collection(&collection)?;
        let replicas = meta
            .shards
            .get(&shard)
            .ok_or_else(|| OpError::service(format!("Shard {shard} of {collection} does not exist")))?;
        let targets: Vec<u64> = replicas.updatable().collect();
        if targets.is_empty() {
            return Err(OpError::service(format!(
                "The replica set for shard {shard} on peer {} has no active replica",
                self.peer_id
            )));
        }
        let call =
            Call { collection: collection.clone(), shard, ask: Ask::Apply { update, wait, forgive_missing } };
        let outcomes = join_all(targets.iter().map(|peer| self.apply_on(&meta, *peer, &call))).await;
        let mut successes = Vec::new();
        let mut failures = Vec::new();
        for (peer, outcome) in targets.into_iter().zip(outcomes) {
            match outcome {
                Ok(result) => successes.push((peer, result)),
                Err(error) => failures.push((peer, error)),
            }
        }
        let factor = usize::try_from(meta.write_consistency_factor).unwrap_or(usize::MAX);
        let enough = successes.len() >= factor.min(replicas.replicas.len());
        let first = failures
            .first()
            .map(|(peer, error)| format!("Failed peer: {peer}, error: {error}"))
            .unwrap_or_default();
        if !failures.is_empty() {
            if !enough {
                return Err(failures.swap_remove(0).1);
            }
            self.disable(&collection, shard, &successes, &failures, wait, &first)?;
        }
        let truth = |peer: &u64| replicas.replicas.get(peer).is_some_and(|state| state.is_source_of_truth());
        if !successes.iter().any(|(peer, _)| truth(peer)) {
            return Err(OpError::service(format!(
                "Failed to apply operation to at least one `Active` replica. \
                 Consistency of this update is not guaranteed. Please retry. {first}"
            )));
        }
        let highest = successes.into_iter().max_by_key(|(peer, _)| *peer).map(|(_, result)| result);
        highest.ok_or_else(|| OpError::service("no replica took the write"))
    }

    /// Has the replicas that missed a write declared dead; they recover from the others.
    fn disable(
        &self,
        collection: &str,
        shard: u32,
        successes: &[(u64, UpdateResult)],
        failures: &[(u64, OpError)],
        wait: bool,
        first: &str,
    ) -> OpResult<()> {
        let completed = successes.iter().any(|(_, result)| result.status == UpdateStatus::Completed);
        for (peer, _) in failures.iter().filter(|(_, error)| completed || error.is_transient()) {
            let agreed = self.consensus.propose(|state| state.deactivate(collection, shard, *peer));
            if agreed.is_err() && wait {
                return Err(OpError::service(format!(
                    "Some replica of shard {shard} failed to apply operation and deactivation timed out after 30s. \
                     Consistency of this update is not guaranteed. Please retry. {first}"
                )));
            }
        }
        Ok(())
    }

    async fn apply_on(&self, meta: &CollectionMeta, peer: u64, call: &Call) -> OpResult<UpdateResult> {
        if peer == self.peer_id {
            let Ask::Apply { update, wait, forgive_missing } = &call.ask else {
                return Err(OpError::service("only a write can be applied"));
            };
            return self.apply_local(meta, call.shard, update, *wait, *forgive_missing);
        }
        match self.call_peer(peer, call).await? {
            Told::Updated(result) => Ok(result),
            Told::Answer(_) => Err(OpError::service("a peer answered a write with a read")),
        }
    }

    /// Applies to the local replica. Without `wait` the client only learns that the write was logged, so what is wrong
    /// with its content stays unsaid.
    pub(super) fn apply_local(
        &self,
        meta: &CollectionMeta,
        shard: u32,
        update: &Update,
        wait: bool,
        forgive_missing: bool,
    ) -> OpResult<UpdateResult> {
        let status = if wait { UpdateStatus::Completed } else { UpdateStatus::Acknowledged };
        match self.storage.shard(meta.uid, shard).apply(&meta.schema, update) {
            Ok(number) => Ok(UpdateResult { operation_id: Some(number), status }),
            Err(error) if !wait || (forgive_missing && error.kind == Kind::NotFound) => {
                debug_assert!(!error.is_transient(), "memory does not fail");
                Ok(UpdateResult { operation_id: None, status })
            }
            Err(error) => Err(error),
        }
    }
}

/// The keys a write goes to; one entry of none for automatic sharding.
fn write_keys(meta: &CollectionMeta, keys: Option<&KeySelector>) -> OpResult<Vec<Option<ShardKey>>> {
    match keys {
        None => Ok(vec![None]),
        Some(KeySelector::One(key)) => Ok(vec![Some(key.clone())]),
        Some(KeySelector::Many(keys)) if keys.is_empty() => {
            Err(OpError::bad_request("Empty shard key selector"))
        }
        Some(KeySelector::Many(keys)) => Ok(keys.iter().cloned().map(Some).collect()),
        Some(KeySelector::Fallback { target, fallback }) => {
            let ids = meta.shards_of(Some(target));
            let usable =
                |id: &u32| meta.shards.get(id).is_some_and(super::super::consensus::ShardMeta::is_readable);
            if !ids.is_empty() && ids.iter().all(usable) {
                return Ok(vec![Some(target.clone())]);
            }
            if meta.keys().contains(fallback) {
                return Ok(vec![Some(fallback.clone())]);
            }
            Err(OpError::not_found(format!("Shard keys {target} and {fallback} not found")))
        }
    }
}
