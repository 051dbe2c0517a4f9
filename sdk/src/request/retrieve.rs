//! Reads of points by id over REST, for those who read shard by shard.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Call, Layout,
    json::{self, PointRef},
};
use crate::topology::PointId;

/// What a read of points by id asks for.
#[derive(Debug)]
pub(crate) struct Retrieve<'a> {
    /// The ids, as often and in the order in which they are asked for.
    pub(crate) ids: Vec<PointId>,
    /// Whether one point is asked for by its path.
    pub(crate) is_single: bool,
    /// Whether a shard key is given.
    pub(crate) has_key: bool,
    /// What is asked for of each point, as the body says it.
    rest: BTreeMap<&'a str, &'a RawValue>,
}

/// What `call` asks for, where it reads points by id.
pub(crate) fn retrieve<'a>(call: &Call, body: &'a [u8]) -> Option<Retrieve<'a>> {
    if let Some(id) = call.point {
        return Some(Retrieve { ids: vec![id], is_single: true, has_key: false, rest: BTreeMap::new() });
    }
    let Layout::Rest(json::Layout::Retrieve) = call.layout else { return None };
    let mut rest: BTreeMap<&str, &RawValue> = serde_json::from_slice(body).ok()?;
    let ids: Vec<PointRef> = serde_json::from_str(rest.remove("ids")?.get()).ok()?;
    let has_key = rest.remove("shard_key").is_some_and(|key| key.get() != "null");
    let ids: Vec<PointId> = ids.into_iter().map(|id| id.0).collect();
    (!ids.is_empty()).then_some(Retrieve { ids, is_single: false, has_key, rest })
}

/// The id of a point in a reply.
pub(crate) fn row_id(row: &RawValue) -> Option<PointId> {
    #[derive(Deserialize)]
    struct Row {
        id: PointRef,
    }

    serde_json::from_str::<Row>(row.get()).ok().map(|row| row.id.0)
}

// === impl Retrieve ===

impl Retrieve<'_> {
    /// The body of a read of those points alone.
    pub(crate) fn body(&self, ids: &[PointId]) -> Option<Bytes> {
        let ids: Vec<serde_json::Value> = ids
            .iter()
            .map(|id| match id {
                PointId::Num(number) => (*number).into(),
                PointId::Uuid(uuid) => uuid.to_string().into(),
            })
            .collect();
        let ids = serde_json::to_string(&ids).ok()?;
        let ids = serde_json::from_str(&ids).ok()?;
        let mut fields = self.rest.clone();
        // By its path, a point is read whole.
        let everything = RawValue::from_string("true".to_owned()).ok()?;
        if self.is_single {
            fields.insert("with_payload", &everything);
            fields.insert("with_vector", &everything);
        }
        fields.insert("ids", ids);
        serde_json::to_vec(&fields).ok().map(Bytes::from)
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::request::Protocol;

    fn call(method: &Method, path: &str) -> Call {
        Call::of(Protocol::Rest, method, &path.parse().expect("a path"))
    }

    fn text(body: Option<Bytes>) -> String {
        String::from_utf8(body.expect("a body").to_vec()).expect("text")
    }

    #[test]
    fn a_body_keeps_what_is_asked_of_each_point() {
        let body =
            br#"{"ids":[3,1,"550e8400e29b41d4a716446655440000"],"with_payload":["a"],"shard_key":"k"}"#;
        let wanted = retrieve(&call(&Method::POST, "/collections/c/points"), body).expect("a read by id");
        let uuid = "550e8400-e29b-41d4-a716-446655440000";
        assert_eq!(wanted.ids[..2], [PointId::Num(3), PointId::Num(1)]);
        assert_eq!(
            text(wanted.body(&wanted.ids[1..])),
            format!(r#"{{"ids":[1,"{uuid}"],"with_payload":["a"]}}"#)
        );
    }

    #[test]
    fn a_point_by_its_path_is_read_whole() {
        let wanted = retrieve(&call(&Method::GET, "/collections/c/points/7"), b"").expect("a read by id");
        assert!(wanted.is_single);
        assert_eq!(text(wanted.body(&wanted.ids)), r#"{"ids":[7],"with_payload":true,"with_vector":true}"#);
    }

    #[test]
    fn other_requests_are_none() {
        for (method, path, body) in [
            (Method::POST, "/collections/c/points/scroll", r#"{"ids":[1]}"#),
            (Method::POST, "/collections/c/points", r#"{"ids":[]}"#),
            (Method::POST, "/collections/c/points", r#"{"ids":["x"]}"#),
            (Method::POST, "/collections/c/points", "{"),
            (Method::GET, "/collections/c/points/x", ""),
        ] {
            assert!(retrieve(&call(&method, path), body.as_bytes()).is_none(), "{path} {body}");
        }
    }
}
