//! `qdrant.Collections`.

use std::time::Instant;

use qdrant_client::qdrant as pb;
use qdrant_client::qdrant::collections_server::Collections;
use serde_json::Map;
use tonic::{Request, Response, Status};

use super::super::auth::Access;
use super::super::consensus::{AliasAction, NewCollection, ReplicaState, Schema};
use super::super::engine::{ClusterChange, CollectionPatch, NewShardKey};
use super::super::error::{Kind, OpError, OpResult};
use super::{Front, input, output};

type Answer<T> = Result<Response<T>, Status>;

/// Whether the caller may know of this collection, or alias.
fn may_see<T>(request: &Request<T>, name: &str) -> bool {
    request.extensions().get::<Access>().is_none_or(|access| access.covers(name))
}

fn done(result: bool, began: Instant) -> Response<pb::CollectionOperationResponse> {
    Response::new(pb::CollectionOperationResponse { result, time: output::seconds(began) })
}

fn schema(config: Option<pb::VectorsConfig>) -> OpResult<Schema> {
    use pb::vectors_config::Config;
    let space = |params: &pb::VectorParams| {
        if params.multivector_config.is_some() {
            return Err(OpError::lacking("multi-vectors"));
        }
        let distance = match params.distance {
            1 => "Cosine",
            2 => "Euclid",
            3 => "Dot",
            4 => "Manhattan",
            other => {
                return Err(OpError::new(Kind::Invalid, format!("Unknown distance: {other}")));
            }
        };
        Ok(serde_json::json!({ "size": params.size, "distance": distance }))
    };
    match config.and_then(|config| config.config) {
        None => Ok(Schema::default()),
        Some(Config::Params(params)) => Schema::from_json(&space(&params)?),
        Some(Config::ParamsMap(named)) => {
            let named: Map<_, _> = named
                .map
                .iter()
                .map(|(name, params)| Ok((name.clone(), space(params)?)))
                .collect::<OpResult<_>>()?;
            Schema::from_json(&named.into())
        }
    }
}

fn new_key(key: pb::CreateShardKey) -> OpResult<NewShardKey> {
    let initial = match key.initial_state {
        None => None,
        Some(0) => Some(ReplicaState::Active),
        Some(2) => Some(ReplicaState::Partial),
        Some(other) => {
            return Err(OpError::bad_request(format!(
                "Initial state cannot be {other}, only Active or Partial are allowed"
            )));
        }
    };
    Ok(NewShardKey {
        key: input::shard_key(key.shard_key)?,
        shard_number: key.shards_number,
        replication_factor: key.replication_factor,
        placement: key.placement,
        initial,
    })
}

fn cluster_change(
    operation: pb::update_collection_cluster_setup_request::Operation,
) -> OpResult<ClusterChange> {
    use pb::update_collection_cluster_setup_request::Operation;
    match operation {
        Operation::MoveShard(m) => {
            Ok(ClusterChange::Move { shard: m.shard_id, from: m.from_peer_id, to: m.to_peer_id })
        }
        Operation::ReplicateShard(r) => {
            Ok(ClusterChange::Replicate { shard: r.shard_id, from: r.from_peer_id, to: r.to_peer_id })
        }
        Operation::AbortTransfer(a) => {
            Ok(ClusterChange::AbortTransfer { shard: a.shard_id, from: a.from_peer_id, to: a.to_peer_id })
        }
        Operation::DropReplica(r) => Ok(ClusterChange::DropReplica { shard: r.shard_id, peer: r.peer_id }),
        Operation::CreateShardKey(key) => new_key(key).map(ClusterChange::CreateKey),
        Operation::DeleteShardKey(key) => input::shard_key(key.shard_key).map(ClusterChange::DropKey),
        Operation::RestartTransfer(_) | Operation::ReplicatePoints(_) => {
            Err(OpError::lacking("this change of the cluster"))
        }
    }
}

fn missing(what: &str) -> OpError {
    OpError::new(Kind::Invalid, format!("{what} is required"))
}

