//! Traces, sent to a collector over OTLP: one span per request, and one below it per attempt.
//!
//! A client's trace is joined where its `traceparent` is sampled; where it says nothing, a share is drawn.
//! Of a request that is not sampled nothing is recorded, and its headers pass as they are. That of an attempt
//! goes to the node with the `traceparent` of the attempt's own span.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use http::{HeaderMap, Request, Uri, uri::Scheme};
use opentelemetry::{
    Context, KeyValue,
    propagation::TextMapPropagator,
    trace::{Span, SpanKind, Status, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};
use qdrant_router::{
    AttemptEnd, AttemptObserver, AttemptOutcome, AttemptStart, ObserveAttempts, request::Protocol,
    route::Reason,
};

use super::Told;
use crate::metrics::{grpc_status, is_fault};

mod headers;

/// How long the spans that wait may take to be sent when there will be no more.
const FINISH_TIME: Duration = Duration::from_secs(3);

/// Where a collector takes OTLP over gRPC: `http://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint(String);

/// A share, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Share(f64);

/// Traces on their way to one collector.
#[derive(Debug)]
pub(crate) struct Tracing {
    endpoint: Endpoint,
    share: Share,
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// The span of a request, until its answer is there or its client is gone.
#[derive(Debug)]
pub(super) struct RequestSpan {
    context: Context,
    is_told: bool,
}

/// Makes spans of the attempts of one request.
#[derive(Debug)]
struct AttemptSpans {
    tracer: SdkTracer,
    request: Context,
}

// === impl Endpoint ===

impl FromStr for Endpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let mistake = "not http://HOST:PORT, where a collector takes OTLP over gRPC; the usual port is 4317";
        let uri: Uri = text.parse().map_err(|_| mistake)?;
        let is_address = uri.scheme() == Some(&Scheme::HTTP)
            && uri.port().is_some()
            && uri.path_and_query().is_none_or(|path| path == "/")
            && !text.contains('@');
        if is_address { Ok(Self(text.to_owned())) } else { Err(mistake) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Share ===

impl FromStr for Share {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text.parse() {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(Self(share)),
            _ => Err("a share is a number from 0 to 1, such as `0.1`"),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Tracing ===

impl Tracing {
    /// Begins to send `share` of the traces to `endpoint`. To be called on a tokio runtime.
    pub(crate) fn start(endpoint: Endpoint, share: Share) -> Result<Self, ExporterBuildError> {
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(&endpoint.0).build()?;
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder().with_service_name("qdrant-router").with_attribute(version).build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share.0))))
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("qdrant-router");
        Ok(Self { endpoint, share, provider, tracer })
    }

    /// Whether it goes there, with that share.
    pub(crate) fn is(&self, endpoint: &Endpoint, share: Share) -> bool {
        self.endpoint == *endpoint && self.share == share
    }

    /// Sends what waits; later spans are lost.
    pub(super) async fn finish(&self) {
        let provider = self.provider.clone();
        // It blocks until the collector has answered, or the time is over.
        let finished = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FINISH_TIME)).await;
        match finished {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(endpoint = %self.endpoint, "the last spans were not sent: {error}");
            }
            Err(error) => tracing::error!(%error, "the last spans were not sent"),
        }
    }

    /// Begins the span of `request`, where it is sampled.
    pub(super) fn begin<B>(&self, request: &mut Request<B>) -> Option<RequestSpan> {
        let parent = TraceContextPropagator::new()
            .extract_with_context(&Context::new(), &headers::Received(request.headers()));
        let span = self.tracer.span_builder("request").with_kind(SpanKind::Server);
        let span = span.start_with_context(&self.tracer, &parent);
        if !span.span_context().is_sampled() {
            return None;
        }
        let context = parent.with_span(span);
        let attempts = AttemptSpans { tracer: self.tracer.clone(), request: context.clone() };
        request.extensions_mut().insert(ObserveAttempts(Arc::new(attempts)));
        Some(RequestSpan { context, is_told: false })
    }
}

// === impl RequestSpan ===

