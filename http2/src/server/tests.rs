use std::{
    collections::HashSet,
    convert::Infallible,
    io,
    sync::{Mutex, atomic::AtomicUsize},
    time::Duration,
};

use bytes::{BufMut, BytesMut};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::Instant,
};

use super::*;
use crate::{
    driver::{LINGER, LINGER_IN_SILENCE},
    frame::{Head, PREFACE, Reason, flag, kind, setting},
    testing::{frame, goaway, heard, in_time, reset, settings},
};

type Requests = mpsc::UnboundedReceiver<(Request<Incoming>, Exchange)>;

/// A server whose requests come out here, and the client's end of its connection.
struct Served {
    client: DuplexStream,
    requests: Requests,
    is_ending: Arc<AtomicBool>,
    /// Wakes what drives the connection.
    end: Arc<Notify>,
    driver: JoinHandle<String>,
}

fn serving(room: usize) -> Served {
    let (client, stream) = tokio::io::duplex(room);
    let (arrived, requests) = mpsc::unbounded_channel();
    let (is_ending, end) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let driver = tokio::spawn({
        let (is_ending, end) = (is_ending.clone(), end.clone());
        async move {
            let accept = |request, exchange| drop(arrived.send((request, exchange)));
            let mut serving = pin!(serve(stream, accept, &is_ending));
            let mut ended = pin!(end.notified());
            poll_fn(|cx| {
                let _ = ended.as_mut().poll(cx);
                serving.as_mut().poll(cx)
            })
            .await
        }
    });
    Served { client, requests, is_ending, end, driver }
}

impl Served {
    async fn say(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).await.expect("a pipe");
    }

    async fn hear(&mut self) -> (Head, Vec<u8>) {
        in_time(heard(&mut self.client)).await
    }

    async fn request(&mut self) -> (Request<Incoming>, Exchange) {
        in_time(self.requests.recv()).await.expect("a request")
    }

    /// Whether the connection still answers.
    async fn is_alive(&mut self) -> bool {
        self.client.write_all(&frame(kind::PING, 0, 0, b"12345678")).await.is_ok()
            && loop {
                match self.hear().await {
                    (Head { kind: kind::PING, .. }, _) => break true,
                    (Head { kind: kind::GOAWAY, .. }, _) => break false,
                    _ => {}
                }
            }
    }
}

/// A server to which the client has said hello, and which has too.
async fn greeted() -> Served {
    let mut served = serving(1 << 20);
    served.say(&[&PREFACE[..], &settings(&[])].concat()).await;
    for expected in [kind::SETTINGS, kind::WINDOW_UPDATE, kind::SETTINGS] {
        assert_eq!(served.hear().await.0.kind, expected);
    }
    served
}

/// `POST http /`, without a body where it `ends_stream`.
fn post(stream: u32, ends_stream: bool) -> Vec<u8> {
    let end = if ends_stream { flag::END_STREAM } else { 0 };
    frame(kind::HEADERS, flag::END_HEADERS | end, stream, &[0x83, 0x86, 0x84])
}

fn response(body: &'static str) -> Response<Full<Bytes>> {
    Response::new(Full::from(body))
}

async fn collected(body: Incoming) -> Result<(Vec<u8>, Option<HeaderMap>), Broken> {
    let collected = in_time(body.collect()).await?;
    let trailers = collected.trailers().cloned();
    Ok((collected.to_bytes().into(), trailers))
}

// === against a client of another make ===

/// The body of an echo: that of the request, and trailers.
struct Echo(Incoming, bool);

impl Body for Echo {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match ready!(Pin::new(&mut self.0).poll_frame(cx)) {
            Some(frame) => Poll::Ready(Some(frame)),
            None if std::mem::replace(&mut self.1, true) => Poll::Ready(None),
            None => Poll::Ready(Some(Ok(Frame::trailers(HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                0.into(),
            )]))))),
        }
    }
}

fn echoing(room: usize) -> (DuplexStream, JoinHandle<String>) {
    let (client, stream) = tokio::io::duplex(room);
    let driver = tokio::spawn(async move {
        let accept = |request: Request<Incoming>, exchange: Exchange| {
            tokio::spawn(exchange.answer(async move || {
                assert_eq!((request.uri().path(), request.method()), ("/qdrant.Points/Query", &Method::POST));
                let (head, body) = request.into_parts();
                let mut response = Response::new(Echo(body, false));
                *response.headers_mut() = head.headers;
                response.headers_mut().insert("connection", HeaderValue::from_static("stays behind"));
                response
            }));
        };
        serve(stream, accept, &AtomicBool::new(false)).await
    });
    (client, driver)
}

