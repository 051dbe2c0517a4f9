//! Router and node give equal answers over a generated corpus of more than two thousand requests that
//! covers every endpoint of the OpenAPI document and every RPC.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use prost::Message;
use qdrant_client::qdrant::{
    CountPoints, DeletePoints, FacetCounts, GetPoints, PointId, PointStruct, PointsOperationResponse,
    QueryPoints, ScrollPoints, SearchPoints, SetPayloadPoints, UpsertPoints,
};
use qdrant_router::dice::Dice;
use serde_json::{Value, json};

use crate::equality::{assert_as_a_node, essence, filled, strip_operation_ids};

/// The paths of the OpenAPI document of Qdrant 1.18.3.
const OPENAPI: &str = include_str!("../../../sdk/src/request/rest/openapi.txt");

/// The RPCs that the official client knows, and those beside it.
const RPCS: &str = include_str!("../../../sdk/src/request/grpc/rpcs.txt");

/// Changes the cluster itself, or answers for no other reason than to be slow: only its refusals are
/// compared.
const UNTOUCHED: [&str; 1] = ["POST /cluster/recover"];

/// Answers with figures of the moment or of one process: their status and type are compared.
const MOMENTARY: [&str; 7] =
    ["/telemetry", "/metrics", "/cluster", "/cluster/telemetry", "/issues", "/logger", "/"];

#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
}

/// Headers that say who asks.
pub(crate) type Credentials<'a> = [(&'static str, &'a str)];

fn ask(method: &Method, path: impl Into<String>, body: impl Into<Vec<u8>>) -> Ask {
    Ask { method: method.clone(), path: path.into(), body: body.into() }
}

/// Any of `choices`.
fn any<'a>(dice: &Dice, choices: &[&'a str]) -> &'a str {
    choices[dice.throw() as usize % choices.len()]
}

/// Bodies that no endpoint takes, or that say nothing.
fn malformed(dice: &Dice) -> Vec<u8> {
    match dice.throw() % 9 {
        0 => Vec::new(),
        1 => b"{}".to_vec(),
        2 => b"{ not json".to_vec(),
        3 => b"[]".to_vec(),
        4 => b"null".to_vec(),
        5 => b"{\"points\":\"\xff\xfe\"}".to_vec(),
        6 => format!("{{\"points\":{}{}}}", "[".repeat(200), "]".repeat(200)).into_bytes(),
        7 => br#"{"ids":[-1],"points":[1.5],"shard_key":{"target":1}}"#.to_vec(),
        _ => br#"{"points":[18446744073709551616],"ids":["42"],"limit":-3}"#.to_vec(),
    }
}

/// Every documented path, with names that exist and names that do not, and bodies that are refused.
pub(crate) fn documented(dice: &Dice) -> Vec<Ask> {
    let mut asks = Vec::new();
    for line in OPENAPI.lines().filter(|line| !UNTOUCHED.contains(line)) {
        let (method, path) = line.split_once(' ').expect("a method and a path");
        let method: Method = method.parse().expect("a method");
        let is_read = method == Method::GET || path.contains("/points") || path.ends_with("/facet");
        for round in 0..8 {
            // What changes metadata or makes files is asked of a collection that is not there.
            let collection = match (is_read, round % 4) {
                (true, 0 | 1) => "books",
                (true, 2) => "alias",
                _ => "nowhere",
            };
            let path = path
                .replace("{collection_name}", collection)
                .replace("{id}", any(dice, &["3", "999", "x", "550e8400-e29b-41d4-a716-446655440000"]))
                .replace("{shard_id}", any(dice, &["99", "x"]))
                .replace("{snapshot_name}", "none.snapshot")
                .replace("{field_name}", "n")
                .replace("{vector_name}", "v")
                .replace("{peer_id}", "17");
            if path.contains('{') {
                panic!("a parameter without a value: {path}");
            }
            // An empty object makes a collection, and no body at all makes a full snapshot.
            let body = match line {
                "PUT /collections/{collection_name}" => b"{ not json".to_vec(),
                "POST /snapshots" => continue,
                _ if method == Method::GET || method == Method::DELETE => Vec::new(),
                _ => malformed(dice),
            };
            asks.push(ask(&method, path, body));
        }
    }
    asks
}

