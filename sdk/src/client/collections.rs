//! Operations on collections, aliases, shard keys and snapshots.

use qdrant_client::qdrant::{
    AliasOperations, ChangeAliases, CollectionClusterInfoRequest, CollectionClusterInfoResponse,
    CollectionExistsRequest, CollectionOperationResponse, CreateAlias, CreateCollection,
    CreateFullSnapshotRequest, CreateShardKeyRequest, CreateShardKeyResponse, CreateSnapshotRequest,
    CreateSnapshotResponse, DeleteAlias, DeleteCollection, DeleteFullSnapshotRequest, DeleteShardKeyRequest,
    DeleteShardKeyResponse, DeleteSnapshotRequest, DeleteSnapshotResponse, GetCollectionInfoRequest,
    GetCollectionInfoResponse, HealthCheckReply, HealthCheckRequest, ListAliasesRequest, ListAliasesResponse,
    ListCollectionAliasesRequest, ListCollectionsRequest, ListCollectionsResponse, ListFullSnapshotsRequest,
    ListShardKeysRequest, ListShardKeysResponse, ListSnapshotsRequest, ListSnapshotsResponse, RenameAlias,
    UpdateCollection, UpdateCollectionClusterSetupRequest, UpdateCollectionClusterSetupResponse,
    alias_operations::Action,
};

use super::{Qdrant, QdrantResult};

super::rpcs! {
    /// Creates a collection.
    collections: create_collection(CreateCollection) = create -> CollectionOperationResponse;
    /// Changes the settings of a collection.
    collections: update_collection(UpdateCollection) = update -> CollectionOperationResponse;
    /// Deletes a collection with its data.
    collections: delete_collection(DeleteCollection) = delete -> CollectionOperationResponse;
    /// Tells the settings and the state of a collection.
    collections: collection_info(GetCollectionInfoRequest) = get -> GetCollectionInfoResponse;
    /// Lists the aliases of a collection.
    collections: list_collection_aliases(ListCollectionAliasesRequest) = list_collection_aliases -> ListAliasesResponse;
    /// Tells where the shards of a collection are, as the answering node sees it.
    collections: collection_cluster_info(CollectionClusterInfoRequest) = collection_cluster_info -> CollectionClusterInfoResponse;
    /// Moves, replicates or drops shards of a collection.
    collections: update_collection_cluster_setup(UpdateCollectionClusterSetupRequest) = update_collection_cluster_setup -> UpdateCollectionClusterSetupResponse;
    /// Creates a shard key.
    collections: create_shard_key(CreateShardKeyRequest) = create_shard_key -> CreateShardKeyResponse;
    /// Deletes a shard key with its data.
    collections: delete_shard_key(DeleteShardKeyRequest) = delete_shard_key -> DeleteShardKeyResponse;
    /// Lists the shard keys of a collection (Qdrant 1.16 and later).
    collections: list_shard_keys(ListShardKeysRequest) = list_shard_keys -> ListShardKeysResponse;

    /// Takes a snapshot of a collection on its home node.
    snapshots: create_snapshot(CreateSnapshotRequest) = create -> CreateSnapshotResponse;
    /// Lists the snapshots of a collection on all nodes.
    snapshots: list_snapshots(ListSnapshotsRequest) = list -> ListSnapshotsResponse;
    /// Deletes a snapshot of a collection on the node that keeps it.
    snapshots: delete_snapshot(DeleteSnapshotRequest) = delete -> DeleteSnapshotResponse;
    /// Deletes a snapshot of a whole node, on the node that keeps it.
    snapshots: delete_full_snapshot(DeleteFullSnapshotRequest) = delete_full -> DeleteSnapshotResponse;
}

super::bare_rpcs! {
    /// Lists the collections.
    collections: list_collections() = list(ListCollectionsRequest {}) -> ListCollectionsResponse;
    /// Lists all aliases.
    collections: list_aliases() = list_aliases(ListAliasesRequest {}) -> ListAliasesResponse;
    /// Takes a snapshot of a whole node.
    snapshots: create_full_snapshot() = create_full(CreateFullSnapshotRequest {}) -> CreateSnapshotResponse;
    /// Lists the snapshots of whole nodes, of all of them.
    snapshots: list_full_snapshots() = list_full(ListFullSnapshotsRequest {}) -> ListSnapshotsResponse;
    /// Tells the version of the node that answers.
    service: health_check() = health_check(HealthCheckRequest {}) -> HealthCheckReply;
}

impl Qdrant {
    /// Whether a collection exists.
    ///
    /// # Errors
    ///
    /// What Qdrant answers, or `UNAVAILABLE` where no node could be reached.
    pub async fn collection_exists(&self, request: impl Into<CollectionExistsRequest>) -> QdrantResult<bool> {
        let reply = self.collections().collection_exists(request.into()).await?.into_inner();
        Ok(reply.result.is_some_and(|result| result.exists))
    }

    /// Creates an alias of a collection.
    ///
    /// # Errors
    ///
    /// What Qdrant answers, or `UNAVAILABLE` where no node could be reached.
    pub async fn create_alias(
        &self,
        request: impl Into<CreateAlias>,
    ) -> QdrantResult<CollectionOperationResponse> {
        self.change_alias(Action::CreateAlias(request.into())).await
    }

    /// Renames an alias.
    ///
    /// # Errors
    ///
    /// What Qdrant answers, or `UNAVAILABLE` where no node could be reached.
    pub async fn rename_alias(
        &self,
        request: impl Into<RenameAlias>,
    ) -> QdrantResult<CollectionOperationResponse> {
        self.change_alias(Action::RenameAlias(request.into())).await
    }

    /// Deletes an alias.
    ///
    /// # Errors
    ///
    /// What Qdrant answers, or `UNAVAILABLE` where no node could be reached.
    pub async fn delete_alias(
        &self,
        request: impl Into<DeleteAlias>,
    ) -> QdrantResult<CollectionOperationResponse> {
        self.change_alias(Action::DeleteAlias(request.into())).await
    }

    async fn change_alias(&self, action: Action) -> QdrantResult<CollectionOperationResponse> {
        let change = ChangeAliases { actions: vec![AliasOperations { action: Some(action) }], timeout: None };
        Ok(self.collections().update_aliases(change).await?.into_inner())
    }
}
