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
        mpsc,
    },
    thread,
};

use qdrant_router::Router;
use tokio::{
    net::TcpStream,
    runtime::{Builder, Handle},
    sync::oneshot,
};

use crate::{
    lifecycle::Proxy,
    listen::{Arrival, Attended, Floods, Turns, Visit},
};

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
    pub(crate) floods: Floods,
    pub(crate) turns: Turns,
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
        let (seat, visit) = (Seat(worker.connections.clone()), Visit::new(worker.desk.clone()));
        worker.runtime.spawn(Attended::new(visit.clone(), async move {
            match TcpStream::from_std(tcp) {
                Ok(tcp) => arrival.serve(tcp, visit).await,
                Err(error) => tracing::warn!(%error, "a connection could not be taken over"),
            }
            drop(seat);
        }));
    }
}

// === impl Worker ===

impl Worker {
    fn start(number: usize, proxy: &Proxy) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (started, starts) = mpsc::sync_channel(1);
        let proxy = proxy.clone();
        // The runtime lives and ends on its thread: nobody who waits for others may end one.
        thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(error))),
            };
            runtime.block_on(async {
                let desk = Arc::new(Desk::of_worker(proxy));
                let _ = started.send(Ok((Handle::current(), desk.clone())));
                desk.attend(stopped).await;
            });
        })?;
        let (runtime, desk) = starts.recv().map_err(io::Error::other)??;
        Ok(Self { runtime, desk, connections: Arc::default(), _stop: stop })
    }
}

// === impl Desk ===

impl Desk {
    /// On the proxy's own connections.
    pub(crate) fn shared(proxy: Proxy) -> Self {
        Self { proxy, floods: Floods::default(), turns: Turns::start(), own: None }
    }

    fn of_worker(proxy: Proxy) -> Self {
        let own = Own::of(proxy.router());
        Self { proxy, floods: Floods::default(), turns: Turns::start(), own: Some(Mutex::new(own)) }
    }

    /// Takes over what the proxy has after a reload, also where no request comes, until it is told to stop.
    async fn attend(&self, mut stopped: oneshot::Receiver<()>) {
        loop {
            let replaced = self.proxy.replaced();
            self.router();
            tokio::select! {
                biased;
                // Ends with an error, which is the sender's end.
                _ = &mut stopped => return,
                () = replaced => {}
            }
        }
    }

    /// The router that takes new requests.
    pub(crate) fn router(&self) -> Router {
        let shared = self.proxy.router();
        let Some(own) = &self.own else { return shared };
        let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn router() -> Router {
        Router::builder().node("127.0.0.1").build().expect("a router")
    }

    #[tokio::test]
    async fn a_worker_without_work_takes_over_the_new_router() {
        let proxy = Proxy::new(router());
        let workers = Workers::start(NonZeroUsize::new(2).expect("two"), &proxy).expect("threads");
        let new = router();
        proxy.replace(new.clone());
        let has_it = |worker: &Worker| {
            let own = worker.desk.own.as_ref().expect("a worker's").lock().expect("a lock");
            own.shared.is_same(&new)
        };
        let all = async {
            while !workers.0.iter().all(has_it) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), all).await.expect("no worker keeps the old one");
    }
}
