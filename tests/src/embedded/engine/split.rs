//! One write into the parts that its shards get.

use std::collections::BTreeMap;

use super::super::consensus::CollectionMeta;
use super::super::error::{OpError, OpResult};
use super::super::model::{PointId, Selector, ShardKey, Update};
use super::super::ring::Hashing;

/// Splits a write over the shards of one key. Order within a part is kept, so the last of two equal ids wins.
pub(super) fn split(
    meta: &CollectionMeta,
    key: Option<&ShardKey>,
    update: Update,
    hashing: Hashing,
) -> OpResult<BTreeMap<u32, Update>> {
    let Some(ring) = meta.rings.get(&key.cloned()) else {
        return Err(match key {
            Some(key) => OpError::bad_input(format!("Shard key {key} not found")),
            None => OpError::bad_input("Shard key not specified"),
        });
    };
    let by_id = |id: &PointId| ring.shards(id, hashing);
    let everywhere = || meta.shards_of(key);
    let parts = match update {
        Update::Upsert { points, condition, mode } => deal(points, |point| by_id(&point.id))
            .into_iter()
            .map(|(shard, points)| (shard, Update::Upsert { points, condition: condition.clone(), mode }))
            .collect(),
        Update::SetVectors { points, condition } => deal(points, |point| by_id(&point.id))
            .into_iter()
            .map(|(shard, points)| (shard, Update::SetVectors { points, condition: condition.clone() }))
            .collect(),
        Update::Delete { selector } => {
            select(selector, by_id, everywhere, |selector| Update::Delete { selector })
        }
        Update::SetPayload { payload, selector, key } => select(selector, by_id, everywhere, |selector| {
            Update::SetPayload { payload: payload.clone(), selector, key: key.clone() }
        }),
        Update::OverwritePayload { payload, selector } => select(selector, by_id, everywhere, |selector| {
            Update::OverwritePayload { payload: payload.clone(), selector }
        }),
        Update::DeletePayload { keys, selector } => select(selector, by_id, everywhere, |selector| {
            Update::DeletePayload { keys: keys.clone(), selector }
        }),
        Update::ClearPayload { selector } => {
            select(selector, by_id, everywhere, |selector| Update::ClearPayload { selector })
        }
        Update::DeleteVectors { selector, names } => select(selector, by_id, everywhere, |selector| {
            Update::DeleteVectors { selector, names: names.clone() }
        }),
    };
    if parts.is_empty() {
        return Err(OpError::bad_request("Empty update request"));
    }
    Ok(parts)
}

fn deal<T: Clone>(items: Vec<T>, shards: impl Fn(&T) -> Vec<u32>) -> BTreeMap<u32, Vec<T>> {
    let mut hands: BTreeMap<u32, Vec<T>> = BTreeMap::new();
    for item in items {
        for shard in shards(&item) {
            hands.entry(shard).or_default().push(item.clone());
        }
    }
    hands
}

fn select(
    selector: Selector,
    by_id: impl Fn(&PointId) -> Vec<u32>,
    everywhere: impl Fn() -> Vec<u32>,
    part: impl Fn(Selector) -> Update,
) -> BTreeMap<u32, Update> {
    match selector {
        Selector::Ids(ids) => {
            deal(ids, by_id).into_iter().map(|(shard, ids)| (shard, part(Selector::Ids(ids)))).collect()
        }
        Selector::Filter(filter) => {
            everywhere().into_iter().map(|shard| (shard, part(Selector::Filter(filter.clone())))).collect()
        }
    }
}
