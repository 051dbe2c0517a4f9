//! Request counters in the shape of Qdrant's `/telemetry`: the oracle by which tests count internal hops.
//!
//! A call is counted at the node that receives it, under its full path and its status. The counters die with the process,
//! as they do in Qdrant.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::shard::lock;

/// Counters of one run of a node.
#[derive(Debug, Default)]
pub(crate) struct Telemetry {
    grpc: Mutex<Counters>,
    rest: Mutex<Counters>,
}

type Counters = BTreeMap<String, BTreeMap<u16, Counter>>;

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    count: u64,
    total: Duration,
}

impl Telemetry {
    /// Counts a gRPC call, public or internal; `code` is the gRPC status.
    pub(crate) fn grpc(&self, path: &str, code: u16, took: Duration) {
        count(&self.grpc, path.to_owned(), code, took);
    }

    /// Counts a REST call under its route pattern.
    pub(crate) fn rest(&self, method: &str, pattern: &str, status: u16, took: Duration) {
        count(&self.rest, format!("{method} {pattern}"), status, took);
    }

    /// The `requests` section.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "rest": { "responses": show(&self.rest) }, "grpc": { "responses": show(&self.grpc) } })
    }
}

fn count(counters: &Mutex<Counters>, path: String, status: u16, took: Duration) {
    let mut counters = lock(counters);
    let counter = counters.entry(path).or_default().entry(status).or_default();
    counter.count += 1;
    counter.total += took;
}

fn show(counters: &Mutex<Counters>) -> Value {
    let counter = |counter: &Counter| {
        let micros = counter.total.as_secs_f64() * 1e6;
        json!({
            "count": counter.count,
            "avg_duration_micros": micros / counter.count.max(1) as f64,
            "total_duration_micros": micros as u64,
        })
    };
    let paths = lock(counters);
    Value::Object(
        paths
            .iter()
            .map(|(path, codes)| {
                let codes: Map<_, _> = codes.iter().map(|(code, c)| (code.to_string(), counter(c))).collect();
                (path.clone(), Value::Object(codes))
            })
            .collect(),
    )
}
