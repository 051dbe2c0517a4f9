//! The `qdrant-router` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    qdrant_router_proxy::cli::run()
}
