//! The answer through the router is the answer of a node asked directly.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use qdrant_client::qdrant::{
    CountPointsBuilder, CreateCollectionBuilder, DeletePointsBuilder, GetPointsBuilder, QueryPointsBuilder,
    ScrollPointsBuilder, UpsertPointsBuilder,
};
use serde_json::{Value, json};

use crate::bed::{Bed, official_at};

/// Requests that change nothing, good and bad: asked of a node and of the proxy, in any order, their
/// answers are equal.
fn questions() -> Vec<(Method, &'static str, String)> {
    let get = |path| (Method::GET, path, String::new());
    let post = |path, body: Value| (Method::POST, path, body.to_string());
    let put = |path, body: &str| (Method::PUT, path, body.to_owned());
    vec![
        get("/"),
        get("/healthz"),
        get("/readyz"),
        get("/collections"),
        get("/collections/books/exists"),
        get("/collections/nowhere/exists"),
        get("/aliases"),
        get("/collections/books/aliases"),
        get("/collections/nowhere"),
        get("/collections/books/points/3"),
        get("/collections/books/points/999"),
        get("/collections/books/points/not-an-id"),
        get("/collections/nowhere/points/3"),
        get("/no/such/path"),
        get("/collections/books/points/3/4"),
        post(
            "/collections/books/points",
            json!({ "ids": [1, 2, 3], "with_payload": true, "with_vector": true }),
        ),
        post("/collections/books/points", json!({ "ids": [] })),
        post("/collections/books/points", json!({ "ids": ["x"] })),
        post("/collections/books/points/scroll", json!({ "limit": 7 })),
        post("/collections/books/points/scroll", json!({ "limit": 7, "offset": 5, "with_payload": ["n"] })),
        post("/collections/alias/points/scroll", json!({ "limit": 7 })),
        post("/collections/books/points/count", json!({ "exact": true })),
        post(
            "/collections/books/points/count",
            json!({ "exact": true, "filter": { "must": [{ "key": "n", "match": { "value": 3 } }] } }),
        ),
        post("/collections/books/points/count", json!({ "shard_key": "none" })),
        post(
            "/collections/books/points/query",
            json!({ "query": [1, 0, 0, 0], "limit": 5, "with_payload": true }),
        ),
        post("/collections/books/points/query", json!({ "query": [1, 0], "limit": 5 })),
        post("/collections/books/points/query", json!({ "query": 3, "limit": 5 })),
        post(
            "/collections/books/points/query/batch",
            json!({ "searches": [{ "query": [1, 0, 0, 0] }, { "query": [2, 1, 0, 0], "limit": 2 }] }),
        ),
        post("/collections/books/points/search", json!({ "vector": [1, 0, 0, 0], "limit": 4 })),
        put("/collections/books/points", "{ not json"),
        put("/collections/books/points", ""),
        put("/collections/books/points", "{}"),
        put("/collections/books/points", r#"{"points":[{"id":-1,"vector":[1,2,3,4]}]}"#),
        put("/collections/books/points", r#"{"points":[{"id":18446744073709551616,"vector":[1,2,3,4]}]}"#),
        put("/collections/books/points?wait=true", r#"{"points":[{"id":1,"vector":[1,2]}]}"#),
        put("/collections/books/points?ordering=sideways", r#"{"points":[{"id":1,"vector":[1,2,3,4]}]}"#),
        put("/collections/nowhere/points", r#"{"points":[{"id":1,"vector":[1,2,3,4]}]}"#),
        post("/collections/books/points/delete", json!({ "points": [] })),
        (Method::DELETE, "/collections/books/points", String::new()),
        (Method::PATCH, "/collections/books/points/3", String::new()),
    ]
}

async fn ask(client: &testkit::Rest, (method, path, body): &(Method, &str, String)) -> Response<Bytes> {
    let request = Request::builder().method(method).uri(*path);
    let request = if body.is_empty() { request } else { request.header("content-type", "application/json") };
    client.raw(request.body(Bytes::from(body.clone())).expect("a request")).await.expect("an answer")
}

/// Status, headers and body, without what differs between any two answers of one node.
pub(crate) fn essence(response: &Response<Bytes>) -> (u16, Vec<(String, String)>, Value) {
    // `connection` is about a node's own connection, which Qdrant 1.19 closes after some errors.
    let volatile = ["connection", "content-length", "date", "vary"];
    let headers = |headers: &HeaderMap| {
        let mut headers: Vec<_> = headers
            .iter()
            .filter(|(name, _)| !volatile.contains(&name.as_str()))
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        headers.sort();
        headers
    };
    let text = || Value::String(String::from_utf8_lossy(response.body()).into_owned());
    let mut body = serde_json::from_slice(response.body()).unwrap_or_else(|_| text());
    if let Some(fields) = body.as_object_mut() {
        fields.remove("time");
    }
    (response.status().as_u16(), headers(response.headers()), body)
}

pub(crate) async fn filled() -> Bed {
    fill(Bed::new().await).await
}

/// Makes the collection `books` of forty points, and an alias of it.
pub(crate) async fn fill(bed: Bed) -> Bed {
    bed.collection("books", json!({ "shard_number": 6, "replication_factor": 2 })).await;
    let rest = bed.rest();
    let points: Vec<_> =
        (0..40).map(|id| json!({ "id": id, "vector": [id, 1, 2, 3], "payload": { "n": id } })).collect();
    rest.put("/collections/books/points?wait=true", json!({ "points": points })).await.expect("points");
    let alias =
        json!({ "actions": [{ "create_alias": { "collection_name": "books", "alias_name": "alias" } }] });
    rest.post("/collections/aliases", alias).await.expect("an alias");
    bed.know("books").await;
    bed
}

/// Asserts that `routed` answers as some node does. Where an error comes from a shard, its text depends
/// on which shard's answer reached the coordinator first, so a node is asked more than once.
pub(crate) async fn assert_as_a_node<T: PartialEq + std::fmt::Debug>(
    what: &str,
    nodes: usize,
    mut direct: impl AsyncFnMut(usize) -> T,
    mut routed: impl AsyncFnMut() -> T,
) {
    const ROUNDS: usize = 10;
    let mut seen = Vec::new();
    for _ in 0..ROUNDS {
        for node in 0..nodes {
            seen.push(direct(node).await);
        }
        let answer = routed().await;
        if seen.contains(&answer) {
            return;
        }
        seen.dedup();
        eprintln!("{what}: {answer:?}");
    }
    panic!("{what}: no node answers so; nodes answered {seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_answers_are_those_of_a_node() {
    let bed = filled().await;
    let proxy = bed.rest();
    for question in &questions() {
        let what = format!("{} {} {}", question.0, question.1, question.2);
        let direct = async |node| essence(&ask(&bed.cluster.rest(node), question).await);
        let routed = async || {
            let answer = ask(&proxy, question).await;
            assert!(
                !answer.headers().contains_key("connection"),
                "{what}: the client's connection is not kept"
            );
            essence(&answer)
        };
        assert_as_a_node(&what, 3, direct, routed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_writes_answer_as_a_node_does() {
    let bed = filled().await;
    let put = |path, body: Value| (Method::PUT, path, body.to_string());
    let post = |path, body: Value| (Method::POST, path, body.to_string());
    // Each of these leaves the collection as the one before it did when done twice.
    let changes = [
        put(
            "/collections/books/points?wait=true",
            json!({ "points": [{ "id": 3, "vector": [3, 1, 2, 3], "payload": { "n": 3 } }] }),
        ),
        put(
            "/collections/books/points?wait=true",
            json!({ "batch": { "ids": [3, 4], "vectors": [[3, 1, 2, 3], [4, 1, 2, 3]] } }),
        ),
        post("/collections/books/points/payload?wait=true", json!({ "points": [3], "payload": { "a": 1 } })),
        put("/collections/books/points/payload?wait=true", json!({ "points": [3], "payload": { "n": 3 } })),
        post("/collections/books/points/payload/delete?wait=true", json!({ "points": [3], "keys": ["n"] })),
        post("/collections/books/points/payload/clear?wait=true", json!({ "points": [3] })),
        put(
            "/collections/books/points/vectors?wait=true",
            json!({ "points": [{ "id": 3, "vector": [3, 3, 3, 3] }] }),
        ),
        post(
            "/collections/books/points/batch?wait=true",
            json!({ "operations": [
            { "upsert": { "points": [{ "id": 70, "vector": [1, 1, 1, 1] }] } }, { "delete": { "points": [70] } }] }),
        ),
        post("/collections/books/points/delete?wait=true", json!({ "points": [71] })),
        put("/collections/books/index?wait=true", json!({ "field_name": "n", "field_schema": "integer" })),
    ];
    let (node, proxy) = (bed.cluster.rest(0), bed.rest());
    for change in &changes {
        let strip = |response: &Response<Bytes>| {
            let (status, headers, mut body) = essence(response);
            // The sequence number of the shard's log counts every operation, these two included.
            strip_operation_ids(&mut body);
            (status, headers, body)
        };
        let (direct, routed) = (ask(&node, change).await, ask(&proxy, change).await);
        assert_eq!(strip(&routed), strip(&direct), "{} {}", change.1, change.2);
        assert_eq!(routed.status(), 200, "{:?}", routed.body());
    }
}

pub(crate) fn strip_operation_ids(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("operation_id");
            fields.values_mut().for_each(strip_operation_ids);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_operation_ids),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_answers_are_those_of_a_node() {
    let bed = filled().await;
    let direct: Vec<_> = bed.cluster.nodes().iter().map(|node| official_at(node.grpc_addr())).collect();
    let official = bed.official();
    let sdk = bed.sdk();

    // The outcome without its time; for an error the code and the message.
    macro_rules! same {
        ($method:ident($($request:expr)?)) => {{
            macro_rules! outcome {
                ($client:expr) => {
                    match $client.$method($($request)?).await {
                        Ok(mut reply) => {
                            reply.time = 0.0;
                            format!("{reply:?}")
                        }
                        Err(qdrant_client::QdrantError::ResponseError { status }) => {
                            format!("{:?}: {}", status.code(), status.message())
                        }
                        Err(error) => panic!("{error}"),
                    }
                };
            }
            let what = stringify!($method($($request)?));
            assert_as_a_node(what, 3, async |node| outcome!(direct[node]), async || outcome!(official)).await;
            assert_as_a_node(what, 3, async |node| outcome!(direct[node]), async || outcome!(sdk)).await;
        }};
    }
    same!(get_points(
        GetPointsBuilder::new("books", vec![1.into(), 2.into()]).with_payload(true).with_vectors(true)
    ));
    same!(get_points(GetPointsBuilder::new("nowhere", vec![1.into()])));
    same!(scroll(ScrollPointsBuilder::new("alias").limit(9).with_payload(true)));
    same!(count(CountPointsBuilder::new("books").exact(true)));
    same!(query(
        QueryPointsBuilder::new("books").query(vec![1.0, 0.0, 0.0, 0.0]).limit(5).with_payload(true)
    ));
    same!(query(QueryPointsBuilder::new("books").query(vec![1.0]).limit(5)));
    same!(upsert_points(UpsertPointsBuilder::new("nowhere", vec![])));
    same!(upsert_points(UpsertPointsBuilder::new("books", vec![]).wait(true)));
    same!(delete_points(DeletePointsBuilder::new("books").points(Vec::<u64>::new()).wait(true)));
    same!(create_collection(CreateCollectionBuilder::new("books")));
    same!(list_collections());
    same!(list_aliases());
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_grpc_is_answered_by_qdrant() {
    let bed = filled().await;
    let ask = async |addr| {
        let mut answers = Vec::new();
        for body in
            [&b""[..], b"\0\0\0\0\x05abc", b"\0\0\0\0\x02\xff\xff", b"\x07\0\0\0\0", b"\0\xff\xff\xff\xff"]
        {
            answers.push(raw_grpc(addr, "/qdrant.Points/Upsert", body).await);
        }
        answers.push(raw_grpc(addr, "/qdrant.Points/NewIn2030", b"\0\0\0\0\0").await);
        answers
    };
    assert_eq!(ask(bed.proxy.grpc_addr).await, ask(bed.cluster.node(0).grpc_addr()).await);
}

/// The gRPC status of a call with this body, wherever it came, and its message.
async fn raw_grpc(
    addr: std::net::SocketAddr,
    path: &str,
    body: &'static [u8],
) -> (Option<String>, Option<String>) {
    use http_body_util::{BodyExt, Full};
    use hyper_util::{client::legacy::Client, rt::TokioExecutor};

    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let request = Request::post(format!("http://{addr}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(body)))
        .expect("a request");
    let response = client.request(request).await.expect("an answer");
    let headers = response.headers().clone();
    let trailers =
        response.into_body().collect().await.expect("a body").trailers().cloned().unwrap_or_default();
    let find = |name: &str| {
        let value = headers.get(name).or_else(|| trailers.get(name))?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    (find("grpc-status"), find("grpc-message"))
}
