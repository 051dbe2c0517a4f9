//! What a node does with a request, whichever protocol it came in by.
//!
//! The node that receives a request coordinates it: it splits writes by shard and replicates them, or hands them to the
//! leader; it scatters reads and merges the answers. Every step that would be an RPC in Qdrant is an RPC here, and nothing
//! else is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering as Atomic};
use std::time::{Instant, SystemTime};

mod admin;
mod fusion;
mod read;
mod snapshots;
mod split;
mod view;
mod write;

pub(crate) use self::admin::{ClusterChange, CollectionPatch, NewShardKey};
pub(crate) use self::snapshots::{Priority, Scope, no_shard};
pub(crate) use self::view::{ClusterView, LocalRow, RemoteRow};

use super::affinity::Affinity;
use super::auth::Keys;
use super::consensus::{Consensus, ReplicaState};
use super::error::{OpError, OpResult};
use super::fault::FaultWatch;
use super::life::Life;
use super::misconduct::Misconduct;
use super::peer_rpc::{Ask, Call, PeerClient, Told};
use super::shard::Storage;
use super::telemetry::Telemetry;
use super::version::Version;

/// What an engine is made of.
#[derive(Debug)]
pub(crate) struct EngineParts {
    pub(crate) peer_id: u64,
    pub(crate) cluster_enabled: bool,
    pub(crate) keys: Keys,
    pub(crate) consensus: Arc<Consensus>,
    pub(crate) storage: Arc<Storage>,
    pub(crate) fault: FaultWatch,
    pub(crate) misconduct: Arc<Misconduct>,
    pub(crate) version: Version,
    pub(crate) life: Life,
}

/// One run of a node.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) peer_id: u64,
    pub(crate) cluster_enabled: bool,
    pub(crate) keys: Keys,
    pub(crate) consensus: Arc<Consensus>,
    pub(crate) storage: Arc<Storage>,
    pub(crate) fault: FaultWatch,
    pub(crate) misconduct: Arc<Misconduct>,
    pub(crate) version: Version,
    pub(crate) telemetry: Telemetry,
    pub(crate) started: (Instant, SystemTime),
    /// Set once the node has been ready.
    pub(crate) ready: AtomicBool,
    life: Life,
    peers: PeerClient,
    /// Writes that are being applied or replicated.
    pending: AtomicUsize,
    dice: AtomicU64,
}

/// Counts a write as pending while it lives.
struct Pending<'a>(&'a AtomicUsize);

// === impl Engine ===

impl Engine {
    pub(crate) fn new(parts: EngineParts) -> Arc<Self> {
        let EngineParts {
            peer_id,
            cluster_enabled,
            keys,
            consensus,
            storage,
            fault,
            misconduct,
            version,
            life,
        } = parts;
        Arc::new(Self {
            peer_id,
            cluster_enabled,
            keys,
            consensus,
            storage,
            telemetry: Telemetry::default(),
            started: (Instant::now(), SystemTime::now()),
            peers: PeerClient::new(life.clone(), fault.clone()),
            fault,
            misconduct,
            version,
            life,
            ready: AtomicBool::new(false),
            pending: AtomicUsize::new(0),
            dice: AtomicU64::new(peer_id),
        })
    }

    /// No write under way, every replica here active, no transfer from or to here.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_healthy() && self.pending.load(Atomic::SeqCst) == 0
    }

    /// Every replica here active, no transfer from or to here.
    pub(crate) fn is_healthy(&self) -> bool {
        self.consensus.view(|state| {
            state.collections.values().all(|meta| {
                let mut mine = meta.shards.values().filter_map(|shard| shard.replicas.get(&self.peer_id));
                mine.all(|state| *state == ReplicaState::Active)
                    && !meta
                        .transfers
                        .iter()
                        .any(|transfer| [transfer.from, transfer.to].contains(&self.peer_id))
            })
        })
    }

    /// Answers a call of another node.
    pub(crate) async fn serve_peer(self: &Arc<Self>, call: Call) -> OpResult<Told> {
        let meta = self.consensus.collection(&call.collection)?;
        let holds =
            meta.shards.get(&call.shard).is_some_and(|shard| shard.replicas.contains_key(&self.peer_id));
        match call.ask {
            Ask::Lead { update, wait, ordering, forgive_missing } => self
                .lead(call.collection, call.shard, update, wait, ordering, forgive_missing)
                .await
                .map(Told::Updated),
            _ if !holds => Err(OpError::service(format!("Local shard {} not found", call.shard))),
            Ask::Apply { update, wait, forgive_missing } => {
                let _pending = self.pend();
                self.apply_local(&meta, call.shard, &update, wait, forgive_missing).map(Told::Updated)
            }
            Ask::Read(read) => {
                self.storage.shard(meta.uid, call.shard).read(&meta.schema, &read).map(Told::Answer)
            }
        }
    }

    /// The token of a read, where this version knows such a thing.
    pub(crate) fn affinity(&self, token: Option<&[u8]>) -> Option<Affinity> {
        token.filter(|_| self.version.has_affinity()).and_then(Affinity::from_token)
    }

    /// Calls the node that has `peer` as its id.
    async fn call_peer(&self, peer: u64, call: &Call) -> OpResult<Told> {
        let address = self.consensus.view(|state| state.peers.get(&peer).map(|peer| peer.address));
        let address =
            address.ok_or_else(|| OpError::service(format!("Address of peer ID {peer} is not known")))?;
        self.peers.call(address, call).await
    }

    fn pend(&self) -> Pending<'_> {
        self.pending.fetch_add(1, Atomic::SeqCst);
        Pending(&self.pending)
    }

    /// Shuffles candidates; Qdrant asks remote replicas in random order.
    fn shuffle(&self, items: &mut [u64]) {
        for last in (1..items.len()).rev() {
            let roll = self.dice.fetch_add(0x9e37_79b9_7f4a_7c15, Atomic::Relaxed);
            let mut mixed = (roll ^ (roll >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            items.swap(last, (mixed >> 33) as usize % (last + 1));
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Atomic::SeqCst);
    }
}
