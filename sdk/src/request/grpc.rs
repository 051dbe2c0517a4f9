//! The RPCs of Qdrant 1.12 to 1.19, and where their messages keep what matters.

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::{SmallVec, smallvec};

use super::{
    Call, Class, Depth, Keys, Layout, NotUnderstood, Points, Protocol, Scope,
    protobuf::{Fields, Value},
};
use crate::topology::{PointId, ShardKey, WriteOrdering};

/// One RPC.
#[derive(Debug)]
pub(crate) struct Method {
    path: &'static str,
    class: Class,
    message: Message,
}

/// The numbers of the fields that matter.
#[derive(Clone, Copy, Debug)]
enum Message {
    /// None do.
    Nothing,
    /// `collection_name` is 1, and nothing else matters.
    Collection,
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

use super::Class::{Anywhere, Consensus, NodeLocal, Read, Write};

const fn read(path: &'static str, key: u32) -> Method {
    Method { path, class: Read, message: Message::Read { key: Some(key) } }
}

const fn read_batch(path: &'static str, item_key: u32) -> Method {
    Method { path, class: Read, message: Message::ReadBatch { item_key } }
}

const fn write(path: &'static str, points: Location, key: u32, ordering: u32) -> Method {
    Method { path, class: Write, message: Message::Write { points, key, ordering } }
}

const fn named(path: &'static str, class: Class) -> Method {
    Method { path, class, message: Message::Collection }
}

const fn other(path: &'static str, class: Class) -> Method {
    Method { path, class, message: Message::Nothing }
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
    Method { path: "/qdrant.Points/UpdateBatch", class: Write, message: Message::Operations },

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

    named("/qdrant.Points/CreateFieldIndex", Consensus),
    named("/qdrant.Points/DeleteFieldIndex", Consensus),
    named("/qdrant.Points/CreateVectorName", Consensus),
    named("/qdrant.Points/DeleteVectorName", Consensus),

    Method { path: "/qdrant.Collections/Get", class: Read, message: Message::Read { key: None } },
    other("/qdrant.Collections/List",                         Anywhere),
    named("/qdrant.Collections/CollectionExists",             Anywhere),
    named("/qdrant.Collections/Create",                       Consensus),
    named("/qdrant.Collections/Update",                       Consensus),
    named("/qdrant.Collections/Delete",                       Consensus),
    other("/qdrant.Collections/UpdateAliases",                Consensus),
    named("/qdrant.Collections/ListCollectionAliases",        Anywhere),
    other("/qdrant.Collections/ListAliases",                  Anywhere),
    named("/qdrant.Collections/CollectionClusterInfo",        Anywhere),
    named("/qdrant.Collections/UpdateCollectionClusterSetup", Consensus),
    named("/qdrant.Collections/CreateShardKey",               Consensus),
    named("/qdrant.Collections/DeleteShardKey",               Consensus),
    named("/qdrant.Collections/ListShardKeys",                Anywhere),

    named("/qdrant.Snapshots/Create",     NodeLocal),
    named("/qdrant.Snapshots/List",       NodeLocal),
    named("/qdrant.Snapshots/Delete",     NodeLocal),
    other("/qdrant.Snapshots/CreateFull", NodeLocal),
    other("/qdrant.Snapshots/ListFull",   NodeLocal),
    other("/qdrant.Snapshots/DeleteFull", NodeLocal),

    other("/qdrant.Qdrant/HealthCheck",   Anywhere),
    other("/grpc.health.v1.Health/Check", Anywhere),

    named("/qdrant.StorageRead/ListFiles",       NodeLocal),
    named("/qdrant.StorageRead/FileExists",      NodeLocal),
    named("/qdrant.StorageRead/FileLength",      NodeLocal),
    named("/qdrant.StorageRead/ReadBytes",       NodeLocal),
    named("/qdrant.StorageRead/ReadBytesStream", NodeLocal),
    named("/qdrant.StorageRead/ReadWhole",       NodeLocal),
    named("/qdrant.StorageRead/ReadBatch",       NodeLocal),
    named("/qdrant.StorageRead/ReadMulti",       NodeLocal),
];

/// What `path` says.
pub(super) fn call(path: &str) -> Call {
    match METHODS.iter().find(|method| method.path == path) {
        Some(method) => {
            Call { class: method.class, layout: Layout::Grpc(method), ..Call::unknown(Protocol::Grpc) }
        }
        None => Call::unknown(Protocol::Grpc),
    }
}

/// `collection_name`, which is field 1 of every message that has it.
pub(super) fn collection<'a>(method: &Method, body: &'a [u8]) -> Option<&'a str> {
    if matches!(method.message, Message::Nothing) {
        return None;
    }
    let mut fields = Fields::of(unframe(body).ok()?);
    // It comes first in practice; the whole message is walked only where it does not.
    match fields.clone().next()?.ok()? {
        (1, name) => name.text().ok(),
        _ => fields.find_map(|field| field.ok().filter(|&(number, _)| number == 1))?.1.text().ok(),
    }
}

