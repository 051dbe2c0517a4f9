//! The command line: one verb per file.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod connect;
mod error;
mod explain;
mod serve;
mod topology;

pub use self::{error::CliError, explain::Explain, serve::Serve, topology::ShowTopology};

/// Sends every Qdrant request straight to the node that holds its data.
#[derive(Debug, Parser)]
#[command(name = "qdrant-router", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve REST and gRPC clients and route their requests.
    Serve(Serve),
    /// Show the nodes, and which of them hold the shards of which collection.
    Topology(ShowTopology),
    /// Tell where a request would go, and why, without sending it.
    Explain(Explain),
}

// === impl Cli ===

impl Cli {
    /// Does what was asked: 0 when done, 1 when it failed, 2 when the configuration is wrong.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let outcome = match self.verb {
            Verb::Serve(serve) => serve.run(),
            Verb::Topology(topology) => topology.run(),
            Verb::Explain(explain) => explain.run(),
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("qdrant-router: {error}");
                ExitCode::from(if error.is_configuration() { 2 } else { 1 })
            }
        }
    }
}
