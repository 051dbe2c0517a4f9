//! Collections, aliases, shard keys and placement.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::super::consensus::{AliasAction, NewCollection, ReshardingDirection, Schema};
use super::super::engine::{ClusterChange, CollectionPatch, Engine, NewShardKey};
use super::super::error::{OpError, OpResult};
use super::super::lie::Lie;
use super::super::model::{ShardKey, UpdateResult, UpdateStatus};
use super::body::{optional, required};
use super::describe::collection_json;
use super::service::said;
use super::{Ask, Reply};

/// The routes of this module.
#[derive(Clone, Copy, Debug)]
pub(super) enum Page {
    List,
    ChangeAliases,
    AllAliases,
    Get,
    Create,
    Update,
    Delete,
    Exists,
    Aliases,
    Cluster,
    ClusterSetup,
    ShardKeys,
    CreateShardKey,
    DeleteShardKey,
    CreateIndex,
    DeleteIndex,
}

pub(super) async fn run(page: Page, engine: &Arc<Engine>, ask: &Ask) -> OpResult<Reply> {
    let name = ask.param(0);
    let done = Ok(Reply::Result(Value::Bool(true)));
    match page {
        Page::List => {
            let names: Vec<Value> =
                engine.collections().into_iter().map(|name| json!({ "name": name })).collect();
            Ok(Reply::Result(json!({ "collections": names })))
        }
        Page::AllAliases => Ok(Reply::Result(aliases_json(engine.aliases(None)))),
        Page::Aliases => {
            // The literal name: an alias has no aliases.
            if !engine.collections().iter().any(|known| known == name) {
                return Err(OpError::no_collection(name));
            }
            Ok(Reply::Result(aliases_json(engine.aliases(Some(name)))))
        }
        Page::ChangeAliases => {
            let object = ask.object()?;
            let actions = required(&object, "actions")?.as_array().cloned().unwrap_or_default();
            let actions = actions.iter().map(alias_action).collect::<OpResult<Vec<_>>>()?;
            engine.change_aliases(&actions)?;
            done
        }
        Page::Get => {
            let meta = engine.consensus.collection(name)?;
            let points = engine.points_count(&meta).await?;
            Ok(Reply::Result(collection_json(&meta, points)))
        }
        Page::Create => {
            engine.create_collection(name, new_collection(ask.object()?)?)?;
            done
        }
        Page::Update => {
            engine.patch_collection(name, patch(&ask.object()?)?)?;
            done
        }
        Page::Delete => Ok(Reply::Result(Value::Bool(engine.delete_collection(name)?))),
        Page::Exists => Ok(Reply::Result(json!({ "exists": engine.consensus.collection(name).is_ok() }))),
        Page::Cluster => Ok(said(engine, engine.cluster_view(name)?.to_json(), Lie::about_collection)),
        Page::ClusterSetup => {
            engine.change_cluster(name, cluster_change(&ask.object()?)?)?;
            done
        }
        Page::ShardKeys => {
            let meta = engine.consensus.collection(name)?;
            if !meta.custom_sharding {
                return Ok(Reply::Result(json!({})));
            }
            let keys: Vec<Value> = meta.keys().into_iter().map(|key| json!({ "key": key })).collect();
            Ok(Reply::Result(json!({ "shard_keys": keys })))
        }
        Page::CreateShardKey => {
            engine.change_cluster(name, ClusterChange::CreateKey(new_key(&ask.object()?)?))?;
            done
        }
        Page::DeleteShardKey => {
            engine.change_cluster(name, ClusterChange::DropKey(key(&ask.object()?)?))?;
            done
        }
        Page::CreateIndex => {
            let object = ask.object()?;
            let field: String = optional(&object, "field_name")?
                .ok_or_else(|| OpError::bad_json("missing field `field_name`"))?;
            let schema = object.get("field_schema").or_else(|| object.get("field_type")).cloned();
            engine.create_index(name, &field, schema.unwrap_or_else(|| "keyword".into()))?;
            indexed(ask)
        }
        Page::DeleteIndex => {
            engine.delete_index(name, ask.param(1))?;
            indexed(ask)
        }
    }
}

fn indexed(ask: &Ask) -> OpResult<Reply> {
    let status = if ask.flag("wait", false)? { UpdateStatus::Completed } else { UpdateStatus::Acknowledged };
    Ok(Reply::Result(json!(UpdateResult { operation_id: Some(0), status })))
}

fn aliases_json(aliases: Vec<(String, String)>) -> Value {
    let rows: Vec<Value> = aliases
        .into_iter()
        .map(|(alias, collection)| json!({ "alias_name": alias, "collection_name": collection }))
        .collect();
    json!({ "aliases": rows })
}

