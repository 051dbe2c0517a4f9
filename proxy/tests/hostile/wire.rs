//! Hostile HTTP/1.1: the shapes that requests are smuggled in, and valid requests that were tampered with.
//!
//! A shape is text with holes:
//!
//! | Hole | Filled with |
//! |---|---|
//! | `{get}`, `{post}` | a request line with a marked target, `Host`, and the marker once more as a header |
//! | `{target}`, `{mark}` | the marked target, or the marker, alone |
//! | `{inside}` | a whole request that must never arrive, for where there should be none |
//! | `{rest}` | how many bytes follow the first empty line |
//! | `{#hh}` | that byte |
//! | `{long}` | twenty thousand bytes |

use qdrant_router::dice::Dice;

use crate::marker::{Kind, Marker};

/// What a connection is fed with.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) bytes: Vec<u8>,
    /// How many requests it counts for.
    pub(crate) requests: u64,
    /// Whether the client ends what it sends, as one does that has no more to say.
    pub(crate) half_closes: bool,
}

/// These may be forwarded in one plain form, or refused.
const WHOLE: &[&str] = &[
    "{get}\r\n",
    "{post}content-length: {rest}\r\n\r\n{\"ids\":[1,2]}",
    "{post}content-length: {rest}\r\n\r\n{\"x\":\"\r\n\r\n{inside}\"}",
    "{post}content-length: 2\r\ncontent-length: 2\r\n\r\n{}",
    "{post}content-length: 2, 2\r\n\r\n{}",
    "{post}content-length: 002\r\n\r\n{}",
    "{post}content-length: {rest}\r\ncontent-encoding: gzip\r\n\r\n{inside}",
    "{post}content-length: {rest}\r\ncontent-encoding: br\r\n\r\n{inside}",
    "{post}content-length: {rest}\r\ncontent-encoding: zstd\r\n\r\n{#28}{#b5}{#2f}{#fd}{inside}",
    "{post}content-length: {rest}\r\nexpect: 100-continue\r\n\r\n{}",
    "{post}content-length: {rest}\r\nexpect: miracles\r\n\r\n{}",
    "{post}connection: content-length, host, x-mark, transfer-encoding\r\ncontent-length: {rest}\r\n\r\n{inside}",
    "{post}connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\ncontent-length: {rest}\r\n\r\n{inside}",
    "{get}connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    "{post}te: trailers, chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "{post}transfer-encoding: Chunked\r\n\r\n2;a=b;c=\"{#0b}\"\r\n{}\r\n0\r\n\r\n",
    "{post}transfer-encoding: chunked\r\n\r\n2;{long}\r\n{}\r\n0\r\n\r\n",
    "{post}transfer-encoding: chunked\r\n\r\n00000000000000002\r\n{}\r\n0\r\n\r\n",
    "{post}transfer-encoding: chunked\r\n\r\n2\t \r\n{}\r\n0\r\n\r\n",
    "{post}transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx-injected: 1\r\ncontent-length: 9\r\n\r\n",
    "{post}trailer: x-injected, host\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx-injected: 1\r\nhost: evil\r\n\r\n",
    "{post}transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx: {long}\r\n\r\n",
    "{post}transfer-encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "{post}transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "{post}content-length: {rest}\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "{get}content-length: 0\r\n\r\n",
    "{get}content-length: {rest}\r\n\r\n{inside}",
    "HEAD {target} HTTP/1.1\r\nhost: q\r\ncontent-length: {rest}\r\n\r\n{inside}",
    "OPTIONS {target} HTTP/1.1\r\nhost: q\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nhost: q\r\nx-mark: {mark}\r\n\r\n",
    "TRACE {target} HTTP/1.1\r\nhost: q\r\n\r\n",
    "get {target} HTTP/1.1\r\nhost: q\r\n\r\n",
    "M-SEARCH! {target} HTTP/1.1\r\nhost: q\r\n\r\n",
    "GET {target} HTTP/1.0\r\n\r\n",
    "GET {target} HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
    "POST {target} HTTP/1.0\r\ncontent-length: {rest}\r\n\r\n{inside}",
    "GET {target} HTTP/1.1\r\nx-mark: {mark}\r\n\r\n",
    "GET {target} HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
    "GET {target} HTTP/1.1\r\nhost:\r\n\r\n",
    "GET {target} HTTP/1.1\r\nhost: q/../x?y@z\r\n\r\n",
    "GET {target} HTTP/1.1\nhost: q\nx-mark: {mark}\n\n",
    "\r\n\r\n{get}\r\n",
    "GET http://evil.example{target} HTTP/1.1\r\nhost: q\r\n\r\n",
    "GET http://user:pass@evil.example:1{target} HTTP/1.1\r\nhost: other\r\n\r\n",
    "GET /{target} HTTP/1.1\r\nhost: q\r\n\r\n",
    "GET ftp://evil.example{target} HTTP/1.1\r\nhost: q\r\n\r\n",
    "GET {target}/../..//./%2e%2e/%00?a=%0d%0a HTTP/1.1\r\nhost: q\r\n\r\n",
    "GET {target}#{mark} HTTP/1.1\r\nhost: q\r\n\r\n",
    "GET {target}&\\^`|{}\" HTTP/1.1\r\nhost: q\r\n\r\n",
    "GET {target}&{#c3}{#a9} HTTP/1.1\r\nhost: q\r\n\r\n",
    "GET {target}&{#ff}{#80} HTTP/1.1\r\nhost: q\r\n\r\n",
    "GET {target}&{long} HTTP/1.1\r\nhost: q\r\n\r\n",
    "{get}x: {#80}{#ff}\r\n\r\n",
    "{get}x:\t a \t\r\nx:\r\nx-:::\r\n\r\n",
    "{get}x: {long}\r\n\r\n",
    "{get}{many}\r\n",
    "{get}x-qdrant-node: {long}\r\n\r\n",
    "{get}x-qdrant-node: all\r\nx-qdrant-router-explain: 1\r\n\r\n",
    "{post}x-qdrant-router-retry-writes: {mark}\r\ncontent-length: {rest}\r\n\r\n{inside}",
    "{post}content-length: {rest}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{inside}",
    "{post}transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n{inside}",
    "{post}content-type: application/grpc\r\ncontent-length: {rest}\r\n\r\n{#00}{#ff}{#ff}{#ff}{#ff}{inside}",
    "{post}content-type: application/grpc\r\ngrpc-timeout: 99999999H\r\ngrpc-encoding: gzip\r\ncontent-length: {rest}\r\n\r\n{#01}{#00}{#00}{#00}{#02}{#1f}{#8b}",
    "{get}\r\n{get}\r\n{get}\r\n",
    "{post}content-length: 2\r\n\r\n{}{get}\r\n",
    "{post}transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n{get}\r\n",
];

