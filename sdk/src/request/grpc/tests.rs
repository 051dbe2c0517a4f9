use qdrant_client::qdrant::{
    self as q, Condition, Filter, PointStruct, points_selector::PointsSelectorOneOf,
    points_update_operation::Operation,
};
use smallvec::smallvec;

use super::*;
use crate::request::{
    Action, Intent,
    listing::{MAX_IDS, MAX_SHARD_KEY_BYTES, MAX_SHARD_KEYS},
};

const DEEP: Depth = Depth { keys: true, ids: true };
const UUID: &str = "550e8400-e29b-41d4-a716-446655440000";

fn frame(message: &impl prost::Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).expect("a short message").to_be_bytes());
    framed.extend(message);
    framed
}

fn intent(path: &str, message: &impl prost::Message) -> Result<Intent, NotUnderstood> {
    call(path).intent(&frame(message), DEEP)
}

fn scopes(path: &str, message: &impl prost::Message) -> Vec<Scope> {
    intent(path, message).expect("an intent").scopes.into_vec()
}

fn ids(ids: &[u64]) -> Points {
    Points::Ids(ids.iter().copied().map(PointId::Num).collect())
}

fn strong() -> Option<q::WriteOrdering> {
    Some(q::WriteOrdering { r#type: q::WriteOrderingType::Strong.into() })
}

fn key() -> Option<q::ShardKeySelector> {
    Some(q::ShardKeySelector { shard_keys: vec!["tenant".to_owned().into()], fallback: None })
}

fn selector(points: PointsSelectorOneOf) -> Option<q::PointsSelector> {
    Some(q::PointsSelector { points_selector_one_of: Some(points) })
}

fn by_id(ids: &[u64]) -> Option<q::PointsSelector> {
    let ids = ids.iter().map(|&id| id.into()).collect();
    selector(PointsSelectorOneOf::Points(q::PointsIdsList { ids }))
}

fn tenant(points: Points) -> Scope {
    let keys = Keys::Any(vec![ShardKey::Keyword("tenant".to_owned())]);
    Scope { keys, points, is_conditional: false }
}

/// Every write, with the same points, key and ordering wherever its message keeps them: the field
/// numbers of the table against the official client's own encoder.
#[test]
fn every_write_is_understood() {
    let collection_name = "c".to_owned();
    let vectors = || PointStruct::new(7, vec![0.5; 4], qdrant_client::Payload::new());
    let cases: Vec<(&str, Vec<u8>)> = vec![
        (
            "Upsert",
            frame(&q::UpsertPoints {
                collection_name: collection_name.clone(),
                points: vec![vectors()],
                ordering: strong(),
                shard_key_selector: key(),
                ..Default::default()
            }),
        ),
        (
            "Delete",
            frame(&q::DeletePoints {
                collection_name: collection_name.clone(),
                points: by_id(&[7]),
                ordering: strong(),
                shard_key_selector: key(),
                ..Default::default()
            }),
        ),
        (
            "UpdateVectors",
            frame(&q::UpdatePointVectors {
                collection_name: collection_name.clone(),
                points: vec![q::PointVectors { id: Some(7.into()), vectors: Some(vec![0.5].into()) }],
                ordering: strong(),
                shard_key_selector: key(),
                ..Default::default()
            }),
        ),
        (
            "DeleteVectors",
            frame(&q::DeletePointVectors {
                collection_name: collection_name.clone(),
                points_selector: by_id(&[7]),
                ordering: strong(),
                shard_key_selector: key(),
                ..Default::default()
            }),
        ),
        (
            "SetPayload",
            frame(&q::SetPayloadPoints {
                collection_name: collection_name.clone(),
                points_selector: by_id(&[7]),
                ordering: strong(),
                shard_key_selector: key(),
                ..Default::default()
            }),
        ),
        (
            "OverwritePayload",
            frame(&q::SetPayloadPoints {
                collection_name: collection_name.clone(),
                points_selector: by_id(&[7]),
                ordering: strong(),
                shard_key_selector: key(),
                ..Default::default()
            }),
        ),
        (
            "DeletePayload",
            frame(&q::DeletePayloadPoints {
                collection_name: collection_name.clone(),
                points_selector: by_id(&[7]),
                ordering: strong(),
                shard_key_selector: key(),
                ..Default::default()
            }),
        ),
        (
            "ClearPayload",
            frame(&q::ClearPayloadPoints {
                collection_name,
                points: by_id(&[7]),
                ordering: strong(),
                shard_key_selector: key(),
                ..Default::default()
            }),
        ),
    ];
    for (name, body) in cases {
        let call = call(&format!("/qdrant.Points/{name}"));
        assert_eq!(call.collection(&body), Some("c"), "{name}");
        let expected = Intent {
            action: Action::Write(WriteOrdering::Strong),
            scopes: smallvec![tenant(ids(&[7]))],
            affinity: None,
        };
        assert_eq!(call.intent(&body, DEEP), Ok(expected), "{name}");
    }
}

/// The same for every read that takes a shard key.
#[test]
fn every_read_tells_its_shard_key() {
    let k = key;
    let query = || q::QueryPoints { shard_key_selector: k(), ..Default::default() };
    let search = || q::SearchPoints { shard_key_selector: k(), ..Default::default() };
    let recommend = || q::RecommendPoints { shard_key_selector: k(), ..Default::default() };
    let discover = || q::DiscoverPoints { shard_key_selector: k(), ..Default::default() };
    let matrix = || q::SearchMatrixPoints { shard_key_selector: k(), ..Default::default() };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("Get", frame(&q::GetPoints { shard_key_selector: k(), ..Default::default() })),
        ("Search", frame(&search())),
        ("SearchGroups", frame(&q::SearchPointGroups { shard_key_selector: k(), ..Default::default() })),
        ("Scroll", frame(&q::ScrollPoints { shard_key_selector: k(), ..Default::default() })),
        ("Recommend", frame(&recommend())),
        (
            "RecommendGroups",
            frame(&q::RecommendPointGroups { shard_key_selector: k(), ..Default::default() }),
        ),
        ("Discover", frame(&discover())),
        ("Count", frame(&q::CountPoints { shard_key_selector: k(), ..Default::default() })),
        ("Query", frame(&query())),
        ("QueryGroups", frame(&q::QueryPointGroups { shard_key_selector: k(), ..Default::default() })),
        ("Facet", frame(&q::FacetCounts { shard_key_selector: k(), ..Default::default() })),
        ("SearchMatrixPairs", frame(&matrix())),
        ("SearchMatrixOffsets", frame(&matrix())),
        ("SearchBatch", frame(&q::SearchBatchPoints { search_points: vec![search()], ..Default::default() })),
        (
            "RecommendBatch",
            frame(&q::RecommendBatchPoints { recommend_points: vec![recommend()], ..Default::default() }),
        ),
        (
            "DiscoverBatch",
            frame(&q::DiscoverBatchPoints { discover_points: vec![discover()], ..Default::default() }),
        ),
        ("QueryBatch", frame(&q::QueryBatchPoints { query_points: vec![query()], ..Default::default() })),
    ];
    assert_eq!(
        cases.len(),
        METHODS.iter().filter(|m| m.path.starts_with("/qdrant.Points/") && m.class == Read).count()
    );
    for (name, body) in cases {
        let intent = call(&format!("/qdrant.Points/{name}")).intent(&body, DEEP);
        let expected =
            Intent { action: Action::Read, scopes: smallvec![tenant(Points::All)], affinity: None };
        assert_eq!(intent, Ok(expected), "{name}");
    }
}

#[test]
fn a_batch_of_updates_has_a_scope_per_operation() {
    use q::points_update_operation as op;
    let filter = || selector(PointsSelectorOneOf::Filter(Filter::must([Condition::matches("a", 1)])));
    let operations: Vec<(Operation, Points)> = vec![
        (
            Operation::Upsert(op::PointStructList {
                points: vec![PointStruct::new(UUID, vec![0.5], qdrant_client::Payload::new())],
                shard_key_selector: key(),
                ..Default::default()
            }),
            Points::Ids(smallvec![PointId::from_body_str(UUID).expect("a UUID")]),
        ),
        (
            Operation::SetPayload(op::SetPayload {
                points_selector: by_id(&[2]),
                shard_key_selector: key(),
                ..Default::default()
            }),
            ids(&[2]),
        ),
        (
            Operation::OverwritePayload(op::OverwritePayload {
                points_selector: by_id(&[3]),
                shard_key_selector: key(),
                ..Default::default()
            }),
            ids(&[3]),
        ),
        (
            Operation::DeletePayload(op::DeletePayload {
                points_selector: filter(),
                shard_key_selector: key(),
                ..Default::default()
            }),
            Points::All,
        ),
        (
            Operation::UpdateVectors(op::UpdateVectors {
                points: vec![q::PointVectors { id: Some(4.into()), vectors: None }],
                shard_key_selector: key(),
                ..Default::default()
            }),
            ids(&[4]),
        ),
        (
            Operation::DeleteVectors(op::DeleteVectors {
                points_selector: by_id(&[5]),
                shard_key_selector: key(),
                ..Default::default()
            }),
            ids(&[5]),
        ),
        (
            Operation::DeletePoints(op::DeletePoints { points: by_id(&[6, 7]), shard_key_selector: key() }),
            ids(&[6, 7]),
        ),
        (
            Operation::ClearPayload(op::ClearPayload { points: by_id(&[8]), shard_key_selector: key() }),
            ids(&[8]),
        ),
    ];
    let (operations, expected): (Vec<_>, Vec<_>) = operations.into_iter().unzip();
    let message = q::UpdateBatchPoints {
        operations: operations
            .into_iter()
            .map(|op| q::PointsUpdateOperation { operation: Some(op) })
            .collect(),
        ordering: strong(),
        ..Default::default()
    };
    let intent = intent("/qdrant.Points/UpdateBatch", &message).expect("an intent");
    assert_eq!(intent.action, Action::Write(WriteOrdering::Strong));
    assert_eq!(intent.scopes.into_vec(), expected.into_iter().map(tenant).collect::<Vec<_>>());
}

#[test]
fn conditions_of_a_batch_are_noticed() {
    use q::points_update_operation::{Operation, PointStructList, UpdateVectors};
    let upsert = |update_filter, update_mode| {
        Operation::Upsert(PointStructList { update_filter, update_mode, ..Default::default() })
    };
    let vectors =
        |update_filter| Operation::UpdateVectors(UpdateVectors { update_filter, ..Default::default() });
    for (operation, expected) in [
        (upsert(None, None), false),
        (upsert(Some(q::Filter::default()), None), true),
        (upsert(None, Some(q::UpdateMode::InsertOnly.into())), true),
        (vectors(None), false),
        (vectors(Some(q::Filter::default())), true),
    ] {
        let operations = vec![q::PointsUpdateOperation { operation: Some(operation) }];
        let message = q::UpdateBatchPoints { operations, ..Default::default() };
        assert_eq!(scopes("/qdrant.Points/UpdateBatch", &message)[0].is_conditional, expected, "{message:?}");
    }
}

#[test]
fn shard_keys_in_all_their_forms() {
    let count = |shard_keys: Vec<q::ShardKey>, fallback| q::CountPoints {
        shard_key_selector: Some(q::ShardKeySelector { shard_keys, fallback }),
        ..Default::default()
    };
    let path = "/qdrant.Points/Count";
    let keys = |message: &q::CountPoints| scopes(path, message)[0].keys.clone();
    let (a, seven) = (ShardKey::Keyword("a".to_owned()), ShardKey::Number(7));
    assert_eq!(keys(&q::CountPoints::default()), Keys::Unspecified);
    assert_eq!(keys(&count(vec![], None)), Keys::Any(vec![]));
    assert_eq!(
        keys(&count(vec!["a".to_owned().into(), 7.into()], None)),
        Keys::Any(vec![a.clone(), seven.clone()])
    );
    assert_eq!(
        keys(&count(vec!["a".to_owned().into()], Some(7.into()))),
        Keys::WithFallback { target: a.into(), fallback: seven.into() }
    );
    assert_eq!(intent(path, &count(vec![1.into(), 2.into()], Some(7.into()))), Err(NotUnderstood));
}

#[test]
fn what_qdrant_would_refuse_is_not_understood() {
    let upsert = call("/qdrant.Points/Upsert");
    let no_id = q::UpsertPoints { points: vec![PointStruct::default()], ..Default::default() };
    let bad_uuid = q::UpsertPoints {
        points: vec![PointStruct { id: Some("42".into()), ..Default::default() }],
        ..Default::default()
    };
    let good = frame(&q::UpsertPoints { collection_name: "c".to_owned(), ..Default::default() });
    let mut compressed = good.clone();
    compressed[0] = 1;
    let mut longer = good.clone();
    longer[4] += 1;
    for body in [
        frame(&no_id),
        frame(&bad_uuid),
        compressed,
        longer,
        good[..good.len() - 1].to_vec(),
        Vec::new(),
        vec![0; 4],
    ] {
        assert_eq!(upsert.intent(&body, DEEP), Err(NotUnderstood), "{body:?}");
    }
    assert_eq!(call("/qdrant.Points/NewIn2030").class, Class::Unknown);
}

#[test]
fn nothing_is_read_that_cannot_matter() {
    let bad_ids = frame(&q::UpsertPoints {
        points: vec![PointStruct::default()],
        ordering: strong(),
        ..Default::default()
    });
    let intent =
        call("/qdrant.Points/Upsert").intent(&bad_ids, Depth::default()).expect("ids are not looked at");
    assert_eq!(intent.action, Action::Write(WriteOrdering::Strong));
    assert_eq!(intent.scopes.into_vec(), [Scope::EVERYTHING]);
}

#[test]
fn every_rpc_of_the_official_client_is_known() {
    let clients = include_str!("rpcs.txt");
    for path in clients.lines() {
        assert_ne!(call(path).class, Class::Unknown, "{path}");
    }
}

#[test]
fn no_more_is_listed_than_there_is_room_for() {
    let listed = |count: usize| Vec::from_iter(1..=count as u64);
    let delete = |ids: &[u64]| q::DeletePoints { points: by_id(ids), ..Default::default() };
    let many = listed(MAX_IDS + 1);
    let points = |ids: &[u64]| scopes("/qdrant.Points/Delete", &delete(ids)).remove(0).points;
    assert_eq!(points(&many[1..]), ids(&many[1..]));
    assert_eq!(points(&many), Points::All);
    let upsert = |count: usize| {
        let point = |&id: &u64| PointStruct { id: Some(id.into()), ..Default::default() };
        let points = many[..count].iter().map(point).collect();
        let upsert = q::UpsertPoints { points, ..Default::default() };
        scopes("/qdrant.Points/Upsert", &upsert).remove(0).points
    };
    assert_eq!((upsert(2), upsert(MAX_IDS + 1)), (ids(&[1, 2]), Points::All));

    // All operations share the room, and one that finds none left takes none.
    let half = listed(MAX_IDS / 2 + 1);
    let operations = [&half[..], &half[..], &[7][..]].map(|ids| q::PointsUpdateOperation {
        operation: Some(Operation::DeletePoints(q::points_update_operation::DeletePoints {
            points: by_id(ids),
            ..Default::default()
        })),
    });
    let batch = q::UpdateBatchPoints { operations: operations.into(), ..Default::default() };
    let found: Vec<_> =
        scopes("/qdrant.Points/UpdateBatch", &batch).into_iter().map(|scope| scope.points).collect();
    assert_eq!(found, [ids(&half), Points::All, ids(&[7])]);

    for (count, is_listed) in [(MAX_SCOPES, true), (MAX_SCOPES + 1, false)] {
        let query_points = vec![q::QueryPoints::default(); count];
        let batch = q::QueryBatchPoints { query_points, ..Default::default() };
        let found = intent("/qdrant.Points/QueryBatch", &batch);
        assert_eq!(found.map(|intent| intent.scopes.len()).ok(), is_listed.then_some(count));
    }
    let several = |count: usize| {
        let selector = q::ShardKeySelector { shard_keys: vec![1.into(); count], fallback: None };
        let query = q::QueryPoints { shard_key_selector: Some(selector), ..Default::default() };
        intent("/qdrant.Points/Query", &query)
    };
    assert!(several(MAX_SHARD_KEYS).is_ok());
    assert!(several(MAX_SHARD_KEYS + 1).is_err());
    let keyed = |length: usize| q::QueryPoints {
        shard_key_selector: Some(q::ShardKeySelector {
            shard_keys: vec!["k".repeat(length).into()],
            fallback: None,
        }),
        ..Default::default()
    };
    let keys = |length: usize| intent("/qdrant.Points/Query", &keyed(length));
    assert!(keys(MAX_SHARD_KEY_BYTES / 2).is_ok());
    assert!(keys(MAX_SHARD_KEY_BYTES).is_err());
    // All queries share the room.
    let batch = |count: usize| {
        let query_points = vec![keyed(MAX_SHARD_KEY_BYTES / 3); count];
        intent("/qdrant.Points/QueryBatch", &q::QueryBatchPoints { query_points, ..Default::default() })
    };
    assert!(batch(2).is_ok());
    assert!(batch(3).is_err());
}
