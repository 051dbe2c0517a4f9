//! What a request asks for, as far as its target depends on it.
//!
//! Understanding has two steps. The path (with the query, for REST) makes a [`Call`]: its operation
//! and, for REST, its collection. Where the operation is one on points and the collection's placement
//! leaves a choice, the body is peeked at and an [`Intent`] made: which shard keys, which points,
//! which ordering. Nothing is looked for that cannot change the decision, vectors and payloads are
//! never decoded, and a body that is not understood is forwarded as it is.

use std::borrow::Cow;

use http::{Method, Uri};
use smallvec::SmallVec;

use crate::topology::{Collection, PeerId, PointId, ShardId, ShardKey, WriteOrdering};

mod affinity;
mod body;
mod encoding;
#[cfg(fuzzing)]
pub mod fuzzing;
pub(crate) mod grpc;
mod json;
mod listing;
mod protobuf;
pub(crate) mod rest;
mod retrieve;
mod split;

pub use self::{affinity::Affinity, body::BoxError, grpc::json::MessageError};
pub(crate) use self::{
    body::{Body, Collected, collect},
    encoding::Compressed,
    grpc::frame,
    retrieve::{retrieve, row_id},
    split::Pieces,
};

/// The protocol of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP with JSON.
    Rest,
    /// gRPC.
    Grpc,
}

/// What an operation works on, and so who may serve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Reads points; any node answers, a holder of all shards asked for without an internal RPC.
    Read,
    /// Writes points; any node takes it, a holder or the leader with the fewest internal RPCs.
    Write,
    /// Changes collections, aliases, shard keys or peers through consensus; the leader saves a hop.
    Consensus,
    /// Answered by any node from what it knows itself.
    Anywhere,
    /// Works on the node that receives it (snapshots, telemetry, logs); spreading it gives wrong
    /// answers, so it goes to the same node each time.
    NodeLocal,
    /// Lists the snapshots that a node keeps; asked of all nodes, their lists make one.
    SnapshotList,
    /// Makes a snapshot of what a node holds; on all nodes where the client asks for that.
    SnapshotCreate,
    /// No route of Qdrant that is known here.
    Unknown,
}

/// What repeating a request would do if its first sending had been processed after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Repeat {
    /// Nothing: it changes nothing.
    Safe,
    /// The same effect again; in between, other writers may have had theirs.
    Idempotent,
    /// As [`Idempotent`](Self::Idempotent) where each of its operations names its points, and has no condition. One with a
    /// filter finds others after those behind it in the batch have had their effect.
    Batch,
    /// Nothing, or an error that says that it is done already: the first answer is lost.
    Verify,
    /// Something else again, such as another file.
    Never,
}

/// What the path alone says of a request.
#[derive(Clone, Debug)]
pub struct Call {
    /// The protocol.
    pub protocol: Protocol,
    /// What it works on.
    pub class: Class,
    /// What repeating it would do.
    pub repeat: Repeat,
    /// Its route: a path with placeholders (REST), or the full name of an RPC; `unknown` where it has none.
    pub operation: &'static str,
    /// The collection, where the path names it (REST).
    collection: Option<String>,
    /// The shard, where the path names one (REST).
    shard: Option<ShardId>,
    /// The point, where the path names one (REST).
    pub(crate) point: Option<PointId>,
    /// The snapshot, where the path names one (REST).
    file: Option<String>,
    /// The peer that is to be removed (REST).
    pub(crate) peer: Option<PeerId>,
    /// Where in the body the rest sits.
    layout: Layout,
    /// The `ordering` of the query (REST).
    ordering: WriteOrdering,
}

#[derive(Clone, Copy, Debug)]
enum Layout {
    Rest(json::Layout),
    Grpc(&'static grpc::Method),
    Nothing,
}

/// How deep the body must be looked into, which the collection's placement tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Whether shard keys matter.
    pub keys: bool,
    /// Whether point ids matter.
    pub ids: bool,
}

/// What an operation on points asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Whether it reads or writes.
    pub action: Action,
    /// The parts of the collection that it touches; several for batches.
    pub scopes: SmallVec<[Scope; 1]>,
    /// The replicas that a read is to prefer, where the servers know of that.
    pub affinity: Option<Affinity>,
}

// An intent is moved several times on its way, which is cheap up to this size.
const _: () = assert!(size_of::<Intent>() <= 128);

/// Whether an operation reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It reads.
    Read,
    /// It writes with this ordering.
    Write(WriteOrdering),
}

