//! Peeks at JSON bodies: shard keys and point ids, and nothing else is decoded.
//!
//! Vectors and payloads are skipped without recursion and without a look at their numbers, so neither their size nor
//! their depth costs memory. A body that Qdrant would refuse may be understood here and the other way
//! round; either way Qdrant has the last word, because the body is forwarded as it came.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};
use smallvec::SmallVec;

use super::{
    Depth, Keys, NotUnderstood, Points, Scope,
    listing::{Listing, MAX_SCOPES, Room},
};
use crate::topology::{PointId, ShardKey};

mod scan;

pub(super) use self::scan::{Scan, is_space};

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

type Result<T> = std::result::Result<T, NotUnderstood>;

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
#[inline]
pub(super) fn scopes(layout: Layout, body: &[u8], depth: Depth) -> Result<SmallVec<[Scope; 1]>> {
    if depth == Depth::default() || layout == Layout::Nothing {
        return Ok(SmallVec::from([Scope::EVERYTHING]));
    }
    let (mut scan, mut room) = (Scan::new(body), Room::new());
    let scopes = match layout {
        Layout::Nothing | Layout::Location => SmallVec::from([Scope::EVERYTHING]),
        Layout::Key | Layout::Retrieve => SmallVec::from([keyed(&mut scan, &mut room)?]),
        Layout::Searches => each_of(&mut scan, b"searches", |scan| keyed(scan, &mut room))?,
        Layout::Points | Layout::Selector | Layout::VectorSelector if !depth.ids => {
            SmallVec::from([keyed(&mut scan, &mut room)?])
        }
        Layout::Points | Layout::Selector | Layout::VectorSelector => {
            SmallVec::from([document(&mut scan, &mut room, layout)?])
        }
        Layout::Operations => each_of(&mut scan, b"operations", |scan| operation(scan, &mut room))?,
    };
    scan.end()?;
    Ok(scopes)
}

fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|_| NotUnderstood)
}

/// Puts into `place` what `take` takes, unless something is there: no key stands twice.
pub(super) fn once<T>(place: &mut Option<T>, take: impl FnOnce() -> Result<T>) -> Result<()> {
    if place.is_some() {
        return Err(NotUnderstood);
    }
    *place = Some(take()?);
    Ok(())
}

/// Has `take` take the value, unless that is `null`.
fn unless_null<'a>(scan: &mut Scan<'a>, take: impl FnOnce(&mut Scan<'a>) -> Result<()>) -> Result<()> {
    if scan.null() { Ok(()) } else { take(scan) }
}

/// Takes an object of which the key `name` alone matters.
fn member<'a, T, const N: usize>(
    scan: &mut Scan<'a>,
    name: &[u8; N],
    mut take: impl FnMut(&mut Scan<'a>) -> Result<T>,
) -> Result<Option<T>> {
    let mut found = None;
    scan.object(|scan| if scan.key(name)? { once(&mut found, || take(scan)) } else { scan.member() })?;
    Ok(found)
}

fn keyed(scan: &mut Scan<'_>, room: &mut Room) -> Result<Scope> {
    let keys = member(scan, b"shard_key", |scan| shard_keys(scan, room))?.unwrap_or(Keys::Unspecified);
    Ok(Scope { keys, ..Scope::EVERYTHING })
}

