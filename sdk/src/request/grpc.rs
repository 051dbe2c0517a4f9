//! The RPCs of Qdrant 1.12 to 1.19, and where their messages keep what matters.

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    Call, Class, Depth, Keys, Layout, NotUnderstood, Points, Protocol, Repeat, Scope,
    listing::{Listing, MAX_SCOPES, Room},
    protobuf::{Fields, Value},
};
pub(crate) mod json;

use crate::topology::{PointId, ShardId, ShardKey, WriteOrdering};

/// One RPC.
#[derive(Debug)]
pub(crate) struct Method {
    path: &'static str,
    class: Class,
    repeat: Repeat,
    message: Message,
}

/// The numbers of the fields that matter.
#[derive(Clone, Copy, Debug)]
enum Message {
    /// None do.
    Nothing,
    /// `collection_name` is 1, and nothing else matters.
    Collection,
    /// `collection_name` is 1, `snapshot_name` is 2.
    Snapshot,
    /// `snapshot_name` is 1.
    FullSnapshot,
    /// `collection_name` is 1, `shard_id` is 2.
    Shard,
    /// A read: `collection_name` is 1, `shard_key_selector` is given.
    Read { key: Option<u32> },
    /// A batch of reads: `collection_name` is 1, the items are 2, their `shard_key_selector` is given.
    ReadBatch { item_key: u32 },
    /// A write: `collection_name` is 1.
    Write { points: Location, key: u32, ordering: u32 },
    /// `UpdateBatchPoints`: `operations` are 3, `ordering` is 4.
    Operations,
}

/// Where a message keeps its points.
#[derive(Clone, Copy, Debug)]
pub(super) enum Location {
    /// Repeated messages in this field, with the id in their field 1 and the vectors where given.
    Structs { field: u32, vectors: u32 },
    /// A `PointsSelector` in this field.
    Selector(u32),
}

use super::{
    Class::{Anywhere, Consensus, NodeLocal, Read, SnapshotCreate, SnapshotList, Write},
    Repeat::{Batch, Idempotent, Never, Safe, Verify},
};

const fn read(path: &'static str, key: u32) -> Method {
    Method { path, class: Read, repeat: Safe, message: Message::Read { key: Some(key) } }
}

const fn read_batch(path: &'static str, item_key: u32) -> Method {
    Method { path, class: Read, repeat: Safe, message: Message::ReadBatch { item_key } }
}

const fn write(path: &'static str, points: Location, key: u32, ordering: u32) -> Method {
    Method { path, class: Write, repeat: Idempotent, message: Message::Write { points, key, ordering } }
}

const fn rpc(path: &'static str, class: Class, repeat: Repeat, message: Message) -> Method {
    Method { path, class, repeat, message }
}

