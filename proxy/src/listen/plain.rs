//! Plain requests of HTTP/1.1.
//!
//! Nearly all requests are alike: a method of Qdrant's routes, a path, a body of known and moderate length. They are
//! served here, with nothing between their bytes and the router. The first one of a connection that is anything else
//! (in chunks, long, with an expectation, malformed) stays as it came, for a server that knows all of HTTP.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use qdrant_router::request::BoxError;
use qdrant_router_http2::{TURN_BYTES, after_others};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, Sleep, sleep_until},
};

use self::head::{Found, Framing, find, write_head};
use super::{HEADER_TIMEOUT, SHORT_BYTES};

mod head;

/// What is read at once; a body that is longer is read to its end.
const READ_BYTES: usize = 8 << 10;

/// Buffers that have grown beyond this are not kept.
const MAX_KEPT: usize = 16 << 10;

/// A connection whose requests are plain so far.
#[derive(Debug)]
pub(super) struct Plain<S> {
    stream: S,
    /// What has been read and not yet taken.
    read: BytesMut,
    /// What is to be written.
    out: Vec<u8>,
    /// When it is as old as it may become. It then ends with an answer, and not between two requests, where it would take
    /// with it what its client is just sending.
    aged: Option<Instant>,
}

/// What a connection brought, from the first request that is not plain, and what brings the rest.
#[derive(Debug)]
pub(super) struct Other<S> {
    pub(super) stream: S,
    pub(super) read: Bytes,
}

/// What comes next on a connection.
#[expect(clippy::large_enum_variant, reason = "a request is what nearly always comes")]
enum Next {
    Request(Request<Full<Bytes>>),
    Other,
    /// The client has left, says nothing, or is not to say more.
    Nothing,
}

// === impl Plain ===

impl<S: AsyncRead + AsyncWrite + Unpin> Plain<S> {
    pub(super) fn new(stream: S, aged: Option<Instant>) -> Self {
        Self { stream, read: BytesMut::new(), out: Vec::new(), aged }
    }

    /// Serves the connection with what `answer` makes of its requests: to its end, until one was answered after it
    /// `is_ending` or is as old as it may become, or until one comes that is not plain.
    ///
    /// # Errors
    ///
    /// When the client leaves before it has its answer, or an answer breaks off.
    pub(super) async fn serve<A, B>(
        mut self,
        answer: impl Fn(Request<Full<Bytes>>) -> A,
        is_ending: &AtomicBool,
    ) -> io::Result<Option<Other<S>>>
    where
        A: Future<Output = Response<B>>,
        B: Body<Data = Bytes, Error: Into<BoxError>>,
    {
        let mut is_first = true;
        let mut began = Instant::now();
        let mut silence = pin!(sleep_until(began + HEADER_TIMEOUT));
        loop {
            let is_over = || !is_first && is_ending.load(Ordering::Relaxed);
            let request = match self.next(silence.as_mut(), began, is_over).await? {
                Next::Request(request) => request,
                Next::Other => return Ok(Some(Other { stream: self.stream, read: self.read.freeze() })),
                Next::Nothing => break,
            };
            let response = {
                let mut answer = pin!(answer(request));
                poll_fn(|cx| match answer.as_mut().poll(cx) {
                    Poll::Ready(response) => Poll::Ready(Ok(response)),
                    Poll::Pending => self.poll_gone(cx).map(Err),
                })
                .await?
            };
            // A client that has sent more already has an answer to that, too.
            let is_old = self.read.is_empty() && self.aged.is_some_and(|aged| aged <= began);
            let is_last = is_old || is_ending.load(Ordering::Relaxed);
            self.send(response, is_last).await?;
            if is_last {
                break;
            }
            (is_first, began) = (false, Instant::now());
        }
        self.stream.shutdown().await?;
        Ok(None)
    }

