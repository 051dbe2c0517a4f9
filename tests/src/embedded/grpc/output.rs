//! The model into protobuf answers.

use std::collections::HashMap;
use std::time::Instant;

use qdrant_client::qdrant as pb;
use serde_json::{Map, Value};

use super::super::consensus::{CollectionMeta, ReplicaState, ReshardingDirection};
use super::super::distance::Distance;
use super::super::engine::ClusterView;
use super::super::model::{PointId, Record, Scored, ShardKey, UpdateResult, UpdateStatus, Vectors};

pub(super) fn seconds(began: Instant) -> f64 {
    began.elapsed().as_secs_f64()
}

pub(super) fn point_id(id: PointId) -> pb::PointId {
    use pb::point_id::PointIdOptions;
    let options = match id {
        PointId::Num(number) => PointIdOptions::Num(number),
        PointId::Uuid(uuid) => PointIdOptions::Uuid(uuid.to_string()),
    };
    pb::PointId { point_id_options: Some(options) }
}

pub(super) fn shard_key(key: ShardKey) -> pb::ShardKey {
    use pb::shard_key::Key;
    let key = match key {
        ShardKey::Keyword(word) => Key::Keyword(word),
        ShardKey::Number(number) => Key::Number(number),
    };
    pb::ShardKey { key: Some(key) }
}

pub(super) fn update_result(result: UpdateResult) -> pb::UpdateResult {
    let status = match result.status {
        UpdateStatus::Acknowledged => pb::UpdateStatus::Acknowledged,
        UpdateStatus::Completed => pb::UpdateStatus::Completed,
        UpdateStatus::WaitTimeout => pb::UpdateStatus::WaitTimeout,
    };
    pb::UpdateResult { operation_id: result.operation_id, status: status.into() }
}

fn payload(payload: Option<Map<String, Value>>) -> HashMap<String, pb::Value> {
    payload.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into())).collect()
}

#[allow(deprecated)] // Servers of this version fill the old field, which clients of every version read.
fn vector(data: Vec<f32>) -> pb::VectorOutput {
    pb::VectorOutput { data, ..Default::default() }
}

fn vectors(vectors: Option<Vectors>) -> Option<pb::VectorsOutput> {
    use pb::vectors_output::VectorsOptions;
    let mut vectors = vectors?;
    let options = match vectors.remove("") {
        Some(only) if vectors.is_empty() => VectorsOptions::Vector(vector(only)),
        unnamed => {
            let unnamed = unnamed.map(|data| (String::new(), data));
            let vectors =
                vectors.into_iter().chain(unnamed).map(|(name, data)| (name, vector(data))).collect();
            VectorsOptions::Vectors(pb::NamedVectorsOutput { vectors })
        }
    };
    Some(pb::VectorsOutput { vectors_options: Some(options) })
}

pub(super) fn record(record: Record) -> pb::RetrievedPoint {
    pb::RetrievedPoint {
        id: Some(point_id(record.id)),
        payload: payload(record.payload),
        vectors: vectors(record.vectors),
        shard_key: record.shard_key.map(shard_key),
        order_value: None,
    }
}

pub(super) fn scored(hits: Vec<Scored>) -> Vec<pb::ScoredPoint> {
    hits.into_iter()
        .map(|hit| pb::ScoredPoint {
            id: Some(point_id(hit.record.id)),
            payload: payload(hit.record.payload),
            score: hit.score,
            version: hit.version,
            vectors: vectors(hit.record.vectors),
            shard_key: hit.record.shard_key.map(shard_key),
            order_value: None,
        })
        .collect()
}

