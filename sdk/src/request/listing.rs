//! Lists of what a request names, which must not take many times the memory of its body.

use smallvec::SmallVec;

use super::{NotUnderstood, Points};
use crate::topology::PointId;

/// More ids than this are not listed: a write of so many points touches every shard there is.
pub(super) const MAX_IDS: usize = 1 << 16;

/// Batches of more operations or searches are not understood.
pub(super) const MAX_SCOPES: usize = 1 << 12;

/// Requests that select more shard keys, all selections together, are not understood: two for each search of a batch.
pub(super) const MAX_SHARD_KEYS: usize = 2 * MAX_SCOPES;

/// The same for the bytes that all selections have in the body.
pub(super) const MAX_SHARD_KEY_BYTES: usize = 256 << 10;

/// Room for the lists of all scopes of a request.
#[derive(Debug)]
pub(super) struct Room {
    ids: usize,
    shard_keys: usize,
    shard_key_bytes: usize,
}

/// The ids of one scope.
#[derive(Debug, Default)]
pub(super) struct Listing {
    ids: SmallVec<[PointId; 1]>,
    is_given_up: bool,
}

// === impl Room ===

impl Room {
    pub(super) fn new() -> Self {
        Self { ids: MAX_IDS, shard_keys: MAX_SHARD_KEYS, shard_key_bytes: MAX_SHARD_KEY_BYTES }
    }

    /// Takes room for a selection of so many shard keys that has so many bytes in the body.
    pub(super) fn take_shard_keys(&mut self, keys: usize, bytes: usize) -> Result<(), NotUnderstood> {
        self.shard_keys = self.shard_keys.checked_sub(keys).ok_or(NotUnderstood)?;
        self.shard_key_bytes = self.shard_key_bytes.checked_sub(bytes).ok_or(NotUnderstood)?;
        Ok(())
    }
}

// === impl Listing ===

impl Listing {
    /// Whether another id can be listed. Once none can, the list is given up, and what else it has need not be looked at.
    pub(super) fn has_room(&mut self, room: &Room) -> bool {
        self.is_given_up |= self.ids.len() == room.ids;
        !self.is_given_up
    }

    pub(super) fn push(&mut self, id: PointId) {
        self.ids.push(id);
    }

    /// The points listed; all, where those were too many.
    pub(super) fn points(self, room: &mut Room) -> Points {
        if self.is_given_up {
            return Points::All;
        }
        room.ids -= self.ids.len();
        Points::Ids(self.ids)
    }
}
