//! HTTP/2 connections to one node.
//!
//! One connection carries many requests; each has a task that drives it until it ends. Another is opened when all are
//! busy: a connection's streams share one lock and one window.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Response, Uri};
use http_body::{Body as HttpBody, Frame};
use qdrant_router_http2::client::{self as http2, Broken, Connection, Next, Stream, Unopened};
use tokio::sync::Notify;

use super::{
    BrokenAnswer, Outgoing, SendError, Sent, is_of_one_connection, open::Count, strip_connection_headers,
    wire::Named,
};
use crate::{
    connect::Dialer,
    request::{Body, BoxError},
};

/// With this many requests under way on each connection another is opened, up to so many.
const BUSY: usize = 128;
const MAX_CONNECTIONS: usize = 8;

/// So many connections are tried that end before a request can be sent.
const MAX_DIALS: usize = 3;

/// How long a stream is left open whose upload has broken off: by then the node has looked at it. Qdrant ends a
/// connection on which more than twenty streams were reset before.
const GRACE: Duration = Duration::from_secs(1);

/// The connections to one node.
pub(super) struct Pool {
    dialer: Dialer,
    authority: String,
    connections: Mutex<Vec<Arc<Connection>>>,
    /// Held by whoever dials, so that a crowd opens one connection.
    dialing: Arc<tokio::sync::Mutex<()>>,
    /// Tells those who wait for room that there is another connection.
    grown: Notify,
    /// How often that has failed, and why it did last.
    failures: Mutex<(u64, String)>,
    count: Count,
}

/// A request under way; resolves with the head of its answer.
pub(crate) struct Exchange(State);

enum State {
    /// It waits for a connection.
    Waiting(Pin<Box<dyn Future<Output = Result<Call, SendError>> + Send>>),
    Sent(Call),
    Over,
}

/// A request on its way.
#[derive(Debug)]
struct Call {
    /// `None` once it was left to end by itself.
    stream: Option<Stream>,
    /// The rest of the request, where that is still on its way.
    upload: Option<Box<Upload>>,
    /// Whether the node has answered, and so has looked at the stream.
    is_answered: bool,
}

/// A body that streams from the client as the node takes it.
#[derive(Debug)]
struct Upload {
    body: Body,
    /// What the node has no room for yet.
    waiting: Bytes,
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct GrpcBody(Call);

// === impl Pool ===

impl Pool {
    pub(super) fn new(dialer: Dialer, count: Count) -> Self {
        Self {
            authority: dialer.address().to_string(),
            dialer,
            connections: Mutex::default(),
            dialing: Arc::default(),
            grown: Notify::new(),
            failures: Mutex::default(),
            count,
        }
    }

    /// Sends the request: at once where there is a connection that takes it.
    pub(super) fn send(self: &Arc<Self>, head: Outgoing<'_>, body: Body) -> Exchange {
        let (mut whole, mut upload) = match body {
            Body::Full(bytes) => (Some(bytes), None),
            body @ Body::Stream(_) => (None, Some(Box::new(Upload { body, waiting: Bytes::new() }))),
        };
        Exchange(match self.open(head, &mut whole) {
            Ok(stream) => State::Sent(Call::new(stream, upload)),
            Err(_) => {
                let pool = self.clone();
                let (method, uri, headers) = (head.method.clone(), head.uri.clone(), head.headers.clone());
                State::Waiting(Box::pin(async move {
                    let stream = pool.open_later(&method, &uri, &headers, &mut whole).await?;
                    Ok(Call::new(stream, upload.take()))
                }))
            }
        })
    }

