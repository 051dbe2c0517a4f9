//! The words both front-ends translate into: points, selectors, writes and reads.
//!
//! Everything here is also what the nodes send each other, which is why it serialises.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::affinity::Affinity;
use super::filter::Filter;

/// A point id. The order is Qdrant's: numbers before UUIDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum PointId {
    Num(u64),
    Uuid(Uuid),
}

impl PointId {
    /// Reads an id out of a path, where a number is tried first.
    pub(crate) fn parse_path(text: &str) -> Option<Self> {
        text.parse().ok().map(Self::Num).or_else(|| Uuid::parse_str(text).ok().map(Self::Uuid))
    }

    /// Reads an id out of a JSON value, where a string is never a number.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::Number(number) => number.as_u64().map(Self::Num),
            Value::String(text) => Uuid::parse_str(text).ok().map(Self::Uuid),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    pub(crate) fn to_json(self) -> Value {
        match self {
            Self::Num(number) => number.into(),
            Self::Uuid(uuid) => uuid.to_string().into(),
        }
    }
}

impl fmt::Display for PointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Num(number) => number.fmt(f),
            Self::Uuid(uuid) => uuid.fmt(f),
        }
    }
}

impl Serialize for PointId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Num(number) => serializer.serialize_u64(*number),
            Self::Uuid(uuid) => serializer.collect_str(uuid),
        }
    }
}

impl<'de> Deserialize<'de> for PointId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_json(&value).ok_or_else(|| {
            D::Error::custom(format!(
                "value {value} is not a valid point ID, valid values are either an unsigned integer or a UUID"
            ))
        })
    }
}

/// A shard key. `7` and `"7"` are different keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum ShardKey {
    Number(u64),
    Keyword(String),
}

impl fmt::Display for ShardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Keyword(word) => write!(f, "\"{word}\""),
        }
    }
}

/// Which shard keys a request names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum KeySelector {
    One(ShardKey),
    Many(Vec<ShardKey>),
    Fallback { target: ShardKey, fallback: ShardKey },
}

/// Vectors by name; the unnamed one is the empty string.
pub(crate) type Vectors = BTreeMap<String, Vec<f32>>;

/// A point as a client hands it in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) id: PointId,
    pub(crate) payload: Map<String, Value>,
    pub(crate) vectors: Vectors,
}

/// New vectors for a point that exists.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PointVectors {
    pub(crate) id: PointId,
    pub(crate) vectors: Vectors,
}

/// The points a write is about.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Selector {
    Ids(Vec<PointId>),
    Filter(Filter),
}

/// What an upsert does with points that do, or do not, exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UpdateMode {
    #[default]
    Upsert,
    InsertOnly,
    UpdateOnly,
}

/// One write, whole or the part of it that one shard gets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Update {
    Upsert { points: Vec<Point>, condition: Option<Filter>, mode: UpdateMode },
    Delete { selector: Selector },
    SetPayload { payload: Map<String, Value>, selector: Selector, key: Option<String> },
    OverwritePayload { payload: Map<String, Value>, selector: Selector },
    DeletePayload { keys: Vec<String>, selector: Selector },
    ClearPayload { selector: Selector },
    SetVectors { points: Vec<PointVectors>, condition: Option<Filter> },
    DeleteVectors { selector: Selector, names: Vec<String> },
}

impl Update {
    /// The internal method that carries this write between nodes.
    pub(crate) fn method(&self) -> &'static str {
        match self {
            Self::Upsert { .. } => "Upsert",
            Self::Delete { .. } => "Delete",
            Self::SetPayload { .. } => "SetPayload",
            Self::OverwritePayload { .. } => "OverwritePayload",
            Self::DeletePayload { .. } => "DeletePayload",
            Self::ClearPayload { .. } => "ClearPayload",
            Self::SetVectors { .. } => "UpdateVectors",
            Self::DeleteVectors { .. } => "DeleteVectors",
        }
    }
}

/// Who decides the order of writes to one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ordering {
    #[default]
    Weak,
    Medium,
    Strong,
}

/// How many replicas of each shard must answer a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consistency {
    Factor(usize),
    Majority,
    Quorum,
    All,
}

/// The parameters that accompany a write.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WriteParams {
    pub(crate) wait: bool,
    pub(crate) ordering: Ordering,
    pub(crate) timeout: Option<u64>,
}

