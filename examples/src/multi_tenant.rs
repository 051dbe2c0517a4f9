//! One shard key per tenant: what a tenant reads and writes stays on the node that holds its shard.
//!
//! ```text
//! cargo run --example multi_tenant -- HEADLESS_NAME
//! ```

use std::error::Error;

use qdrant_client::qdrant::{
    CountPointsBuilder, CreateCollectionBuilder, CreateShardKeyBuilder, CreateShardKeyRequestBuilder,
    Distance, PointStruct, ShardKeySelectorBuilder, ShardingMethod, UpsertPointsBuilder, VectorParamsBuilder,
};
use qdrant_router::{Qdrant, Question};
use serde_json::{Value, json};

use crate::arguments::{dns, headless};

mod arguments;

const TENANTS: [&str; 3] = ["acme", "globex", "initech"];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Qdrant::builder().headless(headless()?).dns(dns()?).build()?;

    // With custom sharding each key has shards of its own.
    let collection = CreateCollectionBuilder::new("multi_tenant")
        .vectors_config(VectorParamsBuilder::new(4, Distance::Cosine))
        .sharding_method(ShardingMethod::Custom.into());
    client.create_collection(collection).await?;
    for tenant in TENANTS {
        let key = CreateShardKeyBuilder::default().shard_key(tenant.to_owned()).shards_number(1);
        client.create_shard_key(CreateShardKeyRequestBuilder::new("multi_tenant").request(key)).await?;
    }
    // Right after such a change requests keep to the nodes that are known to have it. Wait until all have it.
    let mut topology = client.router().topology().clone();
    while topology.change().concerns(Some("multi_tenant"), &topology.snapshot()) {
        topology.changed().await;
    }

    for (id, tenant) in (0_u64..).zip(TENANTS) {
        // The key on each call is all that the router needs.
        let key = ShardKeySelectorBuilder::with_shard_key(tenant);
        let point = PointStruct::new(id, vec![0.1, 0.2, 0.3, 0.4], [("tenant", tenant.into())]);
        let upsert = UpsertPointsBuilder::new("multi_tenant", vec![point]).wait(true);
        client.upsert_points(upsert.shard_key_selector(key.clone())).await?;
        let count = CountPointsBuilder::new("multi_tenant").shard_key_selector(key).exact(true);
        let count = client.count(count).await?.result.map_or(0, |result| result.count);

        // The same requests, explained instead of sent.
        let read = json!({ "shard_key": tenant });
        let write = json!({ "shard_key": tenant, "points": [{ "id": id, "vector": [0.1, 0.2, 0.3, 0.4] }] });
        println!("{tenant}: {count} point");
        println!("  writes: {}", destination(&client, "PUT", "points", write).await?);
        println!("  reads:  {}", destination(&client, "POST", "points/count", read).await?);
    }
    client.delete_collection("multi_tenant").await?;
    Ok(())
}

/// Where such a request goes, and what it costs there.
async fn destination(
    client: &Qdrant,
    method: &str,
    operation: &str,
    body: Value,
) -> Result<String, Box<dyn Error>> {
    let path = format!("/collections/multi_tenant/{operation}");
    let question: Question = serde_json::from_value(json!({ "method": method, "path": path, "body": body }))?;
    let explanation = client.router().explain(question).await?;
    let nodes: Vec<&str> = explanation.parts.iter().map(|part| &*part.node).collect();
    Ok(format!("{}, {} internal RPCs", nodes.join(" and "), explanation.internal_rpcs.unwrap_or_default()))
}
