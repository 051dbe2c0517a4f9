//! HTTP/2 connections to one node.
//!
//! One connection carries many requests; each has a task that drives it until it ends. Another is opened when all are
//! busy: a connection's streams share one lock and one window.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong, RecvStream, SendStream,
    client::{Builder, SendRequest},
};
use http::{
    HeaderMap, HeaderValue, Request, Response, Uri, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::{Body as HttpBody, Frame};

use super::{
    Begun, BrokenAnswer, Outgoing, SendError, Sent, is_of_one_connection, open::Count,
    strip_connection_headers, wire::Named,
};
use crate::{
    batch::Batched,
    connect::Dialer,
    request::{Body, BoxError},
    topology::chain,
};

/// A quiet connection is asked whether it still lives this often,
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// and is given up when the answer takes longer than this. A node that hangs is noticed much sooner, by its silence;
/// what may not be sent elsewhere waits for it as long as this.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Flow-control windows. A reply of ten megabytes should not wait for a round trip per 64 KiB, and clients that do not
/// read theirs must not take the connection from the others: it has room for all of its streams until another
/// connection is opened.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * BUSY as u32;

/// Streams that ended early of which late frames are still to be expected.
const MAX_ENDED_EARLY: usize = 1024;

/// Headers of an answer; Qdrant's trailers are short.
const MAX_HEADER_LIST_BYTES: u32 = 64 << 10;

/// With this many requests under way on each connection another is opened, up to so many.
const BUSY: usize = 128;
const MAX_CONNECTIONS: usize = 8;

/// The connections to one node.
pub(super) struct Pool {
    dialer: Dialer,
    authority: Option<Authority>,
    connections: Mutex<Vec<Connection>>,
    /// Held by whoever dials, so that a crowd opens one connection.
    dialing: Arc<tokio::sync::Mutex<()>>,
    /// How often that has failed, and why it did last.
    failures: Mutex<(u64, String)>,
    count: Count,
}

#[derive(Clone)]
struct Connection {
    sender: SendRequest<Bytes>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    under_way: AtomicUsize,
    is_over: AtomicBool,
}

/// A request as it goes out.
pub(super) struct Call {
    head: Request<()>,
    body: Body,
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct GrpcBody {
    answer: RecvStream,
    is_data_over: bool,
    /// The rest of the request, where that is still on its way.
    upload: Option<Box<Upload>>,
    _under_way: UnderWay,
}

/// A body that streams from the client as the node takes it.
#[derive(Debug)]
struct Upload {
    body: Body,
    /// What the node has no room for yet.
    waiting: Bytes,
    /// `None` once all has been sent, or nobody takes it any more.
    stream: Option<SendStream<Bytes>>,
    /// Whether the node has answered, and so has looked at the stream.
    is_answered: bool,
    state: Arc<State>,
}

/// How long a stream is left open whose upload has broken off: by then the node has looked at it. Qdrant ends a
/// connection on which more than twenty streams were reset before.
const GRACE: Duration = Duration::from_secs(1);

/// Counts a request until it is dropped.
#[derive(Debug)]
struct UnderWay(Arc<State>);

// === impl Pool ===

impl Pool {
    pub(super) fn new(dialer: Dialer, count: Count) -> Self {
        let authority = Authority::try_from(dialer.address().to_string()).ok();
        Self {
            dialer,
            authority,
            connections: Mutex::default(),
            dialing: Arc::default(),
            failures: Mutex::default(),
            count,
        }
    }

    /// The request of `head` with `body`, as it goes out to this node.
    pub(super) fn outgoing(&self, head: Outgoing<'_>, body: Body) -> Result<Call, SendError> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(if self.dialer.is_encrypted() { Scheme::HTTPS } else { Scheme::HTTP });
        uri.authority.clone_from(&self.authority);
        uri.path_and_query =
            Some(head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
        let mut request = Request::new(());
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = Uri::from_parts(uri).map_err(|error| SendError::not_sent(error.to_string()))?;
        *request.headers_mut() = headers(head.headers);
        Ok(Call { head: request, body })
    }

    /// Sends the request and waits for the head of its answer.
    pub(super) async fn exchange(
        self: Arc<Self>,
        call: Call,
        begun: &Begun,
    ) -> Result<Response<GrpcBody>, SendError> {
        let Call { head, body } = call;
        let (mut sender, under_way) = self.connection().await?;
        begun.set();
        let is_bodiless = body.is_end_stream();
        let (mut answer, mut stream) =
            sender.send_request(head, is_bodiless).map_err(|error| SendError::not_sent(chain(&error)))?;
        let mut upload = match body {
            Body::Full(_) if is_bodiless => None,
            Body::Full(bytes) => {
                // Where the stream is over already, the answer tells why.
                let _ = stream.send_data(bytes, true);
                None
            }
            body @ Body::Stream(_) => {
                let (stream, state) = (Some(stream), under_way.0.clone());
                Some(Box::new(Upload { body, waiting: Bytes::new(), stream, is_answered: false, state }))
            }
        };
        let response = poll_fn(|cx| {
            if let Some(sending) = &mut upload
                && let Poll::Ready(outcome) = sending.poll(cx)
            {
                upload = None;
                if let Err(error) = outcome {
                    let reason = format!("the client broke off: {error}");
                    return Poll::Ready(Err(SendError { sent: Sent::Unknown, no_connection: false, reason }));
                }
            }
            Pin::new(&mut answer).poll(cx).map_err(|error| SendError::from(&error))
        })
        .await?;
        if let Some(upload) = &mut upload {
            upload.is_answered = true;
        }
        Ok(response.map(|answer| GrpcBody { answer, is_data_over: false, upload, _under_way: under_way }))
    }

    /// The least busy connection that takes requests, or a new one.
    async fn connection(self: &Arc<Self>) -> Result<(SendRequest<Bytes>, UnderWay), SendError> {
        loop {
            let Connection { mut sender, state } = match self.least_busy() {
                Some((connection, count)) => {
                    self.relieve(&connection, count);
                    connection
                }
                None => Box::pin(self.first()).await?,
            };
            let under_way = UnderWay::begin(state);
            match poll_fn(|cx| sender.poll_ready(cx)).await {
                Ok(()) => return Ok((sender, under_way)),
                // It has ended meanwhile, and takes nobody's request with it.
                Err(_) => under_way.0.is_over.store(true, Ordering::Relaxed),
            }
        }
    }

    /// Opens another connection where even the least busy of `count` is busy, and nobody does so already.
    fn relieve(self: &Arc<Self>, least_busy: &Connection, count: usize) {
        if least_busy.state.under_way.load(Ordering::Relaxed) >= BUSY
            && count < MAX_CONNECTIONS
            && let Ok(alone) = self.dialing.clone().try_lock_owned()
        {
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
    async fn first(self: &Arc<Self>) -> Result<Connection, SendError> {
        let pool = self.clone();
        let first = tokio::spawn(async move { pool.dial_for_all().await });
        first.await.unwrap_or_else(|error| Err(SendError::not_sent(error.to_string())))
    }

    /// One of a crowd dials for all, and fails for all.
    async fn dial_for_all(&self) -> Result<Connection, SendError> {
        let before = self.failures().0;
        let _alone = self.dialing.lock().await;
        if let Some((connection, _)) = self.least_busy() {
            return Ok(connection);
        }
        {
            let (failures, reason) = &*self.failures();
            if *failures != before {
                return Err(SendError { no_connection: true, ..SendError::not_sent(reason.clone()) });
            }
        }
        self.dial().await
    }

    fn least_busy(&self) -> Option<(Connection, usize)> {
        let mut connections = self.connections();
        connections.retain(|connection| !connection.state.is_over.load(Ordering::Relaxed));
        let busy = |connection: &&Connection| connection.state.under_way.load(Ordering::Relaxed);
        connections.iter().min_by_key(busy).cloned().map(|connection| (connection, connections.len()))
    }

    async fn dial(&self) -> Result<Connection, SendError> {
        let stream = self.dialer.clone().dial().await.map_err(|error| {
            let error = SendError::no_connection(&error);
            let mut failures = self.failures();
            *failures = (failures.0 + 1, error.reason.clone());
            error
        })?;
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADER_LIST_BYTES)
            // Clients that go away leave answers behind whose frames nobody waits for, over the whole life of a
            // connection; that is no offence of the node's.
            .max_concurrent_reset_streams(MAX_ENDED_EARLY)
            .max_local_error_reset_streams(None);
        let stream = Batched::new(stream);
        // Its own turn: the preface has to go out.
        let (sender, mut driver) = stream
            .drive(builder.handshake(stream.clone()))
            .await
            .map_err(|error| SendError::not_sent(chain(&error)))?;
        let state = Arc::<State>::default();
        let (pings, over, open) = (driver.ping_pong(), state.clone(), self.count.open());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                outcome = stream.drive(&mut driver) => {
                    if let Err(error) = outcome {
                        tracing::debug!(%error, "a connection to a node ended");
                    }
                }
                () = silence(pings) => tracing::debug!("a connection to a node is silent, and given up"),
            }
            over.is_over.store(true, Ordering::Relaxed);
            drop(open);
        });
        let connection = Connection { sender, state };
        self.connections().push(connection.clone());
        Ok(connection)
    }

    fn failures(&self) -> MutexGuard<'_, (u64, String)> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves when a ping is not answered in time.
async fn silence(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(PING_INTERVAL).await;
        match tokio::time::timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The driver knows better why it ended.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// The headers that go out: those that concern one connection only stay behind.
fn headers(given: &HeaderMap) -> HeaderMap {
    let named = Named::by(given);
    let mut headers = HeaderMap::with_capacity(given.len() + 1);
    for (name, value) in given {
        if !is_of_one_connection(name) && !named.contains(name) {
            headers.append(name, value.clone());
        }
    }
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers
}

// === impl UnderWay ===

impl UnderWay {
    fn begin(state: Arc<State>) -> Self {
        state.under_way.fetch_add(1, Ordering::Relaxed);
        Self(state)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Upload ===

impl Upload {
    /// Sends what the node has room for; ready when there is no more to send, or nobody to send it to, which the
    /// answer tells.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(())) };
        loop {
            if self.waiting.is_empty() {
                match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                    Some(Ok(frame)) => {
                        self.waiting = frame.into_data().unwrap_or_default();
                        stream.reserve_capacity(self.waiting.len());
                        continue;
                    }
                    Some(Err(error)) => return Poll::Ready(Err(error)),
                    None => {
                        let _ = stream.send_data(Bytes::new(), true);
                        self.stream = None;
                        return Poll::Ready(Ok(()));
                    }
                }
            }
            while stream.capacity() == 0 {
                let Some(Ok(_)) = ready!(stream.poll_capacity(cx)) else {
                    self.stream = None;
                    return Poll::Ready(Ok(()));
                };
            }
            let now = self.waiting.split_to(stream.capacity().min(self.waiting.len()));
            if stream.send_data(now, false).is_err() {
                self.stream = None;
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl Drop for Upload {
    /// What breaks off is reset, and never ends as if it were whole; but not before the node has looked at it.
    fn drop(&mut self) {
        let Some(mut stream) = self.stream.take() else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if !self.is_answered => {
                let under_way = UnderWay::begin(self.state.clone());
                runtime.spawn(async move {
                    tokio::time::sleep(GRACE).await;
                    stream.send_reset(h2::Reason::CANCEL);
                    drop(under_way);
                });
            }
            _ => stream.send_reset(h2::Reason::CANCEL),
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
        let this = self.get_mut();
        if this.upload.as_mut().is_some_and(|upload| upload.poll(cx).is_ready()) {
            this.upload = None;
        }
        if !this.is_data_over {
            match ready!(this.answer.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Whoever takes it has made room for as much.
                    let _ = this.answer.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(BrokenAnswer::new(&error)))),
                None => this.is_data_over = true,
            }
        }
        Poll::Ready(match ready!(this.answer.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|mut trailers| {
                strip_connection_headers(&mut trailers);
                Ok(Frame::trailers(trailers))
            }),
            Err(error) => Some(Err(BrokenAnswer::new(&error))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }
}

// === impl SendError ===

impl From<&h2::Error> for SendError {
    /// A refused stream, or one beyond the last that a GOAWAY names, has not been looked at.
    fn from(error: &h2::Error) -> Self {
        let is_refused = error.reason() == Some(h2::Reason::REFUSED_STREAM)
            || (error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR));
        let sent = if is_refused { Sent::No } else { Sent::Unknown };
        Self { sent, no_connection: false, reason: chain(error) }
    }
}
