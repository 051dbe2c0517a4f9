//! The immutable snapshot that requests read.

use std::{collections::HashMap, sync::Arc};

use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::{Address, Collection, Epoch, Hashing, PeerId, Version};

/// A node that requests may be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where it is dialled.
    pub address: Address,
    /// What the address itself reported; `None` while the router may not read it
    /// (no credential for `GET /cluster`) and for a server without cluster mode.
    pub peer: Option<PeerId>,
    /// The first label of the host in its peer URI, which on Kubernetes is the pod's name.
    pub name: Option<String>,
    /// The version of its server, once it has told it.
    pub version: Option<Version>,
    /// Whether it answered when it was last asked.
    pub reachable: bool,
}

/// What is known of a collection name.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// Its placement, from this or an earlier epoch.
    Found(Arc<Collection>),
    /// At this epoch no such collection existed.
    Absent(Epoch),
}

/// The same, with the name that was asked for.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) name: Arc<str>,
    pub(crate) lookup: Lookup,
}

/// One view of the cluster. Never changes; a newer view is another snapshot.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    pub(super) epoch: Option<Epoch>,
    pub(super) consensus_leader: Option<PeerId>,
    pub(super) nodes: Arc<[Node]>,
    pub(super) fallback: Arc<[Address]>,
    pub(super) aliases: Arc<HashMap<String, String>>,
    /// Names that clients made up are in it, too, but never so many that their hashes could matter.
    pub(super) collections: Arc<FxHashMap<Arc<str>, Lookup>>,
    pub(super) applied: Applied,
    pub(super) hashing: Hashing,
}

/// A change of metadata that one node has answered and that consensus brings to the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Counts the changes that went through this router.
    pub(super) number: u64,
    /// The node that answered it, and so has applied it.
    pub(super) by: Option<Address>,
    /// When it was answered.
    pub(super) at: Option<Instant>,
    /// What it changed; `None` for more than one collection.
    pub(super) collection: Option<String>,
}

/// Who is known to have applied a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Applied {
    /// The number of the change.
    pub(super) change: u64,
    /// `None` for everybody.
    pub(super) by: Option<Vec<Address>>,
}

// === impl Node ===

impl Node {
    /// The name for logs, headers and `/topology`: the pod's, else the address.
    #[must_use]
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.address.ip.to_string())
    }
}

// === impl Change ===

impl Change {
    /// Whether a request for `collection`, or for no collection in particular, could notice it.
    #[must_use]
    pub fn concerns(&self, collection: Option<&str>, topology: &Topology) -> bool {
        if topology.applied.covers(self) {
            return false;
        }
        match (&self.collection, collection) {
            (Some(changed), Some(named)) => topology.resolve(changed) == topology.resolve(named),
            (None, _) | (_, None) => true,
        }
    }

    /// Whether the node at `address` is known to have applied it.
    #[must_use]
    pub fn is_applied_by(&self, address: Address, topology: &Topology) -> bool {
        let applied = &topology.applied;
        let is_known =
            applied.change >= self.number && applied.by.as_ref().is_none_or(|by| by.contains(&address));
        self.by == Some(address) || is_known
    }
}

// === impl Applied ===

impl Applied {
    /// Whether everybody has applied `change`.
    pub(super) fn covers(&self, change: &Change) -> bool {
        self.change >= change.number && self.by.is_none()
    }
}

// === impl Topology ===

impl Topology {
    /// The epoch of this view; `None` before any node has told one.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// The peer that leads consensus, where known.
    #[must_use]
    pub fn consensus_leader(&self) -> Option<PeerId> {
        self.consensus_leader
    }

    /// The nodes, by peer id.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node that is this peer.
    #[must_use]
    pub fn node(&self, peer: PeerId) -> Option<&Node> {
        let at = self.nodes.binary_search_by_key(&Some(peer), |node| node.peer).ok()?;
        self.nodes.get(at)
    }

    /// The addresses of the ClusterIP Service, for when no node can be used.
    #[must_use]
    pub fn fallback(&self) -> &[Address] {
        &self.fallback
    }

    /// How the nodes hash the ids of points.
    #[must_use]
    pub fn hashing(&self) -> Hashing {
        self.hashing
    }

    /// Whether all nodes that answer are of this version or a later one.
    #[must_use]
    pub fn is_at_least(&self, version: Version) -> bool {
        let mut live = self.nodes.iter().filter(|node| node.reachable).peekable();
        live.peek().is_some() && live.all(|node| node.version >= Some(version))
    }

    /// The collection that `name` means: aliases come first, as on Qdrant.
    #[must_use]
    pub fn resolve<'a>(&'a self, name: &'a str) -> &'a str {
        self.aliases.get(name).map_or(name, String::as_str)
    }

    /// What is known of the collection or alias `name`; `None` until somebody has asked for it.
    #[must_use]
    pub fn collection(&self, name: &str) -> Option<&Lookup> {
        self.collections.get(self.resolve(name))
    }

    /// The same, to be kept.
    #[inline]
    pub(crate) fn known(&self, name: &str) -> Option<Known> {
        let resolved = self.resolve(name);
        let (collection, lookup) = self.collections.get_key_value(resolved)?;
        // It is asked for by its own name, or by an alias.
        let name = if std::ptr::eq(resolved, name) { collection.clone() } else { name.into() };
        Some(Known { name, lookup: lookup.clone() })
    }

    /// `name` to be kept: shared where a collection of this name is known.
    pub(crate) fn keep(&self, name: &str) -> Arc<str> {
        self.collections.get_key_value(name).map_or_else(|| name.into(), |(name, _)| name.clone())
    }

    /// The collections whose placement is known, by name.
    pub fn collections(&self) -> impl Iterator<Item = (&str, &Arc<Collection>)> {
        self.collections.iter().filter_map(|(name, lookup)| match lookup {
            Lookup::Found(collection) => Some((&**name, collection)),
            Lookup::Absent(_) => None,
        })
    }

    /// Whether it tells the same as `other`, of which it was made.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let rest = |topology: &Self| (topology.epoch, topology.consensus_leader, topology.hashing);
        rest(self) == rest(other)
            && self.applied == other.applied
            && self.nodes == other.nodes
            && self.fallback == other.fallback
            && Arc::ptr_eq(&self.aliases, &other.aliases)
            && Arc::ptr_eq(&self.collections, &other.collections)
    }

    /// The aliases and the collections that they mean.
    #[must_use]
    pub fn aliases(&self) -> &HashMap<String, String> {
        &self.aliases
    }
}

/// For tests of what reads a topology: assembled by hand, without a worker.
#[cfg(test)]
impl Topology {
    pub(crate) fn of_nodes(nodes: impl IntoIterator<Item = (PeerId, Address)>) -> Self {
        let mut nodes: Vec<Node> = nodes
            .into_iter()
            .map(|(peer, address)| Node {
                address,
                peer: Some(peer),
                name: None,
                version: None,
                reachable: true,
            })
            .collect();
        nodes.sort_by_key(|node| node.peer);
        Self { epoch: Some(Epoch { term: 1, commit: 1 }), nodes: nodes.into(), ..Self::default() }
    }

    pub(crate) fn with_leader(mut self, peer: PeerId) -> Self {
        self.consensus_leader = Some(peer);
        self
    }

    pub(crate) fn with_fallback(mut self, address: Address) -> Self {
        self.fallback = Arc::new([address]);
        self
    }
}