/// The scope that `take` takes of each element of the list `name`.
fn each_of<const N: usize>(
    scan: &mut Scan<'_>,
    name: &[u8; N],
    mut take: impl FnMut(&mut Scan<'_>) -> Result<Scope>,
) -> Result<SmallVec<[Scope; 1]>> {
    let scopes = member(scan, name, |scan| {
        let mut scopes = SmallVec::new();
        scan.array(|scan| {
            if scopes.len() == MAX_SCOPES {
                return Err(NotUnderstood);
            }
            scopes.push(take(scan)?);
            Ok(())
        })?;
        Ok(scopes)
    })?;
    scopes.ok_or(NotUnderstood)
}

/// An object of one key that names the operation.
fn operation(scan: &mut Scan<'_>, room: &mut Room) -> Result<Scope> {
    let mut scope = None;
    scan.object(|scan| {
        let layout = match scan.any_key()? {
            b"upsert" | b"update_vectors" => Layout::Points,
            b"delete" | b"set_payload" | b"overwrite_payload" | b"delete_payload" | b"clear_payload" => {
                Layout::Selector
            }
            b"delete_vectors" => Layout::VectorSelector,
            _ => return Err(NotUnderstood),
        };
        once(&mut scope, || document(scan, room, layout))
    })?;
    scope.ok_or(NotUnderstood)
}

/// An operation on points.
fn document(scan: &mut Scan<'_>, room: &mut Room, layout: Layout) -> Result<Scope> {
    let (mut keys, mut listed, mut columns) = (None, None, None);
    let (mut filter, mut is_conditional) = (None, false);
    scan.object(|scan| {
        if scan.key(b"points")? {
            unless_null(scan, |scan| once(&mut listed, || points(scan, room, point)))
        } else if scan.key(b"batch")? {
            unless_null(scan, |scan| {
                once(&mut columns, || {
                    member(scan, b"ids", |scan| points(scan, room, id))?.ok_or(NotUnderstood)
                })
            })
        } else if scan.key(b"shard_key")? {
            once(&mut keys, || shard_keys(scan, room))
        } else if scan.key(b"filter")? {
            unless_null(scan, |scan| once(&mut filter, || scan.value().map(drop)))
        } else if scan.key(b"update_filter")? || scan.key(b"update_mode")? {
            unless_null(scan, |scan| {
                is_conditional = true;
                scan.value().map(drop)
            })
        } else {
            scan.member()
        }
    })?;
    let points = match (layout, listed, columns, filter) {
        (Layout::VectorSelector, _, _, Some(())) => Points::All,
        (_, Some(points), None, _) | (Layout::Points, None, Some(points), _) => points,
        (Layout::Selector, None, None, Some(())) => Points::All,
        _ => return Err(NotUnderstood),
    };
    Ok(Scope { keys: keys.unwrap_or(Keys::Unspecified), points, is_conditional })
}

/// A point id.
pub(super) struct PointRef(pub(super) PointId);

#[derive(Deserialize)]
#[serde(untagged)]
enum KeySelector {
    One(ShardKey),
    Several(Vec<ShardKey>),
    WithFallback { target: ShardKey, fallback: ShardKey },
}

fn shard_keys(scan: &mut Scan<'_>, room: &mut Room) -> Result<Keys> {
    let keys = scan.value()?;
    // More where a key has commas in it, which costs nothing.
    let count = 1 + memchr::memchr_iter(b',', keys).count();
    room.take_shard_keys(count, keys.len())?;
    Ok(match parse::<Option<KeySelector>>(keys)? {
        None => Keys::Unspecified,
        Some(KeySelector::One(key)) => Keys::Any(vec![key]),
        Some(KeySelector::Several(keys)) => Keys::Any(keys),
        Some(KeySelector::WithFallback { target, fallback }) => {
            Keys::WithFallback { target: target.into(), fallback: fallback.into() }
        }
    })
}

/// A point id, alone or as the `id` of an object.
#[inline]
fn point(scan: &mut Scan<'_>) -> Result<PointId> {
    let Some(b'{') = scan.peek() else { return id(scan) };
    let mut found = None;
    scan.object(|scan| {
        if scan.key(b"id")? {
            once(&mut found, || id(scan))
        } else if scan.key(b"vector")? {
            scan.vector()
        } else {
            scan.member()
        }
    })?;
    found.ok_or(NotUnderstood)
}

pub(super) fn id(scan: &mut Scan<'_>) -> Result<PointId> {
    if let Some(number) = scan.number() {
        return Ok(PointId::Num(number));
    }
    parse::<PointRef>(scan.value()?).map(|id| id.0)
}

/// The points of which `take` takes the ids from an array.
fn points(
    scan: &mut Scan<'_>,
    room: &mut Room,
    take: impl Fn(&mut Scan<'_>) -> Result<PointId>,
) -> Result<Points> {
    let mut listing = Listing::default();
    scan.array(|scan| {
        if listing.has_room(room) {
            listing.push(take(scan)?);
            Ok(())
        } else {
            scan.value().map(drop)
        }
    })?;
    Ok(listing.points(room))
}

// === impl PointRef ===

impl<'de> Deserialize<'de> for PointRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Id;

        impl Visitor<'_> for Id {
            type Value = PointRef;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a point id")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> std::result::Result<PointRef, E> {
                Ok(PointRef(PointId::Num(number)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<PointRef, E> {
                PointId::from_body_str(text).map(PointRef).ok_or_else(|| E::custom("not a UUID"))
            }
        }

        deserializer.deserialize_any(Id)
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::{
        super::listing::{MAX_IDS, MAX_SHARD_KEY_BYTES, MAX_SHARD_KEYS},
        *,
    };

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
                Points::Ids(smallvec![PointId::from_body_str(uuid).expect("a UUID")]),
            ),
        ] {
            assert_eq!(one(layout, body), Some(Scope { points: expected, ..Scope::EVERYTHING }), "{body}");
        }
    }

    #[test]
    fn keys_are_known_by_all_of_their_name() {
        let expected = Some(ids(&[1]));
        let points = |layout, body: &str| one(layout, body).map(|scope| scope.points);
        // White space wherever it may be, and keys that begin as others do, or end as they do.
        for body in [
            r#" { "points" : [ { "vector" : [ 0.5 ] , "id" : 1 } ] } "#,
            "{\n\t\"points\":\r\n[{\"id\"\t:\n1}]}",
            r#"{"point":[2],"points":[{"i":2,"ids":3,"id":1,"i d":4,"vectors":5,"vecto":"]"}],"points2":[6],"xpoints":[7]}"#,
            r#"{"filters":{},"shard_keys":"a","batches":{"ids":[2]},"update_filter_":{},"points":[{"id":1}]}"#,
            r#"{"":{"points":[2]},"payload":{"points":[{"id":3}]},"points":[{"":2,"payload":{"id":4},"id":1}]}"#,
        ] {
            assert_eq!(points(Layout::Points, body), expected, "{body}");
        }
        // The same key again, or written in another way.
        for body in [
            r#"{"points":[{"id":1}],"points":[{"id":1}]}"#,
            r#"{"points":[{"id":1,"id":1}]}"#,
            r#"{"points":[{"id":1}],"po\u0069nts":[{"id":2}]}"#,
            r#"{"points":[{"id":1,"\u0069d":2}]}"#,
            r#"{"shard_key":"a","points":[{"id":1}],"shard_key":"b"}"#,
            "{\"points\":[{\"id\":1}],\"a\nb\":1}",
            r#"{"points" [{"id":1}]}"#,
            r#"{"points":[{"id" 1}]}"#,
        ] {
            assert_eq!(points(Layout::Points, body), None, "{body}");
        }
        // Wherever a body ends that is cut off.
        let body =
            r#"{"shard_key":"a","filter":{"must":[]},"update_mode":"upsert","points":[5],"batch":null}"#;
        assert_eq!(points(Layout::Selector, body), Some(ids(&[5])));
        for end in 0..body.len() {
            assert_eq!(points(Layout::Selector, &body[..end]), None, "{}", &body[..end]);
        }
    }

    #[test]
    fn conditions_of_a_batch_are_noticed() {
        for (condition, expected) in [
            ("", false),
            (r#","update_filter":null,"update_mode":null"#, false),
            (r#","update_filter":{"must":[]}"#, true),
            (r#","update_mode":"insert_only""#, true),
        ] {
            let body = format!(r#"{{"operations":[{{"upsert":{{"points":[{{"id":1}}]{condition}}}}}]}}"#);
            let scope = one(Layout::Operations, &body).expect("it is understood");
            assert_eq!((scope.points, scope.is_conditional), (ids(&[1]), expected), "{body}");
        }
    }

    #[test]
    fn vectors_end_where_they_end() {
        for vector in [
            "[-0.5]",
            "[1, 2e3 ]",
            "[ 1 ]",
            "[]",
            "[[1],[2]]",
            r#"{"a":[1],"b":["]"]}"#,
            r#"{"text":"]"}"#,
            "null",
        ] {
            let body = format!(
                r#"{{"points":[{{"id":1,"vector":{vector},"payload":{{"a":[1,"]"]}}}},{{"vector":{vector},"id":2}}]}}"#
            );
            assert_eq!(one(Layout::Points, &body).map(|scope| scope.points), Some(ids(&[1, 2])), "{vector}");
            for end in 0..body.len() {
                assert_eq!(one(Layout::Points, &body[..end]), None, "{}", &body[..end]);
            }
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
                Keys::WithFallback { target: text("a").into(), fallback: text("b").into() },
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
    fn no_more_is_listed_than_there_is_room_for() {
        let listed = |count: usize| Vec::from_iter(1..=count as u64);
        let body = |ids: &[u64]| serde_json::json!({ "points": ids }).to_string();
        let many = listed(MAX_IDS);
        let points = |ids: &[u64]| one(Layout::Selector, &body(ids)).map(|scope| scope.points);
        assert_eq!(points(&many), Some(ids(&many)));
        assert_eq!(points(&listed(MAX_IDS + 1)), Some(Points::All));

        // All operations share the room, and one that finds none left takes none.
        let half = listed(MAX_IDS / 2 + 1);
        let deletions = [&half[..], &half[..], &[7][..]].map(|ids| format!(r#"{{"delete":{}}}"#, body(ids)));
        let operations = format!(r#"{{"operations":[{}]}}"#, deletions.join(","));
        let found = scopes(Layout::Operations, operations.as_bytes(), DEEP).expect("operations");
        let found: Vec<_> = found.into_iter().map(|scope| scope.points).collect();
        assert_eq!(found, [ids(&half), Points::All, ids(&[7])]);

        for (count, is_listed) in [(MAX_SCOPES, true), (MAX_SCOPES + 1, false)] {
            let searches = format!(r#"{{"searches":[{}]}}"#, vec!["{}"; count].join(","));
            let found = scopes(Layout::Searches, searches.as_bytes(), DEEP);
            assert_eq!(found.map(|scopes| scopes.len()).ok(), is_listed.then_some(count));
        }
        let keys = |length: usize| format!(r#"{{"shard_key":"{}"}}"#, "k".repeat(length - 2));
        assert!(one(Layout::Key, &keys(MAX_SHARD_KEY_BYTES)).is_some());
        assert_eq!(one(Layout::Key, &keys(MAX_SHARD_KEY_BYTES + 1)), None);
        let several = |count: usize| format!(r#"{{"shard_key":[{}]}}"#, vec!["1"; count].join(","));
        assert!(one(Layout::Key, &several(MAX_SHARD_KEYS)).is_some());
        assert_eq!(one(Layout::Key, &several(MAX_SHARD_KEYS + 1)), None);
        // All searches share the room.
        let searches = |count: usize| {
            let searches = vec![keys(MAX_SHARD_KEY_BYTES / 2); count].join(",");
            scopes(Layout::Searches, format!(r#"{{"searches":[{searches}]}}"#).as_bytes(), DEEP)
        };
        assert!(searches(2).is_ok());
        assert!(searches(3).is_err());
    }

    #[test]
    fn numbers_as_qdrant_reads_them() {
        for (text, number) in [
            ("0", Some(0)),
            ("7", Some(7)),
            ("9999999999999999999", Some(9_999_999_999_999_999_999)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("00", None),
            ("01", None),
            ("1.0", None),
            ("1e0", None),
            ("-0", None),
            ("1x", None),
        ] {
            let expected = number.map(|number| ids(&[number, 5]));
            for body in [format!(r#"{{"points":[{text},5]}}"#), format!(r#"{{"points":[ {text} , 5]}}"#)] {
                assert_eq!(one(Layout::Selector, &body).map(|scope| scope.points), expected, "{body}");
            }
            let alone = number.map(PointId::Num).ok_or(NotUnderstood);
            assert_eq!(id(&mut Scan::new(text.as_bytes())), alone, "{text}");
        }
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
