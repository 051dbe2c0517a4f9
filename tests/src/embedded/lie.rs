//! What a node may wrongly say of the cluster.
//!
//! A lie touches `GET /cluster` and the placement of collections, over either protocol where it has a form there. The
//! node itself goes on as it should: it knows the truth and routes by it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value, json};

use super::consensus::{Consensus, ReplicaState, State};
use super::engine::{ClusterView, LocalRow, RemoteRow};
use super::shard::lock;

/// A way in which a node misinforms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// The state of the moment, for ever: what a node says whose consensus thread lags.
    Stale,
    /// It leads a cluster of itself alone, and has exactly those shards that it does not have. `ahead` is how many log
    /// entries newer than the truth this claims to be.
    Contradiction {
        /// Zero for the same epoch as everybody else's.
        ahead: u64,
    },
    /// Text that begins like JSON and is not.
    Garbage,
    /// JSON with every name in its place, and every value of another type.
    Nonsense,
    /// So many more peers, each with a replica of some shard of every collection.
    Crowd(usize),
}

/// The lie a node tells now.
#[derive(Debug, Default)]
pub(crate) struct Lies {
    told: Mutex<Option<Told>>,
}

#[derive(Clone, Debug)]
struct Told {
    lie: Lie,
    frozen: Option<Arc<State>>,
}

/// What stands in for an answer.
pub(crate) const GARBAGE: &str = "{\"result\":{\"peer_id\":17,\"peers\":{\"17\":{\"uri\":";

// === impl Lies ===

impl Lies {
    pub(crate) fn set(&self, lie: Option<Lie>, consensus: &Consensus) {
        let told = lie.map(|lie| Told {
            lie,
            frozen: (lie == Lie::Stale).then(|| Arc::new(consensus.view(State::clone))),
        });
        *lock(&self.told) = told;
    }

    pub(crate) fn now(&self) -> Option<Lie> {
        lock(&self.told).as_ref().map(|told| told.lie)
    }

    /// The state that is spoken of: the true one, or that of an earlier moment.
    pub(crate) fn state<T>(&self, consensus: &Consensus, look: impl FnOnce(&State) -> T) -> T {
        let frozen = lock(&self.told).as_ref().and_then(|told| told.frozen.clone());
        match frozen {
            Some(state) => look(&state),
            None => consensus.view(look),
        }
    }
}

// === impl Lie ===

impl Lie {
    /// Distorts the answer to `GET /cluster`.
    pub(crate) fn about_cluster(self, mut answer: Value) -> Value {
        match self {
            Self::Stale | Self::Garbage => answer,
            Self::Nonsense => scrambled(answer),
            Self::Contradiction { ahead } => {
                let me = answer["peer_id"].clone();
                let mine = me.to_string();
                let raft = &mut answer["raft_info"];
                raft["leader"] = me;
                raft["role"] = "Leader".into();
                raft["commit"] = (raft["commit"].as_u64().unwrap_or(0) + ahead).into();
                if let Some(peers) = answer["peers"].as_object_mut() {
                    peers.retain(|peer, _| *peer == mine);
                }
                answer
            }
            Self::Crowd(count) => {
                if let Some(peers) = answer["peers"].as_object_mut() {
                    for peer in strangers(&ids(peers), count) {
                        let [.., a, b, c] = peer.to_be_bytes();
                        peers.insert(
                            peer.to_string(),
                            json!({ "uri": format!("http://10.{a}.{b}.{c}:6335/") }),
                        );
                    }
                }
                answer
            }
        }
    }

    /// Distorts what is said of a collection's placement, before it takes the form of a protocol.
    pub(crate) fn about_placement(self, view: &mut ClusterView, members: &BTreeSet<u64>) {
        match self {
            Self::Stale | Self::Garbage | Self::Nonsense => {}
            Self::Contradiction { .. } => {
                let others = members.iter().filter(|peer| **peer != view.peer_id);
                let remote = view
                    .local
                    .iter()
                    .flat_map(|row| others.clone().map(move |peer| (row, *peer)))
                    .map(|(row, peer)| RemoteRow {
                        shard: row.shard,
                        key: row.key.clone(),
                        peer,
                        state: ReplicaState::Active,
                    })
                    .collect();
                let held: BTreeSet<u32> = view.local.iter().map(|row| row.shard).collect();
                let mut local: Vec<LocalRow> = view
                    .remote
                    .iter()
                    .filter(|row| !held.contains(&row.shard))
                    .map(|row| LocalRow {
                        shard: row.shard,
                        key: row.key.clone(),
                        points: 0,
                        state: ReplicaState::Active,
                    })
                    .collect();
                local.dedup_by_key(|row| row.shard);
                view.local = local;
                view.remote = remote;
            }
            Self::Crowd(count) => {
                let local = view.local.iter().map(|row| (row.shard, row.key.clone()));
                let remote = view.remote.iter().map(|row| (row.shard, row.key.clone()));
                let shards: Vec<_> = local.chain(remote).collect();
                let rows = strangers(members, count).into_iter().zip(shards.iter().cycle());
                let rows: Vec<RemoteRow> = rows
                    .map(|(peer, (shard, key))| RemoteRow {
                        shard: *shard,
                        key: key.clone(),
                        peer,
                        state: ReplicaState::Active,
                    })
                    .collect();
                view.remote.extend(rows);
            }
        }
    }