#[tonic::async_trait]
impl Collections for Front {
    async fn get(
        &self,
        request: Request<pb::GetCollectionInfoRequest>,
    ) -> Answer<pb::GetCollectionInfoResponse> {
        let began = Instant::now();
        let meta = self.engine.consensus.collection(&request.into_inner().collection_name)?;
        let points = self.engine.points_count(&meta).await?;
        Ok(Response::new(pb::GetCollectionInfoResponse {
            result: Some(output::collection(&meta, points)),
            time: output::seconds(began),
        }))
    }

    async fn list(
        &self,
        request: Request<pb::ListCollectionsRequest>,
    ) -> Answer<pb::ListCollectionsResponse> {
        let began = Instant::now();
        let names = self.engine.collections().into_iter().filter(|name| may_see(&request, name));
        let collections = names.map(|name| pb::CollectionDescription { name });
        Ok(Response::new(pb::ListCollectionsResponse {
            collections: collections.collect(),
            time: output::seconds(began),
        }))
    }

    async fn create(
        &self,
        request: Request<pb::CreateCollection>,
    ) -> Answer<pb::CollectionOperationResponse> {
        let began = Instant::now();
        let request = request.into_inner();
        if request.sparse_vectors_config.is_some_and(|sparse| !sparse.map.is_empty()) {
            return Err(OpError::lacking("sparse vectors").into());
        }
        let mut other_config = Map::new();
        #[allow(deprecated)]
        // Later versions have a section of its own for it; this one has the flag.
        if let Some(on_disk) = request.on_disk_payload {
            other_config.insert("on_disk_payload".to_owned(), on_disk.into());
        }
        let new = NewCollection {
            schema: schema(request.vectors_config)?,
            shard_number: request.shard_number,
            replication_factor: request.replication_factor,
            write_consistency_factor: request.write_consistency_factor,
            custom_sharding: request.sharding_method == Some(pb::ShardingMethod::Custom.into()),
            other_config,
        };
        self.engine.create_collection(&request.collection_name, new)?;
        Ok(done(true, began))
    }

    async fn update(
        &self,
        request: Request<pb::UpdateCollection>,
    ) -> Answer<pb::CollectionOperationResponse> {
        let began = Instant::now();
        let request = request.into_inner();
        let params = request.params.unwrap_or_default();
        let patch = CollectionPatch {
            replication_factor: params.replication_factor,
            write_consistency_factor: params.write_consistency_factor,
            read_fan_out_factor: params.read_fan_out_factor,
            other_config: Map::new(),
        };
        self.engine.patch_collection(&request.collection_name, patch)?;
        Ok(done(true, began))
    }

    async fn delete(
        &self,
        request: Request<pb::DeleteCollection>,
    ) -> Answer<pb::CollectionOperationResponse> {
        let began = Instant::now();
        Ok(done(self.engine.delete_collection(&request.into_inner().collection_name)?, began))
    }

    async fn update_aliases(
        &self,
        request: Request<pb::ChangeAliases>,
    ) -> Answer<pb::CollectionOperationResponse> {
        use pb::alias_operations::Action;
        let began = Instant::now();
        let actions = request.into_inner().actions.into_iter().map(|action| match action.action {
            Some(Action::CreateAlias(create)) => {
                Ok(AliasAction::Create { collection: create.collection_name, alias: create.alias_name })
            }
            Some(Action::RenameAlias(rename)) => {
                Ok(AliasAction::Rename { old: rename.old_alias_name, new: rename.new_alias_name })
            }
            Some(Action::DeleteAlias(delete)) => Ok(AliasAction::Delete { alias: delete.alias_name }),
            None => Err(missing("Alias action")),
        });
        self.engine.change_aliases(&actions.collect::<OpResult<Vec<_>>>()?)?;
        Ok(done(true, began))
    }

