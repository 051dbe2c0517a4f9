//! The `qdrant-router` command.

use std::process::ExitCode;

use clap::Parser;
use qdrant_router_proxy::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
