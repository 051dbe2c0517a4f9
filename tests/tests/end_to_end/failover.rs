//! Nodes die, hang, slow down and talk nonsense under load; readers do not notice.

use std::time::Duration;

use qdrant_client::qdrant::GetPointsBuilder;
use serde_json::json;
use testkit::{Canned, Cluster, DnsMode, Lie};

use crate::{
    bed::{Bed, eventually},
    load::{Ledger, Load, Mix},
};

/// A bed whose collection `books` has two replicas of each of its three shards, and points in them.
async fn filled(cluster: testkit::ClusterBuilder) -> Bed {
    let bed = Bed::with(cluster, |router| router).await;
    bed.collection("books", json!({ "shard_number": 3, "replication_factor": 2 })).await;
    let points: Vec<_> = (0..50).map(|id| json!({ "id": id, "vector": [id, 1, 2, 3] })).collect();
    bed.rest().put("/collections/books/points?wait=true", json!({ "points": points })).await.expect("points");
    bed
}

fn assert_no_failed_read(what: &str, ledger: &Ledger) {
    let failed = ledger.failed_reads.lock().expect("a ledger");
    let reads = ledger.reads.load(std::sync::atomic::Ordering::Relaxed);
    println!(
        "{what}: {} of {reads} reads failed, the slowest took {:?}",
        failed.len(),
        ledger.slowest_read()
    );
    assert!(failed.is_empty(), "{what}: {} of {reads} reads failed: {failed:#?}", failed.len());
}

fn assert_no_failed_write(what: &str, ledger: &Ledger) {
    let failed = ledger.failed_writes.lock().expect("a ledger");
    assert!(failed.is_empty(), "{what}: {} writes failed: {failed:#?}", failed.len());
}

/// Every write that was acknowledged is there.
async fn assert_nothing_lost(what: &str, bed: &Bed, ledger: &Ledger) {
    bed.cluster.settled().await.expect("a settled cluster");
    let acknowledged = ledger.acknowledged.lock().expect("a ledger").clone();
    let ids = acknowledged.iter().map(|&id| id.into()).collect::<Vec<_>>();
    let found = bed.sdk().get_points(GetPointsBuilder::new("books", ids)).await.expect("points");
    assert_eq!(found.result.len(), acknowledged.len(), "{what}: no acknowledged write is lost");
}

