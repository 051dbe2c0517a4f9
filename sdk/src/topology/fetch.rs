//! Fetches the placement of collections.
//!
//! Any node with the newest view will do. One that is silent for a moment is not waited for: the next one
//! is asked beside it, and whoever has answered first has answered, so that a node that hangs delays nothing
//! for longer than that moment.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream, stream::FuturesUnordered};
use tokio::time::timeout;

use super::{Address, ApiError, ClusterApi, ClusterView, Collection, Epoch};

/// Placements fetched from one node at the same time.
const AT_ONCE: usize = 8;

/// How long a node is waited for before another one is asked too: the first request for a collection waits
/// long enough for both.
const PATIENCE: Duration = Duration::from_millis(200);

/// Nodes that are asked for one batch.
const MOST_NODES: usize = 3;

/// What is wanted.
#[derive(Debug)]
pub(super) struct Batch {
    /// Where the nodes stand that are asked.
    pub(super) epoch: Epoch,
    /// The names that are wanted, aliases among them.
    pub(super) names: Vec<String>,
    pub(super) known_aliases: Option<Arc<HashMap<String, String>>>,
    /// The number of the newest change when the batch began.
    pub(super) asked_after: u64,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Fetched {
    /// Who told.
    pub(super) from: Address,
    pub(super) aliases: Option<HashMap<String, String>>,
    /// By the name under which each is stored.
    pub(super) collections: Vec<(String, Result<Option<Collection>, ApiError>)>,
    /// Where the node stands after the batch, or why it failed.
    pub(super) after: Result<ClusterView, ApiError>,
}

// === impl Batch ===

impl Batch {
    /// Asks one of `nodes`, of which there is at least one, and others where it does not answer in time.
    pub(super) async fn fetch<A: ClusterApi>(&self, api: &A, nodes: &[Address]) -> Fetched {
        let mut others = nodes.iter().skip(1).take(MOST_NODES - 1);
        let mut asked = FuturesUnordered::new();
        asked.push(self.ask(api, nodes[0]));
        loop {
            let told = match others.len() {
                0 => asked.next().await,
                _ => timeout(PATIENCE, asked.next()).await.unwrap_or(None),
            };
            match (told, others.next()) {
                (Some(fetched), None) if asked.is_empty() => return fetched,
                (Some(fetched), _) if fetched.is_told() => return fetched,
                (_, Some(&other)) => asked.push(self.ask(api, other)),
                (_, None) => {}
            }
        }
    }

    /// Asks `from` for the aliases where they are not known, for the placements, and last where it stands
    /// now: if its epoch has moved meanwhile, the placements count as of the earlier epoch and are fetched
    /// again when traffic next needs them.
    async fn ask<A: ClusterApi>(&self, api: &A, from: Address) -> Fetched {
        let new_aliases = match self.known_aliases {
            Some(_) => None,
            None => match api.aliases(from).await {
                Ok(aliases) => Some(aliases),
                Err(error) => {
                    return Fetched { from, aliases: None, collections: Vec::new(), after: Err(error) };
                }
            },
        };
        let aliases = new_aliases.as_ref().or(self.known_aliases.as_deref());
        let resolve = |name: &String| aliases.and_then(|aliases| aliases.get(name)).unwrap_or(name).clone();
        let resolved: BTreeSet<String> = self.names.iter().map(resolve).collect();
        let collections = stream::iter(resolved)
            .map(|name| async move {
                let placement = api.placement(from, &name, self.epoch).await;
                (name, placement)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let after = api.cluster(from).await;
        Fetched { from, aliases: new_aliases, collections, after }
    }
}

// === impl Fetched ===

impl Fetched {
    /// Whether the node could be asked; another one may be reached.
    fn is_told(&self) -> bool {
        let is_lost = |error: &ApiError| matches!(error, ApiError::Unreachable { .. });
        !self.after.as_ref().is_err_and(is_lost)
            && self.collections.iter().all(|(_, outcome)| !outcome.as_ref().is_err_and(is_lost))
    }
}