/// The ordering and the scopes of a message, looked at no deeper than `depth`.
pub(super) fn peek(
    method: &Method,
    body: &[u8],
    depth: Depth,
) -> Result<(WriteOrdering, SmallVec<[Scope; 1]>), NotUnderstood> {
    let message = Fields::of(unframe(body)?);
    match method.message {
        Message::Nothing | Message::Collection | Message::Read { key: None } => {
            Ok((WriteOrdering::Weak, smallvec![Scope::EVERYTHING]))
        }
        Message::Read { key: Some(_) } | Message::ReadBatch { .. } if !depth.keys => {
            Ok((WriteOrdering::Weak, smallvec![Scope::EVERYTHING]))
        }
        Message::Read { key: Some(key) } => {
            let keys = keys(message.last(key)?)?;
            Ok((WriteOrdering::Weak, smallvec![Scope { keys, points: Points::All }]))
        }
        Message::ReadBatch { item_key } => {
            let mut scopes = SmallVec::new();
            for field in message {
                if let (2, item) = field? {
                    let keys = keys(item.message()?.last(item_key)?)?;
                    scopes.push(Scope { keys, points: Points::All });
                }
            }
            Ok((WriteOrdering::Weak, scopes))
        }
        Message::Write { points, key, ordering } => {
            let led = ordering_of(message.clone().last(ordering)?)?;
            Ok((led, smallvec![scope(message, points, Some(key), depth)?]))
        }
        Message::Operations => {
            let led = ordering_of(message.clone().last(4)?)?;
            if depth == Depth::default() {
                return Ok((led, smallvec![Scope::EVERYTHING]));
            }
            let mut scopes = SmallVec::new();
            for field in message {
                if let (3, operation) = field? {
                    scopes.push(operation_scope(operation.message()?, depth)?);
                }
            }
            Ok((led, scopes))
        }
    }
}

/// Where the one list of points is that this RPC writes.
pub(super) fn location(method: &Method) -> Option<Location> {
    match method.message {
        Message::Write { points, .. } => Some(points),
        Message::Nothing
        | Message::Collection
        | Message::Read { .. }
        | Message::ReadBatch { .. }
        | Message::Operations => None,
    }
}

/// The bytes before each message: whether it is compressed, and its length.
pub(super) const HEADER: usize = 5;

/// One uncompressed message, ready to be sent.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(HEADER + message.len());
    framed.put_u8(0);
    // A part is never longer than the whole, whose length came in these four bytes.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// The one message of a unary call. Compressed ones are not looked into.
pub(super) fn unframe(body: &[u8]) -> Result<&[u8], NotUnderstood> {
    let (&[compressed, a, b, c, d], message) = body.split_first_chunk::<HEADER>().ok_or(NotUnderstood)?;
    let length = u32::from_be_bytes([a, b, c, d]);
    let is_whole = compressed == 0 && usize::try_from(length) == Ok(message.len());
    if is_whole { Ok(message) } else { Err(NotUnderstood) }
}

/// One `PointsUpdateOperation`.
fn operation_scope(mut operation: Fields<'_>, depth: Depth) -> Result<Scope, NotUnderstood> {
    let (number, value) = operation.next().ok_or(NotUnderstood)??;
    let message = value.message()?;
    match number {
        1 => scope(message, Location::Structs { field: 1, vectors: 4 }, Some(2), depth),
        7 => scope(message, Location::Structs { field: 1, vectors: 2 }, Some(2), depth),
        2 | 6 => Ok(Scope { keys: Keys::Unspecified, points: selected(message, depth)? }),
        3..=5 => scope(message, Location::Selector(2), Some(3), depth),
        8 => scope(message, Location::Selector(1), Some(3), depth),
        9 | 10 => scope(message, Location::Selector(1), Some(2), depth),
        _ => Err(NotUnderstood),
    }
}

fn scope(
    message: Fields<'_>,
    points: Location,
    key: Option<u32>,
    depth: Depth,
) -> Result<Scope, NotUnderstood> {
    let keys = match key.filter(|_| depth.keys) {
        Some(key) => keys(message.clone().last(key)?)?,
        None => Keys::Unspecified,
    };
    let points = match points {
        _ if !depth.ids => Points::All,
        Location::Structs { field: number, .. } => {
            let mut ids = Vec::new();
            for field in message {
                let (found, point) = field?;
                if found == number {
                    ids.push(point_id(point.message()?.last(1)?.ok_or(NotUnderstood)?)?);
                }
            }
            Points::Ids(ids)
        }
        Location::Selector(number) => {
            selected(message.last(number)?.ok_or(NotUnderstood)?.message()?, depth)?
        }
    };
    Ok(Scope { keys, points })
}

/// `PointsSelector { points: PointsIdsList = 1 | filter = 2 }`
fn selected(selector: Fields<'_>, depth: Depth) -> Result<Points, NotUnderstood> {
    if !depth.ids {
        return Ok(Points::All);
    }
    let mut selected = Err(NotUnderstood);
    for field in selector {
        match field? {
            (1, list) => {
                let mut ids = Vec::new();
                for field in list.message()? {
                    if let (1, id) = field? {
                        ids.push(point_id(id)?);
                    }
                }
                selected = Ok(Points::Ids(ids));
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
fn keys(selector: Option<Value<'_>>) -> Result<Keys, NotUnderstood> {
    let Some(selector) = selector else { return Ok(Keys::Unspecified) };
    let mut keys = Vec::new();
    let mut fallback = None;
    for field in selector.message()? {
        match field? {
            (1, key) => keys.push(shard_key(key)?),
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
        (Some(fallback), Some(target)) if keys.is_empty() => Ok(Keys::WithFallback { target, fallback }),
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
