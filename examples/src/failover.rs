//! Failover as a client sees it: reads go on while a node dies.
//!
//! ```text
//! cargo run --example failover -- HEADLESS_NAME [READS]
//! ```
//!
//! Kill a node meanwhile, as with `kubectl delete pod --force`: the read that finds it dead is sent to another
//! node, and those that follow go there at once. It ends after `READS` reads, 300 unless given, ten a second.

use std::{env, error::Error, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use qdrant_client::qdrant::{
    CreateCollectionBuilder, Distance, PointStruct, UpsertPointsBuilder, VectorParamsBuilder,
};
use qdrant_router::{Qdrant, Routed};
use tokio::time::{MissedTickBehavior, interval};
use tower::ServiceExt;

use crate::arguments::{dns, headless};

mod arguments;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let reads: u32 = env::args().nth(2).map_or(Ok(300), |reads| reads.parse())?;
    let client = Qdrant::builder().headless(headless()?).dns(dns()?).build()?;

    // One shard in two copies: while one of its nodes is dead, the other answers.
    let collection = CreateCollectionBuilder::new("failover")
        .vectors_config(VectorParamsBuilder::new(4, Distance::Cosine))
        .shard_number(1)
        .replication_factor(2);
    client.create_collection(collection).await?;
    let point = PointStruct::new(1, vec![0.1, 0.2, 0.3, 0.4], [("title", "Dune".into())]);
    client.upsert_points(UpsertPointsBuilder::new("failover", vec![point]).wait(true)).await?;

    let mut answered = 0;
    let mut tenth = interval(Duration::from_millis(100));
    tenth.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for read in 1..=reads {
        tenth.tick().await;
        // Through the router beneath the client, because its responses tell how they came about.
        let request = Request::get("/collections/failover/points/1").body(Empty::<Bytes>::new())?;
        let response = client.router().clone().oneshot(request).await?;
        let status = response.status();
        let routed = response.extensions().get::<Routed>().cloned();
        let is_complete = response.into_body().collect().await.is_ok();
        answered += u32::from(status.is_success() && is_complete);

        let (node, attempts) = routed.map(|routed| (routed.node(), routed.attempts)).unwrap_or_default();
        println!("read {read}: {status} from {}, attempts: {attempts}", node.as_deref().unwrap_or("nobody"));
    }
    println!("{answered} of {reads} reads were answered");
    client.delete_collection("failover").await?;
    Ok(())
}
