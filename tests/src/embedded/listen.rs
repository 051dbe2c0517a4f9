//! A port: accepts connections, serves each with one service, and closes when the node dies or refuses.

use std::future::Future;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::cut::{Cut, boxed, halve};
use super::fault::{Fault, FaultWatch, FaultyStream};
use super::life::Life;
use super::misconduct::Misconduct;
use super::streams::Streams;

/// How long Qdrant keeps an idle REST connection, and waits for the head of a request.
const REST_IDLE: Duration = Duration::from_secs(5);

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
}

/// Under what a port serves.
#[derive(Clone, Debug)]
pub(crate) struct Conditions {
    pub(crate) life: Life,
    pub(crate) fault: FaultWatch,
    /// What clients may be put through; nodes among themselves are not.
    pub(crate) misconduct: Option<Arc<Misconduct>>,
}

/// A port that opens and closes at once, from wherever it is told to.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    address: SocketAddr,
    speaks: Speaks,
    listener: watch::Sender<Option<Arc<TcpListener>>>,
}

// === impl Port ===

impl Port {
    /// Opens a port. Nothing is accepted before [`Self::serve`].
    pub(crate) fn bind(address: SocketAddr, speaks: Speaks) -> io::Result<Self> {
        let (listener, _) = watch::channel(Some(Arc::new(bind(address)?)));
        Ok(Self { address, speaks, listener })
    }

    /// Opens the port again, unless it is open. Must be called inside a runtime.
    pub(crate) fn open(&self) {
        self.listener.send_if_modified(|listener| {
            // Somebody else may hold the port for a moment; the serving task tries again.
            let opened = listener.is_none().then(|| bind(self.address).ok()).flatten();
            let changed = opened.is_some();
            *listener = listener.take().or(opened.map(Arc::new));
            changed
        });
    }

    /// Closes the port: from here on connections are refused. Those that exist are dropped by the serving task.
    pub(crate) fn close(&self) {
        if let Some(listener) = self.listener.send_replace(None) {
            // The task that accepts still holds the socket; ending its listening state does not wait for it.
            drop(SockRef::from(&*listener).shutdown(Shutdown::Both));
        }
    }

    /// Serves until `life` is over. The task ends when the port and its connections are closed.
    pub(crate) fn serve<S, F, B>(&self, service: S, conditions: Conditions) -> JoinHandle<()>
    where
        S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let port = self.clone();
        let Conditions { life, fault, .. } = conditions.clone();
        let mut changes = self.listener.subscribe();
        tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let listener = changes.borrow_and_update().clone();
                tokio::select! {
                    biased;
                    () = life.over() => break,
                    _ = changes.changed() => {}
                    () = async {
                        match &listener {
                            Some(listener) => {
                                accept(listener, &mut connections, &service, port.speaks, &conditions).await;
                            }
                            None => reopen(&port, &fault).await,
                        }
                    } => {}
                }
                connections.shutdown().await;
            }
            port.close();
            connections.shutdown().await;
        })
    }
}

/// Opens a port that ought to be open and could not be at first.
async fn reopen(port: &Port, fault: &FaultWatch) {
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if *fault.borrow() != Some(Fault::Refuse) {
            port.open();
        }
    }
}

/// `SO_REUSEADDR` lets a restarted node take its port back while old connections linger.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

async fn accept<S, F, B>(
    listener: &TcpListener,
    connections: &mut JoinSet<()>,
    service: &S,
    speaks: Speaks,
    conditions: &Conditions,
) where
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, service.clone(), speaks, conditions.clone()));
                }
                // Out of file descriptors, most likely: wait rather than spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Errors end the connection and concern nobody else.
async fn connection<S, F, B>(stream: TcpStream, service: S, speaks: Speaks, conditions: Conditions)
where
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Conditions { life, fault, misconduct } = conditions;
    drop(stream.set_nodelay(true));
    let cut = Cut::default();
    let io = TokioIo::new(FaultyStream::new(stream, fault.clone(), cut.clone()));
    let streams =
        misconduct.as_ref().filter(|_| speaks == Speaks::Http2).map(|misconduct| &misconduct.streams);
    let mut drains = streams.map(Streams::drains);
    let service = hyper::service::service_fn(|request| {
        // A refused stream has not been looked at.
        let answer = streams.is_none_or(|streams| !streams.refuses()).then(|| service(request));
        let public = misconduct.is_some();
        let (fault, cut) = (fault.clone(), cut.clone());
        async move {
            let answer = answer.ok_or(h2::Error::from(h2::Reason::REFUSED_STREAM))?.await;
            if public && *fault.borrow() == Some(Fault::Reset) {
                return Ok(halve(answer, cut, speaks == Speaks::Http1).await);
            }
            Ok::<_, h2::Error>(answer.map(boxed))
        }
    });
    match speaks {
        Speaks::Http1 => {
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(REST_IDLE);
            tokio::select! {
                served = server.serve_connection(io, service) => drop(served),
                () = cut.done() => {}
            }
        }
        Speaks::Http2 => {
            let mut server = hyper::server::conn::http2::Builder::new(life);
            server.initial_stream_window_size(4 << 20).initial_connection_window_size(16 << 20);
            let mut serving = pin!(server.serve_connection(io, service));
            loop {
                tokio::select! {
                    served = serving.as_mut() => break drop(served),
                    () = cut.done() => break,
                    () = next_drain(drains.as_mut()) => serving.as_mut().graceful_shutdown(),
                }
            }
        }
    }
}

/// Waits for the next drain, which may never come.
async fn next_drain(drains: Option<&mut watch::Receiver<u64>>) {
    if let Some(drains) = drains
        && drains.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}
