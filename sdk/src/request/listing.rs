//! Lists of what a request names, which must not take many times the memory of its body.

use smallvec::SmallVec;

use super::Points;
use crate::topology::PointId;

/// More ids than this are not listed: a write of so many points touches every shard there is.
pub(super) const MAX_IDS: usize = 1 << 16;

/// Batches of more operations or searches are not understood.
pub(super) const MAX_SCOPES: usize = 1 << 12;

/// A selection of shard keys that has more bytes in the body is not understood.
pub(super) const MAX_SHARD_KEYS: usize = 64 << 10;

/// Room for the ids of all scopes of a request.
#[derive(Debug)]
pub(super) struct Room(usize);

/// The ids of one scope.
#[derive(Debug, Default)]
pub(super) struct Listing {
    ids: SmallVec<[PointId; 1]>,
    is_given_up: bool,
}

// === impl Room ===

impl Room {
    pub(super) fn new() -> Self {
        Self(MAX_IDS)
    }
}

// === impl Listing ===

impl Listing {
    /// Whether another id can be listed. Once none can, the list is given up, and what else it has need not be looked at.
    pub(super) fn has_room(&mut self, room: &Room) -> bool {
        self.is_given_up |= self.ids.len() == room.0;
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
        room.0 -= self.ids.len();
        Points::Ids(self.ids)
    }
}
