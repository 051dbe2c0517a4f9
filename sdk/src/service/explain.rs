//! `Router::explain`: where a request would go, and why, without sending it.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::Value;

use super::{Inner, Router, wishes::Wishes};
use crate::{
    dispatch::{Failure, Job, Placement},
    request::{Call, MessageError, Protocol, grpc},
    route::{Explanation, Way},
};

/// A request written down: `{"method": "PUT", "path": "/collections/books/points", "body": {…}}`, or
/// `{"grpc": "Points/Upsert", "body": {…}}` with the message as JSON.
///
/// ```
/// # fn main() -> Result<(), serde_json::Error> {
/// let question: qdrant_router::Question = serde_json::from_str(
///     r#"{ "method": "POST", "path": "/collections/books/points/count", "body": { "shard_key": "scifi" } }"#,
/// )?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The method, for REST; `GET` where it is left out.
    #[serde(default)]
    pub method: Option<String>,
    /// The path with its query, for REST.
    #[serde(default)]
    pub path: Option<String>,
    /// The RPC, for gRPC: `/qdrant.Points/Upsert` or shorter, `Points/Upsert`.
    #[serde(default)]
    pub grpc: Option<String>,
    /// Headers or metadata that matter: `x-qdrant-node`, `x-qdrant-route-affinity`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The body; for gRPC, the message as JSON.
    #[serde(default)]
    pub body: Value,
}

/// A question cannot be explained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// Neither a REST request nor an RPC is named, or both are.
    #[error("name either `path` (and `method`) of a REST request, or `grpc`, the name of an RPC")]
    Neither,
    /// The method, the path or a header is not one that HTTP has.
    #[error("{0} is not one that HTTP can carry")]
    NotHttp(String),
    /// The message of an RPC is not what it takes.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The request would be refused by the router itself.
    #[error("{0}")]
    Refused(String),
}

// === impl Question ===

impl Question {
    fn into_request(self) -> Result<Request<Bytes>, ExplainError> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            match (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
                (Ok(name), Ok(value)) => headers.insert(name, value),
                _ => return Err(ExplainError::NotHttp(format!("the header `{name}`"))),
            };
        }
        let (method, path, body) = match (&self.path, &self.grpc) {
            (Some(path), None) => {
                let method = self.method.as_deref().unwrap_or("GET").to_ascii_uppercase();
                let method = Method::from_bytes(method.as_bytes())
                    .map_err(|_| ExplainError::NotHttp(format!("the method `{method}`")))?;
                let body = match &self.body {
                    Value::Null => Bytes::new(),
                    body => Bytes::from(body.to_string()),
                };
                (method, path.clone(), body)
            }
            (None, Some(rpc)) => {
                let path = grpc::json::path(rpc)?;
                headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                (Method::POST, path.to_owned(), grpc::json::message(path, &self.body)?)
            }
            _ => return Err(ExplainError::Neither),
        };
        let request = Request::builder().method(method).uri(&path).body(body);
        let mut request = request.map_err(|_| ExplainError::NotHttp(format!("the path `{path}`")))?;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

// === impl Router ===

impl Router {
    /// Tells where a request would go, and why. Nothing is sent, but for the router's own questions
    /// about a collection that it does not know yet. What [`RouterBuilder::routing`](crate::RouterBuilder::routing)
    /// leaves unrouted is explained as if it were not; [`Explanation::followed`] says so.
    ///
    /// # Errors
    ///
    /// Where the question makes no request, or one that the router itself would refuse.
    pub async fn explain(&self, question: Question) -> Result<Explanation, ExplainError> {
        let (mut head, body) = question.into_request()?.into_parts();
        let protocol = Protocol::of(&head.headers);
        let call = Call::of(protocol, &head.method, &head.uri);
        let refused = |failure: Failure| ExplainError::Refused(failure.message());
        let Wishes { placing, .. } = Wishes::take(&mut head.headers).map_err(refused)?;
        let prepared = self.0.prepare(&call, placing, &head.headers, Full::new(body), None).await;
        let prepared = prepared.map_err(refused)?;
        let mut job = Job {
            protocol,
            class: call.class,
            repeat: call.repeat,
            retry_writes: self.0.retry_writes,
            deadline: None,
            placement: prepared.placement,
            collection: prepared.collection,
            snapshot: prepared.snapshot,
            head,
            body: prepared.body,
            plain: prepared.plain,
            admitted: None,
        };
        let mut explanation = self.0.dispatcher.explain(&call, &mut job).await;
        explanation.followed = self.0.follows(&call, &job);
        Ok(explanation)
    }
}

// === impl Inner ===

impl Inner {
    /// Whether a request goes where it is found to belong.
    fn follows(&self, call: &Call, job: &Job) -> bool {
        let is_addressed = matches!(job.placement, Placement::Local(_) | Placement::AllNodes);
        is_addressed || self.routing.way(call.class) == Way::Routed
    }

    /// Whether it is only observed where a request would go.
    pub(super) fn is_observed(&self, call: &Call, job: &Job) -> bool {
        !self.follows(call, job) && !matches!(job.placement, Placement::Unrouted)
    }

    /// Where a request would go that is only observed. From here on it is not routed.
    pub(super) async fn observe(&self, call: &Call, job: &mut Job) -> Box<Explanation> {
        let explanation = Explanation { followed: false, ..self.dispatcher.explain(call, job).await };
        job.placement = Placement::Unrouted;
        Box::new(explanation)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(question: Value) -> Result<Request<Bytes>, ExplainError> {
        serde_json::from_value::<Question>(question).expect("a question").into_request()
    }

    #[test]
    fn questions_are_requests() {
        let request = of(json!({ "path": "/collections/c" })).expect("a request");
        assert_eq!((request.method().as_str(), request.uri().path()), ("GET", "/collections/c"));
        assert!(request.body().is_empty());
        let request = of(json!({ "grpc": "Points/Count", "body": { "collection_name": "c" } }));
        let request = request.expect("a request");
        assert_eq!(Protocol::of(request.headers()), Protocol::Grpc);
        assert_eq!(request.uri().path(), "/qdrant.Points/Count");
    }

    #[test]
    fn what_makes_no_request() {
        assert_eq!(of(json!({})).unwrap_err(), ExplainError::Neither);
        assert_eq!(of(json!({ "path": "/", "grpc": "Points/Get" })).unwrap_err(), ExplainError::Neither);
        assert!(matches!(of(json!({ "path": "no spaces" })), Err(ExplainError::NotHttp(_))));
        assert!(matches!(of(json!({ "path": "/", "method": "G T" })), Err(ExplainError::NotHttp(_))));
        let header = json!({ "path": "/", "headers": { "a b": "c" } });
        assert!(matches!(of(header), Err(ExplainError::NotHttp(_))));
    }
}