#[tokio::test(start_paused = true)]
async fn requests_of_all_sizes_come_back() {
    for (room, window) in [(1 << 20, 1 << 20), (1000, 65_535), (64, 100)] {
        let (stream, _driver) = echoing(room);
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(window.max(65_535));
        let (requests, connection) = builder.handshake::<_, Bytes>(stream).await.expect("a handshake");
        tokio::spawn(connection);
        let sizes = [0, 1, 8 << 10, 16 << 10, (16 << 10) + 1, 70_000, 700_000];
        let calls = sizes.iter().enumerate().map(async |(at, &size)| {
            let mut requests = requests.clone().ready().await.expect("a connection");
            let body = Bytes::from(vec![at as u8; if window == 100 { size / 100 } else { size }]);
            let mut request = Request::post("http://qdrant/qdrant.Points/Query")
                .header("user-agent", "test")
                .header("cookie", "c".repeat(at * 2000));
            if at % 2 == 0 {
                request = request.header("content-length", body.len());
            }
            let request = request.body(()).expect("a request");
            let expected = request.headers().clone();
            let (response, mut send) = requests.send_request(request, false).expect("a stream");
            let sending = async {
                let mut data = body.clone();
                while !data.is_empty() {
                    send.reserve_capacity(data.len());
                    let room = poll_fn(|cx| send.poll_capacity(cx)).await.expect("open").expect("room");
                    let piece = data.split_to(room.min(data.len()));
                    send.send_data(piece, false).expect("open");
                }
                send.send_data(Bytes::new(), true).expect("open");
            };
            let receiving = async {
                let response = response.await.expect("an answer");
                assert_eq!((response.status(), response.headers()), (StatusCode::OK, &expected));
                let mut body = response.into_body();
                let mut data = Vec::new();
                while let Some(piece) = body.data().await {
                    let piece = piece.expect("data");
                    let _ = body.flow_control().release_capacity(piece.len());
                    data.extend_from_slice(&piece);
                }
                let trailers = body.trailers().await.expect("an end").expect("trailers");
                assert_eq!(trailers["grpc-status"], "0");
                data
            };
            let ((), data) = in_time(async { tokio::join!(sending, receiving) }).await;
            assert!(data == body, "{size} bytes");
        });
        futures_util::future::join_all(calls).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_is_noticed_by_those_who_answer() {
    let mut served = greeted().await;
    served.say(&[post(1, false), post(3, true)].concat()).await;
    let (first, exchange) = served.request().await;
    let (_, other) = served.request().await;
    drop(served.client);
    assert_eq!(served.driver.await.expect("no panic"), "the connection was closed");
    let never = std::future::pending::<Response<Full<Bytes>>>;
    in_time(exchange.answer(never)).await;
    in_time(other.answer(never)).await;
    collected(first.into_body()).await.expect_err("half a body");
}

// === against a client that says what the test wants ===

#[tokio::test(start_paused = true)]
async fn a_short_request_is_there_as_a_whole_and_its_answer_goes_out_as_one() {
    let mut served = greeted().await;
    served.say(&[post(1, false), frame(kind::DATA, flag::END_STREAM, 1, b"asked")].concat()).await;
    let (request, exchange) = served.request().await;
    assert_eq!(request.body().size_hint().exact(), Some(5));
    assert_eq!(request.uri(), "/");
    assert_eq!(collected(request.into_body()).await.expect("a body"), (b"asked".to_vec(), None));
    exchange.answer(async || response("told")).await;
    let (head, block) = served.hear().await;
    assert_eq!((head.kind, head.flags, head.stream, &block[..]), (kind::HEADERS, 4, 1, &[0x88][..]));
    let (head, data) = served.hear().await;
    assert_eq!((head.kind, head.flags, &data[..]), (kind::DATA, flag::END_STREAM, &b"told"[..]));
    // Nothing is reset that was over.
    assert_eq!(served.client.write_all(&frame(kind::PING, 0, 0, &[0; 8])).await.ok(), Some(()));
    assert_eq!(served.hear().await.0.kind, kind::PING);
}

#[tokio::test(start_paused = true)]
async fn a_body_comes_with_its_trailers_and_its_length() {
    let mut served = greeted().await;
    // content-length: 9
    let block = [0x83, 0x86, 0x84, 0x0f, 0x0d, 1, b'9'];
    served.say(&frame(kind::HEADERS, flag::END_HEADERS, 1, &block)).await;
    let (request, _exchange) = served.request().await;
    let mut body = request.into_body();
    assert_eq!(body.size_hint().exact(), Some(9));
    let padded = frame(kind::DATA, flag::PADDED, 1, b"\x03half...");
    served.say(&padded).await;
    assert_eq!(in_time(body.frame()).await.expect("data").expect("data").into_data().expect("data"), "half");
    assert_eq!(body.size_hint().exact(), Some(5));
    let trailers = frame(kind::HEADERS, 5, 1, &[0x40, 1, b'a', 1, b'b']);
    served.say(&[frame(kind::DATA, 0, 1, b" done"), trailers].concat()).await;
    let (data, trailers) = collected(body).await.expect("a body");
    assert_eq!(
        (&data[..], &trailers.expect("trailers")["a"]),
        (&b" done"[..], &HeaderValue::from_static("b"))
    );
}

/// A request that is given up is not answered, and what answers it is dropped.
#[tokio::test(start_paused = true)]
async fn who_gives_up_is_not_answered() {
    let mut served = greeted().await;
    served.say(&post(1, true)).await;
    let (_, exchange) = served.request().await;
    let answering = tokio::spawn(exchange.answer(std::future::pending::<Response<Full<Bytes>>>));
    tokio::task::yield_now().await;
    served.say(&reset(1, Reason::CANCEL)).await;
    in_time(answering).await.expect("no panic");
    // Nor is one whose answer has begun.
    served.say(&post(3, true)).await;
    let (_, exchange) = served.request().await;
    let endless = stream::pending::<Result<Frame<Bytes>, Infallible>>();
    let answering = tokio::spawn(exchange.answer(async || Response::new(StreamBody::new(endless))));
    assert_eq!(served.hear().await.0.kind, kind::HEADERS);
    served.say(&reset(3, Reason::CANCEL)).await;
    in_time(answering).await.expect("no panic");
    assert!(served.is_alive().await);
}

/// Who breaks off tells the client so, and never ends an answer as if it were whole.
#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_is_reset() {
    let breaks = stream::iter([Err::<Frame<Bytes>, _>("it is gone")]);
    let mut served = greeted().await;
    served.say(&[post(1, true), post(3, true)].concat()).await;
    let (_, exchange) = served.request().await;
    exchange.answer(async || Response::new(StreamBody::new(breaks))).await;
    assert_eq!(served.hear().await.0.kind, kind::HEADERS);
    let internal_error = 2_u32.to_be_bytes();
    let (head, payload) = served.hear().await;
    assert_eq!((head.kind, head.stream, &payload[..]), (kind::RST_STREAM, 1, &internal_error[..]));
    let (_, exchange) = served.request().await;
    drop(exchange);
    let (head, payload) = served.hear().await;
    assert_eq!((head.kind, head.stream, &payload[..]), (kind::RST_STREAM, 3, &internal_error[..]));
}

/// The rest of a request that is answered is not wanted, and does not keep others from sending theirs.
#[tokio::test(start_paused = true)]
async fn an_early_answer_ends_the_request() {
    let mut served = greeted().await;
    for at in 0..10 {
        let stream = 2 * at + 1;
        served
            .say(&[post(stream, false), frame(kind::DATA, 0, stream, &[0; 16_384]).repeat(16)].concat())
            .await;
        let (request, exchange) = served.request().await;
        // Nobody takes its body, while it comes and after.
        drop(request);
        served.say(&frame(kind::DATA, 0, stream, &[0; 16_384]).repeat(16)).await;
        exchange.answer(async || response("no")).await;
        let mut kinds = Vec::new();
        while let (head, payload) = served.hear().await
            && head.kind != kind::RST_STREAM
        {
            kinds.push((head.kind, head.flags, payload.len()));
        }
        kinds.retain(|(kind, ..)| *kind != kind::WINDOW_UPDATE);
        assert_eq!(kinds, [(kind::HEADERS, 4, kinds[0].2), (kind::DATA, flag::END_STREAM, 2)]);
        served.say(&frame(kind::DATA, 0, stream, &[0; 16_384]).repeat(16)).await;
    }
    // Each has sent 768 KiB of the four megabytes that all of them may.
    assert!(served.is_alive().await);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_reads_waits_for_its_window() {
    let mut served = greeted().await;
    let long = || Response::new(Full::from(vec![7; 100_000]));
    served.say(&post(1, true)).await;
    let (_, exchange) = served.request().await;
    exchange.answer(async || long()).await;
    served.hear().await;
    let mut got = 0;
    while got < 65_535 {
        got += served.hear().await.1.len();
    }
    assert_eq!(got, 65_535, "as much as the window of a client that said nothing");
    // Whoever answered is gone; the rest goes out once there is room, unless it is given up.
    let more = 50_000_u32.to_be_bytes();
    served
        .say(&[frame(kind::WINDOW_UPDATE, 0, 0, &more), frame(kind::WINDOW_UPDATE, 0, 1, &more)].concat())
        .await;
    while got < 100_000 {
        let (head, data) = served.hear().await;
        got += data.len();
        assert_eq!(head.has(flag::END_STREAM), got == 100_000);
    }
    served.say(&post(3, true)).await;
    let (_, exchange) = served.request().await;
    exchange.answer(async || long()).await;
    served.hear().await;
    served.say(&reset(3, Reason::CANCEL)).await;
    assert!(served.is_alive().await);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_stands_still_is_reset_and_a_slow_one_is_not() {
    let mut served = greeted().await;
    let began = Instant::now();
    served.say(&[post(1, true), post(3, true)].concat()).await;
    let mut answering = Vec::new();
    for _ in 0..2 {
        let (_, exchange) = served.request().await;
        let body = Full::from(vec![7; 100_000]);
        answering.push(tokio::spawn(exchange.answer(async || Response::new(body))));
    }
    // The connection has room for both, the first of which has none of its own.
    served.say(&frame(kind::WINDOW_UPDATE, 0, 0, &1_000_000_u32.to_be_bytes())).await;
    let mut resets = Vec::new();
    while began.elapsed() < 5 * PATIENCE.ping_interval {
        let next = tokio::time::timeout(PATIENCE.ping_interval / 2, heard(&mut served.client)).await;
        match next {
            Ok((Head { kind: kind::PING, .. }, payload)) => {
                served.say(&frame(kind::PING, flag::ACK, 0, &payload)).await;
            }
            Ok((Head { kind: kind::RST_STREAM, stream, .. }, payload)) => {
                resets.push((stream, payload[3], began.elapsed().as_secs()));
            }
            Ok(_) => {}
            Err(_) => served.say(&frame(kind::WINDOW_UPDATE, 0, 3, &10_u32.to_be_bytes())).await,
        }
    }
    let [(1, 8, after)] = resets[..] else { panic!("{resets:?}") };
    assert!((60..=80).contains(&after), "after {after} s");
}

/// Whoever does not read has no more requests read, however short their answers are.
#[tokio::test(start_paused = true)]
async fn who_does_not_read_is_not_read() {
    let mut served = serving(1 << 10);
    served.say(&[&PREFACE[..], &settings(&[])].concat()).await;
    let answering = tokio::spawn(async move {
        let mut answered = 0;
        while let Some((_, exchange)) = served.requests.recv().await {
            let mut refusal = response("");
            let text = HeaderValue::try_from("x".repeat(2_000)).expect("text");
            refusal.headers_mut().insert("grpc-message", text);
            exchange.answer(async || refusal).await;
            answered += 1;
        }
        answered
    });
    let mut client = served.client;
    let asks = async {
        for at in 0..10_000 {
            client.write_all(&post(2 * at + 1, true)).await?;
        }
        io::Result::Ok(())
    };
    tokio::time::timeout(PATIENCE.ping_interval / 2, asks).await.expect_err("it is kept waiting");
    assert_eq!(served.driver.await.expect("no panic"), "the client is silent");
    let answered = answering.await.expect("no panic");
    assert!(answered < 400, "{answered} answers of 2 KB that nobody read");
}

/// Who takes what it is sent, however slowly, is there.
#[tokio::test(start_paused = true)]
async fn a_slow_client_is_not_silent() {
    let mut served = serving(1 << 10);
    let wide = settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 30)]);
    let widen = frame(kind::WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes());
    served.say(&[&PREFACE[..], &wide, &widen, &post(1, true)].concat()).await;
    let (_, exchange) = served.request().await;
    let body = Full::from(vec![7; 600 << 10]);
    tokio::spawn(exchange.answer(async || Response::new(body)));
    let began = Instant::now();
    let mut got = 0;
    while got < 600 << 10 {
        tokio::time::sleep(PATIENCE.ping_interval / 8).await;
        let mut some = vec![0; 8 << 10];
        let read = served.client.read(&mut some).await.expect("a pipe");
        assert!(read > 0, "it is given up after {:?}", began.elapsed());
        got += read;
    }
    assert!(began.elapsed() > 4 * (PATIENCE.ping_interval + PATIENCE.ping_timeout));
}

