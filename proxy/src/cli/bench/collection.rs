//! The collection that the requests are about.

use std::{sync::Arc, time::Duration};

use http::Method;
use qdrant_router::Router;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    super::CliError,
    way::{Via, Way},
    work::{Work, shard_key},
};

/// How long the shards may take to be ready.
const READY: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// Points per request while the collection is filled.
const CHUNK: u64 = 100;

/// A collection of our own. Its name is random, so that it is nobody else's.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) router: Router,
    /// Whether the nodes speak TLS, which only the router does with them.
    pub(super) is_encrypted: bool,
    pub(super) work: Arc<Work>,
}

// === impl Own ===

impl Own {
    /// Creates it, and waits until it is whole. Fails where it exists.
    pub(super) async fn create(&self) -> Result<(), CliError> {
        let path = format!("/collections/{}", self.work.collection);
        self.ask(Method::PUT, &path, Some(self.work.settings())).await?;
        for key in 0..u64::from(self.work.shard_keys) {
            let key = json!({ "shard_key": shard_key(key), "shards_number": self.work.shards });
            self.ask(Method::PUT, &format!("{path}/shards"), Some(key)).await?;
        }
        let began = Instant::now();
        loop {
            let placement = self.ask(Method::GET, &format!("{path}/cluster"), None).await?;
            let replicas = ["local_shards", "remote_shards"].map(|side| placement[side].as_array().cloned());
            let replicas: Vec<Value> = replicas.into_iter().flatten().flatten().collect();
            if !replicas.is_empty() && replicas.iter().all(|replica| replica["state"] == "Active") {
                return Ok(());
            }
            // A server that is not a cluster tells nothing here.
            if placement.is_null() {
                return Ok(());
            }
            if began.elapsed() > READY {
                let reason = format!("the collection's shards are not ready within {READY:?}: {placement}");
                return Err(CliError::Cluster(reason));
            }
            sleep(PAUSE).await;
        }
    }

    /// Puts all points into it, through every node: the first write of a node costs more than others.
    pub(super) async fn fill(&self) -> Result<(), CliError> {
        let via = Via::new(&Way::RoundRobin, &self.router, &self.work, 1, self.is_encrypted);
        let via = via.or_else(|_| Via::new(&Way::Sdk, &self.router, &self.work, 1, self.is_encrypted))?;
        let keys = u64::from(self.work.shard_keys.max(1));
        let per_key = self.work.points.div_ceil(keys);
        for key in 0..keys {
            for first in (0..per_key).step_by(usize::try_from(CHUNK).unwrap_or(1)) {
                let upsert = self.work.upsert(key + first * keys, CHUNK.min(per_key - first));
                via.ask(upsert).await.map_err(CliError::Cluster)?;
            }
        }
        Ok(())
    }

    /// Removes it, if it is there.
    pub(super) async fn remove(&self) -> Result<(), CliError> {
        let path = format!("/collections/{}", self.work.collection);
        self.ask(Method::DELETE, &path, None).await.map(|_| ()).map_err(|error| {
            CliError::Cluster(format!("the collection {} stays behind: {error}", self.work.collection))
        })
    }

    /// The `result` of the answer.
    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, CliError> {
        let via = Via::new(&Way::Sdk, &self.router, &self.work, 1, self.is_encrypted)?;
        let what = format!("{method} {path}");
        let answer = via.rest(self.work.plain(method, path, body)).await;
        let answer = answer.map_err(|reason| CliError::Cluster(format!("{what}: {reason}")))?;
        let mut document: Value = serde_json::from_slice(&answer).unwrap_or_default();
        Ok(document["result"].take())
    }
}
