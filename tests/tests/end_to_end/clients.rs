//! Unmodified clients do a day's work through the router.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use qdrant_client::{
    Payload,
    qdrant::{
        Condition, CountPointsBuilder, CreateAliasBuilder, CreateCollectionBuilder, DeletePointsBuilder,
        Distance, Filter, GetPointsBuilder, PointId, PointStruct, PointsIdsList, QueryPointsBuilder,
        ScrollPointsBuilder, SetPayloadPointsBuilder, UpsertPointsBuilder, VectorParamsBuilder,
    },
};
use qdrant_router_proxy::{lifecycle::Proxy, listen};
use tokio::{net::TcpListener, sync::watch};

use crate::bed::{Bed, official_at};

fn points() -> Vec<PointStruct> {
    (0..60)
        .map(|id| {
            let payload =
                Payload::try_from(serde_json::json!({ "parity": if id % 2 == 0 { "even" } else { "odd" } }))
                    .expect("a payload");
            PointStruct::new(id, vec![id as f32, 1.0, 0.0, 0.0], payload)
        })
        .collect()
}

/// The same session for both clients: their methods have the same names and types.
macro_rules! session {
    ($client:expr, $name:expr) => {{
        let (client, name) = ($client, $name);
        let collection = CreateCollectionBuilder::new(name)
            .vectors_config(VectorParamsBuilder::new(4, Distance::Dot))
            .shard_number(6)
            .replication_factor(2);
        assert!(client.create_collection(collection).await.expect("a collection").result);
        assert!(client.collection_exists(name).await.expect("an answer"));
        assert!(client.list_collections().await.expect("a list").collections.iter().any(|c| c.name == name));

        client.upsert_points(UpsertPointsBuilder::new(name, points()).wait(true)).await.expect("an upsert");
        let count = client.count(CountPointsBuilder::new(name).exact(true)).await.expect("a count");
        assert_eq!(count.result.expect("a count").count, 60);

        let nearest = client
            .query(QueryPointsBuilder::new(name).query(vec![1.0, 0.0, 0.0, 0.0]).limit(3).with_payload(true))
            .await
            .expect("neighbours");
        let ids: Vec<_> = nearest.result.iter().map(|point| point.id.clone().expect("an id")).collect();
        assert_eq!(ids, [59, 58, 57].map(PointId::from));
        assert_eq!(nearest.result[0].payload["parity"].as_str().map(String::as_str), Some("odd"));

        let even = Filter::must([Condition::matches("parity", "even".to_owned())]);
        let page = client.scroll(ScrollPointsBuilder::new(name).filter(even.clone()).limit(10)).await.expect("a page");
        assert_eq!(page.result.len(), 10);
        assert_eq!(page.next_page_offset, Some(20.into()));

        let payload = Payload::try_from(serde_json::json!({ "seen": true })).expect("a payload");
        let set = SetPayloadPointsBuilder::new(name, payload)
            .points_selector(PointsIdsList { ids: vec![4.into()] })
            .wait(true);
        client.set_payload(set).await.expect("a payload");
        let got = client
            .get_points(GetPointsBuilder::new(name, vec![4.into(), 999.into()]).with_payload(true).with_vectors(true))
            .await
            .expect("points");
        assert_eq!(got.result.len(), 1);
        assert_eq!(got.result[0].payload["seen"].as_bool(), Some(true));

        let alias = format!("{name}-alias");
        client.create_alias(CreateAliasBuilder::new(name, &alias)).await.expect("an alias");
        client.delete_points(DeletePointsBuilder::new(&alias).points(even).wait(true)).await.expect("a deletion");
        let count = client.count(CountPointsBuilder::new(&alias).exact(true)).await.expect("a count");
        assert_eq!(count.result.expect("a count").count, 30);

        client.delete_collection(name).await.expect("a deletion");
        assert!(!client.collection_exists(name).await.expect("an answer"));
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_rust_client_through_the_proxy() {
    let bed = Bed::new().await;
    session!(bed.official(), "official");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_routers_own_client() {
    let bed = Bed::new().await;
    session!(bed.sdk(), "routed");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_protocols_are_served_on_both_ports() {
    let bed = Bed::new().await;
    let rest_on_grpc_port = testkit::Rest::new(bed.proxy.grpc_addr, None);
    assert_eq!(rest_on_grpc_port.get("/collections").await.expect("a list")["status"], "ok");
    let grpc_on_rest_port = official_at(bed.proxy.rest_addr);
    assert!(grpc_on_rest_port.health_check().await.expect("a reply").title.contains("qdrant"));
}

/// Not even where many of its calls are on their way when one ends.
#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_does_not_notice_that_its_connections_grow_old() {
    const AGE: Duration = Duration::from_secs(1);
    let bed = Bed::new().await;
    bed.collection("books", serde_json::json!({ "shard_number": 3 })).await;
    let mut proxy = Proxy::new(bed.router.clone());
    proxy.max_connection_age = Some(AGE);
    let listener = TcpListener::bind((bed.cluster.block().spare(50), 6334)).await.expect("a free port");
    let client = official_at(listener.local_addr().expect("an address"));
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(listen::serve(listener, proxy, stopped));

    let began = Instant::now();
    let calls = (0..16).map(|_| async {
        while began.elapsed() < 3 * AGE {
            client.count(CountPointsBuilder::new("books").exact(true)).await.expect("a count");
        }
    });
    join_all(calls).await;
}