/// Of errors now and then, with answers between them, there is no end.
#[tokio::test(start_paused = true)]
async fn who_makes_an_error_now_and_then_is_served_on() {
    let mut served = greeted().await;
    for at in 0..3_000 {
        let without_a_path = frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 4 * at + 1, &[0x83]);
        served.say(&[without_a_path, post(4 * at + 3, true)].concat()).await;
        let (_, exchange) = served.request().await;
        exchange.answer(async || response("")).await;
        while served.hear().await.0.kind != kind::HEADERS {}
    }
    assert!(served.is_alive().await);
}

/// What was given up before anybody had time for it is not begun.
#[tokio::test(start_paused = true)]
async fn what_is_given_up_in_time_is_not_begun() {
    let mut served = greeted().await;
    served.say(&post(1, true)).await;
    let (_, exchange) = served.request().await;
    served.say(&reset(1, Reason::CANCEL)).await;
    assert!(served.is_alive().await);
    let begun = async || -> Response<Full<Bytes>> { panic!("it was begun") };
    exchange.answer(begun).await;
}

/// An end that is told by an empty piece is one.
#[tokio::test(start_paused = true)]
async fn an_empty_last_piece_ends_an_answer() {
    struct Two(usize);
    impl Body for Two {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0 += 1;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(if self.0 == 1 { b"one" } else { b"" })))))
        }

        fn is_end_stream(&self) -> bool {
            self.0 == 2
        }
    }
    let mut served = greeted().await;
    served.say(&post(1, true)).await;
    let (_, exchange) = served.request().await;
    exchange.answer(async || Response::new(Two(0))).await;
    let mut ends = Vec::new();
    for _ in 0..3 {
        ends.push(served.hear().await.0.has(flag::END_STREAM));
    }
    assert_eq!(ends, [false, false, true]);
}