/// These must never arrive complete: their end or their framing is wrong, or cannot be told.
const BROKEN: &[&str] = &[
    "{post}content-length: 2\r\ncontent-length: {rest}\r\n\r\n{}{inside}",
    "{post}content-length: {rest}\r\ncontent-length: 2\r\n\r\n{}{inside}",
    "{post}content-length: 2, {rest}\r\n\r\n{}{inside}",
    "{post}content-length: +2\r\n\r\n{}",
    "{post}content-length: -2\r\n\r\n{}",
    "{post}content-length: 0x2\r\n\r\n{}",
    "{post}content-length: 2 2\r\n\r\n{}",
    "{post}content-length: 2;\r\n\r\n{}",
    "{post}content-length: \r\n\r\n{}",
    "{post}content-length: 18446744073709551618\r\n\r\n{}",
    "{post}content-length: 999999\r\n\r\n{inside}",
    "{post}content-length : 2\r\n\r\n{}",
    "{post} content-length: 2\r\n\r\n{}",
    "{post}content-length: 2\r\n x\r\n\r\n{}",
    "{post}x: 1\r\n\tcontent-length: 9\r\ncontent-length: 2\r\n\r\n{}{inside}",
    "{post}transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n{inside}",
    "{post}transfer-encoding: cow\r\n\r\n{inside}",
    "{post}transfer-encoding: xchunked\r\ncontent-length: 2\r\n\r\n{}{inside}",
    "{post}transfer-encoding: chunked;q=1\r\n\r\n0\r\n\r\n{inside}",
    "{post}transfer-encoding: identity\r\ncontent-length: {rest}\r\n\r\n0\r\n\r\n{inside}",
    "{post}transfer-encoding\t: chunked\r\ncontent-length: {rest}\r\n\r\n0\r\n\r\n{inside}",
    "{post}transfer-encoding:\r\n chunked\r\ncontent-length: {rest}\r\n\r\n0\r\n\r\n{inside}",
    "{post}transfer-encoding: {#0b}chunked\r\ncontent-length: {rest}\r\n\r\n0\r\n\r\n{inside}",
    "POST {target} HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n{inside}",
    "POST {target} HTTP/1.0\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}{inside}",
    "{post}transfer-encoding: chunked\r\n\r\n2\r\n{}",
    "{post}transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
    "{post}transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
    "{post}transfer-encoding: chunked\r\n\r\n2\r\n{}{inside}",
    "{post}transfer-encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    "{post}transfer-encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n",
    "{post}transfer-encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
    "{post}transfer-encoding: chunked\r\n\r\n2 2\r\n{}\r\n0\r\n\r\n",
    "{post}transfer-encoding: chunked\r\n\r\n\r\n{}\r\n0\r\n\r\n",
    "{post}transfer-encoding: chunked\r\n\r\n2\n{}\n0\n\n{inside}",
    "{post}transfer-encoding: chunked\r\n\r\n2\r{}\r0\r\r{inside}",
    "{post}transfer-encoding: chunked\r\n\r\n2;a\nx\r\n{}\r\n0\r\n\r\n",
    "{post}transfer-encoding: chunked\r\n\r\n10000000000000002\r\n{}\r\n0\r\n\r\n",
    "{post}transfer-encoding: chunked\r\n\r\nfffffffffffffffe\r\n{}\r\n0\r\n\r\n{inside}",
    "{post}transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx: {long}{long}{long}{long}",
    "{get}no colon\r\n\r\n",
    "{get}: no name\r\n\r\n",
    "{get}x y: 1\r\n\r\n",
    "{get}x{#00}y: 1\r\n\r\n",
    "{get}x{#e9}: 1\r\n\r\n",
    "{get}x: a{#00}b\r\n\r\n",
    "{get}x: a{#7f}b\r\n\r\n",
    "{get}x: a\rx-injected: 1\r\n\r\n",
    "{get}x: a\r\r\nx-injected: 1\r\n\r\n",
    "{get}x: a{#1b}[2J\r\n\r\n",
    "{get}x: 1\r\n folded\r\n\r\n",
    "GET {target} HTTP/1.1\r\n host: folded\r\n\r\n",
    "GET {target} HTTP/1.1{inside}",
    "GET {target} HTTP/1.1 \r\nhost: q\r\n\r\n",
    "GET {target} HTTP/1.1x\r\nhost: q\r\n\r\n",
    "GET {target} HTTP/2.0\r\nhost: q\r\n\r\n",
    "GET {target} HTTP/9.9\r\nhost: q\r\n\r\n",
    "GET {target} http/1.1\r\nhost: q\r\n\r\n",
    "GET {target} HTTP/1.1\rhost: q\r\r",
    "GET {target}\r\n\r\n",
    "GET {target} x HTTP/1.1\r\nhost: q\r\n\r\n",
    "GET {target}{#01} HTTP/1.1\r\nhost: q\r\n\r\n",
    "GET {target}{#7f} HTTP/1.1\r\nhost: q\r\n\r\n",
    "GET {target}{#00} HTTP/1.1\r\nhost: q\r\n\r\n",
    "GET{#00} {target} HTTP/1.1\r\nhost: q\r\n\r\n",
    "G(T {target} HTTP/1.1\r\nhost: q\r\n\r\n",
    " GET {target} HTTP/1.1\r\nhost: q\r\n\r\n",
    "{target}\r\n\r\n",
    "CONNECT q:6333 HTTP/1.1\r\nhost: q:6333\r\nx-mark: {mark}\r\n\r\n{inside}",
    "CONNECT {target} HTTP/1.1\r\nhost: q\r\nx-mark: {mark}\r\n\r\n{inside}",
    "PRI * HTTP/2.0\r\n\r\n{get}\r\n",
    "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n{get}\r\n",
    "{#16}{#03}{#01}{#02}{#00}{#01}{#00}{#01}{#fc}{#03}{#03}{get}\r\n",
    "EHLO q\r\nMAIL FROM: <{mark}>\r\n",
    "{post}content-length: 2\r\n{many}{many}{many}\r\n{}",
    "{post}content-length: 2\r\nx: {long}{long}{long}{long}{long}{long}{long}{long}{long}{long}{long}{long}{long}{long}{long}{long}{long}{long}{long}{long}{long}{long}\r\n\r\n{}",
];

