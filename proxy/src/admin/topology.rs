//! `GET /topology`

use std::{collections::BTreeMap, net::IpAddr};

use qdrant_router::{
    Router,
    route::Conditions,
    topology::{Address, Epoch, PeerId, ShardId},
};
use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde::Serialize;

/// The router's view of the cluster: the answer to `GET /topology`, and what `qdrant-router topology --output json`
/// prints.
#[derive(Debug, JsonSchema, Serialize)]
#[schemars(title = "The topology as qdrant-router tells it")]
pub(crate) struct TopologyDocument {
    /// The age of the view; `null` before any node has told one.
    epoch: Option<EpochDocument>,
    /// The peer that leads consensus; `null` where nobody is known to.
    consensus_leader: Option<PeerId>,
    /// The nodes that are known, by peer id; those that do not say who they are come first.
    nodes: Vec<NodeDocument>,
    /// Addresses of the ClusterIP Service.
    fallback: Vec<AddressDocument>,
    /// Collections that traffic has asked for so far, by name.
    collections: BTreeMap<String, CollectionDocument>,
    /// The collection that each alias means.
    aliases: BTreeMap<String, String>,
    /// What stands in the way of a full view.
    problems: Vec<String>,
}

/// The age of a view: a later one is greater, by the term first.
#[derive(Debug, JsonSchema, Serialize)]
#[schemars(rename = "Epoch")]
struct EpochDocument {
    /// The term of Raft.
    term: u64,
    /// The index of the last entry that is committed.
    commit: u64,
}

/// Where a node is dialled.
#[derive(Debug, JsonSchema, Serialize)]
#[schemars(rename = "Address")]
struct AddressDocument {
    /// Its IP address.
    ip: IpAddr,
    /// Its port for REST.
    rest_port: u16,
    /// Its port for gRPC.
    grpc_port: u16,
}

/// A node.
#[derive(Debug, JsonSchema, Serialize)]
#[schemars(rename = "Node")]
struct NodeDocument {
    /// `null` where the address does not say who it is.
    peer_id: Option<PeerId>,
    /// The pod's name where it is known, else the address.
    name: String,
    /// Qdrant's version; `null` until the node has told it.
    version: Option<String>,
    #[serde(flatten)]
    address: AddressDocument,
    /// Whether it answered when it was last asked.
    reachable: bool,
    /// Whether requests are sent to it.
    usable: bool,
    /// Requests sent to it and not yet answered in full.
    in_flight: usize,
}

/// A collection.
#[derive(Debug, JsonSchema, Serialize)]
#[schemars(rename = "Collection")]
struct CollectionDocument {
    /// The age of what is known of it.
    epoch: EpochDocument,
    /// Whether it is being resharded.
    resharding: bool,
    /// Replicas under way from one node to another.
    transfers: usize,
    /// Its shards.
    shards: Vec<ShardDocument>,
}

/// A shard.
#[derive(Debug, JsonSchema, Serialize)]
#[schemars(rename = "Shard")]
struct ShardDocument {
    /// Its number.
    id: ShardId,
    /// Its shard key, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// Its replicas.
    replicas: Vec<ReplicaDocument>,
}

/// A replica of a shard.
#[derive(Debug, JsonSchema, Serialize)]
#[schemars(rename = "Replica")]
struct ReplicaDocument {
    /// The node that holds it.
    peer_id: PeerId,
    /// Its state by Qdrant's own name, such as `Active`, `Partial` or `Dead`.
    state: &'static str,
}

// === impl TopologyDocument ===

impl TopologyDocument {
    /// The schema of the document, `docs/topology.schema.json`.
    pub(crate) fn schema() -> Schema {
        let settings = SchemaSettings::draft2020_12().for_serialize();
        settings.into_generator().into_root_schema_for::<Self>()
    }

    pub(crate) fn of(router: &Router) -> Self {
        let snapshot = router.topology().snapshot();
        let nodes = snapshot.nodes().iter().map(|node| NodeDocument {
            peer_id: node.peer,
            name: node.label(),
            version: node.version.map(|version| version.to_string()),
            address: node.address.into(),
            reachable: node.reachable,
            usable: node.reachable && router.balance().is_usable(node.address),
            in_flight: router.balance().in_flight(node.address),
        });
        let collections = snapshot.collections().map(|(name, collection)| {
            let shards = collection.shards().iter().map(|shard| ShardDocument {
                id: shard.id,
                key: shard.key.as_ref().map(ToString::to_string),
                replicas: shard
                    .replicas
                    .iter()
                    .map(|replica| ReplicaDocument { peer_id: replica.peer, state: replica.state.as_str() })
                    .collect(),
            });
            let document = CollectionDocument {
                epoch: collection.epoch.into(),
                resharding: collection.resharding.is_some(),
                transfers: collection.transfers,
                shards: shards.collect(),
            };
            (name.to_owned(), document)
        });
        Self {
            epoch: snapshot.epoch().map(EpochDocument::from),
            consensus_leader: snapshot.consensus_leader(),
            nodes: nodes.collect(),
            fallback: snapshot.fallback().iter().copied().map(AddressDocument::from).collect(),
            collections: collections.collect(),
            aliases: snapshot.aliases().clone().into_iter().collect(),
            problems: router.topology().problems().iter().map(ToString::to_string).collect(),
        }
    }
}

// === impl EpochDocument, AddressDocument ===

impl From<Epoch> for EpochDocument {
    fn from(Epoch { term, commit }: Epoch) -> Self {
        Self { term, commit }
    }
}

impl From<Address> for AddressDocument {
    fn from(Address { ip, rest_port, grpc_port }: Address) -> Self {
        Self { ip, rest_port, grpc_port }
    }
}