/// A body that nobody has waited for in vain.
#[tokio::test(start_paused = true)]
async fn who_reads_a_body_hears_of_its_end() {
    let mut served = greeted().await;
    served.say(&post(1, false)).await;
    let (request, exchange) = served.request().await;
    let reading = tokio::spawn(collected(request.into_body()));
    tokio::task::yield_now().await;
    drop(exchange);
    in_time(reading).await.expect("no panic").expect_err("half a body");
}

#[tokio::test(start_paused = true)]
async fn many_short_pieces_are_one_body() {
    let mut served = greeted().await;
    let pieces: Vec<u8> = (0..2_000_u32).flat_map(|at| frame(kind::DATA, 0, 1, &at.to_be_bytes())).collect();
    let all = [post(1, false), pieces, frame(kind::DATA, flag::END_STREAM, 1, &[])].concat();
    served.say(&all).await;
    let (request, _exchange) = served.request().await;
    let (data, _) = collected(request.into_body()).await.expect("a body");
    assert!(data == (0..2_000_u32).flat_map(u32::to_be_bytes).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn more_streams_than_may_be_are_refused_and_others_are_not() {
    let mut served = greeted().await;
    let all: Vec<u8> = (0..257).flat_map(|at| post(2 * at + 1, true)).collect();
    served.say(&all).await;
    let (head, payload) = served.hear().await;
    assert_eq!((head.kind, head.stream, &payload[..]), (kind::RST_STREAM, 513, &7_u32.to_be_bytes()[..]));
    let mut exchanges = Vec::new();
    for _ in 0..256 {
        exchanges.push(served.request().await.1);
    }
    exchanges.pop().expect("one").answer(async || response("")).await;
    served.hear().await;
    served.say(&post(515, true)).await;
    served.request().await.1.answer(async || response("")).await;
    assert_eq!(served.hear().await.0.stream, 515);
}

#[tokio::test(start_paused = true)]
async fn what_no_client_may_do_ends_the_connection() {
    let headers = |flags, block: &[u8]| frame(kind::HEADERS, flag::END_HEADERS | flags, 1, block);
    let good: &[u8] = &[0x83, 0x86, 0x84];
    for (what, reason, says) in [
        ("a frame that is too long", 6, frame(kind::DATA, 0, 1, &[0; 16_385])),
        ("a push", 1, frame(kind::PUSH_PROMISE, 0, 1, &[0; 4])),
        ("a request on an even stream", 1, post(2, true)),
        ("a request on the connection", 1, post(0, true)),
        ("data of a stream that was not opened", 1, frame(kind::DATA, 0, 1, b"data")),
        ("a reset of a stream that was not opened", 1, reset(1, Reason::CANCEL)),
        ("room on a stream that was not opened", 1, frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
        ("garbled headers", 9, headers(0, &[0xbe])),
        ("interrupted headers", 1, [frame(kind::HEADERS, 0, 1, good), settings(&[])].concat()),
        ("a CONTINUATION of nothing", 1, frame(kind::CONTINUATION, 4, 1, good)),
        (
            "headers without an end",
            11,
            [frame(kind::HEADERS, 0, 1, good), frame(kind::CONTINUATION, 0, 1, &[]).repeat(100)].concat(),
        ),
        (
            "headers without an end that fill frames",
            11,
            [frame(kind::HEADERS, 0, 1, good), frame(kind::CONTINUATION, 0, 1, &[0; 16_000]).repeat(3)]
                .concat(),
        ),
        (
            "more padding than bytes",
            1,
            [post(1, false), frame(kind::DATA, flag::PADDED, 1, &[9, 0])].concat(),
        ),
        ("half a setting", 6, frame(kind::SETTINGS, 0, 0, &[0; 5])),
        ("a window that is too wide", 3, settings(&[(setting::INITIAL_WINDOW_SIZE, u32::MAX)])),
        (
            "more data than a stream's window",
            3,
            [post(1, false), frame(kind::DATA, 0, 1, &[0; 16_384]).repeat(65)].concat(),
        ),
        ("a flood of pings", 11, frame(kind::PING, 0, 0, &[0; 8]).repeat(2000)),
        ("a flood of settings", 11, settings(&[]).repeat(2000)),
        (
            "requests that are given up at once",
            11,
            (0..21)
                .flat_map(|at| [post(2 * at + 1, true), reset(2 * at + 1, Reason::CANCEL)].concat())
                .collect(),
        ),
        (
            "one error after the other",
            11,
            (0..1025).flat_map(|at| frame(kind::HEADERS, 5, 2 * at + 1, &[])).collect(),
        ),
    ] {
        let mut served = greeted().await;
        served.say(&says).await;
        let payload = loop {
            match served.hear().await {
                (Head { kind: kind::GOAWAY, .. }, payload) => break payload,
                (
                    Head {
                        kind: kind::PING | kind::SETTINGS | kind::RST_STREAM | kind::WINDOW_UPDATE, ..
                    },
                    _,
                ) => {}
                (head, _) => panic!("{what}: {head:?}"),
            }
        };
        assert_eq!(payload[4..], u32::to_be_bytes(reason), "{what}");
        let told = served.driver.await.expect("no panic");
        assert!(told.starts_with("the client breaks the protocol"), "{what}: {told}");
    }
}

/// A field that is written out.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        field.put_u8(u8::try_from(text.len()).expect("short"));
        field.extend_from_slice(text.as_bytes());
    }
    field
}

#[tokio::test(start_paused = true)]
async fn requests_that_make_no_sense_are_reset_and_others_are_served() {
    let good: &[u8] = &[0x83, 0x86, 0x84];
    let mut served = greeted().await;
    let mut stream = 1;
    for (what, block) in [
        ("nothing", Vec::new()),
        ("no method", vec![0x86, 0x84]),
        ("no scheme", vec![0x83, 0x84]),
        ("no path", vec![0x83, 0x86]),
        ("two methods", vec![0x83, 0x83, 0x86, 0x84]),
        ("an empty path", [vec![0x83, 0x86], field(":path", "")].concat()),
        ("a path of spaces", [vec![0x83, 0x86], field(":path", "/a b")].concat()),
        ("a method that is none", [field(":method", "A B"), vec![0x86, 0x84]].concat()),
        ("a status", [good, &[0x88]].concat()),
        ("a pseudo-field among the headers", [&[0x83, 0x86][..], &field("a", "b"), &[0x84]].concat()),
        ("a header of HTTP/1.1", [good, &field("connection", "close")].concat()),
        ("chunks", [good, &field("transfer-encoding", "chunked")].concat()),
        ("an upgrade", [good, &field("upgrade", "h2c")].concat()),
        ("more than trailers", [good, &field("te", "gzip")].concat()),
        ("a length that is none", [good, &field("content-length", "+1")].concat()),
        ("two lengths", [good, &field("content-length", "0"), &field("content-length", "0")].concat()),
        ("a length without a body", [good, &field("content-length", "1")].concat()),
        ("a tunnel with a path", [field(":method", "CONNECT"), vec![0x84]].concat()),
    ] {
        served.say(&frame(kind::HEADERS, 5, stream, &block)).await;
        let (head, payload) = served.hear().await;
        assert_eq!(
            (head.kind, head.stream, &payload[..]),
            (kind::RST_STREAM, stream, &[0, 0, 0, 1][..]),
            "{what}"
        );
        stream += 2;
    }
    for (what, length, says) in [
        ("a body that is too long", "3", frame(kind::DATA, 0, 0, b"four")),
        ("a body that is too short", "5", frame(kind::DATA, flag::END_STREAM, 0, b"four")),
        ("a body that is too short for its trailers", "5", frame(kind::HEADERS, 5, 0, &[])),
        ("trailers that do not end it", "0", frame(kind::HEADERS, 4, 0, &[])),
        ("trailers with a path", "0", frame(kind::HEADERS, 5, 0, &[0x84])),
        ("trailers of HTTP/1.1", "0", frame(kind::HEADERS, 5, 0, &field("connection", "close"))),
        ("a window that never opens", "0", frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4])),
    ] {
        let mut says = says;
        says[5..9].copy_from_slice(&u32::to_be_bytes(stream));
        let block = [good, &field("content-length", length)].concat();
        served.say(&frame(kind::HEADERS, flag::END_HEADERS, stream, &block)).await;
        let (request, exchange) = served.request().await;
        served.say(&says).await;
        let (head, payload) = served.hear().await;
        assert_eq!(
            (head.kind, head.stream, &payload[..]),
            (kind::RST_STREAM, stream, &[0, 0, 0, 1][..]),
            "{what}"
        );
        let error = collected(request.into_body()).await.expect_err(what);
        assert!(error.to_string().starts_with("the request of the client makes no sense"), "{error}");
        in_time(exchange.answer(std::future::pending::<Response<Full<Bytes>>>)).await;
        stream += 2;
    }
    // Tunnels and paths that are none of Qdrant's are for whoever answers.
    for (block, method, uri) in [
        ([field(":method", "CONNECT"), field(":authority", "qdrant:6333")].concat(), "CONNECT", "/"),
        ([vec![0x86], field(":method", "OPTIONS"), field(":path", "*")].concat(), "OPTIONS", "*"),
        ([good, &field("te", "trailers"), &field("content-length", "0")].concat(), "POST", "/"),
    ] {
        served.say(&frame(kind::HEADERS, 5, stream, &block)).await;
        let (request, _) = served.request().await;
        assert_eq!((request.method().as_str(), request.uri().to_string().as_str()), (method, uri));
        served.hear().await;
        stream += 2;
    }
    assert!(served.is_alive().await);
}

