//! A JSON client for Qdrant's REST API, as small as suites need it.
//!
//! It opens a connection per request. That is slower than a pool and exactly right here: behind a balancer every request
//! is balanced anew, and after a fault no request fails because of a connection that died with the previous test step.

use std::borrow::Borrow;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// Longer than Qdrant itself waits for anything, short enough that a hung node fails a test before the harness does.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why a request brought no usable answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestError {
    /// The request could not be put into words: a bad path or header.
    #[error("{method} {url}: not a valid request: {source}; check the path")]
    Invalid {
        /// The method asked for.
        method: Method,
        /// The address and path asked for.
        url: String,
        /// What the parser says.
        source: http::Error,
    },
    /// No connection, or it broke before the answer was complete.
    #[error("{method} {url}: {reason}; check that the node is up and was not killed by the test")]
    Transport {
        /// The method asked for.
        method: Method,
        /// The address and path asked for.
        url: String,
        /// The chain of causes in one line.
        reason: String,
    },
    /// No complete answer in time.
    #[error(
        "{method} {url}: no answer within {waited:?}; check that the node is not hung, or give the client more time"
    )]
    Timeout {
        /// The method asked for.
        method: Method,
        /// The address and path asked for.
        url: String,
        /// How long was waited.
        waited: Duration,
    },
    /// Qdrant answered, but not with success.
    #[error("{method} {url}: {status}: {body}")]
    Status {
        /// The method asked for.
        method: Method,
        /// The address and path asked for.
        url: String,
        /// The status it answered.
        status: StatusCode,
        /// The body, where Qdrant says what is wrong.
        body: String,
    },
    /// The answer is no JSON.
    #[error("{method} {url}: the answer is no JSON ({source}): {body}")]
    Json {
        /// The method asked for.
        method: Method,
        /// The address and path asked for.
        url: String,
        /// What the parser says.
        source: serde_json::Error,
        /// What came instead.
        body: String,
    },
}

impl RestError {
    /// The status Qdrant answered, when it answered at all.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            Self::Invalid { .. } | Self::Transport { .. } | Self::Timeout { .. } | Self::Json { .. } => None,
        }
    }
}

/// A client of one address: a node, the balancer, or a proxy under test.
#[derive(Clone, Debug)]
pub struct Rest {
    addr: SocketAddr,
    api_key: Option<String>,
    timeout: Duration,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Rest {
    /// A client of `addr` that sends `api_key`, if there is one, with every JSON request.
    #[must_use]
    pub fn new(addr: SocketAddr, api_key: Option<&str>) -> Rest {
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
        Rest { addr, api_key: api_key.map(str::to_owned), timeout: TIMEOUT, client }
    }

    /// The same client, waiting at most `timeout` for a complete answer.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Rest {
        self.timeout = timeout;
        self
    }

    /// The address it talks to.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `GET path`: the whole JSON answer, `result` and all.
    ///
    /// # Errors
    ///
    /// Everything but a JSON answer with a status of success.
    pub async fn get(&self, path: &str) -> Result<Value, RestError> {
        self.json(Method::GET, path, None).await
    }

    /// `DELETE path`.
    ///
    /// # Errors
    ///
    /// As [`Rest::get`].
    pub async fn delete(&self, path: &str) -> Result<Value, RestError> {
        self.json(Method::DELETE, path, None).await
    }

