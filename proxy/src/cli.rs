//! The command line: one verb per file.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod serve;

pub use self::serve::{Serve, ServeError};

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
}

// === impl Cli ===

impl Cli {
    /// Does what was asked: 0 when done, 1 when it failed, 2 when the configuration is wrong.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let outcome = match self.verb {
            Verb::Serve(serve) => serve.run(),
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
