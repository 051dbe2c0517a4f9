//! Writing HTTP/2 by hand: frames, and fields without compression.

use crate::{marker::Marker, wire::Case};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;

/// How often a flood repeats its frame.
pub(crate) const FLOOD: usize = 600;

/// Requests that one connection carries in a row, where it is not about one alone.
pub(crate) const ROW: usize = 8;

/// One connection, as its client writes it.
#[derive(Debug, Default)]
pub(crate) struct Talk {
    pub(crate) bytes: Vec<u8>,
    pub(crate) stream: u32,
    pub(crate) requests: u64,
}

// === impl Talk ===

impl Talk {
    /// A preface, and settings that are fine.
    pub(crate) fn begun() -> Self {
        let mut talk = Self { bytes: PREFACE.to_vec(), ..Self::default() };
        talk.frame(SETTINGS, 0, 0, &[]);
        talk
    }

    pub(crate) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
        self.bytes.extend_from_slice(&[kind, flags]);
        self.bytes.extend_from_slice(&stream.to_be_bytes());
        self.bytes.extend_from_slice(payload);
    }

    pub(crate) fn flood(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        for _ in 0..FLOOD {
            self.frame(kind, flags, stream, payload);
        }
    }

    /// Opens the next stream with these fields.
    pub(crate) fn open(&mut self, flags: u8, block: &[u8]) -> u32 {
        self.stream = if self.stream == 0 { 1 } else { self.stream + 2 };
        self.requests += 1;
        self.frame(HEADERS, flags, self.stream, block);
        self.stream
    }

    /// The case that this is. However long, a flood is one.
    pub(crate) fn end(self, half_closes: bool) -> Case {
        Case { bytes: self.bytes, requests: self.requests.clamp(1, ROW as u64), half_closes }
    }
}

/// One field, with its name and value written out.
pub(crate) fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut block = vec![0];
    for text in [name, value] {
        length(&mut block, text.len());
        block.extend_from_slice(text);
    }
    block
}

/// An integer of HPACK with a prefix of seven bits.
pub(crate) fn length(block: &mut Vec<u8>, value: usize) {
    if value < 0x7f {
        return block.push(value as u8);
    }
    block.push(0x7f);
    let mut rest = value - 0x7f;
    while rest >= 0x80 {
        block.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
}

pub(crate) fn fields(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// The fields of a request for `path`.
pub(crate) fn request(method: &[u8], path: &str, marker: Marker) -> Vec<u8> {
    let mark = marker.to_string();
    fields(&[
        (b":method", method),
        (b":scheme", b"http"),
        (b":authority", b"q"),
        (b":path", path.as_bytes()),
        (b"x-mark", mark.as_bytes()),
    ])
}

/// A client that has room for two gigabytes, or says so, and asks for `path`.
pub(crate) fn greedy(path: &str) -> Vec<u8> {
    let mut talk = Talk { bytes: PREFACE.to_vec(), ..Talk::default() };
    talk.frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    talk.frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0, 0]);
    let block = fields(&[
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", b"q"),
        (b":path", path.as_bytes()),
    ]);
    talk.open(END_HEADERS | END_STREAM, &block);
    talk.bytes
}
