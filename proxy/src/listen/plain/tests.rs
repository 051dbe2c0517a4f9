use std::{
    future::{pending, ready},
    sync::atomic::AtomicUsize,
    time::Duration,
};

use futures_util::{StreamExt, future::poll_immediate, stream};
use http::StatusCode;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use tokio::io::{DuplexStream, duplex};

use super::*;

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

const GET: &[u8] = b"GET /collections HTTP/1.1\r\nhost: q\r\n\r\n";
const PUT: &[u8] = b"PUT /collections/c/points HTTP/1.1\r\nhost: q\r\ncontent-length: 5\r\n\r\n[1,2]";

fn whole(text: &'static str) -> Answer {
    Response::new(Full::from(text).map_err(Into::into).boxed_unsync())
}

/// An answer whose body comes in pieces, and whose length nobody knows.
fn pieces(pieces: Vec<Result<&'static str, &'static str>>) -> Answer {
    let frames = pieces.into_iter().map(|piece| match piece {
        Ok(data) => Ok(Frame::data(Bytes::from(data))),
        Err(error) => Err(error.into()),
    });
    Response::new(StreamBody::new(stream::iter(frames.collect::<Vec<_>>())).boxed_unsync())
}

/// An answer of which no more comes than its beginning.
fn stalled() -> Answer {
    let first = Ok(Frame::data(Bytes::from("ab")));
    Response::new(StreamBody::new(stream::iter([first]).chain(stream::pending())).boxed_unsync())
}

/// A client, and what serves it.
fn connected() -> (DuplexStream, Plain<DuplexStream>) {
    let (client, server) = duplex(1 << 20);
    (client, Plain::new(server, None))
}

/// What a client gets that sends `requests` and then nothing, and how that ended.
async fn exchange<A>(
    requests: &[u8],
    answer: impl Fn(Request<Full<Bytes>>) -> A,
) -> (String, io::Result<Option<Bytes>>)
where
    A: Future<Output = Answer>,
{
    let (mut client, plain) = connected();
    client.write_all(requests).await.expect("a pipe");
    let ended = plain.serve(answer, &AtomicBool::new(false)).await;
    let ended = ended.map(|other| other.map(|Other { read, .. }| read));
    let mut got = String::new();
    client.read_to_string(&mut got).await.expect("text");
    (got, ended)
}

