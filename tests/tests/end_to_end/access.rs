//! Whoever may not do something is told so by Qdrant, in its own words, over the whole surface of the API.

use qdrant_router::dice::Dice;
use testkit::{Cluster, Node};

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
const STRANGERS: [(&str, &Credentials); 6] = [
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
const READERS: [(&str, &Credentials); 2] = [
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
        assert!(refused > 100, "{who}: {refused}");
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
        assert!(refused > 30, "{who}: {refused}");
    }
}