/// The parameters that accompany a read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadParams {
    pub(crate) consistency: Consistency,
    pub(crate) timeout: Option<u64>,
    pub(crate) affinity: Option<Affinity>,
}

impl Default for ReadParams {
    fn default() -> Self {
        Self { consistency: Consistency::Factor(1), timeout: None, affinity: None }
    }
}

/// How far a write got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UpdateStatus {
    Acknowledged,
    Completed,
    WaitTimeout,
}

/// The answer to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UpdateResult {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) operation_id: Option<u64>,
    pub(crate) status: UpdateStatus,
}

/// The part of the payload a read returns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum WithPayload {
    None,
    All,
    Include(Vec<String>),
    Exclude(Vec<String>),
}

/// The vectors a read returns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum WithVectors {
    None,
    All,
    Named(Vec<String>),
}

/// A point as a read returns it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: PointId,
    pub(crate) payload: Option<Map<String, Value>>,
    pub(crate) vectors: Option<Vectors>,
    pub(crate) shard_key: Option<ShardKey>,
}

/// A record with what a search adds to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Scored {
    pub(crate) record: Record,
    pub(crate) version: u64,
    pub(crate) score: f32,
}

/// The constant of reciprocal rank fusion where a client names none.
pub(crate) const RRF_K: u32 = 2;

/// What a query asks for, before ids are replaced by their vectors.
#[derive(Clone, Debug)]
pub(crate) enum QueryTarget {
    /// No query: points in the order of their ids.
    None,
    Vector(Vec<f32>),
    Point(PointId),
    /// The results of these, fused by rank with this constant.
    Fusion {
        prefetch: Vec<Query>,
        k: u32,
    },
}

/// A query as a client sends it.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub(crate) target: QueryTarget,
    pub(crate) using: String,
    pub(crate) filter: Option<Filter>,
    pub(crate) limit: usize,
    pub(crate) offset: usize,
    pub(crate) score_threshold: Option<f32>,
    pub(crate) with_payload: WithPayload,
    pub(crate) with_vectors: WithVectors,
    pub(crate) keys: Option<KeySelector>,
}

/// A query as one shard executes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShardQuery {
    pub(crate) vector: Option<Vec<f32>>,
    pub(crate) using: String,
    pub(crate) filter: Option<Filter>,
    pub(crate) limit: usize,
    pub(crate) score_threshold: Option<f32>,
    pub(crate) with_payload: WithPayload,
    pub(crate) with_vectors: WithVectors,
}

/// A read as one shard executes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Read {
    Get {
        ids: Vec<PointId>,
        with_payload: WithPayload,
        with_vectors: WithVectors,
    },
    Scroll {
        offset: Option<PointId>,
        limit: usize,
        filter: Option<Filter>,
        with_payload: WithPayload,
        with_vectors: WithVectors,
    },
    Count {
        filter: Option<Filter>,
    },
    /// The older search call.
    Search {
        queries: Vec<ShardQuery>,
    },
    /// The universal query call; one internal method of its own.
    Query {
        queries: Vec<ShardQuery>,
    },
    Facet {
        key: String,
        filter: Option<Filter>,
    },
    Info,
}

impl Read {
    /// The internal path that carries this read between nodes.
    pub(crate) fn path(&self) -> &'static str {
        match self {
            Self::Get { .. } => "/qdrant.PointsInternal/Get",
            Self::Scroll { .. } => "/qdrant.PointsInternal/Scroll",
            Self::Count { .. } => "/qdrant.PointsInternal/Count",
            Self::Search { .. } => "/qdrant.PointsInternal/CoreSearchBatch",
            Self::Query { .. } => "/qdrant.PointsInternal/QueryBatch",
            Self::Facet { .. } => "/qdrant.PointsInternal/Facet",
            Self::Info => "/qdrant.CollectionsInternal/Get",
        }
    }
}

/// What one shard answers to a read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Records(Vec<Record>),
    Count(u64),
    Scored(Vec<Vec<Scored>>),
    Facet(Vec<(Value, u64)>),
}

/// One page of a scroll.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub(crate) points: Vec<Record>,
    pub(crate) next: Option<PointId>,
}
