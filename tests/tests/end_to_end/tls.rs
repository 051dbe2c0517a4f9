//! Nodes that speak TLS: the same routing behind certificates that carry the names of pods, and none of their addresses.

use std::time::Duration;

use qdrant_client::qdrant::{CountPointsBuilder, PointStruct, UpsertPointsBuilder};
use qdrant_router::{Router, TlsIdentity, TlsOptions};
use serde_json::json;
use testkit::{Authority, Cluster, Front, Issued, Validity};

use crate::{
    bed::{Bed, eventually, in_time, router_for},
    ledger::Ledger,
    load::{Load, Mix},
};

/// What the certificates that KubeBlocks issues cover.
const PODS: &str = "*.qdrant-headless.demo.svc.cluster.local";
const POD: &str = "qdrant-0.qdrant-headless.demo.svc.cluster.local";

/// Three nodes behind fronts with these certificates. Qdrant asks clients for theirs on its REST port alone.
async fn encrypted(authority: &Authority, certificates: [&Issued; 3], asks: bool) -> (Cluster, Vec<Front>) {
    let cluster = Cluster::builder().nodes(3).start().await.expect("a cluster");
    let mut fronts = Vec::new();
    for (i, node) in cluster.nodes().iter().enumerate() {
        let rest = authority.server(certificates[i], &["h2", "http/1.1"], asks);
        let grpc = authority.server(certificates[i], &["h2"], false);
        let front = Front::start(cluster.block().spare(100 + i), node.ip(), Some([rest, grpc])).await;
        fronts.push(front.expect("a free address"));
    }
    cluster.dns().set(cluster.headless_name(), fronts.iter().map(Front::ip).collect());
    (cluster, fronts)
}

fn trusting(authority: &Authority) -> TlsOptions {
    TlsOptions {
        roots: Some(authority.certificate().into_bytes()),
        server_name: Some(POD.to_owned()),
        ..TlsOptions::default()
    }
}

/// What the router says is wrong, once it has asked every node.
async fn problems(router: &Router) -> String {
    in_time("a survey", router.topology().surveyed()).await;
    router.topology().problems().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_behind_tls_are_routed_to_like_others() {
    let authority = Authority::new();
    let issued = authority.issue(&[PODS], Validity::Current);
    let (cluster, _fronts) = encrypted(&authority, [&issued; 3], false).await;
    let bed = Bed::around(cluster, |cluster| router_for(cluster).tls(trusting(&authority))).await;
    bed.collection("books", json!({ "shard_number": 6 })).await;
    let point = |id: u64| PointStruct::new(id, vec![1.0; 4], qdrant_client::Payload::new());
    let rpcs = bed
        .rpcs_per_round(3, async || {
            for id in 0..20 {
                let upsert = UpsertPointsBuilder::new("books", vec![point(id)]).wait(true);
                bed.official().upsert_points(upsert).await.expect("an upsert");
                let body = json!({ "points": [{ "id": 100 + id, "vector": [1, 1, 1, 1] }] });
                bed.rest().put("/collections/books/points?wait=true", body).await.expect("an upsert");
            }
        })
        .await;
    assert_eq!(rpcs, 0.0);
    let count = bed.sdk().count(CountPointsBuilder::new("books").exact(true)).await.expect("a count");
    assert_eq!(count.result.map(|count| count.count), Some(40));

    // More than any buffer on the way holds, of TLS or of the system.
    bed.collection("large", json!({ "shard_number": 1 })).await;
    let points: Vec<_> = (0..60_000_u64).map(|id| json!({ "id": id, "vector": [id, 1, 2, 3] })).collect();
    bed.rest()
        .put("/collections/large/points?wait=true", json!({ "points": points }))
        .await
        .expect("an upsert");
    let points = (60_000..90_000).map(point).collect::<Vec<_>>();
    let upsert = UpsertPointsBuilder::new("large", points).wait(true);
    bed.sdk().with_timeout(Duration::from_secs(30)).upsert_points(upsert).await.expect("an upsert");
    let count = bed.sdk().count(CountPointsBuilder::new("large").exact(true)).await.expect("a count");
    assert_eq!(count.result.map(|count| count.count), Some(90_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_the_nodes_is_not_trusted() {
    let (authority, other) = (Authority::new(), Authority::new());
    let good = authority.issue(&[PODS], Validity::Current);
    for (issued, says) in [
        (authority.issue(&[PODS], Validity::Expired), "expired"),
        (
            authority.issue(&["*.other-headless.demo.svc.cluster.local"], Validity::Current),
            "not valid for name",
        ),
        (other.issue(&[PODS], Validity::Current), "invalid peer certificate"),
    ] {
        let (cluster, _fronts) = encrypted(&authority, [&good, &issued, &good], false).await;
        let bad = cluster.block().spare(101).to_string();
        let bed = Bed::around(cluster, |cluster| router_for(cluster).tls(trusting(&authority))).await;
        let problems = problems(&bed.router).await;
        assert!(problems.contains(&bad) && problems.contains(says), "{says}: {problems}");

        // Its data is reached through the others, as if it could not be reached at all.
        bed.collection("books", json!({ "shard_number": 3, "replication_factor": 2 })).await;
        let load = Load::start(&bed, Mix::ReadsAndWrites);
        load.goes_on(200).await;
        let ledger = load.stop().await;
        ledger.tell(&format!("TLS: one certificate {says}"));
        let failed: Vec<_> = [false, true].map(|is_write| Ledger::failed(&ledger, is_write)).concat();
        assert!(failed.is_empty(), "{failed:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_ask_who_the_router_is_are_told() {
    let authority = Authority::new();
    let issued = authority.issue(&[PODS], Validity::Current);
    let (cluster, _fronts) = encrypted(&authority, [&issued; 3], true).await;
    let unknown = router_for(&cluster).tls(trusting(&authority)).build().expect("a router");
    let refused = problems(&unknown).await;
    assert!(refused.contains("CertificateRequired") && refused.contains("client certificate"), "{refused}");
    assert!(unknown.topology().snapshot().epoch().is_none());

    let client = authority.issue(&["router.demo"], Validity::Current);
    let identity =
        TlsIdentity { certificates: client.certificate.into_bytes(), key: client.key.into_bytes() };
    assert_eq!(format!("{identity:?}"), "TlsIdentity { .. }", "a key is not told");
    let options = TlsOptions { identity: Some(identity), ..trusting(&authority) };
    let bed = Bed::around(cluster, |cluster| router_for(cluster).tls(options)).await;
    eventually("all nodes let it in", async || {
        bed.router.topology().snapshot().nodes().iter().filter(|node| node.reachable).count() == 3
    })
    .await;
    bed.rest().get("/collections").await.expect("an answer");
}