    /// `PUT path` with a JSON body.
    ///
    /// # Errors
    ///
    /// As [`Rest::get`].
    pub async fn put(&self, path: &str, body: impl Borrow<Value>) -> Result<Value, RestError> {
        self.json(Method::PUT, path, Some(body.borrow())).await
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    ///
    /// As [`Rest::get`].
    pub async fn post(&self, path: &str, body: impl Borrow<Value>) -> Result<Value, RestError> {
        self.json(Method::POST, path, Some(body.borrow())).await
    }

    /// `PATCH path` with a JSON body.
    ///
    /// # Errors
    ///
    /// As [`Rest::get`].
    pub async fn patch(&self, path: &str, body: impl Borrow<Value>) -> Result<Value, RestError> {
        self.json(Method::PATCH, path, Some(body.borrow())).await
    }

    /// Sends a request as it is, with no key or header added, and returns the answer as it came, whatever its status.
    /// Only a URI without an authority is completed with this client's address.
    ///
    /// # Errors
    ///
    /// When there is no complete answer.
    pub async fn raw(&self, request: Request<Bytes>) -> Result<Response<Bytes>, RestError> {
        let (mut head, body) = request.into_parts();
        let method = head.method.clone();
        if head.uri.authority().is_none() {
            let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
            let url = self.url(path);
            head.uri = Uri::try_from(&url).map_err(|source| RestError::Invalid {
                method: method.clone(),
                url,
                source: source.into(),
            })?;
        }
        let url = head.uri.to_string();
        let exchange = async {
            let response = self
                .client
                .request(Request::from_parts(head, Full::new(body)))
                .await
                .map_err(|error| chain(&error))?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| chain(&error))?.to_bytes();
            Ok::<_, String>(Response::from_parts(head, body))
        };
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(reason)) => Err(RestError::Transport { method, url, reason }),
            Err(_) => Err(RestError::Timeout { method, url, waited: self.timeout }),
        }
    }

    async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, RestError> {
        let url = self.url(path);
        let mut request = Request::builder().method(method.clone()).uri(&url);
        if let Some(key) = &self.api_key {
            request = request.header("api-key", key);
        }
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let request = request.body(body).map_err(|source| RestError::Invalid {
            method: method.clone(),
            url: url.clone(),
            source,
        })?;
        let response = self.raw(request).await?;
        let text = || String::from_utf8_lossy(response.body()).into_owned();
        if !response.status().is_success() {
            return Err(RestError::Status { method, url, status: response.status(), body: text() });
        }
        serde_json::from_slice(response.body()).map_err(|source| RestError::Json {
            method,
            url,
            source,
            body: text(),
        })
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }
}

/// An error and its causes in one line: hyper's own text rarely says more than "error trying to connect".
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::HeaderMap;
    use axum::routing::{get, put};
    use serde_json::json;

    use super::*;

    async fn serve() -> SocketAddr {
        let app = Router::new()
            .route(
                "/echo",
                put(|headers: HeaderMap, body: String| async move {
                    let key =
                        headers.get("api-key").and_then(|key| key.to_str().ok()).unwrap_or("none").to_owned();
                    json!({ "key": key, "sent": body }).to_string()
                }),
            )
            .route("/plain", get(|| async { "all shards are ready" }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("bound");
        tokio::spawn(async move { axum::serve(listener, app).await });
        addr
    }

    #[tokio::test]
    async fn sends_json_and_the_key() {
        let rest = Rest::new(serve().await, Some("secret"));
        let answer = rest.put("/echo", json!({ "a": 1 })).await.expect("an answer");
        assert_eq!(answer, json!({ "key": "secret", "sent": "{\"a\":1}" }));
    }

    #[tokio::test]
    async fn errors_name_method_and_url() {
        let addr = serve().await;
        let rest = Rest::new(addr, None);
        let missing = rest.get("/nowhere").await.expect_err("no such route");
        assert_eq!(missing.status(), Some(StatusCode::NOT_FOUND));
        assert!(missing.to_string().starts_with(&format!("GET http://{addr}/nowhere: 404")), "{missing}");
        let text = rest.get("/plain").await.expect_err("no JSON");
        assert!(text.to_string().ends_with("all shards are ready"), "{text}");
    }

    #[tokio::test]
    async fn raw_returns_any_status_and_adds_no_key() {
        let rest = Rest::new(serve().await, Some("secret"));
        let put = Request::put("/echo").body(Bytes::from_static(b"x")).expect("a request");
        let answer = rest.raw(put).await.expect("an answer");
        assert_eq!(&answer.body()[..], br#"{"key":"none","sent":"x"}"#);
        let missing = Request::get("/nowhere").body(Bytes::new()).expect("a request");
        assert_eq!(rest.raw(missing).await.expect("an answer").status(), StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn a_silent_server_is_a_timeout() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let rest =
            Rest::new(listener.local_addr().expect("bound"), None).with_timeout(Duration::from_millis(20));
        assert!(matches!(rest.get("/").await, Err(RestError::Timeout { .. })));
    }
}
