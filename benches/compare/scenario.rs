//! What the proxies are put through.

use bytes::Bytes;

use crate::bodies;

/// A request, its answer, and how many are under way.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) protocol: Protocol,
    /// Of the request.
    pub(crate) path: String,
    pub(crate) method: &'static str,
    pub(crate) body: Bytes,
    pub(crate) reply: Bytes,
    pub(crate) connections: usize,
    /// Requests under way per connection; one with HTTP/1.1.
    pub(crate) streams: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Rest,
    Grpc,
}

/// A collection of six shards over the nodes, one copy each.
pub(crate) const SPREAD: &str = "spread";
/// A collection that every node holds in whole, so that no write needs to be dealt out.
pub(crate) const EVERYWHERE: &str = "everywhere";

const PAGE: usize = 10 << 20;

/// All, in the order in which they are reported.
pub(crate) fn all() -> Vec<Scenario> {
    let rest = |name, method, path: String, body, reply, connections| Scenario {
        name,
        protocol: Protocol::Rest,
        path,
        method,
        body,
        reply,
        connections,
        streams: 1,
    };
    let grpc = |name, path: &str, body, reply, connections, streams| Scenario {
        name,
        protocol: Protocol::Grpc,
        path: format!("/qdrant.Points/{path}"),
        method: "POST",
        body,
        reply,
        connections,
        streams,
    };
    let points = |collection: &str, rest: &str| format!("/collections/{collection}/points{rest}");
    let rest_query = |name, dimensions, connections| {
        let body = bodies::rest_query(dimensions);
        rest(name, "POST", points(SPREAD, "/query"), body, bodies::rest_found(), connections)
    };
    let grpc_query = |name, dimensions, connections, streams| {
        let body = bodies::grpc_query(SPREAD, dimensions);
        grpc(name, "Query", body, bodies::grpc_found(), connections, streams)
    };
    vec![
        rest_query("REST query 0.6 KB, 32 connections", 54, 32),
        rest_query("REST query 1.5 KB, 32 connections", 144, 32),
        rest_query("REST query 6 KB, 32 connections", 590, 32),
        rest_query("REST query 1.5 KB, one at a time", 144, 1),
        rest(
            "REST upsert 3 MB, 4 connections",
            "PUT",
            points(EVERYWHERE, ""),
            bodies::rest_upsert(390, 768),
            bodies::rest_written(),
            4,
        ),
        rest(
            "REST upsert 3 MB dealt out, 4 connections",
            "PUT",
            points(SPREAD, ""),
            bodies::rest_upsert(390, 768),
            bodies::rest_written(),
            4,
        ),
        rest(
            "REST reply 10 MB, 4 connections",
            "POST",
            points(SPREAD, "/scroll"),
            Bytes::from_static(br#"{"limit":1000}"#),
            bodies::rest_page(PAGE),
            4,
        ),
        grpc_query("gRPC query 0.6 KB, 4 x 64 streams", 128, 4, 64),
        grpc_query("gRPC query 6 KB, 4 x 64 streams", 1536, 4, 64),
        grpc_query("gRPC query 0.6 KB, one at a time", 128, 1, 1),
        grpc(
            "gRPC upsert 3 MB, 4 x 1 streams",
            "Upsert",
            bodies::grpc_upsert(EVERYWHERE, 970, 768),
            bodies::grpc_written(),
            4,
            1,
        ),
        grpc(
            "gRPC upsert 3 MB dealt out, 4 x 1 streams",
            "Upsert",
            bodies::grpc_upsert(SPREAD, 970, 768),
            bodies::grpc_written(),
            4,
            1,
        ),
        grpc(
            "gRPC reply 10 MB, 4 x 1 streams",
            "Scroll",
            bodies::grpc_query(SPREAD, 1),
            bodies::grpc_page(PAGE),
            4,
            1,
        ),
    ]
}

impl Scenario {
    /// Whether our proxy sends its parts to several nodes and merges their answers.
    pub(crate) fn is_dealt_out(&self) -> bool {
        self.name.contains("dealt out")
    }
}

/// The names of all.
pub(crate) fn names() -> String {
    all().iter().map(|scenario| scenario.name).collect::<Vec<_>>().join("; ")
}