fn filter(dice: &Dice) -> Value {
    match dice.throw() % 4 {
        0 => json!({ "must": [{ "key": "n", "match": { "value": dice.throw() % 50 } }] }),
        1 => json!({ "must": [{ "has_id": [dice.throw() % 50, dice.throw() % 50] }] }),
        2 => json!({ "must_not": [{ "key": "n", "match": { "value": dice.throw() % 50 } }] }),
        _ => json!({}),
    }
}

fn id(dice: &Dice) -> Value {
    match dice.throw() % 8 {
        0 => json!("550e8400-e29b-41d4-a716-446655440000"),
        1 => json!(dice.throw()),
        _ => json!(dice.throw() % 45),
    }
}

/// Reads with any parameters, most of which are taken.
pub(crate) fn reads(dice: &Dice, count: usize) -> Vec<Ask> {
    let name = || any(dice, &["books", "books", "books", "alias", "nowhere"]);
    // Every point has another first component, so that no two scores are equal.
    let vector = || json!([1 + dice.throw() % 9, 1, dice.throw() % 5, 2]);
    let query = || {
        any(dice, &["", "", "", "?timeout=5", "?consistency=majority", "?consistency=2", "?consistency=none"])
    };
    let read = |_| {
        let (rest, mut body) = match dice.throw() % 12 {
            0 => (
                "/points",
                json!({ "ids": [id(dice), id(dice), id(dice)], "with_vector": dice.throw().is_multiple_of(2) }),
            ),
            1 => ("/points/scroll", json!({ "limit": dice.throw() % 12, "with_payload": true })),
            2 => ("/points/scroll", json!({ "limit": 5, "offset": id(dice), "filter": filter(dice) })),
            3 => ("/points/count", json!({ "exact": true, "filter": filter(dice) })),
            4 | 5 => (
                "/points/query",
                json!({ "query": vector(), "limit": dice.throw() % 9, "with_payload": true }),
            ),
            6 => ("/points/query", json!({ "query": id(dice), "limit": 4 })),
            7 => (
                "/points/query/batch",
                json!({ "searches": [{ "query": vector(), "limit": 3 }, { "query": vector() }] }),
            ),
            8 => (
                "/points/search",
                json!({ "vector": vector(), "limit": 1 + dice.throw() % 5, "filter": filter(dice) }),
            ),
            9 => ("/points/search/batch", json!({ "searches": [{ "vector": vector(), "limit": 2 }] })),
            10 => ("/facet", json!({ "key": "n", "exact": true, "limit": 3 })),
            _ => {
                return ask(
                    &Method::GET,
                    format!("/collections/{}/points/{}", name(), dice.throw() % 60),
                    "",
                );
            }
        };
        if dice.throw().is_multiple_of(8) {
            body["shard_key"] = json!("none");
        }
        let mut body = body.to_string().into_bytes();
        if dice.throw().is_multiple_of(10) {
            body.truncate(dice.throw() as usize % body.len());
        }
        ask(&Method::POST, format!("/collections/{}{rest}{}", name(), query()), body)
    };
    (0..count).map(read).collect()
}

