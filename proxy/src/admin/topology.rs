//! `GET /topology`

use std::collections::BTreeMap;

use qdrant_router::{
    Router,
    route::Conditions,
    topology::{Address, Epoch, PeerId, ShardId},
};
use serde::Serialize;

/// The router's view of the cluster.
#[derive(Debug, Serialize)]
pub(crate) struct TopologyDocument {
    /// The age of the view; `null` before any node has told one.
    epoch: Option<Epoch>,
    consensus_leader: Option<PeerId>,
    nodes: Vec<NodeDocument>,
    /// Addresses of the ClusterIP Service.
    fallback: Vec<Address>,
    /// Collections that traffic has asked for so far.
    collections: BTreeMap<String, CollectionDocument>,
    /// Alias to collection.
    aliases: BTreeMap<String, String>,
    /// What stands in the way of a full view.
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct NodeDocument {
    /// `null` where the address does not say who it is.
    peer_id: Option<PeerId>,
    name: String,
    /// `null` until the node has told it.
    version: Option<String>,
    #[serde(flatten)]
    address: Address,
    /// Whether it answered when it was last asked.
    reachable: bool,
    /// Whether requests are sent to it.
    usable: bool,
    in_flight: usize,
}

#[derive(Debug, Serialize)]
struct CollectionDocument {
    epoch: Epoch,
    resharding: bool,
    transfers: usize,
    shards: Vec<ShardDocument>,
}

#[derive(Debug, Serialize)]
struct ShardDocument {
    id: ShardId,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    replicas: Vec<ReplicaDocument>,
}

#[derive(Debug, Serialize)]
struct ReplicaDocument {
    peer_id: PeerId,
    state: &'static str,
}

// === impl TopologyDocument ===

impl TopologyDocument {
    pub(crate) fn of(router: &Router) -> Self {
        let snapshot = router.topology().snapshot();
        let nodes = snapshot.nodes().iter().map(|node| NodeDocument {
            peer_id: node.peer,
            name: node.label(),
            version: node.version.map(|version| version.to_string()),
            address: node.address,
            reachable: node.reachable,
            usable: node.reachable && router.balance().is_usable(node.address),
            in_flight: router.balance().in_flight(node.address),
        });
        let collections = snapshot.collections().map(|(name, collection)| {
            let shards = collection.shards.iter().map(|shard| ShardDocument {
                id: shard.id,
                key: shard.key.as_ref().map(ToString::to_string),
                replicas: shard
                    .replicas
                    .iter()
                    .map(|replica| ReplicaDocument { peer_id: replica.peer, state: replica.state.as_str() })
                    .collect(),
            });
            let document = CollectionDocument {
                epoch: collection.epoch,
                resharding: collection.resharding.is_some(),
                transfers: collection.transfers,
                shards: shards.collect(),
            };
            (name.to_owned(), document)
        });
        Self {
            epoch: snapshot.epoch(),
            consensus_leader: snapshot.consensus_leader(),
            nodes: nodes.collect(),
            fallback: snapshot.fallback().to_vec(),
            collections: collections.collect(),
            aliases: snapshot.aliases().clone().into_iter().collect(),
            problems: router.topology().problems().iter().map(ToString::to_string).collect(),
        }
    }
}
