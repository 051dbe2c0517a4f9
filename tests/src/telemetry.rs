//! What a node says it has served, read from `GET /telemetry`.
//!
//! Qdrant counts every completed call at the node that *received* it, internal calls of its peers included, under the
//! full gRPC path. The difference of two readings over all nodes is therefore the number of hops that the requests in
//! between have cost, which is what the router exists to reduce. The reading itself disturbs no gRPC count.
//!
//! One thing disturbs it: the *first* write of a coordinator to a shard. A coordinator stamps its writes with a clock
//! of its own that starts at zero; replicas elsewhere reject a stamp of zero, tell the time, and get the write again. So
//! that write costs each remote replica two calls, both with status 0. Concurrent writes use one clock each and learn
//! each one's time. Suites that count write first, once, through every node they will count at.
//!
//! Two shapes exist. Since 1.17.0 a path leads to one entry per gRPC status; before, it led to the counts at once.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::rest::{Rest, RestError};

/// Internal RPCs that carry a client's data. What is missing serves consensus, transfers, recovery and health.
const INTERNAL_RPCS: [&str; 18] = [
    "/qdrant.PointsInternal/Upsert",
    "/qdrant.PointsInternal/Delete",
    "/qdrant.PointsInternal/UpdateVectors",
    "/qdrant.PointsInternal/DeleteVectors",
    "/qdrant.PointsInternal/SetPayload",
    "/qdrant.PointsInternal/OverwritePayload",
    "/qdrant.PointsInternal/DeletePayload",
    "/qdrant.PointsInternal/ClearPayload",
    "/qdrant.PointsInternal/CreateFieldIndex",
    "/qdrant.PointsInternal/DeleteFieldIndex",
    "/qdrant.PointsInternal/CoreSearchBatch",
    "/qdrant.PointsInternal/QueryBatch",
    "/qdrant.PointsInternal/Scroll",
    "/qdrant.PointsInternal/Count",
    "/qdrant.PointsInternal/Get",
    "/qdrant.PointsInternal/Facet",
    "/qdrant.PointsInternal/Recommend",
    "/qdrant.CollectionsInternal/Get",
];

/// The public gRPC service for points.
const PUBLIC_SERVICE: &str = "/qdrant.Points/";

/// The calls one node has completed since it started, by gRPC path and by REST route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Telemetry {
    grpc: BTreeMap<String, u64>,
    rest: BTreeMap<String, u64>,
}

impl Telemetry {
    /// Asks the node behind `rest`.
    ///
    /// # Errors
    ///
    /// When it does not answer, or refuses the key.
    pub async fn fetch(rest: &Rest) -> Result<Telemetry, RestError> {
        Ok(Telemetry::parse(&rest.get("/telemetry").await?))
    }

    /// Reads an answer of `GET /telemetry`. A section that is not there, as for a key that may not see it, counts as zero.
    #[must_use]
    pub fn parse(answer: &Value) -> Telemetry {
        let requests = &answer["result"]["requests"];
        Telemetry { grpc: responses(&requests["grpc"]), rest: responses(&requests["rest"]) }
    }

    /// Completed internal calls that carried a client's data, whatever their status.
    #[must_use]
    pub fn internal_rpcs(&self) -> u64 {
        INTERNAL_RPCS.iter().map(|path| self.grpc(path)).sum()
    }

    /// Completed public requests about points, over gRPC and REST, whatever their status.
    #[must_use]
    pub fn public_calls(&self) -> u64 {
        let grpc = self.grpc.iter().filter(|(path, _)| path.starts_with(PUBLIC_SERVICE));
        let rest = self.rest.iter().filter(|(route, _)| is_points_route(route));
        grpc.chain(rest).map(|(_, count)| count).sum()
    }

    /// Calls of one gRPC path, such as `/qdrant.PointsInternal/Upsert`.
    #[must_use]
    pub fn grpc(&self, path: &str) -> u64 {
        self.grpc.get(path).copied().unwrap_or_default()
    }

    /// Calls of one REST route, such as `PUT /collections/{collection_name}/points`. Qdrant renamed the placeholder
    /// over time, so its name does not matter here.
    #[must_use]
    pub fn rest(&self, route: &str) -> u64 {
        let same = |known: &str| known.split('/').map(placeholder).eq(route.split('/').map(placeholder));
        self.rest.iter().filter(|(known, _)| same(known)).map(|(_, count)| count).sum()
    }

