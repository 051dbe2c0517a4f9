//! Where the shards of one collection live.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
};

use serde::{Deserialize, de::IgnoredAny};
use smallvec::SmallVec;

use super::{Epoch, HashRing, Hashing, PeerId, PointId, Readers, Replica, ReplicaState, ShardId};

/// A shard key of a collection with custom sharding. `7` and `"7"` are different keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(untagged)]
pub enum ShardKey {
    /// A numeric key.
    Number(u64),
    /// A text key.
    Keyword(String),
}

/// One shard and its replicas.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Its id within the collection.
    pub id: ShardId,
    /// Its key, with custom sharding; shared by all shards of the key.
    pub key: Option<Arc<ShardKey>>,
    /// All its replicas, whatever their state.
    pub replicas: SmallVec<[Replica; 3]>,
}

/// The shards of one shard key, or all shards where sharding is automatic.
#[derive(Clone, Debug)]
pub struct KeyGroup {
    /// The key; `None` with automatic sharding.
    pub key: Option<ShardKey>,
    /// Its shards, ascending.
    pub shards: Vec<ShardId>,
    ring: HashRing,
    /// The ring without the shard that resharding adds or removes.
    ring_without_target: Option<HashRing>,
}

/// A resharding in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resharding {
    /// Whether a shard is being added or removed.
    pub direction: ReshardingDirection,
    /// The shard that is being added or removed.
    pub shard: ShardId,
}

/// See [`Resharding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReshardingDirection {
    /// A shard is being added.
    Up,
    /// A shard is being removed.
    Down,
    /// A direction that this version does not know.
    Unknown,
}

/// The placement of a collection, as one node answered `GET /collections/{c}/cluster`.
#[derive(Clone, Debug)]
pub struct Collection {
    /// The epoch of the view.
    pub epoch: Epoch,
    /// By ascending id.
    shards: Vec<Shard>,
    /// Counted when it is first asked for.
    readers: OnceLock<Readers>,
    /// By ascending key.
    groups: Vec<KeyGroup>,
    /// Whether a group has several shards, so that it takes a point's id to tell which one has it.
    needs_ids: bool,
    /// The resharding in progress, if any.
    pub resharding: Option<Resharding>,
    /// Shard transfers in progress.
    pub transfers: usize,
    /// The points that strict mode allows in one write that is dealt out (`upsert_max_batchsize`), where it limits them;
    /// none where that could not be found out, or where it has limits that each node judges by what it holds itself.
    pub max_points_per_write: Option<usize>,
    /// Whether strict mode checks requests, as far as is known.
    pub is_strict: bool,
}

// === impl ShardKey ===

impl fmt::Display for ShardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Keyword(text) => text.fmt(f),
        }
    }
}

// === impl KeyGroup ===

impl KeyGroup {
    /// The shards that a write of this point goes to: one, or two while resharding moves it.
    pub fn owners(&self, hashing: Hashing, id: &PointId) -> impl Iterator<Item = ShardId> + use<> {
        let owner = self.ring.shard_as(hashing, id);
        let other = self
            .ring_without_target
            .as_ref()
            .and_then(|ring| ring.shard_as(hashing, id))
            .filter(|&shard| Some(shard) != owner);
        owner.into_iter().chain(other)
    }
}

// === impl Collection ===

