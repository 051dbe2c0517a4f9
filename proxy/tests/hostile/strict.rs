//! A strict reader of HTTP/1.1 requests, independent of the libraries that the router is made of.
//!
//! It takes what RFC 9112 lets a sender write, and nothing that two receivers could read differently.

/// A request as it came over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// What else may not come from a proxy: each concerns one connection.
const HOP_BY_HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "expect"];

// === impl Request ===

impl Request {
    /// The first value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }
}

/// Reads the first request of `bytes`, and how many of them it takes; `None` where its end has not come.
///
/// # Errors
///
/// What makes it ambiguous.
pub(crate) fn read(bytes: &[u8], host: &str) -> Result<Option<(Request, usize)>, String> {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return match bytes.iter().position(|&byte| byte == b'\n') {
            Some(at) if at == 0 || bytes[at - 1] != b'\r' => Err("a bare LF in a head".to_owned()),
            _ => Ok(None),
        };
    };
    let mut lines = split_lines(&bytes[..end])?.into_iter();
    let (method, target) = request_line(lines.next().unwrap_or_default())?;
    let headers = lines.map(header).collect::<Result<Vec<_>, _>>()?;
    check(&headers, host)?;
    let rest = &bytes[end + 4..];
    let (body, used) = match framing(&headers)? {
        Framing::Length(length) if rest.len() < length => return Ok(None),
        Framing::Length(length) => (rest[..length].to_vec(), length),
        Framing::Chunks => match chunks(rest)? {
            Some(read) => read,
            None => return Ok(None),
        },
    };
    Ok(Some((Request { method, target, headers, body }, end + 4 + used)))
}

enum Framing {
    Length(usize),
    Chunks,
}

fn split_lines(head: &[u8]) -> Result<Vec<&[u8]>, String> {
    let mut lines = Vec::new();
    let mut rest = head;
    while let Some(at) = find(rest, b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    match lines.iter().find(|line| line.iter().any(|&byte| byte < b' ' && byte != b'\t' || byte == 0x7f)) {
        Some(line) => Err(format!("a control character in `{}`", line.escape_ascii())),
        None => Ok(lines),
    }
}

fn request_line(line: &[u8]) -> Result<(String, String), String> {
    let odd = || format!("the request line `{}`", line.escape_ascii());
    let mut parts = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(odd());
    };
    let is_target = target.first() == Some(&b'/') || (target == b"*" && method == b"OPTIONS");
    if !is_token(method) || method == b"CONNECT" || !is_target || version != b"HTTP/1.1" {
        return Err(odd());
    }
    Ok((text(method), text(target)))
}

fn header(line: &[u8]) -> Result<(String, String), String> {
    let odd = || format!("the header line `{}`", line.escape_ascii());
    let colon = line.iter().position(|&byte| byte == b':').ok_or_else(odd)?;
    // A fold begins with a space, which no name does.
    if !is_token(&line[..colon]) {
        return Err(odd());
    }
    let value = text(&line[colon + 1..]);
    Ok((text(&line[..colon]).to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()))
}

fn check(headers: &[(String, String)], host: &str) -> Result<(), String> {
    let hosts: Vec<_> = headers.iter().filter(|(name, _)| name == "host").collect();
    if !matches!(hosts[..], [(_, named)] if named == host) {
        return Err(format!("hosts: {hosts:?}"));
    }
    match headers.iter().find(|(name, _)| HOP_BY_HOP.contains(&name.as_str())) {
        Some(found) => Err(format!("a header of another connection: {found:?}")),
        None => Ok(()),
    }
}

fn framing(headers: &[(String, String)]) -> Result<Framing, String> {
    let mut framings =
        headers.iter().filter(|(name, _)| matches!(name.as_str(), "content-length" | "transfer-encoding"));
    let (first, second) = (framings.next(), framings.next());
    match (first, second) {
        (None, _) => Ok(Framing::Length(0)),
        (Some((name, value)), None) if name == "transfer-encoding" && value == "chunked" => {
            Ok(Framing::Chunks)
        }
        (Some((name, value)), None)
            if name == "content-length" && value.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            value.parse().map(Framing::Length).map_err(|_| format!("the length `{value}`"))
        }
        _ => Err(format!("the framing {first:?}, {second:?}")),
    }
}

