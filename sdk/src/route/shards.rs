//! Which shards a request touches.

use smallvec::SmallVec;

use crate::{
    request::{Action, Depth, Intent, Keys, Points, Scope},
    topology::{Collection, Hashing, KeyGroup, PointId, ReshardingDirection, Shard, ShardId, ShardKey},
};

/// Shards touched.
pub(super) type Shards = SmallVec<[ShardId; 8]>;

/// Batches whose operations touch more shards, all together, are not weighed: their lists would take many times the memory
/// of the batch.
pub(super) const MAX_TOUCHED: usize = 1 << 16;

/// Why it cannot be told which shards a request touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Untold {
    /// No shard has the key that it names: Qdrant will answer what is wrong.
    UnknownKey,
    /// They are more than [`MAX_TOUCHED`].
    TooMany,
}

/// How deep the body of a request on `collection` must be looked into before its target is certain.
pub(crate) fn depth(collection: &Collection) -> Depth {
    Depth { keys: collection.has_shard_keys(), ids: collection.needs_ids() }
}

/// The shards that `intent` touches: those of each round of internal RPCs, one round after the other. A batch of writes runs
/// one after another, so each is a round; so is each run of reads in a batch that select the same shards.
pub(super) fn touched(intent: &Intent, collection: &Collection, hashing: Hashing) -> Result<Shards, Untold> {
    let mut touched = Shards::new();
    if let (Some(id), [group]) = (lone_point(intent), collection.groups())
        && group.key.is_none()
    {
        for shard in group.owners(hashing, id) {
            touched.push(shard);
        }
        sort(&mut touched);
        return Ok(touched);
    }
    let [first, others @ ..] = &intent.scopes[..] else { return Ok(touched) };
    touch(&mut touched, first, intent.action, collection, hashing)?;
    let mut last = first;
    for scope in others {
        if intent.action == Action::Read && last == scope {
            continue;
        }
        last = scope;
        touch(&mut touched, scope, intent.action, collection, hashing)?;
        if touched.len() > MAX_TOUCHED {
            return Err(Untold::TooMany);
        }
    }
    Ok(touched)
}

/// The one point that `intent` writes, as most writes do, without a shard key.
fn lone_point(intent: &Intent) -> Option<&PointId> {
    match (&intent.scopes[..], intent.action) {
        ([Scope { keys: Keys::Unspecified, points: Points::Ids(ids), .. }], Action::Write(_)) => {
            match &ids[..] {
                [id] => Some(id),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Has `intent` name the shards that own its points in place of these: all that a plan asks of them, and it may be made
/// again for each attempt. What finding them took is given back.
pub(crate) fn settle(intent: &mut Intent, collection: &Collection, hashing: Hashing) {
    for scope in &mut intent.scopes {
        let mut by = Shards::new();
        if let Points::Ids(ids) = &scope.points
            && touch(&mut by, scope, intent.action, collection, hashing).is_ok()
        {
            scope.points = Points::Owned { by: SmallVec::from_slice(&by), ids: ids.len() };
        }
    }
}

/// Adds the shards that one scope touches to those `touched` before, ascending, each once.
#[inline]
fn touch(
    touched: &mut Shards,
    scope: &Scope,
    action: Action,
    collection: &Collection,
    hashing: Hashing,
) -> Result<(), Untold> {
    if let (Points::Owned { by, .. }, Action::Write(_)) = (&scope.points, action) {
        touched.extend_from_slice(by);
        return Ok(());
    }
    let before = touched.len();
    let left_out = if action == Action::Read { filling(collection) } else { None };
    let ids = match (&scope.points, action) {
        (Points::Ids(ids), Action::Write(_)) => Some(&ids[..]),
        _ => None,
    };
    let mut add = |group: &KeyGroup| match (ids, left_out) {
        (Some(ids), _) => {
            for id in ids {
                // One or two: pushing them costs less than setting up `extend`.
                for shard in group.owners(hashing, id) {
                    touched.push(shard);
                }
            }
        }
        (None, None) => touched.extend_from_slice(&group.shards),
        (None, Some(_)) => {
            touched.extend(group.shards.iter().copied().filter(|&shard| Some(shard) != left_out));
        }
    };
    match &scope.keys {
        // A read without a key asks all keys; a write without one is refused by Qdrant.
        Keys::Unspecified if collection.has_shard_keys() && action != Action::Read => {
            return Err(Untold::UnknownKey);
        }
        Keys::Unspecified => collection.groups().iter().for_each(add),
        Keys::Any(keys) => any_of(keys, collection)?.into_iter().for_each(add),
        Keys::WithFallback { target, fallback } => add(target_or_fallback(target, fallback, collection)?),
    }
    // Many touch all those of a group, which are in order.
    if touched[before..].is_sorted_by(|a, b| a < b) {
        return Ok(());
    }
    if before == 0 {
        sort(touched);
    } else {
        let mut round = Shards::from_slice(&touched[before..]);
        sort(&mut round);
        touched.truncate(before);
        touched.extend_from_slice(&round);
    }
    Ok(())
}

/// Puts them in ascending order, each once.
pub(super) fn sort(shards: &mut Shards) {
    if shards.len() > 1 {
        shards.sort_unstable();
        shards.dedup();
    }
}

/// The groups of shards with these keys.
fn any_of<'a>(keys: &[ShardKey], collection: &'a Collection) -> Result<SmallVec<[&'a KeyGroup; 1]>, Untold> {
    let group = |key| collection.group(Some(key)).ok_or(Untold::UnknownKey);
    let mut groups: SmallVec<[&KeyGroup; 1]> = keys.iter().map(group).collect::<Result<_, _>>()?;
    // A key may be named again and again.
    if groups.len() > 1 {
        groups.sort_unstable_by_key(|&group| std::ptr::from_ref(group));
        groups.dedup_by(|a, b| std::ptr::eq(*a, *b));
    }
    Ok(groups)
}

/// The group with the key `target`, where each of its shards can be read, else that with the key `fallback`.
fn target_or_fallback<'a>(
    target: &ShardKey,
    fallback: &ShardKey,
    collection: &'a Collection,
) -> Result<&'a KeyGroup, Untold> {
    let is_served = |group: &&KeyGroup| {
        let is_readable = |shard: &Shard| shard.replicas.iter().any(|replica| replica.state.is_readable());
        group.shards.iter().all(|&id| collection.shard(id).is_some_and(is_readable))
    };
    let target = collection.group(Some(target)).filter(is_served);
    target.or_else(|| collection.group(Some(fallback))).ok_or(Untold::UnknownKey)
}

/// The shard that resharding is still filling, so that reads leave it out.
///
/// The stage of a resharding is not published; while it runs, the new shard counts as not yet read.
fn filling(collection: &Collection) -> Option<ShardId> {
    let resharding = collection.resharding.as_ref()?;
    (resharding.direction == ReshardingDirection::Up).then_some(resharding.shard)
}
