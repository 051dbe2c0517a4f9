//! What is told of each request beside the metrics: a line of the access log, and the spans of a trace.
//!
//! Both are off unless asked for, and can change while the proxy runs. Of a request there is told what the
//! router found out about it: never its headers, its query or its body.

use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::{Method, Request, Response};
use http_body::Body;
use qdrant_router::{Routed, request::Protocol};

mod access;
mod trace;

use self::{access::AccessLog, trace::RequestSpan};
pub(crate) use self::{
    access::{AccessPolicy, TARGET},
    trace::{Endpoint, Share, Tracing},
};
use crate::metrics;

/// What is told of requests.
#[derive(Debug, Default)]
pub struct Telemetry {
    access: AccessLog,
    tracing: ArcSwapOption<Tracing>,
}

/// A request of which something is to be told once its answer is there.
#[derive(Debug)]
pub(crate) struct Record {
    method: &'static str,
    /// The length of its body, where it says so.
    bytes: Option<u64>,
    span: Option<RequestSpan>,
}

/// An answer that is told of.
struct Told<'a> {
    routed: &'a Routed,
    method: &'static str,
    status: u16,
    /// The status of gRPC, where the head of the answer has it: where there is no body.
    grpc_status: Option<&'a str>,
    outcome: &'static str,
}

// === impl Telemetry ===

impl Telemetry {
    /// Has these requests written to the access log from now on.
    pub(crate) fn log_access(&self, policy: AccessPolicy) {
        self.access.set(policy);
    }

    /// Where spans go, if anywhere.
    pub(crate) fn tracing(&self) -> Option<std::sync::Arc<Tracing>> {
        self.tracing.load_full()
    }

    /// Sends spans elsewhere from now on, or nowhere, and those that wait to where they were going.
    pub(crate) async fn trace(&self, tracing: Option<Tracing>) {
        if let Some(old) = self.tracing.swap(tracing.map(Into::into)) {
            old.finish().await;
        }
    }

    /// Begins the record of `request`, where one is wanted.
    pub(crate) fn begin<B: Body>(&self, request: &mut Request<B>) -> Option<Box<Record>> {
        let span = self.tracing.load().as_ref().and_then(|tracing| tracing.begin(request));
        if span.is_none() && !self.access.is_on() {
            return None;
        }
        let bytes = request.body().size_hint().exact();
        Some(Box::new(Record { method: method(request.method()), bytes, span }))
    }

    /// Tells how it was answered: `took` is the time to the head of the answer.
    pub(crate) fn end<B: Body>(
        &self,
        record: Record,
        routed: &Routed,
        response: &Response<B>,
        took: Duration,
    ) {
        let Record { method, bytes, span } = record;
        let told = Told::of(routed, method, response);
        let trace_id = span.map(|span| span.end(&told));
        let answer_bytes = response.body().size_hint().exact();
        self.access.tell(&told, took, [bytes, answer_bytes], trace_id.as_deref());
    }
}

// === impl Told ===

impl<'a> Told<'a> {
    fn of<B>(routed: &'a Routed, method: &'static str, response: &'a Response<B>) -> Self {
        let grpc_status = match routed.protocol {
            Protocol::Grpc => metrics::grpc_status(response.headers()),
            Protocol::Rest => None,
        };
        let outcome = metrics::outcome(routed, response);
        Self { routed, method, status: response.status().as_u16(), grpc_status, outcome }
    }

    /// Whether it failed, and the client is not to blame.
    fn is_failure(&self) -> bool {
        matches!(self.outcome, "server_error" | "unanswered")
    }
}

/// The name of a method; what a client made up has none.
fn method(method: &Method) -> &'static str {
    const KNOWN: [(Method, &str); 7] = [
        (Method::GET, "GET"),
        (Method::POST, "POST"),
        (Method::PUT, "PUT"),
        (Method::PATCH, "PATCH"),
        (Method::DELETE, "DELETE"),
        (Method::HEAD, "HEAD"),
        (Method::OPTIONS, "OPTIONS"),
    ];
    KNOWN.iter().find(|(known, _)| known == method).map_or("_OTHER", |&(_, name)| name)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Full;

    use super::*;

    fn request() -> Request<Full<Bytes>> {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        Request::post("/").header("traceparent", parent).body(Full::from("{}")).expect("a request")
    }

    #[test]
    fn switched_off_nothing_is_kept_of_a_request() {
        let telemetry = Telemetry::default();
        let mut request = request();
        assert!(telemetry.begin(&mut request).is_none());
        assert!(request.extensions().is_empty());
    }

    #[tokio::test]
    async fn both_are_switched_while_requests_come() {
        let telemetry = Telemetry::default();
        telemetry.log_access(AccessPolicy::All);
        let record = telemetry.begin(&mut request()).expect("a record");
        assert_eq!((record.method, record.bytes, record.span.is_some()), ("POST", Some(2), false));
        telemetry.log_access(AccessPolicy::Off);

        let endpoint: Endpoint = "http://127.0.0.1:4317".parse().expect("an endpoint");
        let tracing = Tracing::start(endpoint, "0".parse().expect("a share")).expect("traces");
        telemetry.trace(Some(tracing)).await;
        let mut joined = request();
        assert!(telemetry.begin(&mut joined).is_some_and(|record| record.span.is_some()));
        assert!(!joined.extensions().is_empty(), "its attempts are told of");
        let mut alone = request();
        alone.headers_mut().clear();
        assert!(telemetry.begin(&mut alone).is_none(), "it is not sampled");
        telemetry.trace(None).await;
        assert!(telemetry.begin(&mut request()).is_none());
    }
}