impl Collection {
    /// Assembles the placement; `shards` may come in any order.
    #[must_use]
    pub fn new(
        epoch: Epoch,
        mut shards: Vec<Shard>,
        resharding: Option<Resharding>,
        transfers: usize,
    ) -> Self {
        shards.sort_by_key(|shard| shard.id);
        shards.shrink_to_fit();
        let mut members: BTreeMap<Option<Arc<ShardKey>>, Vec<ShardId>> = BTreeMap::new();
        for shard in &mut shards {
            let group = members.entry(shard.key.clone());
            shard.key.clone_from(group.key());
            group.or_default().push(shard.id);
        }
        let groups: Vec<KeyGroup> = members
            .into_iter()
            .map(|(key, mut shards)| KeyGroup {
                ring: HashRing::new(shards.iter().copied()),
                ring_without_target: resharding
                    .as_ref()
                    .filter(|resharding| shards.contains(&resharding.shard))
                    .map(|resharding| {
                        HashRing::new(shards.iter().copied().filter(|&id| id != resharding.shard))
                    }),
                key: key.as_deref().cloned(),
                shards: {
                    shards.shrink_to_fit();
                    shards
                },
            })
            .collect();
        Self {
            epoch,
            shards,
            readers: OnceLock::new(),
            needs_ids: groups.iter().any(|group| group.shards.len() > 1),
            groups,
            resharding,
            transfers,
            max_points_per_write: None,
            is_strict: true,
        }
    }

    /// Whether a point's shard is chosen by a shard key in the request rather than by its id alone.
    #[must_use]
    pub fn has_shard_keys(&self) -> bool {
        self.groups.last().is_some_and(|group| group.key.is_some())
    }

    /// Whether it takes a point's id to tell which shard has it.
    pub(crate) fn needs_ids(&self) -> bool {
        self.needs_ids
    }

    /// The shards by key, ascending; one group without a key where sharding is automatic.
    #[must_use]
    pub fn groups(&self) -> &[KeyGroup] {
        &self.groups
    }

    /// The group of `key`, or of the whole collection where sharding is automatic and `key` is `None`.
    #[must_use]
    pub fn group(&self, key: Option<&ShardKey>) -> Option<&KeyGroup> {
        let at = self.groups.binary_search_by(|group| group.key.as_ref().cmp(&key)).ok()?;
        self.groups.get(at)
    }

    /// The shards, by ascending id.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Who can read how many of them.
    pub(crate) fn readers(&self) -> &Readers {
        self.readers.get_or_init(|| Readers::of(&self.shards))
    }

    /// The shard with this id.
    #[must_use]
    pub fn shard(&self, id: ShardId) -> Option<&Shard> {
        // Most collections have shards 0 to n.
        let is_meant = |shard: &&Shard| shard.id == id;
        self.shards.get(id as usize).filter(is_meant).or_else(|| {
            let at = self.shards.binary_search_by_key(&id, |shard| shard.id).ok()?;
            self.shards.get(at)
        })
    }
}

// === the wire ===

/// `result` of `GET /collections/{c}/cluster`.
#[derive(Debug, Deserialize)]
pub(super) struct ClusterInfo {
    pub(super) peer_id: PeerId,
    #[serde(default)]
    pub(super) local_shards: Vec<LocalShard>,
    #[serde(default)]
    pub(super) remote_shards: Vec<RemoteShard>,
    /// Their number is all that matters.
    #[serde(default, rename = "shard_transfers", deserialize_with = "count")]
    pub(super) transfers: usize,
    #[serde(default)]
    pub(super) resharding_operations: Option<Vec<ReshardingInfo>>,
}

fn count<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    Vec::<serde::de::IgnoredAny>::deserialize(deserializer).map(|list| list.len())
}

#[derive(Debug, Deserialize)]
pub(super) struct LocalShard {
    pub(super) shard_id: ShardId,
    pub(super) shard_key: Option<ShardKey>,
    pub(super) state: ReplicaState,
}

#[derive(Debug, Deserialize)]
pub(super) struct RemoteShard {
    pub(super) shard_id: ShardId,
    pub(super) shard_key: Option<ShardKey>,
    pub(super) peer_id: PeerId,
    pub(super) state: ReplicaState,
}

#[derive(Debug, Deserialize)]
pub(super) struct ReshardingInfo {
    #[serde(default)]
    pub(super) direction: String,
    pub(super) shard_id: ShardId,
}

