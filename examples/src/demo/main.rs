//! A tour of the router: a cluster of three nodes, DNS, a ClusterIP-like Service and the proxy, all on
//! loopback addresses of this machine.
//!
//! ```text
//! cargo run --bin demo            # the tour; stays up until Ctrl-C
//! cargo run --bin demo -- --check # asserts what it shows, then exits
//! QDRANT_BIN=/path/to/qdrant cargo run --bin demo   # the same on real servers
//! ```

use std::process::ExitCode;

use clap::Parser;

mod control;
mod stage;
mod tour;

/// A cluster of three nodes with the router in front, and a tour of what it does.
#[derive(Debug, Parser)]
#[command(name = "demo", version)]
struct Arguments {
    /// Assert everything that is shown, then exit: 0 when all of it holds, 1 when not
    #[arg(long)]
    check: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.check).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(check: bool) -> Result<(), stage::Error> {
    let stage = stage::Stage::set().await?;
    let broken = tour::walk(&stage).await?;
    if !broken.is_empty() {
        return Err(format!("the tour did not show what it should:\n  {}", broken.join("\n  ")).into());
    }
    if check {
        println!("\nAll of it holds.");
        return Ok(());
    }
    stage.print_addresses();
    tokio::select! {
        stopped = tokio::signal::ctrl_c() => stopped?,
        never = control::obey(&stage.cluster) => match never {},
    }
    println!();
    Ok(())
}