#[rustfmt::skip]
const METHODS: &[Method] = &[
    //                                     points                                  key ordering
    write("/qdrant.Points/Upsert",         Location::Structs { field: 3, vectors: 4 }, 5, 4),
    write("/qdrant.Points/Delete",          Location::Selector(3),                   5, 4),
    write("/qdrant.Points/UpdateVectors",  Location::Structs { field: 3, vectors: 2 }, 5, 4),
    write("/qdrant.Points/DeleteVectors",   Location::Selector(3),                   6, 5),
    write("/qdrant.Points/SetPayload",      Location::Selector(5),                   7, 6),
    write("/qdrant.Points/OverwritePayload",Location::Selector(5),                   7, 6),
    write("/qdrant.Points/DeletePayload",   Location::Selector(5),                   7, 6),
    write("/qdrant.Points/ClearPayload",    Location::Selector(3),                   5, 4),
    rpc("/qdrant.Points/UpdateBatch", Write, Batch, Message::Operations),

    //                                       key
    read("/qdrant.Points/Get",                 7),
    read("/qdrant.Points/Search",              14),
    read("/qdrant.Points/SearchGroups",        15),
    read("/qdrant.Points/Scroll",              9),
    read("/qdrant.Points/Recommend",           20),
    read("/qdrant.Points/RecommendGroups",     21),
    read("/qdrant.Points/Discover",            14),
    read("/qdrant.Points/Count",               5),
    read("/qdrant.Points/Query",               13),
    read("/qdrant.Points/QueryGroups",         17),
    read("/qdrant.Points/Facet",               8),
    read("/qdrant.Points/SearchMatrixPairs",   8),
    read("/qdrant.Points/SearchMatrixOffsets", 8),
    read_batch("/qdrant.Points/SearchBatch",    14),
    read_batch("/qdrant.Points/RecommendBatch", 20),
    read_batch("/qdrant.Points/DiscoverBatch",  14),
    read_batch("/qdrant.Points/QueryBatch",     13),

    rpc("/qdrant.Points/CreateFieldIndex",                      Consensus,      Idempotent, Message::Collection),
    rpc("/qdrant.Points/DeleteFieldIndex",                      Consensus,      Idempotent, Message::Collection),
    rpc("/qdrant.Points/CreateVectorName",                      Consensus,      Idempotent, Message::Collection),
    rpc("/qdrant.Points/DeleteVectorName",                      Consensus,      Idempotent, Message::Collection),

    rpc("/qdrant.Collections/Get",                              Read,           Safe,       Message::Read { key: None }),
    rpc("/qdrant.Collections/List",                             Anywhere,       Safe,       Message::Nothing),
    rpc("/qdrant.Collections/CollectionExists",                 Anywhere,       Safe,       Message::Collection),
    rpc("/qdrant.Collections/Create",                           Consensus,      Verify,     Message::Collection),
    rpc("/qdrant.Collections/Update",                           Consensus,      Idempotent, Message::Collection),
    rpc("/qdrant.Collections/Delete",                           Consensus,      Verify,     Message::Collection),
    rpc("/qdrant.Collections/UpdateAliases",                    Consensus,      Verify,     Message::Nothing),
    rpc("/qdrant.Collections/ListCollectionAliases",            Anywhere,       Safe,       Message::Collection),
    rpc("/qdrant.Collections/ListAliases",                      Anywhere,       Safe,       Message::Nothing),
    rpc("/qdrant.Collections/CollectionClusterInfo",            Anywhere,       Safe,       Message::Collection),
    rpc("/qdrant.Collections/UpdateCollectionClusterSetup",     Consensus,      Verify,     Message::Collection),
    rpc("/qdrant.Collections/CreateShardKey",                   Consensus,      Verify,     Message::Collection),
    rpc("/qdrant.Collections/DeleteShardKey",                   Consensus,      Verify,     Message::Collection),
    rpc("/qdrant.Collections/ListShardKeys",                    Anywhere,       Safe,       Message::Collection),

    rpc("/qdrant.Snapshots/Create",                             SnapshotCreate, Never,      Message::Collection),
    rpc("/qdrant.Snapshots/List",                               SnapshotList,   Safe,       Message::Collection),
    rpc("/qdrant.Snapshots/Delete",                             NodeLocal,      Verify,     Message::Snapshot),
    rpc("/qdrant.Snapshots/CreateFull",                         SnapshotCreate, Never,      Message::Nothing),
    rpc("/qdrant.Snapshots/ListFull",                           SnapshotList,   Safe,       Message::Nothing),
    rpc("/qdrant.Snapshots/DeleteFull",                         NodeLocal,      Verify,     Message::FullSnapshot),

    rpc("/qdrant.Qdrant/HealthCheck",                           Anywhere,       Safe,       Message::Nothing),
    rpc("/grpc.health.v1.Health/Check",                         Anywhere,       Safe,       Message::Nothing),

    rpc("/qdrant.StorageRead/ListFiles",                        NodeLocal,      Safe,       Message::Shard),
    rpc("/qdrant.StorageRead/FileExists",                       NodeLocal,      Safe,       Message::Shard),
    rpc("/qdrant.StorageRead/FileLength",                       NodeLocal,      Safe,       Message::Shard),
    rpc("/qdrant.StorageRead/ReadBytes",                        NodeLocal,      Safe,       Message::Shard),
    rpc("/qdrant.StorageRead/ReadBytesStream",                  NodeLocal,      Safe,       Message::Shard),
    rpc("/qdrant.StorageRead/ReadWhole",                        NodeLocal,      Safe,       Message::Shard),
    rpc("/qdrant.StorageRead/ReadBatch",                        NodeLocal,      Safe,       Message::Shard),
    rpc("/qdrant.StorageRead/ReadMulti",                        NodeLocal,      Safe,       Message::Shard),
];

