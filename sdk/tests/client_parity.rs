//! The client has every method of the official one, under the same name and for the same request.
//!
//! Nothing is called here: that both sides compile is the proof.

#![allow(deprecated)]

use qdrant_client::{Qdrant as Official, qdrant as q};
use qdrant_router::Qdrant as Routed;

macro_rules! parity {
    ($($method:ident($($request:expr)?);)*) => {
        /// The methods that both have.
        const METHODS: &[&str] = &[$(stringify!($method)),*];

        #[allow(dead_code)]
        fn both_have_them(official: &Official, routed: &Routed) {
            $(
                drop(official.$method($($request)?));
                drop(routed.$method($($request)?));
            )*
        }
    };
}

parity! {
    clear_payload(q::ClearPayloadPoints::default());
    collection_cluster_info(q::CollectionClusterInfoRequest::default());
    collection_exists(q::CollectionExistsRequest::default());
    collection_info(q::GetCollectionInfoRequest::default());
    count(q::CountPoints::default());
    create_alias(q::CreateAlias::default());
    create_collection(q::CreateCollection::default());
    create_field_index(q::CreateFieldIndexCollection::default());
    create_full_snapshot();
    create_shard_key(q::CreateShardKeyRequest::default());
    create_snapshot(q::CreateSnapshotRequest::default());
    create_vector_name(q::CreateVectorNameRequest::default());
    delete_alias(q::DeleteAlias::default());
    delete_collection(q::DeleteCollection::default());
    delete_field_index(q::DeleteFieldIndexCollection::default());
    delete_full_snapshot(q::DeleteFullSnapshotRequest::default());
    delete_payload(q::DeletePayloadPoints::default());
    delete_points(q::DeletePoints::default());
    delete_shard_key(q::DeleteShardKeyRequest::default());
    delete_snapshot(q::DeleteSnapshotRequest::default());
    delete_vector_name(q::DeleteVectorNameRequest::default());
    delete_vectors(q::DeletePointVectors::default());
    discover(q::DiscoverPoints::default());
    discover_batch(&q::DiscoverBatchPoints::default());
    facet(q::FacetCounts::default());
    get_points(q::GetPoints::default());
    health_check();
    list_aliases();
    list_collection_aliases(q::ListCollectionAliasesRequest::default());
    list_collections();
    list_full_snapshots();
    list_shard_keys(q::ListShardKeysRequest::default());
    list_snapshots(q::ListSnapshotsRequest::default());
    overwrite_payload(q::SetPayloadPoints::default());
    query(q::QueryPoints::default());
    query_batch(q::QueryBatchPoints::default());
    query_groups(q::QueryPointGroups::default());
    recommend(q::RecommendPoints::default());
    recommend_batch(q::RecommendBatchPoints::default());
    recommend_groups(q::RecommendPointGroups::default());
    rename_alias(q::RenameAlias::default());
    scroll(q::ScrollPoints::default());
    search_batch_points(q::SearchBatchPoints::default());
    search_groups(q::SearchPointGroups::default());
    search_matrix_offsets(q::SearchMatrixPoints::default());
    search_matrix_pairs(q::SearchMatrixPoints::default());
    search_points(q::SearchPoints::default());
    set_payload(q::SetPayloadPoints::default());
    update_collection(q::UpdateCollection::default());
    update_collection_cluster_setup(q::UpdateCollectionClusterSetupRequest::default());
    update_points_batch(q::UpdateBatchPoints::default());
    update_vectors(q::UpdatePointVectors::default());
    upsert_points(q::UpsertPoints::default());
}

/// Two more take part in what the official client has behind a feature, or takes two arguments.
#[allow(dead_code)]
fn and_these(official: &Official, routed: &Routed) {
    drop(official.upsert_points_chunked(q::UpsertPoints::default(), 1));
    drop(routed.upsert_points_chunked(q::UpsertPoints::default(), 1));
    drop(routed.download_snapshot(q::SnapshotDownloadBuilder::new("path", "collection")));
}

#[test]
fn none_of_the_fifty_five_is_missing() {
    assert_eq!(METHODS.len() + 2, 55);
}
