//! What a client is told when no node has answered: the one place where failures become responses.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::{request::Protocol, topology::Address, transport::Sent};

/// Why a request has no answer.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// There is nobody to send it to.
    NoNode { problems: Vec<String> },
    /// Every attempt failed, or the last one might have been processed.
    Broken { attempts: Vec<(Address, String)>, sent: Sent },
    /// The client broke off before its request was complete.
    ClientGone(String),
    /// The client's time is over.
    Late,
    /// The router has as much to do as it may.
    Overloaded,
    /// The client asks for a tunnel, or for what has no path.
    NoPath,
    /// The client names a node that is not one of the cluster.
    UnknownNode { name: String, known: Vec<String> },
    /// The client asks for writes to be repeated in a way that there is not.
    UnknownPolicy(String),
    /// The client asks all nodes for what only one can answer.
    NotForAllNodes,
    /// Qdrant does not accept the client's credentials, and so neither do we.
    NotLetIn { status: StatusCode, text: String },
}

// === impl Failure ===

impl Failure {
    /// A node answered, and its answer broke off.
    pub(super) fn broken_reply(address: Address, reason: String) -> Self {
        Self::Broken { attempts: vec![(address, reason)], sent: Sent::Unknown }
    }

    /// How many times the request was sent.
    pub(crate) fn attempts(&self) -> usize {
        match self {
            Self::Broken { attempts, .. } => attempts.len(),
            Self::NoNode { .. }
            | Self::ClientGone(_)
            | Self::Late
            | Self::Overloaded
            | Self::NoPath
            | Self::UnknownNode { .. }
            | Self::UnknownPolicy(_)
            | Self::NotForAllNodes
            | Self::NotLetIn { .. } => 0,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NoNode { .. } | Self::Broken { sent: Sent::No, .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken { sent: Sent::Unknown, .. } => StatusCode::BAD_GATEWAY,
            Self::ClientGone(_) | Self::NoPath | Self::UnknownPolicy(_) | Self::NotForAllNodes => {
                StatusCode::BAD_REQUEST
            }
            Self::Late => StatusCode::REQUEST_TIMEOUT,
            Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::UnknownNode { .. } => StatusCode::NOT_FOUND,
            Self::NotLetIn { status, .. } => *status,
        }
    }

    /// The gRPC status code.
    fn grpc_code(&self) -> &'static str {
        match self {
            Self::NoNode { .. } | Self::Broken { .. } => UNAVAILABLE,
            Self::ClientGone(_) => CANCELLED,
            // As Qdrant itself does; its clients repeat this, and not DEADLINE_EXCEEDED.
            Self::Late => CANCELLED,
            Self::Overloaded => RESOURCE_EXHAUSTED,
            Self::UnknownNode { .. } => NOT_FOUND,
            Self::NoPath | Self::UnknownPolicy(_) | Self::NotForAllNodes => INVALID_ARGUMENT,
            Self::NotLetIn { status: StatusCode::FORBIDDEN, .. } => PERMISSION_DENIED,
            Self::NotLetIn { status: StatusCode::UNAUTHORIZED, .. } => UNAUTHENTICATED,
            Self::NotLetIn { .. } => UNAVAILABLE,
        }
    }