    /// Distorts the JSON of a collection's placement.
    pub(crate) fn about_collection(self, answer: Value) -> Value {
        if self == Self::Nonsense { scrambled(answer) } else { answer }
    }
}

fn ids(peers: &Map<String, Value>) -> BTreeSet<u64> {
    peers.keys().filter_map(|peer| peer.parse().ok()).collect()
}

/// Peer ids that nobody has.
fn strangers(members: &BTreeSet<u64>, count: usize) -> Vec<u64> {
    (1..).filter(|peer| !members.contains(peer)).take(count).collect()
}

/// Every value as one of another type.
fn scrambled(value: Value) -> Value {
    match value {
        Value::Null => json!([]),
        Value::Bool(_) => json!("perhaps"),
        Value::Number(number) => json!({ "about": number.to_string() }),
        Value::String(_) => json!(-1.5),
        Value::Array(items) => {
            let items = items.into_iter().enumerate();
            Value::Object(items.map(|(at, item)| (at.to_string(), scrambled(item))).collect())
        }
        Value::Object(members) if members.is_empty() => json!(true),
        Value::Object(members) => {
            Value::Object(members.into_iter().map(|(name, member)| (name, scrambled(member))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth() -> Value {
        json!({
            "status": "enabled", "peer_id": 1, "peers": { "1": { "uri": "a" }, "2": { "uri": "b" } },
            "raft_info": { "term": 3, "commit": 9, "leader": 2, "role": "Follower", "is_voter": true },
        })
    }

    #[test]
    fn a_contradiction_is_whole_in_itself() {
        let lie = Lie::Contradiction { ahead: 5 }.about_cluster(truth());
        assert_eq!(lie["peers"], json!({ "1": { "uri": "a" } }));
        assert_eq!(lie["raft_info"]["leader"], 1);
        assert_eq!(lie["raft_info"]["commit"], 14);

        let row = |shard, peer| RemoteRow { shard, key: None, peer, state: ReplicaState::Dead };
        let mut view = ClusterView {
            peer_id: 1,
            shard_count: 2,
            local: vec![LocalRow { shard: 0, key: None, points: 4, state: ReplicaState::Active }],
            remote: vec![row(0, 2), row(1, 2), row(1, 3)],
            transfers: Vec::new(),
            resharding: None,
        };
        Lie::Contradiction { ahead: 0 }.about_placement(&mut view, &BTreeSet::from([1, 2, 3]));
        assert_eq!(view.local.iter().map(|row| row.shard).collect::<Vec<_>>(), [1]);
        let remote: Vec<_> = view.remote.iter().map(|row| (row.shard, row.peer)).collect();
        assert_eq!(remote, [(0, 2), (0, 3)]);
    }

    #[test]
    fn a_crowd_has_ids_and_addresses_of_its_own() {
        let lie = Lie::Crowd(10_000).about_cluster(truth());
        let peers = lie["peers"].as_object().expect("peers");
        assert_eq!(peers.len(), 10_002);
        assert_eq!((&peers["2"]["uri"], &peers["3"]["uri"]), (&json!("b"), &json!("http://10.0.0.3:6335/")));
    }

    #[test]
    fn nonsense_keeps_the_names() {
        let lie = Lie::Nonsense.about_cluster(truth());
        assert_eq!(lie["peer_id"], json!({ "about": "1" }));
        assert_eq!(lie["raft_info"]["is_voter"], "perhaps");
        assert_eq!(lie["status"], -1.5);
        serde_json::from_str::<Value>(GARBAGE).expect_err("garbage");
    }
}
