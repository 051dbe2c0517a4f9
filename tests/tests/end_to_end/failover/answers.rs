//! What a node answers decides who is asked next.

use futures_util::future::join_all;
use http::StatusCode;
use qdrant_client::qdrant::{CreateFieldIndexCollectionBuilder, FieldType};
use serde_json::json;
use testkit::{Canned, Cluster};

use super::filled;
use crate::bed::{Bed, eventually};

/// How many such answers the three nodes have given.
async fn canned_answers(bed: &Bed) -> u64 {
    let mut given = 0;
    for node in 0..3 {
        given += bed.cluster.canned_answers(node).await.expect("a count");
    }
    given
}

/// A limit is the client's to know: it is passed on, and nobody else is asked to break it.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_passed_on() {
    let bed = filled(Cluster::builder().nodes(3).embedded()).await;
    for node in 0..3 {
        let canned = Canned::rate_limited(Some(7));
        bed.cluster.answer_with(node, canned).await.expect("a limit");
    }
    let request = http::Request::post("/collections/books/points/count")
        .header("content-type", "application/json")
        .body("{}".into())
        .expect("a request");
    let answer = bed.rest().raw(request).await.expect("an answer");
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["retry-after"]),
        (429, &"7".parse().expect("a value"))
    );
    // Once, unless a stall of the machine had the read sent to a second node before the first has answered.
    let asked = canned_answers(&bed).await;
    assert!((1..=1 + bed.router.hedges()).contains(&asked), "it was asked {asked} times");
}

/// A node that tells when to come back is left alone until then, and the others answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_at_its_limit_is_left_alone_for_as_long_as_it_asks() {
    let bed = filled(Cluster::builder().nodes(3).embedded()).await;
    bed.cluster.answer_with(1, Canned::rate_limited(Some(60))).await.expect("a limit");
    let count = async || {
        let request = http::Request::post("/collections/books/points/count")
            .header("content-type", "application/json")
            .body("{}".into())
            .expect("a request");
        bed.rest().raw(request).await.expect("an answer").status().as_u16()
    };
    let told = async || bed.cluster.canned_answers(1).await.expect("a count");
    // Of those that come together some find the other nodes busy.
    let mut limited = 0;
    eventually("it is asked", async || {
        let statuses = join_all([count(), count(), count(), count(), count()]).await;
        assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
        limited += statuses.iter().filter(|&&status| status == 429).count() as u64;
        told().await > 0
    })
    .await;
    let before = told().await;
    assert!((limited..=limited + bed.router.hedges()).contains(&before), "{limited} were told, of {before}");
    for _ in 0..100 {
        assert_eq!(count().await, 200);
    }
    assert_eq!(told().await, before, "it is not asked again");
}

/// The leader of consensus may be over its quota of storage where other nodes are not (Qdrant 1.19).
#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_created_though_the_leader_is_over_its_quota() {
    let bed = filled(Cluster::builder().nodes(3).embedded()).await;
    let leader = bed.cluster.leader().await.expect("a leader");
    bed.cluster.answer_with(leader, Canned::no_storage()).await.expect("a quota");
    let index = |field: &str| json!({ "field_name": field, "field_schema": "keyword" });
    let refusals = async || bed.cluster.canned_answers(leader).await.expect("a count");
    bed.rest().put("/collections/books/index?wait=true", index("title")).await.expect("an index");
    assert_eq!(refusals().await, 1, "it was asked first");
    // Who is not known to have applied the last change is not asked for the next.
    bed.know("books").await;
    let author = CreateFieldIndexCollectionBuilder::new("books", "author", FieldType::Keyword);
    bed.official().create_field_index(author).await.expect("an index");
    assert_eq!(refusals().await, 2, "it was asked first over gRPC, too");

    for node in 0..3 {
        bed.cluster.answer_with(node, Canned::no_storage()).await.expect("a quota");
    }
    let before = canned_answers(&bed).await;
    let refused =
        bed.rest().put("/collections/books/index?wait=true", index("year")).await.expect_err("no room");
    assert_eq!(refused.status(), Some(StatusCode::INSUFFICIENT_STORAGE), "{refused}");
    assert_eq!(canned_answers(&bed).await - before, 4, "each was asked, and the Service");
    let point = json!({ "points": [{ "id": 1, "vector": [1, 2, 3, 4] }] });
    let refused = bed.rest().put("/collections/books/points?wait=true", point).await.expect_err("no room");
    assert_eq!(refused.status(), Some(StatusCode::INSUFFICIENT_STORAGE), "{refused}");
    assert_eq!(canned_answers(&bed).await - before, 5, "Qdrant has asked the others itself");
}

