//! `qdrant-router explain`

use std::{collections::BTreeMap, fmt::Write as _, io::Read};

use clap::{Args, ValueEnum};
use qdrant_router::{Question, route::Explanation};
use serde_json::Value;

use super::{CliError, connect::Connect};

/// Tell where a request would go, and why, without sending it.
///
/// For example: `qdrant-router explain --headless qdrant-headless PUT /collections/books/points
/// '{"points": [{"id": 1, "vector": [0.1]}]}'`, or `… GRPC Points/Count '{"collection_name": "books"}'`.
#[derive(Args, Clone, Debug)]
pub struct Explain {
    #[command(flatten)]
    connect: Connect,

    /// The method of a REST request, or GRPC
    #[arg(value_name = "METHOD")]
    method: String,

    /// The path of a REST request with its query, or the name of an RPC such as Points/Upsert
    #[arg(value_name = "PATH|RPC")]
    path: String,

    /// The body as JSON; @FILE reads a file, - reads standard input
    #[arg(value_name = "BODY")]
    body: Option<String>,

    /// A header of the request, NAME:VALUE; repeatable
    #[arg(long = "header", value_name = "NAME:VALUE")]
    headers: Vec<String>,

    /// How to print it
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How a verb prints what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

// === impl Explain ===

impl Explain {
    pub(super) fn run(self) -> Result<(), CliError> {
        let question = self.question()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let explanation = runtime.block_on(async {
            let router = self.connect.router()?;
            router.topology().surveyed().await;
            Ok::<_, CliError>(router.explain(question).await?)
        })?;
        match self.output {
            Output::Text => print!("{}", text(&explanation)),
            Output::Json => println!("{}", serde_json::json!(explanation)),
        }
        Ok(())
    }

    fn question(&self) -> Result<Question, CliError> {
        let mut headers = BTreeMap::new();
        for header in &self.headers {
            let (name, value) = header.split_once(':').ok_or_else(|| CliError::Argument {
                argument: "--header",
                reason: format!("`{header}` is not NAME:VALUE"),
            })?;
            headers.insert(name.trim().to_owned(), value.trim().to_owned());
        }
        let body = self.body()?;
        let is_grpc = self.method.eq_ignore_ascii_case("grpc");
        let (method, path, grpc) = match is_grpc {
            true => (None, None, Some(self.path.clone())),
            false => (Some(self.method.clone()), Some(self.path.clone()), None),
        };
        Ok(Question { method, path, grpc, headers, body })
    }

    fn body(&self) -> Result<Value, CliError> {
        let wrong = |reason: String| CliError::Argument { argument: "BODY", reason };
        let text = match self.body.as_deref() {
            None => return Ok(Value::Null),
            Some("-") => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text)?;
                text
            }
            Some(text) => match text.strip_prefix('@') {
                Some(file) => {
                    std::fs::read_to_string(file).map_err(|error| wrong(format!("{file}: {error}")))?
                }
                None => text.to_owned(),
            },
        };
        serde_json::from_str(&text).map_err(|error| wrong(format!("it is not JSON: {error}")))
    }
}

/// The explanation for people.
fn text(explanation: &Explanation) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "{name:<14} {value}");
    };
    line("operation", &format!("{} ({})", explanation.class, explanation.protocol));
    if let Some(collection) = &explanation.collection {
        let resolved = explanation.resolved.as_ref().map(|name| format!(", an alias of {name}"));
        line("collection", &format!("{collection}{}", resolved.unwrap_or_default()));
    }
    if let Some(shards) = &explanation.shards {
        let shards: Vec<String> = shards.iter().map(ToString::to_string).collect();
        line("shards", &shards.join(", "));
    }
    match explanation.reason {
        Some(reason) => line("reason", reason.as_str()),
        None => line("reason", "nobody to send it to"),
    }
    line("epoch", explanation.epoch.as_deref().unwrap_or("unknown"));
    if !explanation.followed {
        line("routing", "not by the configuration: it goes to the ClusterIP Service, or to any node");
    }
    for part in &explanation.parts {
        let points = part.points.map(|points| format!(", {points} points")).unwrap_or_default();
        line(
            if explanation.followed { "goes to" } else { "would go to" },
            &format!("{}{points}{}", part.node, rpcs(part.internal_rpcs)),
        );
    }
    if !explanation.candidates.is_empty() {
        let _ = writeln!(out, "\nwhole, to one node:");
        for candidate in &explanation.candidates {
            let usable = if candidate.usable { "" } else { "  (not usable now)" };
            let count = candidate.internal_rpcs;
            let unit = if count == 1 { "RPC" } else { "RPCs" };
            let _ = writeln!(out, "  {:<20} {count:>3} internal {unit}{usable}", candidate.node);
        }
    }
    out
}

fn rpcs(count: Option<u32>) -> String {
    match count {
        Some(1) => ", 1 internal RPC".to_owned(),
        Some(count) => format!(", {count} internal RPCs"),
        None => String::new(),
    }
}
