//! The consistent hash ring that maps a point id to its shard.
//!
//! Qdrant places a point on the ring of the shards of its shard key (of all shards, with automatic
//! sharding): SipHash-2-4 with a zero key, one hundred ring nodes a shard, first node at or after
//! the hash of the id, wrapping at the end. The mapping is part of Qdrant's storage format and has
//! been the same in every release, but for UUIDs in 1.15.0.
//!
//! Only writes use the ring: Qdrant reads by id from every shard.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
};

use super::{Hashing, PointId, ShardId, siphash};

/// Ring nodes per shard (`HASH_RING_SHARD_SCALE` in Qdrant).
const NODES_PER_SHARD: u32 = 100;

/// How many nodes are searched for a point, on average four to eight: they lie in a line or two of the cache.
const NODES_PER_RANGE: usize = 4;

/// The ring over one set of shards.
///
/// ```
/// use qdrant_router::topology::{HashRing, PointId};
///
/// let ring = HashRing::new([0, 1, 2]);
/// assert_eq!(ring.shard(&PointId::Num(42)), Some(1));
/// ```
#[derive(Clone, Debug)]
pub struct HashRing(Repr);

#[derive(Clone, Debug)]
enum Repr {
    Empty,
    /// Every id belongs to the one shard, so no ring is kept.
    Single(ShardId),
    /// One for all collections with these shards.
    Many(Arc<Nodes>),
}

/// The ring's nodes, and where in them to look.
#[derive(Debug)]
struct Nodes {
    /// By ascending key.
    nodes: Box<[(u64, ShardId)]>,
    /// For each of 2^`bits` equal ranges of keys, and for the end, how many nodes lie before it. Keys are hashes, so that
    /// each range has a few.
    before: Box<[u32]>,
    bits: u32,
}

/// The rings in use, by their shards. Most collections have one of a few sets of shards, and a ring takes far
/// more memory than all else that is known of its collection.
#[derive(Debug, Default)]
struct InUse {
    rings: HashMap<Box<[ShardId]>, Weak<Nodes>>,
    /// How many there may be before those that are no longer in use are dropped.
    room: usize,
}

static IN_USE: LazyLock<Mutex<InUse>> = LazyLock::new(Mutex::default);

// === impl HashRing ===

impl HashRing {
    /// Builds the ring over `shards`; their order does not matter.
    #[must_use]
    pub fn new(shards: impl IntoIterator<Item = ShardId>) -> Self {
        let mut shards: Vec<ShardId> = shards.into_iter().collect();
        shards.sort_unstable();
        Self(match shards[..] {
            [] => Repr::Empty,
            [shard] => Repr::Single(shard),
            _ => {
                let in_use = || IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
                let known = in_use().find(&shards);
                // Made without the lock: two at once make the same.
                Repr::Many(known.unwrap_or_else(|| {
                    let made = Arc::new(Nodes::of(&shards));
                    in_use().keep(shards, &made);
                    made
                }))
            }
        })
    }

    /// The shard that `id` belongs to; `None` on an empty ring.
    #[must_use]
    pub fn shard(&self, id: &PointId) -> Option<ShardId> {
        self.shard_as(Hashing::Stable, id)
    }

    /// The shard that `id` belongs to on servers that hash so.
    #[must_use]
    pub fn shard_as(&self, hashing: Hashing, id: &PointId) -> Option<ShardId> {
        match &self.0 {
            Repr::Empty => None,
            Repr::Single(shard) => Some(*shard),
            Repr::Many(nodes) => nodes.owner(point_key(hashing, id)),
        }
    }
}

// === impl InUse ===

impl InUse {
    fn find(&self, shards: &[ShardId]) -> Option<Arc<Nodes>> {
        self.rings.get(shards)?.upgrade()
    }

    fn keep(&mut self, shards: Vec<ShardId>, ring: &Arc<Nodes>) {
        if self.rings.len() >= self.room {
            self.rings.retain(|_, ring| ring.strong_count() > 0);
            self.room = 2 * self.rings.len() + 16;
        }
        self.rings.insert(shards.into_boxed_slice(), Arc::downgrade(ring));
    }
}

// === impl Nodes ===

impl Nodes {
    /// Of two shards at least.
    fn of(shards: &[ShardId]) -> Self {
        let keys = |&shard: &ShardId| (0..NODES_PER_SHARD).map(move |i| (node_key(shard, i), shard));
        let mut nodes: Vec<(u64, ShardId)> = shards.iter().flat_map(keys).collect();
        nodes.sort_by_key(|&(key, _)| key);
        let bits = (nodes.len() / NODES_PER_RANGE).ilog2();
        let mut nodes_of_range = vec![0; (1 << bits) + 1];
        for (key, _) in &nodes {
            nodes_of_range[range_of(*key, bits) + 1] += 1;
        }
        let running = nodes_of_range.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        Self { before: running.collect(), nodes: nodes.into_boxed_slice(), bits }
    }

