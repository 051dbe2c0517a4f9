//! Faults that only embedded nodes can have, each on one node of three.

use testkit::{Canned, Cluster, Lie};

use super::{Load, Mix, assert_nothing_failed, filled, noticed};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_misbehaves_fails_nothing() {
    let bed = filled(Cluster::builder().nodes(3).embedded()).await;
    let cluster = &bed.cluster;
    let local = "Local shard 1 not found";
    for fault in [
        "connections refused",
        "answers reset half-way",
        "500, local shard not found",
        "503",
        "500, a burst of 20",
        "GOAWAY",
        "20 streams refused",
        "topology stale",
        "topology contradictory",
        "topology contradictory and ahead",
        "topology garbage",
        "topology nonsense",
        "topology with 10,000 peers",
    ] {
        let load = Load::start(&bed, Mix::ReadsAndWrites);
        load.goes_on(60).await;
        load.ledger.strike();
        let broken = match fault {
            "connections refused" => cluster.refuse(1).await,
            "answers reset half-way" => cluster.reset(1).await,
            "500, local shard not found" => cluster.answer_with(1, Canned::internal().text(local)).await,
            "503" => cluster.answer_with(1, Canned::unavailable()).await,
            "500, a burst of 20" => cluster.answer_with(1, Canned::internal().times(20)).await,
            "GOAWAY" => cluster.goaway(1).await,
            "20 streams refused" => cluster.refuse_streams(1, 20).await,
            "topology stale" => cluster.lie(1, Lie::Stale).await,
            "topology contradictory" => cluster.lie(1, Lie::Contradiction { ahead: 0 }).await,
            "topology contradictory and ahead" => cluster.lie(1, Lie::Contradiction { ahead: 1000 }).await,
            "topology garbage" => cluster.lie(1, Lie::Garbage).await,
            "topology nonsense" => cluster.lie(1, Lie::Nonsense).await,
            _ => cluster.lie(1, Lie::Crowd(10_000)).await,
        };
        broken.expect("a fault");
        load.goes_on(300).await;
        cluster.heal(1).await.expect("a node that is well");
        load.goes_on(60).await;
        let ledger = load.stop().await;
        ledger.tell(fault);
        assert_nothing_failed(fault, &bed, &ledger).await;
        noticed(&bed, 1, true).await;
    }
}
