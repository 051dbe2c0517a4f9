//! Asking a node about itself and about collections.
//!
//! These are the router's own requests. They travel over their own connections with the router's own
//! key, which no client request can ever carry: the data path has no access to this module's client.

use std::{collections::HashMap, fmt, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use dashmap::DashMap;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, de::DeserializeOwned};

mod grpc;

use super::{
    Address, Collection, Epoch, PeerId, Version,
    collection::{ClusterInfo, CollectionInfo},
    version::VersionError,
};
use crate::connect::{Dialer, Tls};

/// How long a node may take to answer one of these requests.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a collection's settings may take. They matter less than a placement that is known soon.
const SETTINGS_TIMEOUT: Duration = Duration::from_millis(300);

/// The largest reply that is read. A million replicas take about 90 MB of JSON.
const MAX_REPLY_BYTES: usize = 128 << 20;

/// Idle connections are dropped before Qdrant does (after five seconds).
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// What the topology's worker asks of the nodes; a trait so that tests can answer in their place.
pub trait ClusterApi: Send + Sync + 'static {
    /// `GET /cluster` of the node at `address`.
    fn cluster(&self, address: Address) -> impl Future<Output = Result<ClusterView, ApiError>> + Send;

    /// The placement of `collection` as that node sees it, stamped with `epoch`; `None` where it has
    /// no such collection.
    fn placement(
        &self,
        address: Address,
        collection: &str,
        epoch: Epoch,
    ) -> impl Future<Output = Result<Option<Collection>, ApiError>> + Send;

    /// The version of the server; `GET /` needs no credential.
    fn version(&self, address: Address) -> impl Future<Output = Result<Version, ApiError>> + Send;

    /// All aliases with their collections.
    fn aliases(
        &self,
        address: Address,
    ) -> impl Future<Output = Result<HashMap<String, String>, ApiError>> + Send;
}

/// What a node says of itself and of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ViewKind {
    /// A server without cluster mode (`cluster.enabled: false`).
    Standalone,
    /// A peer of a cluster.
    Member {
        /// The identity of the node that answered.
        peer: PeerId,
        /// All peers it knows, with the host of the URI each registered.
        peers: Arc<HashMap<PeerId, Option<String>>>,
        /// Who leads consensus, where it knows one.
        leader: Option<PeerId>,
        /// Whether everything committed is applied and consensus runs, so that what the node says of
        /// collections corresponds to its epoch.
        settled: bool,
    },
}

/// A node's answer to `GET /cluster`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterView {
    /// What the node is.
    pub kind: ViewKind,
    /// The position of its consensus log.
    pub epoch: Epoch,
}

/// A node could not be asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// No answer: refused, unreachable, too slow, or the connection broke.
    #[error("{url}: {reason}; {}", advice(reason))]
    Unreachable {
        /// What was asked.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The node does not accept the router's key.
    #[error(
        "{url}: answered {status} to {key}; topology needs global read access: give a key that this server accepts (`--api-key-file`, a read-only key is enough)"
    )]
    Refused {
        /// What was asked.
        url: String,
        /// The status of the answer.
        status: StatusCode,
        /// "the router's API key" or "a request without a key".
        key: &'static str,
    },
    /// The node answered something that is not what Qdrant answers.
    #[error("{url}: {reason}; check that this address is a Qdrant server of version 1.12 or later")]
    Unexpected {
        /// What was asked.
        url: String,
        /// What was wrong with the answer.
        reason: String,
    },
}

/// Asks over HTTP.
pub struct HttpApi {
    tls: Option<Tls>,
    key: Option<HeaderValue>,
    clients: DashMap<Address, Client<Dialer, Empty<Bytes>>>,
}

// === impl HttpApi ===

impl HttpApi {
    /// Asks with `key` where given, over TLS where given.
    #[must_use]
    pub fn new(key: Option<HeaderValue>, tls: Option<&Tls>) -> Self {
        let key = key.map(|mut key| {
            key.set_sensitive(true);
            key
        });
        Self { tls: tls.map(|tls| tls.offering(b"http/1.1")), key, clients: DashMap::new() }
    }

    fn client(&self, address: Address) -> Client<Dialer, Empty<Bytes>> {
        self.clients
            .entry(address)
            .or_insert_with(|| {
                Client::builder(TokioExecutor::new())
                    .pool_timer(TokioTimer::new())
                    .pool_idle_timeout(POOL_IDLE_TIMEOUT)
                    .pool_max_idle_per_host(2)
                    .build(Dialer::new(address.rest(), self.tls.clone()))
            })
            .clone()
    }