/// What matters of `result` of `GET /collections/{c}`.
#[derive(Debug, Deserialize)]
pub(super) struct CollectionInfo {
    config: CollectionConfig,
}

#[derive(Debug, Deserialize)]
struct CollectionConfig {
    strict_mode_config: Option<StrictMode>,
}

#[derive(Debug, Deserialize)]
struct StrictMode {
    enabled: Option<bool>,
    upsert_max_batchsize: Option<usize>,
    // Each node judges by what it holds itself, and refuses at its door what another may take.
    max_points_count: Option<IgnoredAny>,
    max_collection_vector_size_bytes: Option<IgnoredAny>,
    max_collection_payload_size_bytes: Option<IgnoredAny>,
    max_resident_memory_percent: Option<IgnoredAny>,
    max_disk_usage_percent: Option<IgnoredAny>,
}

// === impl CollectionInfo ===

impl CollectionInfo {
    /// The strict mode, where it is on.
    fn strict_mode(&self) -> Option<&StrictMode> {
        self.config.strict_mode_config.as_ref().filter(|strict_mode| strict_mode.enabled == Some(true))
    }

    pub(super) fn is_strict(&self) -> bool {
        self.strict_mode().is_some()
    }

    pub(super) fn max_points_per_write(&self) -> Option<usize> {
        let strict_mode = self.strict_mode()?;
        if strict_mode.is_judged_by_each_node() { Some(0) } else { strict_mode.upsert_max_batchsize }
    }
}

// === impl StrictMode ===

impl StrictMode {
    fn is_judged_by_each_node(&self) -> bool {
        let limits = [
            &self.max_points_count,
            &self.max_collection_vector_size_bytes,
            &self.max_collection_payload_size_bytes,
            &self.max_resident_memory_percent,
            &self.max_disk_usage_percent,
        ];
        limits.into_iter().any(Option::is_some)
    }
}

// === impl ClusterInfo ===

