//! Listeners for clients. Both protocols are served on both ports.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Version, header};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{rt::TokioIo, server::graceful::GracefulConnection};
use qdrant_router::{
    ResponseBody,
    request::{self, BoxError},
};
use qdrant_router_http2::{
    PREFACE,
    server::{self as http2, Exchange},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::coop,
    time::{Instant, sleep_until},
};
use tokio_rustls::TlsAcceptor;

pub(crate) use self::{
    floods::Floods,
    visit::{Attended, Turns, Visit},
};
use self::{
    joined::{Joined, SHORT_BYTES},
    plain::{Other, Plain},
    prompt::Prompt,
    timer::Reused,
    wary::Wary,
};
use crate::{
    lifecycle::Proxy,
    metrics::Refusal,
    workers::{Desk, Workers},
};

mod date;
mod floods;
mod joined;
mod plain;
mod prompt;
mod timer;
mod visit;
mod wary;

/// The head of a request must have come within this time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections per listener.
const MAX_CONNECTIONS: u32 = 10_000;

/// The part of their age by which connections end earlier than they must, each by another: those that came together do
/// not all come back at once.
const AGE_SPREAD: f64 = 0.2;

/// The pause before the rest of how an HTTP/2 connection begins is looked for.
const PREFACE_PAUSE: Duration = Duration::from_millis(20);

/// Headers per request, and bytes of them: never more than Qdrant takes.
const MAX_HEADERS: usize = 96;
const MAX_HEAD_BYTES: usize = 128 << 10;

/// The pause after a connection could not be accepted, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves connections on this runtime until `stopped`, then waits for those that are open to finish their requests.
pub async fn serve(listener: TcpListener, proxy: Proxy, stopped: watch::Receiver<bool>) {
    let desk = Arc::new(Desk::shared(proxy));
    accept(listener, &desk.proxy, stopped, |tcp, arrival| {
        let visit = Visit::new(desk.clone());
        tokio::spawn(Attended::new(visit.clone(), arrival.serve(tcp, visit)));
    })
    .await;
}

/// As [`serve`], on the threads of `workers`.
pub async fn serve_on(
    workers: Arc<Workers>,
    listener: TcpListener,
    proxy: Proxy,
    stopped: watch::Receiver<bool>,
) {
    accept(listener, &proxy, stopped, |tcp, arrival| workers.serve(tcp, arrival)).await;
}

async fn accept(
    listener: TcpListener,
    proxy: &Proxy,
    mut stopped: watch::Receiver<bool>,
    serve: impl Fn(TcpStream, Arrival),
) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    let mut number: u32 = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => {
                    // Beyond the limit a connection is closed at once, so that the others are served.
                    let Ok(permit) = connections.clone().try_acquire_owned() else {
                        tracing::debug!(most = MAX_CONNECTIONS, "a connection is one too many");
                        proxy.metrics.clients.refused(Refusal::TooMany);
                        continue;
                    };
                    number = number.wrapping_add(1);
                    let aged = proxy.max_connection_age.map(|most| Instant::now() + age(most, number));
                    serve(tcp, Arrival { end: End { stopped: stopped.clone(), aged }, permit });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = stopped.changed() => break,
        }
    }
    drop(listener);
    // All are there again when the last connection has ended.
    let _ = connections.acquire_many(MAX_CONNECTIONS).await;
}

/// How old the connection of this number becomes, which is `most` at most.
fn age(most: Duration, number: u32) -> Duration {
    // Multiples of the golden ratio are spread evenly however many there are.
    let part = f64::from(number.wrapping_mul(0x9e37_79b9)) / f64::from(u32::MAX);
    most.mul_f64(1.0 - AGE_SPREAD * part)
}

/// What a connection comes with.
pub(crate) struct Arrival {
    end: End,
    permit: OwnedSemaphorePermit,
}

