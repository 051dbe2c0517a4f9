//! Writes the pieces of a short answer as one, and the answers to many clients one right after the other.
//!
//! A client that is idle is woken by what is written to it. Where many of them are one process (a load balancer, a
//! service), it finds the other answers there, if they follow closely; written between requests that are read, each would
//! wake it anew.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Copying as much costs less than having the system gather it.
pub(super) const SHORT_BYTES: usize = 8 << 10;

/// A buffer that has grown beyond this is not kept.
const MAX_KEPT: usize = 4 << 10;

/// A stream that copies what is short before it writes it, after all that is ready to run has run.
#[derive(Debug)]
pub(super) struct Joined<S> {
    /// What somebody has read of it already.
    read: Bytes,
    stream: S,
    copy: Vec<u8>,
    /// Whether what is to be written has waited for the others.
    is_due: bool,
}

// === impl Joined ===

impl<S> Joined<S> {
    pub(super) fn new(read: Bytes, stream: S) -> Self {
        Self { read, stream, copy: Vec::new(), is_due: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Joined<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.has_remaining() {
            let length = self.read.len().min(buffer.remaining());
            buffer.put_slice(&self.read.split_to(length));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Joined<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, copy, is_due, .. } = self.get_mut();
        if slices.iter().map(|slice| slice.len()).sum::<usize>() > SHORT_BYTES {
            return Pin::new(stream).poll_write_vectored(cx, slices);
        }
        if !std::mem::replace(is_due, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let written = match slices {
            [one] => Pin::new(stream).poll_write(cx, one),
            _ => {
                // What is left over comes again.
                copy.clear();
                slices.iter().for_each(|slice| copy.extend_from_slice(slice));
                let written = Pin::new(stream).poll_write(cx, copy);
                copy.shrink_to(MAX_KEPT);
                written
            }
        };
        *is_due = written.is_pending();
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::future::poll_immediate;
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn pieces_arrive_in_their_order_however_long_they_are() {
        for length in [0, 1, 5_000, SHORT_BYTES + 1] {
            let (ours, mut theirs) = tokio::io::duplex(4_000);
            let sent = [b"head ".to_vec(), vec![b'x'; length], b" end".to_vec()].concat();
            let mut joined = Joined::new(Bytes::new(), ours);
            let send = async {
                let mut done = 0;
                while done < sent.len() {
                    let (head, rest) = sent.split_at(done.max(5));
                    let slices = [IoSlice::new(&head[done.min(5)..]), IoSlice::new(rest)];
                    let skip = usize::from(done >= 5);
                    done += poll_fn(|cx| Pin::new(&mut joined).poll_write_vectored(cx, &slices[skip..]))
                        .await
                        .expect("a pipe");
                }
                drop(joined);
            };
            let mut seen = Vec::new();
            let (_, read) = tokio::join!(send, theirs.read_to_end(&mut seen));
            read.expect("a pipe");
            assert!(seen == sent, "{length}");
        }
    }

    #[tokio::test]
    async fn an_answer_goes_out_after_what_is_ready_has_run() {
        let (ours, mut theirs) = tokio::io::duplex(100);
        let mut joined = Joined::new(Bytes::new(), ours);
        let write = async {
            let slices = [IoSlice::new(b"head "), IoSlice::new(b"body")];
            poll_fn(|cx| Pin::new(&mut joined).poll_write_vectored(cx, &slices)).await.expect("a pipe");
        };
        let other = async {
            let mut early = [0];
            poll_immediate(theirs.read(&mut early)).await.is_none()
        };
        let ((), is_first) = tokio::join!(write, other);
        assert!(is_first, "what was ready too has run before");
        let mut seen = [0; 9];
        theirs.read_exact(&mut seen).await.expect("a pipe");
        assert_eq!(seen, *b"head body");
    }
}