/// Targets of every class: looked into, split, streamed, gathered, unknown.
const TARGETS: [&str; 10] = [
    "/collections/books/points/7?{mark}",
    "/collections/books/points?wait=true&{mark}",
    "/collections/books/points/search?{mark}",
    "/collections/books/points/delete?{mark}",
    "/collections/books/snapshots/upload?{mark}",
    "/collections/books/snapshots?{mark}",
    "/collections/{mark}/points/count?x",
    "/collections/{mark}?x",
    "/nowhere/{mark}?x",
    "/{mark}?x",
];

/// Bodies of valid requests, some of which are cut and sent in parts.
const BODIES: [&str; 6] = [
    "{}",
    r#"{"points":[{"id":1,"vector":[1,2,3,4]},{"id":2,"vector":[1,2,3,4]},{"id":3,"vector":[1,2,3,4]}]}"#,
    r#"{"points":[1,2,3,4,5,6,7,8],"shard_key":["a",7]}"#,
    r#"{"batch":{"ids":[1,2,3],"vectors":[[1,2],[3,4],[5,6]]}}"#,
    r#"{"vector":[1,2,3,4],"limit":3,"filter":{"must":[{"has_id":[1,2]}]}}"#,
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
];

/// A source of cases, always the same for one seed.
#[derive(Debug)]
pub(crate) struct Generator {
    pub(crate) dice: Dice,
    issued: u64,
}

