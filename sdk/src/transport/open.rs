//! How many connections are open to each node.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use dashmap::DashMap;
use rustc_hash::FxBuildHasher;

use crate::topology::Address;

/// Open connections to one node, of all threads of a router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connections {
    /// For REST (HTTP/1.1): those in use and those kept for the next request.
    pub rest: usize,
    /// For gRPC (HTTP/2).
    pub grpc: usize,
}

/// The counts of all nodes, which transports share that stand for one router.
#[derive(Debug, Default)]
pub(super) struct Census(DashMap<Address, Arc<Counts>, FxBuildHasher>);

/// The counts of one node.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) rest: Count,
    pub(super) grpc: Count,
}

/// Counts what is open.
#[derive(Clone, Debug, Default)]
pub(super) struct Count(Arc<AtomicUsize>);

/// Counts as an open connection until it is dropped.
#[derive(Debug)]
pub(super) struct Open(Arc<AtomicUsize>);

// === impl Census ===

impl Census {
    /// The counts of the node at `address`.
    pub(super) fn of(&self, address: Address) -> Arc<Counts> {
        self.0.entry(address).or_default().clone()
    }

    pub(super) fn read(&self, address: Address) -> Connections {
        self.0.get(&address).map_or_else(Connections::default, |counts| Connections {
            rest: counts.rest.read(),
            grpc: counts.grpc.read(),
        })
    }

    /// Forgets the nodes of which nobody keeps the counts any more.
    pub(super) fn prune(&self) {
        self.0.retain(|_, counts| Arc::strong_count(counts) > 1);
    }
}

// === impl Count ===

impl Count {
    pub(super) fn open(&self) -> Open {
        self.0.fetch_add(1, Ordering::Relaxed);
        Open(self.0.clone())
    }

    fn read(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Open ===

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