/// A request says itself whether it may be repeated though it may have been processed.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_decides_whether_it_is_repeated() {
    let bed = filled(Cluster::builder().nodes(3).embedded()).await;
    let write = |id: u64, ordering: &'static str, policy: &'static str| {
        let body = json!({ "points": [{ "id": id, "vector": [1, 2, 3, 4] }] }).to_string();
        let request = http::Request::put(format!("/collections/books/points?wait=true&ordering={ordering}"))
            .header("content-type", "application/json")
            .header("x-qdrant-router-retry-writes", policy)
            .body(body.into())
            .expect("a request");
        let rest = bed.rest();
        async move { rest.raw(request).await.expect("an answer").status().as_u16() }
    };
    // Wherever the points belong, some of them are answered by the node that breaks its answers off.
    bed.cluster.reset(1).await.expect("a node that resets");
    for (ordering, policy, fails) in
        [("weak", "never", true), ("weak", "idempotent", false), ("weak", "always", false)]
    {
        let mut statuses = std::collections::BTreeSet::new();
        for id in 100..130 {
            statuses.insert(write(id, ordering, policy).await);
        }
        assert_eq!(statuses.contains(&502), fails, "{ordering} {policy}: {statuses:?}");
        assert!(statuses.is_subset(&[200, 502].into()), "{ordering} {policy}: {statuses:?}");
    }
    assert_eq!(write(1, "weak", "sometimes").await, 400);

    for node in [0, 2] {
        bed.cluster.reset(node).await.expect("a node that resets");
    }
    assert_eq!(write(1, "medium", "idempotent").await, 502, "it may have been processed");
}

/// A connection that broke and an error that asks for a retry are two things, and each of them is repeated once.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_broke_off_is_repeated_after_an_error_too() {
    let bed = filled(Cluster::builder().nodes(3).embedded()).await;
    bed.cluster.reset(1).await.expect("a node that resets");
    bed.cluster.answer_with(2, Canned::internal()).await.expect("an error");
    for id in 100..130 {
        let points = json!({ "points": [{ "id": id, "vector": [1, 2, 3, 4] }] });
        bed.rest().put("/collections/books/points?wait=true", points).await.expect("a point");
    }
    assert!(bed.cluster.canned_answers(2).await.expect("a count") > 0, "the error was met");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_node_the_service_serves_and_after_that_nobody() {
    let bed = Bed::new().await;
    for i in 0..3 {
        bed.cluster.kill(i).await.expect("a dead node");
    }
    let admin = bed.proxy.admin();
    eventually("not ready", async || {
        admin.get("/readyz").await.is_err_and(|error| error.status() == Some(StatusCode::SERVICE_UNAVAILABLE))
    })
    .await;
    let refused = bed.rest().get("/collections").await.expect_err("nobody is there");
    assert_eq!(refused.status(), Some(StatusCode::SERVICE_UNAVAILABLE), "{refused}");
    let refused = bed.official().list_collections().await.expect_err("nobody is there");
    assert!(refused.to_string().contains("qdrant-router"), "{refused}");

    bed.cluster.restart(0).await.expect("a node that is back");
    eventually("served again", async || bed.rest().get("/collections").await.is_ok()).await;
}