/// Writes that leave the collection as it was, however often they are made; some are refused.
pub(crate) fn writes(dice: &Dice, count: usize) -> Vec<Ask> {
    let write = |_| {
        let ids: Vec<u64> = (0..1 + dice.throw() % 6).map(|_| dice.throw() % 40).collect();
        let point = |id: &u64| json!({ "id": id, "vector": [id, 1, 2, 3], "payload": { "n": id } });
        let ordering =
            any(dice, &["", "&ordering=weak", "&ordering=medium", "&ordering=strong", "&ordering=no"]);
        let absent = 1000 + dice.throw() % 1000;
        let (method, rest, mut body) = match dice.throw() % 10 {
            0..=2 => (Method::PUT, "", json!({ "points": ids.iter().map(point).collect::<Vec<_>>() })),
            3 => {
                let vectors: Vec<_> = ids.iter().map(|id| json!([id, 1, 2, 3])).collect();
                let payloads: Vec<_> = ids.iter().map(|id| json!({ "n": id })).collect();
                (
                    Method::PUT,
                    "",
                    json!({ "batch": { "ids": ids, "vectors": vectors, "payloads": payloads } }),
                )
            }
            4 => (Method::POST, "/delete", json!({ "points": [absent, absent + 1] })),
            5 => (Method::POST, "/payload", json!({ "points": [ids[0]], "payload": { "n": ids[0] } })),
            6 => (Method::POST, "/payload/delete", json!({ "points": ids, "keys": ["no such key"] })),
            7 => (Method::POST, "/payload/clear", json!({ "points": [absent] })),
            8 => (
                Method::POST,
                "/batch",
                json!({ "operations": [{ "upsert": { "points": ids.iter().map(point).collect::<Vec<_>>() } },
                                       { "delete": { "points": [absent] } }] }),
            ),
            _ => (
                Method::PUT,
                "/vectors",
                json!({ "points": ids.iter().map(|id| json!({ "id": id, "vector": [id, 1, 2, 3] })).collect::<Vec<_>>() }),
            ),
        };
        match dice.throw() % 12 {
            0 => body = json!({ "points": [] }),
            1 => body["points"] = json!([{ "id": 1, "vector": [1, 2] }]),
            2 => body["shard_key"] = json!("none"),
            3 => body["points"] = json!([{ "id": -1, "vector": [1, 2, 3, 4] }]),
            _ => {}
        }
        let name = any(dice, &["books", "books", "books", "books", "alias", "nowhere"]);
        ask(&method, format!("/collections/{name}/points{rest}?wait=true{ordering}"), body.to_string())
    };
    (0..count).map(write).collect()
}

pub(crate) async fn rest_answer(
    rest: &testkit::Rest,
    ask: &Ask,
    credentials: &Credentials<'_>,
) -> (u16, Vec<(String, String)>, Value) {
    let mut request = Request::builder().method(&ask.method).uri(&ask.path);
    for (name, value) in credentials {
        request = request.header(*name, *value);
    }
    let request = match ask.body.is_empty() {
        true => request,
        false => request.header("content-type", "application/json"),
    };
    let request = request.body(Bytes::from(ask.body.clone())).expect("a request");
    let (status, headers, mut body) = essence(&rest.raw(request).await.expect("an answer"));
    strip_operation_ids(&mut body);
    let path = ask.path.split('?').next().unwrap_or_default();
    // A matrix is one of a random sample.
    if MOMENTARY.contains(&path) || (status == 200 && path.contains("/search/matrix/")) {
        body = Value::Null;
    }
    (status, headers, body)
}