    async fn list_collection_aliases(
        &self,
        request: Request<pb::ListCollectionAliasesRequest>,
    ) -> Answer<pb::ListAliasesResponse> {
        let began = Instant::now();
        let name = request.into_inner().collection_name;
        if !self.engine.collections().contains(&name) {
            return Err(OpError::no_collection(&name).into());
        }
        Ok(aliases(self.engine.aliases(Some(&name)), began))
    }

    async fn list_aliases(
        &self,
        request: Request<pb::ListAliasesRequest>,
    ) -> Answer<pb::ListAliasesResponse> {
        let began = Instant::now();
        let mut rows = self.engine.aliases(None);
        rows.retain(|(alias, collection)| may_see(&request, alias) && may_see(&request, collection));
        Ok(aliases(rows, began))
    }

    async fn collection_cluster_info(
        &self,
        request: Request<pb::CollectionClusterInfoRequest>,
    ) -> Answer<pb::CollectionClusterInfoResponse> {
        let view = self.engine.cluster_view(&request.into_inner().collection_name)?;
        Ok(Response::new(output::cluster_view(view)))
    }

    async fn collection_exists(
        &self,
        request: Request<pb::CollectionExistsRequest>,
    ) -> Answer<pb::CollectionExistsResponse> {
        let began = Instant::now();
        let exists = self.engine.consensus.collection(&request.into_inner().collection_name).is_ok();
        Ok(Response::new(pb::CollectionExistsResponse {
            result: Some(pb::CollectionExists { exists }),
            time: output::seconds(began),
        }))
    }

    async fn update_collection_cluster_setup(
        &self,
        request: Request<pb::UpdateCollectionClusterSetupRequest>,
    ) -> Answer<pb::UpdateCollectionClusterSetupResponse> {
        let request = request.into_inner();
        let operation = request.operation.ok_or_else(|| missing("Operation"))?;
        self.engine.change_cluster(&request.collection_name, cluster_change(operation)?)?;
        Ok(Response::new(pb::UpdateCollectionClusterSetupResponse { result: true, ..Default::default() }))
    }

    async fn create_shard_key(
        &self,
        request: Request<pb::CreateShardKeyRequest>,
    ) -> Answer<pb::CreateShardKeyResponse> {
        let request = request.into_inner();
        let key = new_key(request.request.ok_or_else(|| missing("Request"))?)?;
        self.engine.change_cluster(&request.collection_name, ClusterChange::CreateKey(key))?;
        Ok(Response::new(pb::CreateShardKeyResponse { result: true, ..Default::default() }))
    }

    async fn delete_shard_key(
        &self,
        request: Request<pb::DeleteShardKeyRequest>,
    ) -> Answer<pb::DeleteShardKeyResponse> {
        let request = request.into_inner();
        let key = input::shard_key(request.request.ok_or_else(|| missing("Request"))?.shard_key)?;
        self.engine.change_cluster(&request.collection_name, ClusterChange::DropKey(key))?;
        Ok(Response::new(pb::DeleteShardKeyResponse { result: true, ..Default::default() }))
    }

    async fn list_shard_keys(
        &self,
        request: Request<pb::ListShardKeysRequest>,
    ) -> Answer<pb::ListShardKeysResponse> {
        let began = Instant::now();
        let meta = self.engine.consensus.collection(&request.into_inner().collection_name)?;
        let keys = meta.keys().into_iter().cloned();
        let shard_keys =
            keys.map(|key| pb::ShardKeyDescription { key: Some(output::shard_key(key)) }).collect();
        Ok(Response::new(pb::ListShardKeysResponse { shard_keys, time: output::seconds(began) }))
    }
}

fn aliases(aliases: Vec<(String, String)>, began: Instant) -> Response<pb::ListAliasesResponse> {
    let rows = aliases
        .into_iter()
        .map(|(alias_name, collection_name)| pb::AliasDescription { alias_name, collection_name });
    Response::new(pb::ListAliasesResponse { aliases: rows.collect(), time: output::seconds(began) })
}
