//! HTTP/1.1 connections to one node.
//!
//! A connection belongs to one exchange at a time, which drives it from the request's first byte to the answer's last;
//! no task stands between the two, so that a request wakes nobody but itself. An answer that has been read to its end
//! gives its connection back.

use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use qdrant_router_http2::{TURN_BYTES, yield_to_arrivals};
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    time::Instant,
};

use super::{
    Begun, BrokenAnswer, Outgoing, SendError, Sent,
    open::{Count, Open},
    strip_connection_headers,
    wire::{self, Framing, Head, Length, Piece, chunk_head, take_head, write_head},
};
use crate::{
    connect::{Dialer, Stream},
    request::Body,
};

/// Qdrant closes idle HTTP/1.1 connections after five seconds; ours go first, so that no request is
/// written into a connection that is being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Idle connections kept per node.
const MAX_IDLE: usize = 256;

/// Bodies up to this size are written together with their head.
const SHORT_BYTES: usize = 8 << 10;

/// What is read at once: little for heads and short answers, much for long ones.
const READ_BYTES: usize = 8 << 10;
const MAX_READ_BYTES: usize = 64 << 10;

/// The connections to one node.
#[derive(Debug)]
pub(super) struct Pool {
    dialer: Dialer,
    authority: Box<str>,
    idle: Mutex<Vec<Idle>>,
    count: Count,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

#[derive(Debug)]
struct Connection {
    stream: Stream,
    /// What has been read and not yet taken.
    read: BytesMut,
    _open: Open,
}

/// A request as it goes out.
pub(super) struct Request {
    is_head: bool,
    /// What is written next, in this order.
    head: BytesMut,
    data: Bytes,
    tail: &'static [u8],
    /// What has not been asked for its next piece yet.
    body: Option<Body>,
    is_chunked: bool,
    /// What a body that streams has still to bring, where it has said how much that is.
    announced: Option<u64>,
    /// Whether any of it has been written.
    is_begun: bool,
    /// Whether all that was written has left us; TLS keeps some of it back.
    is_flushed: bool,
}

/// The body of an answer, read as it is taken.
#[derive(Debug)]
pub(crate) struct RestBody {
    /// `None` once the end is known, or cannot come.
    connection: Option<Connection>,
    framing: Framing,
    is_kept: bool,
    pool: Arc<Pool>,
}

// === impl Pool ===

impl Pool {
    pub(super) fn new(dialer: Dialer, count: Count) -> Self {
        let authority = dialer.address().to_string().into_boxed_str();
        Self { dialer, authority, idle: Mutex::default(), count }
    }

    /// The request of `head` with `body`, as it goes out to this node.
    pub(super) fn outgoing(&self, head: Outgoing<'_>, body: Body) -> Request {
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        // What came in absolute form may have no path before its query.
        let absolute = target.starts_with('?').then(|| format!("/{target}"));
        let target = absolute.as_deref().unwrap_or(target);
        let length = match &body {
            Body::Full(bytes) => Length::Known(bytes.len() as u64),
            stream @ Body::Stream(_) => stream.size_hint().exact().map_or(Length::Unknown, Length::Known),
        };
        // A short body goes out in one piece with the head: copying it costs less than having the system gather two.
        let (along, data, body) = match body {
            Body::Full(bytes) if bytes.len() <= SHORT_BYTES => (bytes, Bytes::new(), None),
            Body::Full(bytes) => (Bytes::new(), bytes, None),
            stream @ Body::Stream(_) => (Bytes::new(), Bytes::new(), Some(stream)),
        };
        let lines = write_head(head.method, target, &self.authority, head.headers, length, &along);
        let is_chunked = length == Length::Unknown;
        let is_head = *head.method == Method::HEAD;
        let announced = match length {
            Length::Known(length) if body.is_some() => Some(length),
            Length::Known(_) | Length::Unknown => None,
        };
        Request {
            is_head,
            head: lines,
            data,
            tail: &[],
            body,
            is_chunked,
            announced,
            is_begun: false,
            is_flushed: false,
        }
    }

