//! Operations on points, payloads and vectors, and searches.

// Qdrant still serves the search, recommend and discover calls that its client marks as deprecated.
#![allow(deprecated)]

use qdrant_client::qdrant::{
    ClearPayloadPoints, CountPoints, CountResponse, CreateFieldIndexCollection, CreateVectorNameRequest,
    DeleteFieldIndexCollection, DeletePayloadPoints, DeletePointVectors, DeletePoints,
    DeleteVectorNameRequest, DiscoverBatchPoints, DiscoverBatchResponse, DiscoverPoints, DiscoverResponse,
    FacetCounts, FacetResponse, GetPoints, GetResponse, PointsOperationResponse, QueryBatchPoints,
    QueryBatchResponse, QueryGroupsResponse, QueryPointGroups, QueryPoints, QueryResponse,
    RecommendBatchPoints, RecommendBatchResponse, RecommendGroupsResponse, RecommendPointGroups,
    RecommendPoints, RecommendResponse, ScrollPoints, ScrollResponse, SearchBatchPoints, SearchBatchResponse,
    SearchGroupsResponse, SearchMatrixOffsetsResponse, SearchMatrixPairsResponse, SearchMatrixPoints,
    SearchPointGroups, SearchPoints, SearchResponse, SetPayloadPoints, UpdateBatchPoints,
    UpdateBatchResponse, UpdatePointVectors, UpsertPoints,
};

super::rpcs! {
    /// Inserts points, or overwrites those whose id exists.
    points: upsert_points(UpsertPoints) = upsert -> PointsOperationResponse;
    /// Deletes points by id or filter.
    points: delete_points(DeletePoints) = delete -> PointsOperationResponse;
    /// Retrieves points by id.
    points: get_points(GetPoints) = get -> GetResponse;
    /// Lists points page by page, optionally filtered.
    points: scroll(ScrollPoints) = scroll -> ScrollResponse;
    /// Counts points, optionally filtered.
    points: count(CountPoints) = count -> CountResponse;
    /// Runs several update operations in order.
    points: update_points_batch(UpdateBatchPoints) = update_batch -> UpdateBatchResponse;
    /// Updates vectors of points and keeps their payloads.
    points: update_vectors(UpdatePointVectors) = update_vectors -> PointsOperationResponse;
    /// Deletes named vectors of points.
    points: delete_vectors(DeletePointVectors) = delete_vectors -> PointsOperationResponse;
    /// Sets payload values of points and keeps the others.
    points: set_payload(SetPayloadPoints) = set_payload -> PointsOperationResponse;
    /// Replaces the payload of points.
    points: overwrite_payload(SetPayloadPoints) = overwrite_payload -> PointsOperationResponse;
    /// Deletes payload keys of points.
    points: delete_payload(DeletePayloadPoints) = delete_payload -> PointsOperationResponse;
    /// Removes the whole payload of points.
    points: clear_payload(ClearPayloadPoints) = clear_payload -> PointsOperationResponse;

    /// Queries points: similarity search and everything that builds on it.
    points: query(QueryPoints) = query -> QueryResponse;
    /// Runs several queries.
    points: query_batch(QueryBatchPoints) = query_batch -> QueryBatchResponse;
    /// Queries points grouped by a payload key.
    points: query_groups(QueryPointGroups) = query_groups -> QueryGroupsResponse;
    /// Counts points by the values of a payload key.
    points: facet(FacetCounts) = facet -> FacetResponse;
    /// Distances between a sample of points, as pairs.
    points: search_matrix_pairs(SearchMatrixPoints) = search_matrix_pairs -> SearchMatrixPairsResponse;
    /// Distances between a sample of points, as offsets.
    points: search_matrix_offsets(SearchMatrixPoints) = search_matrix_offsets -> SearchMatrixOffsetsResponse;
    /// Searches points by vector.
    points: search_points(SearchPoints) = search -> SearchResponse;
    /// Runs several searches.
    points: search_batch_points(SearchBatchPoints) = search_batch -> SearchBatchResponse;
    /// Searches points grouped by a payload key.
    points: search_groups(SearchPointGroups) = search_groups -> SearchGroupsResponse;
    /// Recommends points by examples.
    points: recommend(RecommendPoints) = recommend -> RecommendResponse;
    /// Runs several recommendations.
    points: recommend_batch(RecommendBatchPoints) = recommend_batch -> RecommendBatchResponse;
    /// Recommends points grouped by a payload key.
    points: recommend_groups(RecommendPointGroups) = recommend_groups -> RecommendGroupsResponse;
    /// Discovers points by a target and context pairs.
    points: discover(DiscoverPoints) = discover -> DiscoverResponse;

    /// Creates an index over a payload key.
    points: create_field_index(CreateFieldIndexCollection) = create_field_index -> PointsOperationResponse;
    /// Deletes the index over a payload key.
    points: delete_field_index(DeleteFieldIndexCollection) = delete_field_index -> PointsOperationResponse;
    /// Adds a named vector to a collection (Qdrant 1.18 and later).
    points: create_vector_name(CreateVectorNameRequest) = create_vector_name -> PointsOperationResponse;
    /// Removes a named vector from a collection (Qdrant 1.18 and later).
    points: delete_vector_name(DeleteVectorNameRequest) = delete_vector_name -> PointsOperationResponse;
}

impl super::Qdrant {
    /// Runs several discoveries.
    ///
    /// # Errors
    ///
    /// What Qdrant answers, or `UNAVAILABLE` where no node could be reached.
    pub async fn discover_batch(
        &self,
        request: &DiscoverBatchPoints,
    ) -> super::QdrantResult<DiscoverBatchResponse> {
        Ok(self.points().discover_batch(request.clone()).await?.into_inner())
    }
}
