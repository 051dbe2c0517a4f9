//! The tour itself: each stop prints what it measured and notes what did not come out as it should.

use qdrant_client::{
    Payload, Qdrant,
    qdrant::{CountPointsBuilder, GetPointsBuilder, PointStruct, QueryPointsBuilder, UpsertPointsBuilder},
};
use serde_json::json;

use crate::stage::{Error, Stage};

/// Requests per measurement.
const REQUESTS: u64 = 300;

/// Walks the tour and returns what did not hold.
pub(crate) async fn walk(stage: &Stage) -> Result<Vec<String>, Error> {
    let mut broken = Vec::new();
    introduce(stage);
    create(stage).await?;
    single_writes(stage, &mut broken).await?;
    one_shard_reads(stage, &mut broken).await?;
    both_protocols(stage, &mut broken).await?;
    a_dead_node(stage, &mut broken).await?;
    Ok(broken)
}

fn introduce(stage: &Stage) {
    let kind = if stage.cluster.is_real() { "real Qdrant servers" } else { "embedded nodes" };
    println!("A cluster of three {kind}, found through {}\n", stage.cluster.headless_name());
    let snapshot = stage.router.topology().snapshot();
    for node in snapshot.nodes() {
        let leads = if snapshot.consensus_leader() == node.peer { "leads consensus" } else { "" };
        println!("  {:<11} peer {:<17} {leads}", node.address.ip, node.peer.unwrap_or_default());
    }
}

async fn create(stage: &Stage) -> Result<(), Error> {
    for (name, shards, replicas) in [("books", 6, 1), ("covers", 1, 1), ("orders", 6, 2)] {
        let body = json!({
            "vectors": { "size": 4, "distance": "Dot" },
            "shard_number": shards,
            "replication_factor": replicas,
        });
        stage.rest().put(&format!("/collections/{name}"), body).await?;
        stage.know(name).await?;
    }
    println!("\nThree collections, created through the router (REST):");
    println!("  books: 6 shards, one copy · covers: 1 shard · orders: 6 shards, two copies");
    Ok(())
}

/// What a piece of work cost.
struct Cost {
    internal_rpcs: f64,
    served_by: Vec<u64>,
}

/// Both ways of doing the same work.
struct Comparison {
    router: Cost,
    round_robin: Cost,
}

/// Does `work` once per request number, through the router and round robin over the nodes.
async fn compare(
    stage: &Stage,
    title: &str,
    work: impl AsyncFn(&Qdrant, u64) -> Result<(), Error>,
) -> Result<Comparison, Error> {
    let (routed, direct) = (stage.routed()?, stage.direct()?);
    let router = cost(stage, &work, |_| &routed).await?;
    let round_robin = cost(stage, &work, |id| &direct[id as usize % direct.len()]).await?;
    println!("\n{title}");
    println!("  {:<14}{:>26}{:>34}", "", "internal RPCs per request", "served by node 0 / 1 / 2");
    for (way, cost) in [("round robin", &round_robin), ("router", &router)] {
        let served: Vec<String> = cost.served_by.iter().map(u64::to_string).collect();
        println!("  {way:<14}{:>26.3}{:>34}", cost.internal_rpcs, served.join(" / "));
    }
    Ok(Comparison { router, round_robin })
}

/// Does the work once to warm up and once more under the eyes of the nodes' own counters.
async fn cost<'c>(
    stage: &Stage,
    work: impl AsyncFn(&Qdrant, u64) -> Result<(), Error>,
    client: impl Fn(u64) -> &'c Qdrant,
) -> Result<Cost, Error> {
    let round = async || -> Result<(), Error> {
        for id in 0..REQUESTS {
            work(client(id), id).await?;
        }
        Ok(())
    };
    round().await?;
    let (rpcs, calls) = (stage.cluster.internal_rpcs().await?, stage.cluster.public_calls_by_node().await?);
    round().await?;
    let (rpcs_after, calls_after) =
        (stage.cluster.internal_rpcs().await?, stage.cluster.public_calls_by_node().await?);
    Ok(Cost {
        internal_rpcs: (rpcs_after - rpcs) as f64 / REQUESTS as f64,
        served_by: calls_after.iter().zip(calls).map(|(after, before)| after - before).collect(),
    })
}