    /// Opens a stream on the least busy connection, and sees to it that there is another one where even that is busy.
    fn open(self: &Arc<Self>, head: Outgoing<'_>, body: &mut Option<Bytes>) -> Result<Stream, Unopened> {
        let named = Named::by(head.headers);
        let request = http2::Outgoing {
            method: head.method,
            is_encrypted: self.dialer.is_encrypted(),
            authority: &self.authority,
            path: head.uri.path_and_query().map_or("/", |path| path.as_str()),
            headers: head.headers,
            is_left_out: &|name| is_of_one_connection(name) || named.contains(name),
        };
        let mut connections = self.connections();
        loop {
            let least_busy =
                connections.iter().enumerate().min_by_key(|(_, connection)| connection.under_way());
            let (at, connection) = least_busy.ok_or(Unopened::Over)?;
            let is_busy = connection.under_way() >= BUSY;
            let outcome = match connection.open(request, body) {
                Err(Unopened::Over) => {
                    connections.swap_remove(at);
                    continue;
                }
                // Another may have more answers to be read, and fewer streams.
                Err(Unopened::Full) => connections
                    .iter()
                    .find_map(|connection| connection.open(request, body).ok())
                    .ok_or(Unopened::Full),
                Ok(stream) => Ok(stream),
            };
            if is_busy || outcome.is_err() {
                connections.retain(|connection| !connection.is_over());
                if connections.len() < MAX_CONNECTIONS {
                    self.relieve();
                }
            }
            return outcome;
        }
    }

    /// As [`open`](Self::open), as soon as there is room on a connection.
    async fn open_later(
        self: &Arc<Self>,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &mut Option<Bytes>,
    ) -> Result<Stream, SendError> {
        let mut dials = 0;
        loop {
            let mut grown = pin!(self.grown.notified());
            grown.as_mut().enable();
            match self.open(Outgoing { method, uri, headers }, body) {
                Ok(stream) => return Ok(stream),
                Err(Unopened::Full) => {
                    let least_busy =
                        self.connections().iter().min_by_key(|connection| connection.under_way()).cloned();
                    if let Some(connection) = least_busy {
                        tokio::select! {
                            biased;
                            () = connection.room() => {}
                            () = grown => {}
                        }
                    }
                }
                Err(Unopened::Over) if dials < MAX_DIALS => {
                    dials += 1;
                    self.first().await?;
                }
                Err(Unopened::Over) => {
                    return Err(SendError::not_sent("it ends each connection at once".to_owned()));
                }
            }
        }
    }

    /// Opens another connection, where nobody does so already.
    fn relieve(self: &Arc<Self>) {
        if let Ok(alone) = self.dialing.clone().try_lock_owned() {
            let pool = self.clone();
            tokio::spawn(async move {
                // Where that fails, the others go on.
                let _ = pool.dial().await;
                drop(alone);
            });
        }
    }

    /// A connection where there is none. A task of its own sees to it, so that no request waits for another whose client
    /// is served seldom.
    async fn first(self: &Arc<Self>) -> Result<(), SendError> {
        let pool = self.clone();
        let first = tokio::spawn(async move { pool.dial_for_all().await });
        first.await.unwrap_or_else(|error| Err(SendError::not_sent(error.to_string())))
    }

    /// One of a crowd dials for all, and fails for all.
    async fn dial_for_all(&self) -> Result<(), SendError> {
        let before = self.failures().0;
        let _alone = self.dialing.lock().await;
        if self.connections().iter().any(|connection| !connection.is_over()) {
            return Ok(());
        }
        {
            let (failures, reason) = &*self.failures();
            if *failures != before {
                return Err(SendError { no_connection: true, ..SendError::not_sent(reason.clone()) });
            }
        }
        self.dial().await
    }

    async fn dial(&self) -> Result<(), SendError> {
        let stream = self.dialer.clone().dial().await.map_err(|error| {
            let error = SendError::no_connection(&error);
            let mut failures = self.failures();
            *failures = (failures.0 + 1, error.reason.clone());
            error
        })?;
        let (connection, driver) = http2::connect(stream);
        let open = self.count.open();
        tokio::spawn(async move {
            let reason = driver.await;
            tracing::debug!("a connection to a node ended: {reason}");
            drop(open);
        });
        self.connections().push(Arc::new(connection));
        self.grown.notify_waiters();
        Ok(())
    }

