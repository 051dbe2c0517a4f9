//! Who can read the shards of a collection.

use smallvec::SmallVec;

use super::{PeerId, Shard};

/// Who can read how many shards of a collection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readers {
    /// Of all shards.
    pub(crate) all: Readable,
    /// Whether every shard can be read on two peers.
    pub(crate) is_replicated: bool,
    /// Of those that lie on one peer, by ascending peer.
    pub(crate) by_peer: SmallVec<[(PeerId, Readable); 4]>,
}

/// A number of shards that can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readable {
    /// On one peer alone.
    pub(crate) alone: u32,
    /// On several.
    pub(crate) shared: u32,
}

// === impl Readers ===

impl Readers {
    pub(super) fn of(shards: &[Shard]) -> Self {
        let mut readers = Self { is_replicated: true, ..Self::default() };
        for shard in shards {
            let peers = || shard.replicas.iter().filter(|r| r.state.is_readable()).map(|r| r.peer);
            let count = peers().count();
            readers.is_replicated &= count > 1;
            if count > 0 {
                readers.all.count(count);
            }
            for peer in peers() {
                let at =
                    readers.by_peer.binary_search_by_key(&peer, |&(known, _)| known).unwrap_or_else(|at| {
                        readers.by_peer.insert(at, (peer, Readable::default()));
                        at
                    });
                readers.by_peer[at].1.count(count);
            }
        }
        readers.by_peer.shrink_to_fit();
        readers
    }
}

// === impl Readable ===

impl Readable {
    /// Counts a shard that can be read on so many peers.
    fn count(&mut self, peers: usize) {
        let kind = if peers > 1 { &mut self.shared } else { &mut self.alone };
        *kind += 1;
    }
}
