//! Many points at once, with a progress bar.
//!
//! ```text
//! cargo run --example bulk_upload -- HEADLESS_NAME
//! ```

use std::error::Error;

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use qdrant_client::qdrant::{
    CountPointsBuilder, CreateCollectionBuilder, Distance, PointStruct, UpsertPointsBuilder,
    VectorParamsBuilder,
};
use qdrant_router::Qdrant;

use crate::arguments::{dns, headless};

mod arguments;

const POINTS: u64 = 20_000;

/// Points per request. Each is dealt out to the nodes that hold its points, and eight are under way at a time.
const CHUNK: usize = 500;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Qdrant::builder().headless(headless()?).dns(dns()?).build()?;
    let vectors = VectorParamsBuilder::new(4, Distance::Dot);
    let collection = CreateCollectionBuilder::new("bulk_upload").vectors_config(vectors).shard_number(6);
    client.create_collection(collection).await?;

    let points: Vec<PointStruct> = (0..POINTS)
        .map(|id| PointStruct::new(id, vec![id as f32, 1.0, 2.0, 3.0], [("number", (id as i64).into())]))
        .collect();
    let bar = ProgressBar::new(POINTS)
        .with_style(ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} points, {eta} left")?);
    let upload = UpsertPointsBuilder::new("bulk_upload", points).wait(true);
    client
        .upsert_points_with_progress(upload, CHUNK, |progress| bar.set_position(progress.written as u64))
        .await?;
    bar.finish();

    let count = client.count(CountPointsBuilder::new("bulk_upload").exact(true)).await?;
    let count = count.result.map_or(0, |result| result.count);
    println!("{count} points are there, after {}", HumanDuration(bar.elapsed()));
    client.delete_collection("bulk_upload").await?;
    Ok(())
}
