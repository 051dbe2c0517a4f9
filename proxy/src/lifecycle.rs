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

use arc_swap::{ArcSwap, ArcSwapOption};
use qdrant_router::Router;
use rustls::ServerConfig;
use tokio::{net::TcpListener, sync::watch};

use crate::{admin, cli::CliError, journal::Journal, listen, metrics::Metrics, telemetry::Telemetry};

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
    router: Arc<ArcSwap<Router>>,
    tls: Arc<ArcSwapOption<ServerConfig>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is told of each request beside that.
    pub telemetry: Arc<Telemetry>,
    /// What happened lately.
    pub journal: Arc<Journal>,
    draining: Arc<AtomicBool>,
}

// === impl Proxy ===

impl Proxy {
    /// A proxy around `router` that counts from zero.
    #[must_use]
    pub fn new(router: Router) -> Self {
        let router = Arc::new(ArcSwap::from_pointee(router));
        Self {
            router,
            tls: Arc::default(),
            metrics: Arc::new(Metrics::new()),
            telemetry: Arc::default(),
            journal: Arc::default(),
            draining: Arc::default(),
        }
    }

    /// The router that takes new requests.
    #[must_use]
    pub fn router(&self) -> Router {
        Router::clone(&self.router.load())
    }

    /// Sends new requests through `router`. Those in flight end on the one they began with.
    pub fn replace(&self, router: Router) {
        self.router.store(Arc::new(router));
    }

    /// What new connections of clients speak TLS with; `None` where they speak none.
    #[must_use]
    pub fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.load_full()
    }

    /// Has new connections speak TLS, or none.
    pub fn speak_tls(&self, tls: Option<Arc<ServerConfig>>) {
        self.tls.store(tls);
    }

    /// Whether it has been told to stop.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// Serves until SIGTERM or SIGINT, then takes up to `drain_timeout` to finish what is in flight. Ends
/// early with the error that `failed` resolves to, where that finds that the configuration cannot work.
///
/// # Errors
///
/// The error that `failed` resolves to, or the system's.
pub async fn serve(
    proxy: Proxy,
    listeners: Listeners,
    drain_timeout: Duration,
    failed: impl Future<Output = CliError>,
) -> Result<(), CliError> {
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
    let telemetry = proxy.telemetry.clone();

    tokio::select! {
        signal = signalled() => signal?,
        error = failed => return Err(error),
    }
    tracing::info!(timeout = ?drain_timeout, "stopping: finishing what is in flight");
    proxy.draining.store(true, Ordering::Release);
    stop.send_replace(true);
    let drained = async { (rest.await, grpc.await) };
    if tokio::time::timeout(drain_timeout, drained).await.is_err() {
        tracing::warn!("some requests did not finish in time");
    }
    telemetry.trace(None).await;
    admin.abort();
    Ok(())
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