/// When a connection is told to end.
#[derive(Clone)]
struct End {
    /// When the proxy stops.
    stopped: watch::Receiver<bool>,
    /// When it is as old as it may become. Over HTTP/1.1 an answer tells that, and nothing else ends it.
    aged: Option<Instant>,
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

impl Arrival {
    /// Serves the connection, until it ends or is told to stop.
    pub(crate) async fn serve(self, tcp: TcpStream, visit: Arc<Visit>) {
        let Self { end, permit } = self;
        let connected = visit.desk().proxy.metrics.clients.connected();
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        match visit.desk().proxy.tls() {
            None => {
                let protocol = tokio::time::timeout(HEADER_TIMEOUT, spoken(&tcp));
                if let Ok(Ok(protocol)) = protocol.await {
                    converse(protocol, tcp, end, visit).await;
                }
            }
            Some(tls) => {
                let handshake = tokio::time::timeout(HEADER_TIMEOUT, TlsAcceptor::from(tls).accept(tcp));
                let handshake = handshake.await.map_err(io::Error::from).flatten();
                if let Err(error) = &handshake {
                    tracing::debug!(%error, "a client's TLS handshake failed");
                    visit.desk().proxy.metrics.clients.refused(Refusal::Tls);
                }
                if let Ok(stream) = handshake {
                    if stream.get_ref().1.peer_certificates().is_some() {
                        visit.set_known();
                    }
                    // The handshake has told the protocol; a client that did not say speaks HTTP/1.1.
                    let protocol = match stream.get_ref().1.alpn_protocol() {
                        Some(b"h2") => Protocol::Http2,
                        _ => Protocol::Http1,
                    };
                    Box::pin(converse(protocol, stream, end, visit)).await;
                }
            }
        }
        drop((connected, permit));
    }
}

/// Serves a connection whose protocol is known.
async fn converse<S>(protocol: Protocol, stream: S, end: End, visit: Arc<Visit>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let served = match protocol {
        // It has room for a request, which a connection of HTTP/2 does without while there is none.
        Protocol::Http1 => Box::pin(converse_plainly(stream, end, visit)).await,
        Protocol::Http2 => Err(converse_in_streams(stream, end, visit).await.into()),
    };
    if let Err(error) = served {
        tracing::debug!(error, "a client connection ended");
    }
}

/// Serves a connection of HTTP/1.1.
async fn converse_plainly<S>(stream: S, end: End, visit: Arc<Visit>) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let is_ending = AtomicBool::new(false);
    let answer = |request| {
        let visit = visit.clone();
        async move { answer(&visit, request).await }
    };
    let plain = Plain::new(stream, end.aged).serve(answer, &is_ending);
    let tell = |_: Pin<&mut _>| is_ending.store(true, Ordering::Relaxed);
    match until_told(plain, end.stopped.clone(), None, tell).await? {
        // What is rare lies in a box, so that the future of what is common is small.
        Some(other) => Box::pin(converse_fully(other, end, visit)).await,
        None => Ok(()),
    }
}

/// Serves a connection of HTTP/2; tells why it has ended.
async fn converse_in_streams<S>(stream: S, end: End, visit: Arc<Visit>) -> String
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let is_ending = AtomicBool::new(false);
    let stream = Wary::new(stream, visit.desk().floods.clone());
    let accept = |request: Request<http2::Incoming>, exchange: Exchange| {
        let answering = visit.clone();
        // A task is moved several times until it runs, with all the room that it has for later. What is boxed is not; and
        // where the box is there before, it is made inside.
        let task = Box::new_uninit();
        let answer = async move || {
            let mut response = answer(&answering, request.map(Prompt::new)).await;
            complete(&mut response);
            response
        };
        tokio::spawn(Box::into_pin(Box::write(task, Attended::new(visit.clone(), exchange.answer(answer)))));
    };
    let tell = |_: Pin<&mut _>| is_ending.store(true, Ordering::Relaxed);
    until_told(http2::serve(stream, accept, &is_ending), end.stopped, end.aged, tell).await
}

