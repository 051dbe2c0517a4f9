//! What is asked, in either protocol.

use std::{str::FromStr, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::Full;
use qdrant_client::qdrant::{
    GetPoints, PointId, PointStruct, Query, QueryPoints, ScrollPoints, ShardKey, ShardKeySelector,
    UpsertPoints, Value, VectorInput, shard_key,
};
use qdrant_router::dice::Dice;
use serde_json::json;

use super::Bench;

/// What the names of the collections begin with.
const PREFIX: &str = "qdrant-router-bench-";

/// Points found by a query, or scrolled through.
const LIMIT: u32 = 10;

/// How long one request may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// The protocol of the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Grpc,
    Rest,
}

/// One kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Upsert,
    Get,
    Query,
    Scroll,
}

/// One request, as a client takes it.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    Rest(Request<Full<Bytes>>),
    Grpc(Rpc),
}

#[derive(Clone, Debug)]
pub(super) enum Rpc {
    Upsert(UpsertPoints),
    Get(GetPoints),
    Query(Box<QueryPoints>),
    Scroll(ScrollPoints),
}

/// Kinds of requests, each as often as its weight says.
#[derive(Clone, Debug)]
pub(super) struct Mix(Vec<(Op, u32)>);

/// The requests of one run.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) collection: String,
    pub(super) protocol: Protocol,
    key: Option<HeaderValue>,
    mix: Mix,
    batch: u64,
    dimensions: u16,
    pub(super) points: u64,
    pub(super) shards: u16,
    pub(super) replicas: u16,
    pub(super) shard_keys: u16,
}

// === impl Mix ===

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let op = |part: &str| {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let op = match name {
                "upsert" => Op::Upsert,
                "get" => Op::Get,
                "query" => Op::Query,
                "scroll" => Op::Scroll,
                _ => return Err(format!("`{name}` is none of upsert, get, query and scroll")),
            };
            match weight.parse() {
                Ok(weight @ 1..=1000) => Ok((op, weight)),
                _ => Err(format!("the weight of {name} is a number from 1 to 1000, such as `{name}=4`")),
            }
        };
        Ok(Self(text.split(',').map(op).collect::<Result<_, _>>()?))
    }
}

impl Mix {
    fn total(&self) -> u64 {
        self.0.iter().map(|(_, weight)| u64::from(*weight)).sum()
    }

    /// What the request number `at` is.
    fn op(&self, at: u64) -> Op {
        // Scattered, so that kinds do not come in blocks.
        let mut left = scatter(at) % self.total().max(1);
        for (op, weight) in &self.0 {
            match left.checked_sub(u64::from(*weight)) {
                Some(rest) => left = rest,
                None => return *op,
            }
        }
        Op::Upsert
    }

    pub(super) fn describe(&self) -> String {
        let parts: Vec<_> = self.0.iter().map(|(op, weight)| format!("{}={weight}", op.name())).collect();
        parts.join(",")
    }
}

impl Op {
    fn name(self) -> &'static str {
        match self {
            Self::Upsert => "upsert",
            Self::Get => "get",
            Self::Query => "query",
            Self::Scroll => "scroll",
        }
    }
}

// === impl Work ===

impl Work {
    /// A run as the arguments say, on a collection with a name of its own.
    pub(super) fn new(bench: &Bench, key: Option<String>) -> Self {
        let key = key.and_then(|key| HeaderValue::from_str(&key).ok()).map(|mut key| {
            key.set_sensitive(true);
            key
        });
        Self {
            collection: format!("{PREFIX}{:016x}", Dice::random().throw()),
            protocol: bench.protocol,
            key,
            mix: bench.mix.clone(),
            batch: bench.batch.into(),
            dimensions: bench.dimensions,
            points: bench.points.into(),
            shards: bench.shards,
            replicas: bench.replicas,
            shard_keys: bench.shard_keys,
        }
    }

    /// The key that requests carry.
    pub(super) fn key(&self) -> Option<&str> {
        self.key.as_ref()?.to_str().ok()
    }

    /// The request number `at`.
    pub(super) fn request(&self, at: u64) -> Ask {
        let id = scatter(at) % self.points;
        match self.mix.op(at) {
            Op::Upsert => self.upsert(self.same_key(at, id), self.batch),
            Op::Get => self.get(id),
            Op::Query => self.query(id),
            Op::Scroll => self.scroll(id),
        }
    }

    /// The first id of a batch.
    fn same_key(&self, at: u64, id: u64) -> u64 {
        if self.batch == 1 { id } else { at.wrapping_mul(self.batch) % self.points }
    }

    /// An upsert of the points from `first` on; with shard keys, those of one key.
    pub(super) fn upsert(&self, first: u64, count: u64) -> Ask {
        let step = u64::from(self.shard_keys.max(1));
        let ids = (0..count).map(|at| (first + at * step) % (self.points.div_ceil(step) * step));
        let path = format!("/collections/{}/points?wait=true", self.collection);
        match self.protocol {
            Protocol::Grpc => {
                let point = |id: u64| {
                    let payload: [(&str, Value); 1] = [("at", i64::try_from(id).unwrap_or(0).into())];
                    PointStruct::new(id, self.vector(id), payload)
                };
                Ask::Grpc(Rpc::Upsert(UpsertPoints {
                    collection_name: self.collection.clone(),
                    wait: Some(true),
                    points: ids.map(point).collect(),
                    shard_key_selector: self.selector(first),
                    ..UpsertPoints::default()
                }))
            }
            Protocol::Rest => {
                let point = |id: u64| json!({ "id": id, "vector": self.vector(id), "payload": { "at": id } });
                let points: Vec<_> = ids.map(point).collect();
                self.rest(Method::PUT, &path, json!({ "points": points }), first)
            }
        }
    }