/// Asserts that `routed` answers as a node does; most often the first answers are equal already.
pub(crate) async fn assert_equal<T: PartialEq + std::fmt::Debug>(
    what: &str,
    first: usize,
    mut direct: impl AsyncFnMut(usize) -> T,
    mut routed: impl AsyncFnMut() -> T,
) {
    if direct(first % 3).await != routed().await {
        assert_as_a_node(what, 3, direct, routed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_answers_over_a_corpus() {
    let bed = filled().await;
    let dice = Dice::seeded(3);
    let mut corpus = documented(&dice);
    corpus.extend(reads(&dice, 700));
    corpus.extend(writes(&dice, 300));
    let nodes: Vec<_> = (0..3).map(|node| bed.cluster.rest(node)).collect();
    let proxy = bed.rest();
    for (i, question) in corpus.iter().enumerate() {
        let what =
            format!("{} {} {}", question.method, question.path, String::from_utf8_lossy(&question.body));
        let direct = async |node: usize| rest_answer(&nodes[node], question, &[]).await;
        assert_equal(&what, i, direct, async || rest_answer(&proxy, question, &[]).await).await;
    }
    let covered: BTreeSet<&str> = OPENAPI.lines().collect();
    println!("{} requests over {} endpoints", corpus.len(), covered.len());
    assert!(corpus.len() >= 1_500, "{}", corpus.len());
}

pub(crate) fn grpc_client() -> GrpcClient {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).http2_only(true).build(connector)
}

/// A gRPC answer: where the status is, what it says, and the message without its time.
pub(crate) type GrpcAnswer = (Option<String>, Option<String>, Vec<Vec<u8>>);

pub(crate) type GrpcClient = Client<HttpConnector, Full<Bytes>>;

pub(crate) async fn grpc_answer(
    client: &GrpcClient,
    addr: std::net::SocketAddr,
    path: &str,
    body: &[u8],
    credentials: &Credentials<'_>,
) -> GrpcAnswer {
    let mut request = Request::post(format!("http://{addr}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in credentials {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body))).expect("a request");
    let response: Response<_> = client.request(request).await.expect("an answer");
    let headers = response.headers().clone();
    let body = response.into_body().collect().await.expect("a body");
    let trailers: HeaderMap = body.trailers().cloned().unwrap_or_default();
    let find = |name: &str| {
        let value = headers.get(name).or_else(|| trailers.get(name))?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let body = body.to_bytes();
    let message = body.get(5..).unwrap_or_default();
    let is_momentary = path.starts_with("/qdrant.Snapshots/Create") || path.contains("/SearchMatrix");
    let fields = match PointsOperationResponse::decode(message) {
        _ if is_momentary => Vec::new(),
        // The number of an operation tells how many were before it.
        Ok(reply) if WRITES.contains(&path) => {
            vec![format!("{:?}", reply.result.map(|r| r.status())).into_bytes()]
        }
        _ => timeless(message),
    };
    (find("grpc-status"), find("grpc-message"), fields)
}

const WRITES: [&str; 8] = [
    "/qdrant.Points/Upsert",
    "/qdrant.Points/Delete",
    "/qdrant.Points/UpdateVectors",
    "/qdrant.Points/DeleteVectors",
    "/qdrant.Points/SetPayload",
    "/qdrant.Points/OverwritePayload",
    "/qdrant.Points/DeletePayload",
    "/qdrant.Points/ClearPayload",
];

/// The fields of a message on the wire, without the doubles at its top: the time that it took.
fn timeless(mut message: &[u8]) -> Vec<Vec<u8>> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let before = message;
        let Ok(key) = prost::encoding::decode_varint(&mut message) else { break };
        let skipped = match key & 7 {
            0 => prost::encoding::decode_varint(&mut message).map(|_| 0),
            1 => Ok(8),
            2 => prost::encoding::decode_varint(&mut message),
            5 => Ok(4),
            _ => break,
        };
        let Some(rest) = skipped.ok().and_then(|length| message.get(usize::try_from(length).ok()?..)) else {
            break;
        };
        message = rest;
        if key & 7 != 1 {
            fields.push(before[..before.len() - message.len()].to_vec());
        }
    }
    fields
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("short"));
    framed.put_slice(message);
    framed.to_vec()
}

/// The message of a request for `collection`, where that is field 1, and nothing else.
fn named(collection: &str) -> Vec<u8> {
    CountPoints { collection_name: collection.to_owned(), ..Default::default() }.encode_to_vec()
}

/// Every RPC, with no message, with one that names a collection, and with what is none.
pub(crate) fn rpcs(dice: &Dice) -> Vec<(String, Vec<u8>)> {
    let health = ["/grpc.health.v1.Health/Check", "/qdrant.Nowhere/Nothing"];
    let mut asks = Vec::new();
    for path in RPCS.lines().chain(health) {
        let is_read = path.starts_with("/qdrant.Points/") || path.ends_with("/Get") || path.contains("/List");
        let makes_files = path == "/qdrant.Snapshots/CreateFull";
        let mut bodies: Vec<Vec<u8>> =
            vec![framed(&named("nowhere")), b"\0\0\0\0\x05abc".to_vec(), Vec::new()];
        if is_read && !path.contains("FieldIndex") && !path.contains("VectorName") {
            bodies.push(framed(&named("books")));
            bodies.push(framed(&named("alias")));
        }
        bodies.push(b"\x01\0\0\0\x02\x1f\x8b".to_vec());
        for _ in 0..3 {
            let noise: Vec<u8> = (0..dice.throw() % 40).map(|_| dice.throw() as u8).collect();
            bodies.push(framed(&noise));
        }
        // Every message is a good one there, and would make a file.
        let bodies = if makes_files { vec![b"\0\0\0\0\x05abc".to_vec()] } else { bodies };
        asks.extend(bodies.into_iter().map(|body| (path.to_owned(), body)));
    }
    asks
}

pub(crate) fn points_of_grpc(dice: &Dice, count: usize) -> Vec<(String, Vec<u8>)> {
    let name = || any(dice, &["books", "books", "books", "alias", "nowhere"]).to_owned();
    let some_id = || PointId::from(dice.throw() % 45);
    let vector = || vec![(1 + dice.throw() % 9) as f32, 1.0, 2.0, 3.0];
    let key = || (dice.throw().is_multiple_of(10)).then(|| "none".to_owned().into());
    let one = |_| {
        let (rpc, message) = match dice.throw() % 9 {
            0 => (
                "Get",
                GetPoints {
                    collection_name: name(),
                    ids: vec![some_id(), some_id()],
                    shard_key_selector: key(),
                    ..Default::default()
                }
                .encode_to_vec(),
            ),
            1 => (
                "Scroll",
                ScrollPoints {
                    collection_name: name(),
                    limit: Some((dice.throw() % 12) as u32),
                    shard_key_selector: key(),
                    ..Default::default()
                }
                .encode_to_vec(),
            ),
            2 => (
                "Count",
                CountPoints {
                    collection_name: name(),
                    exact: Some(true),
                    shard_key_selector: key(),
                    ..Default::default()
                }
                .encode_to_vec(),
            ),
            3 => (
                "Query",
                QueryPoints {
                    collection_name: name(),
                    query: Some(vector().into()),
                    limit: Some(3),
                    shard_key_selector: key(),
                    ..Default::default()
                }
                .encode_to_vec(),
            ),
            4 => (
                "Search",
                SearchPoints { collection_name: name(), vector: vector(), limit: 3, ..Default::default() }
                    .encode_to_vec(),
            ),
            5 => (
                "Facet",
                FacetCounts {
                    collection_name: name(),
                    key: "n".to_owned(),
                    limit: Some(3),
                    exact: Some(true),
                    ..Default::default()
                }
                .encode_to_vec(),
            ),
            6 => {
                let ids = (0..1 + dice.throw() % 5).map(|_| dice.throw() % 40);
                let points = ids
                    .map(|id| {
                        PointStruct::new(id, vec![id as f32, 1.0, 2.0, 3.0], [("n", (id as i64).into())])
                    })
                    .collect();
                (
                    "Upsert",
                    UpsertPoints {
                        collection_name: name(),
                        wait: Some(true),
                        points,
                        shard_key_selector: key(),
                        ..Default::default()
                    }
                    .encode_to_vec(),
                )
            }
            7 => (
                "Delete",
                DeletePoints {
                    collection_name: name(),
                    wait: Some(true),
                    points: Some(vec![PointId::from(1000 + dice.throw() % 100)].into()),
                    ..Default::default()
                }
                .encode_to_vec(),
            ),
            _ => (
                "SetPayload",
                SetPayloadPoints {
                    collection_name: name(),
                    wait: Some(true),
                    // One key: in a map of two, the order is another each time.
                    payload: [("n".to_owned(), 7.into())].into(),
                    points_selector: Some(vec![PointId::from(7)].into()),
                    ..Default::default()
                }
                .encode_to_vec(),
            ),
        };
        let mut body = framed(&message);
        if dice.throw().is_multiple_of(12) {
            body.truncate(dice.throw() as usize % body.len());
        }
        (format!("/qdrant.Points/{rpc}"), body)
    };
    (0..count).map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_answers_over_a_corpus() {
    let bed = filled().await;
    let dice = Dice::seeded(5);
    let mut corpus = rpcs(&dice);
    corpus.extend(points_of_grpc(&dice, 400));
    let client = grpc_client();
    let nodes: Vec<_> = bed.cluster.nodes().iter().map(testkit::Node::grpc_addr).collect();
    for (i, (path, body)) in corpus.iter().enumerate() {
        let what = format!("{path} {}", String::from_utf8_lossy(body).escape_debug());
        let direct = async |node: usize| grpc_answer(&client, nodes[node], path, body, &[]).await;
        let routed = async || grpc_answer(&client, bed.proxy.grpc_addr, path, body, &[]).await;
        assert_equal(&what, i, direct, routed).await;
    }
    println!("{} requests over {} RPCs", corpus.len(), RPCS.lines().count());
    assert!(corpus.len() >= 700, "{}", corpus.len());
}