pub(super) fn facet_hit((value, count): (Value, u64)) -> pb::FacetHit {
    use pb::facet_value::Variant;
    let variant = match value {
        Value::String(text) => Some(Variant::StringValue(text)),
        Value::Bool(flag) => Some(Variant::BoolValue(flag)),
        Value::Number(number) => number.as_i64().map(Variant::IntegerValue),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    pb::FacetHit { value: Some(pb::FacetValue { variant }), count }
}

fn state(state: ReplicaState) -> i32 {
    match state {
        ReplicaState::Active => 0,
        ReplicaState::Dead => 1,
        ReplicaState::Partial => 2,
        ReplicaState::Initializing => 3,
        ReplicaState::Listener => 4,
        ReplicaState::PartialSnapshot => 5,
        ReplicaState::Recovery => 6,
        ReplicaState::Resharding => 7,
        ReplicaState::ReshardingScaleDown => 8,
        ReplicaState::ActiveRead => 9,
        ReplicaState::ManualRecovery => 10,
    }
}

pub(super) fn cluster_view(view: ClusterView) -> pb::CollectionClusterInfoResponse {
    let local = view.local.into_iter().map(|row| pb::LocalShardInfo {
        shard_id: row.shard,
        points_count: row.points as u64,
        state: state(row.state),
        shard_key: row.key.map(shard_key),
    });
    let remote = view.remote.into_iter().map(|row| pb::RemoteShardInfo {
        shard_id: row.shard,
        peer_id: row.peer,
        state: state(row.state),
        shard_key: row.key.map(shard_key),
    });
    let transfers = view.transfers.into_iter().map(|transfer| pb::ShardTransferInfo {
        shard_id: transfer.shard,
        to_shard_id: None,
        from: transfer.from,
        to: transfer.to,
        sync: transfer.sync,
    });
    let resharding = view.resharding.into_iter().map(|resharding| pb::ReshardingInfo {
        shard_id: resharding.shard,
        peer_id: resharding.peer,
        shard_key: resharding.key.map(shard_key),
        direction: match resharding.direction {
            ReshardingDirection::Up => pb::ReshardingDirection::Up.into(),
            ReshardingDirection::Down => pb::ReshardingDirection::Down.into(),
        },
    });
    pb::CollectionClusterInfoResponse {
        peer_id: view.peer_id,
        shard_count: view.shard_count as u64,
        local_shards: local.collect(),
        remote_shards: remote.collect(),
        shard_transfers: transfers.collect(),
        resharding_operations: resharding.collect(),
        ..Default::default()
    }
}

fn distance(distance: Distance) -> i32 {
    match distance {
        Distance::Cosine => pb::Distance::Cosine.into(),
        Distance::Euclid => pb::Distance::Euclid.into(),
        Distance::Dot => pb::Distance::Dot.into(),
        Distance::Manhattan => pb::Distance::Manhattan.into(),
    }
}

#[allow(deprecated)] // Later versions have a section of its own for on-disk payload; this one has the flag.
pub(super) fn collection(meta: &CollectionMeta, points: u64) -> pb::CollectionInfo {
    use pb::vectors_config::Config;
    let space = |name: &str| {
        meta.schema.vectors.get(name).map(|params| pb::VectorParams {
            size: params.size as u64,
            distance: distance(params.distance),
            ..Default::default()
        })
    };
    let config = match space("") {
        Some(only) => Config::Params(only),
        None => Config::ParamsMap(pb::VectorParamsMap {
            map: meta.schema.vectors.keys().filter_map(|name| Some((name.clone(), space(name)?))).collect(),
        }),
    };
    let params = pb::CollectionParams {
        shard_number: meta.shard_number,
        on_disk_payload: meta.other_config.get("on_disk_payload").and_then(Value::as_bool).unwrap_or(true),
        vectors_config: Some(pb::VectorsConfig { config: Some(config) }),
        replication_factor: Some(meta.replication_factor),
        write_consistency_factor: Some(meta.write_consistency_factor),
        read_fan_out_factor: meta.read_fan_out_factor,
        sharding_method: meta.custom_sharding.then(|| pb::ShardingMethod::Custom.into()),
        ..Default::default()
    };
    pb::CollectionInfo {
        status: pb::CollectionStatus::Green.into(),
        optimizer_status: Some(pb::OptimizerStatus { ok: true, error: String::new() }),
        segments_count: meta.shards.len() as u64,
        config: Some(pb::CollectionConfig {
            params: Some(params),
            hnsw_config: Some(pb::HnswConfigDiff {
                m: Some(16),
                ef_construct: Some(100),
                full_scan_threshold: Some(10_000),
                ..Default::default()
            }),
            optimizer_config: Some(pb::OptimizersConfigDiff {
                deleted_threshold: Some(0.2),
                vacuum_min_vector_number: Some(1_000),
                default_segment_number: Some(0),
                indexing_threshold: Some(10_000),
                flush_interval_sec: Some(5),
                ..Default::default()
            }),
            wal_config: Some(pb::WalConfigDiff {
                wal_capacity_mb: Some(32),
                wal_segments_ahead: Some(0),
                ..Default::default()
            }),
            ..Default::default()
        }),
        payload_schema: meta
            .indexes
            .keys()
            .map(|field| (field.clone(), pb::PayloadSchemaInfo::default()))
            .collect(),
        points_count: Some(points),
        indexed_vectors_count: Some(0),
        ..Default::default()
    }
}
