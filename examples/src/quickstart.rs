//! The client: the same methods as `qdrant_client::Qdrant`, each call on the node that holds its data.
//!
//! ```text
//! cargo run --example quickstart -- HEADLESS_NAME
//! ```

use std::error::Error;

use qdrant_client::qdrant::{
    CreateCollectionBuilder, Distance, PointStruct, QueryPointsBuilder, UpsertPointsBuilder,
    VectorParamsBuilder,
};
use qdrant_router::Qdrant;

use crate::arguments::{dns, headless};

mod arguments;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Qdrant::builder().headless(headless()?).dns(dns()?).build()?;

    let vectors = VectorParamsBuilder::new(4, Distance::Cosine);
    client.create_collection(CreateCollectionBuilder::new("quickstart").vectors_config(vectors)).await?;

    let dune = PointStruct::new(1, vec![0.9, 0.1, 0.1, 0.3], [("title", "Dune".into())]);
    let emma = PointStruct::new(2, vec![0.1, 0.9, 0.4, 0.1], [("title", "Emma".into())]);
    client.upsert_points(UpsertPointsBuilder::new("quickstart", vec![dune, emma]).wait(true)).await?;

    let query =
        QueryPointsBuilder::new("quickstart").query(vec![1.0, 0.0, 0.0, 0.5]).limit(1).with_payload(true);
    for point in client.query(query).await?.result {
        println!("{:?} scores {}", point.payload["title"].as_str(), point.score);
    }
    client.delete_collection("quickstart").await?;
    Ok(())
}
