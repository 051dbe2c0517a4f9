//! How nodes talk to each other: HTTP/2 over real connections on the p2p port.
//!
//! Paths are Qdrant's internal ones, so that telemetry counts them under the right names; the bodies are JSON of the
//! model, not Qdrant's protobuf, and only another embedded node understands them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use serde::{Deserialize, Serialize};

use super::engine::Engine;
use super::error::{Kind, OpError, OpResult};
use super::fault::{FaultWatch, stall, thaw};
use super::life::Life;
use super::model::{Answer, Ordering, Read, Update, UpdateResult};

/// How long a node waits for a connection to another.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a node waits for another's answer before it counts as failed.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// A call about one shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) collection: String,
    pub(crate) shard: u32,
    pub(crate) ask: Ask,
}

/// What is asked of the other node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Apply to the local replica, no more.
    Apply { update: Update, wait: bool, forgive_missing: bool },
    /// Take the lead: order the write and replicate it.
    Lead { update: Update, wait: bool, ordering: Ordering, forgive_missing: bool },
    /// Answer from the local replica.
    Read(Read),
}

/// What the other node answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Told {
    Updated(UpdateResult),
    Answer(Answer),
}

impl Ask {
    /// The path under which the call is made, and counted.
    pub(crate) fn path(&self) -> String {
        match self {
            Self::Apply { update, .. } | Self::Lead { update, .. } => {
                format!("/qdrant.PointsInternal/{}", update.method())
            }
            Self::Read(read) => read.path().to_owned(),
        }
    }
}

/// The pooled connections of one run of a node.
#[derive(Clone, Debug)]
pub(crate) struct PeerClient {
    client: Client<HttpConnector, Full<Bytes>>,
    fault: FaultWatch,
}

impl PeerClient {
    pub(crate) fn new(life: Life, fault: FaultWatch) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let client = Client::builder(life).http2_only(true).build(connector);
        Self { client, fault }
    }

    /// Asks the node at `address`. Every failure to get an answer is transient.
    pub(crate) async fn call(&self, address: SocketAddr, call: &Call) -> OpResult<Told> {
        thaw(&self.fault).await;
        let body =
            serde_json::to_vec(call).map_err(|e| OpError::service(format!("cannot encode a call: {e}")))?;
        let told = tokio::time::timeout(REPLY_TIMEOUT, self.exchange(address, call.ask.path(), body.into()))
            .await
            .unwrap_or_else(|_| {
                Err(OpError::new(
                    Kind::Timeout,
                    format!("Operation '{}' timed out after {REPLY_TIMEOUT:?}", call.ask.path()),
                ))
            });
        thaw(&self.fault).await;
        told
    }

    async fn exchange(&self, address: SocketAddr, path: String, body: Bytes) -> OpResult<Told> {
        let request = || {
            Request::builder()
                .method(Method::POST)
                .uri(format!("http://{address}{path}"))
                .body(Full::new(body.clone()))
                .map_err(|e| OpError::service(format!("cannot address a peer: {e}")))
        };
        let response = match self.client.request(request()?).await {
            Ok(response) => response,
            // A pooled connection may have died unseen; a refused one will be refused again.
            Err(error) if !error.is_connect() => {
                self.client.request(request()?).await.map_err(|e| broken(&e))?
            }
            Err(error) => return Err(broken(&error)),
        };
        let bytes = response.into_body().collect().await.map_err(|e| broken(&e))?.to_bytes();
        serde_json::from_slice::<OpResult<Told>>(&bytes)
            .unwrap_or_else(|e| Err(OpError::service(format!("cannot decode a peer's answer: {e}"))))
    }
}

fn broken(error: &(dyn std::error::Error + 'static)) -> OpError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    OpError::service(format!("Tonic status error: status: Unavailable, message: \"{text}\""))
}

/// Answers another node's call. Counted under the called path, with the gRPC code that Qdrant would have used.
pub(crate) async fn answer(engine: Arc<Engine>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let began = Instant::now();
    let path = request.uri().path().to_owned();
    let outcome = match request.into_body().collect().await {
        Ok(body) => match serde_json::from_slice::<Call>(&body.to_bytes()) {
            Ok(call) => engine.serve_peer(call).await,
            Err(error) => Err(OpError::bad_input(format!("not a call of an embedded node: {error}"))),
        },
        Err(error) => Err(broken(&error)),
    };
    stall(&engine.fault).await;
    let code = outcome.as_ref().err().map_or(0, |error| error.grpc_code() as u16);
    engine.telemetry.grpc(&path, code, began.elapsed());
    let bytes = serde_json::to_vec(&outcome).unwrap_or_default();
    Response::new(Full::new(bytes.into()))
}
