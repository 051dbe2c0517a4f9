//! The table of routes.

use std::sync::Arc;

use super::super::auth;
use super::super::engine::Engine;
use super::super::error::{OpError, OpResult};
use super::{Ask, Reply, collections, points, service, snapshots};

/// Qdrant's default for the size of a JSON body.
pub(super) const MAX_BODY: usize = 32 << 20;

/// The web framework's, which routes outside the documented interface are left with.
const MAX_SHARD_BODY: usize = 2 << 20;

/// The access a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Open to everybody, keys or not.
    Nothing,
    Read,
    Write,
}

/// One route. Patterns are Qdrant's, as its telemetry names them.
#[derive(Debug)]
pub(super) struct Route {
    method: &'static str,
    pub(super) pattern: &'static str,
    pub(super) need: Need,
    what: What,
}

/// What a route leads to.
#[derive(Clone, Copy, Debug)]
enum What {
    Service(service::Page),
    Collections(collections::Page),
    Points(points::Page),
    Snapshots(snapshots::Page),
    /// In Qdrant, not here.
    Lacking,
}

const fn route(method: &'static str, pattern: &'static str, need: Need, what: What) -> Route {
    Route { method, pattern, need, what }
}

impl Route {
    /// What its caller needs to be allowed; nothing where it is open to everybody.
    pub(super) fn needs<'a>(&self, params: &'a [String]) -> Option<auth::Need<'a>> {
        let write = match self.need {
            Need::Nothing => return None,
            Need::Read => false,
            Need::Write => true,
        };
        const LISTS: [&str; 4] = ["/collections", "/aliases", "/telemetry", "/issues"];
        if !write && LISTS.contains(&self.pattern) {
            return Some(auth::Need::Credential);
        }
        let rest = self.pattern.strip_prefix("/collections/{collection_name}");
        let is_managed = write && matches!(rest, Some("" | "/cluster" | "/shards" | "/shards/delete"));
        Some(match (rest, params.first()) {
            (Some(_), Some(name)) if !is_managed => auth::Need::Collection { name, write },
            _ => auth::Need::Global { write },
        })
    }

    /// Whether points are read or written, of a collection or of one shard; or indexes, which belong to the service of
    /// points over gRPC.
    pub(super) fn is_about_points(&self) -> bool {
        self.pattern.contains("/points")
            || self.pattern.ends_with("/facet")
            || self.pattern.contains("/index")
    }

    /// How much JSON the route takes: reads of one shard keep the web framework's own limit.
    pub(super) fn max_body(&self) -> usize {
        if self.pattern.contains("/shards/{shard}/points") { MAX_SHARD_BODY } else { MAX_BODY }
    }

    pub(super) async fn run(&self, engine: &Arc<Engine>, ask: Ask) -> OpResult<Reply> {
        match self.what {
            What::Service(page) => service::run(page, engine, &ask),
            What::Collections(page) => collections::run(page, engine, &ask).await,
            What::Points(page) => points::run(page, engine, &ask).await,
            What::Snapshots(page) => snapshots::run(page, engine, &ask).await,
            What::Lacking => Err(OpError::lacking(format_args!("{} {}", self.method, self.pattern))),
        }
    }
}

/// The route of a request and the variable parts of its path, in order.
pub(super) fn find(method: &str, segments: &[String]) -> Option<(&'static Route, Vec<String>)> {
    ROUTES.iter().filter(|route| route.method == method).find_map(|route| {
        let mut params = Vec::new();
        let mut given = segments.iter();
        for part in route.pattern.split('/').filter(|part| !part.is_empty()) {
            let segment = given.next()?;
            if part.starts_with('{') {
                params.push(segment.clone());
            } else if part != segment {
                return None;
            }
        }
        given.next().is_none().then_some((route, params))
    })
}

use What::{Collections, Lacking, Points, Service, Snapshots};
use collections::Page as C;
use points::Page as P;
use service::Page as S;
use snapshots::{Of, Page as F};

