use std::{
    collections::HashSet,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::JoinHandle,
};

use super::*;
use crate::{
    frame::{PREFACE, Reason, flag, kind, setting},
    testing::{OK, frame, goaway, heard, in_time, reset, settings},
};

/// A client, and the server's end of its connection.
fn dialled(room: usize) -> (Arc<Connection>, JoinHandle<String>, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(room);
    let (connection, driver) = connect(ours);
    (Arc::new(connection), tokio::spawn(driver), theirs)
}

fn opened(connection: &Connection, headers: &HeaderMap, body: Option<Bytes>) -> Result<Stream, Unopened> {
    let request = Outgoing {
        method: &Method::POST,
        is_encrypted: false,
        authority: "127.0.0.1:6334",
        path: "/qdrant.Points/Query",
        headers,
        is_left_out: &|name| name == "host",
    };
    connection.open(request, &mut { body })
}

fn request(connection: &Connection, body: &'static [u8]) -> Stream {
    opened(connection, &HeaderMap::new(), Some(Bytes::from_static(body))).expect("a stream")
}

async fn head(stream: &mut Stream) -> Result<Response<()>, Broken> {
    in_time(poll_fn(|cx| stream.poll_head(cx))).await
}

/// The whole body of an answer, and its trailers.
async fn rest(stream: &mut Stream) -> Result<(Vec<u8>, Option<HeaderMap>), Broken> {
    let (mut data, mut trailers) = (Vec::new(), None);
    loop {
        match in_time(poll_fn(|cx| stream.poll_next(cx))).await? {
            Next::Data(piece) => data.extend_from_slice(&piece),
            Next::Trailers(given) => trailers = Some(given),
            Next::End => return Ok((data, trailers)),
        }
    }
}

// === against a server of another make ===

/// Answers with the headers and the body that it was sent, and `grpc-status: 0`.
async fn echo(stream: DuplexStream, builder: h2::server::Builder) {
    let mut server = builder.handshake::<_, Bytes>(stream).await.expect("a handshake");
    while let Some(accepted) = server.accept().await {
        let (request, mut respond) = accepted.expect("a request");
        tokio::spawn(async move {
            assert_eq!(request.uri(), "http://127.0.0.1:6334/qdrant.Points/Query");
            assert_eq!(request.headers()["te"], "trailers");
            let (parts, mut body) = request.into_parts();
            let mut response = Response::new(());
            *response.headers_mut() = parts.headers;
            response.headers_mut().remove("te");
            let mut answer = respond.send_response(response, false).expect("a stream");
            while let Some(data) = body.data().await {
                let mut data = data.expect("data");
                let _ = body.flow_control().release_capacity(data.len());
                while !data.is_empty() {
                    answer.reserve_capacity(data.len());
                    let Some(Ok(room)) = poll_fn(|cx| answer.poll_capacity(cx)).await else { return };
                    let piece = data.split_to(room.min(data.len()));
                    let _ = answer.send_data(piece, false);
                }
            }
            let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), 0.into())]);
            let _ = answer.send_trailers(trailers);
        });
    }
}

