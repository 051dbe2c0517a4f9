//! Hostile HTTP/2: raw frames that no client library would send.

use crate::{
    marker::Kind,
    talk::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, FLOOD, GOAWAY, HEADERS, PADDED, PING, PREFACE,
        PRIORITY, PUSH_PROMISE, ROW, RST_STREAM, SETTINGS, Talk, WINDOW_UPDATE, field, fields, length,
        request,
    },
    wire::{Case, Generator},
};

/// Fields that no request may have, or none of a proxy. Each stands in a request of its own.
const ODD_FIELDS: [(&[u8], &[u8]); 24] = [
    (b"x\r\nx-injected", b"1"),
    (b"x: 1\r\nx-injected", b"1"),
    (b"x:y", b"1"),
    (b"X-Upper", b"1"),
    (b"x y", b"1"),
    (b"x\0y", b"1"),
    (b"", b"1"),
    (b"x", b"a\r\nx-injected: 1"),
    (b"x", b"a\nx-injected: 1"),
    (b"x", b"a\rb"),
    (b"x", b"a\0b"),
    (b"x", b" a "),
    (b"x", b"\x80\xff"),
    (b"transfer-encoding", b"chunked"),
    (b"connection", b"x-mark, content-length"),
    (b"keep-alive", b"timeout=5"),
    (b"proxy-connection", b"close"),
    (b"upgrade", b"h2c"),
    (b"te", b"gzip"),
    (b"host", b"other"),
    (b"content-length", b"2, 5"),
    (b"content-length", b"+2"),
    (b"content-length", b""),
    (b":injected", b"1"),
];

/// Paths that would end a request line, or begin another.
const ODD_PATHS: [&str; 8] = [
    "/{mark} HTTP/1.1\r\nhost: q\r\nx-injected: 1\r\n\r\n",
    "/{mark} HTTP/1.1\r\nx-injected: 1\r\nx:",
    "/{mark}\r\n",
    "/{mark}\0",
    "{mark}",
    "*",
    "http://evil.example/{mark}",
    "/{mark}#x",
];

impl Generator {
    /// Any case of HTTP/2.
    pub(crate) fn http2(&mut self) -> Case {
        const CASES: [fn(&mut Generator) -> Case; 13] = [
            Generator::beginnings,
            Generator::floods,
            Generator::floods_on_streams,
            Generator::rapid_resets,
            Generator::endless_headers,
            Generator::compressed_headers,
            Generator::odd_fields,
            Generator::odd_pseudo_fields,
            Generator::odd_lengths,
            Generator::odd_trailers,
            Generator::odd_frames,
            Generator::windows,
            Generator::tampered_frames,
        ];
        self.any(&CASES)(self)
    }

    /// A valid request of either protocol, with or without a body.
    fn good(&mut self, talk: &mut Talk, kind: Kind) -> u32 {
        let marker = self.mark(kind);
        let is_grpc = self.below(3) == 0;
        let path = if is_grpc { format!("/qdrant.Points/Count?{marker}") } else { self.target(marker) };
        let mut block = request(b"POST", &path, marker);
        if is_grpc {
            block.extend(fields(&[(b"content-type", b"application/grpc"), (b"te", b"trailers")]));
        }
        talk.open(END_HEADERS, &block)
    }

    fn beginnings(&mut self) -> Case {
        let bytes = match self.below(5) {
            0 => PREFACE[..self.below(PREFACE.len())].to_vec(),
            1 => [PREFACE, b"GET / HTTP/1.1\r\nhost: q\r\n\r\n"].concat(),
            2 => [PREFACE, &self.noise(300)].concat(),
            3 => {
                let mut bytes = PREFACE.to_vec();
                let at = self.below(bytes.len());
                bytes[at] ^= 1 << self.below(8);
                bytes
            }
            _ => PREFACE.to_vec(),
        };
        let mut talk = Talk { bytes, ..Talk::default() };
        // Without settings, or behind a preface that is none.
        let marker = self.mark(Kind::Broken);
        let block = request(b"POST", &format!("/{marker}"), marker);
        talk.open(END_HEADERS, &block);
        talk.end(true)
    }

    fn floods(&mut self) -> Case {
        let mut talk = Talk::begun();
        match self.below(7) {
            0 => talk.flood(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]),
            1 => talk.flood(SETTINGS, ACK, 0, &[]),
            2 => talk.flood(PING, 0, 0, &[7; 8]),
            3 => talk.flood(PING, ACK, 0, &[7; 8]),
            4 => talk.flood(PRIORITY, 0, 1, &[0, 0, 0, 3, 9]),
            5 => talk.flood(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
            _ => talk.flood(0xfa, 0xff, 0, &[1; 16]),
        }
        talk.end(self.below(2) == 0)
    }

    fn floods_on_streams(&mut self) -> Case {
        let mut talk = Talk::begun();
        let stream = self.good(&mut talk, Kind::Broken);
        match self.below(5) {
            0 => talk.flood(DATA, 0, stream, &[]),
            1 => talk.flood(DATA, PADDED, stream, &[3, 0, 0, 0]),
            2 => talk.flood(DATA, 0, stream, b"x"),
            3 => talk.flood(WINDOW_UPDATE, 0, stream, &[0, 0, 0, 1]),
            // Streams without a single field.
            _ => {
                for _ in 0..FLOOD {
                    talk.open(END_HEADERS | END_STREAM, &[]);
                }
            }
        }
        talk.end(true)
    }

