//! The REST routes of Qdrant 1.12 to 1.19.

use std::{borrow::Cow, sync::LazyLock};

use http::{Method, Uri};
use percent_encoding::percent_decode_str;
use smallvec::SmallVec;

use super::{Call, Class, Layout, Protocol, Repeat, json::Layout as Json};
use crate::topology::{PointId, WriteOrdering};

/// One route: method, path, what it works on, what repeating it would do, and where the body says more.
///
/// `{c}` stands for the collection, `{shard}` for a shard id, `{point}` for a point id, `{file}` for
/// the name of a snapshot, `{peer}` for a peer id, and `{}` for any other segment.
type Route = (Verb, &'static str, Class, Repeat, Json);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

use self::Verb::{Delete, Get, Patch, Post, Put};
use super::{
    Class::{Anywhere, Consensus, NodeLocal, Read, SnapshotCreate, SnapshotList, Write},
    Repeat::{Batch, Idempotent, Never, Safe, Verify},
};

#[rustfmt::skip]
const ROUTES: &[Route] = &[
    // Points
    (Put,    "/collections/{c}/points",                                       Write,          Idempotent, Json::Points),
    (Post,   "/collections/{c}/points/delete",                                Write,          Idempotent, Json::Selector),
    (Put,    "/collections/{c}/points/vectors",                               Write,          Idempotent, Json::Points),
    (Post,   "/collections/{c}/points/vectors/delete",                        Write,          Idempotent, Json::VectorSelector),
    (Post,   "/collections/{c}/points/payload",                               Write,          Idempotent, Json::Selector),
    (Put,    "/collections/{c}/points/payload",                               Write,          Idempotent, Json::Selector),
    (Post,   "/collections/{c}/points/payload/delete",                        Write,          Idempotent, Json::Selector),
    (Post,   "/collections/{c}/points/payload/clear",                         Write,          Idempotent, Json::Selector),
    (Post,   "/collections/{c}/points/batch",                                 Write,          Batch,      Json::Operations),
    (Get,    "/collections/{c}/points/{point}",                               Read,           Safe,       Json::Nothing),
    (Post,   "/collections/{c}/points",                                       Read,           Safe,       Json::Retrieve),
    (Post,   "/collections/{c}/points/scroll",                                Read,           Safe,       Json::Key),
    (Post,   "/collections/{c}/points/count",                                 Read,           Safe,       Json::Key),
    (Post,   "/collections/{c}/points/query",                                 Read,           Safe,       Json::Key),
    (Post,   "/collections/{c}/points/query/batch",                           Read,           Safe,       Json::Searches),
    (Post,   "/collections/{c}/points/query/groups",                          Read,           Safe,       Json::Key),
    (Post,   "/collections/{c}/points/search",                                Read,           Safe,       Json::Key),
    (Post,   "/collections/{c}/points/search/batch",                          Read,           Safe,       Json::Searches),
    (Post,   "/collections/{c}/points/search/groups",                         Read,           Safe,       Json::Key),
    (Post,   "/collections/{c}/points/search/matrix/pairs",                   Read,           Safe,       Json::Key),
    (Post,   "/collections/{c}/points/search/matrix/offsets",                 Read,           Safe,       Json::Key),
    (Post,   "/collections/{c}/points/recommend",                             Read,           Safe,       Json::Key),
    (Post,   "/collections/{c}/points/recommend/batch",                       Read,           Safe,       Json::Searches),
    (Post,   "/collections/{c}/points/recommend/groups",                      Read,           Safe,       Json::Key),
    (Post,   "/collections/{c}/points/discover",                              Read,           Safe,       Json::Key),
    (Post,   "/collections/{c}/points/discover/batch",                        Read,           Safe,       Json::Searches),
    (Post,   "/collections/{c}/facet",                                        Read,           Safe,       Json::Key),

    // Collections, schema, shard keys
    (Get,    "/collections",                                                  Anywhere,       Safe,       Json::Nothing),
    (Get,    "/collections/{c}",                                              Read,           Safe,       Json::Nothing),
    (Get,    "/collections/{c}/exists",                                       Anywhere,       Safe,       Json::Nothing),
    (Put,    "/collections/{c}",                                              Consensus,      Verify,     Json::Nothing),
    (Patch,  "/collections/{c}",                                              Consensus,      Idempotent, Json::Nothing),
    (Delete, "/collections/{c}",                                              Consensus,      Verify,     Json::Nothing),
    (Post,   "/collections/aliases",                                          Consensus,      Verify,     Json::Nothing),
    (Get,    "/aliases",                                                      Anywhere,       Safe,       Json::Nothing),
    (Get,    "/collections/{c}/aliases",                                      Anywhere,       Safe,       Json::Nothing),
    (Put,    "/collections/{c}/index",                                        Consensus,      Idempotent, Json::Nothing),
    (Delete, "/collections/{c}/index/{}",                                     Consensus,      Idempotent, Json::Nothing),
    (Put,    "/collections/{c}/vectors/{}",                                   Consensus,      Idempotent, Json::Nothing),
    (Delete, "/collections/{c}/vectors/{}",                                   Consensus,      Idempotent, Json::Nothing),
    (Get,    "/collections/{c}/cluster",                                      Anywhere,       Safe,       Json::Nothing),
    (Post,   "/collections/{c}/cluster",                                      Consensus,      Verify,     Json::Nothing),
    (Get,    "/collections/{c}/shards",                                       Anywhere,       Safe,       Json::Nothing),
    (Put,    "/collections/{c}/shards",                                       Consensus,      Verify,     Json::Nothing),
    (Post,   "/collections/{c}/shards/delete",                                Consensus,      Verify,     Json::Nothing),
    (Get,    "/collections/{c}/optimizations",                                Read,           Safe,       Json::Nothing),
    (Get,    "/collections/{c}/memory",                                       Anywhere,       Safe,       Json::Nothing),
    (Post,   "/collections/{c}/truncate_unapplied_wal",                       NodeLocal,      Never,      Json::Nothing),

    // Cluster, service, static
    (Get,    "/cluster",                                                      Anywhere,       Safe,       Json::Nothing),
    (Get,    "/cluster/telemetry",                                            Anywhere,       Safe,       Json::Nothing),
    (Post,   "/cluster/recover",                                              NodeLocal,      Safe,       Json::Nothing),
    (Delete, "/cluster/peer/{peer}",                                          Consensus,      Verify,     Json::Nothing),
    (Get,    "/cluster/metadata/keys",                                        Anywhere,       Safe,       Json::Nothing),
    (Get,    "/cluster/metadata/keys/{}",                                     Anywhere,       Safe,       Json::Nothing),
    (Put,    "/cluster/metadata/keys/{}",                                     Consensus,      Idempotent, Json::Nothing),
    (Delete, "/cluster/metadata/keys/{}",                                     Consensus,      Idempotent, Json::Nothing),
    (Get,    "/quotas",                                                       Anywhere,       Safe,       Json::Nothing),
    (Put,    "/quotas",                                                       Consensus,      Idempotent, Json::Nothing),
    (Get,    "/",                                                             Anywhere,       Safe,       Json::Nothing),
    (Get,    "/healthz",                                                      Anywhere,       Safe,       Json::Nothing),
    (Get,    "/livez",                                                        Anywhere,       Safe,       Json::Nothing),
    (Get,    "/readyz",                                                       Anywhere,       Safe,       Json::Nothing),
    (Get,    "/telemetry",                                                    NodeLocal,      Safe,       Json::Nothing),
    (Get,    "/metrics",                                                      NodeLocal,      Safe,       Json::Nothing),
    (Get,    "/issues",                                                       NodeLocal,      Safe,       Json::Nothing),
    (Delete, "/issues",                                                       NodeLocal,      Idempotent, Json::Nothing),
    (Get,    "/logger",                                                       NodeLocal,      Safe,       Json::Nothing),
    (Post,   "/logger",                                                       NodeLocal,      Idempotent, Json::Nothing),
    (Get,    "/stacktrace",                                                   NodeLocal,      Safe,       Json::Nothing),
    (Get,    "/debugger",                                                     NodeLocal,      Safe,       Json::Nothing),
    (Patch,  "/debugger",                                                     NodeLocal,      Idempotent, Json::Nothing),
    (Get,    "/profiler/slow_requests",                                       NodeLocal,      Safe,       Json::Nothing),
    (Post,   "/audit/logs",                                                   Anywhere,       Safe,       Json::Nothing),
    (Get,    "/dashboard",                                                    Anywhere,       Safe,       Json::Nothing),

    // Snapshots and per-shard endpoints
    (Get,    "/collections/{c}/snapshots",                                    SnapshotList,   Safe,       Json::Nothing),
    (Post,   "/collections/{c}/snapshots",                                    SnapshotCreate, Never,      Json::Nothing),
    (Post,   "/collections/{c}/snapshots/upload",                             NodeLocal,      Never,      Json::Nothing),
    (Put,    "/collections/{c}/snapshots/recover",                            NodeLocal,      Never,      Json::Location),
    (Get,    "/collections/{c}/snapshots/{file}",                             NodeLocal,      Safe,       Json::Nothing),
    (Delete, "/collections/{c}/snapshots/{file}",                             NodeLocal,      Verify,     Json::Nothing),
    (Get,    "/snapshots",                                                    SnapshotList,   Safe,       Json::Nothing),
    (Post,   "/snapshots",                                                    SnapshotCreate, Never,      Json::Nothing),
    (Get,    "/snapshots/{file}",                                             NodeLocal,      Safe,       Json::Nothing),
    (Delete, "/snapshots/{file}",                                             NodeLocal,      Verify,     Json::Nothing),
    (Get,    "/collections/{c}/shards/{shard}/snapshots",                     NodeLocal,      Safe,       Json::Nothing),
    (Post,   "/collections/{c}/shards/{shard}/snapshots",                     NodeLocal,      Never,      Json::Nothing),
    (Get,    "/collections/{c}/shards/{shard}/snapshot",                      NodeLocal,      Safe,       Json::Nothing),
    (Put,    "/collections/{c}/shards/{shard}/snapshots/recover",             NodeLocal,      Never,      Json::Nothing),
    (Post,   "/collections/{c}/shards/{shard}/snapshots/upload",              NodeLocal,      Never,      Json::Nothing),
    (Get,    "/collections/{c}/shards/{shard}/snapshots/{file}",              NodeLocal,      Safe,       Json::Nothing),
    (Delete, "/collections/{c}/shards/{shard}/snapshots/{file}",              NodeLocal,      Verify,     Json::Nothing),
    (Post,   "/collections/{c}/shards/{shard}/snapshot/partial/create",       NodeLocal,      Safe,       Json::Nothing),
    (Post,   "/collections/{c}/shards/{shard}/snapshot/partial/recover",      NodeLocal,      Never,      Json::Nothing),
    (Post,   "/collections/{c}/shards/{shard}/snapshot/partial/recover_from", NodeLocal,      Never,      Json::Nothing),
    (Get,    "/collections/{c}/shards/{shard}/snapshot/partial/manifest",     NodeLocal,      Safe,       Json::Nothing),
    (Post,   "/collections/{c}/shards/{shard}/points",                        NodeLocal,      Safe,       Json::Nothing),
    (Post,   "/collections/{c}/shards/{shard}/points/scroll",                 NodeLocal,      Safe,       Json::Nothing),
    (Post,   "/collections/{c}/shards/{shard}/points/count",                  NodeLocal,      Safe,       Json::Nothing),
    (Post,   "/collections/{c}/shards/{shard}/cleanup",                       NodeLocal,      Idempotent, Json::Nothing),
];

/// What `method` and `uri` say.
pub(super) fn call(method: &Method, uri: &Uri) -> Call {
    known(method, uri).unwrap_or_else(|| {
        let repeat = if method.is_safe() { Safe } else { Never };
        Call { repeat, ..Call::unknown(Protocol::Rest) }
    })
}

fn known(method: &Method, uri: &Uri) -> Option<Call> {
    let verb = match *method {
        Method::GET => Get,
        Method::POST => Post,
        Method::PUT => Put,
        Method::PATCH => Patch,
        Method::DELETE => Delete,
        _ => return None,
    };
    let path = uri.path();
    let segments = parts(path);
    // Dot segments and encoded slashes are read differently by different servers: passed through.
    let may_be_odd = memchr::memchr2(b'%', b'.', path.as_bytes()).is_some();
    if may_be_odd && segments.iter().any(|segment| is_odd(segment)) {
        return None;
    }
    let alike = INDEX.get(segments.len())?;
    let (pattern, route) =
        alike.iter().find(|(parts, route)| route.0 == verb && is_match(parts, &segments))?;
    let &&(_, operation, class, repeat, layout) = route;
    let mut call = Call {
        class,
        repeat,
        operation,
        layout: Layout::Rest(layout),
        ordering: if class == Write { ordering(uri.query()) } else { WriteOrdering::Weak },
        ..Call::unknown(Protocol::Rest)
    };
    for (&pattern, segment) in pattern.iter().zip(segments) {
        if !pattern.starts_with('{') {
            continue;
        }
        let name = match may_be_odd {
            true => percent_decode_str(segment).decode_utf8().ok()?,
            false => Cow::Borrowed(segment),
        };
        match pattern {
            "{c}" => call.collection = Some(name.into_owned()),
            "{file}" => call.file = Some(name.into_owned()),
            "{shard}" => call.shard = name.parse().ok(),
            "{peer}" => call.peer = name.parse().ok(),
            "{point}" => call.point = PointId::from_path_segment(&name),
            _ => {}
        }
    }
    Some(call)
}

/// The segments of a path. Qdrant merges slashes and drops a trailing one since 1.13.3.
fn parts(path: &str) -> SmallVec<[&str; 10]> {
    let mut parts = SmallVec::new();
    let mut rest = path;
    // Segments are too short for a search that is faster per byte.
    while let Some(end) = rest.bytes().position(|byte| byte == b'/') {
        if end > 0 {
            parts.push(&rest[..end]);
        }
        rest = &rest[end + 1..];
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    parts
}

/// The segments of a pattern, and its route.
type Indexed = (Vec<&'static str>, &'static Route);

/// The routes by the number of their segments, each kind in the order of the table.
static INDEX: LazyLock<Vec<Vec<Indexed>>> = LazyLock::new(|| {
    let mut index: Vec<Vec<Indexed>> = Vec::new();
    for route in ROUTES {
        let segments = parts(route.1).into_vec();
        if index.len() <= segments.len() {
            index.resize_with(segments.len() + 1, Vec::new);
        }
        index[segments.len()].push((segments, route));
    }
    index
});

/// Whether as many segments are those of `pattern`. What is most particular about a route is at its end.
fn is_match(pattern: &[&str], segments: &[&str]) -> bool {
    pattern.iter().zip(segments).rev().all(|(part, segment)| part.starts_with('{') || part == segment)
}

fn is_odd(segment: &str) -> bool {
    let lower: Cow<'_, str> =
        if segment.contains('%') { segment.to_ascii_lowercase().into() } else { segment.into() };
    matches!(&*lower, "." | ".." | "%2e" | "%2e%2e" | ".%2e" | "%2e.")
        || lower.contains("%2f")
        || lower.contains("%5c")
}

fn ordering(query: Option<&str>) -> WriteOrdering {
    let value = query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter_map(|pair| pair.strip_prefix("ordering="))
        .next_back();
    match value {
        Some("medium") => WriteOrdering::Medium,
        Some("strong") => WriteOrdering::Strong,
        _ => WriteOrdering::Weak,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &Method, uri: &str) -> Call {
        call(method, &uri.parse().expect("a URI"))
    }

    #[test]
    fn every_route_is_found_by_its_own_path() {
        for &(verb, path, class, ..) in ROUTES {
            let method = match verb {
                Get => Method::GET,
                Post => Method::POST,
                Put => Method::PUT,
                Patch => Method::PATCH,
                Delete => Method::DELETE,
            };
            let mut uri = path.replace("{c}", "my%20books");
            for part in ["{shard}", "{point}", "{file}", "{peer}", "{}"] {
                uri = uri.replace(part, "17");
            }
            let call = of(&method, &uri);
            assert_eq!((call.class, call.operation), (class, path));
            assert_eq!(call.collection.is_some(), path.contains("{c}"), "{path}");
            assert!(call.collection.is_none_or(|name| name == "my books"), "{path}");
        }
    }

    /// The paths of the OpenAPI document of Qdrant 1.18.3.
    const OPENAPI: &str = include_str!("rest/openapi.txt");

    #[test]
    fn every_documented_path_is_known() {
        let mut count = 0;
        for line in OPENAPI.lines() {
            let (method, path) = line.split_once(' ').expect("a method and a path");
            let uri: String = path
                .split('/')
                .map(|segment| if segment.starts_with('{') { "17" } else { segment })
                .collect::<Vec<_>>()
                .join("/");
            let call = of(&method.parse().expect("a method"), &uri);
            assert_ne!(call.class, Class::Unknown, "{line}");
            let names_collection = path.contains("{collection_name}");
            assert_eq!(call.collection.as_deref(), names_collection.then_some("17"), "{line}");
            assert_eq!(call.shard, path.contains("{shard_id}").then_some(17), "{line}");
            assert_eq!(call.file.as_deref(), path.contains("{snapshot_name}").then_some("17"), "{line}");
            count += 1;
        }
        assert_eq!(count, 75);
    }

    #[test]
    fn slashes_are_normalised_as_qdrant_does() {
        for uri in ["/collections/c/points/", "//collections//c/points", "/collections/c/points?wait=true"] {
            let call = of(&Method::PUT, uri);
            assert_eq!((call.class, call.collection.as_deref()), (Class::Write, Some("c")), "{uri}");
        }
    }

    #[test]
    fn what_is_odd_is_unknown() {
        for (method, uri) in [
            (Method::GET, "/collections/../telemetry"),
            (Method::GET, "/collections/c/%2E%2e/points/1"),
            (Method::GET, "/collections/a%2Fb"),
            (Method::GET, "/collections/%ff"),
            (Method::OPTIONS, "/collections/c/points"),
            (Method::GET, "/no/such/path"),
        ] {
            assert_eq!(of(&method, uri).class, Class::Unknown, "{uri}");
        }
    }

    #[test]
    fn the_ordering_is_in_the_query() {
        for (query, expected) in [
            ("", WriteOrdering::Weak),
            ("?ordering=weak", WriteOrdering::Weak),
            ("?wait=true&ordering=medium", WriteOrdering::Medium),
            ("?ordering=strong&timeout=3", WriteOrdering::Strong),
        ] {
            assert_eq!(of(&Method::PUT, &format!("/collections/c/points{query}")).ordering, expected);
        }
    }
}
