//! `qdrant-router check`

use clap::Args;

use super::{CliError, Serve};
use crate::config::Origins;

/// Say whether the configuration can work, and what it is, without starting.
///
/// Reads what `serve` would read, with the same flags, variables and file, and the files that these
/// name: the API key and the certificates. Asks neither DNS nor Qdrant; `doctor` does.
///
/// For example: `qdrant-router check --config /etc/qdrant-router.yaml`
#[derive(Args, Clone, Debug)]
pub struct Check {
    #[command(flatten)]
    serve: Serve,
}

// === impl Check ===

impl Check {
    pub(super) fn run(self, origins: &Origins) -> Result<(), CliError> {
        // A runtime that is never driven: the router is built, and none of its tasks runs.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guard = runtime.enter();
        drop(self.serve.router()?);
        self.serve.tls()?;
        drop(guard);
        for (key, values, origin) in origins.iter() {
            let value = if values.is_empty() { "-".to_owned() } else { values.join(", ") };
            println!("{key:<22} {value:<40} {origin}");
        }
        Ok(())
    }
}