    /// The shard of the first node at or after `hash`, wrapping at the end.
    fn owner(&self, hash: u64) -> Option<ShardId> {
        let range = range_of(hash, self.bits);
        let [from, to] = [self.before[range] as usize, self.before[range + 1] as usize];
        let at = from + self.nodes[from..to].partition_point(|&(key, _)| key < hash);
        self.nodes.get(at).or_else(|| self.nodes.first()).map(|&(_, shard)| shard)
    }
}

/// Of 2^`bits` equal ranges of keys, the one that `key` falls into.
fn range_of(key: u64, bits: u32) -> usize {
    (key >> (u64::BITS - bits)) as usize
}

fn node_key(shard: ShardId, index: u32) -> u64 {
    siphash::hash([u64::from(shard) | u64::from(index) << 32])
}

fn point_key(hashing: Hashing, id: &PointId) -> u64 {
    // Before the id comes which kind it is.
    const NUM: u64 = 0;
    const UUID: u64 = 1;
    match id {
        PointId::Num(number) => siphash::hash([NUM, *number]),
        PointId::Uuid(uuid) => {
            let (first, second) = uuid.as_u64_pair();
            let [first, second] = [first.swap_bytes(), second.swap_bytes()];
            match hashing {
                // The length of the sixteen bytes that follow.
                Hashing::Stable => siphash::hash([UUID, 16, first, second]),
                Hashing::Deviating => siphash::hash([UUID, first, second]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use siphasher::sip::SipHasher24;

    use super::*;

    fn id(text: &str) -> PointId {
        PointId::from_path_segment(text).expect("a point id")
    }

    #[test]
    fn ring_node_keys() {
        for (shard, index, key) in [
            (0, 0, 0xe849_e8bb_6ffe_2567),
            (0, 99, 0xc196_476b_02c6_fd76),
            (1, 0, 0x8004_c5a6_9410_5f5e),
            (2, 57, 0xe91c_899c_3bc9_a811),
            (1, 70, 0x0071_0642_921f_f3c9),
            (1, 28, 0xfffd_ac3d_e753_9c34),
        ] {
            assert_eq!(node_key(shard, index), key, "shard {shard}, node {index}");
        }
    }

    /// The assignments that a Qdrant 1.18 server made: id, hash, then the shard on the rings
    /// {0,1}, {0..2}, {0..3}, {0..5}, {0..11} and {3,4,5}.
    #[test]
    fn vectors_of_a_real_server() {
        let rings = [
            HashRing::new(0..2),
            HashRing::new(0..3),
            HashRing::new(0..4),
            HashRing::new(0..6),
            HashRing::new(0..12),
            HashRing::new([5, 3, 4]),
        ];
        for (text, hash, shards) in [
            ("0", 0x32ca_ecc2_8017_2976, [0, 2, 2, 5, 5, 5]),
            ("1", 0xcaf8_f14c_fc92_c3f8, [0, 2, 3, 3, 11, 3]),
            ("2", 0xbc3d_046c_e207_3b62, [1, 2, 2, 4, 4, 4]),
            ("42", 0x54aa_b59a_e748_bab9, [1, 1, 1, 1, 1, 5]),
            ("321", 0x1386_ab10_e559_9f96, [1, 1, 1, 5, 5, 5]),
            ("100500", 0xf5bf_c0ac_f376_9e6c, [1, 1, 1, 5, 7, 5]),
            ("4294967296", 0x9634_b25c_041e_e532, [1, 1, 1, 1, 1, 4]),
            ("9223372036854775808", 0x1479_f814_9e2b_0f4a, [0, 2, 3, 3, 10, 3]),
            ("18446744073709551615", 0x4baf_9b10_95e6_49bc, [0, 2, 3, 3, 3, 3]),
            ("00000000-0000-0000-0000-000000000000", 0xdb24_535e_d665_f9ea, [1, 2, 2, 2, 2, 3]),
            ("550e8400-e29b-41d4-a716-446655440000", 0xfcdc_f225_e1db_2a90, [1, 1, 1, 1, 1, 4]),
            ("4072cda9-8ac6-46fa-9367-7372bc5e4798", 0x87bc_c75b_a727_4d35, [0, 2, 2, 2, 9, 3]),
            ("f47ac10b-58cc-4372-a567-0e02b2c3d479", 0x3a2a_f98b_6630_9b0d, [0, 0, 0, 0, 0, 5]),
            ("ffffffff-ffff-ffff-ffff-ffffffffffff", 0x5f73_7e6e_73a7_0ed3, [0, 0, 0, 0, 0, 4]),
        ] {
            assert_eq!(point_key(Hashing::Stable, &id(text)), hash, "hash of {text}");
            for (ring, shard) in rings.iter().zip(shards) {
                assert_eq!(ring.shard(&id(text)), Some(shard), "{text} on {ring:?}");
            }
        }
    }

    #[test]
    fn vectors_of_qdrants_own_unit_test() {
        let ring = HashRing::new(0..3);
        for (text, shard) in [
            ("fe23809b-dcc9-40ba-8255-a45dce6f10be", 2),
            ("a307aa98-d5b5-4b0c-aec9-f963171acb74", 2),
            ("aaf3bb55-dc48-418c-ba76-18badc0d7fc5", 0),
            ("63000b52-641b-45cf-bc15-14de3944b9dd", 0),
            ("aab5ef35-83ad-49ea-a629-508e308872f7", 0),
        ] {
            assert_eq!(ring.shard(&id(text)), Some(shard), "{text}");
        }
    }

    #[test]
    fn a_hash_past_the_last_node_wraps_to_the_first() {
        assert_eq!(point_key(Hashing::Stable, &PointId::Num(53401)), 0xfffe_06e0_4693_e2ca);
        assert_eq!(HashRing::new(0..3).shard(&PointId::Num(53401)), Some(1));
    }

    #[test]
    fn growing_from_three_to_four_shards_moves_what_it_moves_on_qdrant() {
        let (old, new) = (HashRing::new(0..3), HashRing::new(0..4));
        let moved: Vec<_> = (0..20)
            .map(PointId::Num)
            .filter_map(|id| {
                let (from, to) = (old.shard(&id)?, new.shard(&id)?);
                (from != to).then(|| (id.to_string(), from, to))
            })
            .collect();
        let expected = [("1", 2, 3), ("3", 2, 3), ("8", 0, 3), ("12", 2, 3), ("14", 2, 3)]
            .map(|(id, from, to)| (id.to_owned(), from, to));
        assert_eq!(moved, expected);
        let moves = (0..10_000).map(PointId::Num).filter(|id| old.shard(id) != new.shard(id)).count();
        assert_eq!(moves, 2372);
    }

    #[test]
    fn only_uuids_deviate_in_1_15_0() {
        let ring = HashRing::new(0..12);
        let number = PointId::Num(42);
        assert_eq!(ring.shard_as(Hashing::Deviating, &number), ring.shard(&number));
        let uuid = id("550e8400-e29b-41d4-a716-446655440000");
        // SipHash-2-4 of the discriminant and the sixteen bytes, without a length between them.
        let mut bytes = vec![1, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend(0x550e_8400_e29b_41d4_a716_4466_5544_0000_u128.to_be_bytes());
        assert_eq!(point_key(Hashing::Deviating, &uuid), SipHasher24::new().hash(&bytes));
        assert_ne!(point_key(Hashing::Deviating, &uuid), point_key(Hashing::Stable, &uuid));
    }

    #[test]
    fn the_node_found_is_the_first_at_or_after_the_hash() {
        for count in [2, 3, 10, 57] {
            let shards: Vec<ShardId> = (0..count).map(|shard| shard * shard).collect();
            let ring = Nodes::of(&shards);
            let hashes = ring.nodes.iter().flat_map(|&(key, _)| [key - 1, key, key + 1]);
            for hash in hashes.chain([0, u64::MAX]) {
                let next = ring.nodes.iter().find(|&&(key, _)| key >= hash).unwrap_or(&ring.nodes[0]);
                assert_eq!(ring.owner(hash), Some(next.1), "{hash:x} among {count} shards");
            }
        }
    }

    #[test]
    fn the_same_shards_have_one_ring() {
        let (first, second, other) =
            (HashRing::new([3, 900, 17]), HashRing::new([17, 3, 900]), HashRing::new([3, 900]));
        let (Repr::Many(first), Repr::Many(second), Repr::Many(other)) = (&first.0, &second.0, &other.0)
        else {
            panic!("rings of several shards");
        };
        assert!(Arc::ptr_eq(first, second));
        assert!(!Arc::ptr_eq(first, other));
    }

    #[test]
    fn rings_that_are_no_longer_in_use_are_dropped() {
        let mut in_use = InUse::default();
        let ring = |shards: &[ShardId]| Arc::new(Nodes::of(shards));
        let kept = ring(&[0, 1]);
        in_use.keep(vec![0, 1], &kept);
        for shard in 2..1000 {
            in_use.keep(vec![0, shard], &ring(&[0, shard]));
        }
        assert!(in_use.rings.len() < 100, "{}", in_use.rings.len());
        assert!(in_use.find(&[0, 1]).is_some_and(|ring| Arc::ptr_eq(&ring, &kept)));
        assert!(in_use.find(&[0, 2]).is_none());
    }

    #[test]
    fn small_rings() {
        assert_eq!(HashRing::new([]).shard(&PointId::Num(1)), None);
        assert_eq!(HashRing::new([7]).shard(&PointId::Num(1)), Some(7));
    }
}