/// An answer as it was written, without the date that it has to have.
fn undated(answer: &str) -> String {
    assert!(answer.contains("\r\ndate: "), "{answer}");
    answer.split_inclusive("\r\n").filter(|line| !line.starts_with("date: ")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_old_ends_with_an_answer_and_not_before() {
    let (mut client, server) = duplex(1 << 10);
    let plain = Plain::new(server, Some(Instant::now() + Duration::from_secs(10)));
    let is_ending = AtomicBool::new(false);
    let (served, answers) = tokio::join!(plain.serve(|_| ready(whole("{}")), &is_ending), async {
        let mut answers = Vec::new();
        let mut answer = [0; 1 << 10];
        loop {
            client.write_all(GET).await.expect("it is open");
            let length = client.read(&mut answer).await.expect("it is open");
            answers.push(String::from_utf8_lossy(&answer[..length]).contains("connection: close"));
            if answers.last() == Some(&true) {
                return answers;
            }
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
    });
    assert!(matches!(served, Ok(None)));
    // After 0, 4 and 8 seconds, and after 12, when the last of them has waited since 8.
    assert_eq!(answers, [false, false, false, false, true]);
}

#[tokio::test(start_paused = true)]
async fn requests_are_answered_in_their_order() {
    let echo = async |request: Request<Full<Bytes>>| {
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        Response::new(Full::from(body).map_err(Into::into).boxed_unsync())
    };
    let (got, ended) = exchange(&[PUT, GET, PUT].concat(), echo).await;
    let answer = |length, body| format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
    assert_eq!(undated(&got), [answer(5, "[1,2]"), answer(0, ""), answer(5, "[1,2]")].concat());
    assert!(matches!(ended, Ok(None)), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn answers_are_framed_as_their_bodies_need() {
    type Make = fn() -> Answer;
    let cases: [(Make, &str); 5] = [
        (|| pieces(vec![]), "200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        (
            || pieces(vec![Ok("ab"), Ok(""), Ok("0123456789abcdef")]),
            "200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n",
        ),
        (
            || {
                let mut answer = whole("");
                *answer.status_mut() = StatusCode::NO_CONTENT;
                answer
            },
            "204 No Content\r\n\r\n",
        ),
        (
            || {
                let mut answer = whole("{}");
                // What a node said of its own connection, or of another length.
                for (name, value) in [
                    ("content-length", "7"),
                    ("transfer-encoding", "gzip"),
                    ("connection", "close"),
                    ("x", "1"),
                ] {
                    answer.headers_mut().append(name, value.parse().expect("a value"));
                }
                answer
            },
            "200 OK\r\nx: 1\r\ncontent-length: 2\r\n\r\n{}",
        ),
        (
            || {
                let mut answer = whole("{}");
                *answer.status_mut() = StatusCode::from_u16(299).expect("a status");
                answer
            },
            "299 \r\ncontent-length: 2\r\n\r\n{}",
        ),
    ];
    for (make, expected) in cases {
        let (got, ended) = exchange(GET, |_| ready(make())).await;
        assert_eq!(undated(&got), format!("HTTP/1.1 {expected}"));
        assert!(matches!(ended, Ok(None)), "{ended:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_date_of_a_node_is_passed_on() {
    let dated = || {
        let mut answer = whole("{}");
        answer.headers_mut().insert("date", "Thu, 01 Jan 1970 00:00:00 GMT".parse().expect("a value"));
        answer
    };
    let (got, _) = exchange(GET, |_| ready(dated())).await;
    assert_eq!(got.matches("date: Thu, 01 Jan 1970 00:00:00 GMT\r\n").count(), 1, "{got}");
    assert_eq!(got.matches("date").count(), 1, "{got}");
}

#[tokio::test(start_paused = true)]
async fn long_answers_arrive_whole() {
    for length in [SHORT_BYTES - 1, SHORT_BYTES, SHORT_BYTES + 1, 300_000] {
        let text: &'static str = String::leak("x".repeat(length));
        let (got, _) = exchange(GET, |_| ready(whole(text))).await;
        assert!(got.ends_with(&format!("\r\n\r\n{text}")), "{length}");
        let (got, _) = exchange(GET, |_| ready(pieces(vec![Ok("a"), Ok(text), Ok("b")]))).await;
        assert!(got.ends_with(&format!("\r\n\r\n1\r\na\r\n{length:x}\r\n{text}\r\n1\r\nb\r\n0\r\n\r\n")));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_there_of_a_slow_answer_goes_out_at_once() {
    let (mut client, plain) = connected();
    let is_ending = AtomicBool::new(false);
    let mut serve = pin!(plain.serve(|_| ready(stalled()), &is_ending));
    client.write_all(GET).await.expect("a pipe");
    assert!(poll_immediate(serve.as_mut()).await.is_none());
    let mut got = [0; 4096];
    let length = poll_immediate(pin!(client.read(&mut got))).await.expect("something").expect("a pipe");
    assert!(got[..length].ends_with(b"\r\n\r\n2\r\nab\r\n"), "{}", got[..length].escape_ascii());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_ends_the_connection_before_its_end() {
    let broken = || pieces(vec![Ok("ab"), Err("the node is gone")]);
    let (got, ended) = exchange(&[GET, GET].concat(), |_| ready(broken())).await;
    assert_eq!(ended.expect_err("it broke off").to_string(), "the node is gone");
    assert!(!got.contains("0\r\n\r\n"), "{got}");
    assert!(got.matches("HTTP/1.1").count() <= 1, "{got}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_needs_no_answer() {
    let (mut client, plain) = connected();
    client.write_all(GET).await.expect("a pipe");
    let is_ending = AtomicBool::new(false);
    let mut serve = pin!(plain.serve(|_| pending::<Answer>(), &is_ending));
    assert!(poll_immediate(serve.as_mut()).await.is_none());
    drop(client);
    assert_eq!(serve.await.expect_err("it has left").kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test(start_paused = true)]
async fn nor_does_one_that_leaves_before_its_answer_has_ended() {
    let (mut client, plain) = connected();
    client.write_all(GET).await.expect("a pipe");
    let is_ending = AtomicBool::new(false);
    let mut serve = pin!(plain.serve(|_| ready(stalled()), &is_ending));
    assert!(poll_immediate(serve.as_mut()).await.is_none());
    drop(client);
    assert_eq!(serve.await.expect_err("it has left").kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test(start_paused = true)]
async fn requests_in_advance_are_answered_though_no_more_will_come() {
    let (mut client, plain) = connected();
    client.write_all(&[GET, PUT].concat()).await.expect("a pipe");
    client.shutdown().await.expect("a pipe");
    let slow = async |_| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        whole("{}")
    };
    let is_ending = AtomicBool::new(false);
    let (served, got) = tokio::join!(plain.serve(slow, &is_ending), async {
        let mut got = String::new();
        client.read_to_string(&mut got).await.expect("text");
        got
    });
    // The last one leaves with its client, as it does without others before it.
    assert_eq!(served.expect_err("it has left").kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(got.matches("HTTP/1.1 200").count(), 1, "{got}");
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_ahead_waits_within_bounds() {
    let (mut client, plain) = connected();
    let flood = GET.repeat(10_000);
    let is_ending = AtomicBool::new(false);
    let asked = AtomicUsize::new(0);
    let answer = |_| {
        asked.fetch_add(1, Ordering::Relaxed);
        pending::<Answer>()
    };
    let mut serve = pin!(plain.serve(answer, &is_ending));
    let sent = poll_immediate(pin!(client.write_all(&flood))).await;
    assert!(sent.is_some(), "the pipe holds it all");
    assert!(poll_immediate(serve.as_mut()).await.is_none());
    assert_eq!(asked.load(Ordering::Relaxed), 1, "one at a time");
    // What was not read is still in the pipe, which has room for no more than was read.
    let mut more = vec![0; (1 << 20) - flood.len() + 3 * READ_BYTES];
    more.fill(b'x');
    assert!(poll_immediate(pin!(client.write_all(&more))).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_head_has_to_come_in_time_and_a_body_may_take_longer() {
    for (sent, left) in
        [(&b""[..], None), (&GET[..20], None), (&PUT[..PUT.len() - 1], Some(&PUT[..PUT.len() - 1]))]
    {
        let (mut client, plain) = connected();
        client.write_all(sent).await.expect("a pipe");
        let (began, is_ending) = (Instant::now(), AtomicBool::new(false));
        let other = plain.serve(|_| ready(whole("")), &is_ending).await.expect("no error");
        assert_eq!(began.elapsed(), HEADER_TIMEOUT);
        assert_eq!(other.map(|other| other.read), left.map(Bytes::from_static), "{}", sent.escape_ascii());
    }
}

#[tokio::test(start_paused = true)]
async fn each_request_has_its_own_time() {
    let (mut client, plain) = connected();
    let is_ending = AtomicBool::new(false);
    let pause = HEADER_TIMEOUT - Duration::from_millis(1);
    let slow = async |_| {
        tokio::time::sleep(2 * HEADER_TIMEOUT).await;
        whole("{}")
    };
    let began = Instant::now();
    let talk = async {
        for _ in 0..3 {
            tokio::time::sleep(pause).await;
            client.write_all(GET).await.expect("it is still open");
            let mut got = [0; 4096];
            let length = client.read(&mut got).await.expect("an answer");
            assert!(got[..length].ends_with(b"{}"));
        }
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.expect("an end");
    };
    let (served, ()) = tokio::join!(plain.serve(slow, &is_ending), talk);
    assert!(matches!(served, Ok(None)));
    assert_eq!(began.elapsed(), 3 * (pause + 2 * HEADER_TIMEOUT) + HEADER_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn told_to_end_it_answers_what_has_begun() {
    let is_ending = AtomicBool::new(false);
    let answer = async |_| {
        is_ending.store(true, Ordering::Relaxed);
        whole("{}")
    };
    let (mut client, plain) = connected();
    client.write_all(&[GET, GET].concat()).await.expect("a pipe");
    assert!(matches!(plain.serve(answer, &is_ending).await, Ok(None)));
    let mut got = String::new();
    client.read_to_string(&mut got).await.expect("text");
    assert_eq!(undated(&got), "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}");
}

#[tokio::test(start_paused = true)]
async fn told_to_end_it_waits_for_the_first_request_alone() {
    let is_ending = AtomicBool::new(false);
    let (mut client, plain) = connected();
    let mut serve = pin!(plain.serve(|_| ready(whole("{}")), &is_ending));
    client.write_all(GET).await.expect("a pipe");
    // Writing waits for others once.
    for _ in 0..2 {
        assert!(poll_immediate(serve.as_mut()).await.is_none());
    }
    is_ending.store(true, Ordering::Relaxed);
    assert!(matches!(poll_immediate(serve).await, Some(Ok(None))), "nothing has begun");

    let (mut client, plain) = connected();
    let mut serve = pin!(plain.serve(|_| ready(whole("{}")), &is_ending));
    assert!(poll_immediate(serve.as_mut()).await.is_none(), "its client has just come");
    client.write_all(GET).await.expect("a pipe");
    assert!(matches!(serve.await, Ok(None)));
    let mut got = String::new();
    client.read_to_string(&mut got).await.expect("text");
    assert!(got.contains("connection: close\r\n"), "{got}");
}

#[tokio::test(start_paused = true)]
async fn the_first_request_that_is_not_plain_is_left_with_all_that_follows() {
    let chunked = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let (got, ended) = exchange(&[GET, chunked, GET].concat(), |_| ready(whole("{}"))).await;
    assert_eq!(got.matches("HTTP/1.1 200").count(), 1, "{got}");
    assert_eq!(ended.expect("no error"), Some(Bytes::from([chunked, GET].concat())));
}