    /// Waits for the next request, which has to have come [`HEADER_TIMEOUT`] after it `began` to be waited for.
    async fn next(
        &mut self,
        mut silence: Pin<&mut Sleep>,
        began: Instant,
        is_over: impl Fn() -> bool,
    ) -> io::Result<Next> {
        let (mut needed, mut has_head) = (1, false);
        poll_fn(|cx| {
            loop {
                if self.read.len() >= needed {
                    match find(&mut self.read) {
                        Found::Request(request) => {
                            if needed > MAX_KEPT && self.read.is_empty() {
                                self.read = BytesMut::new();
                            }
                            return Poll::Ready(Ok(Next::Request(request)));
                        }
                        Found::Other => return Poll::Ready(Ok(Next::Other)),
                        Found::PartOfHead => needed = self.read.len() + 1,
                        Found::PartOfBody { whole } => (needed, has_head) = (whole, true),
                    }
                }
                if self.read.is_empty() && is_over() {
                    return Poll::Ready(Ok(Next::Nothing));
                }
                let missing = needed.saturating_sub(self.read.len());
                self.read.reserve(missing.max(READ_BYTES));
                match self.poll_read(cx) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Next::Nothing)),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
            // The clock is left as it was set for an earlier request, and set anew where it ends too early.
            while silence.as_mut().poll(cx).is_ready() {
                if silence.deadline() >= began + HEADER_TIMEOUT {
                    // A body may take longer.
                    return Poll::Ready(Ok(if has_head { Next::Other } else { Next::Nothing }));
                }
                silence.as_mut().reset(began + HEADER_TIMEOUT);
            }
            Poll::Pending
        })
        .await
    }

    /// Looks whether the client has left, who then needs no answer. What it sends meanwhile is for later; who sends
    /// requests in advance and then no more waits for their answers.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        while self.read.len() < READ_BYTES {
            if self.read.len() == self.read.capacity() {
                self.read.reserve(READ_BYTES);
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(0)) if self.read.is_empty() => {
                    return Poll::Ready(io::ErrorKind::UnexpectedEof.into());
                }
                Poll::Ready(Ok(0)) => return Poll::Pending,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Pending
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        pin!(self.stream.read_buf(&mut self.read)).poll(cx)
    }

    /// Writes an answer; what is there of it goes out at once.
    async fn send<B>(&mut self, response: Response<B>, is_last: bool) -> io::Result<()>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>>,
    {
        let (head, body) = response.into_parts();
        let mut body = pin!(body);
        let framing = Framing::of(head.status, body.size_hint().exact());
        write_head(&mut self.out, &head, framing, is_last);
        let (mut sent, mut turn) = (0, 0);
        while framing != Framing::Nothing && !body.is_end_stream() {
            let frame = poll_fn(|cx| match body.as_mut().poll_frame(cx) {
                Poll::Ready(frame) => Poll::Ready(Ok(Some(frame))),
                // What there is goes out while more of it is waited for.
                Poll::Pending if !self.out.is_empty() => Poll::Ready(Ok(None)),
                Poll::Pending => self.poll_gone(cx).map(Err),
            });
            let Some(frame) = frame.await? else {
                self.write(&[]).await?;
                continue;
            };
            let Some(frame) = frame else { break };
            // Trailers have no meaning to clients of REST.
            let data = frame.map_err(io::Error::other)?.into_data().unwrap_or_default();
            sent += data.len() as u64;
            framing.begin(&mut self.out, data.len());
            if self.out.len() + data.len() > SHORT_BYTES {
                self.write(&data).await?;
                turn += data.len();
                if turn >= TURN_BYTES {
                    turn = 0;
                    tokio::task::yield_now().await;
                }
            } else {
                self.out.extend_from_slice(&data);
            }
            framing.end(&mut self.out, data.len());
        }
        match framing {
            Framing::Length(length) if length != sent => return Err(io::ErrorKind::UnexpectedEof.into()),
            Framing::Chunks => self.out.extend_from_slice(head::LAST_CHUNK),
            Framing::Length(_) | Framing::Nothing => {}
        }
        after_others().await;
        self.write(&[]).await?;
        self.out.shrink_to(MAX_KEPT);
        Ok(())
    }

    /// Writes what is there to be written, and `data` after it.
    async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match data {
            [] => self.stream.write_all(&self.out).await?,
            data => self.stream.write_all_buf(&mut Buf::chain(self.out.as_slice(), data)).await?,
        }
        self.out.clear();
        self.stream.flush().await
    }
}

#[cfg(test)]
mod tests;