    fn failures(&self) -> MutexGuard<'_, (u64, String)> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Exchange ===

impl Exchange {
    /// Whether the request may have left: before that it waits for a connection.
    pub(super) fn is_begun(&self) -> bool {
        !matches!(self.0, State::Waiting(_))
    }
}

impl Future for Exchange {
    type Output = Result<Response<GrpcBody>, SendError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self(state) = self.get_mut();
        if let State::Waiting(call) = state {
            *state = State::Sent(ready!(call.as_mut().poll(cx))?);
        }
        let State::Sent(call) = state else { return Poll::Pending };
        let head = ready!(call.poll_head(cx));
        let State::Sent(call) = std::mem::replace(state, State::Over) else { return Poll::Pending };
        Poll::Ready(head.map(|head| head.map(|()| GrpcBody(call))))
    }
}

// === impl Call ===

impl Call {
    fn new(stream: Stream, upload: Option<Box<Upload>>) -> Self {
        Self { stream: Some(stream), upload, is_answered: false }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, SendError>> {
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        if let Some(upload) = &mut self.upload
            && let Poll::Ready(outcome) = upload.poll(stream, cx)
        {
            if let Err(error) = outcome {
                let reason = format!("the client broke off: {error}");
                return Poll::Ready(Err(SendError { sent: Sent::Unknown, no_connection: false, reason }));
            }
            self.upload = None;
        }
        let head = ready!(stream.poll_head(cx));
        self.is_answered = head.is_ok();
        Poll::Ready(head.map_err(SendError::from))
    }
}

impl Drop for Call {
    /// What breaks off is reset, and never ends as if it were whole; but not before the node has looked at it.
    fn drop(&mut self) {
        if self.upload.is_some()
            && !self.is_answered
            && let Some(stream) = self.stream.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                tokio::time::sleep(GRACE).await;
                drop(stream);
            });
        }
    }
}

// === impl Upload ===

impl Upload {
    /// Sends what the node has room for; ready when there is no more to send, or nobody to send it to, which the
    /// answer tells.
    fn poll(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        loop {
            if self.waiting.is_empty() {
                match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                    Some(Ok(frame)) => self.waiting = frame.into_data().unwrap_or_default(),
                    Some(Err(error)) => return Poll::Ready(Err(error)),
                    None => {
                        stream.finish();
                        return Poll::Ready(Ok(()));
                    }
                }
            } else if ready!(stream.poll_send(cx, &mut self.waiting)) == http2::Sent::Nowhere {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

// === impl GrpcBody ===

impl HttpBody for GrpcBody {
    type Data = Bytes;
    type Error = BrokenAnswer;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenAnswer>>> {
        let Self(call) = self.get_mut();
        let Some(stream) = &mut call.stream else { return Poll::Ready(None) };
        if let Some(upload) = &mut call.upload
            && let Poll::Ready(outcome) = upload.poll(stream, cx)
        {
            call.upload = None;
            if let Err(error) = outcome {
                // To half a request there is no whole answer; what is dropped is reset.
                call.stream = None;
                return Poll::Ready(Some(Err(BrokenAnswer(format!("the client broke off: {error}")))));
            }
        }
        Poll::Ready(match ready!(stream.poll_next(cx)) {
            Ok(Next::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Next::Trailers(mut trailers)) => {
                strip_connection_headers(&mut trailers);
                Some(Ok(Frame::trailers(trailers)))
            }
            Ok(Next::End) => None,
            Err(broken) => Some(Err(BrokenAnswer::new(&broken))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.stream.as_ref().is_none_or(Stream::is_over)
    }
}

// === impl SendError ===

impl From<Broken> for SendError {
    /// A refused stream, or one beyond the last that a GOAWAY names, has not been looked at.
    fn from(broken: Broken) -> Self {
        let sent = if broken.is_unprocessed { Sent::No } else { Sent::Unknown };
        Self { sent, no_connection: false, reason: broken.reason.into() }
    }
}
