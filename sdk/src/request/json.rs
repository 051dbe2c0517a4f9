//! Peeks at JSON bodies: shard keys and point ids, and nothing else is decoded.
//!
//! Vectors and payloads are skipped token by token without recursion, so neither their size nor
//! their depth costs memory. A body that Qdrant would refuse may be understood here and the other way
//! round; either way Qdrant has the last word, because the body is forwarded as it came.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use smallvec::{SmallVec, smallvec};

use super::{Depth, Keys, NotUnderstood, Points, Scope};
use crate::topology::{PointId, ShardKey};

/// Where a body keeps what matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Nothing in it matters.
    Nothing,
    /// `shard_key`.
    Key,
    /// `shard_key`, and `ids` that do not narrow what Qdrant asks.
    Retrieve,
    /// `shard_key` in each of `searches`.
    Searches,
    /// `shard_key`, and ids in `points[].id` or `batch.ids`.
    Points,
    /// `shard_key`, and ids in `points`, which outweigh a `filter`.
    Selector,
    /// `shard_key`, and ids in `points`, which add to a `filter`.
    VectorSelector,
    /// `operations`, each an object of one key that tells its kind.
    Operations,
    /// `location`, the URL of a snapshot.
    Location,
}

/// The name of the snapshot at `location`, where that is a file of the node's own.
pub(super) fn file(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Recovery {
        location: String,
    }

    let location = parse::<Recovery>(body).ok()?.location;
    let path = location.strip_prefix("file://")?;
    path.rsplit('/').next().map(str::to_owned)
}

/// The scopes of a body, looked at no deeper than `depth`.
pub(super) fn scopes(
    layout: Layout,
    body: &[u8],
    depth: Depth,
) -> Result<SmallVec<[Scope; 1]>, NotUnderstood> {
    if depth == Depth::default() || layout == Layout::Nothing {
        return Ok(smallvec![Scope::EVERYTHING]);
    }
    match layout {
        Layout::Nothing | Layout::Location => Ok(smallvec![Scope::EVERYTHING]),
        Layout::Key | Layout::Retrieve => Ok(smallvec![parse::<Keyed>(body)?.into()]),
        Layout::Searches => Ok(parse::<Searches>(body)?.searches.into_iter().map(Scope::from).collect()),
        Layout::Points | Layout::Selector | Layout::VectorSelector => {
            if !depth.ids {
                return Ok(smallvec![parse::<Keyed>(body)?.into()]);
            }
            Ok(smallvec![parse::<Document>(body)?.scope(layout)?])
        }
        Layout::Operations => parse::<Operations>(body)?
            .operations
            .into_iter()
            .map(|Operation { layout, document }| document.scope(layout))
            .collect(),
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, NotUnderstood> {
    serde_json::from_slice(body).map_err(|_| NotUnderstood)
}

#[derive(Deserialize)]
struct Keyed {
    #[serde(default)]
    shard_key: Option<KeySelector>,
}

#[derive(Deserialize)]
struct Searches {
    searches: Vec<Keyed>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    shard_key: Option<KeySelector>,
    #[serde(default)]
    points: Option<Vec<PointRef>>,
    #[serde(default)]
    batch: Option<Columns>,
    #[serde(default)]
    filter: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Columns {
    ids: Vec<PointRef>,
}

#[derive(Deserialize)]
struct Operations {
    operations: Vec<Operation>,
}

struct Operation {
    layout: Layout,
    document: Document,
}

/// A point id, alone or as the `id` of an object.
pub(super) struct PointRef(pub(super) PointId);

#[derive(Deserialize)]
#[serde(untagged)]
enum KeySelector {
    One(ShardKey),
    Several(Vec<ShardKey>),
    WithFallback { target: ShardKey, fallback: ShardKey },
}

// === impl KeySelector ===

impl KeySelector {
    fn into_keys(selector: Option<Self>) -> Keys {
        match selector {
            None => Keys::Unspecified,
            Some(Self::One(key)) => Keys::Any(vec![key]),
            Some(Self::Several(keys)) => Keys::Any(keys),
            Some(Self::WithFallback { target, fallback }) => Keys::WithFallback { target, fallback },
        }
    }
}

impl From<Keyed> for Scope {
    fn from(keyed: Keyed) -> Self {
        Self { keys: KeySelector::into_keys(keyed.shard_key), points: Points::All }
    }
}

// === impl Document ===

impl Document {
    fn scope(self, layout: Layout) -> Result<Scope, NotUnderstood> {
        let ids = |points: Vec<PointRef>| Points::Ids(points.into_iter().map(|point| point.0).collect());
        let points = match (layout, self.points, self.batch, self.filter) {
            (Layout::VectorSelector, _, _, Some(_)) => Points::All,
            (_, Some(points), None, _) => ids(points),
            (Layout::Points, None, Some(columns), _) => ids(columns.ids),
            (Layout::Selector, None, None, Some(_)) => Points::All,
            _ => return Err(NotUnderstood),
        };
        Ok(Scope { keys: KeySelector::into_keys(self.shard_key), points })
    }
}

// === impl Operation ===

impl<'de> Deserialize<'de> for Operation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneKey;

        impl<'de> Visitor<'de> for OneKey {
            type Value = Operation;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of one key that names the operation")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Operation, A::Error> {
                #[derive(Deserialize)]
                #[serde(rename_all = "snake_case")]
                enum Kind {
                    Upsert,
                    Delete,
                    SetPayload,
                    OverwritePayload,
                    DeletePayload,
                    ClearPayload,
                    UpdateVectors,
                    DeleteVectors,
                }

                let kind = map.next_key()?.ok_or_else(|| de::Error::custom("no operation"))?;
                let layout = match kind {
                    Kind::Upsert | Kind::UpdateVectors => Layout::Points,
                    Kind::Delete | Kind::SetPayload | Kind::OverwritePayload => Layout::Selector,
                    Kind::DeletePayload | Kind::ClearPayload => Layout::Selector,
                    Kind::DeleteVectors => Layout::VectorSelector,
                };
                let document = map.next_value()?;
                match map.next_key::<IgnoredAny>()? {
                    None => Ok(Operation { layout, document }),
                    Some(_) => Err(de::Error::custom("more than one operation")),
                }
            }
        }

        deserializer.deserialize_map(OneKey)
    }
}

