//! Messages written down as JSON, for `explain`: encoded as far as routing looks at them.
//!
//! Field names are those of the `.proto` files, in snake or camel case. Ids and shard keys may also
//! be written as over REST: `7`, `"tenant"`, `"550e8400-…"`.

use bytes::Bytes;
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::{Map, Value};

use super::{Location, METHODS, Message, frame};

/// A message written in JSON is not what the RPC takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// No such RPC.
    #[error("`{0}` is no RPC of Qdrant; an example is `/qdrant.Points/Upsert`")]
    UnknownRpc(String),
    /// A field has another shape.
    #[error("`{field}` is not {expected}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
    },
}

/// The whole path of an RPC: `Points/Upsert` and `qdrant.Points/Upsert` mean `/qdrant.Points/Upsert`.
///
/// # Errors
///
/// Where Qdrant has no such RPC.
pub(crate) fn path(name: &str) -> Result<&'static str, MessageError> {
    let name = name.trim_start_matches('/');
    let is_meant = |path: &str| {
        let path = path.trim_start_matches('/');
        path == name || path.strip_prefix("qdrant.") == Some(name)
    };
    let found = METHODS.iter().map(|method| method.path).find(|path| is_meant(path));
    found.ok_or_else(|| MessageError::UnknownRpc(name.to_owned()))
}

/// The framed message of the RPC at `path`, with the fields that routing looks at.
///
/// # Errors
///
/// Where the RPC is unknown or a field has another shape than it should.
pub(crate) fn message(path: &str, body: &Value) -> Result<Bytes, MessageError> {
    let method = METHODS.iter().find(|method| method.path == path);
    let method = method.ok_or_else(|| MessageError::UnknownRpc(path.to_owned()))?;
    let empty = Map::new();
    let fields = match body {
        Value::Null => &empty,
        body => object("body", body)?,
    };
    let mut out = Writer::default();
    if !matches!(method.message, Message::Nothing | Message::FullSnapshot) {
        out.text(1, "collection_name", fields)?;
    }
    match method.message {
        Message::Nothing | Message::Collection | Message::Read { key: None } => {}
        Message::Snapshot => out.text(2, "snapshot_name", fields)?,
        Message::FullSnapshot => out.text(1, "snapshot_name", fields)?,
        Message::Shard => {
            if let Some(shard) = get(fields, "shard_id") {
                out.varint(2, shard.as_u64().ok_or_else(|| wrong("shard_id", "a number"))?);
            }
        }
        Message::Read { key: Some(key) } => out.keys(key, fields)?,
        Message::ReadBatch { item_key } => {
            const ITEMS: [&str; 4] = ["query_points", "search_points", "recommend_points", "discover_points"];
            for item in ITEMS.into_iter().filter_map(|name| get(fields, name)).flat_map(list) {
                let mut written = Writer::default();
                written.keys(item_key, object("items of the batch", item)?)?;
                out.bytes(2, &written.0);
            }
        }
        Message::Write { points, key, ordering } => {
            out.ordering(ordering, fields)?;
            out.keys(key, fields)?;
            out.points(points, fields)?;
        }
        Message::Operations => {
            out.ordering(4, fields)?;
            for operation in get(fields, "operations").into_iter().flat_map(list) {
                let operation = object("operations", operation)?;
                let mut written = Writer::default();
                for (name, fields) in operation {
                    written.operation(name, object("operations", fields)?)?;
                }
                out.bytes(3, &written.0);
            }
        }
    }
    Ok(frame(&out.0))
}

fn wrong(field: &'static str, expected: &'static str) -> MessageError {
    MessageError::Field { field, expected }
}

fn object<'a>(field: &'static str, value: &'a Value) -> Result<&'a Map<String, Value>, MessageError> {
    value.as_object().ok_or_else(|| wrong(field, "an object"))
}

/// The items of a list; a single value stands for a list of one.
fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice)
}

/// The field `name`, written in snake or camel case; `null` stands for none.
fn get<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let mut words = name.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let (first, rest) = word.split_at(1);
        camel.push_str(&first.to_ascii_uppercase());
        camel.push_str(rest);
    }
    fields.get(name).or_else(|| fields.get(&camel)).filter(|value| !value.is_null())
}

