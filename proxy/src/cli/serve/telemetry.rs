//! The keys of what is told of each request.

use clap::Args;

use crate::{
    cli::CliError,
    telemetry::{AccessPolicy, Endpoint, Share, Telemetry, Tracing},
};

/// What is told of each request.
#[derive(Args, Clone, Debug)]
pub(super) struct TelemetryKeys {
    /// Which requests have a line in the log
    ///
    /// `off`; `all`; or one in so many, such as `1/100`, beside all that failed and all that took a second or
    /// longer. The lines come whatever `log` says. They hold neither headers nor queries nor bodies.
    ///
    /// Example: 1/100
    #[arg(
        long,
        value_name = "off|all|1/N",
        env = "QDRANT_ROUTER_ACCESS_LOG",
        default_value_t = AccessPolicy::Off
    )]
    access_log: AccessPolicy,

    /// Collector to send traces to, over OTLP/gRPC: http://HOST:PORT
    ///
    /// One span per request, and one for each time that it is sent to a node, which then gets the `traceparent`
    /// of that. The variables of OpenTelemetry's exporters, such as `OTEL_EXPORTER_OTLP_HEADERS` and
    /// `OTEL_RESOURCE_ATTRIBUTES`, hold too.
    ///
    /// Example: http://collector.observability.svc:4317
    #[arg(long, value_name = "URL", env = "QDRANT_ROUTER_OTLP_ENDPOINT")]
    otlp_endpoint: Option<Endpoint>,

    /// The share of traces that is sent, of those that begin here
    ///
    /// From 0 to 1. A request with a `traceparent` of its own is part of its trace where that is sampled, and
    /// of none where it is not.
    ///
    /// Example: 0.1
    #[arg(
        long,
        value_name = "SHARE",
        env = "QDRANT_ROUTER_TRACE_SAMPLE",
        default_value = "0.01",
        allow_hyphen_values = true
    )]
    trace_sample: Share,
}

// === impl TelemetryKeys ===

impl TelemetryKeys {
    /// Has requests told of so from now on.
    pub(super) async fn apply(&self, telemetry: &Telemetry) -> Result<(), CliError> {
        telemetry.log_access(self.access_log);
        let Some(endpoint) = &self.otlp_endpoint else {
            telemetry.trace(None).await;
            return Ok(());
        };
        if telemetry.tracing().is_some_and(|tracing| tracing.is(endpoint, self.trace_sample)) {
            return Ok(());
        }
        let tracing = Tracing::start(endpoint.clone(), self.trace_sample)
            .map_err(|error| CliError::setting("otlp_endpoint", endpoint, &error))?;
        telemetry.trace(Some(tracing)).await;
        Ok(())
    }
}
