//! The log: lines on standard error, through a filter that can change.

use std::io;

use clap::ValueEnum;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::telemetry::TARGET;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    Text,
    /// For programs: one JSON object per line.
    Json,
}

/// The log of this process.
#[derive(Debug)]
pub(super) struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
}

// === impl Log ===

impl Log {
    /// Starts to log. To be called once.
    pub(super) fn start(filter: &str, format: LogFormat) -> Self {
        let (layer, filter) = reload::Layer::new(parse(filter));
        let lines = fmt::layer().with_writer(io::stderr);
        let lines = match format {
            LogFormat::Text => lines.boxed(),
            LogFormat::Json => lines.json().boxed(),
        };
        tracing_subscriber::registry().with(layer).with(lines).init();
        Self { filter }
    }

    /// Changes what is logged from now on.
    pub(super) fn set(&self, filter: &str) {
        if let Err(error) = self.filter.reload(parse(filter)) {
            tracing::error!(%error, "the filter of the log did not change");
        }
    }
}

/// Warns at each frame of a kind of which a stranger may send thousands; a filter has to name it in full to hear that.
const CHATTY: &str = "h2::proto::ping_pong";

/// The filter that `text` describes. Lines of the access log have a key of their own, and always pass.
fn parse(text: &str) -> EnvFilter {
    EnvFilter::new(format!("{CHATTY}=error,{text},{TARGET}=info"))
}
