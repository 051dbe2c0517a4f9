//! Hostile HTTP/1.1: the shapes that requests are smuggled in, and valid requests that were tampered with.

use qdrant_router::dice::Dice;

use crate::{
    marker::{Kind, Marker},
    shapes::{BODIES, BROKEN, TARGETS, WHOLE},
};

/// What a connection is fed with.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) bytes: Vec<u8>,
    /// How many requests it counts for.
    pub(crate) requests: u64,
    /// Whether the client ends what it sends, as one does that has no more to say.
    pub(crate) half_closes: bool,
}

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
