use std::{convert::Infallible, sync::Mutex, time::Duration};

use http::Version;
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use qdrant_router::dice::Dice;
use tokio::io::AsyncWriteExt;

use super::{super::super::http1, *};

const PUT: &str = "PUT /collections/a%20b/points?wait=true HTTP/1.1\r\nHost: q\r\nContent-Type: application/json\r\nConnection: Keep-Alive\r\napi-key: \tk \r\nx: 1\r\nx: 2\r\nContent-Length: 12\r\n\r\n{\"points\":[]}";

fn find_in(text: &[u8]) -> (Found, BytesMut) {
    let mut read = BytesMut::from(text);
    let found = find(&mut read);
    (found, read)
}

/// What makes up a request: method, target, headers, body.
type Read = (String, String, Vec<(String, Vec<u8>)>, Bytes);

async fn read<B>(request: Request<B>) -> Read
where
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let (head, body) = request.into_parts();
    assert_eq!(head.version, Version::HTTP_11);
    let headers = head.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    let (method, target) = (head.method.to_string(), head.uri.to_string());
    (method, target, headers.collect(), body.collect().await.expect("a body").to_bytes())
}

#[tokio::test]
async fn a_plain_request_is_taken_off_whole() {
    // The last byte begins the next one.
    let (Found::Request(request), rest) = find_in(PUT.as_bytes()) else { panic!("it is plain") };
    assert_eq!(rest, "}");
    let (method, target, headers, body) = read(request).await;
    assert_eq!((&*method, &*target), ("PUT", "/collections/a%20b/points?wait=true"));
    let headers: Vec<_> =
        headers.iter().map(|(name, value)| format!("{name}={}", value.escape_ascii())).collect();
    assert_eq!(
        headers,
        [
            "host=q",
            "content-type=application/json",
            "connection=Keep-Alive",
            "api-key=k",
            "x=1",
            "x=2",
            "content-length=12",
        ]
    );
    assert_eq!(body, "{\"points\":[]");
}

#[test]
fn part_of_one_is_left_until_the_rest_has_come() {
    let head = PUT.find("\r\n\r\n").expect("an end") + 4;
    for length in 0..PUT.len() - 1 {
        let (found, rest) = find_in(&PUT.as_bytes()[..length]);
        match found {
            Found::PartOfHead => assert!(length < head, "{length}"),
            Found::PartOfBody { whole } => assert!(length >= head && whole == head + 12, "{length}"),
            Found::Request(_) | Found::Other => panic!("{length}: {found:?}"),
        }
        assert_eq!(rest, &PUT[..length]);
    }
}

#[test]
fn all_else_is_left_as_it_is() {
    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(MAX_HEAD_BYTES));
    let endless = format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(MAX_HEAD_BYTES));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: 1\r\n".repeat(MAX_HEADERS + 1));
    let large = format!("PUT / HTTP/1.1\r\ncontent-length: {}\r\n\r\n", MAX_BODY_BYTES + 1);
    for text in [
        &*long,
        &endless,
        &many,
        &large,
        "GET / HTTP/1.0\r\n\r\n",
        "GET http://q/ HTTP/1.1\r\n\r\n",
        "GET ?x HTTP/1.1\r\n\r\n",
        "GET * HTTP/1.1\r\n\r\n",
        "CONNECT q:6333 HTTP/1.1\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\n\r\n",
        "HEAD / HTTP/1.1\r\n\r\n",
        "get / HTTP/1.1\r\n\r\n",
        "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
        "PUT / HTTP/1.1\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
        "PUT / HTTP/1.1\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\n{}",
        "PUT / HTTP/1.1\r\ncontent-length: 2, 2\r\n\r\n{}",
        "PUT / HTTP/1.1\r\ncontent-length: +2\r\n\r\n{}",
        "PUT / HTTP/1.1\r\ncontent-length: \r\n\r\n{}",
        "PUT / HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n{}",
        "PUT / HTTP/1.1\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n{}",
        "GET / HTTP/1.1\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nconnection: keep-alive, x\r\nx: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
        "GET / HTTP/1.1\r\nupgrade: h2c\r\n\r\n",
        "GET / HTTP/1.1\r\nx : 1\r\n\r\n",
        "GET / HTTP/1.1\r\nx: 1\r\n y\r\n\r\n",
        "GET / HTTP/1.1\r\nx: a\0b\r\n\r\n",
        "GET /\u{e9} HTTP/1.1\r\nnot a header\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let (found, rest) = find_in(text.as_bytes());
        assert!(matches!(found, Found::Other), "{text}: {found:?}");
        assert_eq!(rest, text);
    }
}

/// What `hyper` makes of the first request in `text`.
async fn served_by_hyper(text: &[u8]) -> Option<Read> {
    let first = Mutex::new(None);
    let service = service_fn(async |request: Request<Incoming>| {
        let request = read(request).await;
        first.lock().expect("no panic").get_or_insert(request);
        Ok::<_, Infallible>(http::Response::new(Full::<Bytes>::default()))
    });
    let (mut client, server) = tokio::io::duplex(1 << 20);
    client.write_all(text).await.expect("a pipe");
    // A client that has more to say is waited for; a moment shows what it has said.
    let served = http1().serve_connection(TokioIo::new(server), service);
    let _ = tokio::time::timeout(Duration::from_millis(1), served).await;
    first.into_inner().expect("no panic")
}

#[tokio::test(start_paused = true)]
async fn what_is_plain_is_what_a_full_server_reads() {
    const ODD: [&[u8]; 14] = [
        b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b";", b"\x0b", b"\x7f", b"\xff", b"0", b",",
        b"\r\n ",
    ];
    let dice = Dice::seeded(11);
    let below = |limit: usize| (dice.throw() % limit as u64) as usize;
    let mut plain = 0;
    for round in 0..4_000 {
        let mut text = PUT.as_bytes().to_vec();
        for _ in 0..below(4) {
            let at = below(text.len());
            match below(4) {
                0 => text[at] = dice.throw() as u8,
                1 => drop(text.splice(at..at, ODD[below(ODD.len())].iter().copied())),
                2 => drop(text.splice(at..=at, ODD[below(ODD.len())].iter().copied())),
                _ => drop(text.remove(at)),
            }
        }
        let (Found::Request(request), _) = find_in(&text) else { continue };
        plain += 1;
        assert_eq!(
            Some(read(request).await),
            served_by_hyper(&text).await,
            "{round}: {}",
            text.escape_ascii()
        );
    }
    assert!(plain > 1_000, "{plain} were plain");
}
