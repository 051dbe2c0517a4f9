//! Whoever may not do something is told so by Qdrant, in its own words, over the whole surface of the API.

use bytes::Bytes;
use http::{Request, StatusCode};
use prost::Message;
use qdrant_client::qdrant::CountPoints;
use qdrant_router::dice::Dice;
use serde_json::{Value, json};
use testkit::{Cluster, Node, token};

use crate::{
    bed::Bed,
    corpus::{
        Ask, Credentials, assert_equal, documented, grpc_answer, grpc_client, points_of_grpc, reads,
        rest_answer, rpcs, writes,
    },
    equality::fill,
};

const KEY: &str = "key-of-the-application";
const READ_ONLY: &str = "key-of-the-router";

/// Who is not let in at all.
const STRANGERS: [(&str, &Credentials<'static>); 6] = [
    ("nobody", &[]),
    ("a wrong key", &[("api-key", "wrong")]),
    ("a wrong token", &[("authorization", "Bearer wrong")]),
    ("another scheme", &[("authorization", "Basic a2V5LW9mLXRoZS1hcHBsaWNhdGlvbg==")]),
    ("an empty key", &[("api-key", "")]),
    (
        "a wrong key before a right token",
        &[("api-key", "wrong"), ("authorization", "Bearer key-of-the-router")],
    ),
];

/// Who may only read.
const READERS: [(&str, &Credentials<'static>); 2] = [
    ("a read-only key", &[("api-key", READ_ONLY)]),
    ("a read-only token", &[("authorization", "Bearer key-of-the-router")]),
];

/// What needs no key.
const OPEN: [&str; 4] = ["/", "/healthz", "/livez", "/readyz"];
const OPEN_RPCS: [&str; 2] = ["/qdrant.Qdrant/HealthCheck", "/grpc.health.v1.Health/Check"];

async fn locked() -> Bed {
    let cluster = Cluster::builder().nodes(3).api_key(KEY).read_only_api_key(READ_ONLY);
    fill(Bed::with(cluster, |router| router).await).await
}

/// Requests for every documented path, among them writes that would be sent in parts.
fn rest_corpus() -> Vec<Ask> {
    let dice = Dice::seeded(11);
    let mut corpus = documented(&dice);
    corpus.extend(reads(&dice, 60));
    corpus.extend(writes(&dice, 60));
    corpus
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_is_refused_as_by_a_node() {
    let bed = locked().await;
    let corpus = rest_corpus();
    let nodes: Vec<_> = (0..3).map(|node| bed.cluster.rest(node)).collect();
    let proxy = bed.rest();
    let everybody = STRANGERS.iter().chain(&READERS);
    for (at, &(who, credentials)) in everybody.enumerate() {
        let mut refused = 0;
        // Each of them asks every path, with other bodies.
        for (i, ask) in corpus.iter().enumerate().skip(at % 2).step_by(2) {
            let what = format!("{who}: {} {}", ask.method, ask.path);
            let direct = async |node: usize| rest_answer(&nodes[node], ask, credentials).await;
            let routed = async || rest_answer(&proxy, ask, credentials).await;
            let (status, ..) = routed().await;
            let is_stranger = at < STRANGERS.len() && !OPEN.contains(&&*ask.path);
            assert!(!is_stranger || status == 401, "{what}: {status}");
            refused += usize::from(status == 401 || status == 403);
            assert_equal(&what, i, direct, routed).await;
        }
        assert!(refused > if at < STRANGERS.len() { 100 } else { 30 }, "{who}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_is_refused_as_by_a_node() {
    let bed = locked().await;
    let dice = Dice::seeded(13);
    let mut corpus = rpcs(&dice);
    corpus.extend(points_of_grpc(&dice, 60));
    let client = grpc_client();
    let nodes: Vec<_> = bed.cluster.nodes().iter().map(Node::grpc_addr).collect();
    let everybody = STRANGERS.iter().chain(&READERS);
    for (at, &(who, credentials)) in everybody.enumerate() {
        let mut refused = 0;
        for (i, (path, body)) in corpus.iter().enumerate().skip(at % 2).step_by(2) {
            let what = format!("{who}: {path} {}", body.escape_ascii());
            let direct = async |node: usize| grpc_answer(&client, nodes[node], path, body, credentials).await;
            let routed = async || grpc_answer(&client, bed.proxy.grpc_addr, path, body, credentials).await;
            let (status, ..) = routed().await;
            let is_stranger = at < STRANGERS.len() && !OPEN_RPCS.contains(&&**path);
            assert!(!is_stranger || status.as_deref() == Some("16"), "{what}: {status:?}");
            refused += usize::from(matches!(status.as_deref(), Some("7" | "16")));
            assert_equal(&what, i, direct, routed).await;
        }
        // A server validates some bodies before it asks who sends them.
        assert!(refused > if at < STRANGERS.len() { 30 } else { 5 }, "{who}: {refused}");
    }
}

/// What tokens may allow, and whether they are taken at all.
fn tokens() -> [(&'static str, String); 8] {
    let of = |access: Value| token(KEY, &json!({ "access": access }));
    [
        ("everything", of(json!("m"))),
        ("all reads", of(json!("r"))),
        ("reads of one", of(json!([{ "collection": "books", "access": "r" }]))),
        ("one", of(json!([{ "collection": "books", "access": "rw" }]))),
        ("an alias alone", of(json!([{ "collection": "alias", "access": "rw" }]))),
        ("what is not there", of(json!([{ "collection": "nowhere", "access": "rw" }]))),
        ("nothing any more", token(KEY, &json!({ "exp": 1, "access": "m" }))),
        ("nothing", token("the key of another cluster", &json!({ "access": "m" }))),
    ]
}

/// A second collection, which no token names, and an alias of it.
async fn with_a_secret(bed: Bed) -> Bed {
    bed.collection("secret", json!({ "shard_number": 3 })).await;
    let alias =
        json!({ "actions": [{ "create_alias": { "collection_name": "secret", "alias_name": "hidden" } }] });
    bed.rest().post("/collections/aliases", alias).await.expect("an alias");
    bed.know("secret").await;
    bed
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_allow_over_rest_what_they_allow_at_a_node() {
    let bed = with_a_secret(locked().await).await;
    let mut corpus = rest_corpus();
    let ask = |method: &str, path: String, body: &str| Ask {
        method: method.parse().expect("a method"),
        path,
        body: body.into(),
    };
    for name in ["secret", "hidden", "unheard-of"] {
        for rest in ["", "/exists", "/cluster", "/aliases", "/points/1", "/snapshots", "/shards"] {
            corpus.push(ask("GET", format!("/collections/{name}{rest}"), ""));
        }
        corpus.push(ask("POST", format!("/collections/{name}/points/count"), "{}"));
        let point = r#"{"points":[{"id":1,"vector":[1,2,3,4]},{"id":2,"vector":[1,2,3,4]}]}"#;
        corpus.push(ask("PUT", format!("/collections/{name}/points?wait=true"), point));
    }
    let nodes: Vec<_> = (0..3).map(|node| bed.cluster.rest(node)).collect();
    let proxy = bed.rest();
    for (at, (what, token)) in tokens().iter().enumerate() {
        let bearer = format!("Bearer {token}");
        let credentials: &Credentials<'_> = &[match at % 2 {
            0 => ("authorization", bearer.as_str()),
            _ => ("api-key", token.as_str()),
        }];
        // The last are asked by everybody.
        let asked = corpus.iter().enumerate().filter(|(i, _)| i % 3 == at % 3 || i + 30 > corpus.len());
        for (i, ask) in asked {
            let what = format!("a token for {what}: {} {}", ask.method, ask.path);
            // Made a second time, a snapshot or a collection is another.
            if at == 0 && ask.method != "GET" && !ask.path.contains("/points") {
                continue;
            }
            let direct = async |node: usize| rest_answer(&nodes[node], ask, credentials).await;
            assert_equal(&what, i, direct, async || rest_answer(&proxy, ask, credentials).await).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_allow_over_grpc_what_they_allow_at_a_node() {
    let bed = with_a_secret(locked().await).await;
    let dice = Dice::seeded(17);
    let mut corpus = points_of_grpc(&dice, 60);
    for name in ["books", "alias", "secret", "hidden", "unheard-of"] {
        let message = CountPoints { collection_name: name.to_owned(), ..Default::default() }.encode_to_vec();
        let framed = [&[0, 0, 0, 0, u8::try_from(message.len()).expect("short")], &message[..]].concat();
        for rpc in ["Points/Count", "Collections/Get", "Collections/CollectionExists"] {
            corpus.push((format!("/qdrant.{rpc}"), framed.clone()));
        }
    }
    for rpc in ["Collections/List", "Collections/ListAliases", "Snapshots/ListFull"] {
        corpus.push((format!("/qdrant.{rpc}"), vec![0; 5]));
    }
    let client = grpc_client();
    let nodes: Vec<_> = bed.cluster.nodes().iter().map(Node::grpc_addr).collect();
    for (what, token) in &tokens() {
        let bearer = format!("Bearer {token}");
        let credentials: &Credentials<'_> = &[("authorization", bearer.as_str())];
        for (i, (path, body)) in corpus.iter().enumerate() {
            let what = format!("a token for {what}: {path} {}", body.escape_ascii());
            let direct = async |node: usize| grpc_answer(&client, nodes[node], path, body, credentials).await;
            let routed = async || grpc_answer(&client, bed.proxy.grpc_addr, path, body, credentials).await;
            assert_equal(&what, i, direct, routed).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_names_of_nodes_are_told_to_those_who_may_ask_a_node_for_them() {
    let bed = locked().await;
    let proxy = bed.rest();
    let nodes = bed.cluster.nodes();
    let ask = async |credential: Option<&str>| {
        let request = Request::get("/collections/books/points/1").header("x-qdrant-node", "nobody");
        let request = match credential {
            Some(key) => request.header("api-key", key),
            None => request,
        };
        let answer = proxy.raw(request.body(Bytes::new()).expect("a request")).await.expect("an answer");
        let text = format!("{answer:?} {}", String::from_utf8_lossy(answer.body()));
        let tells = nodes.iter().any(|node| {
            text.contains(&node.ip().to_string())
                || text.contains(&node.peer_id().to_string())
                || text.contains(node.name())
        });
        (answer.status(), tells)
    };
    assert_eq!(ask(None).await, (StatusCode::UNAUTHORIZED, false));
    assert_eq!(ask(Some(READ_ONLY)).await, (StatusCode::NOT_FOUND, true));
    for (what, token) in &tokens() {
        let expected = match *what {
            "everything" | "all reads" => (StatusCode::NOT_FOUND, true),
            // Qdrant forbids what a token of its own does not allow; the embedded nodes do not know such a token.
            "nothing" | "nothing any more" if bed.cluster.is_real() => (StatusCode::FORBIDDEN, false),
            "nothing" | "nothing any more" => (StatusCode::UNAUTHORIZED, false),
            _ => (StatusCode::FORBIDDEN, false),
        };
        assert_eq!(ask(Some(token)).await, expected, "a token for {what}");
    }
}