    /// Sends the request and waits for the head of its answer.
    pub(super) async fn exchange(
        self: Arc<Self>,
        mut request: Request,
        begun: &Begun,
    ) -> Result<Response<RestBody>, SendError> {
        loop {
            let (mut connection, is_fresh) = match self.take() {
                Some(connection) => (connection, false),
                // What is rare lies in a box, so that the future of what is common is small.
                None => (Box::pin(self.dial()).await?, true),
            };
            begun.set();
            match poll_fn(|cx| connection.poll_exchange(cx, &mut request)).await {
                Ok(head) => return Ok(self.answer(connection, head, request.is_done())),
                // The node had closed it; the request is whole and may go over another.
                Err(_) if !is_fresh && !request.is_begun => {}
                Err(error) => {
                    let sent = if request.is_begun { Sent::Unknown } else { Sent::No };
                    return Err(SendError { sent, no_connection: false, reason: error.to_string() });
                }
            }
        }
    }

    /// Closes the connections that have been idle for too long.
    pub(super) fn prune(&self) {
        let now = Instant::now();
        self.idle().retain(|idle| now.duration_since(idle.since) < IDLE_TIMEOUT);
    }

    async fn dial(&self) -> Result<Connection, SendError> {
        let stream = self.dialer.clone().dial().await.map_err(|error| SendError::no_connection(&error))?;
        Ok(Connection { stream, read: BytesMut::new(), _open: self.count.open() })
    }

    /// The connection that was used last, if it is quiet and young enough.
    fn take(&self) -> Option<Connection> {
        loop {
            let Idle { mut connection, since } = self.idle().pop()?;
            if since.elapsed() < IDLE_TIMEOUT && connection.is_quiet() {
                return Some(connection);
            }
        }
    }

    fn put(&self, connection: Connection) {
        let mut idle = self.idle();
        if idle.len() < MAX_IDLE {
            idle.push(Idle { connection, since: Instant::now() });
        }
    }