    fn get(&self, id: u64) -> Ask {
        match self.protocol {
            Protocol::Grpc => Ask::Grpc(Rpc::Get(GetPoints {
                collection_name: self.collection.clone(),
                ids: vec![PointId::from(id)],
                with_payload: Some(true.into()),
                shard_key_selector: self.selector(id),
                ..GetPoints::default()
            })),
            Protocol::Rest => {
                let path = format!("/collections/{}/points", self.collection);
                self.rest(Method::POST, &path, json!({ "ids": [id], "with_payload": true }), id)
            }
        }
    }

    fn query(&self, id: u64) -> Ask {
        match self.protocol {
            Protocol::Grpc => Ask::Grpc(Rpc::Query(Box::new(QueryPoints {
                collection_name: self.collection.clone(),
                query: Some(Query::new_nearest(VectorInput::new_dense(self.vector(id)))),
                limit: Some(LIMIT.into()),
                with_payload: Some(true.into()),
                shard_key_selector: self.selector(id),
                ..QueryPoints::default()
            }))),
            Protocol::Rest => {
                let path = format!("/collections/{}/points/query", self.collection);
                let body = json!({ "query": self.vector(id), "limit": LIMIT, "with_payload": true });
                self.rest(Method::POST, &path, body, id)
            }
        }
    }

    fn scroll(&self, id: u64) -> Ask {
        match self.protocol {
            Protocol::Grpc => Ask::Grpc(Rpc::Scroll(ScrollPoints {
                collection_name: self.collection.clone(),
                offset: Some(PointId::from(id)),
                limit: Some(LIMIT),
                with_payload: Some(true.into()),
                shard_key_selector: self.selector(id),
                ..ScrollPoints::default()
            })),
            Protocol::Rest => {
                let path = format!("/collections/{}/points/scroll", self.collection);
                let body = json!({ "offset": id, "limit": LIMIT, "with_payload": true });
                self.rest(Method::POST, &path, body, id)
            }
        }
    }

    /// A request of REST; `id` decides on its shard key.
    fn rest(&self, method: Method, path: &str, mut body: serde_json::Value, id: u64) -> Ask {
        if let Some(key) = self.shard_key(id) {
            body["shard_key"] = key.into();
        }
        Ask::Rest(self.plain(method, path, Some(body)))
    }

    /// A request of REST that is not about points.
    pub(super) fn plain(
        &self,
        method: Method,
        path: &str,
        body: Option<serde_json::Value>,
    ) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::default());
        *request.method_mut() = method;
        // What we write is a path.
        *request.uri_mut() = path.parse().unwrap_or_default();
        if let Some(body) = body {
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *request.body_mut() = Full::from(body.to_string());
        }
        if let Some(key) = &self.key {
            request.headers_mut().insert("api-key", key.clone());
        }
        request
    }

    fn shard_key(&self, id: u64) -> Option<String> {
        let key = id.checked_rem(self.shard_keys.into())?;
        Some(self::shard_key(key))
    }

    fn selector(&self, id: u64) -> Option<ShardKeySelector> {
        let key = shard_key::Key::Keyword(self.shard_key(id)?);
        Some(ShardKeySelector { shard_keys: vec![ShardKey { key: Some(key) }], fallback: None })
    }

    /// What creates the collection.
    pub(super) fn settings(&self) -> serde_json::Value {
        let mut settings = json!({
            "vectors": { "size": self.dimensions, "distance": "Cosine" },
            "shard_number": self.shards,
            "replication_factor": self.replicas,
            // An index that is built meanwhile would be measured too.
            "optimizers_config": { "indexing_threshold": 0 },
        });
        if self.shard_keys > 0 {
            settings["sharding_method"] = "custom".into();
        }
        settings
    }

    /// From -1 to 1 in each dimension, the same for the same seed.
    fn vector(&self, seed: u64) -> Vec<f32> {
        let start = scatter(seed);
        // One number is four dimensions: what makes the load takes little from the nodes beside it.
        let mut bits = 0;
        let component = |at: u16| {
            bits = if at.is_multiple_of(4) { scatter(start.wrapping_add(at.into())) } else { bits >> 16 };
            // 16 bits fit a float.
            f32::from(u16::try_from(bits & 0xffff).unwrap_or(0)) / 32768.0 - 1.0
        };
        (0..self.dimensions).map(component).collect()
    }

    pub(super) fn describe(&self) -> String {
        let keys = match self.shard_keys {
            0 => String::new(),
            keys => format!(" for each of {keys} shard keys"),
        };
        format!(
            "{} over {}, batches of {}; {} points of {} dimensions in {} shards{keys}, {} copies",
            self.mix.describe(),
            match self.protocol {
                Protocol::Grpc => "gRPC",
                Protocol::Rest => "REST",
            },
            self.batch,
            self.points,
            self.dimensions,
            self.shards,
            self.replicas,
        )
    }
}

/// The name of a shard key.
pub(super) fn shard_key(number: u64) -> String {
    format!("key-{number}")
}

/// Numbers in a row to numbers all over (splitmix64).
fn scatter(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_comes_in_its_proportions() {
        let mix: Mix = "upsert,query=3".parse().expect("a mix");
        let queries = (0..4000).filter(|at| mix.op(*at) == Op::Query).count();
        assert!((2800..3200).contains(&queries), "{queries}");
        for text in ["", "delete", "query=0", "query=x", "upsert,,get"] {
            assert!(text.parse::<Mix>().is_err(), "{text}");
        }
    }
}