#[tokio::test(start_paused = true)]
async fn headers_that_are_too_long_are_answered_so() {
    let mut served = greeted().await;
    let long = [&[0x83, 0x86, 0x84, 0x40, 1, b'a', 0x7f, 0x81, 0x77][..], &[b'x'; 15_360]].concat();
    served
        .say(&frame(kind::HEADERS, 5, 1, &[&long[..], &field("b", &"y".repeat(126)).repeat(6)].concat()))
        .await;
    let (head, block) = served.hear().await;
    assert_eq!((head.kind, head.flags, head.stream), (kind::HEADERS, 5, 1));
    assert!(block.ends_with(b"431"), "{block:?}");
    assert!(served.requests.try_recv().is_err());
    assert!(served.is_alive().await);
}

/// What has been told is kept, and what comes before the client knows is served.
#[tokio::test(start_paused = true)]
async fn the_end_is_agreed_upon() {
    let mut served = greeted().await;
    served.say(&post(1, true)).await;
    let (_, first) = served.request().await;
    served.is_ending.store(true, Ordering::Relaxed);
    served.end.notify_one();
    let (head, payload) = served.hear().await;
    assert_eq!((head.kind, &payload[..]), (kind::GOAWAY, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0][..]));
    let (ping, farewell) = served.hear().await;
    assert_eq!((ping.kind, ping.flags), (kind::PING, 0));
    served.say(&[post(3, true), frame(kind::PING, flag::ACK, 0, &farewell)].concat()).await;
    let (_, second) = served.request().await;
    let (head, payload) = served.hear().await;
    assert_eq!((head.kind, &payload[..]), (kind::GOAWAY, &[0, 0, 0, 3, 0, 0, 0, 0][..]));
    served.say(&post(5, true)).await;
    let (head, payload) = served.hear().await;
    assert_eq!((head.kind, head.stream, payload[3]), (kind::RST_STREAM, 5, 7), "it comes too late");
    first.answer(async || response("")).await;
    assert_eq!(served.hear().await.0.stream, 1);
    assert!(!served.driver.is_finished());
    second.answer(async || response("")).await;
    assert_eq!(served.hear().await.0.stream, 3);
    assert_eq!(in_time(served.driver).await.expect("no panic"), "the connection has ended");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_goodbye_has_its_answers_first() {
    let mut served = greeted().await;
    served.say(&[post(1, true), goaway(0, Reason::NO_ERROR)].concat()).await;
    let (_, exchange) = served.request().await;
    exchange.answer(async || response("")).await;
    assert_eq!(served.hear().await.0.stream, 1);
    assert_eq!(in_time(served.driver).await.expect("no panic"), "the connection has ended");
}

