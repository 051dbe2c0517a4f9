//! Point id to shard: the consistent hash ring of the server.
//!
//! Written apart from the router's own ring on purpose: the two are held against the same published vectors, and a
//! mistake in one shows as a disagreement instead of being shared.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use super::model::PointId;

/// Ring positions given to each shard.
const POINTS_PER_SHARD: u32 = 100;

/// How ids are encoded before they are hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Hashing {
    #[default]
    Stable,
    /// 1.15.0 alone leaves out the length of a UUID.
    Release1150,
}

/// A ring over a fixed set of shards.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ring {
    nodes: Vec<(u64, u32)>,
}

impl Ring {
    pub(crate) fn new(shards: impl IntoIterator<Item = u32>) -> Self {
        let mut nodes: Vec<(u64, u32)> = shards
            .into_iter()
            .flat_map(|shard| (0..POINTS_PER_SHARD).map(move |index| (node_key(shard, index), shard)))
            .collect();
        nodes.sort_by_key(|(key, _)| *key);
        Self { nodes }
    }

    /// The shard that owns `id`, or nothing on an empty ring.
    pub(crate) fn shard(&self, id: &PointId, hashing: Hashing) -> Option<u32> {
        let hash = id_hash(id, hashing);
        let at = self.nodes.partition_point(|(key, _)| *key < hash);
        self.nodes.get(at).or_else(|| self.nodes.first()).map(|(_, shard)| *shard)
    }
}

fn sip(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(0, 0);
    hasher.write(bytes);
    hasher.finish()
}

fn node_key(shard: u32, index: u32) -> u64 {
    let mut bytes = [0u8; 8];
    bytes[..4].copy_from_slice(&shard.to_le_bytes());
    bytes[4..].copy_from_slice(&index.to_le_bytes());
    sip(&bytes)
}

/// The encoding repeats what Rust's `Hash` derive once produced for the enum: variant, then for a UUID its length.
fn id_hash(id: &PointId, hashing: Hashing) -> u64 {
    let mut bytes = Vec::with_capacity(32);
    match id {
        PointId::Num(number) => {
            bytes.extend_from_slice(&0u64.to_le_bytes());
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        PointId::Uuid(uuid) => {
            bytes.extend_from_slice(&1u64.to_le_bytes());
            if hashing == Hashing::Stable {
                bytes.extend_from_slice(&16u64.to_le_bytes());
            }
            bytes.extend_from_slice(uuid.as_bytes());
        }
    }
    sip(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> PointId {
        PointId::parse_path(text).expect("a point id")
    }

    #[test]
    fn node_keys_match_the_published_ones() {
        assert_eq!(node_key(0, 0), 0xe849_e8bb_6ffe_2567);
        assert_eq!(node_key(0, 99), 0xc196_476b_02c6_fd76);
        assert_eq!(node_key(1, 0), 0x8004_c5a6_9410_5f5e);
        assert_eq!(node_key(2, 57), 0xe91c_899c_3bc9_a811);
    }

    #[test]
    fn ids_land_on_the_published_shards() {
        let rings = [
            Ring::new(0..2),
            Ring::new(0..3),
            Ring::new(0..4),
            Ring::new(0..6),
            Ring::new(0..12),
            Ring::new(3..6),
        ];
        let table = [
            ("0", 0x32ca_ecc2_8017_2976, [0, 2, 2, 5, 5, 5]),
            ("1", 0xcaf8_f14c_fc92_c3f8, [0, 2, 3, 3, 11, 3]),
            ("2", 0xbc3d_046c_e207_3b62, [1, 2, 2, 4, 4, 4]),
            ("42", 0x54aa_b59a_e748_bab9, [1, 1, 1, 1, 1, 5]),
            ("321", 0x1386_ab10_e559_9f96, [1, 1, 1, 5, 5, 5]),
            ("100500", 0xf5bf_c0ac_f376_9e6c, [1, 1, 1, 5, 7, 5]),
            ("9223372036854775808", 0x1479_f814_9e2b_0f4a, [0, 2, 3, 3, 10, 3]),
            ("18446744073709551615", 0x4baf_9b10_95e6_49bc, [0, 2, 3, 3, 3, 3]),
            ("00000000-0000-0000-0000-000000000000", 0xdb24_535e_d665_f9ea, [1, 2, 2, 2, 2, 3]),
            ("550e8400-e29b-41d4-a716-446655440000", 0xfcdc_f225_e1db_2a90, [1, 1, 1, 1, 1, 4]),
            ("4072cda9-8ac6-46fa-9367-7372bc5e4798", 0x87bc_c75b_a727_4d35, [0, 2, 2, 2, 9, 3]),
            ("f47ac10b-58cc-4372-a567-0e02b2c3d479", 0x3a2a_f98b_6630_9b0d, [0, 0, 0, 0, 0, 5]),
            ("ffffffff-ffff-ffff-ffff-ffffffffffff", 0x5f73_7e6e_73a7_0ed3, [0, 0, 0, 0, 0, 4]),
        ];
        for (text, hash, shards) in table {
            assert_eq!(id_hash(&id(text), Hashing::Stable), hash, "hash of {text}");
            let found = rings.each_ref().map(|ring| ring.shard(&id(text), Hashing::Stable).expect("a shard"));
            assert_eq!(found, shards, "shards of {text}");
        }
    }

    /// Computed with another implementation of SipHash.
    #[test]
    fn one_release_puts_uuids_elsewhere() {
        let six = Ring::new(0..6);
        for (text, hash, shard) in [
            ("550e8400-e29b-41d4-a716-446655440000", 0xb217_b2fe_0927_7238, 1),
            ("4072cda9-8ac6-46fa-9367-7372bc5e4798", 0xb96d_6741_be36_2d4d, 3),
            ("ffffffff-ffff-ffff-ffff-ffffffffffff", 0x1f17_82db_8335_a71e, 4),
            ("42", 0x54aa_b59a_e748_bab9, 1),
        ] {
            assert_eq!(id_hash(&id(text), Hashing::Release1150), hash, "hash of {text}");
            assert_eq!(six.shard(&id(text), Hashing::Release1150), Some(shard), "shard of {text}");
        }
    }

    #[test]
    fn past_the_last_node_the_ring_wraps() {
        assert_eq!(Ring::new(0..3).shard(&PointId::Num(53401), Hashing::Stable), Some(1));
        assert_eq!(Ring::default().shard(&PointId::Num(1), Hashing::Stable), None);
    }

    #[test]
    fn a_fourth_shard_moves_a_quarter_of_the_points() {
        let (old, new) = (Ring::new(0..3), Ring::new(0..4));
        let shard = |ring: &Ring, n: u64| ring.shard(&PointId::Num(n), Hashing::Stable);
        let moved = (0..10_000).filter(|n| shard(&old, *n) != shard(&new, *n)).count();
        assert_eq!(moved, 2372);
    }
}
