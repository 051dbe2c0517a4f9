//! Names stop resolving, resolve to too little, too much, or to other pods.

use qdrant_router::topology::Problem;
use testkit::{Cluster, DnsMode, Front};

use super::{Load, Mix, assert_nothing_failed, eventually, filled, noticed};

#[tokio::test(flavor = "multi_thread")]
async fn names_that_do_not_resolve_fail_nothing() {
    let bed = filled(Cluster::builder().nodes(3)).await;
    bed.cluster.dns().set_ttl(0);
    for mode in [DnsMode::NxDomain, DnsMode::ServFail, DnsMode::Timeout, DnsMode::Empty] {
        let load = Load::start(&bed, Mix::ReadsAndWrites);
        load.ledger.strike();
        bed.cluster.dns().set_mode(mode);
        bed.router.topology().refresh();
        load.goes_on(200).await;
        bed.cluster.dns().set_mode(DnsMode::Answer);
        load.goes_on(100).await;
        let ledger = load.stop().await;
        ledger.tell(&format!("DNS: {mode:?}"));
        assert_nothing_failed("DNS", &bed, &ledger).await;
    }
}

/// Pods come and go in the answers, as they do while a Service's endpoints change, and keep serving.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_flaps_fails_nothing() {
    let bed = filled(Cluster::builder().nodes(3)).await;
    let dns = bed.cluster.dns();
    dns.set_ttl(0);
    let all = dns.get(bed.cluster.headless_name());
    let load = Load::start(&bed, Mix::ReadsAndWrites);
    load.ledger.strike();
    for round in 0..12 {
        let mut listed = all.clone();
        listed.remove(round % 3);
        dns.set(bed.cluster.headless_name(), listed);
        bed.router.topology().refresh();
        load.goes_on(30).await;
        dns.set(bed.cluster.headless_name(), all.clone());
        bed.router.topology().refresh();
        load.goes_on(30).await;
    }
    let ledger = load.stop().await;
    ledger.tell("DNS: flapping");
    assert_nothing_failed("flapping", &bed, &ledger).await;
}

/// A pod of another cluster has the address that one of ours had. It is no node, and nothing fails.
#[tokio::test(flavor = "multi_thread")]
async fn another_clusters_pod_on_a_reused_address_fails_nothing() {
    let other = Cluster::builder().nodes(1).seed(7).start().await.expect("another cluster");
    let bed = filled(Cluster::builder().nodes(3)).await;
    bed.cluster.dns().set_ttl(0);
    let load = Load::start(&bed, Mix::ReadsAndWrites);
    load.goes_on(60).await;
    load.ledger.strike();
    bed.cluster.kill(2).await.expect("a dead node");
    noticed(&bed, 2, false).await;
    // The name still lists the address.
    let reused = bed.cluster.node(2).ip();
    let stranger = Front::start(reused, other.node(0).ip(), None).await.expect("a free address");
    eventually("the stranger is known as one", async || {
        let is_stranger = |problem: &Problem| problem.to_string().contains(&reused.to_string());
        bed.router.topology().refresh();
        bed.router.topology().problems().iter().any(is_stranger)
    })
    .await;
    load.goes_on(300).await;
    assert!(bed.router.topology().snapshot().node(other.node(0).peer_id()).is_none());
    stranger.close().await;
    bed.cluster.restart(2).await.expect("ours is back");
    noticed(&bed, 2, true).await;
    load.goes_on(100).await;
    let ledger = load.stop().await;
    ledger.tell("address reused by another cluster's pod");
    assert_nothing_failed("address reuse", &bed, &ledger).await;
}
