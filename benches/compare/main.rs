//! Proxies side by side: ours, nginx, HAProxy and Envoy in front of the same constant-reply backend.
//!
//! ```text
//! deploy/build.sh
//! cargo run --release -p qdrant-router-benches --bin compare
//! ```
//!
//! Every proxy has one worker on one core; the load and the backend share another. Rounds are interleaved,
//! and ratios are the medians of the rounds' ratios, so that what else the machine does falls on all alike.
//! What counts is the CPU time of the proxy per request: other work disturbs it least.

mod backend;
mod bodies;
mod contender;
mod frames;
mod load;
mod machine;
mod memory;
mod report;
mod scenario;

use std::{io::IsTerminal, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::LocalSet,
};

use crate::{backend::Backend, contender::Contender, report::Report, scenario::Protocol};

/// Compare qdrant-router with nginx, HAProxy and Envoy.
#[derive(Debug, Parser)]
#[command(name = "compare")]
pub(crate) struct Options {
    /// Rounds; in each, every proxy serves every scenario once
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// Seconds that are measured per proxy, scenario and round
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,

    /// The scenarios whose names contain this [default: all]
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,

    /// The proxies to compare
    #[arg(long, value_delimiter = ',', default_value = "qdrant-router,nginx,haproxy,envoy")]
    proxies: Vec<String>,

    /// The core of the proxies
    #[arg(long, default_value_t = 0)]
    proxy_core: usize,

    /// The core of the load and the backend
    #[arg(long, default_value_t = 1)]
    load_core: usize,

    /// Our program [default: target/dist/qdrant-router]
    #[arg(long, value_name = "FILE", env = "QDRANT_ROUTER_BIN")]
    router: Option<PathBuf>,

    /// Envoy's program [default: `envoy` in PATH]
    #[arg(long, value_name = "FILE", env = "ENVOY_BIN")]
    envoy: Option<PathBuf>,

    /// Write all figures of all rounds to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write the tables as a page of the documentation
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,

    /// Only tell how much memory our proxy takes, idle and with so many idle HTTP/2 connections (`ulimit -n` must allow
    /// them)
    #[arg(long, value_name = "CONNECTIONS")]
    memory: Option<usize>,

    /// Only start the proxies and wait for Ctrl-C, for a profiler or another load tool
    #[arg(long)]
    hold: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Err(reason) = machine::pin(options.load_core) {
        eprintln!("compare: {reason}");
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("compare: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = LocalSet::new().block_on(&runtime, async {
        // Whatever ends this, the contenders are dropped, and with them their processes and files.
        let mut terminated = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
        tokio::select! {
            outcome = compare(&options) => outcome,
            _ = tokio::signal::ctrl_c() => Err("interrupted; nothing is reported".to_owned()),
            _ = terminated.recv() => Err("terminated; nothing is reported".to_owned()),
        }
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("compare: some requests failed; their figures are marked and mean nothing");
            ExitCode::FAILURE
        }
        Err(reason) => {
            eprintln!("compare: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all requests were answered as they should be.
async fn compare(options: &Options) -> Result<bool, String> {
    let backend = Backend::start().await?;
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut contenders = vec![Contender::direct()];
    for name in &options.proxies {
        match Contender::start(name, options, directory.path()).await {
            Ok(contender) => {
                eprintln!("  {:<14} {}", name, contender.version);
                contenders.push(contender);
            }
            Err(reason) => eprintln!("  {name:<14} left out: {reason}"),
        }
    }
    let scenarios: Vec<_> =
        scenario::all().into_iter().filter(|scenario| scenario.name.contains(&options.only)).collect();
    if scenarios.is_empty() {
        return Err(format!(
            "no scenario is called like `{}`; there are: {}",
            options.only,
            scenario::names()
        ));
    }
    if let Some(connections) = options.memory {
        let ours = contenders.iter().find(|contender| contender.name == "qdrant-router");
        let small = scenarios.iter().find(|scenario| scenario.protocol == Protocol::Grpc);
        let (Some(ours), Some(small)) = (ours, small) else {
            return Err("qdrant-router or a scenario of gRPC is missing".to_owned());
        };
        backend.reply_with(small);
        print!("{}", memory::measure(ours, small, connections).await?);
        return Ok(true);
    }
    if options.hold {
        scenarios.iter().rev().for_each(|scenario| backend.reply_with(scenario));
        for contender in &contenders {
            eprintln!(
                "{:<14} pid {:?} REST {} gRPC {}",
                contender.name,
                contender.pid(),
                contender.rest,
                contender.grpc
            );
        }
        return std::future::pending().await;
    }
    let mut report = Report::new(&contenders, &scenarios, options);
    for round in 0..options.rounds {
        for (which, scenario) in scenarios.iter().enumerate() {
            backend.reply_with(scenario);
            for at in 0..contenders.len() {
                // Nobody always runs first.
                let at = (at + round) % contenders.len();
                let contender = &contenders[at];
                progress(&format!(
                    "round {}/{}: {}, {}",
                    round + 1,
                    options.rounds,
                    scenario.name,
                    contender.name
                ));
                let sample = load::run(scenario, contender, Duration::from_secs_f64(options.seconds)).await;
                report.add(which, at, sample);
            }
        }
    }
    progress("");
    print!("{}", report.text());
    if let Some(path) = &options.json {
        write(path, &report.json())?;
    }
    if let Some(path) = &options.page {
        write(path, &report.page())?;
    }
    for contender in contenders {
        contender.end().await?;
    }
    Ok(report.is_clean())
}

/// One line that changes, where somebody looks.
fn progress(line: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{line}");
    }
}

fn write(path: &PathBuf, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