/// Waits until the router takes node `i` for reachable, or not.
async fn noticed(bed: &Bed, i: usize, reachable: bool) {
    let peer = bed.cluster.node(i).peer_id();
    eventually("the router has noticed", async || {
        bed.router.topology().snapshot().node(peer).is_some_and(|node| node.reachable == reachable)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_one_node_of_three_fails_nothing() {
    let bed = filled(Cluster::builder().nodes(3)).await;
    let load = Load::start(&bed, Mix::ReadsAndWrites);
    load.goes_on(100).await;
    bed.cluster.kill(1).await.expect("a dead node");
    load.goes_on(400).await;
    noticed(&bed, 1, false).await;
    bed.cluster.restart(1).await.expect("a node that is back");
    noticed(&bed, 1, true).await;
    load.goes_on(200).await;
    let ledger = load.stop().await;
    assert_no_failed_read("kill", &ledger);
    assert_no_failed_write("kill", &ledger);
    assert_nothing_lost("kill", &bed, &ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarting_one_node_after_the_other_fails_nothing() {
    let bed = filled(Cluster::builder().nodes(3)).await;
    let load = Load::start(&bed, Mix::ReadsAndWrites);
    for i in 0..3 {
        load.goes_on(60).await;
        bed.cluster.kill(i).await.expect("a dead node");
        load.goes_on(60).await;
        bed.cluster.restart(i).await.expect("a node that is back");
        noticed(&bed, i, true).await;
        bed.cluster.settled().await.expect("its replicas are back");
    }
    let ledger = load.stop().await;
    assert_no_failed_read("rolling restart", &ledger);
    assert_no_failed_write("rolling restart", &ledger);
    assert_nothing_lost("rolling restart", &bed, &ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_fails_no_read() {
    let bed = filled(Cluster::builder().nodes(3)).await;
    let load = Load::start(&bed, Mix::ReadsAlone);
    load.goes_on(100).await;
    bed.cluster.hang(1).await.expect("a node that hangs");
    load.goes_on(300).await;
    noticed(&bed, 1, false).await;
    bed.cluster.heal(1).await.expect("a node that answers");
    noticed(&bed, 1, true).await;
    load.goes_on(100).await;
    assert_no_failed_read("hang", &*load.stop().await);
}

/// Faults that only embedded nodes can have, each on one node of three.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_misbehaves_fails_no_read() {
    let bed = filled(Cluster::builder().nodes(3).embedded()).await;
    let cluster = &bed.cluster;
    let local = "Local shard 1 not found";
    for fault in [
        "slow",
        "slower",
        "refuse",
        "reset",
        "internal",
        "unavailable",
        "internal burst",
        "goaway",
        "refuse streams",
        "stale",
        "contradiction",
        "contradiction ahead",
        "garbage",
        "nonsense",
        "crowd",
    ] {
        let load = Load::start(&bed, Mix::ReadsAlone);
        load.goes_on(40).await;
        let broken = match fault {
            "slow" => cluster.slow(1, Duration::from_millis(50)).await,
            "slower" => cluster.slow(1, Duration::from_millis(500)).await,
            "refuse" => cluster.refuse(1).await,
            "reset" => cluster.reset(1).await,
            "internal" => cluster.answer_with(1, Canned::internal().text(local)).await,
            "unavailable" => cluster.answer_with(1, Canned::unavailable()).await,
            "internal burst" => cluster.answer_with(1, Canned::internal().times(20)).await,
            "goaway" => cluster.goaway(1).await,
            "refuse streams" => cluster.refuse_streams(1, 20).await,
            "stale" => cluster.lie(1, Lie::Stale).await,
            "contradiction" => cluster.lie(1, Lie::Contradiction { ahead: 0 }).await,
            "contradiction ahead" => cluster.lie(1, Lie::Contradiction { ahead: 1000 }).await,
            "garbage" => cluster.lie(1, Lie::Garbage).await,
            "nonsense" => cluster.lie(1, Lie::Nonsense).await,
            _ => cluster.lie(1, Lie::Crowd(10_000)).await,
        };
        broken.expect("a fault");
        load.goes_on(150).await;
        cluster.heal(1).await.expect("a node that is well");
        load.goes_on(40).await;
        assert_no_failed_read(fault, &*load.stop().await);
        noticed(&bed, 1, true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_do_not_resolve_fail_nothing() {
    let bed = filled(Cluster::builder().nodes(3)).await;
    let load = Load::start(&bed, Mix::ReadsAndWrites);
    for mode in [DnsMode::NxDomain, DnsMode::ServFail, DnsMode::Timeout, DnsMode::Empty] {
        bed.cluster.dns().set_mode(mode);
        load.goes_on(60).await;
    }
    bed.cluster.dns().set_mode(DnsMode::Answer);
    load.goes_on(60).await;
    let ledger = load.stop().await;
    assert_no_failed_read("DNS", &ledger);
    assert_no_failed_write("DNS", &ledger);
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
    let mut asked = 0;
    for node in 0..3 {
        asked += bed.cluster.canned_answers(node).await.expect("a count");
    }
    assert_eq!(asked, 1, "it was asked once");
}

/// A node that tells when to come back is left alone until then, and the others answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_at_its_limit_is_left_alone_for_as_long_as_it_asks() {
    let bed = filled(Cluster::builder().nodes(3).embedded()).await;
    bed.cluster.answer_with(1, Canned::rate_limited(Some(60))).await.expect("a limit");
    let mut limited = 0;
    for _ in 0..100 {
        let request = http::Request::post("/collections/books/points/count")
            .header("content-type", "application/json")
            .body("{}".into())
            .expect("a request");
        match bed.rest().raw(request).await.expect("an answer").status().as_u16() {
            200 => {}
            429 => limited += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(bed.cluster.canned_answers(1).await.expect("a count"), limited);
    assert_eq!(limited, 1, "it told so once");
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

#[tokio::test(flavor = "multi_thread")]
async fn without_any_node_the_service_serves_and_after_that_nobody() {
    let bed = Bed::new().await;
    for i in 0..3 {
        bed.cluster.kill(i).await.expect("a dead node");
    }
    let admin = bed.proxy.admin();
    eventually("not ready", async || {
        admin
            .get("/readyz")
            .await
            .is_err_and(|error| error.status() == Some(http::StatusCode::SERVICE_UNAVAILABLE))
    })
    .await;
    let refused = bed.rest().get("/collections").await.expect_err("nobody is there");
    assert_eq!(refused.status(), Some(http::StatusCode::SERVICE_UNAVAILABLE), "{refused}");
    let refused = bed.official().list_collections().await.expect_err("nobody is there");
    assert!(refused.to_string().contains("qdrant-router"), "{refused}");

    bed.cluster.restart(0).await.expect("a node that is back");
    eventually("served again", async || bed.rest().get("/collections").await.is_ok()).await;
}
