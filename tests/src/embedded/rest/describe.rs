//! A collection's description, with the defaults of a fresh server where the embedded one has nothing to say.

use serde_json::{Map, Value, json};

use super::super::consensus::CollectionMeta;

pub(super) fn collection_json(meta: &CollectionMeta, points: u64) -> Value {
    let mut params = Map::new();
    params.insert("vectors".to_owned(), meta.schema.to_json());
    params.insert("shard_number".to_owned(), meta.shard_number.into());
    if meta.custom_sharding {
        params.insert("sharding_method".to_owned(), "custom".into());
    }
    params.insert("replication_factor".to_owned(), meta.replication_factor.into());
    params.insert("write_consistency_factor".to_owned(), meta.write_consistency_factor.into());
    if let Some(factor) = meta.read_fan_out_factor {
        params.insert("read_fan_out_factor".to_owned(), factor.into());
    }
    let on_disk = meta.other_config.get("on_disk_payload").cloned().unwrap_or(Value::Bool(true));
    params.insert("on_disk_payload".to_owned(), on_disk);

    let mut config = Map::new();
    config.insert("params".to_owned(), Value::Object(params));
    let with_defaults = |name: &str, defaults: Value| {
        let mut section = defaults.as_object().cloned().unwrap_or_default();
        if let Some(Value::Object(given)) = meta.other_config.get(name) {
            section.extend(given.clone());
        }
        Value::Object(section)
    };
    config.insert(
        "hnsw_config".to_owned(),
        with_defaults(
            "hnsw_config",
            json!({
                "m": 16, "ef_construct": 100, "full_scan_threshold": 10000, "max_indexing_threads": 0, "on_disk": false,
            }),
        ),
    );
    config.insert(
        "optimizer_config".to_owned(),
        with_defaults(
            "optimizers_config",
            json!({
                "deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0,
                "max_segment_size": null, "memmap_threshold": null, "indexing_threshold": 10000,
                "flush_interval_sec": 5, "max_optimization_threads": null,
            }),
        ),
    );
    config.insert(
        "wal_config".to_owned(),
        with_defaults(
            "wal_config",
            json!({ "wal_capacity_mb": 32, "wal_segments_ahead": 0, "wal_retain_closed": 1 }),
        ),
    );
    let given = |name: &str| meta.other_config.get(name).cloned();
    config.insert("quantization_config".to_owned(), given("quantization_config").unwrap_or(Value::Null));
    for name in ["strict_mode_config", "metadata"] {
        if let Some(value) = given(name).filter(|value| !value.is_null()) {
            config.insert(name.to_owned(), value);
        }
    }

    let schema: Map<String, Value> = meta
        .indexes
        .iter()
        .map(|(field, kind)| {
            let kind = kind.get("type").unwrap_or(kind);
            (field.clone(), json!({ "data_type": kind, "points": points }))
        })
        .collect();
    json!({
        "status": "green",
        "optimizer_status": "ok",
        "indexed_vectors_count": 0,
        "points_count": points,
        "segments_count": meta.shards.len(),
        "config": config,
        "payload_schema": schema,
        "update_queue": { "length": 0 },
    })
}
