//! A node answers late, as if it were far away or its host busy. Its peers do not notice.

use std::time::{Duration, Instant};

use qdrant_client::qdrant::{CountPointsBuilder, QueryPointsBuilder};
use testkit::{Cluster, Front};

use super::{Load, Mix, assert_no_failed_read, fill};
use crate::bed::{Bed, official_at, router_for};

/// Three nodes, each behind a front, all of which hold everything.
async fn fronted() -> (Bed, Vec<Front>) {
    let cluster = Cluster::builder().nodes(3).start().await.expect("a cluster");
    let mut fronts = Vec::new();
    for (i, node) in cluster.nodes().iter().enumerate() {
        let front = Front::start(cluster.block().spare(100 + i), node.ip(), None).await;
        fronts.push(front.expect("a free address"));
    }
    let listed = fronts.iter().map(Front::ip).collect();
    cluster.dns().set(cluster.headless_name(), listed);
    let bed = Bed::around(cluster, router_for).await;
    fill(&bed, 3).await;
    (bed, fronts)
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_node_is_asked_little() {
    let (bed, fronts) = fronted().await;
    let slow = bed.cluster.node(1).peer_id();
    let traffic = || {
        let snapshot = bed.router.topology().snapshot();
        snapshot.node(slow).map_or(0, |node| bed.router.balance().traffic(node.address).sent)
    };
    let slower = async |delay: Duration| {
        let load = Load::start(&bed, Mix::ReadsAlone);
        load.goes_on(300).await;
        load.ledger.strike();
        fronts[1].delay(delay);
        let before = traffic();
        load.goes_on(1500).await;
        fronts[1].delay(Duration::ZERO);
        let ledger = load.stop().await;
        ledger.tell(&format!("{delay:?} slower"));
        assert_no_failed_read("slow", &ledger);
        let (reads, asked) = (ledger.reads().len() as u64, traffic() - before);
        let extra = ledger.upstream().saturating_sub(reads);
        // Fifty milliseconds are nothing beside a machine that is busy with other things.
        let is_spared = asked * 20 <= reads || delay <= Duration::from_millis(50);
        if extra * 20 <= reads && is_spared {
            return Ok(());
        }
        Err(format!("{extra} extra requests for {reads} reads; the slow node was asked {asked} times"))
    };
    for delay in [50, 200, 500].map(Duration::from_millis) {
        // A machine that stands still for longer than the delay makes the other nodes slow as well, for a while.
        let mut outcome = slower(delay).await;
        for _ in 0..2 {
            if outcome.is_err() {
                outcome = slower(delay).await;
            }
        }
        outcome.expect("a slow node is asked little");
    }
}

/// Beside the same reads over the same fronts in turn: figures for docs/reliability.md, which assert nothing.
#[tokio::test(flavor = "multi_thread")]
async fn beside_round_robin() {
    let (bed, fronts) = fronted().await;
    let (sdk, proxy) = (bed.sdk(), bed.official());
    let nodes: Vec<_> = fronts.iter().map(|front| official_at((front.ip(), 6334).into())).collect();
    fronts[1].delay(Duration::from_millis(200));
    let (mut by_sdk, mut by_proxy, mut in_turn) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..300 {
        let query = || QueryPointsBuilder::new("books").query(vec![1.0; 4]);
        let began = Instant::now();
        sdk.query(query()).await.expect("an answer");
        by_sdk.push(began.elapsed());
        let began = Instant::now();
        proxy.query(query()).await.expect("an answer");
        by_proxy.push(began.elapsed());
        let began = Instant::now();
        nodes[i % 3].query(query()).await.expect("an answer");
        in_turn.push(began.elapsed());
    }
    let count = sdk.count(CountPointsBuilder::new("books")).await.expect("a count");
    assert_eq!(count.result.map(|count| count.count), Some(50));
    println!(
        "one node of three 200 ms slower, p99 of reads: SDK {:?}, proxy {:?}, round robin {:?}",
        p99(by_sdk),
        p99(by_proxy),
        p99(in_turn)
    );
}
