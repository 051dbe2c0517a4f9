//! Snapshots as files of one node. Their content names what they were made of; the points are kept beside it, so that a
//! collection that still exists can be recovered from them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::super::clock;
use super::super::consensus::CollectionMeta;
use super::super::error::{OpError, OpResult};
use super::super::shard::{Shard, Shelf, SnapshotFile};
use super::Engine;

/// What a snapshot is of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scope<'a> {
    Full,
    Collection(&'a str),
    Shard(&'a str, u32),
}

/// Whose points win when a snapshot is recovered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Priority {
    /// Only this node's replicas are restored, whatever the others have.
    NoSync,
    /// The snapshot: other replicas follow it.
    Snapshot,
    /// Other replicas, where there are any in use.
    #[default]
    Replica,
}

impl Engine {
    /// The snapshots of one kind on this node.
    pub(crate) fn list_snapshots(&self, of: Scope<'_>) -> OpResult<Vec<SnapshotFile>> {
        let shelf = self.shelf(of)?;
        Ok(self.storage.snapshots(shelf, |files| files.clone()))
    }

    /// Makes a snapshot of what this node has. Names have the resolution of a second. Where Qdrant would overwrite a
    /// snapshot made in the same second, this one is dated the next second that is free.
    pub(crate) fn create_snapshot(&self, of: Scope<'_>) -> OpResult<SnapshotFile> {
        let shelf = self.shelf(of)?;
        let (stem, content, replicas) = match (&shelf, of) {
            (Shelf::Collection(name), _) => {
                let meta = self.consensus.collection(name)?;
                let local: Vec<u32> = self.local_shards(&meta).collect();
                (
                    format!("{name}-{}", self.peer_id),
                    self.cluster_view(name)?.to_json(),
                    self.copies(&meta, &local),
                )
            }
            (Shelf::Shard(name, shard), _) => {
                let meta = self.consensus.collection(name)?;
                let content = json!({ "collection": name, "shard_id": shard, "peer_id": self.peer_id });
                (format!("{name}-shard-{shard}"), content, self.copies(&meta, &[*shard]))
            }
            (Shelf::Full, _) => {
                ("full-snapshot".to_owned(), json!({ "peer_id": self.peer_id }), BTreeMap::new())
            }
        };
        let content = content.to_string().into_bytes();
        Ok(self.storage.snapshots(shelf, |files| {
            let mut time = SystemTime::now();
            let mut name = file_name(&stem, time);
            while files.iter().any(|file| file.name == name) {
                time += Duration::from_secs(1);
                name = file_name(&stem, time);
            }
            let created = clock::format(time).split('.').next().unwrap_or_default().to_owned();
            let file = SnapshotFile { name, created, content, replicas };
            files.push(file.clone());
            file
        }))
    }

    pub(crate) fn find_snapshot(&self, of: Scope<'_>, name: &str) -> OpResult<SnapshotFile> {
        let found = self.list_snapshots(of)?.into_iter().find(|file| file.name == name);
        found.ok_or_else(|| missing(name))
    }

    pub(crate) fn delete_snapshot(&self, of: Scope<'_>, name: &str) -> OpResult<()> {
        let shelf = self.shelf(of)?;
        self.storage.snapshots(shelf, |files| {
            let before = files.len();
            files.retain(|file| file.name != name);
            if files.len() == before { Err(missing(name)) } else { Ok(()) }
        })
    }

