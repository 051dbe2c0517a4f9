//! Snapshots as files of one node. Their content names what they were made of; they cannot be restored.

use std::time::SystemTime;

use serde_json::json;

use super::super::clock;
use super::super::error::{OpError, OpResult};
use super::super::shard::SnapshotFile;
use super::Engine;

/// The name under which storage keeps full snapshots.
const FULL: &str = "";

impl Engine {
    /// The snapshots of a collection on this node, or the full ones.
    pub(crate) fn list_snapshots(&self, collection: Option<&str>) -> OpResult<Vec<SnapshotFile>> {
        let shelf = self.shelf(collection)?;
        Ok(self.storage.snapshots(&shelf, |files| files.clone()))
    }

    pub(crate) fn create_snapshot(&self, collection: Option<&str>) -> OpResult<SnapshotFile> {
        let shelf = self.shelf(collection)?;
        let stamp = clock::file_stamp(SystemTime::now());
        let stem = match collection {
            Some(_) => format!("{shelf}-{}-{stamp}", self.peer_id),
            None => format!("full-snapshot-{stamp}"),
        };
        let content = match collection {
            Some(name) => self.cluster_view(name)?.to_json(),
            None => json!({ "peer_id": self.peer_id }),
        };
        let created = clock::now();
        Ok(self.storage.snapshots(&shelf, |files| {
            // Names have the resolution of a second, as in Qdrant: a second snapshot in the same second replaces the first.
            let name = format!("{stem}.snapshot");
            files.retain(|file| file.name != name);
            let created = created.split('.').next().unwrap_or_default().to_owned();
            let file = SnapshotFile { name, created, content: content.to_string().into_bytes() };
            files.push(file.clone());
            file
        }))
    }

    pub(crate) fn find_snapshot(&self, collection: Option<&str>, name: &str) -> OpResult<SnapshotFile> {
        let found = self.list_snapshots(collection)?.into_iter().find(|file| file.name == name);
        found.ok_or_else(|| missing(name))
    }

    pub(crate) fn delete_snapshot(&self, collection: Option<&str>, name: &str) -> OpResult<()> {
        let shelf = self.shelf(collection)?;
        self.storage.snapshots(&shelf, |files| {
            let before = files.len();
            files.retain(|file| file.name != name);
            if files.len() == before { Err(missing(name)) } else { Ok(()) }
        })
    }

    /// Files lie under the real name, so that an alias finds them too.
    fn shelf(&self, collection: Option<&str>) -> OpResult<String> {
        match collection {
            None => Ok(FULL.to_owned()),
            Some(name) => Ok(self.consensus.collection(name)?.name.clone()),
        }
    }
}

fn missing(name: &str) -> OpError {
    OpError::not_found(format!("Snapshot {name} not found"))
}