impl Method {
    /// Whether it is a read of points, and not one of what a collection is like.
    pub(super) fn reads_points(&self) -> bool {
        matches!(self.message, Message::Read { key: Some(_) } | Message::ReadBatch { .. })
    }
}

/// What `path` says.
pub(super) fn call(path: &str) -> Call {
    match METHODS.iter().find(|method| method.path == path) {
        Some(method) => {
            let Method { path: operation, class, repeat, .. } = *method;
            let layout = Layout::Grpc(method);
            Call { class, repeat, operation, layout, ..Call::unknown(Protocol::Grpc) }
        }
        None => Call::unknown(Protocol::Grpc),
    }
}

/// `collection_name`, which is field 1 of every message that has it.
pub(super) fn collection<'a>(method: &Method, body: &'a [u8]) -> Option<&'a str> {
    if matches!(method.message, Message::Nothing | Message::FullSnapshot) {
        return None;
    }
    // Of a body that has not been read whole, the beginning is enough.
    let message = match unframe(body) {
        Ok(message) => message,
        Err(NotUnderstood) => body.get(HEADER..).filter(|_| body.first() == Some(&0))?,
    };
    let mut fields = Fields::of(message);
    // It comes first in practice; the whole message is walked only where it does not.
    match fields.clone().next()?.ok()? {
        (1, name) => name.text().ok(),
        _ => fields.find_map(|field| field.ok().filter(|&(number, _)| number == 1))?.1.text().ok(),
    }
}

/// The shard that a message names.
pub(super) fn shard(method: &Method, body: &[u8]) -> Option<ShardId> {
    let Message::Shard = method.message else { return None };
    let shard = Fields::of(unframe(body).ok()?).last(2).ok()?;
    // A field of value zero is not on the wire.
    shard.map_or(Some(0), |shard| ShardId::try_from(shard.varint().ok()?).ok())
}

/// The snapshot that a message names.
pub(super) fn file<'a>(method: &Method, body: &'a [u8]) -> Option<&'a str> {
    let field = match method.message {
        Message::Snapshot => 2,
        Message::FullSnapshot => 1,
        _ => return None,
    };
    Fields::of(unframe(body).ok()?).last(field).ok()??.text().ok()
}

/// The ordering and the scopes of a message, looked at no deeper than `depth`.
pub(super) fn peek(
    method: &Method,
    body: &[u8],
    depth: Depth,
) -> Result<(WriteOrdering, SmallVec<[Scope; 1]>), NotUnderstood> {
    let message = Fields::of(unframe(body)?);
    let mut room = Room::new();
    match method.message {
        Message::Nothing
        | Message::Collection
        | Message::Snapshot
        | Message::FullSnapshot
        | Message::Shard
        | Message::Read { key: None } => Ok((WriteOrdering::Weak, SmallVec::from([Scope::EVERYTHING]))),
        Message::Read { key: Some(_) } | Message::ReadBatch { .. } if !depth.keys => {
            Ok((WriteOrdering::Weak, SmallVec::from([Scope::EVERYTHING])))
        }
        Message::Read { key: Some(key) } => {
            let keys = keys(message.last(key)?, &mut room)?;
            Ok((WriteOrdering::Weak, SmallVec::from([Scope { keys, ..Scope::EVERYTHING }])))
        }
        Message::ReadBatch { item_key } => {
            let mut scopes = SmallVec::new();
            for field in message {
                if let (2, item) = field? {
                    let keys = keys(item.message()?.last(item_key)?, &mut room)?;
                    list(&mut scopes, Scope { keys, ..Scope::EVERYTHING })?;
                }
            }
            Ok((WriteOrdering::Weak, scopes))
        }
        Message::Write { points, key, ordering } => {
            let (scope, led) = write_of(message, points, key, Some(ordering), depth, &mut room)?;
            Ok((ordering_of(led)?, SmallVec::from([scope])))
        }
        Message::Operations => {
            let led = ordering_of(message.clone().last(4)?)?;
            if depth == Depth::default() {
                return Ok((led, SmallVec::from([Scope::EVERYTHING])));
            }
            let mut scopes = SmallVec::new();
            for field in message {
                if let (3, operation) = field? {
                    list(&mut scopes, operation_scope(operation.message()?, depth, &mut room)?)?;
                }
            }
            Ok((led, scopes))
        }
    }
}