    fn answer(self: Arc<Self>, connection: Connection, head: Head, is_sent: bool) -> Response<RestBody> {
        let Head { status, mut headers, framing, is_kept } = head;
        strip_connection_headers(&mut headers);
        let mut body =
            RestBody { connection: Some(connection), framing, is_kept: is_kept && is_sent, pool: self };
        if body.framing.is_over() {
            body.end();
        }
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Connection ===

impl Connection {
    /// Whether nothing has come over it, not even its end.
    fn is_quiet(&mut self) -> bool {
        // Whoever polls next brings a waker of its own.
        let mut cx = Context::from_waker(Waker::noop());
        self.read.is_empty() && self.poll_read(&mut cx, 1).is_pending()
    }

    /// Writes the request, and reads until the head of an answer is there. An answer that comes before the request has
    /// gone out ends the writing: the node has made up its mind.
    fn poll_exchange(&mut self, cx: &mut Context<'_>, request: &mut Request) -> Poll<io::Result<Head>> {
        let mut failed = None;
        if !request.is_done() {
            match request.poll_write(cx, &mut self.stream) {
                Poll::Ready(Err(error)) => failed = Some(error),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        loop {
            match take_head(&mut self.read, request.is_head).map_err(invalid)? {
                Some(head) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                    return Poll::Ready(Err(io::Error::other(
                        "the node answered 101, which was not asked for",
                    )));
                }
                Some(head) if head.status.is_informational() => continue,
                Some(head) => return Poll::Ready(Ok(head)),
                None => {}
            }
            let read = match self.poll_read(cx, READ_BYTES) {
                Poll::Ready(read) => read,
                // What could not be written was not read either, or the answer would be here.
                Poll::Pending => return failed.map_or(Poll::Pending, |error| Poll::Ready(Err(error))),
            };
            match (read, failed.take()) {
                (Ok(0), Some(error)) | (Err(_), Some(error)) | (Err(error), None) => {
                    return Poll::Ready(Err(error));
                }
                (Ok(0), None) => {
                    let reason = "the node closed the connection before it answered";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason)));
                }
                (Ok(_), error) => failed = error,
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        self.read.reserve(most);
        pin!(self.stream.read_buf(&mut self.read)).poll(cx)
    }
}

fn invalid(error: wire::Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

// === impl Request ===

impl Request {
    /// Whether it has gone out.
    fn is_done(&self) -> bool {
        self.is_flushed
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<io::Result<()>> {
        let mut left = TURN_BYTES;
        loop {
            if self.head.is_empty() && self.data.is_empty() && self.tail.is_empty() {
                let Some(body) = &mut self.body else { break };
                let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
                    // What there is goes out while more of it is waited for.
                    if let Poll::Ready(Err(error)) = Pin::new(stream).poll_flush(cx) {
                        return Poll::Ready(Err(error));
                    }
                    return Poll::Pending;
                };
                match frame {
                    Some(Ok(frame)) => {
                        // Trailers of a request have no meaning to Qdrant, and an empty chunk would be the last.
                        let data = frame.into_data().unwrap_or_default();
                        self.count(data.len() as u64)?;
                        if self.is_chunked && !data.is_empty() {
                            (self.head, self.tail) = (chunk_head(data.len()), b"\r\n");
                        }
                        self.data = data;
                    }
                    Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                    None if self.announced.is_some_and(|left| left > 0) => {
                        return Poll::Ready(Err(io::Error::other("the body is shorter than it said")));
                    }
                    None => {
                        self.body = None;
                        if self.is_chunked {
                            self.tail = b"0\r\n\r\n";
                        }
                    }
                }
                continue;
            }
            // TLS takes less at once than a turn allows.
            if left == 0 {
                yield_to_arrivals(cx);
                return Poll::Pending;
            }
            let data = &self.data[..self.data.len().min(left)];
            let is_all = data.len() == self.data.len();
            let tail = if is_all { self.tail } else { &[] };
            let slices = [IoSlice::new(&self.head), IoSlice::new(data), IoSlice::new(tail)];
            let stream = Pin::new(&mut *stream);
            let written = match self.data.is_empty() && self.tail.is_empty() {
                true => ready!(stream.poll_write(cx, &self.head))?,
                false => ready!(stream.poll_write_vectored(cx, &slices))?,
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.is_begun = true;
            self.advance(written);
            left = left.saturating_sub(written);
        }
        ready!(Pin::new(stream).poll_flush(cx))?;
        self.is_flushed = true;
        Poll::Ready(Ok(()))
    }

    /// Counts what a body brings: more than it said would be another request to the node.
    fn count(&mut self, bytes: u64) -> io::Result<()> {
        if let Some(left) = &mut self.announced {
            let rest = left.checked_sub(bytes);
            *left = rest.ok_or_else(|| io::Error::other("the body is longer than it said"))?;
        }
        Ok(())
    }

    fn advance(&mut self, written: usize) {
        let of_head = written.min(self.head.len());
        self.head.advance(of_head);
        let of_data = (written - of_head).min(self.data.len());
        self.data.advance(of_data);
        self.tail = &self.tail[written - of_head - of_data..];
    }
}

// === impl RestBody ===

impl RestBody {
    /// Gives the connection back, unless it is worth nothing any more.
    fn end(&mut self) {
        if let Some(connection) = self.connection.take()
            && self.is_kept
            && connection.read.is_empty()
        {
            self.pool.put(connection);
        }
    }
}

impl HttpBody for RestBody {
    type Data = Bytes;
    type Error = BrokenAnswer;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenAnswer>>> {
        let this = self.get_mut();
        loop {
            let Some(connection) = &mut this.connection else { return Poll::Ready(None) };
            match this.framing.next(&mut connection.read) {
                Ok(Piece::Data(data)) => {
                    if this.framing.is_over() {
                        this.end();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Piece::End) => {
                    this.end();
                    return Poll::Ready(None);
                }
                Ok(Piece::Missing) => {}
                Err(error) => {
                    this.connection = None;
                    return Poll::Ready(Some(Err(BrokenAnswer::new(&error))));
                }
            }
            let left = this.framing.left().and_then(|left| usize::try_from(left).ok());
            let most = left.unwrap_or(READ_BYTES).clamp(READ_BYTES, MAX_READ_BYTES);
            match ready!(connection.poll_read(cx, most)) {
                Ok(0) if this.framing == Framing::UntilClose => {
                    this.connection = None;
                    return Poll::Ready(None);
                }
                Ok(0) => {
                    this.connection = None;
                    let error =
                        io::Error::new(io::ErrorKind::UnexpectedEof, "the node closed the connection");
                    return Poll::Ready(Some(Err(BrokenAnswer::new(&error))));
                }
                Ok(_) => {}
                Err(error) => {
                    this.connection = None;
                    return Poll::Ready(Some(Err(BrokenAnswer::new(&error))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.connection.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.framing.left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
