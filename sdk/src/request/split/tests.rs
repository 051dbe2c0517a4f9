use http::Method;
use prost::Message as _;
use qdrant_client::qdrant as q;
use serde_json::{Value, json};

use super::*;
use crate::request::{Call, Depth, Points, Protocol};

fn rest(method: &Method, path: &str) -> Call {
    Call::of(Protocol::Rest, method, &format!("/collections/c/points{path}").parse().expect("a URI"))
}

fn grpc(name: &str) -> Call {
    let uri = format!("/qdrant.Points/{name}").parse().expect("a URI");
    Call::of(Protocol::Grpc, &Method::POST, &uri)
}

/// Cuts the body and deals it into even and odd places.
fn deal(call: &Call, body: &Bytes) -> [Bytes; 2] {
    let pieces = Pieces::of(call, body).expect("pieces");
    [pieces.part(|i| i % 2 == 0), pieces.part(|i| i % 2 == 1)]
}

fn parse(part: &Bytes) -> Value {
    serde_json::from_slice(part).expect("JSON")
}

#[test]
fn a_list_of_points_is_dealt_out_as_it_was_written() {
    let body = Bytes::from(
        r#" { "points" : [ {"id":1, "vector":[1.50,2] } ,{"vector":[ 2e-7 , 3],"id":2},
            {"id":"550e8400-e29b-41d4-a716-446655440000","vector":[0,0],"payload":{"points":[7]}} ] , "shard_key":"k" } "#,
    );
    let [even, odd] = deal(&rest(&Method::PUT, ""), &body);
    assert_eq!(
        even,
        r#" { "points" : [ {"id":1, "vector":[1.50,2] },{"id":"550e8400-e29b-41d4-a716-446655440000","vector":[0,0],"payload":{"points":[7]}} ] , "shard_key":"k" } "#
    );
    assert_eq!(odd, r#" { "points" : [ {"vector":[ 2e-7 , 3],"id":2} ] , "shard_key":"k" } "#);
}

#[test]
fn columns_stay_side_by_side() {
    let batch = json!({ "batch": {
        "ids": [10, 11, 12],
        "payloads": [{ "n": 0 }, null, { "n": 2 }],
        "vectors": { "a": [[0], [1], [2]], "b": [[0, 0], [1, 1], [2, 2]] },
    }, "update_mode": "insert_only" });
    let [even, odd] = deal(&rest(&Method::PUT, ""), &Bytes::from(batch.to_string()));
    assert_eq!(
        parse(&even),
        json!({ "batch": {
        "ids": [10, 12],
        "payloads": [{ "n": 0 }, { "n": 2 }],
        "vectors": { "a": [[0], [2]], "b": [[0, 0], [2, 2]] },
    }, "update_mode": "insert_only" })
    );
    assert_eq!(parse(&odd)["batch"]["ids"], json!([11]));
    assert_eq!(parse(&odd)["batch"]["payloads"], json!([null]));

    let plain = json!({ "batch": { "vectors": [[0], [1]], "ids": [1, 2], "payloads": null } });
    let [even, _] = deal(&rest(&Method::PUT, ""), &Bytes::from(plain.to_string()));
    assert_eq!(parse(&even), json!({ "batch": { "vectors": [[0]], "ids": [1], "payloads": null } }));
}

#[test]
fn payload_operations_keep_their_payload_in_every_part() {
    let body = json!({ "payload": { "points": 1 }, "points": [3, 4, 5], "key": "nested" });
    let [even, odd] = deal(&rest(&Method::POST, "/payload"), &Bytes::from(body.to_string()));
    assert_eq!(parse(&even), json!({ "payload": { "points": 1 }, "points": [3, 5], "key": "nested" }));
    assert_eq!(parse(&odd), json!({ "payload": { "points": 1 }, "points": [4], "key": "nested" }));
}

