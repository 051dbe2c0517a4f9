//! The REST routes of Qdrant 1.12 to 1.19.

use std::borrow::Cow;

use http::{Method, Uri};
use percent_encoding::percent_decode_str;

use super::{Call, Class, Layout, Protocol, json::Layout as Json};
use crate::topology::WriteOrdering;

/// One route: method, path, what it works on, and where the body says more.
///
/// `{c}` stands for the collection and `{}` for any other segment.
type Route = (Verb, &'static str, Class, Json);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

use self::Verb::{Delete, Get, Patch, Post, Put};
use super::Class::{Anywhere, Consensus, NodeLocal, Read, Write};

#[rustfmt::skip]
const ROUTES: &[Route] = &[
    // Points
    (Put,    "/collections/{c}/points",                             Write,     Json::Points),
    (Post,   "/collections/{c}/points/delete",                      Write,     Json::Selector),
    (Put,    "/collections/{c}/points/vectors",                     Write,     Json::Points),
    (Post,   "/collections/{c}/points/vectors/delete",              Write,     Json::VectorSelector),
    (Post,   "/collections/{c}/points/payload",                     Write,     Json::Selector),
    (Put,    "/collections/{c}/points/payload",                     Write,     Json::Selector),
    (Post,   "/collections/{c}/points/payload/delete",              Write,     Json::Selector),
    (Post,   "/collections/{c}/points/payload/clear",               Write,     Json::Selector),
    (Post,   "/collections/{c}/points/batch",                       Write,     Json::Operations),
    (Get,    "/collections/{c}/points/{}",                          Read,      Json::Nothing),
    (Post,   "/collections/{c}/points",                             Read,      Json::Key),
    (Post,   "/collections/{c}/points/scroll",                      Read,      Json::Key),
    (Post,   "/collections/{c}/points/count",                       Read,      Json::Key),
    (Post,   "/collections/{c}/points/query",                       Read,      Json::Key),
    (Post,   "/collections/{c}/points/query/batch",                 Read,      Json::Searches),
    (Post,   "/collections/{c}/points/query/groups",                Read,      Json::Key),
    (Post,   "/collections/{c}/points/search",                      Read,      Json::Key),
    (Post,   "/collections/{c}/points/search/batch",                Read,      Json::Searches),
    (Post,   "/collections/{c}/points/search/groups",               Read,      Json::Key),
    (Post,   "/collections/{c}/points/search/matrix/pairs",         Read,      Json::Key),
    (Post,   "/collections/{c}/points/search/matrix/offsets",       Read,      Json::Key),
    (Post,   "/collections/{c}/points/recommend",                   Read,      Json::Key),
    (Post,   "/collections/{c}/points/recommend/batch",             Read,      Json::Searches),
    (Post,   "/collections/{c}/points/recommend/groups",            Read,      Json::Key),
    (Post,   "/collections/{c}/points/discover",                    Read,      Json::Key),
    (Post,   "/collections/{c}/points/discover/batch",              Read,      Json::Searches),
    (Post,   "/collections/{c}/facet",                              Read,      Json::Key),

    // Collections, schema, shard keys
    (Get,    "/collections",                                        Anywhere,  Json::Nothing),
    (Get,    "/collections/{c}",                                    Read,      Json::Nothing),
    (Get,    "/collections/{c}/exists",                             Anywhere,  Json::Nothing),
    (Put,    "/collections/{c}",                                    Consensus, Json::Nothing),
    (Patch,  "/collections/{c}",                                    Consensus, Json::Nothing),
    (Delete, "/collections/{c}",                                    Consensus, Json::Nothing),
    (Post,   "/collections/aliases",                                Consensus, Json::Nothing),
    (Get,    "/aliases",                                            Anywhere,  Json::Nothing),
    (Get,    "/collections/{c}/aliases",                            Anywhere,  Json::Nothing),
    (Put,    "/collections/{c}/index",                              Consensus, Json::Nothing),
    (Delete, "/collections/{c}/index/{}",                           Consensus, Json::Nothing),
    (Put,    "/collections/{c}/vectors/{}",                         Consensus, Json::Nothing),
    (Delete, "/collections/{c}/vectors/{}",                         Consensus, Json::Nothing),
    (Get,    "/collections/{c}/cluster",                            Anywhere,  Json::Nothing),
    (Post,   "/collections/{c}/cluster",                            Consensus, Json::Nothing),
    (Get,    "/collections/{c}/shards",                             Anywhere,  Json::Nothing),
    (Put,    "/collections/{c}/shards",                             Consensus, Json::Nothing),
    (Post,   "/collections/{c}/shards/delete",                      Consensus, Json::Nothing),
    (Get,    "/collections/{c}/optimizations",                      Read,      Json::Nothing),
    (Get,    "/collections/{c}/memory",                             Anywhere,  Json::Nothing),
    (Post,   "/collections/{c}/truncate_unapplied_wal",             NodeLocal, Json::Nothing),

    // Cluster, service, static
    (Get,    "/cluster",                                            Anywhere,  Json::Nothing),
    (Get,    "/cluster/telemetry",                                  Anywhere,  Json::Nothing),
    (Post,   "/cluster/recover",                                    NodeLocal, Json::Nothing),
    (Delete, "/cluster/peer/{}",                                    Consensus, Json::Nothing),
    (Get,    "/cluster/metadata/keys",                              Anywhere,  Json::Nothing),
    (Get,    "/cluster/metadata/keys/{}",                           Anywhere,  Json::Nothing),
    (Put,    "/cluster/metadata/keys/{}",                           Consensus, Json::Nothing),
    (Delete, "/cluster/metadata/keys/{}",                           Consensus, Json::Nothing),
    (Get,    "/quotas",                                             Anywhere,  Json::Nothing),
    (Put,    "/quotas",                                             Consensus, Json::Nothing),
    (Get,    "/",                                                   Anywhere,  Json::Nothing),
    (Get,    "/healthz",                                            Anywhere,  Json::Nothing),
    (Get,    "/livez",                                              Anywhere,  Json::Nothing),
    (Get,    "/readyz",                                             Anywhere,  Json::Nothing),
    (Get,    "/telemetry",                                          NodeLocal, Json::Nothing),
    (Get,    "/metrics",                                            NodeLocal, Json::Nothing),
    (Get,    "/issues",                                             NodeLocal, Json::Nothing),
    (Delete, "/issues",                                             NodeLocal, Json::Nothing),
    (Get,    "/logger",                                             NodeLocal, Json::Nothing),
    (Post,   "/logger",                                             NodeLocal, Json::Nothing),
    (Get,    "/stacktrace",                                         NodeLocal, Json::Nothing),
    (Get,    "/debugger",                                           NodeLocal, Json::Nothing),
    (Patch,  "/debugger",                                           NodeLocal, Json::Nothing),
    (Get,    "/profiler/slow_requests",                             NodeLocal, Json::Nothing),
    (Post,   "/audit/logs",                                         Anywhere,  Json::Nothing),
    (Get,    "/dashboard",                                          Anywhere,  Json::Nothing),

    // Snapshots and per-shard endpoints
    (Get,    "/collections/{c}/snapshots",                          NodeLocal, Json::Nothing),
    (Post,   "/collections/{c}/snapshots",                          NodeLocal, Json::Nothing),
    (Post,   "/collections/{c}/snapshots/upload",                   NodeLocal, Json::Nothing),
    (Put,    "/collections/{c}/snapshots/recover",                  NodeLocal, Json::Nothing),
    (Get,    "/collections/{c}/snapshots/{}",                       NodeLocal, Json::Nothing),
    (Delete, "/collections/{c}/snapshots/{}",                       NodeLocal, Json::Nothing),
    (Get,    "/snapshots",                                          NodeLocal, Json::Nothing),
    (Post,   "/snapshots",                                          NodeLocal, Json::Nothing),
    (Get,    "/snapshots/{}",                                       NodeLocal, Json::Nothing),
    (Delete, "/snapshots/{}",                                       NodeLocal, Json::Nothing),
    (Get,    "/collections/{c}/shards/{}/snapshots",                NodeLocal, Json::Nothing),
    (Post,   "/collections/{c}/shards/{}/snapshots",                NodeLocal, Json::Nothing),
    (Get,    "/collections/{c}/shards/{}/snapshot",                 NodeLocal, Json::Nothing),
    (Put,    "/collections/{c}/shards/{}/snapshots/recover",        NodeLocal, Json::Nothing),
    (Post,   "/collections/{c}/shards/{}/snapshots/upload",         NodeLocal, Json::Nothing),
    (Get,    "/collections/{c}/shards/{}/snapshots/{}",             NodeLocal, Json::Nothing),
    (Delete, "/collections/{c}/shards/{}/snapshots/{}",             NodeLocal, Json::Nothing),
    (Post,   "/collections/{c}/shards/{}/snapshot/partial/create",  NodeLocal, Json::Nothing),
    (Post,   "/collections/{c}/shards/{}/snapshot/partial/recover", NodeLocal, Json::Nothing),
    (Post,   "/collections/{c}/shards/{}/snapshot/partial/recover_from", NodeLocal, Json::Nothing),
    (Get,    "/collections/{c}/shards/{}/snapshot/partial/manifest", NodeLocal, Json::Nothing),
    (Post,   "/collections/{c}/shards/{}/points",                   NodeLocal, Json::Nothing),
    (Post,   "/collections/{c}/shards/{}/points/scroll",            NodeLocal, Json::Nothing),
    (Post,   "/collections/{c}/shards/{}/points/count",             NodeLocal, Json::Nothing),
    (Post,   "/collections/{c}/shards/{}/cleanup",                  NodeLocal, Json::Nothing),
];

/// What `method` and `uri` say.
pub(super) fn call(method: &Method, uri: &Uri) -> Call {
    let unknown = Call::unknown(Protocol::Rest);
    let verb = match *method {
        Method::GET => Get,
        Method::POST => Post,
        Method::PUT => Put,
        Method::PATCH => Patch,
        Method::DELETE => Delete,
        _ => return unknown,
    };
    // Qdrant merges slashes and drops a trailing one since 1.13.3.
    let mut segments: smallvec::SmallVec<[&str; 10]> = smallvec::SmallVec::new();
    segments.extend(uri.path().split('/').filter(|segment| !segment.is_empty()));
    // Dot segments and encoded slashes are read differently by different servers: passed through.
    if segments.iter().any(|segment| is_odd(segment)) {
        return unknown;
    }
    let found = ROUTES
        .iter()
        .filter(|route| route.0 == verb)
        .find_map(|route| Some((route, capture(route.1, &segments)?)));
    let Some((&(_, _, class, layout), collection)) = found else { return unknown };
    let collection = match collection.map(|name| percent_decode_str(name).decode_utf8()) {
        None => None,
        Some(Ok(name)) => Some(name.into_owned()),
        Some(Err(_)) => return unknown,
    };
    Call {
        protocol: Protocol::Rest,
        class,
        collection,
        layout: Layout::Rest(layout),
        ordering: if class == Write { ordering(uri.query()) } else { WriteOrdering::Weak },
    }
}

/// Whether the segments are those of `pattern`, and which of them is the collection.
fn capture<'a>(pattern: &str, segments: &[&'a str]) -> Option<Option<&'a str>> {
    let mut pattern = pattern.split('/').filter(|segment| !segment.is_empty());
    let mut collection = None;
    for &segment in segments {
        match pattern.next()? {
            "{c}" => collection = Some(segment),
            "{}" => {}
            literal if literal == segment => {}
            _ => return None,
        }
    }
    pattern.next().is_none().then_some(collection)
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
        for &(verb, path, class, _) in ROUTES {
            let method = match verb {
                Get => Method::GET,
                Post => Method::POST,
                Put => Method::PUT,
                Patch => Method::PATCH,
                Delete => Method::DELETE,
            };
            let call = of(&method, &path.replace("{c}", "my%20books").replace("{}", "17"));
            assert_eq!(call.class, class, "{path}");
            assert_eq!(call.collection.is_some(), path.contains("{c}"), "{path}");
            assert!(call.collection.is_none_or(|name| name == "my books"), "{path}");
        }
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