fn alias_action(action: &Value) -> OpResult<AliasAction> {
    let text = |inner: &Value, name: &str| {
        inner
            .get(name)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .ok_or_else(|| OpError::bad_json(format!("missing field `{name}`")))
    };
    if let Some(inner) = action.get("create_alias") {
        Ok(AliasAction::Create {
            collection: text(inner, "collection_name")?,
            alias: text(inner, "alias_name")?,
        })
    } else if let Some(inner) = action.get("rename_alias") {
        Ok(AliasAction::Rename { old: text(inner, "old_alias_name")?, new: text(inner, "new_alias_name")? })
    } else if let Some(inner) = action.get("delete_alias") {
        Ok(AliasAction::Delete { alias: text(inner, "alias_name")? })
    } else {
        Err(OpError::bad_json("data did not match any variant of untagged enum AliasOperations"))
    }
}

fn new_collection(mut object: Map<String, Value>) -> OpResult<NewCollection> {
    let sparse = object.get("sparse_vectors");
    if sparse.and_then(Value::as_object).is_some_and(|sparse| !sparse.is_empty()) {
        return Err(OpError::lacking("sparse vectors"));
    }
    let custom_sharding = match object.get("sharding_method").and_then(Value::as_str) {
        None | Some("auto") => false,
        Some("custom") => true,
        Some(other) => {
            return Err(OpError::bad_json(format!("unknown variant `{other}`, expected `auto` or `custom`")));
        }
    };
    let schema = Schema::from_json(object.get("vectors").unwrap_or(&Value::Null))?;
    let new = NewCollection {
        schema,
        shard_number: optional(&object, "shard_number")?,
        replication_factor: optional(&object, "replication_factor")?,
        write_consistency_factor: optional(&object, "write_consistency_factor")?,
        custom_sharding,
        other_config: Map::new(),
    };
    object.remove("vectors");
    Ok(NewCollection { other_config: object, ..new })
}

fn patch(object: &Map<String, Value>) -> OpResult<CollectionPatch> {
    let mut other_config = object.clone();
    let params =
        other_config.remove("params").and_then(|params| params.as_object().cloned()).unwrap_or_default();
    if let Some(on_disk) = params.get("on_disk_payload") {
        other_config.insert("on_disk_payload".to_owned(), on_disk.clone());
    }
    Ok(CollectionPatch {
        replication_factor: optional(&params, "replication_factor")?,
        write_consistency_factor: optional(&params, "write_consistency_factor")?,
        read_fan_out_factor: optional(&params, "read_fan_out_factor")?,
        other_config,
    })
}

fn key(object: &Map<String, Value>) -> OpResult<ShardKey> {
    optional(object, "shard_key")?.ok_or_else(|| OpError::bad_json("missing field `shard_key`"))
}

fn new_key(object: &Map<String, Value>) -> OpResult<NewShardKey> {
    Ok(NewShardKey {
        key: key(object)?,
        shard_number: optional(object, "shards_number")?,
        replication_factor: optional(object, "replication_factor")?,
        placement: optional(object, "placement")?.unwrap_or_default(),
        initial: optional(object, "initial_state")?,
    })
}

fn cluster_change(object: &Map<String, Value>) -> OpResult<ClusterChange> {
    let Some((name, Value::Object(inner))) = object.iter().next() else {
        return Err(OpError::bad_json("data did not match any variant of untagged enum ClusterOperations"));
    };
    fn number<T: serde::de::DeserializeOwned>(inner: &Map<String, Value>, name: &str) -> OpResult<T> {
        optional(inner, name)?.ok_or_else(|| OpError::bad_json(format!("missing field `{name}`")))
    }
    let ends =
        || Ok((number(inner, "shard_id")?, number(inner, "from_peer_id")?, number(inner, "to_peer_id")?));
    match name.as_str() {
        "move_shard" => ends().map(|(shard, from, to)| ClusterChange::Move { shard, from, to }),
        "replicate_shard" => ends().map(|(shard, from, to)| ClusterChange::Replicate { shard, from, to }),
        "abort_transfer" => ends().map(|(shard, from, to)| ClusterChange::AbortTransfer { shard, from, to }),
        "drop_replica" => Ok(ClusterChange::DropReplica {
            shard: number(inner, "shard_id")?,
            peer: number(inner, "peer_id")?,
        }),
        "create_sharding_key" => new_key(inner).map(ClusterChange::CreateKey),
        "drop_sharding_key" => key(inner).map(ClusterChange::DropKey),
        "start_resharding" => {
            let direction = match optional::<String>(inner, "direction")?.as_deref() {
                None | Some("up") => ReshardingDirection::Up,
                Some("down") => ReshardingDirection::Down,
                Some(_) => return Err(OpError::bad_json("direction: unknown variant")),
            };
            let key = inner.contains_key("shard_key").then(|| key(inner)).transpose()?;
            Ok(ClusterChange::StartResharding(direction, key))
        }
        "abort_resharding" => Ok(ClusterChange::AbortResharding),
        "restart_transfer"
        | "finish_resharding"
        | "finish_migrating_points"
        | "commit_read_hash_ring"
        | "commit_write_hash_ring"
        | "replicate_points" => Err(OpError::lacking(format_args!("`{name}`"))),
        _ => Err(OpError::bad_json("data did not match any variant of untagged enum ClusterOperations")),
    }
}