/// Adds a scope, unless there are too many.
fn list(scopes: &mut SmallVec<[Scope; 1]>, scope: Scope) -> Result<(), NotUnderstood> {
    if scopes.len() == MAX_SCOPES {
        return Err(NotUnderstood);
    }
    scopes.push(scope);
    Ok(())
}

/// Where the one list of points is that this RPC writes.
pub(super) fn location(method: &Method) -> Option<Location> {
    match method.message {
        Message::Write { points, .. } => Some(points),
        _ => None,
    }
}

/// The bytes before each message: whether it is compressed, and its length.
pub(super) const HEADER: usize = 5;

/// One uncompressed message, ready to be sent.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    frame_of(message.len(), |out| out.extend_from_slice(message))
}

/// The same, of what `write` appends, with room for `length` bytes of it.
pub(super) fn frame_of(length: usize, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut framed = Vec::with_capacity(HEADER + length);
    framed.extend_from_slice(&[0; HEADER]);
    write(&mut framed);
    // A part is never longer than the whole, whose length came in these four bytes.
    let written = u32::try_from(framed.len() - HEADER).unwrap_or(u32::MAX);
    framed[1..HEADER].copy_from_slice(&written.to_be_bytes());
    framed.into()
}

/// How long a unary call says it is whose body begins so.
pub(super) fn announced(body: &[u8]) -> Option<usize> {
    let (&[_, a, b, c, d], _) = body.split_first_chunk::<HEADER>()?;
    usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?.checked_add(HEADER)
}

/// The one message of a unary call. Compressed ones are not looked into.
pub(super) fn unframe(body: &[u8]) -> Result<&[u8], NotUnderstood> {
    let (&[compressed, a, b, c, d], message) = body.split_first_chunk::<HEADER>().ok_or(NotUnderstood)?;
    let length = u32::from_be_bytes([a, b, c, d]);
    let is_whole = compressed == 0 && usize::try_from(length) == Ok(message.len());
    if is_whole { Ok(message) } else { Err(NotUnderstood) }
}

/// One `PointsUpdateOperation`.
fn operation_scope(mut operation: Fields<'_>, depth: Depth, room: &mut Room) -> Result<Scope, NotUnderstood> {
    let (number, value) = operation.next().ok_or(NotUnderstood)??;
    let message = value.message()?;
    let mut scope = |points, key| write_of(message.clone(), points, key, None, depth, room).map(|of| of.0);
    match number {
        1 | 7 => {
            let vectors = if number == 1 { 4 } else { 2 };
            let scope = scope(Location::Structs { field: 1, vectors }, 2)?;
            // `update_filter` and `update_mode`
            let is_conditional = message.flatten().any(|(field, _)| matches!(field, 3 | 4));
            Ok(Scope { is_conditional, ..scope })
        }
        2 | 6 => Ok(Scope { points: selected(message, depth, room)?, ..Scope::EVERYTHING }),
        3..=5 => scope(Location::Selector(2), 3),
        8 => scope(Location::Selector(1), 3),
        9 | 10 => scope(Location::Selector(1), 2),
        _ => Err(NotUnderstood),
    }
}

/// The scope of a write and its field `ordering`, in one walk over the message.
fn write_of<'a>(
    message: Fields<'a>,
    points: Location,
    key: u32,
    ordering: Option<u32>,
    depth: Depth,
    room: &mut Room,
) -> Result<(Scope, Option<Value<'a>>), NotUnderstood> {
    let (mut ids, mut selector, mut key_selector, mut led) = (Listing::default(), None, None, None);
    let points_field = match points {
        Location::Structs { field, .. } | Location::Selector(field) => field,
    };
    for field in message {
        let (number, value) = field?;
        if number == points_field {
            match points {
                Location::Structs { .. } if depth.ids && ids.has_room(room) => {
                    ids.push(point_id(value.message()?.last(1)?.ok_or(NotUnderstood)?)?);
                }
                Location::Structs { .. } => {}
                Location::Selector(_) => selector = Some(value),
            }
        } else if number == key {
            key_selector = Some(value);
        } else if Some(number) == ordering {
            led = Some(value);
        }
    }
    let keys = if depth.keys { keys(key_selector, room)? } else { Keys::Unspecified };
    let points = match points {
        _ if !depth.ids => Points::All,
        Location::Structs { .. } => ids.points(room),
        Location::Selector(_) => selected(selector.ok_or(NotUnderstood)?.message()?, depth, room)?,
    };
    Ok((Scope { keys, points, is_conditional: false }, led))
}

