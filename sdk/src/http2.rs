//! A client of HTTP/2 (RFC 9113) for requests that are passed on.
//!
//! A general client keeps requests and answers in types of its own, and moves each frame through several tasks, queues
//! and state machines. Of one that passes requests on less is asked: headers are encoded from where they are, a body
//! that is there goes out with its head, and an answer is cut out of the bytes that were read. That takes a quarter of
//! the instructions.
//!
//! [`Streams`] is the protocol without I/O. A [`Connection`] shares it between those who have requests, as [`Stream`]s,
//! and the one task that reads and writes: [`drive`].

use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Method, Response};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, Sleep},
};

mod frame;
mod hpack;
mod huffman;
mod outbox;
mod streams;

pub(crate) use self::streams::{Next, Sent, Unopened};
use self::{hpack::Encoder, outbox::Outbox, streams::Streams};

/// Flow-control windows. A reply of ten megabytes should not wait for a round trip per 64 KiB, and clients that do not
/// read theirs must not take the connection from the others: it has room for 128 of them, beyond which another
/// connection is opened.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 64 << 20;

/// Headers of an answer; Qdrant's trailers are short.
const MAX_HEADER_LIST_BYTES: usize = 64 << 10;

/// A quiet connection is asked whether it still lives this often,
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// and is given up when the answer takes longer than this. A node that hangs is noticed much sooner, by its silence;
/// what may not be sent elsewhere waits for it as long as this.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// So much is read at once, and more as long as that is not enough.
const READ_BYTES: usize = 16 << 10;
const MAX_READ_BYTES: usize = 64 << 10;

/// So often a connection is read from before others have their turn.
const READS: usize = 4;

/// How long the end of a connection may take.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// A connection to one server. It ends once this is dropped and the last of its streams is over.
pub(crate) struct Connection(Arc<Shared>);

struct Shared {
    streams: Mutex<Streams>,
    under_way: AtomicUsize,
}

/// A request under way, and its answer. What is dropped before its end is reset.
pub(crate) struct Stream {
    shared: Arc<Shared>,
    id: u32,
}

/// Someone who waits until a stream may be opened.
struct Waiting<'a> {
    shared: &'a Shared,
    /// The place in the line.
    ticket: Option<u64>,
}

/// The head of a request, as it is and where it is.
#[derive(Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    pub(crate) method: &'a Method,
    pub(crate) is_encrypted: bool,
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
    pub(crate) headers: &'a HeaderMap,
    /// Whether a header stays behind.
    pub(crate) is_left_out: &'a dyn Fn(&HeaderName) -> bool,
}

/// An answer does not come, or not to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Broken {
    /// Whether the server has certainly not looked at the request.
    pub(crate) is_unprocessed: bool,
    pub(crate) reason: Box<str>,
}

/// What reads and writes.
struct Driver<S> {
    shared: Arc<Shared>,
    stream: S,
    read: BytesMut,
    /// How much is read at once.
    most: usize,
    /// What is being written, and how many bytes have been.
    outbox: Outbox,
    written: u64,
    /// Whether the stream keeps nothing of that back, as TLS may.
    is_flushed: bool,
    /// When to ask whether the server is there, or no longer to wait for its answer.
    clock: Pin<Box<Sleep>>,
    is_asked: bool,
    /// Whether anything has come since that was last looked at.
    is_heard: bool,
}

/// A connection over `stream`, and what [drives](drive) it.
pub(crate) fn connect<S>(stream: S) -> (Connection, impl Future<Output = String> + use<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let shared = Arc::new(Shared { streams: Mutex::new(Streams::new()), under_way: AtomicUsize::new(0) });
    let connection = Connection(shared.clone());
    (connection, drive(shared, stream))
}

/// Reads and writes until the connection is over; tells why that is.
async fn drive<S: AsyncRead + AsyncWrite + Unpin>(shared: Arc<Shared>, stream: S) -> String {
    let mut driver = Driver {
        shared,
        stream,
        read: BytesMut::new(),
        most: READ_BYTES,
        outbox: Outbox::default(),
        written: 0,
        is_flushed: true,
        clock: Box::pin(tokio::time::sleep(PING_INTERVAL)),
        is_asked: false,
        is_heard: false,
    };
    let reason = poll_fn(|cx| driver.poll(cx)).await;
    driver.fail(&reason);
    let _ = tokio::time::timeout(SHUTDOWN, driver.stream.shutdown()).await;
    reason
}

// === impl Connection ===

impl Connection {
    /// Opens a stream for a request. `body` is all of its body, and taken if the stream is opened; or `None` where it is
    /// still to come.
    pub(crate) fn open(&self, request: Outgoing<'_>, body: &mut Option<Bytes>) -> Result<Stream, Unopened> {
        let id = self.0.streams().open(request, body)?;
        self.0.under_way.fetch_add(1, Ordering::Relaxed);
        Ok(Stream { shared: self.0.clone(), id })
    }

    /// Resolves when a stream may be opened, or none ever again.
    pub(crate) async fn room(&self) {
        let mut waiting = Waiting { shared: &self.0, ticket: None };
        poll_fn(|cx| waiting.poll(cx)).await;
    }

    /// Whether no more streams can be opened.
    pub(crate) fn is_over(&self) -> bool {
        self.0.streams().room() == Err(Unopened::Over)
    }

    /// How many requests are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.0.under_way.load(Ordering::Relaxed)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.streams().leave();
    }
}

// === impl Waiting ===

impl Waiting<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut streams = self.shared.streams();
        match streams.room() {
            Err(Unopened::Full) => {
                self.ticket = Some(streams.wait_for_room(self.ticket, cx.waker()));
                Poll::Pending
            }
            Ok(()) | Err(Unopened::Over) => Poll::Ready(()),
        }
    }
}

