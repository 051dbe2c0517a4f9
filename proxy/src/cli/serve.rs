//! `qdrant-router serve`

use std::{io, net::SocketAddr, time::Duration};

use clap::Args;
use qdrant_router::{
    Router,
    topology::{ApiError, Problem},
};
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

use super::{CliError, connect::Connect};
use crate::lifecycle::{self, Listeners};

/// How long the first survey of the nodes may take before its outcome is reported.
const FIRST_SURVEY: Duration = Duration::from_secs(5);

/// Serve REST and gRPC clients and route their requests.
#[derive(Args, Clone, Debug)]
pub struct Serve {
    #[command(flatten)]
    connect: Connect,

    /// Where REST clients connect
    #[arg(long, value_name = "IP:PORT", env = "QDRANT_ROUTER_LISTEN_REST", default_value = "0.0.0.0:6333")]
    listen_rest: SocketAddr,

    /// Where gRPC clients connect
    #[arg(long, value_name = "IP:PORT", env = "QDRANT_ROUTER_LISTEN_GRPC", default_value = "0.0.0.0:6334")]
    listen_grpc: SocketAddr,

    /// The admin port: health, metrics, topology
    #[arg(
        long,
        value_name = "IP:PORT",
        env = "QDRANT_ROUTER_LISTEN_ADMIN",
        default_value = "127.0.0.1:9633"
    )]
    listen_admin: SocketAddr,
}

// === impl Serve ===

impl Serve {
    pub(super) fn run(self) -> Result<(), CliError> {
        let filter = EnvFilter::try_from_env("QDRANT_ROUTER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> Result<(), CliError> {
        let listeners = self.listen().await?;
        let router = self.connect.router()?;
        let surveyed = report_survey(router.clone());
        lifecycle::serve(router, listeners, surveyed).await
    }

    async fn listen(&self) -> Result<Listeners, CliError> {
        let bind = async |flag, address: SocketAddr| {
            TcpListener::bind(address).await.map_err(|error| CliError::Listen { flag, address, error })
        };
        Ok(Listeners {
            rest: bind("--listen-rest", self.listen_rest).await?,
            grpc: bind("--listen-grpc", self.listen_grpc).await?,
            admin: bind("--listen-admin", self.listen_admin).await?,
        })
    }
}

/// Says how the first survey went. Fails where it shows that the configuration is wrong: every node
/// that answered refused the router's key. Everything else is the world's doing and may pass.
async fn report_survey(router: Router) -> Result<(), CliError> {
    let topology = router.topology().clone();
    let in_time = tokio::time::timeout(FIRST_SURVEY, topology.surveyed()).await.is_ok();
    let snapshot = topology.snapshot();
    let problems = topology.problems();
    match snapshot.epoch() {
        Some(epoch) => {
            tracing::info!(nodes = snapshot.nodes().len(), %epoch, "the topology is known");
        }
        None => {
            let serving = if snapshot.fallback().is_empty() { "nothing" } else { "the fallback" };
            tracing::warn!(serving, in_time, "the topology is not known yet; still trying");
        }
    }
    for problem in problems.iter() {
        tracing::warn!("{problem}");
    }
    let refusals = || {
        problems.iter().filter_map(|problem| match problem {
            Problem::Node(_, error @ ApiError::Refused { .. }) => Some(error),
            _ => None,
        })
    };
    // With a fallback there is somebody to serve clients meanwhile.
    let is_refused = snapshot.epoch().is_none()
        && snapshot.fallback().is_empty()
        && refusals().count() > 0
        && snapshot.nodes().iter().filter(|node| node.reachable).count() == refusals().count();
    match refusals().next() {
        Some(error) if is_refused => Err(CliError::Refused(error.clone())),
        _ => Ok(()),
    }
}
