//! What happened lately: nodes that come, go and move, leaders and replicas that change, and why.
//!
//! One task looks at the cluster whenever the topology changes, and once per second at who has been
//! taken out. What differs between two looks makes [`Event`]s; the newest of them are kept.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tokio::time::MissedTickBehavior;

mod changes;
mod view;

use crate::lifecycle::Proxy;

use self::{changes::changes, view::View};

/// Events that are kept.
const KEPT: usize = 256;

/// Looks at who has been taken out, which no snapshot tells.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The pause between two looks. What changes back within it is nothing to tell.
const LOOK_GAP: Duration = Duration::from_millis(100);

/// The newest events, and what is needed to find the next.
#[derive(Debug, Default)]
pub struct Journal {
    entries: Mutex<Entries>,
    /// Counts the topologies that were seen.
    revision: AtomicU64,
}

#[derive(Debug, Default)]
struct Entries {
    written: u64,
    newest: VecDeque<Entry>,
}

/// An event in its place.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Entry {
    /// Rises by one with each event.
    id: u64,
    /// Milliseconds since 1970.
    at: u64,
    #[serde(flatten)]
    event: Event,
}

/// Something that happened to the cluster or to the router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// What kind of thing.
    pub kind: EventKind,
    /// The node or the collection that it happened to.
    pub subject: String,
    /// What happened.
    pub text: String,
    /// Why, as far as it is known.
    pub cause: String,
}

/// The kinds of events, a closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A node has been found.
    NodeJoined,
    /// A node is no longer one of the cluster's.
    NodeLeft,
    /// A node does not answer.
    NodeUnreachable,
    /// A node is taken out because no connection could be made.
    NodeEjected,
    /// A node can be used again.
    NodeBack,
    /// A node has another address.
    NodeMoved,
    /// A node runs another version.
    NodeVersion,
    /// Another peer leads consensus.
    ConsensusLeader,
    /// Another peer leads the writes to shards.
    ShardLeader,
    /// Replicas have another state.
    ReplicaState,
    /// Replicas came to a node or left one.
    ReplicasMoved,
    /// A collection is being resharded, or no longer is.
    Resharding,
    /// A new configuration is in use.
    Reloaded,
    /// A new configuration cannot work, or does not reach the cluster; the old one stays.
    ReloadFailed,
}

// === impl Journal ===

impl Journal {
    /// Writes an event down, with the time.
    pub fn note(&self, event: Event) {
        tracing::debug!(kind = ?event.kind, subject = event.subject, cause = event.cause, "{}", event.text);
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        let mut entries = self.entries();
        entries.written += 1;
        let entry = Entry { id: entries.written, at, event };
        if entries.newest.len() == KEPT {
            entries.newest.pop_front();
        }
        entries.newest.push_back(entry);
    }

    /// The events that are kept, the newest first.
    pub(crate) fn recent(&self) -> Vec<Entry> {
        self.entries().newest.iter().rev().cloned().collect()
    }

    /// How many events were ever written.
    pub(crate) fn written(&self) -> u64 {
        self.entries().written
    }

    /// Changes whenever the topology does.
    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    /// Watches the cluster until the task is dropped.
    pub(crate) async fn follow(&self, proxy: &Proxy) {
        let mut router = proxy.router();
        let mut topology = router.topology().clone();
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = View::default();
        loop {
            tokio::select! {
                () = topology.changed() => {
                    self.revision.fetch_add(1, Ordering::Relaxed);
                }
                _ = ticks.tick() => {}
            }
            // A new configuration brings a new router.
            let current = proxy.router();
            if !current.is_same(&router) {
                router = current;
                topology = router.topology().clone();
            }
            let view = View::of(&router, &last);
            changes(&last, &view).into_iter().for_each(|event| self.note(event));
            last = view;
            tokio::time::sleep(LOOK_GAP).await;
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_events_are_kept_and_numbered() {
        let journal = Journal::default();
        for number in 0..KEPT + 10 {
            journal.note(Event {
                kind: EventKind::Reloaded,
                subject: format!("<script>alert({number})</script>"),
                text: "\"quoted\"".to_owned(),
                cause: "'".to_owned(),
            });
        }
        let recent = journal.recent();
        assert_eq!(recent.len(), KEPT);
        assert_eq!(recent[0].id, journal.written());
        assert_eq!(recent[KEPT - 1].id, 11);
        let json = serde_json::to_value(&recent[0]).expect("JSON");
        assert_eq!(json["kind"], "reloaded");
        assert_eq!(json["subject"], "<script>alert(265)</script>", "what is told stays as it was");
    }
}