    /// Restores the shards of a collection that this node holds from a file of this node.
    pub(crate) async fn recover_snapshot(
        &self,
        collection: &str,
        location: &str,
        priority: Priority,
        checksum: Option<&str>,
    ) -> OpResult<()> {
        let snapshot = self.locate(location)?;
        let actual = snapshot.checksum();
        if let Some(checksum) = checksum.filter(|expected| !expected.eq_ignore_ascii_case(&actual)) {
            return Err(OpError::bad_input(format!(
                "Snapshot checksum mismatch: expected {checksum}, got {actual}"
            )));
        }
        let meta = self.consensus.collection(collection).map_err(|_| {
            OpError::lacking(format_args!("recovery of a collection that does not exist (`{collection}`)"))
        })?;
        let _closed = meta.gate.write().await;
        let meta = self.consensus.collection(collection)?;
        for (id, copy) in snapshot.replicas {
            let Some(shard) = meta.shards.get(&id).filter(|shard| shard.replicas.contains_key(&self.peer_id))
            else {
                continue;
            };
            let others: BTreeSet<u64> = shard.readable().filter(|peer| *peer != self.peer_id).collect();
            if priority == Priority::Replica && !others.is_empty() {
                continue;
            }
            self.storage.shard(meta.uid, id).copy_from(&copy);
            if priority == Priority::Snapshot {
                let peers = self.consensus.view(|state| state.peers.clone());
                for peer in others.iter().filter_map(|peer| peers.get(peer)) {
                    peer.storage.shard(meta.uid, id).copy_from(&copy);
                }
            }
        }
        Ok(())
    }

    /// The file that a location names. All files of a node lie below one directory, so the last part of a path is
    /// enough to know which is meant.
    fn locate(&self, location: &str) -> OpResult<SnapshotFile> {
        let Some((scheme, rest)) = location.split_once("://") else {
            return Err(OpError::bad_json(format!(
                "invalid snapshot location `{location}`: relative URL without a base"
            )));
        };
        let path = match (scheme, rest.split_once('/')) {
            ("http" | "https", _) => return Err(OpError::lacking("recovery from another server")),
            ("file", Some(("" | "localhost", path))) => percent_encoding::percent_decode_str(path),
            ("file", _) => {
                return Err(OpError::bad_request(
                    "Invalid snapshot URI, file path must be absolute or on localhost",
                ));
            }
            _ => {
                return Err(OpError::bad_request(format!(
                    "URL {location} with scheme {scheme} is not supported"
                )));
            }
        };
        let path = format!("/{}", path.decode_utf8_lossy());
        let name = path.rsplit('/').next().unwrap_or_default();
        self.storage
            .any_snapshot(name)
            .ok_or_else(|| OpError::bad_request(format!("Snapshot file {path:?} does not exist")))
    }

    fn local_shards(&self, meta: &CollectionMeta) -> impl Iterator<Item = u32> {
        let mine = |replicas: &BTreeMap<u64, _>| replicas.contains_key(&self.peer_id);
        meta.shards.iter().filter(move |(_, shard)| mine(&shard.replicas)).map(|(id, _)| *id)
    }

    fn copies(&self, meta: &CollectionMeta, shards: &[u32]) -> BTreeMap<u32, Arc<Shard>> {
        let copy = |id: &u32| {
            let copy = Shard::default();
            copy.copy_from(&self.storage.shard(meta.uid, *id));
            (*id, Arc::new(copy))
        };
        shards.iter().map(copy).collect()
    }

    /// Files lie under the real name, so that an alias finds them too. A shard's files are with its holders alone.
    fn shelf(&self, of: Scope<'_>) -> OpResult<Shelf> {
        match of {
            Scope::Full => Ok(Shelf::Full),
            Scope::Collection(name) => Ok(Shelf::Collection(self.consensus.collection(name)?.name.clone())),
            Scope::Shard(name, shard) => {
                let meta = self.consensus.collection(name)?;
                let replicas = &meta.shards.get(&shard).ok_or_else(|| no_shard(shard))?.replicas;
                if !replicas.contains_key(&self.peer_id) {
                    return Err(OpError::bad_input(format!("Shard {shard} is not a local shard")));
                }
                Ok(Shelf::Shard(meta.name.clone(), shard))
            }
        }
    }
}

/// A shard id that the collection does not have.
pub(crate) fn no_shard(shard: u32) -> OpError {
    OpError::not_found(format!("shard {shard} not found"))
}

fn file_name(stem: &str, time: SystemTime) -> String {
    format!("{stem}-{}.snapshot", clock::file_stamp(time))
}

fn missing(name: &str) -> OpError {
    OpError::not_found(format!("Snapshot {name} not found"))
}
