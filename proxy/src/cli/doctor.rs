//! `qdrant-router doctor`

use std::{fmt::Write as _, time::Duration};

use clap::Args;
use qdrant_router::topology::Settings;

use super::{CliError, connect::Connect, explain::Output};
use crate::doctor::{Finding, Level, shards};

/// How long the router may take to learn where all shards are.
const SURVEY: Duration = Duration::from_secs(10);

/// Look at DNS, the nodes, credentials, certificates and shards, and tell how to fix what is wrong.
///
/// Connects as `serve` would, with the same flags, variables and file. Nothing is changed. Ends with 1
/// where there is a problem; warnings alone end with 0.
///
/// For example: `qdrant-router doctor --preset kubeblocks:my-cluster.my-namespace`
#[derive(Args, Clone, Debug)]
pub struct Doctor {
    #[command(flatten)]
    connect: Connect,

    /// How to print it
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

// === impl Doctor ===

impl Doctor {
    pub(super) fn run(self) -> Result<(), CliError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let findings = runtime.block_on(async {
            let mut findings = self.connect.patient()?.examine().await;
            findings.extend(self.collections().await?);
            Ok::<_, CliError>(findings)
        })?;
        match self.output {
            Output::Text => print!("{}", text(&findings)),
            Output::Json => println!("{:#}", serde_json::json!({ "findings": findings })),
        }
        match findings.iter().filter(|finding| finding.level == Level::Problem).count() {
            0 => Ok(()),
            problems => Err(CliError::Unwell(problems)),
        }
    }

    /// What there is to say of the shards, through a router as `serve` has it.
    async fn collections(&self) -> Result<Vec<Finding>, CliError> {
        let settings = Settings { first_fetch: SURVEY, ..Settings::default() };
        let router = self.connect.build(self.connect.builder()?.topology_settings(settings))?;
        let _ = tokio::time::timeout(SURVEY, router.topology().surveyed()).await;
        if router.topology().snapshot().epoch().is_none() {
            return Ok(vec![shards::unknown()]);
        }
        let names = match self.connect.collections(&router).await {
            Ok(names) => names,
            Err(error) => return Ok(vec![shards::unlisted(&error.to_string())]),
        };
        let mut findings = Vec::new();
        for name in &names {
            let topology = router.topology().knowing(name).await;
            // Unlike the placement, the settings need all shards to answer, and some may not.
            let wanted = self.connect.replication_factor(&router, name).await.ok().flatten();
            findings.extend(shards::examine(name, &topology, wanted));
        }
        Ok(findings)
    }
}

/// The findings for people.
fn text(findings: &[Finding]) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    for Finding { level, about, what, fix } in findings {
        let _ = writeln!(out, "{:<8} {about:<12} {what}", level.as_str());
        if let Some(fix) = fix {
            let _ = writeln!(out, "{:<21} fix: {fix}", "");
        }
    }
    out
}
