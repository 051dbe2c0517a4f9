//! Faults, and how they reach the sockets.
//!
//! A fault is a value that connections and handlers watch. Hanging freezes the byte stream itself, so no protocol
//! above it can notice anything but silence; slowness is added per answer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::cut::Cut;

/// What is wrong with a node. Applies to all three of its ports, unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Accepts connections and never answers; existing connections freeze. Lifting the fault lets them go on.
    Hang,
    /// Every answer is delayed by this much.
    Slow(Duration),
    /// Requests are executed, and the connection is reset when half of the answer's body has been sent. Only on the two
    /// public ports: the other nodes find nothing wrong.
    Reset,
    /// The ports are closed and existing connections dropped, while the process lives on.
    Refuse,
}

/// The receiving end of a node's fault switch.
pub(crate) type FaultWatch = watch::Receiver<Option<Fault>>;

/// Waits while the node hangs. A vanished switch means that nothing hangs any more.
pub(crate) async fn thaw(fault: &FaultWatch) {
    drop(fault.clone().wait_for(|fault| *fault != Some(Fault::Hang)).await);
}

/// Waits as long as the fault delays an answer.
pub(crate) async fn stall(fault: &FaultWatch) {
    let now = *fault.borrow();
    if let Some(Fault::Slow(delay)) = now {
        tokio::time::sleep(delay).await;
    }
    thaw(fault).await;
}

/// A stream that stands still while its node hangs, and ends with a reset where it is cut.
pub(crate) struct FaultyStream {
    stream: TcpStream,
    fault: FaultWatch,
    thaw: Option<BoxFuture<'static, ()>>,
    cut: Cut,
}

// === impl FaultyStream ===

impl FaultyStream {
    pub(crate) fn new(stream: TcpStream, fault: FaultWatch, cut: Cut) -> Self {
        Self { stream, fault, thaw: None, cut }
    }

    fn poll_thaw(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(waiting) = &mut self.thaw {
                ready!(waiting.as_mut().poll(cx));
                self.thaw = None;
            }
            if *self.fault.borrow() != Some(Fault::Hang) {
                return Poll::Ready(());
            }
            let fault = self.fault.clone();
            self.thaw = Some(Box::pin(async move { thaw(&fault).await }));
        }
    }
}

impl Drop for FaultyStream {
    fn drop(&mut self) {
        if self.cut.is_done() {
            // Without lingering, closing is a reset.
            drop(SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)));
        }
    }
}

impl AsyncRead for FaultyStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_thaw(cx));
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for FaultyStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_thaw(cx));
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_thaw(cx));
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.cut.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_thaw(cx));
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