/// A chunked body and its length on the wire. Neither extensions nor trailers belong in it.
fn chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let Some(end) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let size = &bytes[at..at + end];
        let is_size = !size.is_empty() && size.len() <= 8 && size.iter().all(u8::is_ascii_hexdigit);
        let size = std::str::from_utf8(size).ok().filter(|_| is_size);
        let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.ok_or_else(|| format!("the chunk size `{}`", bytes[at..at + end].escape_ascii()))?;
        at += end + 2;
        let Some(chunk) = bytes.get(at..at + size + 2) else { return Ok(None) };
        if !chunk.ends_with(b"\r\n") {
            return Err("a chunk without its end, or trailers".to_owned());
        }
        body.extend_from_slice(&chunk[..size]);
        at += size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

fn is_token(name: &[u8]) -> bool {
    !name.is_empty()
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[test]
fn what_is_plain_is_read() {
    let bytes =
        b"POST /a?b HTTP/1.1\r\nhost: q\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /";
    let (request, used) = read(bytes, "q").expect("no ambiguity").expect("a request");
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/a?b"));
    assert_eq!((request.body.as_slice(), &bytes[used..]), (&b"abc"[..], &b"GET /"[..]));
    let bytes = b"PUT /a HTTP/1.1\r\nHost: q\r\ncontent-length: 2\r\n\r\n{}";
    assert_eq!(read(bytes, "q").expect("no ambiguity").expect("a request").1, bytes.len());
    for part in 0..bytes.len() {
        assert!(read(&bytes[..part], "q").expect("no ambiguity").is_none());
    }
}

#[test]
fn what_is_ambiguous_is_named() {
    for head in [
        "GET /a HTTP/1.1\r\n",
        "GET /a HTTP/1.1\r\nhost: other\r\n",
        "GET /a HTTP/1.1\r\nhost: q\r\nhost: q\r\n",
        "GET /a HTTP/1.0\r\nhost: q\r\n",
        "GET  /a HTTP/1.1\r\nhost: q\r\n",
        "GET a HTTP/1.1\r\nhost: q\r\n",
        "CONNECT /a HTTP/1.1\r\nhost: q\r\n",
        "GET /a HTTP/1.1\r\nhost: q\r\n x: folded\r\n",
        "GET /a HTTP/1.1\r\nhost: q\r\nx : 1\r\n",
        "GET /a HTTP/1.1\r\nhost: q\r\nx: a\nb\r\n",
        "GET /a HTTP/1.1\r\nhost: q\r\nx: a\0b\r\n",
        "GET /a HTTP/1.1\r\nhost: q\r\nupgrade: h2c\r\n",
        "GET /a HTTP/1.1\r\nhost: q\r\ncontent-length: 0\r\ncontent-length: 0\r\n",
        "GET /a HTTP/1.1\r\nhost: q\r\ncontent-length: 0\r\ntransfer-encoding: chunked\r\n",
        "GET /a HTTP/1.1\r\nhost: q\r\ncontent-length: +0\r\n",
        "GET /a HTTP/1.1\r\nhost: q\r\ntransfer-encoding: gzip, chunked\r\n",
    ] {
        assert!(read(format!("{head}\r\n").as_bytes(), "q").is_err(), "{head}");
    }
    for chunks in
        ["2;x=1\r\n{}\r\n0\r\n\r\n", "2 \r\n{}\r\n0\r\n\r\n", "2\r\n{}x\r\n0\r\n\r\n", "0\r\nx: 1\r\n\r\n"]
    {
        let request = format!("GET / HTTP/1.1\r\nhost: q\r\ntransfer-encoding: chunked\r\n\r\n{chunks}");
        assert!(read(request.as_bytes(), "q").is_err(), "{chunks}");
    }
}