/// `PointsSelector { points: PointsIdsList = 1 | filter = 2 }`
fn selected(selector: Fields<'_>, depth: Depth, room: &mut Room) -> Result<Points, NotUnderstood> {
    if !depth.ids {
        return Ok(Points::All);
    }
    let mut selected = Err(NotUnderstood);
    for field in selector {
        match field? {
            (1, list) => {
                let mut ids = Listing::default();
                for field in list.message()? {
                    if let (1, id) = field?
                        && ids.has_room(room)
                    {
                        ids.push(point_id(id)?);
                    }
                }
                selected = Ok(ids.points(room));
            }
            (2, _) => selected = Ok(Points::All),
            _ => {}
        }
    }
    selected
}

/// `PointId { num = 1 | uuid = 2 }`
pub(super) fn point_id(id: Value<'_>) -> Result<PointId, NotUnderstood> {
    let mut found = Err(NotUnderstood);
    for field in id.message()? {
        match field? {
            (1, number) => found = Ok(PointId::Num(number.varint()?)),
            (2, uuid) => found = PointId::from_body_str(uuid.text()?).ok_or(NotUnderstood),
            _ => {}
        }
    }
    found
}

/// `ShardKeySelector { repeated ShardKey shard_keys = 1; ShardKey fallback = 2 }`
fn keys(selector: Option<Value<'_>>, room: &mut Room) -> Result<Keys, NotUnderstood> {
    let Some(selector) = selector else { return Ok(Keys::Unspecified) };
    room.take_shard_keys(0, selector.bytes()?.len())?;
    let (mut keys, mut fallback) = (Vec::new(), None);
    for field in selector.message()? {
        match field? {
            (1, key) => {
                room.take_shard_keys(1, 0)?;
                keys.push(shard_key(key)?);
            }
            (2, key) => fallback = Some(shard_key(key)?),
            _ => {}
        }
    }
    match (fallback, keys.pop()) {
        (None, Some(last)) => {
            keys.push(last);
            Ok(Keys::Any(keys))
        }
        (None, None) => Ok(Keys::Any(Vec::new())),
        (Some(fallback), Some(target)) if keys.is_empty() => {
            Ok(Keys::WithFallback { target: target.into(), fallback: fallback.into() })
        }
        (Some(_), _) => Err(NotUnderstood),
    }
}

/// `ShardKey { keyword = 1 | number = 2 }`
fn shard_key(key: Value<'_>) -> Result<ShardKey, NotUnderstood> {
    let mut found = Err(NotUnderstood);
    for field in key.message()? {
        match field? {
            (1, text) => found = Ok(ShardKey::Keyword(text.text()?.to_owned())),
            (2, number) => found = Ok(ShardKey::Number(number.varint()?)),
            _ => {}
        }
    }
    found
}

/// `WriteOrdering { type = 1: Weak 0, Medium 1, Strong 2 }`; an empty message means weak.
fn ordering_of(ordering: Option<Value<'_>>) -> Result<WriteOrdering, NotUnderstood> {
    let Some(ordering) = ordering else { return Ok(WriteOrdering::Weak) };
    match ordering.message()?.last(1)? {
        None | Some(Value::Varint(0)) => Ok(WriteOrdering::Weak),
        Some(Value::Varint(1)) => Ok(WriteOrdering::Medium),
        Some(Value::Varint(2)) => Ok(WriteOrdering::Strong),
        Some(_) => Err(NotUnderstood),
    }
}

#[cfg(test)]
mod tests;
