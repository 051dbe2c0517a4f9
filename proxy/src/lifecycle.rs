//! Start, serve, drain.

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use qdrant_router::Router;
use tokio::{net::TcpListener, sync::watch};

use crate::{admin, cli::CliError, listen, metrics::Metrics};

/// How long requests in flight may take to finish after a signal to stop, unless configured otherwise.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// The ports that are served.
#[derive(Debug)]
pub struct Listeners {
    /// For REST clients.
    pub rest: TcpListener,
    /// For gRPC clients.
    pub grpc: TcpListener,
    /// For people and machines that watch.
    pub admin: TcpListener,
}

/// What the parts of a running proxy share.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// The router.
    pub router: Router,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    draining: Arc<AtomicBool>,
}

// === impl Proxy ===

impl Proxy {
    /// A proxy around `router` that counts from zero.
    #[must_use]
    pub fn new(router: Router) -> Self {
        Self { router, metrics: Arc::new(Metrics::new()), draining: Arc::default() }
    }

    /// Whether it has been told to stop.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// Serves until SIGTERM or SIGINT, then takes up to `drain_timeout` to finish what is in flight. Ends early with the error of
/// `check`, where that finds that the configuration cannot work.
///
/// # Errors
///
/// The error of `check`, or of the system.
pub async fn serve(
    router: Router,
    listeners: Listeners,
    drain_timeout: Duration,
    check: impl Future<Output = Result<(), CliError>>,
) -> Result<(), CliError> {
    let proxy = Proxy::new(router);
    let (stop, stopped) = watch::channel(false);
    tracing::info!(
        rest = %listeners.rest.local_addr()?,
        grpc = %listeners.grpc.local_addr()?,
        admin = %listeners.admin.local_addr()?,
        "listening"
    );
    let rest = tokio::spawn(listen::serve(listeners.rest, proxy.clone(), stopped.clone()));
    let grpc = tokio::spawn(listen::serve(listeners.grpc, proxy.clone(), stopped));
    let admin = tokio::spawn(admin::serve(listeners.admin, proxy.clone()));

    tokio::select! {
        signal = signalled() => signal?,
        error = failed(check) => return Err(error),
    }
    tracing::info!(timeout = ?drain_timeout, "stopping: finishing what is in flight");
    proxy.draining.store(true, Ordering::Release);
    stop.send_replace(true);
    let drained = async { (rest.await, grpc.await) };
    if tokio::time::timeout(drain_timeout, drained).await.is_err() {
        tracing::warn!("some requests did not finish in time");
    }
    admin.abort();
    Ok(())
}

/// Resolves when `check` fails, and never when it does not.
async fn failed(check: impl Future<Output = Result<(), CliError>>) -> CliError {
    match check.await {
        Err(error) => error,
        Ok(()) => std::future::pending().await,
    }
}

#[cfg(unix)]
async fn signalled() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(not(unix))]
async fn signalled() -> io::Result<()> {
    tokio::signal::ctrl_c().await
}