/// Literal paths stand before variable ones that would match them too.
#[rustfmt::skip] // One route, one line.
static ROUTES: &[Route] = &[
    route("GET", "/", Need::Nothing, Service(S::Root)),
    route("GET", "/healthz", Need::Nothing, Service(S::Healthz)),
    route("GET", "/livez", Need::Nothing, Service(S::Healthz)),
    route("GET", "/readyz", Need::Nothing, Service(S::Readyz)),
    route("GET", "/cluster", Need::Read, Service(S::Cluster)),
    route("GET", "/telemetry", Need::Read, Service(S::Telemetry)),
    route("DELETE", "/cluster/peer/{peer_id}", Need::Write, Service(S::RemovePeer)),
    route("GET", "/cluster/telemetry", Need::Read, Lacking),
    route("POST", "/cluster/recover", Need::Write, Lacking),
    route("GET", "/cluster/metadata/keys", Need::Read, Lacking),
    route("GET", "/cluster/metadata/keys/{key}", Need::Read, Lacking),
    route("PUT", "/cluster/metadata/keys/{key}", Need::Write, Lacking),
    route("DELETE", "/cluster/metadata/keys/{key}", Need::Write, Lacking),
    route("GET", "/metrics", Need::Read, Service(S::Metrics)),
    route("GET", "/issues", Need::Read, Lacking),
    route("DELETE", "/issues", Need::Write, Lacking),
    route("GET", "/logger", Need::Read, Lacking),
    route("POST", "/logger", Need::Write, Lacking),
    route("GET", "/stacktrace", Need::Write, Lacking),
    route("GET", "/profiler/slow_requests", Need::Write, Lacking),
    // Collections.
    route("GET", "/collections", Need::Read, Collections(C::List)),
    route("POST", "/collections/aliases", Need::Write, Collections(C::ChangeAliases)),
    route("GET", "/aliases", Need::Read, Collections(C::AllAliases)),
    route("GET", "/collections/{collection_name}", Need::Read, Collections(C::Get)),
    route("PUT", "/collections/{collection_name}", Need::Write, Collections(C::Create)),
    route("PATCH", "/collections/{collection_name}", Need::Write, Collections(C::Update)),
    route("DELETE", "/collections/{collection_name}", Need::Write, Collections(C::Delete)),
    route("GET", "/collections/{collection_name}/exists", Need::Read, Collections(C::Exists)),
    route("GET", "/collections/{collection_name}/aliases", Need::Read, Collections(C::Aliases)),
    route("GET", "/collections/{collection_name}/cluster", Need::Read, Collections(C::Cluster)),
    route("POST", "/collections/{collection_name}/cluster", Need::Write, Collections(C::ClusterSetup)),
    route("GET", "/collections/{collection_name}/shards", Need::Read, Collections(C::ShardKeys)),
    route("PUT", "/collections/{collection_name}/shards", Need::Write, Collections(C::CreateShardKey)),
    route("POST", "/collections/{collection_name}/shards/delete", Need::Write, Collections(C::DeleteShardKey)),
    route("PUT", "/collections/{collection_name}/index", Need::Write, Collections(C::CreateIndex)),
    route("DELETE", "/collections/{collection_name}/index/{field_name}", Need::Write, Collections(C::DeleteIndex)),
    route("PUT", "/collections/{collection_name}/vectors/{vector_name}", Need::Write, Lacking),
    route("DELETE", "/collections/{collection_name}/vectors/{vector_name}", Need::Write, Lacking),
    route("GET", "/collections/{collection_name}/optimizations", Need::Read, Lacking),
    route("GET", "/collections/{collection_name}/memory", Need::Read, Lacking),
    // Points: writes.
    route("PUT", "/collections/{collection_name}/points", Need::Write, Points(P::Upsert)),
    route("POST", "/collections/{collection_name}/points/delete", Need::Write, Points(P::Delete)),
    route("PUT", "/collections/{collection_name}/points/vectors", Need::Write, Points(P::UpdateVectors)),
    route("POST", "/collections/{collection_name}/points/vectors/delete", Need::Write, Points(P::DeleteVectors)),
    route("POST", "/collections/{collection_name}/points/payload", Need::Write, Points(P::SetPayload)),
    route("PUT", "/collections/{collection_name}/points/payload", Need::Write, Points(P::OverwritePayload)),
    route("POST", "/collections/{collection_name}/points/payload/delete", Need::Write, Points(P::DeletePayload)),
    route("POST", "/collections/{collection_name}/points/payload/clear", Need::Write, Points(P::ClearPayload)),
    route("POST", "/collections/{collection_name}/points/batch", Need::Write, Points(P::Batch)),
    // Points: reads.
    route("GET", "/collections/{collection_name}/points/{id}", Need::Read, Points(P::Get)),
    route("POST", "/collections/{collection_name}/points", Need::Read, Points(P::Retrieve)),
    route("POST", "/collections/{collection_name}/points/scroll", Need::Read, Points(P::Scroll)),
    route("POST", "/collections/{collection_name}/points/count", Need::Read, Points(P::Count)),
    route("POST", "/collections/{collection_name}/points/query", Need::Read, Points(P::Query)),
    route("POST", "/collections/{collection_name}/points/query/batch", Need::Read, Points(P::QueryBatch)),
    route("POST", "/collections/{collection_name}/points/query/groups", Need::Read, Lacking),
    route("POST", "/collections/{collection_name}/points/search", Need::Read, Points(P::Search)),
    route("POST", "/collections/{collection_name}/points/search/batch", Need::Read, Points(P::SearchBatch)),
    route("POST", "/collections/{collection_name}/points/search/groups", Need::Read, Lacking),
    route("POST", "/collections/{collection_name}/points/search/matrix/pairs", Need::Read, Lacking),
    route("POST", "/collections/{collection_name}/points/search/matrix/offsets", Need::Read, Lacking),
    route("POST", "/collections/{collection_name}/points/recommend", Need::Read, Lacking),
    route("POST", "/collections/{collection_name}/points/recommend/batch", Need::Read, Lacking),
    route("POST", "/collections/{collection_name}/points/recommend/groups", Need::Read, Lacking),
    route("POST", "/collections/{collection_name}/points/discover", Need::Read, Lacking),
    route("POST", "/collections/{collection_name}/points/discover/batch", Need::Read, Lacking),
    route("POST", "/collections/{collection_name}/facet", Need::Read, Points(P::Facet)),
    // One shard of one node.
    route("POST", "/collections/{collection_name}/shards/{shard}/points", Need::Read, Points(P::ShardRetrieve)),
    route("POST", "/collections/{collection_name}/shards/{shard}/points/scroll", Need::Read, Points(P::ShardScroll)),
    route("POST", "/collections/{collection_name}/shards/{shard}/points/count", Need::Read, Points(P::ShardCount)),
    // Snapshots: files of this node.
    route("GET", "/collections/{collection_name}/snapshots", Need::Read, Snapshots(F::List(Of::Collection))),
    route("POST", "/collections/{collection_name}/snapshots", Need::Write, Snapshots(F::Create(Of::Collection))),
    route("POST", "/collections/{collection_name}/snapshots/upload", Need::Write, Lacking),
    route("PUT", "/collections/{collection_name}/snapshots/recover", Need::Write, Snapshots(F::Recover)),
    route("GET", "/collections/{collection_name}/snapshots/{snapshot_name}", Need::Read, Snapshots(F::Get(Of::Collection))),
    route("DELETE", "/collections/{collection_name}/snapshots/{snapshot_name}", Need::Write, Snapshots(F::Delete(Of::Collection))),
    route("GET", "/snapshots", Need::Read, Snapshots(F::List(Of::Node))),
    route("POST", "/snapshots", Need::Write, Snapshots(F::Create(Of::Node))),
    route("GET", "/snapshots/{snapshot_name}", Need::Read, Snapshots(F::Get(Of::Node))),
    route("DELETE", "/snapshots/{snapshot_name}", Need::Write, Snapshots(F::Delete(Of::Node))),
    route("GET", "/collections/{collection_name}/shards/{shard}/snapshots", Need::Read, Snapshots(F::List(Of::Shard))),
    route("POST", "/collections/{collection_name}/shards/{shard}/snapshots", Need::Write, Snapshots(F::Create(Of::Shard))),
    route("GET", "/collections/{collection_name}/shards/{shard}/snapshot", Need::Read, Lacking),
    route("PUT", "/collections/{collection_name}/shards/{shard}/snapshots/recover", Need::Write, Lacking),
    route("POST", "/collections/{collection_name}/shards/{shard}/snapshots/upload", Need::Write, Lacking),
    route("GET", "/collections/{collection_name}/shards/{shard}/snapshots/{snapshot}", Need::Read, Snapshots(F::Get(Of::Shard))),
    route("DELETE", "/collections/{collection_name}/shards/{shard}/snapshots/{snapshot}", Need::Write, Snapshots(F::Delete(Of::Shard))),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(method: &str, path: &str) -> Option<&'static str> {
        let segments: Vec<String> = path.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect();
        find(method, &segments).map(|(route, _)| route.pattern)
    }

    #[test]
    fn literals_win_over_variables() {
        assert_eq!(pattern("POST", "/collections/aliases"), Some("/collections/aliases"));
        assert_eq!(
            pattern("GET", "/collections/a/points/7"),
            Some("/collections/{collection_name}/points/{id}")
        );
        assert_eq!(pattern("POST", "/collections//a/points/"), Some("/collections/{collection_name}/points"));
        assert_eq!(pattern("GET", "/nowhere"), None);
        assert_eq!(pattern("PATCH", "/collections/a/points"), None);
    }
}
