//! Threads that serve connections, each with a runtime and connections to the nodes of its own.
//!
//! What a request touches on its way there and back belongs to one thread: nothing is handed to another, and no lock
//! is contended. A connection goes to the worker that has the fewest, and stays there.

use std::{
    io,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use qdrant_router::Router;
use tokio::{
    net::TcpStream,
    runtime::{Builder, Handle},
    sync::oneshot,
};

use crate::{lifecycle::Proxy, listen::Arrival};

/// Running workers. They end when this is dropped.
#[derive(Debug)]
pub struct Workers(Vec<Worker>);

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    desk: Arc<Desk>,
    connections: Arc<AtomicUsize>,
    _stop: oneshot::Sender<()>,
}

/// Where the requests of some connections find their router.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) proxy: Proxy,
    own: Option<Mutex<Own>>,
}

/// The proxy's router, and the same on connections of a worker.
#[derive(Debug)]
struct Own {
    shared: Router,
    own: Router,
}

/// Counts a connection until it is dropped.
struct Seat(Arc<AtomicUsize>);

// === impl Workers ===

impl Workers {
    /// Starts so many workers for `proxy`.
    ///
    /// # Errors
    ///
    /// When the system gives no more threads.
    pub fn start(count: NonZeroUsize, proxy: &Proxy) -> io::Result<Self> {
        (0..count.get()).map(|number| Worker::start(number, proxy)).collect::<io::Result<_>>().map(Self)
    }

    /// Has the least busy worker serve a connection.
    pub(crate) fn serve(&self, tcp: TcpStream, arrival: Arrival) {
        let Some(worker) = self.0.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed))
        else {
            return;
        };
        let tcp = match tcp.into_std() {
            Ok(tcp) => tcp,
            Err(error) => return tracing::warn!(%error, "a connection could not be handed over"),
        };
        worker.connections.fetch_add(1, Ordering::Relaxed);
        let (seat, desk) = (Seat(worker.connections.clone()), worker.desk.clone());
        worker.runtime.spawn(async move {
            match TcpStream::from_std(tcp) {
                Ok(tcp) => arrival.serve(tcp, desk).await,
                Err(error) => tracing::warn!(%error, "a connection could not be taken over"),
            }
            drop(seat);
        });
    }
}

// === impl Worker ===

impl Worker {
    fn start(number: usize, proxy: &Proxy) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let desk = {
            let _here = runtime.enter();
            Arc::new(Desk::of_worker(proxy.clone()))
        };
        let (stop, stopped) = oneshot::channel::<()>();
        thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            // Ends with an error, which is the sender's end.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self { runtime: handle, desk, connections: Arc::default(), _stop: stop })
    }
}

// === impl Desk ===

impl Desk {
    /// On the proxy's own connections.
    pub(crate) fn shared(proxy: Proxy) -> Self {
        Self { proxy, own: None }
    }

    fn of_worker(proxy: Proxy) -> Self {
        let own = Own::of(proxy.router());
        Self { proxy, own: Some(Mutex::new(own)) }
    }

    /// The router that takes new requests.
    pub(crate) fn router(&self) -> Router {
        let shared = self.proxy.router();
        let Some(own) = &self.own else { return shared };
        let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
        // After a reload the proxy has another one.
        if !own.shared.is_same(&shared) {
            *own = Own::of(shared);
        }
        own.own.clone()
    }
}

// === impl Own ===

impl Own {
    fn of(shared: Router) -> Self {
        Self { own: shared.with_own_connections(), shared }
    }
}

// === impl Seat ===

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
