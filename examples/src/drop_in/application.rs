// The application. `Qdrant` is the client of whoever includes this: nothing here knows which.

use qdrant_client::{
    QdrantError,
    qdrant::{
        CreateCollectionBuilder, Distance, PointStruct, QueryPointsBuilder, UpsertPointsBuilder,
        VectorParamsBuilder,
    },
};

pub(crate) async fn nearest_titles(client: &Qdrant) -> Result<Vec<String>, QdrantError> {
    let vectors = VectorParamsBuilder::new(4, Distance::Cosine);
    client.create_collection(CreateCollectionBuilder::new("drop_in").vectors_config(vectors)).await?;

    let dune = PointStruct::new(1, vec![0.9, 0.1, 0.1, 0.3], [("title", "Dune".into())]);
    let emma = PointStruct::new(2, vec![0.1, 0.9, 0.4, 0.1], [("title", "Emma".into())]);
    client.upsert_points(UpsertPointsBuilder::new("drop_in", vec![dune, emma]).wait(true)).await?;

    let query = QueryPointsBuilder::new("drop_in").query(vec![1.0, 0.0, 0.0, 0.5]).with_payload(true);
    let found = client.query(query).await?.result;
    client.delete_collection("drop_in").await?;
    Ok(found.iter().filter_map(|point| point.payload["title"].as_str().cloned()).collect())
}
