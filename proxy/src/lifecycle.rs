//! Start, serve, drain.

use std::{
    future::Future,
    io,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use qdrant_router::Router;
use rustls::ServerConfig;
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
};

use crate::{
    admin, cli::CliError, journal::Journal, listen, metrics::Metrics, telemetry::Telemetry, workers::Workers,
};

/// How long the proxy stops, unless configured otherwise.
pub const SHUTDOWN: Shutdown =
    Shutdown { delay: Duration::from_secs(5), drain_timeout: Duration::from_secs(30) };

/// How the proxy stops.
#[derive(Clone, Copy, Debug)]
pub struct Shutdown {
    /// How long it goes on serving after SIGTERM, while it is no longer ready: load balancers need a moment
    /// to notice, and send new connections until then.
    pub delay: Duration,
    /// How long requests in flight may take to finish after that.
    pub drain_timeout: Duration,
}

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
    replaced: Arc<Notify>,
    tls: Arc<ArcSwapOption<ServerConfig>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is told of each request beside that.
    pub telemetry: Arc<Telemetry>,
    /// What happened lately.
    pub journal: Arc<Journal>,
    /// How old connections of clients become; as old as their clients like, where it is not set.
    pub max_connection_age: Option<Duration>,
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
            replaced: Arc::default(),
            tls: Arc::default(),
            metrics: Arc::new(Metrics::new()),
            telemetry: Arc::default(),
            journal: Arc::default(),
            max_connection_age: None,
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
        self.replaced.notify_waiters();
    }

    /// Resolves once the router is replaced after this call.
    pub(crate) fn replaced(&self) -> impl Future<Output = ()> + '_ {
        self.replaced.notified()
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

/// Serves on so many `workers` until SIGTERM or SIGINT, then stops as `shutdown` says. A person's SIGINT, or a second signal, skips
/// the delay. Ends early with the error that `failed` resolves to, where that finds that the configuration
/// cannot work.
///
/// # Errors
///
/// The error that `failed` resolves to, or the system's.
pub async fn serve(
    proxy: Proxy,
    listeners: Listeners,
    workers: NonZeroUsize,
    shutdown: Shutdown,
    failed: impl Future<Output = CliError>,
) -> Result<(), CliError> {
    let (stop, stopped) = watch::channel(false);
    tracing::info!(
        rest = %listeners.rest.local_addr()?,
        grpc = %listeners.grpc.local_addr()?,
        admin = %listeners.admin.local_addr()?,
        "listening"
    );
    let workers = Arc::new(Workers::start(workers, &proxy)?);
    let rest =
        tokio::spawn(listen::serve_on(workers.clone(), listeners.rest, proxy.clone(), stopped.clone()));
    let grpc = tokio::spawn(listen::serve_on(workers, listeners.grpc, proxy.clone(), stopped));
    let admin = tokio::spawn(admin::serve(listeners.admin, proxy.clone()));
    let telemetry = proxy.telemetry.clone();

    let mut signals = Signals::listen()?;
    let signal = tokio::select! {
        signal = signals.next() => signal,
        error = failed => return Err(error),
    };
    proxy.draining.store(true, Ordering::Release);
    if signal == Signal::Terminate && !shutdown.delay.is_zero() {
        tracing::info!(delay = ?shutdown.delay, "stopping: not ready any more, and still serving");
        let _ = tokio::time::timeout(shutdown.delay, signals.next()).await;
    }
    tracing::info!(timeout = ?shutdown.drain_timeout, "stopping: finishing what is in flight");
    stop.send_replace(true);
    let drained = async { (rest.await, grpc.await) };
    if tokio::time::timeout(shutdown.drain_timeout, drained).await.is_err() {
        tracing::warn!("some connections did not end in time");
    }
    telemetry.trace(None).await;
    admin.abort();
    Ok(())
}

/// What asks the proxy to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    /// SIGTERM: whoever runs the host.
    Terminate,
    /// SIGINT: somebody at the keyboard.
    Interrupt,
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Interrupt,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> Signal {
        let _ = tokio::signal::ctrl_c().await;
        Signal::Interrupt
    }
}