    /// The non-zero counts of internal RPCs by path: what to print when a hop was not expected.
    #[must_use]
    pub fn internal_by_path(&self) -> BTreeMap<&str, u64> {
        INTERNAL_RPCS.iter().map(|path| (*path, self.grpc(path))).filter(|(_, count)| *count > 0).collect()
    }
}

/// Every `{}` looks the same.
fn placeholder(segment: &str) -> &str {
    if segment.starts_with('{') { "{}" } else { segment }
}

/// `METHOD /collections/{c}/points…`, and the two routes that belong to the same gRPC service under another name.
fn is_points_route(route: &str) -> bool {
    let mut segments = route.split('/').skip(1);
    segments.next() == Some("collections") && matches!(segments.nth(1), Some("points" | "facet" | "index"))
}

fn responses(side: &Value) -> BTreeMap<String, u64> {
    let Some(responses) = side["responses"].as_object() else {
        return BTreeMap::new();
    };
    responses.iter().map(|(path, entry)| (path.clone(), calls(entry))).collect()
}

/// The count of one entry, or the sum over its statuses.
fn calls(entry: &Value) -> u64 {
    if let Some(count) = entry["count"].as_u64() {
        return count;
    }
    entry.as_object().into_iter().flatten().filter_map(|(_, status)| status["count"].as_u64()).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with_statuses() -> Telemetry {
        Telemetry::parse(&json!({ "result": { "requests": {
            "rest": { "responses": {
                "PUT /collections/{collection_name}/points": { "200": { "count": 3 }, "400": { "count": 1 } },
                "POST /collections/{collection_name}/points/query": { "200": { "count": 5, "avg_duration_micros": 7.0 } },
                "GET /collections/{collection_name}": { "200": { "count": 100 } },
                "GET /telemetry": { "200": { "count": 100 } }
            } },
            "grpc": { "responses": {
                "/qdrant.PointsInternal/Upsert": { "0": { "count": 4 }, "14": { "count": 2 } },
                "/qdrant.PointsInternal/Sync": { "0": { "count": 100 } },
                "/qdrant.CollectionsInternal/Get": { "0": { "count": 1 } },
                "/qdrant.CollectionsInternal/WaitForShardState": { "0": { "count": 100 } },
                "/qdrant.Points/Query": { "0": { "count": 9 } },
                "/qdrant.Raft/Send": { "0": { "count": 100 } }
            } }
        } } }))
    }

    #[test]
    fn sums_over_statuses() {
        let telemetry = with_statuses();
        assert_eq!(telemetry.internal_rpcs(), 4 + 2 + 1);
        assert_eq!(telemetry.public_calls(), 3 + 1 + 5 + 9);
        assert_eq!(telemetry.grpc("/qdrant.PointsInternal/Upsert"), 6);
        assert_eq!(telemetry.internal_by_path().len(), 2);
    }

    #[test]
    fn reads_the_shape_before_1_17() {
        let telemetry = Telemetry::parse(&json!({ "result": { "requests": {
            "rest": { "responses": { "PUT /collections/{name}/points": { "200": { "count": 3 } } } },
            "grpc": { "responses": {
                "/qdrant.PointsInternal/CoreSearchBatch": { "count": 7, "avg_duration_micros": 12.5 },
                "/qdrant.Points/Search": { "count": 2 }
            } }
        } } }));
        assert_eq!(telemetry.internal_rpcs(), 7);
        assert_eq!(telemetry.public_calls(), 5);
        assert_eq!(telemetry.rest("PUT /collections/{collection_name}/points"), 3);
    }

    #[test]
    fn a_hidden_section_is_zero() {
        let telemetry = Telemetry::parse(&json!({ "result": { "id": "x" } }));
        assert_eq!((telemetry.internal_rpcs(), telemetry.public_calls()), (0, 0));
    }

    #[test]
    fn only_routes_about_points_are_public_calls() {
        for route in [
            "PUT /collections/{c}/points",
            "POST /collections/{c}/points/query/batch",
            "POST /collections/{c}/facet",
        ] {
            assert!(is_points_route(route), "{route}");
        }
        for route in [
            "GET /collections",
            "GET /collections/{c}",
            "GET /collections/{c}/cluster",
            "GET /",
            "GET /telemetry",
        ] {
            assert!(!is_points_route(route), "{route}");
        }
    }
}