impl Drop for Waiting<'_> {
    /// Whoever leaves the line lets the next one try.
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.shared.streams().leave_line(ticket);
        }
    }
}

// === impl Shared ===

impl Shared {
    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Outgoing ===

impl Outgoing<'_> {
    fn encode(self, encoder: &mut Encoder, block: &mut Vec<u8>) {
        encoder.begin(block);
        match *self.method {
            Method::GET => Encoder::known(block, hpack::GET),
            Method::POST => Encoder::known(block, hpack::POST),
            _ => encoder.field(block, ":method", self.method.as_str().as_bytes(), false),
        }
        Encoder::known(block, if self.is_encrypted { hpack::HTTPS } else { hpack::HTTP });
        encoder.field(block, ":authority", self.authority.as_bytes(), false);
        encoder.field(block, ":path", self.path.as_bytes(), false);
        for (name, value) in self.headers {
            if !(self.is_left_out)(name) {
                encoder.field(block, name.as_str(), value.as_bytes(), value.is_sensitive());
            }
        }
        encoder.field(block, "te", b"trailers", false);
    }
}

// === impl Stream ===

impl Stream {
    /// The head of the answer.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Broken>> {
        ready(self.shared.streams().head(self.id, cx.waker()))
    }

    /// What comes next of the answer's body. Taking it makes room for more.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, Broken>> {
        ready(self.shared.streams().next(self.id, cx.waker()))
    }

    /// Whether all of the answer was taken.
    pub(crate) fn is_over(&self) -> bool {
        self.shared.streams().is_over(self.id)
    }

    /// Takes `data` for the body of the request, if there is room for it.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Sent> {
        ready(self.shared.streams().send(self.id, data, cx.waker()))
    }

    /// Ends the body of the request.
    pub(crate) fn finish(&mut self) {
        self.shared.streams().finish(self.id);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.under_way.fetch_sub(1, Ordering::Relaxed);
        self.shared.streams().forget(self.id);
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("id", &self.id).finish_non_exhaustive()
    }
}

fn ready<T>(value: Option<T>) -> Poll<T> {
    value.map_or(Poll::Pending, Poll::Ready)
}

// === impl Driver ===

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Ready with the reason when the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        self.shared.streams().set_driver(cx.waker());
        if self.poll_silence(cx).is_ready() {
            return Poll::Ready("the node is silent".to_owned());
        }
        if let Poll::Ready(reason) = self.poll_read(cx) {
            return Poll::Ready(reason);
        }
        if let Err(error) = self.write(cx) {
            // Whatever has come tells more.
            let reason = self.poll_read(cx);
            return Poll::Ready(if let Poll::Ready(reason) = reason { reason } else { error.to_string() });
        }
        match self.outbox.len() == 0 && self.is_flushed && self.shared.streams().is_done() {
            true => Poll::Ready("the connection has ended".to_owned()),
            false => Poll::Pending,
        }
    }

    /// Ready when the server does not answer that it is there.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.clock.as_mut().poll(cx).is_ready() {
            let next = match (std::mem::take(&mut self.is_heard), self.is_asked) {
                (false, true) => return Poll::Ready(()),
                (false, false) => {
                    self.shared.streams().ping();
                    self.is_asked = true;
                    PING_TIMEOUT
                }
                // Its answer is behind much else.
                (true, true) => PING_TIMEOUT,
                (true, false) => PING_INTERVAL,
            };
            self.clock.as_mut().reset(Instant::now() + next);
        }
        Poll::Pending
    }

    /// Reads what there is; ready with the reason when nothing more comes.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        for _ in 0..READS {
            self.read.reserve(self.most);
            let read = match pin!(self.stream.read_buf(&mut self.read)).poll(cx) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(self.shared.streams().ending("the connection was closed"));
                }
                Poll::Ready(Ok(read)) => read,
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(self.shared.streams().ending(&error.to_string()));
                }
                Poll::Pending => return Poll::Pending,
            };
            self.is_heard = true;
            self.most = match read >= self.most {
                true => (2 * self.most).min(MAX_READ_BYTES),
                false => READ_BYTES,
            };
            let mut streams = self.shared.streams();
            if let Err(violation) = streams.receive(&mut self.read) {
                streams.say_goodbye(violation.reason);
                drop(streams);
                // It may want to know.
                let _ = self.write(cx);
                return Poll::Ready(format!("the node breaks the protocol: {}", violation.what));
            }
            if self.is_asked && !streams.is_pinged() {
                self.is_asked = false;
                self.clock.as_mut().reset(Instant::now() + PING_INTERVAL);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes as much as can be.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            if self.outbox.len() == 0 {
                let mut streams = self.shared.streams();
                streams.fill();
                if streams.outbox.len() == 0 {
                    break;
                }
                std::mem::swap(&mut streams.outbox, &mut self.outbox);
            }
            self.is_flushed = false;
            let before = self.outbox.len();
            let outcome = self.outbox.poll_write(&mut self.stream, cx);
            self.written += (before - self.outbox.len()) as u64;
            match outcome {
                Poll::Ready(outcome) => outcome?,
                Poll::Pending => return Ok(()),
            }
        }
        if !self.is_flushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            flushed?;
            self.is_flushed = true;
        }
        Ok(())
    }
}

impl<S> Driver<S> {
    fn fail(&self, reason: &str) {
        self.shared.streams().fail(self.written, reason);
    }
}

impl<S> Drop for Driver<S> {
    /// A runtime that ends takes its connections with it, and nobody may wait for them on another.
    fn drop(&mut self) {
        self.fail("its runtime has ended");
    }
}

#[cfg(test)]
mod tests;