/// Serves what a connection brings from the first request on that is not plain.
async fn converse_fully<S>(
    Other { stream, read }: Other<S>,
    End { stopped, aged }: End,
    visit: Arc<Visit>,
) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = TokioIo::new(Joined::new(read, stream));
    let service = service_fn(move |request: Request<Incoming>| {
        let visit = visit.clone();
        let is_aged = aged.is_some_and(|aged| aged <= Instant::now());
        async move {
            let is_last = is_aged || has_unclear_end(&request);
            let mut response = answer(&visit, request.map(Prompt::new)).await;
            if is_last {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1().serve_connection(stream, service);
    until_told(connection, stopped, None, GracefulConnection::graceful_shutdown).await.map_err(Into::into)
}

/// Drives a connection, which is told to end, and finishes what it has begun, once the proxy has `stopped` or it has `aged`.
async fn until_told<C: Future>(
    connection: C,
    stopped: watch::Receiver<bool>,
    aged: Option<Instant>,
    tell: impl Fn(Pin<&mut C>),
) -> C::Output {
    let mut connection = pin!(connection);
    let mut change = stopped.clone();
    let mut change = pin!(change.changed());
    let mut aging = pin!(aged.map(sleep_until));
    let (mut is_new, mut is_ending) = (true, false);
    let mut waiting: Option<Waker> = None;
    poll_fn(|cx| {
        // A request that has begun to come is no reason to end, and is seen by looking.
        if std::mem::take(&mut is_new)
            && let Poll::Ready(output) = connection.as_mut().poll(cx)
        {
            return Poll::Ready(output);
        }
        // The change and the clock wake whoever waits for them, so that they need not be waited for anew with each request.
        let is_waiting = waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        let is_aged = || aging.as_ref().as_pin_ref().is_some_and(|aging| aging.is_elapsed());
        if !is_ending && (!is_waiting || stopped.has_changed().unwrap_or(true) || is_aged()) {
            // Without budget nothing is waited for, and the next turn comes at once.
            waiting = coop::has_budget_remaining().then(|| cx.waker().clone());
            let is_stopped = change.as_mut().poll(cx).is_ready();
            let is_aged = aging.as_mut().as_pin_mut().is_some_and(|aging| aging.poll(cx).is_ready());
            is_ending = is_stopped || is_aged;
            if is_ending {
                tell(connection.as_mut());
            }
        }
        connection.as_mut().poll(cx)
    })
    .await
}

fn http1() -> http1::Builder {
    let mut http1 = http1::Builder::new();
    http1
        .timer(Reused::default())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_HEAD_BYTES);
    http1
}

/// Gives an answer its date and its length, which one of a node has already. gRPC has no use for a length.
fn complete(response: &mut Response<ResponseBody>) {
    let length = response.body().size_hint().exact().filter(|_| !response.body().is_end_stream());
    let headers = response.headers_mut();
    headers.entry(header::DATE).or_insert_with(date::now);
    if request::Protocol::of(headers) == request::Protocol::Rest
        && let Some(length) = length
    {
        headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
}

/// Waits until the client has said which protocol it speaks.
async fn spoken(tcp: &TcpStream) -> io::Result<Protocol> {
    let mut said = [0; PREFACE.len()];
    loop {
        match tcp.peek(&mut said).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            all if all == PREFACE.len() && said == *PREFACE => return Ok(Protocol::Http2),
            all if !PREFACE.starts_with(&said[..all]) => return Ok(Protocol::Http1),
            // The beginning of a preface is there already, so that nothing wakes for the rest of it.
            _ => tokio::time::sleep(PREFACE_PAUSE).await,
        }
    }
}

async fn answer<B>(visit: &Visit, mut request: Request<B>) -> Response<ResponseBody>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let began = Instant::now();
    let desk = visit.desk();
    let record = desk.proxy.telemetry.begin(&mut request);
    let waiting = desk.proxy.metrics.wait();
    let (response, routed) = desk.router().route(request).await;
    waiting.end();
    let took = began.elapsed();
    if desk.proxy.metrics.observe(&routed, &response, took) {
        visit.set_known();
    }
    if let Some(record) = record {
        desk.proxy.telemetry.end(*record, &routed, &response, took);
    }
    response
}

/// Whether what follows a request may be something else to whoever stands in front: more of a tunnel, or of a
/// body that has a length beside its chunks. The server hides that length, so chunks alone end a connection.
fn has_unclear_end(request: &Request<Incoming>) -> bool {
    let is_http1 = request.version() <= Version::HTTP_11;
    is_http1
        && (request.method() == Method::CONNECT || request.headers().contains_key(header::TRANSFER_ENCODING))
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_told_once_when_it_is_as_old_as_it_may_become() {
        let begin = Instant::now();
        let (_stop, stopped) = watch::channel(false);
        let aged = Some(begin + Duration::from_secs(60));
        let told = std::cell::Cell::new(0);
        // Nothing but the clock wakes it before. Then it goes on for a while, to finish what it has begun.
        let mut rest = pin!(tokio::time::sleep(Duration::from_secs(65)));
        let connection = poll_fn(|cx| if told.get() > 0 { rest.as_mut().poll(cx) } else { Poll::Pending });
        until_told(connection, stopped, aged, |_| {
            assert_eq!(begin.elapsed().as_secs(), 60);
            told.set(told.get() + 1);
        })
        .await;
        assert_eq!(told.get(), 1);
    }

    #[test]
    fn connections_that_come_together_grow_old_one_after_the_other() {
        let most = Duration::from_secs(1000);
        let mut ended = [0; 200];
        for number in 1..=20_000 {
            let early = most - age(most, number);
            ended[usize::try_from(early.as_secs()).expect("a fifth at most")] += 1;
        }
        assert!(ended.iter().all(|&count| (95..=105).contains(&count)), "{ended:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_has_begun_to_come_is_served_though_the_end_was_told_before() {
        let (mut client, server) = duplex(1 << 10);
        let (stop, stopped) = watch::channel(false);
        stop.send_replace(true);
        let read = Bytes::from("PUT / HTTP/1.1\r\ncontent-length: 5\r\n\r\n[1");
        let echo = service_fn(async |request: Request<Incoming>| {
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            Ok::<_, Infallible>(Response::new(Full::new(body)))
        });
        let connection = http1().serve_connection(TokioIo::new(Joined::new(read, server)), echo);
        let served = until_told(connection, stopped, None, GracefulConnection::graceful_shutdown);
        let (served, got) = tokio::join!(served, async {
            client.write_all(b",2]").await.expect("it is open");
            let mut got = String::new();
            client.read_to_string(&mut got).await.expect("text");
            got
        });
        served.expect("an orderly end");
        assert!(got.starts_with("HTTP/1.1 200 OK\r\n") && got.ends_with("[1,2]"), "{got}");
        assert!(got.contains("connection: close"), "{got}");
    }
}
