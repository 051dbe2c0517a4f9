//! The `qdrant-router` command.

use std::process::ExitCode;

/// Most of what a proxied request allocates is small and lives shortly.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    qdrant_router_proxy::cli::run()
}