/// A message being written.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn varint(&mut self, field: u32, value: u64) {
        encode_key(field, WireType::Varint, &mut self.0);
        encode_varint(value, &mut self.0);
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        encode_key(field, WireType::LengthDelimited, &mut self.0);
        encode_varint(bytes.len() as u64, &mut self.0);
        self.0.extend_from_slice(bytes);
    }

    fn text(
        &mut self,
        field: u32,
        name: &'static str,
        fields: &Map<String, Value>,
    ) -> Result<(), MessageError> {
        if let Some(text) = get(fields, name) {
            self.bytes(field, text.as_str().ok_or_else(|| wrong(name, "text"))?.as_bytes());
        }
        Ok(())
    }

    /// `WriteOrdering { type = 1 }`
    fn ordering(&mut self, field: u32, fields: &Map<String, Value>) -> Result<(), MessageError> {
        let Some(ordering) = get(fields, "ordering") else { return Ok(()) };
        let kind = ordering.get("type").unwrap_or(ordering);
        let kind = match kind.as_str().map(str::to_ascii_lowercase).as_deref() {
            Some("weak") => 0,
            Some("medium") => 1,
            Some("strong") => 2,
            _ => kind.as_u64().ok_or_else(|| wrong("ordering", "`Weak`, `Medium` or `Strong`"))?,
        };
        let mut written = Self::default();
        written.varint(1, kind);
        self.bytes(field, &written.0);
        Ok(())
    }

    /// `ShardKeySelector { shard_keys = 1, fallback = 2 }`
    fn keys(&mut self, field: u32, fields: &Map<String, Value>) -> Result<(), MessageError> {
        let Some(selector) = get(fields, "shard_key_selector") else { return Ok(()) };
        let mut written = Self::default();
        match selector.as_object() {
            Some(selector) => {
                for key in get(selector, "shard_keys").into_iter().flat_map(list) {
                    written.key(1, key)?;
                }
                if let Some(fallback) = get(selector, "fallback") {
                    written.key(2, fallback)?;
                }
            }
            None => list(selector).iter().try_for_each(|key| written.key(1, key))?,
        }
        self.bytes(field, &written.0);
        Ok(())
    }

    /// `ShardKey { keyword = 1 | number = 2 }`
    fn key(&mut self, field: u32, key: &Value) -> Result<(), MessageError> {
        let key = key.get("keyword").or_else(|| key.get("number")).unwrap_or(key);
        let mut written = Self::default();
        match (key.as_str(), key.as_u64()) {
            (Some(text), _) => written.bytes(1, text.as_bytes()),
            (None, Some(number)) => written.varint(2, number),
            (None, None) => return Err(wrong("shard_key_selector", "text or a number")),
        }
        self.bytes(field, &written.0);
        Ok(())
    }

    /// `PointId { num = 1 | uuid = 2 }`
    fn id(&mut self, field: u32, id: &Value) -> Result<(), MessageError> {
        let id = id.get("num").or_else(|| id.get("uuid")).unwrap_or(id);
        let mut written = Self::default();
        match (id.as_u64(), id.as_str()) {
            (Some(number), _) => written.varint(1, number),
            // In the JSON of protobuf, numbers of 64 bits are text.
            (None, Some(text)) => match text.parse() {
                Ok(number) => written.varint(1, number),
                Err(_) => written.bytes(2, text.as_bytes()),
            },
            (None, None) => return Err(wrong("id", "a number or a UUID")),
        }
        self.bytes(field, &written.0);
        Ok(())
    }

    fn points(&mut self, location: Location, fields: &Map<String, Value>) -> Result<(), MessageError> {
        match location {
            Location::Structs { field, vectors } => {
                for point in get(fields, "points").into_iter().flat_map(list) {
                    let point = object("points", point)?;
                    let mut written = Self::default();
                    written.id(
                        1,
                        get(point, "id").ok_or_else(|| wrong("points", "a list of points with an id"))?,
                    )?;
                    if let Some(given) = get(point, "vectors").or_else(|| get(point, "vector")) {
                        written.vectors(vectors, given);
                    }
                    self.bytes(field, &written.0);
                }
            }
            Location::Selector(field) => {
                let selector = get(fields, "points_selector").or_else(|| get(fields, "points"));
                let selector = selector.ok_or_else(|| wrong("points", "given"))?;
                let mut written = Self::default();
                if selector.get("filter").is_some() {
                    written.bytes(2, &[]);
                } else {
                    let ids = selector.get("points").unwrap_or(selector);
                    let ids = ids.get("ids").unwrap_or(ids);
                    let mut listed = Self::default();
                    list(ids).iter().try_for_each(|id| listed.id(1, id))?;
                    written.bytes(1, &listed.0);
                }
                self.bytes(field, &written.0);
            }
        }
        Ok(())
    }

    /// Dense vectors by their lengths, of which alone routing takes notice; others as what they are.
    fn vectors(&mut self, field: u32, given: &Value) {
        let floats = |value: &Value| -> Option<usize> {
            let value = value.get("vector").or_else(|| value.get("dense")).unwrap_or(value);
            let value = value.get("data").unwrap_or(value);
            value.as_array().filter(|list| list.iter().all(Value::is_number)).map(Vec::len)
        };
        let vector = |floats: usize| {
            let mut data = Self::default();
            data.bytes(1, &vec![0; 4 * floats]);
            let mut vector = Self::default();
            vector.bytes(101, &data.0);
            vector.0
        };
        let mut written = Self::default();
        let named = given.get("vectors").unwrap_or(given);
        let named = named.get("vectors").unwrap_or(named);
        match (floats(given), named.as_object()) {
            (Some(length), _) => written.bytes(1, &vector(length)),
            (None, Some(named)) if named.values().all(|value| floats(value).is_some()) => {
                let mut map = Self::default();
                for (name, value) in named {
                    let mut entry = Self::default();
                    entry.bytes(1, name.as_bytes());
                    entry.bytes(2, &vector(floats(value).unwrap_or_default()));
                    map.bytes(1, &entry.0);
                }
                written.bytes(2, &map.0);
            }
            // A field that no vector has: of another kind than dense.
            (None, _) => written.bytes(15, &[]),
        }
        self.bytes(field, &written.0);
    }

    /// One kind of `PointsUpdateOperation`.
    fn operation(&mut self, name: &str, fields: &Map<String, Value>) -> Result<(), MessageError> {
        let snake: String = name
            .chars()
            .flat_map(|c| c.is_ascii_uppercase().then_some('_').into_iter().chain([c.to_ascii_lowercase()]))
            .collect();
        let (number, location, key) = match &*snake {
            "upsert" => (1, Location::Structs { field: 1, vectors: 4 }, 2),
            "set_payload" => (3, Location::Selector(2), 3),
            "overwrite_payload" => (4, Location::Selector(2), 3),
            "delete_payload" => (5, Location::Selector(2), 3),
            "update_vectors" => (7, Location::Structs { field: 1, vectors: 2 }, 2),
            "delete_vectors" => (8, Location::Selector(1), 3),
            "delete_points" => (9, Location::Selector(1), 2),
            "clear_payload" => (10, Location::Selector(1), 2),
            _ => return Err(wrong("operations", "a list of operations such as `{\"upsert\": …}`")),
        };
        let mut written = Self::default();
        written.points(location, fields)?;
        written.keys(key, fields)?;
        self.bytes(number, &written.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use qdrant_client::qdrant::{
        DeletePoints, PointId, QueryPoints, ShardKeySelector, UpdateBatchPoints, UpsertPoints,
        WriteOrderingType, points_selector::PointsSelectorOneOf, points_update_operation::Operation,
    };
    use serde_json::json;

    use super::*;

    fn decoded<M: prost::Message + Default>(rpc: &str, body: &Value) -> M {
        let path = path(rpc).expect("an RPC");
        M::decode(&message(path, body).expect("a message")[5..]).expect("a message")
    }

    #[test]
    fn a_message_has_what_routing_looks_at() {
        let upsert: UpsertPoints = decoded(
            "qdrant.Points/Upsert",
            &json!({
                "collectionName": "books", "ordering": { "type": "Medium" },
                "points": [{ "id": { "num": "7" }, "vectors": { "vector": { "data": [1, 2] } } },
                           { "id": "550e8400-e29b-41d4-a716-446655440000", "vector": [1, 2] }],
                "shard_key_selector": { "shard_keys": [{ "keyword": "a" }], "fallback": 7 },
            }),
        );
        assert_eq!(upsert.collection_name, "books");
        assert_eq!(upsert.ordering.expect("given").r#type(), WriteOrderingType::Medium);
        let ids: Vec<_> = upsert.points.into_iter().filter_map(|point| point.id).collect();
        assert_eq!(ids, [PointId::from(7), PointId::from("550e8400-e29b-41d4-a716-446655440000")]);
        let expected = ShardKeySelector { shard_keys: vec!["a".to_owned().into()], fallback: Some(7.into()) };
        assert_eq!(upsert.shard_key_selector, Some(expected));

        let delete: DeletePoints = decoded(
            "Points/Delete",
            &json!({ "collection_name": "c", "points": { "points": { "ids": [1, 2] } } }),
        );
        let selected = delete.points.and_then(|selector| selector.points_selector_one_of);
        assert!(matches!(selected, Some(PointsSelectorOneOf::Points(list)) if list.ids.len() == 2));

        let query: QueryPoints =
            decoded("/qdrant.Points/Query", &json!({ "collection_name": "c", "shard_key_selector": ["a"] }));
        assert_eq!(query.shard_key_selector.map(|selector| selector.shard_keys.len()), Some(1));

        let batch: UpdateBatchPoints = decoded(
            "Points/UpdateBatch",
            &json!({ "collection_name": "c", "operations": [{ "upsert": { "points": [{ "id": 1 }] } },
                                                            { "deletePoints": { "points": [2] } }] }),
        );
        let kinds: Vec<_> =
            batch.operations.into_iter().filter_map(|operation| operation.operation).collect();
        assert!(matches!(&kinds[..], [Operation::Upsert(_), Operation::DeletePoints(_)]));
    }

    #[test]
    fn what_an_rpc_does_not_take_is_named() {
        assert!(matches!(path("Points/Explode"), Err(MessageError::UnknownRpc(_))));
        for (rpc, body, field) in [
            ("Points/Upsert", json!({ "points": [{}] }), "points"),
            ("Points/Upsert", json!({ "ordering": "sideways" }), "ordering"),
            ("Points/Delete", json!({}), "points"),
            ("Points/Query", json!({ "collection_name": 7 }), "collection_name"),
            ("Points/Query", json!([]), "body"),
        ] {
            let error = message(path(rpc).expect("an RPC"), &body).expect_err("wrong");
            assert!(matches!(error, MessageError::Field { field: named, .. } if named == field), "{error}");
        }
    }
}
