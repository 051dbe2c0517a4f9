use super::*;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pairs =
        pairs.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    pairs.collect()
}

fn written(method: &Method, pairs: &[(&'static str, &'static str)], length: Length) -> String {
    let bytes = write_head(method, "/x?y=1", "10.0.0.1:6333", &headers(pairs), length, b"");
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn answer(text: &str) -> Result<Option<(Head, BytesMut)>, Malformed> {
    let mut read = BytesMut::from(text);
    Ok(take_head(&mut read, false)?.map(|head| (head, read)))
}

#[test]
fn a_head_goes_out_with_one_host_and_one_framing() {
    assert_eq!(
        written(
            &Method::GET,
            &[("accept", "a/b"), ("host", "elsewhere"), ("content-length", "0")],
            Length::Known(0)
        ),
        "GET /x?y=1 HTTP/1.1\r\nhost: 10.0.0.1:6333\r\naccept: a/b\r\n\r\n"
    );
    assert_eq!(
        written(&Method::POST, &[("transfer-encoding", "chunked")], Length::Known(12_345_678_901)),
        "POST /x?y=1 HTTP/1.1\r\nhost: 10.0.0.1:6333\r\ncontent-length: 12345678901\r\n\r\n"
    );
    assert!(written(&Method::POST, &[], Length::Known(0)).contains("content-length: 0\r\n"));
    assert!(written(&Method::PUT, &[], Length::Unknown).contains("transfer-encoding: chunked\r\n"));
}

#[test]
fn headers_of_one_connection_stay_with_it() {
    let out = written(
        &Method::GET,
        &[
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("te", "trailers, deflate"),
            ("expect", "100-continue"),
            ("trailer", "x-sum"),
            ("api-key", "secret"),
            ("x-request-id", "7"),
        ],
        Length::Known(0),
    );
    assert_eq!(
        out,
        "GET /x?y=1 HTTP/1.1\r\nhost: 10.0.0.1:6333\r\napi-key: secret\r\nx-request-id: 7\r\n\r\n"
    );
}

#[test]
fn heads_are_read() {
    let (head, rest) = answer("HTTP/1.1 200 OK\r\ncontent-length: 3\r\nX-A: b\r\nx-a: c\r\n\r\n{}\n")
        .expect("HTTP")
        .expect("complete");
    assert_eq!((head.status, head.framing, head.is_kept), (StatusCode::OK, Framing::Length(3), true));
    assert_eq!(head.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(&rest[..], b"{}\n");
    for (text, framing, is_kept) in [
        ("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", Framing::Length(0), false),
        ("HTTP/1.1 200 OK\r\n\r\n", Framing::UntilClose, false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n", Framing::Length(1), false),
        ("HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\ncontent-length: 1\r\n\r\n", Framing::Length(1), true),
        ("HTTP/1.1 204 No Content\r\n\r\n", Framing::Length(0), true),
        ("HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", Framing::Length(0), true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n", Framing::Chunked(Chunk::Size), true),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 9\r\n\r\n",
            Framing::Chunked(Chunk::Size),
            false,
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 4\r\n\r\n", Framing::Length(4), true),
    ] {
        let (head, _) = answer(text).expect("HTTP").expect("complete");
        assert_eq!((head.framing, head.is_kept), (framing, is_kept), "{text}");
    }
    let mut read = BytesMut::from("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n");
    let head = take_head(&mut read, true).expect("HTTP").expect("complete");
    assert_eq!(head.framing, Framing::Length(0), "an answer to HEAD has no body");
}

#[test]
fn half_a_head_is_waited_for_and_an_endless_one_is_not() {
    let whole = "HTTP/1.1 200 OK\r\nx: y\r\n\r\n";
    for end in 0..whole.len() {
        assert!(answer(&whole[..end]).expect("no error yet").is_none(), "{end}");
    }
    assert!(answer(&format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(MAX_HEAD_BYTES))).is_err());
    assert!(answer(&format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(MAX_HEADERS + 1))).is_err());
}

#[test]
fn what_is_not_http_is_refused() {
    for text in [
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: +3\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n",
    ] {
        assert!(answer(text).is_err(), "{text}");
    }
}

/// Decodes a body that arrives in pieces of `step` bytes.
fn decoded(mut framing: Framing, body: &str, step: usize) -> Result<(String, bool), Malformed> {
    let (mut read, mut out, mut rest) = (BytesMut::new(), Vec::new(), body.as_bytes());
    loop {
        match framing.next(&mut read)? {
            Piece::Data(data) => out.extend_from_slice(&data),
            Piece::End => return Ok((String::from_utf8(out).expect("text"), true)),
            Piece::Missing if rest.is_empty() => return Ok((String::from_utf8(out).expect("text"), false)),
            Piece::Missing => {
                let (now, later) = rest.split_at(step.min(rest.len()));
                read.extend_from_slice(now);
                rest = later;
            }
        }
    }
}

#[test]
fn bodies_end_where_their_framing_says() {
    for step in 1..20 {
        let of = |framing, body| decoded(framing, body, step).expect("a body");
        let chunked = Framing::Chunked(Chunk::Size);
        assert_eq!(of(Framing::Length(5), "hello"), ("hello".to_owned(), true));
        assert_eq!(of(Framing::Length(5), "hell"), ("hell".to_owned(), false));
        assert_eq!(of(Framing::UntilClose, "hello"), ("hello".to_owned(), false));
        assert_eq!(of(chunked, "3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n"), ("hello".to_owned(), true));
        assert_eq!(of(chunked, "5 \r\nhello\r\n0\r\na: b\r\nc: d\r\n\r\n"), ("hello".to_owned(), true));
        assert_eq!(of(chunked, "5\r\nhello\r\n"), ("hello".to_owned(), false));
        for broken in ["x\r\n", "\r\n", "-1\r\n", "2\r\nhello\r\n", "11111111111111111\r\n"] {
            assert!(decoded(chunked, broken, step).is_err(), "{broken}");
        }
    }
    let long = format!("1;{}", "x".repeat(MAX_LINE_BYTES + 8));
    assert!(decoded(Framing::Chunked(Chunk::Size), &long, 512).is_err());
    let trailers = format!("0\r\n{}", "a: b\r\n".repeat(MAX_TRAILER_BYTES));
    assert!(decoded(Framing::Chunked(Chunk::Size), &trailers, 512).is_err());
}