#[tokio::test(start_paused = true)]
async fn requests_of_all_sizes_come_back() {
    for (room, window) in [(1 << 20, 1 << 20), (1000, 65_535), (64, 100)] {
        let (connection, driver, theirs) = dialled(room);
        let mut builder = h2::server::Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(window.max(65_535));
        tokio::spawn(echo(theirs, builder));
        let sizes = [0, 1, 8 << 10, 16 << 10, (16 << 10) + 1, 70_000, 700_000];
        let calls = sizes.iter().enumerate().map(async |(at, &size)| {
            let body = Bytes::from(vec![at as u8; if window == 100 { size / 100 } else { size }]);
            let headers = HeaderMap::from_iter([
                (http::header::HOST, HeaderValue::from_static("stays behind")),
                (http::header::USER_AGENT, HeaderValue::from_static("test")),
                (http::header::COOKIE, HeaderValue::from_str(&"c".repeat(at * 3000)).expect("a value")),
            ]);
            let mut stream = opened(&connection, &headers, Some(body.clone())).expect("a stream");
            let head = head(&mut stream).await.expect("an answer");
            assert_eq!(head.status(), StatusCode::OK);
            let mut expected = headers.clone();
            expected.remove("host");
            assert_eq!(head.headers(), &expected);
            let (data, trailers) = rest(&mut stream).await.expect("a body");
            assert!(data == body, "{size} bytes");
            assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
            assert!(stream.is_over());
        });
        futures_util::future::join_all(calls).await;
        assert_eq!(connection.under_way(), 0);
        drop(connection);
        assert_eq!(driver.await.expect("no panic"), "the connection has ended");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_piece_by_piece_arrives() {
    let (connection, _driver, theirs) = dialled(1 << 10);
    tokio::spawn(echo(theirs, h2::server::Builder::new()));
    let mut stream = opened(&connection, &HeaderMap::new(), None).expect("a stream");
    let mut expected = Vec::new();
    for at in 0..100_usize {
        let mut piece = Bytes::from(vec![at as u8; 1 + at * 31]);
        expected.extend_from_slice(&piece);
        let sent = poll_fn(|cx| {
            // What comes back has to be taken meanwhile, or there is no room; here it fits the window.
            stream.poll_send(cx, &mut piece)
        });
        assert_eq!(sent.await, Sent::Taken);
    }
    stream.finish();
    head(&mut stream).await.expect("an answer");
    let (data, _) = rest(&mut stream).await.expect("a body");
    assert!(data == expected);
}

/// A server whose windows are as wide as a test needs.
fn generous() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder.initial_connection_window_size(256 << 20).initial_window_size(1 << 20);
    builder
}

async fn unread(connection: &Connection, body: &Bytes) -> Stream {
    let mut stream = opened(connection, &HeaderMap::new(), Some(body.clone())).expect("a stream");
    head(&mut stream).await.expect("an answer");
    // As much as there is room for is on its way.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    stream
}

async fn is_read(connection: &Connection, body: &Bytes) {
    let mut stream = opened(connection, &HeaderMap::new(), Some(body.clone())).expect("a stream");
    head(&mut stream).await.expect("an answer");
    assert!(rest(&mut stream).await.expect("a body").0 == *body);
}

/// Answers that nobody takes keep their part of the connection's window, and no more.
#[tokio::test(start_paused = true)]
async fn answers_that_nobody_takes_do_not_stop_others() {
    let (connection, _driver, theirs) = dialled(1 << 16);
    tokio::spawn(echo(theirs, generous()));
    let long = Bytes::from(vec![7; 1 << 20]);
    let mut untaken = Vec::new();
    for _ in 0..90 {
        untaken.push(unread(&connection, &long).await);
    }
    for _ in 0..30 {
        is_read(&connection, &long).await;
    }
}

/// Answers that are given up give their part of the window back.
#[tokio::test(start_paused = true)]
async fn answers_that_are_given_up_do_not_stop_others() {
    let (connection, _driver, theirs) = dialled(1 << 16);
    tokio::spawn(echo(theirs, generous()));
    let long = Bytes::from(vec![7; 1 << 20]);
    for _ in 0..150 {
        drop(unread(&connection, &long).await);
    }
    is_read(&connection, &long).await;
}

/// A stream that keeps back what is written until it is flushed, and is flushed the second time alone.
struct Reluctant {
    stream: DuplexStream,
    kept: Vec<u8>,
    is_asked: bool,
}

impl AsyncRead for Reluctant {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Reluctant {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.kept.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.is_asked, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.is_asked = false;
        let kept = std::mem::take(&mut self.kept);
        let written = Pin::new(&mut self.stream).poll_write(cx, &kept);
        written.map_ok(|written| assert_eq!(written, kept.len()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// TLS keeps back what the socket has no room for, though it was written.
#[tokio::test(start_paused = true)]
async fn what_a_stream_keeps_back_is_flushed() {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (connection, driver) = connect(Reluctant { stream: ours, kept: Vec::new(), is_asked: false });
    tokio::spawn(driver);
    tokio::spawn(echo(theirs, h2::server::Builder::new()));
    let began = tokio::time::Instant::now();
    let mut stream = request(&connection, b"one");
    head(&mut stream).await.expect("an answer");
    rest(&mut stream).await.expect("a body");
    assert_eq!(began.elapsed(), Duration::ZERO, "no ping was needed to get it out");
}

/// What drives a connection may be gone without a word, with the runtime that it was on.
#[tokio::test(start_paused = true)]
async fn a_connection_whose_driver_is_gone_is_over() {
    let (connection, driver, _server) = greeted().await;
    let mut stream = request(&connection, b"one");
    driver.abort();
    head(&mut stream).await.expect_err("no answer");
    assert!(connection.is_over());
}

/// Older servers take a GOAWAY for the end of all streams.
#[tokio::test(start_paused = true)]
async fn a_connection_that_is_given_up_lets_its_streams_end() {
    let (connection, driver, mut server) = greeted().await;
    let mut stream = request(&connection, b"one");
    drop(connection);
    let kinds = [heard(&mut server).await.0.kind, heard(&mut server).await.0.kind];
    assert_eq!(kinds, [kind::HEADERS, kind::DATA]);
    server.write_all(&frame(kind::HEADERS, 5, 1, OK)).await.expect("a pipe");
    head(&mut stream).await.expect("an answer");
    assert_eq!(driver.await.expect("no panic"), "the connection has ended");
    assert_eq!(server.read_u8().await.expect_err("nothing more").kind(), io::ErrorKind::UnexpectedEof);
}

/// Those who wait are let in one by one, in their order, though some give up.
#[tokio::test(start_paused = true)]
async fn those_who_wait_for_room_come_in_their_order() {
    let (connection, _driver, mut server) = greeted().await;
    server.write_all(&settings(&[(setting::MAX_CONCURRENT_STREAMS, 1)])).await.expect("a pipe");
    heard(&mut server).await;
    let first = request(&connection, b"one");
    let order = Arc::new(Mutex::new(Vec::new()));
    let waiting: Vec<_> = (0..4)
        .map(|at| {
            let (connection, order) = (connection.clone(), order.clone());
            tokio::spawn(async move {
                connection.room().await;
                drop(request(&connection, b"next"));
                order.lock().expect("no panic").push(at);
            })
        })
        .collect();
    tokio::task::yield_now().await;
    waiting[0].abort();
    drop(first);
    for waiting in waiting.into_iter().skip(1) {
        waiting.await.expect("room");
    }
    assert_eq!(*order.lock().expect("no panic"), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn no_more_streams_are_opened_than_the_server_allows() {
    let (connection, _driver, theirs) = dialled(1 << 16);
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(2);
    tokio::spawn(echo(theirs, builder));
    let mut first = request(&connection, b"first");
    head(&mut first).await.expect("an answer, and the settings before it");
    let open = (opened(&connection, &HeaderMap::new(), None), opened(&connection, &HeaderMap::new(), None));
    assert!(open.0.is_ok() && open.1.is_ok() || open.1.as_ref().err() == Some(&Unopened::Full));
    assert_eq!(opened(&connection, &HeaderMap::new(), None).err(), Some(Unopened::Full));
    tokio::join!(connection.room(), async { drop(open) });
    rest(&mut first).await.expect("a body");
    let mut next = request(&connection, b"next");
    head(&mut next).await.expect("an answer");
}

// === against a server that says what the test wants ===

/// A client that has said hello, to a server that has too.
async fn greeted() -> (Arc<Connection>, JoinHandle<String>, DuplexStream) {
    let (connection, driver, mut server) = dialled(1 << 20);
    let mut preface = vec![0; PREFACE.len()];
    server.read_exact(&mut preface).await.expect("a preface");
    assert_eq!(preface, PREFACE);
    assert_eq!(heard(&mut server).await.0.kind, kind::SETTINGS);
    assert_eq!(heard(&mut server).await.0.kind, kind::WINDOW_UPDATE);
    server.write_all(&settings(&[])).await.expect("a pipe");
    let (ack, _) = heard(&mut server).await;
    assert_eq!((ack.kind, ack.flags), (kind::SETTINGS, flag::ACK));
    (connection, driver, server)
}

#[tokio::test(start_paused = true)]
async fn what_a_node_has_not_looked_at_is_told_from_what_it_may_have() {
    let refused = [reset(3, Reason::REFUSED_STREAM), reset(1, Reason::CANCEL)].concat();
    let gone = [goaway(1, Reason::NO_ERROR), frame(kind::HEADERS, 4, 1, OK)].concat();
    let angry = goaway(1, Reason::ENHANCE_YOUR_CALM);
    for (what, says, first, second) in [
        ("refused", refused, Some(false), Some(true)),
        ("GOAWAY", gone, None, Some(true)),
        ("GOAWAY with an error", angry, Some(false), Some(true)),
        ("closed", Vec::new(), Some(false), Some(false)),
    ] {
        let (connection, driver, mut server) = greeted().await;
        let mut streams = [request(&connection, b"one"), request(&connection, b"two")];
        for _ in 0..4 {
            heard(&mut server).await;
        }
        server.write_all(&says).await.expect("a pipe");
        server.shutdown().await.expect("a pipe");
        for (stream, expected) in streams.iter_mut().zip([first, second]) {
            let is_unprocessed = head(stream).await.err().map(|broken| broken.is_unprocessed);
            assert_eq!(is_unprocessed, expected, "{what}");
        }
        driver.await.expect("no panic");
        assert_eq!(opened(&connection, &HeaderMap::new(), None).err(), Some(Unopened::Over), "{what}");
    }
}

/// Nobody has seen a request that waited behind what the node did not take.
#[tokio::test(start_paused = true)]
async fn what_never_left_is_not_processed() {
    let (connection, driver, server) = dialled(64);
    let mut streams = [request(&connection, &[0; 100]), request(&connection, b"two")];
    tokio::task::yield_now().await;
    drop(server);
    driver.await.expect("no panic");
    for stream in &mut streams {
        assert!(head(stream).await.expect_err("no answer").is_unprocessed);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_there_is_read_though_the_connection_is_gone() {
    let (connection, driver, mut server) = greeted().await;
    let mut stream = request(&connection, b"one");
    let continued = [0x40, 1, b'a', 1, b'b'];
    let answer = [
        frame(kind::HEADERS, 0, 1, OK),
        frame(kind::CONTINUATION, 0, 1, &continued[..2]),
        frame(kind::CONTINUATION, flag::END_HEADERS, 1, &continued[2..]),
        frame(kind::DATA, flag::PADDED, 1, b"\x03padded..."),
        frame(0x42, 0xff, 1, b"unknown"),
        // The head of the trailers has padding and a priority.
        frame(kind::HEADERS, 0x2d, 1, b"\x01\0\0\0\0\0\xbe."),
    ];
    server.write_all(&answer.concat()).await.expect("a pipe");
    drop(server);
    driver.await.expect("no panic");
    assert_eq!(head(&mut stream).await.expect("an answer").headers()["a"], "b");
    let (data, trailers) = rest(&mut stream).await.expect("a body");
    assert_eq!(
        (&data[..], &trailers.expect("trailers")["a"]),
        (&b"padded"[..], &HeaderValue::from_static("b"))
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_is_no_answer() {
    for says in [reset(1, Reason::NO_ERROR), Vec::new()] {
        let (connection, _driver, mut server) = greeted().await;
        let mut stream = request(&connection, b"one");
        let begun = [frame(kind::HEADERS, flag::END_HEADERS, 1, OK), frame(kind::DATA, 0, 1, b"half"), says];
        server.write_all(&begun.concat()).await.expect("a pipe");
        drop(server);
        head(&mut stream).await.expect("an answer");
        assert!(!rest(&mut stream).await.expect_err("half a body").is_unprocessed);
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_server_may_do_ends_the_connection_and_what_spoils_an_answer_ends_that() {
    let headers = |flags, block: &[u8]| frame(kind::HEADERS, flag::END_HEADERS | flags, 1, block);
    let long = [&[0x88, 0x40, 1, b'a', 0x7f, 0x81, 0x7c][..], &[b'x'; 16_000]].concat();
    let mut windows = frame(kind::WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes());
    windows.extend_from_within(..);
    for (what, says, survives) in [
        ("a frame that is too long", frame(kind::DATA, 0, 1, &[0; 16_385]), false),
        ("a push", frame(kind::PUSH_PROMISE, 0, 1, &[0; 4]), false),
        ("headers of a stream that is not there", frame(kind::HEADERS, 4, 3, OK), false),
        ("headers of an even stream", frame(kind::HEADERS, 4, 2, OK), false),
        ("garbled headers", headers(0, &[0xbe]), false),
        ("interrupted headers", [frame(kind::HEADERS, 0, 1, OK), settings(&[])].concat(), false),
        ("a CONTINUATION of nothing", frame(kind::CONTINUATION, 4, 1, OK), false),
        (
            "headers without an end",
            [frame(kind::HEADERS, 0, 1, OK), frame(kind::CONTINUATION, 0, 1, &[]).repeat(100)].concat(),
            false,
        ),
        ("more padding than bytes", frame(kind::DATA, flag::PADDED, 1, &[9, 0]), false),
        ("a ping of another length", frame(kind::PING, 0, 0, &[0; 7]), false),
        ("half a setting", frame(kind::SETTINGS, 0, 0, &[0; 5]), false),
        ("frames of no size", settings(&[(setting::MAX_FRAME_SIZE, 0)]), false),
        ("a window that is too wide", settings(&[(setting::INITIAL_WINDOW_SIZE, u32::MAX)]), false),
        ("windows that are too wide together", windows, false),
        (
            "more data than the window",
            [headers(0, OK), frame(kind::DATA, 0, 1, &[0; 16_384]).repeat(40)].concat(),
            false,
        ),
        ("a flood of pings", frame(kind::PING, 0, 0, &[0; 8]).repeat(2000), false),
        ("a flood of settings", settings(&[]).repeat(2000), false),
        ("no status", headers(0, &[0x40, 1, b'a', 1, b'b']), true),
        ("two heads", headers(0, OK).repeat(2), true),
        ("data before the head", frame(kind::DATA, 0, 1, b"data"), true),
        ("a stream's window that never opens", frame(kind::WINDOW_UPDATE, 0, 1, &[0; 4]), true),
        (
            "headers that are too long",
            {
                let block = long.clone();
                let mut says = frame(kind::HEADERS, 0, 1, &block);
                for at in 0..5 {
                    let end = if at == 4 { flag::END_HEADERS } else { 0 };
                    says.extend(frame(kind::CONTINUATION, end, 1, &block[1..]));
                }
                says
            },
            true,
        ),
    ] {
        let (connection, driver, mut server) = greeted().await;
        let mut stream = request(&connection, b"one");
        heard(&mut server).await;
        server.write_all(&says).await.expect("a pipe");
        if !survives {
            // Before anything is taken of it, and the window opens again.
            let reason = in_time(driver).await.expect("no panic");
            assert!(reason.starts_with("the node breaks the protocol"), "{what}: {reason}");
        }
        let outcome = match head(&mut stream).await {
            Ok(_) => rest(&mut stream).await.map(drop),
            Err(broken) => Err(broken),
        };
        assert!(!outcome.expect_err(what).is_unprocessed, "{what}");
        if survives {
            let mut next = request(&connection, b"two");
            server.write_all(&frame(kind::HEADERS, 5, 3, OK)).await.expect("a pipe");
            head(&mut next).await.expect(what);
        }
    }
}

/// A first frame of another protocol is told as such.
#[tokio::test(start_paused = true)]
async fn a_server_of_another_protocol_is_not_understood() {
    let (connection, driver, mut server) = dialled(1 << 10);
    let mut stream = request(&connection, b"one");
    server.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("a pipe");
    drop(server);
    head(&mut stream).await.expect_err("no answer");
    assert!(driver.await.expect("no panic").ends_with("it does not speak HTTP/2"));
}

#[tokio::test(start_paused = true)]
async fn pings_are_answered() {
    let (_connection, _driver, mut server) = greeted().await;
    server.write_all(&frame(kind::PING, 0, 0, b"12345678")).await.expect("a pipe");
    let (pong, payload) = heard(&mut server).await;
    assert_eq!((pong.kind, pong.flags, &payload[..]), (kind::PING, flag::ACK, &b"12345678"[..]));
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_given_up_and_one_that_answers_is_not() {
    let (connection, driver, mut server) = greeted().await;
    let mut stream = request(&connection, b"one");
    for _ in 0..2 {
        heard(&mut server).await;
    }
    let began = tokio::time::Instant::now();
    for _ in 0..3 {
        let (ping, payload) = heard(&mut server).await;
        assert_eq!((ping.kind, ping.flags), (kind::PING, 0));
        server.write_all(&frame(kind::PING, flag::ACK, 0, &payload)).await.expect("a pipe");
    }
    let asked_for = began.elapsed();
    assert!(asked_for < 7 * PATIENCE.ping_interval, "{asked_for:?}");
    heard(&mut server).await;
    let asked = tokio::time::Instant::now();
    assert_eq!(driver.await.expect("no panic"), "the node is silent");
    assert_eq!(asked.elapsed().as_secs(), PATIENCE.ping_timeout.as_secs());
    assert!(!head(&mut stream).await.expect_err("no answer").is_unprocessed);
}

/// What is dropped is reset, and what comes of it late disturbs nobody.
#[tokio::test(start_paused = true)]
async fn what_is_dropped_is_reset() {
    let (connection, _driver, mut server) = greeted().await;
    let dropped = request(&connection, b"one");
    for _ in 0..2 {
        heard(&mut server).await;
    }
    drop(dropped);
    let (sent, payload) = heard(&mut server).await;
    assert_eq!((sent.kind, sent.stream, &payload[..]), (kind::RST_STREAM, 1, &8_u32.to_be_bytes()[..]));
    let late = [
        frame(kind::HEADERS, flag::END_HEADERS, 1, &[0x88, 0x40, 1, b'a', 1, b'b']),
        frame(kind::DATA, 0, 1, &[0; 1000]),
        frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9]),
        reset(1, Reason::CANCEL),
        // The field that the late headers brought is known.
        frame(kind::HEADERS, 5, 3, &[0x88, 0xbe]),
    ];
    let mut next = request(&connection, b"two");
    server.write_all(&late.concat()).await.expect("a pipe");
    assert_eq!(head(&mut next).await.expect("an answer").headers()["a"], "b");
    assert_eq!(rest(&mut next).await.expect("no body"), (Vec::new(), None));
    drop(next);
    // Nothing is reset that was over.
    server.write_all(&frame(kind::PING, 0, 0, &[0; 8])).await.expect("a pipe");
    let kinds =
        [heard(&mut server).await.0.kind, heard(&mut server).await.0.kind, heard(&mut server).await.0.kind];
    assert_eq!(kinds, [kind::HEADERS, kind::DATA, kind::PING]);
}

/// Whatever a server sends, and in whatever pieces: nothing panics, and every request ends with the connection.
#[tokio::test(start_paused = true)]
async fn nonsense_ends_and_never_panics() {
    let mut dice = fastrand::Rng::with_seed(11);
    let mut throw = |sides: u64| dice.u64(..sides);
    let mut reasons = HashSet::new();
    for _ in 0..4_000 {
        let (connection, driver, mut server) = dialled(1 << 20);
        let streams: Vec<_> = (0..3).map(|_| request(&connection, b"one")).collect();
        let mut says = if throw(10) > 0 { settings(&[]) } else { Vec::new() };
        for _ in 0..throw(12) {
            let payload: Vec<u8> = (0..throw(24)).map(|_| throw(256) as u8).collect();
            says.extend(match throw(8) {
                0 => payload,
                1 => frame(throw(256) as u8, throw(256) as u8, throw(8) as u32, &payload),
                2 => frame(kind::HEADERS, throw(64) as u8, throw(4) as u32 * 2 + 1, OK),
                3 => settings(&[(throw(8) as u16, throw(u64::from(u32::MAX)) as u32 >> throw(32))]),
                4 => goaway(throw(8) as u32, Reason(throw(16) as u32)),
                5 => frame(throw(10) as u8, throw(8) as u8, throw(4) as u32, &payload),
                6 => frame(kind::DATA, throw(2) as u8, 1, &payload),
                _ => frame(throw(10) as u8, 0, 0, &payload[..payload.len().min(8)]),
            });
        }
        let mut read = BytesMut::from(&says[..]);
        while !read.is_empty() {
            let piece = read.split_to((1 + throw(40) as usize).min(read.len()));
            if server.write_all(&piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(server);
        reasons.insert(driver.await.expect("no panic"));
        for mut stream in streams {
            if head(&mut stream).await.is_ok() {
                let _ = rest(&mut stream).await;
            }
        }
        assert_eq!(connection.under_way(), 0);
    }
    assert!(reasons.len() > 8, "all kinds of nonsense: {reasons:?}");
}

/// Whoever waits for a connection that is given up is not kept waiting.
#[tokio::test(start_paused = true)]
async fn waiting_for_room_ends_with_the_connection() {
    let (connection, _driver, mut server) = greeted().await;
    server.write_all(&settings(&[(setting::MAX_CONCURRENT_STREAMS, 0)])).await.expect("a pipe");
    heard(&mut server).await;
    assert_eq!(opened(&connection, &HeaderMap::new(), None).err(), Some(Unopened::Full));
    let ends = async {
        tokio::task::yield_now().await;
        drop(server);
    };
    tokio::join!(connection.room(), ends);
    assert!(connection.is_over());
}