impl RequestSpan {
    /// Ends the span with what is known now; returns the id of its trace.
    pub(super) fn end(mut self, told: &Told<'_>) -> String {
        let routed = told.routed;
        let span = self.context.span();
        match routed.protocol {
            Protocol::Rest => {
                span.update_name(match routed.operation {
                    "unknown" => told.method.to_owned(),
                    route => format!("{} {route}", told.method),
                });
                span.set_attribute(KeyValue::new("http.request.method", told.method));
                span.set_attribute(KeyValue::new("http.route", routed.operation));
                span.set_attribute(KeyValue::new("http.response.status_code", i64::from(told.status)));
            }
            Protocol::Grpc => {
                let rpc = routed.operation.trim_start_matches('/');
                span.update_name(rpc);
                span.set_attribute(KeyValue::new("rpc.system", "grpc"));
                if let Some((service, method)) = rpc.split_once('/') {
                    span.set_attribute(KeyValue::new("rpc.service", service));
                    span.set_attribute(KeyValue::new("rpc.method", method));
                }
                span.set_attributes(told.grpc_status.and_then(grpc_code));
            }
        }
        if let Some(collection) = &routed.collection {
            span.set_attribute(KeyValue::new("db.collection.name", collection.clone()));
        }
        span.set_attributes([
            KeyValue::new("qdrant_router.class", routed.class.as_str()),
            KeyValue::new("qdrant_router.outcome", told.outcome),
            KeyValue::new("qdrant_router.reason", routed.reason.map_or("none", Reason::as_str)),
            KeyValue::new("qdrant_router.attempts", count(routed.attempts)),
            KeyValue::new("qdrant_router.parts", count(routed.parts)),
        ]);
        if let Some(observed) = &routed.observed {
            let reason = observed.reason.map_or("none", Reason::as_str);
            span.set_attribute(KeyValue::new("qdrant_router.observed_reason", reason));
        }
        if let Some(node) = routed.node() {
            span.set_attribute(KeyValue::new("qdrant_router.node", node.clone()));
        }
        if let Some(rpcs) = routed.expected_rpcs {
            span.set_attribute(KeyValue::new("qdrant_router.expected_internal_rpcs", i64::from(rpcs)));
        }
        if told.is_failure() {
            span.set_status(Status::error(told.outcome));
        }
        let trace_id = span.span_context().trace_id().to_string();
        span.end();
        self.is_told = true;
        trace_id
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        if !self.is_told {
            let span = self.context.span();
            span.set_attribute(KeyValue::new("qdrant_router.outcome", "client_gone"));
            span.end();
        }
    }
}

// === impl AttemptSpans ===

impl AttemptObserver for AttemptSpans {
    fn start(&self, attempt: &AttemptStart<'_>, headers: &mut HeaderMap) -> AttemptEnd {
        let port = match attempt.protocol {
            Protocol::Rest => attempt.address.rest_port,
            Protocol::Grpc => attempt.address.grpc_port,
        };
        let mut attributes = vec![
            KeyValue::new("server.address", attempt.address.ip.to_string()),
            KeyValue::new("server.port", i64::from(port)),
            KeyValue::new("qdrant_router.node", attempt.node.to_owned()),
            KeyValue::new("qdrant_router.reason", attempt.reason.as_str()),
            KeyValue::new("qdrant_router.sending", attempt.sending.as_str()),
        ];
        if let Some(rpcs) = attempt.expected_rpcs {
            attributes.push(KeyValue::new("qdrant_router.expected_internal_rpcs", i64::from(rpcs)));
        }
        let span =
            self.tracer.span_builder("attempt").with_kind(SpanKind::Client).with_attributes(attributes);
        let span = span.start_with_context(&self.tracer, &self.request);
        let context = self.request.with_span(span);
        TraceContextPropagator::new().inject_context(&context, &mut headers::Sent(headers));
        Box::new(move |outcome| end_attempt(&context, outcome))
    }
}

fn end_attempt(context: &Context, outcome: AttemptOutcome<'_>) {
    let span = context.span();
    let name = match outcome {
        AttemptOutcome::Answered { status, headers } => {
            let grpc_status = grpc_status(headers);
            span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
            span.set_attributes(grpc_status.and_then(grpc_code));
            if status.is_server_error() || grpc_status.is_some_and(is_fault) {
                span.set_status(Status::error("server_error"));
            }
            "answered"
        }
        AttemptOutcome::Failed { reason } => {
            span.set_status(Status::error(reason.to_owned()));
            "failed"
        }
        AttemptOutcome::Abandoned => "abandoned",
        _ => "unknown",
    };
    span.set_attribute(KeyValue::new("qdrant_router.outcome", name));
    span.end();
}

fn grpc_code(status: &str) -> Option<KeyValue> {
    Some(KeyValue::new("rpc.grpc.status_code", status.parse::<i64>().ok()?))
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_a_scheme_a_host_and_a_port() {
        for text in ["http://127.0.0.1:4317", "http://collector.observability.svc:4317/", "http://[::1]:4317"]
        {
            assert!(text.parse::<Endpoint>().is_ok(), "{text}");
        }
        for text in [
            "",
            "collector:4317",
            "http://collector",
            "https://collector:4317",
            "http://collector:4317/v1/traces",
            "http://user:secret@collector:4317",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_is_at_most_the_whole() {
        for text in ["0", "0.01", "1", "1.0"] {
            assert!(text.parse::<Share>().is_ok(), "{text}");
        }
        for text in ["", "-0.1", "1.1", "10%", "NaN", "inf"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }
}