/// A part of a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The shard keys selected.
    pub keys: Keys,
    /// The points selected among those.
    pub points: Points,
    /// Whether it depends on each of the points what becomes of it: `update_filter` and `update_mode` (Qdrant 1.16 and 1.17).
    pub is_conditional: bool,
}

/// A selection of shard keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// None given.
    Unspecified,
    /// These keys.
    Any(Vec<ShardKey>),
    /// `target` where it is ready, else `fallback` (Qdrant 1.16 and later). In boxes, as few requests have them.
    WithFallback {
        /// The key that is meant.
        target: Box<ShardKey>,
        /// The key that serves until `target` does.
        fallback: Box<ShardKey>,
    },
}

/// A selection of points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Points {
    /// By a filter, by more ids than are listed (65,536), or without looking at ids: every shard may be touched.
    All,
    /// By id.
    Ids(SmallVec<[PointId; 1]>),
    /// By id, where it has been found out already which shards own them.
    Owned {
        /// These shards, ascending, each once.
        by: SmallVec<[ShardId; 4]>,
        /// How many ids there are.
        ids: usize,
    },
}

/// A body does not have the shape that its path asks for. Qdrant will say what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUnderstood;

// === impl Depth ===

impl Depth {
    /// Everything that there is to see.
    pub(crate) const FULL: Self = Self { keys: true, ids: true };
}

// === impl Protocol ===

impl Protocol {
    /// The protocol of a request with these headers: gRPC is told by its content type.
    #[must_use]
    pub fn of(headers: &http::HeaderMap) -> Self {
        let is_grpc = headers
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        if is_grpc { Self::Grpc } else { Self::Rest }
    }

    /// The name for metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Grpc => "grpc",
        }
    }
}

// === impl Class ===

impl Class {
    /// The name for metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Consensus => "consensus",
            Self::Anywhere => "anywhere",
            Self::NodeLocal => "node_local",
            Self::SnapshotList => "snapshot_list",
            Self::SnapshotCreate => "snapshot_create",
            Self::Unknown => "unknown",
        }
    }
}

// === impl Call ===

impl Call {
    /// What `method` and `uri` say. Anything odd is [`Class::Unknown`], never an error.
    #[must_use]
    pub fn of(protocol: Protocol, method: &Method, uri: &Uri) -> Self {
        match protocol {
            Protocol::Rest => rest::call(method, uri),
            Protocol::Grpc => grpc::call(uri.path()),
        }
    }

    fn unknown(protocol: Protocol) -> Self {
        Self {
            protocol,
            class: Class::Unknown,
            repeat: Repeat::Never,
            operation: "unknown",
            collection: None,
            shard: None,
            point: None,
            file: None,
            peer: None,
            layout: Layout::Nothing,
            ordering: WriteOrdering::Weak,
        }
    }

    /// Whether the body names the collection, or may narrow the shards of it.
    #[must_use]
    pub fn is_on_points(&self) -> bool {
        matches!(self.class, Class::Read | Class::Write)
    }

    /// The collection that the request names; for gRPC it is in the body.
    #[must_use]
    pub fn collection<'a>(&'a self, body: &'a [u8]) -> Option<&'a str> {
        match self.layout {
            Layout::Grpc(method) => grpc::collection(method, body),
            Layout::Rest(_) | Layout::Nothing => self.collection.as_deref(),
        }
    }

    /// Whether it reads points: Qdrant heeds no [`Affinity`] where it tells what a collection is like.
    pub(crate) fn reads_points(&self) -> bool {
        self.class == Class::Read
            && match self.layout {
                Layout::Rest(layout) => layout != json::Layout::Nothing || self.point.is_some(),
                Layout::Grpc(method) => method.reads_points(),
                Layout::Nothing => false,
            }
    }

    /// Whether the body is a message that names the collection.
    pub(crate) fn is_told_by_message(&self) -> bool {
        matches!(self.layout, Layout::Grpc(_))
    }

    /// The shard that a node-local request works on.
    #[must_use]
    pub fn shard(&self, body: &[u8]) -> Option<ShardId> {
        match self.layout {
            Layout::Grpc(method) => grpc::shard(method, body),
            Layout::Rest(_) | Layout::Nothing => self.shard,
        }
    }

    /// The name of the snapshot that the request works on.
    #[must_use]
    pub fn file<'a>(&'a self, body: &'a [u8]) -> Option<Cow<'a, str>> {
        match self.layout {
            Layout::Grpc(method) => grpc::file(method, body).map(Cow::Borrowed),
            Layout::Rest(json::Layout::Location) => json::file(body).map(Cow::Owned),
            Layout::Rest(_) | Layout::Nothing => self.file.as_deref().map(Cow::Borrowed),
        }
    }

