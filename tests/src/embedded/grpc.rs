//! The public gRPC front-end: the generated services of `qdrant-client` over the engine.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Collected, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use qdrant_client::qdrant::collections_server::CollectionsServer;
use qdrant_client::qdrant::points_server::PointsServer;
use qdrant_client::qdrant::qdrant_server::QdrantServer;
use qdrant_client::qdrant::snapshots_server::SnapshotsServer;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::ServiceExt;

mod collections;
mod filter;
mod input;
mod output;
mod points;
mod snapshots;

use super::auth::{Access, Need};
use super::canned::Canned;
use super::engine::Engine;
use super::fault::stall;

/// Calls that need no key.
const OPEN: [&str; 2] = ["/qdrant.Qdrant/HealthCheck", "/grpc.health.v1.Health/Check"];

/// The last part of the paths of calls that change something.
const WRITES: &[&str] = &[
    "Upsert",
    "Delete",
    "UpdateVectors",
    "DeleteVectors",
    "SetPayload",
    "OverwritePayload",
    "DeletePayload",
    "ClearPayload",
    "UpdateBatch",
    "CreateFieldIndex",
    "DeleteFieldIndex",
    "CreateVectorName",
    "DeleteVectorName",
    "Create",
    "Update",
    "UpdateAliases",
    "UpdateCollectionClusterSetup",
    "CreateShardKey",
    "DeleteShardKey",
    "CreateFull",
    "DeleteFull",
];

/// All public services of a node.
#[derive(Clone, Debug)]
pub(crate) struct Public {
    engine: Arc<Engine>,
    routes: Routes,
}

/// The engine in the shape the generated traits are implemented for.
#[derive(Clone, Debug)]
struct Front {
    engine: Arc<Engine>,
}

impl Public {
    pub(crate) fn new(engine: &Arc<Engine>) -> Self {
        let front = || Front { engine: Arc::clone(engine) };
        let gzip = CompressionEncoding::Gzip;
        // Qdrant sets no limit on what it receives.
        let points = PointsServer::new(front())
            .max_decoding_message_size(usize::MAX)
            .accept_compressed(gzip)
            .send_compressed(gzip);
        let collections = CollectionsServer::new(front())
            .max_decoding_message_size(usize::MAX)
            .accept_compressed(gzip)
            .send_compressed(gzip);
        let snapshots = SnapshotsServer::new(front()).accept_compressed(gzip).send_compressed(gzip);
        let health = QdrantServer::new(front()).accept_compressed(gzip).send_compressed(gzip);
        let routes =
            Routes::new(points).add_service(collections).add_service(snapshots).add_service(health).prepare();
        Self { engine: Arc::clone(engine), routes }
    }

    /// Answers one call, whatever is wrong with it.
    pub(crate) async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let began = Instant::now();
        let path = request.uri().path().to_owned();
        let Self { engine, routes } = self;
        let (admitted, request) = admit(&engine, &path, request).await;
        let response = match admitted {
            Ok(()) if path == OPEN[1] => serving(),
            Ok(()) if let Some(canned) = canned(&engine, &path) => {
                // Read to its end, so that the answer is all the client gets.
                drop(request.into_body().collect().await);
                canned.status().into_http()
            }
            Ok(()) => {
                let limit = deadline(request.headers());
                let call = routes.oneshot(request);
                let call = async {
                    // The router's error type has no values.
                    call.await.unwrap_or_else(|never| match never {})
                };
                match limit {
                    None => call.await,
                    Some(limit) => tokio::time::timeout(limit, call)
                        .await
                        .unwrap_or_else(|_| Status::cancelled("Timeout expired").into_http()),
                }
            }
            Err(refused) => refused.into_http(),
        };
        stall(&engine.fault).await;
        engine.telemetry.grpc(&path, code(response.headers()), began.elapsed());
        response
    }
}

/// The answer to a call about points that is not to be served.
fn canned(engine: &Engine, path: &str) -> Option<Canned> {
    path.starts_with("/qdrant.Points/").then(|| engine.misconduct.cans.take()).flatten()
}

/// Whether the caller may make this call. What a token allows depends on the message, which is then read.
async fn admit(
    engine: &Engine,
    path: &str,
    mut request: Request<Incoming>,
) -> (Result<(), Status>, Request<Body>) {
    let access = match engine.keys.check(request.headers()) {
        _ if OPEN.contains(&path) => Access::Full,
        Ok(access) => access,
        Err(text) => return (Err(Status::unauthenticated(text)), request.map(Body::new)),
    };
    request.extensions_mut().insert(access.clone());
    let (head, body) = request.into_parts();
    let (name, body) = match access {
        Access::Full | Access::ReadOnly => (String::new(), Body::new(body)),
        Access::Collections(_) => {
            let message = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
            (first_text(&message), Body::new(Full::new(message)))
        }
    };
    let allowed = access.check(needs(path, &name));
    let allowed = allowed.map_err(|text| Status::permission_denied(format!("Forbidden: {text}")));
    (allowed, Request::from_parts(head, body))
}

fn needs<'a>(path: &str, name: &'a str) -> Need<'a> {
    let mut parts = path.rsplit('/');
    let (method, service) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let write = WRITES.contains(&method);
    let is_managed = service == "qdrant.Collections" && write;
    match method {
        "List" | "ListAliases" if service == "qdrant.Collections" => Need::Credential,
        _ if is_managed || method.ends_with("Full") || service == "qdrant.Qdrant" => Need::Global { write },
        _ => Need::Collection { name, write },
    }
}

/// The first field of a framed message, where that is a short text: the name of the collection.
fn first_text(message: &[u8]) -> String {
    match message.get(5..) {
        Some([0x0a, length @ ..=0x7f, rest @ ..]) => {
            String::from_utf8_lossy(rest.get(..usize::from(*length)).unwrap_or_default()).into_owned()
        }
        _ => String::new(),
    }
}

/// The status of an answer without a body; an answer with one succeeded.
fn code(headers: &HeaderMap) -> u16 {
    headers
        .get("grpc-status")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok())
        .unwrap_or(Code::Ok as u16)
}

/// The caller's `grpc-timeout`: digits and a unit.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => number.checked_mul(3_600).map(Duration::from_secs),
        "M" => number.checked_mul(60).map(Duration::from_secs),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The answer of the standard health service: field 1, `SERVING`. Too small to depend on its crate for.
fn serving() -> Response<Body> {
    let message = Frame::data(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]));
    let trailers = Frame::trailers(HeaderMap::from_iter([(
        HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]));
    let frames = [message, trailers].map(Ok::<_, Infallible>);
    let mut response = Response::new(Body::new(StreamBody::new(futures_util::stream::iter(frames))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The refusal of a call that Qdrant has and the embedded cluster lacks.
fn lacking(what: &str) -> Status {
    super::error::OpError::lacking(format_args!("{what} over gRPC")).into()
}