impl ClusterInfo {
    pub(super) fn into_collection(self, epoch: Epoch) -> Collection {
        let local = self.local_shards.into_iter().map(|shard| {
            let replica = Replica { peer: self.peer_id, state: shard.state };
            (shard.shard_id, shard.shard_key, replica)
        });
        let remote = self.remote_shards.into_iter().map(|shard| {
            let replica = Replica { peer: shard.peer_id, state: shard.state };
            (shard.shard_id, shard.shard_key, replica)
        });
        let mut rows: Vec<_> = local.chain(remote).collect();
        rows.sort_by_key(|&(shard, _, replica)| (shard, replica.peer));
        let mut shards: Vec<Shard> = Vec::new();
        for (id, key, replica) in rows {
            match shards.last_mut().filter(|shard| shard.id == id) {
                Some(shard) => shard.replicas.push(replica),
                None => {
                    let key = key.map(Arc::new);
                    shards.push(Shard { id, key, replicas: SmallVec::from_elem(replica, 1) });
                }
            }
        }
        let resharding =
            self.resharding_operations.unwrap_or_default().into_iter().next().map(|info| Resharding {
                direction: match &*info.direction {
                    "up" => ReshardingDirection::Up,
                    "down" => ReshardingDirection::Down,
                    _ => ReshardingDirection::Unknown,
                },
                shard: info.shard_id,
            });
        Collection::new(epoch, shards, resharding, self.transfers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::PointId;

    fn parse(json: &str) -> Collection {
        serde_json::from_str::<ClusterInfo>(json)
            .expect("cluster info")
            .into_collection(Epoch { term: 1, commit: 2 })
    }

    #[test]
    fn a_replica_set_is_the_local_row_and_all_remote_rows() {
        let collection = parse(
            r#"{ "peer_id": 7, "shard_count": 2,
                 "local_shards": [{ "shard_id": 0, "points_count": 3, "state": "Active" }],
                 "remote_shards": [{ "shard_id": 1, "peer_id": 9, "state": "Recovery" },
                                   { "shard_id": 0, "peer_id": 8, "state": "Sleeping" }],
                 "shard_transfers": [{ "shard_id": 1, "from": 1, "to": 2, "sync": true }] }"#,
        );
        let states: Vec<_> = collection
            .shards
            .iter()
            .flat_map(|shard| shard.replicas.iter().map(|r| (shard.id, r.peer, r.state)))
            .collect();
        assert_eq!(
            states,
            [(0, 7, ReplicaState::Active), (0, 8, ReplicaState::Unknown), (1, 9, ReplicaState::Recovery)]
        );
        assert!(!collection.has_shard_keys());
        assert_eq!(collection.transfers, 1);
        assert_eq!(collection.group(None).expect("automatic sharding").shards, [0, 1]);
    }

    #[test]
    fn keys_group_shards_and_seven_is_not_the_text_seven() {
        let collection = parse(
            r#"{ "peer_id": 7, "shard_count": 3, "local_shards": [
                 { "shard_id": 3, "shard_key": "7", "points_count": 0, "state": "Active" },
                 { "shard_id": 1, "shard_key": 7, "points_count": 0, "state": "Active" },
                 { "shard_id": 2, "shard_key": 7, "points_count": 0, "state": "Active" }],
                 "remote_shards": [], "shard_transfers": [] }"#,
        );
        let shards = |key: ShardKey| collection.group(Some(&key)).map(|group| group.shards.clone());
        assert_eq!(shards(ShardKey::Number(7)), Some(vec![1, 2]));
        assert_eq!(shards(ShardKey::Keyword("7".into())), Some(vec![3]));
        assert!(collection.group(None).is_none());
    }

    #[test]
    fn any_of_many_keys_is_found_whatever_their_order() {
        let key = |n: u32| match n % 2 {
            0 => ShardKey::Number(u64::from(n)),
            _ => ShardKey::Keyword(format!("tenant {n}")),
        };
        // Two shards of each key, the keys in no order.
        let shards = (0..1000).map(|id| Shard {
            id,
            key: Some(Arc::new(key(id * 7 % 500))),
            replicas: SmallVec::new(),
        });
        let collection = Collection::new(Epoch { term: 1, commit: 1 }, shards.collect(), None, 0);
        assert_eq!(collection.groups().len(), 500);
        for id in 0..500 {
            let group = collection.group(Some(&key(id * 7 % 500))).expect("it has shards");
            assert_eq!(group.shards, [id, id + 500]);
            assert!(Arc::ptr_eq(
                collection.shards[id as usize].key.as_ref().expect("a key"),
                collection.shards[id as usize + 500].key.as_ref().expect("a key"),
            ));
        }
        assert!(collection.group(Some(&ShardKey::Keyword("500".into()))).is_none());
        assert!(collection.group(None).is_none());
    }

    #[test]
    fn resharding_writes_go_to_the_old_and_the_new_owner() {
        let collection = parse(
            r#"{ "peer_id": 7, "shard_count": 4, "local_shards": [
                 { "shard_id": 0, "points_count": 0, "state": "Active" },
                 { "shard_id": 1, "points_count": 0, "state": "Active" },
                 { "shard_id": 2, "points_count": 0, "state": "Active" },
                 { "shard_id": 3, "points_count": 0, "state": "Resharding" }],
                 "remote_shards": [], "shard_transfers": [],
                 "resharding_operations": [{ "uuid": "x", "direction": "up", "shard_id": 3, "peer_id": 7 }] }"#,
        );
        let group = collection.group(None).expect("automatic sharding");
        let owners = |id| group.owners(Hashing::Stable, &PointId::Num(id)).collect::<Vec<_>>();
        assert_eq!(owners(0), [2]);
        assert_eq!(owners(1), [3, 2]);
        assert_eq!(owners(8), [3, 0]);
    }
}
