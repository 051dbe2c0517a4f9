//! The command line: one verb per file.

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{self, LoadError, Origins};

mod bench;
mod check;
mod connect;
mod docs;
mod doctor;
mod error;
mod explain;
mod serve;
mod topology;

pub use self::{
    bench::Bench, check::Check, docs::Docs, doctor::Doctor, error::CliError, explain::Explain, serve::Serve,
    topology::ShowTopology,
};

/// Sends every Qdrant request straight to the node that holds its data.
#[derive(Debug, Parser)]
#[command(name = "qdrant-router", version, propagate_version = true)]
#[command(after_help = "Completions and the man page: qdrant-router docs --help")]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve REST and gRPC clients and route their requests.
    Serve(Serve),
    /// Say whether the configuration can work, and what it is, without starting.
    Check(Check),
    /// Show the nodes, and which of them hold the shards of which collection.
    Topology(ShowTopology),
    /// Tell where a request would go, and why, without sending it.
    Explain(Explain),
    /// Look at DNS, the nodes, credentials, certificates and shards, and tell how to fix what is wrong.
    Doctor(Doctor),
    /// Measure a cluster: the same requests by several ways, in turns.
    Bench(Bench),
    /// Print the reference of the configuration, JSON schemas, the man page, or completions.
    #[command(hide = true)]
    Docs(Docs),
}

/// How the program was called. The configuration can be read from it again and again.
#[derive(Clone, Debug)]
struct Invocation {
    arguments: Vec<OsString>,
}

/// Does what the command line asks: 0 when done, 1 when it failed, 2 when the arguments or the
/// configuration are wrong.
#[must_use]
pub fn run() -> ExitCode {
    let invocation = Invocation { arguments: std::env::args_os().collect() };
    let (cli, origins) = match invocation.load() {
        Ok(loaded) => loaded,
        Err(LoadError::Usage(error)) => error.exit(),
        Err(LoadError::Mistake(mistake)) => {
            eprintln!("qdrant-router: {mistake}");
            return ExitCode::from(2);
        }
    };
    let outcome = match cli.verb {
        Verb::Serve(serve) => serve.run(invocation, &origins),
        Verb::Check(check) => check.run(&origins),
        Verb::Topology(topology) => topology.run(),
        Verb::Explain(explain) => explain.run(),
        Verb::Doctor(doctor) => doctor.run(),
        Verb::Bench(bench) => bench.run(),
        Verb::Docs(docs) => docs.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("qdrant-router: {}", error.located(&origins));
            ExitCode::from(if error.is_configuration() { 2 } else { 1 })
        }
    }
}

// === impl Invocation ===

impl Invocation {
    /// Merges the arguments, the environment and the file as they are now.
    fn load(&self) -> Result<(Cli, Origins), LoadError> {
        let merged = config::load(&Cli::command(), &self.arguments)?;
        let cli =
            Cli::from_arg_matches(&merged.matches).map_err(|error| LoadError::Usage(Box::new(error)))?;
        Ok((cli, merged.origins))
    }
}
