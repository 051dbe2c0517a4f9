//! `qdrant-router bench`

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use qdrant_router::Routing;
use tokio::signal::unix::{SignalKind, signal};

mod collection;
mod load;
mod plot;
mod report;
mod telemetry;
mod way;
mod work;

use self::{
    collection::Own,
    load::Slice,
    report::Report,
    way::{Via, Way},
    work::{Mix, Protocol, Work},
};
use super::{CliError, connect::Connect, explain::Output};
use crate::config::value;

/// How long the router may take to learn of the cluster.
const SURVEY: Duration = Duration::from_secs(10);

/// How long each way is used before the first round.
const WARM_UP: Duration = Duration::from_millis(500);

/// Measure a cluster: the same requests by several ways, in turns.
///
/// Creates a collection of its own, named `qdrant-router-bench-` and a random number, and removes it at the
/// end and on Ctrl-C. No other collection is touched. All else that the cluster does meanwhile counts too,
/// also among the internal RPCs. Over gRPC, sdk is asked with the SDK's client and all others with the official one.
///
/// For example: `qdrant-router bench --headless my-headless --through node,round-robin,sdk,http://router:6334
/// --mix upsert,query=4`
#[derive(Args, Clone, Debug)]
pub struct Bench {
    #[command(flatten)]
    connect: Connect,

    /// The ways to compare: node (the first), round-robin (over all), fallback (the ClusterIP Service), sdk (this
    /// router without a proxy), or the URL of a proxy; the first is what others are compared with
    #[arg(long, value_name = "WAY", value_delimiter = ',', default_value = "node,round-robin,sdk")]
    through: Vec<Way>,

    /// What is asked, with weights: upsert, get, query, scroll
    #[arg(long, value_name = "OP[=WEIGHT]", default_value = "upsert")]
    mix: Mix,

    /// The protocol
    #[arg(long, value_enum, default_value_t = Protocol::Grpc)]
    protocol: Protocol,

    /// Points per upsert
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,

    /// Dimensions of the vectors
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..))]
    dimensions: u16,

    /// Points in the collection; upserts replace them
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    points: u32,

    /// Shards of the collection, or of each shard key
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=1024))]
    shards: u16,

    /// Copies of each shard
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    replicas: u16,

    /// Shard keys; none for automatic sharding
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=256))]
    shard_keys: u16,

    /// Requests under way at a time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,

    /// HTTP/2 connections to each address
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    connections: u16,

    /// Requests per second, however long answers take, rather than as many as are answered
    ///
    /// Latency then counts from when a request was due. `--concurrency` bounds how many are under way.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,

    /// Rounds; in each, every way has its turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// How long a turn is
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "2s",
        value_parser = value::duration(Duration::from_millis(10), Duration::from_secs(3600))
    )]
    duration: Duration,

    /// File with the key that requests carry; it may create and remove a collection [default: `api_key_file`]
    #[arg(long, value_name = "FILE")]
    client_api_key_file: Option<PathBuf>,

    /// Draw latency by percentile into an SVG file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// How to print it
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

// === impl Bench ===

impl Bench {
    pub(super) fn run(self) -> Result<(), CliError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(self.bench())
    }

    async fn bench(self) -> Result<(), CliError> {
        let key = match &self.client_api_key_file {
            Some(path) => Some(super::connect::key("client_api_key_file", path)?),
            None => self.connect.api_key()?,
        };
        let router = self.connect.build(self.connect.builder()?.routing(Routing::All))?;
        let _ = tokio::time::timeout(SURVEY, router.topology().surveyed()).await;
        let work = Work::new(&self, key);
        let vias = self
            .through
            .iter()
            .map(|way| Via::new(way, &router, &work, self.connections, self.connect.is_encrypted()))
            .collect::<Result<Vec<_>, _>>()?;
        // Signals are caught from here on, so that the collection cannot stay behind.
        let mut terminated = signal(SignalKind::terminate())?;
        let mut interrupted = signal(SignalKind::interrupt())?;
        let is_encrypted = self.connect.is_encrypted();
        let own = Own { router: router.clone(), is_encrypted, work: Arc::new(work) };
        let outcome = tokio::select! {
            biased;
            _ = interrupted.recv() => None,
            _ = terminated.recv() => None,
            outcome = self.measure(&own, &vias) => Some(outcome),
        };
        let removed = own.remove().await;
        match outcome {
            None => {
                removed?;
                Err(CliError::Cluster(
                    "interrupted: the collection is removed, and nothing is reported".to_owned(),
                ))
            }
            Some(report) => {
                let report = report?;
                match self.output {
                    Output::Text => print!("{}", report.text()),
                    Output::Json => println!("{:#}", report.json()),
                }
                if let Some(path) = &self.plot {
                    let written = std::fs::write(path, plot::svg(&report));
                    written.map_err(|error| {
                        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
                    })?;
                }
                removed?;
                match report.errors() {
                    0 => Ok(()),
                    errors => Err(CliError::Cluster(format!(
                        "{errors} requests failed; what is said of the ways that are marked says little"
                    ))),
                }
            }
        }
    }

    async fn measure(&self, own: &Own, vias: &[Via]) -> Result<Report, CliError> {
        let turns = u64::from(self.rounds) * vias.len() as u64;
        let progress = ProgressBar::new(turns + vias.len() as u64);
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len}  {msg}  {eta} left") {
            progress.set_style(style);
        }
        progress.set_message("preparing the collection");
        own.create().await?;
        own.fill().await?;
        for via in vias {
            progress.set_message(format!("{}, warming up", via.name));
            let turn = load::run(via, &own.work, self.slice(WARM_UP.min(self.duration))).await;
            // The longest names the most causes.
            let error = turn.errors.keys().max_by_key(|error| error.len());
            if let (0, Some(error)) = (turn.latencies.len(), error) {
                let reason = format!(
                    "--through {}: no request succeeds: {error}; start it, or leave it out",
                    via.name
                );
                return Err(CliError::Cluster(reason));
            }
            progress.inc(1);
        }
        let mut report = Report::new(self, own, vias);
        for round in 0..usize::from(self.rounds) {
            for at in 0..vias.len() {
                // Nobody always comes first.
                let at = (at + round) % vias.len();
                let Some(via) = vias.get(at) else { continue };
                progress.set_message(via.name.clone());
                let before = telemetry::internal_rpcs(own).await;
                let mut turn = load::run(via, &own.work, self.slice(self.duration)).await;
                let after = telemetry::internal_rpcs(own).await;
                turn.internal_rpcs = before.zip(after).map(|(before, after)| after.saturating_sub(before));
                report.add(at, turn);
                progress.inc(1);
            }
        }
        progress.finish_and_clear();
        Ok(report)
    }

    fn slice(&self, duration: Duration) -> Slice {
        Slice { duration, concurrency: self.concurrency, rate: self.rate }
    }
}

impl ValueEnum for Protocol {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Grpc, Self::Rest]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(match self {
            Self::Grpc => "grpc",
            Self::Rest => "rest",
        }))
    }
}