    fn rapid_resets(&mut self) -> Case {
        let mut talk = Talk::begun();
        for _ in 0..FLOOD / 4 {
            let marker = self.mark(Kind::Whole);
            let block = request(b"GET", &format!("/{marker}"), marker);
            let stream = talk.open(END_HEADERS | END_STREAM, &block);
            match self.below(3) {
                // The server is made to reset it.
                0 => talk.frame(WINDOW_UPDATE, 0, stream, &[0; 4]),
                1 => talk.frame(DATA, 0, stream, b"after the end"),
                _ => talk.frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
            }
        }
        talk.end(true)
    }

    fn endless_headers(&mut self) -> Case {
        let mut talk = Talk::begun();
        let marker = self.mark(Kind::Broken);
        let block = request(b"POST", &format!("/{marker}"), marker);
        let stream = talk.open(0, &block);
        match self.below(3) {
            0 => talk.flood(CONTINUATION, 0, stream, &[]),
            1 => talk.flood(CONTINUATION, 0, stream, &field(b"x", &[b'a'; 1000])),
            _ => talk.frame(DATA, END_STREAM, stream, b"in between"),
        }
        talk.end(true)
    }

    fn compressed_headers(&mut self) -> Case {
        let mut talk = Talk::begun();
        let marker = self.mark(Kind::Broken);
        let mut block = request(b"POST", &format!("/{marker}"), marker);
        match self.below(6) {
            // A field that is kept once and named a thousand times.
            0 => {
                block.push(0x40);
                length(&mut block, 1);
                block.push(b'x');
                length(&mut block, 3000);
                block.extend([b'a'; 3000]);
                block.extend([0xbe; 8000]);
            }
            // An index of nothing, an endless number, an endless text, and a table too large.
            1 => block.extend([0xff, 0xff, 0x7f]),
            2 => block.extend([0xff; 40]),
            3 => block.extend([0x00, 0x01, b'x', 0x7f, 0xff, 0xff, 0xff, 0x7f]),
            4 => block.splice(0..0, [0x3f, 0xff, 0xff, 0xff, 0x7f]).for_each(drop),
            // A text that is no Huffman code.
            _ => block.extend([0x00, 0x01, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]),
        }
        let first = block.len().min(16_000);
        let stream =
            talk.open(if first == block.len() { END_HEADERS } else { 0 } | END_STREAM, &block[..first]);
        if first < block.len() {
            talk.frame(CONTINUATION, END_HEADERS, stream, &block[first..]);
        }
        talk.end(true)
    }

    fn odd_fields(&mut self) -> Case {
        let mut talk = Talk::begun();
        for _ in 0..ROW {
            let marker = self.mark(Kind::Whole);
            let mut block = request(b"POST", &self.target(marker), marker);
            let (name, value) = self.any(&ODD_FIELDS);
            block.extend(field(name, value));
            let stream = talk.open(END_HEADERS, &block);
            talk.frame(DATA, END_STREAM, stream, b"{}");
        }
        talk.end(true)
    }

    /// Streams that are wrong in every way that fields can be, each with this secret in it; not in `TE`, which
    /// no secret belongs in, and whose wrong values `h2` logs.
    pub(crate) fn odd_fields_with(&mut self, secret: &str) -> Vec<Case> {
        let mut cases = Vec::new();
        for (name, value) in ODD_FIELDS.into_iter().filter(|(name, _)| *name != b"te") {
            let mut talk = Talk::begun();
            let marker = self.mark(Kind::Whole);
            let mut block = request(b"POST", &self.target(marker), marker);
            block.extend(fields(&[
                (b"api-key", secret.as_bytes()),
                (name, &[value, secret.as_bytes()].concat()),
            ]));
            let stream = talk.open(END_HEADERS, &block);
            talk.frame(DATA, END_STREAM, stream, secret.as_bytes());
            cases.push(talk.end(true));
        }
        cases
    }

