//! A client, for requests to one server.
//!
//! A [`Connection`] opens a [`Stream`] for each request; a future, which [`connect`] gives along with it, drives all of
//! them.

use std::{
    fmt,
    future::{Future, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Response};
use tokio::io::{AsyncRead, AsyncWrite};

pub use crate::streams::{Broken, Next, Sent, Unopened};
use crate::{
    driver::{Driver, Patience, Shared, ready},
    hpack::{self, Encoder},
    streams::{Limits, Streams},
};

/// A reply of ten megabytes should not wait for a round trip per 64 KiB, and clients that do not read theirs must not
/// take the connection from the others: it has room for 128 of them, beyond which another connection is opened.
/// Qdrant's headers and trailers are short.
const LIMITS: Limits = Limits {
    stream_window: 512 << 10,
    connection_window: 64 << 20,
    header_list_bytes: 64 << 10,
    streams: None,
};

/// A node that hangs is noticed much sooner, by its silence; what may not be sent elsewhere waits for it as long as
/// this.
const PATIENCE: Patience =
    Patience { ping_interval: Duration::from_secs(5), ping_timeout: Duration::from_secs(20) };

/// A connection to one server. It ends once this is dropped and the last of its streams is over.
#[derive(Debug)]
pub struct Connection {
    shared: Arc<Shared>,
    under_way: Arc<AtomicUsize>,
}

/// A request under way, and its answer. What is dropped before its end is reset.
pub struct Stream {
    shared: Arc<Shared>,
    under_way: Arc<AtomicUsize>,
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
pub struct Outgoing<'a> {
    /// The method.
    pub method: &'a Method,
    /// Whether the scheme is `https`.
    pub is_encrypted: bool,
    /// The server's name.
    pub authority: &'a str,
    /// The path, with the query.
    pub path: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// Whether a header stays behind.
    pub is_left_out: &'a dyn Fn(&HeaderName) -> bool,
}

/// A connection over `stream`, and what drives it: until it is over, of which it tells the reason.
pub fn connect<S>(stream: S) -> (Connection, impl Future<Output = String> + use<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let shared = Shared::new(Streams::client(&LIMITS));
    let connection = Connection { shared: shared.clone(), under_way: Arc::default() };
    (connection, drive(shared, stream))
}

async fn drive<S: AsyncRead + AsyncWrite + Unpin>(shared: Arc<Shared>, stream: S) -> String {
    let mut driver = Driver::new(shared, stream, PATIENCE);
    let reason = poll_fn(|cx| driver.poll(cx)).await;
    driver.close(&reason).await;
    reason
}

// === impl Connection ===

impl Connection {
    /// Opens a stream for a request. `body` is all of its body, and taken if the stream is opened; or `None` where it is
    /// still to come.
    ///
    /// # Errors
    ///
    /// When the server takes no more streams: for now, of which [`room`](Self::room) tells the end, or on this connection.
    pub fn open(&self, request: Outgoing<'_>, body: &mut Option<Bytes>) -> Result<Stream, Unopened> {
        let id = self.shared.streams().open(request, body)?;
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Ok(Stream { shared: self.shared.clone(), under_way: self.under_way.clone(), id })
    }

    /// Resolves when a stream may be opened, or none ever again.
    pub async fn room(&self) {
        let mut waiting = Waiting { shared: &self.shared, ticket: None };
        poll_fn(|cx| waiting.poll(cx)).await;
    }

    /// Whether no more streams can be opened.
    pub fn is_over(&self) -> bool {
        self.shared.streams().room() == Err(Unopened::Over)
    }

    /// How many requests are under way.
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.streams().leave();
    }
}

// === impl Waiting ===

impl Waiting<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut streams = self.shared.streams();
        match streams.room() {
            Err(Unopened::Full) => {
                self.ticket = streams.wait_for_room(self.ticket, cx.waker());
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

// === impl Outgoing ===

impl Outgoing<'_> {
    pub(crate) fn encode(self, encoder: &mut Encoder, block: &mut Vec<u8>) {
        encoder.begin(block);
        match *self.method {
            Method::GET => Encoder::known(block, hpack::GET),
            Method::POST => Encoder::known(block, hpack::POST),
            _ => encoder.field(block, ":method", self.method.as_str().as_bytes(), false),
        }
        Encoder::known(block, if self.is_encrypted { hpack::HTTPS } else { hpack::HTTP });
        encoder.field(block, ":authority", self.authority.as_bytes(), false);
        encoder.field(block, ":path", self.path.as_bytes(), false);
        encoder.fields(block, self.headers, self.is_left_out);
        encoder.field(block, "te", b"trailers", false);
    }
}

impl fmt::Debug for Outgoing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("method", self.method)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

// === impl Stream ===

impl Stream {
    /// The head of the answer.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Broken>> {
        ready(self.shared.streams().head(self.id, cx.waker()))
    }

    /// What comes next of the answer's body. Taking it makes room for more.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, Broken>> {
        ready(self.shared.streams().next(self.id, cx.waker()))
    }

    /// Whether all of the answer was taken.
    pub fn is_over(&self) -> bool {
        self.shared.streams().is_over(self.id)
    }

    /// Takes `data` for the body of the request, if there is room for it.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Sent> {
        ready(self.shared.streams().send(self.id, data, false, cx.waker()))
    }

    /// Ends the body of the request.
    pub fn finish(&mut self) {
        self.shared.streams().finish(self.id, None);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        self.shared.streams().forget(self.id);
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