    /// The `result` of `GET path`; `None` where the answer is 404.
    async fn get<T: DeserializeOwned>(&self, address: Address, path: &str) -> Result<Option<T>, ApiError> {
        let envelope = self.document::<Envelope<T>>(address, path).await?;
        Ok(envelope.map(|envelope| envelope.result))
    }

    /// The whole answer to `GET path`; `None` where it is 404.
    async fn document<T: DeserializeOwned>(
        &self,
        address: Address,
        path: &str,
    ) -> Result<Option<T>, ApiError> {
        let url = format!("http://{}{path}", address.rest());
        let unexpected = |reason: String| ApiError::Unexpected { url: url.clone(), reason };
        let unreachable = |reason: String| ApiError::Unreachable { url: url.clone(), reason };
        let mut request =
            Request::get(&url).body(Empty::new()).map_err(|error| unexpected(error.to_string()))?;
        if let Some(key) = &self.key {
            request.headers_mut().insert("api-key", key.clone());
        }
        let exchange = async {
            let response =
                self.client(address).request(request).await.map_err(|error| unreachable(chain(&error)))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_REPLY_BYTES);
            let body = body.collect().await.map_err(|error| unreachable(error.to_string()))?.to_bytes();
            Ok((status, body))
        };
        let (status, body) = match tokio::time::timeout(ANSWER_TIMEOUT, exchange).await {
            Ok(answer) => answer?,
            Err(_) => return Err(unreachable(format!("no answer within {ANSWER_TIMEOUT:?}"))),
        };
        match status {
            StatusCode::OK => {
                let document = serde_json::from_slice(&body);
                document
                    .map(Some)
                    .map_err(|error| unexpected(format!("the answer could not be read: {error}")))
            }
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(ApiError::Refused {
                url,
                status,
                key: match self.key {
                    Some(_) => "the router's API key",
                    None => "a request without a key",
                },
            }),
            _ => Err(unexpected(format!("answered {status}"))),
        }
    }

    fn missing(address: Address, path: &str) -> ApiError {
        ApiError::Unexpected {
            url: format!("http://{}{path}", address.rest()),
            reason: "answered 404 Not Found".to_owned(),
        }
    }
}

impl fmt::Debug for HttpApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpApi").field("tls", &self.tls).finish_non_exhaustive()
    }
}

impl ClusterApi for HttpApi {
    async fn cluster(&self, address: Address) -> Result<ClusterView, ApiError> {
        let path = "/cluster";
        let status = self.get::<ClusterStatus>(address, path).await?;
        Ok(status.ok_or_else(|| Self::missing(address, path))?.into())
    }

    async fn placement(
        &self,
        address: Address,
        collection: &str,
        epoch: Epoch,
    ) -> Result<Option<Collection>, ApiError> {
        let path = format!("/collections/{}", utf8_percent_encode(collection, NON_ALPHANUMERIC));
        let placement = match self.get::<ClusterInfo>(address, &format!("{path}/cluster")).await {
            // What REST does not tell, gRPC may: it has the same document.
            Err(error @ ApiError::Unexpected { .. }) => {
                let info = grpc::cluster_info(address, collection, self.key.as_ref(), self.tls.as_ref());
                match tokio::time::timeout(ANSWER_TIMEOUT, info).await {
                    Ok(Ok(placement)) => placement,
                    Ok(Err(_)) | Err(_) => return Err(error),
                }
            }
            outcome => outcome?,
        };
        let Some(placement) = placement else { return Ok(None) };
        let mut collection = placement.into_collection(epoch);
        // Unlike the placement, the settings come from all shards, some of which may be away.
        let settings = self.get::<CollectionInfo>(address, &path);
        (collection.max_points_per_write, collection.is_strict) =
            match tokio::time::timeout(SETTINGS_TIMEOUT, settings).await {
                Ok(Ok(Some(settings))) => (settings.max_points_per_write(), settings.is_strict()),
                Ok(_) | Err(_) => (Some(0), true),
            };
        Ok(Some(collection))
    }

    async fn version(&self, address: Address) -> Result<Version, ApiError> {
        let title = self.document::<Title>(address, "/").await?.ok_or_else(|| Self::missing(address, "/"))?;
        title.version.parse().map_err(|error: VersionError| ApiError::Unexpected {
            url: format!("http://{}/", address.rest()),
            reason: error.to_string(),
        })
    }