// === impl PointRef ===

impl<'de> Deserialize<'de> for PointRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdOrPoint;

        impl<'de> Visitor<'de> for IdOrPoint {
            type Value = PointRef;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a point id, or a point")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<PointRef, E> {
                Ok(PointRef(PointId::Num(number)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PointRef, E> {
                PointId::from_body_str(text).map(PointRef).ok_or_else(|| E::custom("not a UUID"))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PointRef, A::Error> {
                #[derive(Deserialize)]
                #[serde(field_identifier, rename_all = "snake_case")]
                enum Field {
                    Id,
                    #[serde(other)]
                    Other,
                }

                let mut found = None;
                while let Some(field) = map.next_key()? {
                    match field {
                        Field::Id if found.is_some() => return Err(de::Error::duplicate_field("id")),
                        Field::Id => found = Some(map.next_value()?),
                        Field::Other => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                found.ok_or_else(|| de::Error::missing_field("id"))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<PointRef, A::Error> {
                Err(de::Error::custom("not a point id"))
            }
        }

        deserializer.deserialize_any(IdOrPoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEEP: Depth = Depth { keys: true, ids: true };

    fn one(layout: Layout, body: &str) -> Option<Scope> {
        scopes(layout, body.as_bytes(), DEEP).ok()?.into_iter().next()
    }

    fn ids(ids: &[u64]) -> Points {
        Points::Ids(ids.iter().copied().map(PointId::Num).collect())
    }

    #[test]
    fn ids_wherever_a_write_keeps_them() {
        let uuid = "550e8400-e29b-41d4-a716-446655440000";
        for (layout, body, expected) in [
            (
                Layout::Points,
                r#"{"points":[{"id":1,"vector":[0.5],"payload":{"id":9}},{"vector":{},"id":2}]}"#,
                ids(&[1, 2]),
            ),
            (Layout::Points, r#"{"batch":{"vectors":[[1],[2]],"ids":[3,4]}}"#, ids(&[3, 4])),
            (Layout::Selector, r#"{"points":[5],"payload":{"points":[6]}}"#, ids(&[5])),
            (Layout::Selector, r#"{"filter":{"must":[]},"points":[5]}"#, ids(&[5])),
            (Layout::Selector, r#"{"filter":{"must":[]}}"#, Points::All),
            (Layout::VectorSelector, r#"{"points":[7],"vector":["a"]}"#, ids(&[7])),
            (Layout::VectorSelector, r#"{"points":[7],"filter":{},"vector":["a"]}"#, Points::All),
            (
                Layout::Selector,
                &format!(r#"{{"points":["{uuid}"]}}"#),
                Points::Ids(vec![PointId::from_body_str(uuid).expect("a UUID")]),
            ),
        ] {
            assert_eq!(
                one(layout, body),
                Some(Scope { keys: Keys::Unspecified, points: expected }),
                "{body}"
            );
        }
    }

    #[test]
    fn shard_keys_in_all_their_forms() {
        let text = |key: &str| ShardKey::Keyword(key.to_owned());
        for (json, expected) in [
            ("null", Keys::Unspecified),
            (r#""a""#, Keys::Any(vec![text("a")])),
            ("7", Keys::Any(vec![ShardKey::Number(7)])),
            (r#"["a",7]"#, Keys::Any(vec![text("a"), ShardKey::Number(7)])),
            ("[]", Keys::Any(vec![])),
            (
                r#"{"target":"a","fallback":"b"}"#,
                Keys::WithFallback { target: text("a"), fallback: text("b") },
            ),
        ] {
            let body = format!(r#"{{"limit":3,"shard_key":{json}}}"#);
            assert_eq!(one(Layout::Key, &body).map(|scope| scope.keys), Some(expected), "{json}");
        }
    }

    #[test]
    fn batches_have_a_scope_per_item() {
        let body = br#"{"operations":[
            {"upsert":{"points":[{"id":1,"vector":[1]}],"shard_key":"a"}},
            {"delete":{"points":[2]}}, {"clear_payload":{"filter":{}}},
            {"delete_vectors":{"points":[3],"vector":["v"]}}]}"#;
        let found = scopes(Layout::Operations, body, DEEP).expect("operations");
        let points: Vec<_> = found.iter().map(|scope| scope.points.clone()).collect();
        assert_eq!(points, [ids(&[1]), ids(&[2]), Points::All, ids(&[3])]);
        assert_eq!(found[0].keys, Keys::Any(vec![ShardKey::Keyword("a".to_owned())]));

        let found = scopes(Layout::Searches, br#"{"searches":[{"shard_key":1},{"limit":1}]}"#, DEEP);
        let keys: Vec<_> = found.expect("searches").into_iter().map(|scope| scope.keys).collect();
        assert_eq!(keys, [Keys::Any(vec![ShardKey::Number(1)]), Keys::Unspecified]);
    }

    #[test]
    fn what_qdrant_would_refuse_is_not_understood() {
        for (layout, body) in [
            (Layout::Points, ""),
            (Layout::Points, "{"),
            (Layout::Points, "[]"),
            (Layout::Points, r#"{"points":[{"vector":[1]}]}"#),
            (Layout::Points, r#"{"points":[{"id":-1}]}"#),
            (Layout::Points, r#"{"points":[{"id":18446744073709551616}]}"#),
            (Layout::Points, r#"{"points":[{"id":"42"}]}"#),
            (Layout::Points, r#"{"points":[{"id":1}],"batch":{"ids":[2]}}"#),
            (Layout::Selector, r#"{"points":[[1]]}"#),
            (Layout::Selector, r#"{"payload":{}}"#),
            (Layout::Operations, r#"{"operations":[{"upsert":{"points":[1]},"delete":{"points":[1]}}]}"#),
            (Layout::Operations, r#"{"operations":[{"explode":{}}]}"#),
            (Layout::Key, r#"{"shard_key":{"target":"a"}}"#),
        ] {
            assert_eq!(one(layout, body), None, "{body}");
        }
    }

    #[test]
    fn depth_costs_neither_stack_nor_understanding() {
        let deep =
            format!(r#"{{"points":[{{"id":1,"payload":{}1{}}}]}}"#, "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(one(Layout::Points, &deep).map(|scope| scope.points), Some(ids(&[1])));
    }

    #[test]
    fn nothing_is_read_that_cannot_matter() {
        let everything = scopes(Layout::Points, b"not even JSON", Depth::default());
        assert_eq!(everything.expect("no need to look").into_vec(), [Scope::EVERYTHING]);
        let keys_only = Depth { keys: true, ids: false };
        let found = scopes(Layout::Points, br#"{"points":["no id"],"shard_key":"a"}"#, keys_only);
        assert_eq!(found.expect("ids are not looked at")[0].points, Points::All);
    }
}
