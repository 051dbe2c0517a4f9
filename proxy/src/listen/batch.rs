//! Writes what one turn of a connection produces in one piece.
//!
//! HTTP/2 writes frame by frame, and flushes after each whose data it does not copy: a system call per request where one
//! would do for dozens. [`Batched`] gathers what is written, and whoever drives the connection sends it on at the end of
//! each turn with [`Batched::drive`].

use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// With so many bytes gathered, they are sent on before the turn is over.
const MAX_GATHERED: usize = 64 << 10;

/// Larger writes are not copied.
const MAX_COPIED: usize = 16 << 10;

/// A buffer that has grown beyond this is not kept by a connection that has nothing to say.
const MAX_KEPT: usize = 4 << 10;

/// A connection that gathers what is written to it. Clones are the same connection.
///
/// Flushing does nothing: use it below a protocol whose every turn is driven through [`drive`](Self::drive).
#[derive(Debug)]
pub(super) struct Batched<S>(Arc<Mutex<Inner<S>>>);

#[derive(Debug)]
struct Inner<S> {
    stream: S,
    gathered: Vec<u8>,
    /// How many of those bytes have been sent on.
    sent: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Batched<S> {
    /// Gathers what is written to `stream`.
    pub(super) fn new(stream: S) -> Self {
        Self(Arc::new(Mutex::new(Inner { stream, gathered: Vec::new(), sent: 0 })))
    }

    /// Drives `protocol`, which writes to a clone of this, and sends on what each of its turns has written.
    pub(super) async fn drive<F: Future>(&self, protocol: F) -> F::Output {
        let mut protocol = pin!(protocol);
        poll_fn(|cx| {
            let outcome = protocol.as_mut().poll(cx);
            // An error is met again by the protocol, which then reads.
            let _ = self.inner().poll_send(cx);
            outcome
        })
        .await
    }

    fn inner(&self) -> MutexGuard<'_, Inner<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Clone for Batched<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    /// Sends on what has been gathered.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.gathered.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        self.sent = 0;
        self.gathered.clear();
        self.gathered.shrink_to(MAX_KEPT);
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Makes room for `length` more bytes, in the order in which they are written.
    fn poll_room(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<io::Result<()>> {
        if self.gathered.len() + length > MAX_GATHERED || length > MAX_COPIED {
            return self.poll_send(cx);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Batched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Batched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner();
        let length = slices.iter().map(|slice| slice.len()).sum();
        ready!(inner.poll_room(cx, length))?;
        if length > MAX_COPIED {
            return Pin::new(&mut inner.stream).poll_write_vectored(cx, slices);
        }
        slices.iter().for_each(|slice| inner.gathered.extend_from_slice(slice));
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        ready!(inner.poll_send(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_one_turn_writes_is_sent_at_its_end_and_in_order() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let mut batched = Batched::new(ours);
        let long = vec![b'x'; MAX_COPIED + 1];
        batched.write_all(b"a").await.expect("a pipe");
        batched.flush().await.expect("a pipe");
        let mut seen = vec![0; 1 + long.len() + 3];
        let early = futures_util::future::poll_immediate(theirs.read(&mut seen)).await;
        assert!(early.is_none(), "nothing is sent within a turn");

        let mut writer = batched.clone();
        let turn = async {
            writer.write_all(&long).await?;
            writer.write_all(b"b").await?;
            writer.write_all(b"c").await?;
            writer.write_all(b"d").await
        };
        batched.drive(turn).await.expect("a pipe");
        theirs.read_exact(&mut seen).await.expect("all of it");
        assert_eq!(seen, [&b"a"[..], &long, b"bcd"].concat());
    }
}