    fn odd_pseudo_fields(&mut self) -> Case {
        let mut talk = Talk::begun();
        for _ in 0..ROW {
            let marker = self.mark(Kind::Whole);
            let (target, mark) = (self.target(marker), marker.to_string());
            let target = target.as_bytes();
            let path = self.any(&ODD_PATHS).replace("{mark}", &mark);
            let head: &[(&[u8], &[u8])] = match self.below(10) {
                0 => &[(b":method", b"GET"), (b":scheme", b"http"), (b":path", path.as_bytes())],
                1 => &[
                    (b":method", b"GET /x HTTP/1.1\r\nx-injected: 1\r\n"),
                    (b":scheme", b"http"),
                    (b":path", target),
                ],
                2 => &[(b":method", b"CONNECT"), (b":authority", b"q:6333")],
                3 => &[
                    (b":method", b"CONNECT"),
                    (b":scheme", b"http"),
                    (b":path", target),
                    (b":protocol", b"websocket"),
                ],
                4 => &[(b":method", b"GET"), (b":scheme", b"http"), (b":path", target), (b":path", target)],
                5 => &[(b":method", b"GET"), (b":scheme", b"file\r\n"), (b":path", target)],
                6 => &[
                    (b":method", b"GET"),
                    (b":scheme", b"http"),
                    (b":authority", b"a b\r\nx-injected: 1"),
                    (b":path", target),
                ],
                7 => &[(b":method", b"GET"), (b":path", target), (b"x", b"1"), (b":scheme", b"http")],
                8 => &[
                    (b":method", b"GET"),
                    (b":scheme", b"http"),
                    (b":authority", b"u:p@evil"),
                    (b":path", target),
                ],
                _ => &[(b":status", b"200"), (b":method", b"GET"), (b":scheme", b"http"), (b":path", target)],
            };
            let mut block = fields(head);
            block.extend(field(b"x-mark", mark.as_bytes()));
            talk.open(END_HEADERS | END_STREAM, &block);
        }
        talk.end(true)
    }

    /// Bodies of another length than announced.
    fn odd_lengths(&mut self) -> Case {
        let mut talk = Talk::begun();
        for _ in 0..ROW {
            let marker = self.mark(Kind::Broken);
            let mut block = request(b"POST", &self.target(marker), marker);
            for length in self.any(&["5", "1", "2 5", "5 2", "99999999999999999999"]).split(' ') {
                block.extend(field(b"content-length", length.as_bytes()));
            }
            let inside = self.mark(Kind::Inside);
            let stream = talk.open(END_HEADERS, &block);
            match self.below(3) {
                0 => talk.frame(DATA, END_STREAM, stream, b"{}"),
                1 => talk.frame(DATA, 0, stream, format!("{{}}GET /{inside} HTTP/1.1\r\n\r\n").as_bytes()),
                _ => {
                    talk.frame(DATA, 0, stream, b"{}");
                    talk.frame(DATA, 0, stream, b"x");
                    talk.frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
                }
            }
        }
        talk.end(true)
    }

    fn odd_trailers(&mut self) -> Case {
        let mut talk = Talk::begun();
        for _ in 0..ROW {
            let stream = self.good(&mut talk, Kind::Whole);
            talk.frame(DATA, 0, stream, b"\0\0\0\0\0");
            let block = match self.below(5) {
                0 => fields(&[(b"x-injected", b"1"), (b"content-length", b"9"), (b"host", b"evil")]),
                1 => fields(&[(b":path", b"/other")]),
                2 => fields(&[(b"transfer-encoding", b"chunked"), (b"x-injected", b"1")]),
                3 => field(b"x", &[b'a'; 15_000]),
                _ => fields(&[(b"x", b"a\r\nx-injected: 1")]),
            };
            talk.frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
        }
        talk.end(true)
    }

    fn odd_frames(&mut self) -> Case {
        let mut talk = Talk::begun();
        let stream = self.good(&mut talk, Kind::Broken);
        match self.below(12) {
            0 => talk.frame(DATA, 0, 0, b"{}"),
            1 => talk.frame(DATA, PADDED, stream, &[200, 1]),
            2 => talk.frame(DATA, 0, stream + 2, b"{}"),
            3 => talk.frame(DATA, 0, stream, &[b'x'; 20_000]),
            4 => talk.frame(HEADERS, END_HEADERS, stream + 1, &[]),
            5 => talk.frame(PUSH_PROMISE, END_HEADERS, stream, &[0, 0, 0, 2]),
            6 => talk.frame(CONTINUATION, END_HEADERS, stream, &[]),
            7 => talk.frame(RST_STREAM, 0, 0, &[0; 4]),
            8 => talk.frame(SETTINGS, 0, stream, &[]),
            9 => talk.frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]),
            10 => talk.frame(PING, 0, 0, &[1; 3]),
            _ => talk.frame(GOAWAY, 0, 0, &[0; 8]),
        }
        talk.frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        talk.end(true)
    }

    fn windows(&mut self) -> Case {
        let mut talk = Talk::begun();
        let stream = self.good(&mut talk, Kind::Broken);
        match self.below(3) {
            0 => talk.flood(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            1 => talk.flood(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]),
            // More than any window allows.
            _ => (0..FLOOD).for_each(|_| talk.frame(DATA, 0, stream, &[b'['; 16_000])),
        }
        talk.frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        talk.end(true)
    }

    /// Valid requests, the body of the last one with a few bits changed.
    fn tampered_frames(&mut self) -> Case {
        let mut talk = Talk::begun();
        let mut body = 0;
        for _ in 0..1 + self.below(ROW) {
            let stream = self.good(&mut talk, Kind::Whole);
            body = talk.bytes.len();
            talk.frame(DATA, END_STREAM, stream, b"{\"points\":[1,2,3]}");
        }
        for _ in 0..1 + self.below(3) {
            let at = body + self.below(talk.bytes.len() - body);
            talk.bytes[at] ^= 1 << self.below(8);
        }
        talk.end(true)
    }
}