    pub(crate) fn message(&self) -> String {
        match self {
            Self::NoNode { problems } if problems.is_empty() => {
                "qdrant-router: no Qdrant node is known yet; check `GET /topology` of the router".to_owned()
            }
            Self::NoNode { problems } => {
                format!("qdrant-router: no Qdrant node can be used: {}", problems.join("; "))
            }
            Self::Broken { attempts, sent } => {
                let attempts: Vec<String> =
                    attempts.iter().map(|(address, reason)| format!("{}: {reason}", address.ip)).collect();
                let outcome = match sent {
                    Sent::No => "no node has answered, and nothing was changed",
                    Sent::Unknown => "the request may have been processed",
                };
                format!("qdrant-router: {outcome}; tried {}", attempts.join("; "))
            }
            Self::UnknownNode { name, known } if known.is_empty() => {
                format!("qdrant-router: no node is named `{}`, and none is known yet", quoted(name))
            }
            Self::UnknownNode { name, known } => format!(
                "qdrant-router: no node is named `{}`; `x-qdrant-node` takes the pod name or the peer id of one of {}",
                quoted(name),
                known.join(", ")
            ),
            Self::UnknownPolicy(wish) => format!(
                "qdrant-router: `x-qdrant-router-retry-writes` is `never`, `idempotent` or `always`, not `{}`",
                quoted(wish)
            ),
            Self::NotForAllNodes => {
                "qdrant-router: `x-qdrant-node: all` is for making and listing snapshots; name one node for anything else"
                    .to_owned()
            }
            Self::Late => "Timeout expired: qdrant-router has no answer within the time that the client gives".to_owned(),
            Self::Overloaded => {
                "qdrant-router: too many requests are under way; come back later, or run more routers".to_owned()
            }
            Self::NoPath => {
                "qdrant-router: `CONNECT` and requests without a path are not forwarded; ask for a path of Qdrant's API"
                    .to_owned()
            }
            Self::NotLetIn { text, .. } => text.clone(),
            Self::ClientGone(reason) => format!("qdrant-router: the request ended early: {reason}"),
        }
    }
}

/// So many characters of what a client said are said back to it: the name of a pod is no longer.
const MAX_QUOTED: usize = 253;

fn quoted(text: &str) -> &str {
    text.char_indices().nth(MAX_QUOTED).map_or(text, |(end, _)| &text[..end])
}

// Codes of gRPC.
const CANCELLED: &str = "1";
const INVALID_ARGUMENT: &str = "3";
const NOT_FOUND: &str = "5";
const PERMISSION_DENIED: &str = "7";
const RESOURCE_EXHAUSTED: &str = "8";
const UNAVAILABLE: &str = "14";
const UNAUTHENTICATED: &str = "16";

/// Characters that a `grpc-message` carries percent-encoded.
pub(super) const GRPC_MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

/// The answer to a client, in its protocol and in Qdrant's own shape.
pub(crate) fn refuse(protocol: Protocol, failure: &Failure) -> Response<Bytes> {
    let message = failure.message();
    match protocol {
        Protocol::Rest => {
            let body = serde_json::json!({ "status": { "error": message }, "time": 0.0 });
            let mut response = Response::new(Bytes::from(body.to_string()));
            *response.status_mut() = failure.status();
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            if matches!(failure, Failure::Overloaded) {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            response
        }
        Protocol::Grpc => {
            let mut response = Response::new(Bytes::new());
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from_static(failure.grpc_code()));
            let message = utf8_percent_encode(&message, GRPC_MESSAGE).to_string();
            if let Ok(message) = HeaderValue::from_str(&message) {
                headers.insert("grpc-message", message);
            }
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_speaks_the_clients_protocol() {
        let failure = Failure::NoNode { problems: vec!["q.demo: 100% gone\nreally".to_owned()] };
        let rest = refuse(Protocol::Rest, &failure);
        assert_eq!(rest.status(), 503);
        let body: serde_json::Value = serde_json::from_slice(rest.body()).expect("JSON");
        assert!(body["status"]["error"].as_str().expect("a message").contains("q.demo: 100% gone"));

        let grpc = refuse(Protocol::Grpc, &failure);
        assert_eq!(
            (grpc.status(), &grpc.headers()["grpc-status"]),
            (StatusCode::OK, &HeaderValue::from_static("14"))
        );
        let message = grpc.headers()["grpc-message"].to_str().expect("text");
        assert!(message.ends_with("q.demo: 100%25 gone%0Areally"), "{message}");
    }

    #[test]
    fn an_unknown_outcome_is_said_to_be_unknown() {
        let address = Address { ip: [10, 0, 0, 1].into(), rest_port: 6333, grpc_port: 6334 };
        let failure = Failure::Broken { attempts: vec![(address, "reset".to_owned())], sent: Sent::Unknown };
        let rest = refuse(Protocol::Rest, &failure);
        assert_eq!(rest.status(), 502);
        assert!(String::from_utf8_lossy(rest.body()).contains("may have been processed"));
    }
}