    /// Whether the body is short and tells which node is meant.
    pub(crate) fn is_told_by_body(&self) -> bool {
        match self.layout {
            Layout::Grpc(_) => true,
            Layout::Rest(layout) => layout == json::Layout::Location,
            Layout::Nothing => false,
        }
    }

    /// What the request asks for, looked at no deeper than `depth`.
    ///
    /// # Errors
    ///
    /// [`NotUnderstood`] where the body is not what the path asks for.
    pub fn intent(&self, body: &[u8], depth: Depth) -> Result<Intent, NotUnderstood> {
        let action = |ordering| match self.class {
            Class::Write => Ok(Action::Write(ordering)),
            Class::Read => Ok(Action::Read),
            Class::Consensus
            | Class::Anywhere
            | Class::NodeLocal
            | Class::SnapshotList
            | Class::SnapshotCreate
            | Class::Unknown => Err(NotUnderstood),
        };
        // Ids never narrow a read: Qdrant asks every selected shard.
        let depth = Depth { ids: depth.ids && self.class == Class::Write, ..depth };
        match self.layout {
            Layout::Rest(layout) => {
                let action = action(self.ordering)?;
                Ok(Intent { action, scopes: json::scopes(layout, body, depth)?, affinity: None })
            }
            Layout::Grpc(method) => {
                let (ordering, scopes) = grpc::peek(method, body, depth)?;
                Ok(Intent { action: action(ordering)?, scopes, affinity: None })
            }
            Layout::Nothing => Err(NotUnderstood),
        }
    }
}

// === impl Intent ===

impl Intent {
    /// Whether it names all points that it writes, and writes them whatever they are.
    pub(crate) fn names_points(&self) -> bool {
        self.scopes.iter().all(|scope| scope.points != Points::All && !scope.is_conditional)
    }

    /// Whether it reads every shard there is, and any replica of it.
    pub(crate) fn reads_all(&self) -> bool {
        self.action == Action::Read
            && self.affinity.is_none()
            && matches!(self.scopes[..], [Scope { keys: Keys::Unspecified, .. }])
    }

    /// Leaves one that touches nothing in its place.
    pub(crate) fn take(&mut self) -> Self {
        let nothing = Self { action: self.action, scopes: SmallVec::new(), affinity: None };
        std::mem::replace(self, nothing)
    }

    /// Whether it may have lists that take memory, or points that take long to place. Without, it names one point at most,
    /// and no shard key.
    pub(crate) fn has_lists(&self) -> bool {
        match &self.scopes[..] {
            [Scope { keys: Keys::Unspecified, points: Points::Ids(ids), .. }] => ids.len() > 1,
            [Scope { keys: Keys::Unspecified, .. }] => false,
            _ => true,
        }
    }

    /// How many ids it lists.
    pub(crate) fn ids(&self) -> usize {
        let ids = |scope: &Scope| match &scope.points {
            Points::Ids(ids) => ids.len(),
            Points::Owned { .. } | Points::All => 0,
        };
        self.scopes.iter().map(ids).sum()
    }

    /// The memory that its lists take beside itself.
    pub(crate) fn listed_bytes(&self) -> usize {
        let lists = self.scopes.iter().map(|Scope { keys, points, .. }| {
            let ids = match points {
                Points::Ids(ids) if ids.spilled() => size_of_val(&ids[..]),
                Points::Ids(_) | Points::Owned { .. } | Points::All => 0,
            };
            let keys = match keys {
                Keys::Any(keys) => size_of_val(&keys[..]),
                Keys::WithFallback { target, fallback } => size_of_val(&**target) + size_of_val(&**fallback),
                Keys::Unspecified => 0,
            };
            ids + keys
        });
        let scopes = if self.scopes.spilled() { size_of_val(&self.scopes[..]) } else { 0 };
        scopes + lists.sum::<usize>()
    }

    /// The intent of a request whose body is not looked into: it may touch all of `collection`.
    pub(crate) fn unseen(call: &Call, collection: &Collection) -> Self {
        let action = if call.class == Class::Write { Action::Write(call.ordering) } else { Action::Read };
        let all: Vec<ShardKey> = collection.groups().iter().filter_map(|group| group.key.clone()).collect();
        let keys = if all.is_empty() { Keys::Unspecified } else { Keys::Any(all) };
        Self { action, scopes: SmallVec::from([Scope { keys, ..Scope::EVERYTHING }]), affinity: None }
    }
}

// === impl Scope ===

impl Scope {
    /// The whole collection.
    pub const EVERYTHING: Self = Self { keys: Keys::Unspecified, points: Points::All, is_conditional: false };
}