/// A socket that is closed while more comes resets its connection, which may cost the client the last answer.
#[tokio::test(start_paused = true)]
async fn the_connection_stays_until_the_client_has_read_all_of_it() {
    let mut served = greeted().await;
    served.say(&[post(1, true), goaway(0, Reason::NO_ERROR)].concat()).await;
    let (_, exchange) = served.request().await;
    exchange.answer(async || response("the last")).await;
    for _ in 0..5 {
        tokio::time::sleep(LINGER_IN_SILENCE / 2).await;
        served.say(&frame(kind::PING, 0, 0, b"12345678")).await;
    }
    assert!(!served.driver.is_finished());
    let began = Instant::now();
    drop(served.client);
    assert_eq!(served.driver.await.expect("no panic"), "the connection has ended");
    assert_eq!(began.elapsed(), Duration::ZERO);

    // It may not take as long as it likes.
    for (pause, most) in [(LINGER_IN_SILENCE / 2, LINGER), (2 * LINGER_IN_SILENCE, Duration::ZERO)] {
        let mut served = greeted().await;
        served.say(&goaway(0, Reason::NO_ERROR)).await;
        let began = Instant::now();
        while !served.driver.is_finished() {
            tokio::time::sleep(pause).await;
            let _ = served.client.write_all(&frame(kind::PING, 0, 0, b"12345678")).await;
        }
        assert!(began.elapsed() <= most + pause, "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_of_another_protocol_is_told_so() {
    let mut served = serving(1 << 10);
    served.say(b"GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(
        in_time(served.driver).await.expect("no panic"),
        "the client breaks the protocol: it does not speak HTTP/2"
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_given_up_and_one_that_answers_is_not() {
    let mut served = greeted().await;
    let began = Instant::now();
    for _ in 0..3 {
        let (ping, payload) = heard(&mut served.client).await;
        assert_eq!((ping.kind, ping.flags), (kind::PING, 0));
        served.say(&frame(kind::PING, flag::ACK, 0, &payload)).await;
    }
    let asked_for = began.elapsed();
    assert!(asked_for < 7 * PATIENCE.ping_interval, "{asked_for:?}");
    heard(&mut served.client).await;
    let asked = Instant::now();
    assert_eq!(served.driver.await.expect("no panic"), "the client is silent");
    assert_eq!(asked.elapsed().as_secs(), PATIENCE.ping_timeout.as_secs());
}

/// Whatever a client sends, and in whatever pieces: nothing panics, and everybody who answers comes to an end.
#[tokio::test(start_paused = true)]
async fn nonsense_ends_and_never_panics() {
    let mut dice = fastrand::Rng::with_seed(5);
    let mut reasons = HashSet::new();
    let answers = Arc::new(AtomicUsize::new(0));
    for _ in 0..4_000 {
        let (mut client, stream) = tokio::io::duplex(1 << 20);
        let tasks = Arc::new(Mutex::new(Vec::new()));
        let driver = tokio::spawn({
            let (tasks, answers) = (tasks.clone(), answers.clone());
            async move {
                let accept = |request: Request<Incoming>, exchange: Exchange| {
                    let answers = answers.clone();
                    let task = tokio::spawn(exchange.answer(async move || {
                        let _ = collected(request.into_body()).await;
                        answers.fetch_add(1, Ordering::Relaxed);
                        response("an answer")
                    }));
                    tasks.lock().expect("no panic").push(task);
                };
                serve(stream, accept, &AtomicBool::new(false)).await
            }
        });
        let mut throw = |sides: u64| dice.u64(..sides);
        let mut says = PREFACE.to_vec();
        says.extend(if throw(10) > 0 { settings(&[]) } else { Vec::new() });
        let mut last = 1;
        for _ in 0..throw(16) {
            let payload: Vec<u8> = (0..throw(24)).map(|_| throw(256) as u8).collect();
            let stream = throw(4) as u32 * 2 + 1;
            says.extend(match throw(9) {
                0 => frame(throw(256) as u8, throw(256) as u8, throw(8) as u32, &payload),
                1 => frame(kind::HEADERS, throw(64) as u8, stream, &[0x83, 0x86, 0x84]),
                2 => settings(&[(throw(8) as u16, throw(u64::from(u32::MAX)) as u32 >> throw(32))]),
                3 => goaway(throw(8) as u32, Reason(throw(16) as u32)),
                4 => reset(stream, Reason(throw(16) as u32)),
                5 => frame(kind::DATA, throw(2) as u8, stream, &payload),
                6 => frame(throw(10) as u8, 0, 0, &payload[..payload.len().min(8)]),
                _ => {
                    last += 2;
                    post(last - 2, throw(2) > 0)
                }
            });
        }
        let mut read = BytesMut::from(&says[..]);
        while !read.is_empty() {
            let piece = read.split_to((1 + throw(60) as usize).min(read.len()));
            if client.write_all(&piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        drop(client);
        reasons.insert(in_time(driver).await.expect("no panic"));
        let tasks = std::mem::take(&mut *tasks.lock().expect("no panic"));
        for task in tasks {
            in_time(task).await.expect("no panic");
        }
    }
    assert!(reasons.len() > 8, "all kinds of nonsense: {reasons:?}");
    let answers = answers.load(Ordering::Relaxed);
    assert!(answers > 500, "some of it makes sense: {answers}");
}