async fn single_writes(stage: &Stage, broken: &mut Vec<String>) -> Result<(), Error> {
    for (collection, expected) in [("books", 0.0), ("orders", 1.0)] {
        let title = format!("Upserts of one point into {collection} (gRPC, the official client):");
        let found = compare(stage, &title, async |client, id| {
            client.upsert_points(UpsertPointsBuilder::new(collection, vec![point(id)]).wait(true)).await?;
            Ok(())
        })
        .await?;
        let rpcs = found.router.internal_rpcs;
        if rpcs != expected || rpcs >= found.round_robin.internal_rpcs {
            broken.push(format!("upserts into {collection}: {rpcs} internal RPCs, not {expected}"));
        }
    }
    Ok(())
}

async fn one_shard_reads(stage: &Stage, broken: &mut Vec<String>) -> Result<(), Error> {
    let points: Vec<PointStruct> = (0..REQUESTS).map(point).collect();
    stage.routed()?.upsert_points(UpsertPointsBuilder::new("covers", points).wait(true)).await?;
    let found = compare(stage, "Points read from covers:", async |client, id| {
        client.get_points(GetPointsBuilder::new("covers", vec![id.into()])).await?;
        Ok(())
    })
    .await?;
    let rpcs = found.router.internal_rpcs;
    if rpcs != 0.0 {
        broken.push(format!("reads of covers: {rpcs} internal RPCs, not 0"));
    }
    Ok(())
}

async fn both_protocols(stage: &Stage, broken: &mut Vec<String>) -> Result<(), Error> {
    let query = [1.0, 0.0, 0.0, 0.0];
    let grpc = stage.routed()?.query(QueryPointsBuilder::new("books").query(query.to_vec()).limit(3)).await?;
    let rest = stage.rest();
    let rest = rest.post("/collections/books/points/query", json!({ "query": query, "limit": 3 })).await?;
    let grpc: Vec<u64> = grpc.result.into_iter().filter_map(|point| number(point.id?)).collect();
    let rest: Vec<u64> =
        rest["result"]["points"].as_array().into_iter().flatten().filter_map(|p| p["id"].as_u64()).collect();
    println!("\nThe nearest three in books: {grpc:?} by gRPC, {rest:?} by REST");
    if grpc != [299, 298, 297] || rest != grpc {
        broken.push(format!("nearest neighbours: {grpc:?} and {rest:?}"));
    }
    Ok(())
}

async fn a_dead_node(stage: &Stage, broken: &mut Vec<String>) -> Result<(), Error> {
    let (routed, direct) = (stage.routed()?, stage.direct()?);
    let work = async |client: &Qdrant, id: u64| {
        let upsert = UpsertPointsBuilder::new("orders", vec![point(id)]).wait(true);
        let written = client.upsert_points(upsert).await.is_ok();
        let read = client.get_points(GetPointsBuilder::new("orders", vec![id.into()])).await.is_ok();
        u64::from(!written) + u64::from(!read)
    };
    stage.cluster.kill(1).await?;
    println!("\nNode 1 is killed. {} requests to orders meanwhile, half of them writes:", 2 * REQUESTS);
    let mut failed = 0;
    for id in 0..REQUESTS {
        failed += work(&routed, id).await;
    }
    let mut failed_directly = 0;
    for id in 0..REQUESTS {
        failed_directly += work(&direct[id as usize % direct.len()], id).await;
    }
    println!("  {:<14}{failed_directly:>4} failed", "round robin");
    println!("  {:<14}{failed:>4} failed", "router");
    if failed != 0 {
        broken.push(format!("{failed} requests failed while one node was dead"));
    }

    stage.cluster.restart(1).await?;
    stage.cluster.settled().await?;
    let count = routed.count(CountPointsBuilder::new("orders").exact(true)).await?;
    let count = count.result.map_or(0, |result| result.count);
    println!("It is back, and orders holds {count} points.");
    if count != REQUESTS {
        broken.push(format!("orders holds {count} points"));
    }
    Ok(())
}

fn point(id: u64) -> PointStruct {
    PointStruct::new(id, vec![id as f32, 1.0, 2.0, 3.0], Payload::new())
}

fn number(id: qdrant_client::qdrant::PointId) -> Option<u64> {
    use qdrant_client::qdrant::point_id::PointIdOptions;
    match id.point_id_options? {
        PointIdOptions::Num(number) => Some(number),
        PointIdOptions::Uuid(_) => None,
    }
}