// === impl Generator ===

impl Generator {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self { dice: Dice::seeded(seed), issued: 0 }
    }

    pub(crate) fn mark(&mut self, kind: Kind) -> Marker {
        self.issued += 1;
        Marker { kind, number: self.issued }
    }

    pub(crate) fn below(&self, limit: usize) -> usize {
        (self.dice.throw() % limit as u64) as usize
    }

    pub(crate) fn any<T: Copy>(&self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Any target, with this marker.
    pub(crate) fn target(&self, marker: Marker) -> String {
        self.any(&TARGETS).replace("{mark}", &marker.to_string())
    }

    /// Any case of HTTP/1.1.
    pub(crate) fn http1(&mut self) -> Case {
        let (bytes, requests) = match self.below(10) {
            0..=3 => (self.fill(self.any(WHOLE), Kind::Whole), 1),
            4..=6 => (self.fill(self.any(BROKEN), Kind::Broken), 1),
            7 => (self.tampered(), 1),
            8 => (self.cut_off(), 1),
            _ => (self.noise(400), 1),
        };
        // Now and then the client waits for what will not come.
        Case { bytes, requests, half_closes: self.below(40) > 0 }
    }

    /// Fills the holes of a shape. Each request in it gets a marker of its own.
    fn fill(&mut self, shape: &str, kind: Kind) -> Vec<u8> {
        let mut marker = self.mark(kind);
        let mut filled = Vec::new();
        let mut text = shape;
        let mut rest_at = None;
        while let Some((before, after)) = text.split_once('{') {
            filled.extend_from_slice(before.as_bytes());
            let hole = after.split_once('}').filter(|(hole, _)| !hole.contains(['"', '{', '\r']));
            let Some((hole, after)) = hole else {
                filled.push(b'{');
                text = after;
                continue;
            };
            text = after;
            match hole {
                "get" | "post" => {
                    if !filled.is_empty() && hole == "get" {
                        // The next of several.
                        marker = self.mark(kind);
                    }
                    let (method, target) = (hole.to_ascii_uppercase(), self.target(marker));
                    filled.extend(
                        format!("{method} {target} HTTP/1.1\r\nhost: q\r\nx-mark: {marker}\r\n").bytes(),
                    );
                }
                "target" => filled.extend(self.target(marker).bytes()),
                "mark" => filled.extend(marker.to_string().bytes()),
                "inside" => {
                    let inside = self.mark(Kind::Inside);
                    filled.extend(
                        format!("GET /{inside} HTTP/1.1\r\nhost: q\r\nx-injected: 1\r\n\r\n").bytes(),
                    );
                }
                "long" => filled.extend(std::iter::repeat_n(b'a', 20_000)),
                "many" => filled.extend((0..90).flat_map(|n| format!("x-{n}: {n}\r\n").into_bytes())),
                "rest" => rest_at = Some(filled.len()),
                _ => match hole.strip_prefix('#').and_then(|byte| u8::from_str_radix(byte, 16).ok()) {
                    Some(byte) => filled.push(byte),
                    None => filled.extend(format!("{{{hole}}}").bytes()),
                },
            }
        }
        filled.extend_from_slice(text.as_bytes());
        if let Some(at) = rest_at {
            let rest =
                filled.windows(4).position(|end| end == b"\r\n\r\n").map_or(0, |end| filled.len() - end - 4);
            filled.splice(at..at, rest.to_string().bytes());
        }
        filled
    }

    /// A valid request; its body comes at once or in chunks.
    fn valid(&mut self, kind: Kind) -> (Vec<u8>, usize) {
        let marker = self.mark(kind);
        // The body of a GET may be left out, and with it what is wrong with it.
        let methods = ["POST", "PUT", "DELETE", "PATCH", "GET"];
        let method = self.any(if kind == Kind::Broken { &methods[..4] } else { &methods });
        let target = self.target(marker);
        let body = self.any(&BODIES);
        let mut bytes = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
        let line = bytes.len();
        let headers = "host: q\r\ncontent-type: application/json\r\nuser-agent: tests\r\napi-key: k\r\n";
        bytes.extend(headers.bytes());
        if self.below(2) == 0 {
            bytes.extend(format!("content-length: {}\r\n\r\n{body}", body.len()).bytes());
        } else {
            bytes.extend(b"transfer-encoding: chunked\r\n\r\n");
            for chunk in body.as_bytes().chunks(1 + self.below(40)) {
                bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
        }
        (bytes, line)
    }

    /// A valid request with a few bytes changed, inserted or removed behind its first line.
    fn tampered(&mut self) -> Vec<u8> {
        const ODD: [&[u8]; 14] = [
            b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b";", b"\x0b", b"\x7f", b"\xff", b"0", b",",
            b"\r\n ",
        ];
        let (mut bytes, line) = self.valid(Kind::Whole);
        for _ in 0..1 + self.below(4) {
            let at = line + self.below(bytes.len() - line);
            match self.below(4) {
                0 => bytes[at] = self.dice.throw() as u8,
                1 => drop(bytes.splice(at..at, self.any(&ODD).iter().copied())),
                2 => drop(bytes.splice(at..=at, self.any(&ODD).iter().copied())),
                _ if bytes.len() > line + 1 => drop(bytes.remove(at)),
                _ => {}
            }
        }
        bytes
    }

    /// A valid request that breaks off.
    fn cut_off(&mut self) -> Vec<u8> {
        let (mut bytes, _) = self.valid(Kind::Broken);
        bytes.truncate(self.below(bytes.len()));
        bytes
    }

    pub(crate) fn noise(&self, limit: usize) -> Vec<u8> {
        (0..self.below(limit)).map(|_| self.dice.throw() as u8).collect()
    }
}