    async fn aliases(&self, address: Address) -> Result<HashMap<String, String>, ApiError> {
        let path = "/aliases";
        let list = self.get::<AliasList>(address, path).await?;
        let list = list.ok_or_else(|| Self::missing(address, path))?;
        Ok(list.aliases.into_iter().map(|row| (row.alias_name, row.collection_name)).collect())
    }
}

/// What to check where a node cannot be reached.
fn advice(reason: &str) -> &'static str {
    if reason.contains("invalid peer certificate") {
        "check the CA (`--upstream-ca-file`) and the name (`--upstream-server-name`) that are expected, or renew the node's certificate"
    } else if reason.contains("CertificateRequired") {
        "the node asks for a client certificate: give one with `--upstream-cert-file` and `--upstream-key-file`"
    } else {
        "check that the node runs and that its REST port is the one configured"
    }
}

/// The error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

// === the wire ===

/// `GET /`
#[derive(Deserialize)]
struct Title {
    version: String,
}

#[derive(Deserialize)]
struct Envelope<T> {
    result: T,
}

#[derive(Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
enum ClusterStatus {
    Disabled,
    Enabled(ClusterMember),
}

#[derive(Deserialize)]
struct ClusterMember {
    peer_id: PeerId,
    /// Decimal strings: JSON has no other keys.
    peers: HashMap<String, PeerInfo>,
    raft_info: RaftInfo,
    consensus_thread_status: Option<ThreadStatus>,
}

#[derive(Deserialize)]
struct PeerInfo {
    uri: String,
}

#[derive(Deserialize)]
struct RaftInfo {
    #[serde(default)]
    term: u64,
    #[serde(default)]
    commit: u64,
    #[serde(default)]
    pending_operations: u64,
    leader: Option<PeerId>,
}

#[derive(Deserialize)]
struct ThreadStatus {
    consensus_thread_status: String,
}

#[derive(Deserialize)]
struct AliasList {
    aliases: Vec<AliasRow>,
}

#[derive(Deserialize)]
struct AliasRow {
    alias_name: String,
    collection_name: String,
}

impl From<ClusterStatus> for ClusterView {
    fn from(status: ClusterStatus) -> Self {
        let member = match status {
            ClusterStatus::Disabled => return Self { kind: ViewKind::Standalone, epoch: Epoch::default() },
            ClusterStatus::Enabled(member) => member,
        };
        let working =
            member.consensus_thread_status.is_none_or(|status| status.consensus_thread_status == "working");
        let peers = member
            .peers
            .into_iter()
            .filter_map(|(id, info)| Some((id.parse().ok()?, host_of(&info.uri))))
            .collect();
        Self {
            kind: ViewKind::Member {
                peer: member.peer_id,
                peers: Arc::new(peers),
                leader: member.raft_info.leader.filter(|&leader| leader != 0),
                settled: working && member.raft_info.pending_operations == 0,
            },
            epoch: Epoch { term: member.raft_info.term, commit: member.raft_info.commit },
        }
    }
}

/// The host of a peer URI: a label to show, never an address to dial. Historic peers may have none.
fn host_of(uri: &str) -> Option<String> {
    let uri: http::Uri = uri.parse().ok()?;
    uri.host().filter(|host| !host.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(json: &str) -> ClusterView {
        serde_json::from_str::<Envelope<ClusterStatus>>(json).expect("cluster status").result.into()
    }

    #[test]
    fn a_standalone_server() {
        let view = view(r#"{ "result": { "status": "disabled" }, "status": "ok", "time": 0.000012 }"#);
        assert_eq!(view.kind, ViewKind::Standalone);
    }

    #[test]
    fn a_peer_with_a_historic_neighbour() {
        let view = view(
            r#"{ "result": { "status": "enabled", "peer_id": 3917528459216744,
                 "peers": { "3917528459216744": { "uri": "http://qdrant-0.qdrant-headless:6335/" },
                            "5": { "uri": "/" } },
                 "raft_info": { "term": 4, "commit": 182, "pending_operations": 0, "leader": 0,
                                "role": "PreCandidate", "is_voter": true },
                 "consensus_thread_status": { "consensus_thread_status": "stopped_with_err", "err": "x" },
                 "message_send_failures": {} }, "status": "ok", "time": 0.00002 }"#,
        );
        let peers = [(3_917_528_459_216_744, Some("qdrant-0.qdrant-headless".to_owned())), (5, None)];
        assert_eq!(
            view,
            ClusterView {
                kind: ViewKind::Member {
                    peer: 3_917_528_459_216_744,
                    peers: Arc::new(HashMap::from(peers)),
                    leader: None,
                    settled: false,
                },
                epoch: Epoch { term: 4, commit: 182 },
            }
        );
    }
}