#[test]
fn what_cannot_be_dealt_out_is_left_whole() {
    for (call, body) in [
        (rest(&Method::POST, "/delete"), r#"{"filter":{}}"#),
        (rest(&Method::POST, "/batch"), r#"{"operations":[{"delete":{"points":[1,2]}}]}"#),
        (rest(&Method::PUT, ""), r#"{"batch":{"ids":[1,2],"vectors":[[1]]}}"#),
        (rest(&Method::PUT, ""), r#"{"points":[{"id":1}],"batch":{"ids":[1],"vectors":[[1]]}}"#),
        (rest(&Method::PUT, ""), r#"{"points":[{"id":1.5},{"id":2}]}"#),
        (rest(&Method::PUT, ""), r#"{"points":[{"id":1,"vector":[1]},{"id":2,"vector":[1}]}"#),
        (rest(&Method::PUT, ""), r#"{"points":[{"id":1,"vector":[1]},{"id":2,"vector":[01]}]}"#),
        (rest(&Method::PUT, ""), r#"{"points":[{"id":1,"payload":{"a":nil}},{"id":2,"payload":{}}]}"#),
        (rest(&Method::PUT, ""), r#"{"points":[{"id":1,"payload":{}},{"id":2,"payload":{},"payload":{}}]}"#),
        (rest(&Method::PUT, ""), r#"{"points":[{"id":1},{"id":2}],"wait":yes}"#),
        (rest(&Method::PUT, ""), "{\"points\":[{\"id\":1},{\"id\":2,\"a\nb\":1}]}"),
        (rest(&Method::PUT, ""), r#"{"points":[{"id":1,"payload":{}},{"id":2,"payload":{"a":1e999}}]}"#),
        (
            rest(&Method::PUT, ""),
            r#"{"points":[{"id":1,"vector":{"s":{"indices":[1],"values":[1]}}},{"id":2,"vector":{"s":{"indices":[1],"values":[]}}}]}"#,
        ),
        (rest(&Method::POST, "/delete"), r#"{"points":[1,2]}]"#),
        (rest(&Method::PUT, ""), "nonsense"),
    ] {
        assert!(Pieces::of(&call, &Bytes::from(body)).is_err(), "{body}");
    }
}

#[test]
fn points_that_are_not_alike_go_whole() {
    let whole = |points: Value| {
        Pieces::of(&rest(&Method::PUT, ""), &Bytes::from(json!({ "points": points }).to_string())).is_err()
    };
    let alike = json!([{ "id": 1, "vector": { "a": [1, 2] } }, { "id": 2, "vector": { "a": [3, 4] }, "payload": {} }]);
    assert!(!whole(alike));
    for odd_one in [
        json!({ "id": 2, "vector": { "a": [3, 4, 5] } }),
        json!({ "id": 2, "vector": { "b": [3, 4] } }),
        json!({ "id": 2, "vector": { "a1": [3, 4] } }),
        json!({ "id": 2, "vector": [3, 4] }),
        json!({ "id": 2, "vector": { "a": [3, "4"] } }),
        json!({ "id": 2, "vector": { "a": [3, true] } }),
        json!({ "id": 2, "vector": [3, null] }),
        json!({ "id": 2 }),
        json!({ "id": 2, "vector": { "a": [3, 4] }, "payload": [] }),
    ] {
        assert!(whole(json!([{ "id": 1, "vector": { "a": [1, 2] } }, odd_one])), "{odd_one}");
    }
    let columns = json!({ "batch": { "ids": [1, 2], "vectors": [[1, 2], [3]] } });
    assert!(Pieces::of(&rest(&Method::PUT, ""), &Bytes::from(columns.to_string())).is_err());

    let points = |b: Vec<f32>| q::UpsertPoints {
        points: vec![
            q::PointStruct::new(1, vec![1.0, 2.0], qdrant_client::Payload::new()),
            q::PointStruct::new(2, b, qdrant_client::Payload::new()),
        ],
        ..Default::default()
    };
    assert!(Pieces::of(&grpc("Upsert"), &framed(&points(vec![3.0, 4.0]))).is_ok());
    assert!(Pieces::of(&grpc("Upsert"), &framed(&points(vec![3.0]))).is_err());
    let sparse = q::UpsertPoints {
        points: vec![
            q::PointStruct::new(
                1,
                q::Vector::new_sparse(vec![1], vec![0.5]),
                qdrant_client::Payload::new()
            );
            2
        ],
        ..Default::default()
    };
    assert!(Pieces::of(&grpc("Upsert"), &framed(&sparse)).is_err());
    let named = |names: [&str; 2]| {
        q::PointStruct::new(
            1,
            std::collections::HashMap::from([
                (names[0].to_owned(), vec![1.0]),
                (names[1].to_owned(), vec![1.0, 2.0]),
            ]),
            qdrant_client::Payload::new(),
        )
    };
    let swapped =
        q::UpsertPoints { points: vec![named(["a", "b"]), named(["b", "a"])], ..Default::default() };
    assert!(Pieces::of(&grpc("Upsert"), &framed(&swapped)).is_err());
    let same = q::UpsertPoints { points: vec![named(["a", "b"]), named(["a", "b"])], ..Default::default() };
    assert!(Pieces::of(&grpc("Upsert"), &framed(&same)).is_ok());
}

#[test]
fn payloads_that_qdrant_may_refuse_go_whole() {
    use q::value::Kind;
    let value = |kind| q::Value { kind: Some(kind) };
    let nested = |levels: usize| {
        (1..levels).fold(value(Kind::IntegerValue(-1)), |inside, level| {
            value(match level % 2 {
                0 => Kind::StructValue(q::Struct { fields: [("a".to_owned(), inside)].into() }),
                _ => Kind::ListValue(q::ListValue { values: vec![inside] }),
            })
        })
    };
    let is_cut = |odd_one: q::Value| {
        let points = [value(Kind::BoolValue(true)), odd_one].map(|value| {
            let payload = std::collections::HashMap::from([("a".to_owned(), value)]);
            q::PointStruct { payload, ..q::PointStruct::new(1, vec![1.0], qdrant_client::Payload::new()) }
        });
        Pieces::of(&grpc("Upsert"), &framed(&q::UpsertPoints { points: points.into(), ..Default::default() }))
            .is_ok()
    };
    for taken in [
        q::Value { kind: None },
        value(Kind::NullValue(0)),
        value(Kind::DoubleValue(-0.5)),
        value(Kind::StringValue("é".to_owned())),
        nested(16),
    ] {
        assert!(is_cut(taken.clone()), "{taken:?}");
    }
    for refused in [
        value(Kind::DoubleValue(f64::NAN)),
        value(Kind::DoubleValue(f64::NEG_INFINITY)),
        value(Kind::ListValue(q::ListValue { values: vec![value(Kind::DoubleValue(f64::INFINITY))] })),
        nested(17),
    ] {
        assert!(!is_cut(refused.clone()), "{refused:?}");
    }
    // Text that is none.
    let points = q::UpsertPoints {
        points: [1, 2]
            .map(|id| {
                q::PointStruct::new(id, vec![1.0], [("a", qdrant_client::qdrant::Value::from("bytes"))])
            })
            .into(),
        ..Default::default()
    };
    let message = points.encode_to_vec();
    assert!(Pieces::of(&grpc("Upsert"), &grpc::frame(&message)).is_ok());
    let at = message.windows(5).position(|bytes| bytes == b"bytes").expect("the text");
    let broken = [&message[..at], b"\xff", &message[at + 1..]].concat();
    assert!(Pieces::of(&grpc("Upsert"), &grpc::frame(&broken)).is_err());
}

fn framed(message: &impl prost::Message) -> Bytes {
    grpc::frame(&message.encode_to_vec())
}

fn unframed<M: prost::Message + Default>(part: &Bytes) -> M {
    M::decode(grpc::unframe(part).expect("a frame")).expect("a message")
}

#[test]
fn messages_with_points_are_dealt_out() {
    let points: Vec<_> = (0..5_u64)
        .map(|id| q::PointStruct::new(id, vec![id as f32, 0.5], qdrant_client::Payload::new()))
        .collect();
    let whole = q::UpsertPoints {
        collection_name: "c".to_owned(),
        wait: Some(true),
        points: points.clone(),
        timeout: Some(3),
        shard_key_selector: Some(q::ShardKeySelector { shard_keys: vec![7.into()], fallback: None }),
        ..Default::default()
    };
    let [even, odd] = deal(&grpc("Upsert"), &framed(&whole));
    let of = |places: &[usize]| q::UpsertPoints {
        points: places.iter().map(|&i| points[i].clone()).collect(),
        ..whole.clone()
    };
    assert_eq!(unframed::<q::UpsertPoints>(&even), of(&[0, 2, 4]));
    assert_eq!(unframed::<q::UpsertPoints>(&odd), of(&[1, 3]));
}

#[test]
fn messages_with_a_selector_are_dealt_out() {
    let selector = |ids: &[u64]| q::PointsSelector {
        points_selector_one_of: Some(q::points_selector::PointsSelectorOneOf::Points(q::PointsIdsList {
            ids: ids.iter().map(|&id| id.into()).collect(),
        })),
    };
    let many: Vec<u64> = (0..300).map(|i| i * 1_000_003).collect();
    let whole = |ids: &[u64]| q::SetPayloadPoints {
        collection_name: "c".to_owned(),
        payload: [("a".to_owned(), 1.into())].into(),
        points_selector: Some(selector(ids)),
        key: Some("nested".to_owned()),
        ..Default::default()
    };
    let [even, odd] = deal(&grpc("SetPayload"), &framed(&whole(&many)));
    let places = |odd: usize| many.iter().skip(odd).step_by(2).copied().collect::<Vec<_>>();
    assert_eq!(unframed::<q::SetPayloadPoints>(&even), whole(&places(0)));
    assert_eq!(unframed::<q::SetPayloadPoints>(&odd), whole(&places(1)));

    let by_filter = q::DeletePoints {
        points: Some(q::PointsSelector {
            points_selector_one_of: Some(q::points_selector::PointsSelectorOneOf::Filter(Default::default())),
        }),
        ..Default::default()
    };
    assert!(Pieces::of(&grpc("Delete"), &framed(&by_filter)).is_err());
    assert!(Pieces::of(&grpc("UpdateBatch"), &framed(&q::UpdateBatchPoints::default())).is_err());
}

/// Whatever the points and however they are dealt out, the parts together are the whole.
#[test]
fn every_point_is_in_exactly_one_part() {
    let dice = crate::dice::Dice::seeded(5);
    for _ in 0..300 {
        let ids: Vec<u64> = (0..=dice.throw() % 12).map(|_| dice.throw() % 9).collect();
        let points: Vec<Value> =
            ids.iter().map(|id| json!({ "id": id, "vector": [dice.throw() % 100] })).collect();
        let body = Bytes::from(json!({ "points": points }).to_string());
        let call = rest(&Method::PUT, "");
        let pieces = Pieces::of(&call, &body).expect("pieces");
        let hands: Vec<u64> = ids.iter().map(|_| dice.throw() % 3).collect();
        let mut dealt = Vec::new();
        for hand in 0..3 {
            let part = parse(&pieces.part(|i| hands[i] == hand));
            let expected: Vec<&Value> =
                points.iter().zip(&hands).filter(|&(_, &h)| h == hand).map(|(p, _)| p).collect();
            assert_eq!(part["points"].as_array().expect("points").iter().collect::<Vec<_>>(), expected);
            dealt.extend(expected);
        }
        assert_eq!(dealt.len(), points.len());
        let depth = Depth { keys: true, ids: true };
        let whole = call.intent(&body, depth).expect("an intent");
        assert_eq!(whole.scopes[0].points, Points::Ids(pieces.ids.clone().into()), "both readings agree");
    }
}
