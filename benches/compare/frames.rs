//! Just enough HTTP for constant requests and replies, so that the load costs little: heads and lengths of
//! HTTP/1.1, frames and flow control of HTTP/2. Header blocks are written once and never read.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

// === HTTP/1.1 ===

/// Reads messages with a `Content-Length`; of their bodies only the length.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    head: Vec<u8>,
    body: u64,
}

/// A message has come to its end.
#[derive(Debug)]
pub(crate) struct Complete {
    pub(crate) head: String,
    pub(crate) body: u64,
}

// === impl Messages ===

impl Messages {
    /// Takes what has arrived and tells of every message that it completes.
    pub(crate) fn read(
        &mut self,
        mut bytes: &[u8],
        mut complete: impl FnMut(Complete),
    ) -> Result<(), String> {
        // While a body is awaited, `head` keeps the head and `body` what is missing.
        while !bytes.is_empty() {
            if self.body > 0 {
                let taken = self.body.min(bytes.len() as u64);
                self.body -= taken;
                bytes = bytes.get(usize::try_from(taken).unwrap_or(bytes.len())..).unwrap_or_default();
            } else {
                let before = self.head.len().saturating_sub(3);
                self.head.extend_from_slice(bytes);
                let end = self.head.get(before..).and_then(|new| memchr::memmem::find(new, b"\r\n\r\n"));
                let Some(end) = end.map(|end| before + end + 4) else {
                    return Ok(());
                };
                let rest = self.head.len() - end;
                self.head.truncate(end);
                bytes = bytes.get(bytes.len() - rest..).unwrap_or_default();
                self.body = length(&self.head)?;
            }
            if self.body == 0 {
                let body = length(&self.head)?;
                complete(Complete { head: String::from_utf8_lossy(&self.head).into_owned(), body });
                self.head.clear();
            }
        }
        Ok(())
    }
}

fn length(head: &[u8]) -> Result<u64, String> {
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        if name.eq_ignore_ascii_case(b"content-length") {
            let value = line.get(name.len() + 1..).unwrap_or_default();
            let value = std::str::from_utf8(value).unwrap_or_default().trim();
            return value.parse().map_err(|_| format!("Content-Length: {value}"));
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Err("a message of unknown length (Transfer-Encoding)".to_owned());
        }
    }
    Ok(0)
}

// === HTTP/2 ===

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Largest payload of a frame that every peer accepts.
const MAX_FRAME: usize = 16 << 10;
/// What a stream may send us unasked; no body here is larger.
const STREAM_WINDOW: u32 = 64 << 20;
/// What a connection may send us; granted anew when half of it is used.
const CONNECTION_WINDOW: u32 = 1 << 30;
const DEFAULT_WINDOW: i64 = 65_535;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One end of an HTTP/2 connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// To be sent as it is.
    pub(crate) out: Vec<u8>,
    input: Vec<u8>,
    /// What we may send.
    window: i64,
    initial_window: i64,
    /// Beyond the initial window, per stream.
    granted: HashMap<u32, i64>,
    sending: VecDeque<Sending>,
    /// What has been received since the last grant.
    received: u64,
    /// Bytes of the bodies that are arriving.
    arriving: HashMap<u32, u64>,
}

#[derive(Debug)]
struct Sending {
    stream: u32,
    body: Bytes,
    window: i64,
    trailers: Option<&'static [u8]>,
}

/// What the other end has done.
#[derive(Debug)]
pub(crate) enum Event {
    /// It has sent all of a message, whose body had this many bytes.
    Complete(u32, u64),
    /// It has given up a stream, with this code.
    Reset(u32, u32),
}

// === impl Connection ===

impl Connection {
    /// With our settings ready to be sent.
    pub(crate) fn new() -> Self {
        let mut connection = Self {
            out: Vec::new(),
            input: Vec::new(),
            window: DEFAULT_WINDOW,
            initial_window: DEFAULT_WINDOW,
            granted: HashMap::new(),
            sending: VecDeque::new(),
            received: 0,
            arriving: HashMap::new(),
        };
        let mut settings = Vec::new();
        for (key, value) in [(3_u16, 1000_u32), (4, STREAM_WINDOW)] {
            settings.extend(key.to_be_bytes());
            settings.extend(value.to_be_bytes());
        }
        connection.frame(SETTINGS, 0, 0, &settings);
        connection.frame(WINDOW_UPDATE, 0, 0, &(CONNECTION_WINDOW - 65_535).to_be_bytes());
        connection
    }

    /// Sends a message: its header block, its body, and its trailers where it has any.
    pub(crate) fn send(&mut self, stream: u32, block: &[u8], body: Bytes, trailers: Option<&'static [u8]>) {
        self.frame(HEADERS, END_HEADERS, stream, block);
        let window = self.initial_window + self.granted.remove(&stream).unwrap_or(0);
        self.sending.push_back(Sending { stream, body, window, trailers });
        self.flush();
    }

    /// Takes what has arrived.
    pub(crate) fn read(&mut self, bytes: &[u8], mut event: impl FnMut(Event)) -> Result<(), String> {
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(head) = input.get(at..at + 9) {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let (kind, flags) = (head[3], head[4]);
            let stream = number(&head[5..9]) & 0x7fff_ffff;
            let Some(payload) = input.get(at + 9..at + 9 + length) else { break };
            at += 9 + length;
            self.take(kind, flags, stream, payload, &mut event)?;
        }
        input.drain(..at);
        self.input = input;
        self.flush();
        Ok(())
    }

    fn take(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        event: &mut impl FnMut(Event),
    ) -> Result<(), String> {
        match kind {
            DATA => {
                let length = payload.len() as u64;
                self.received += length;
                if self.received > u64::from(CONNECTION_WINDOW / 2) {
                    let grant = u32::try_from(self.received).unwrap_or(CONNECTION_WINDOW / 2);
                    self.frame(WINDOW_UPDATE, 0, 0, &grant.to_be_bytes());
                    self.received = 0;
                }
                if flags & END_STREAM != 0 {
                    event(Event::Complete(stream, self.arriving.remove(&stream).unwrap_or(0) + length));
                } else {
                    *self.arriving.entry(stream).or_default() += length;
                }
            }
            HEADERS if flags & END_STREAM != 0 => {
                event(Event::Complete(stream, self.arriving.remove(&stream).unwrap_or(0)));
            }
            RST_STREAM => {
                self.arriving.remove(&stream);
                self.granted.remove(&stream);
                self.sending.retain(|sending| sending.stream != stream);
                event(Event::Reset(stream, number(payload)));
            }
            SETTINGS if flags & ACK == 0 => {
                for setting in payload.chunks_exact(6) {
                    if setting[..2] == [0, 4] {
                        let new = i64::from(number(&setting[2..]));
                        let more = new - self.initial_window;
                        self.initial_window = new;
                        self.sending.iter_mut().for_each(|sending| sending.window += more);
                    }
                }
                self.frame(SETTINGS, ACK, 0, &[]);
            }
            PING if flags & ACK == 0 => self.frame(PING, ACK, 0, payload),
            GOAWAY => {
                let (_, reason) = payload.split_at(payload.len().min(8));
                return Err(format!("GOAWAY: {}", String::from_utf8_lossy(reason)));
            }
            WINDOW_UPDATE => {
                let more = i64::from(number(payload));
                if stream == 0 {
                    self.window += more;
                } else if let Some(sending) = self.sending.iter_mut().find(|sending| sending.stream == stream)
                {
                    sending.window += more;
                } else if self.arriving.contains_key(&stream) {
                    *self.granted.entry(stream).or_default() += more;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Makes frames of what the windows allow.
    fn flush(&mut self) {
        let mut at = 0;
        while let Some(sending) = self.sending.get_mut(at) {
            while !sending.body.is_empty() {
                let window = usize::try_from(self.window.min(sending.window)).unwrap_or(0);
                let length = sending.body.len().min(window).min(MAX_FRAME);
                if length == 0 {
                    break;
                }
                let chunk = sending.body.split_to(length);
                self.window -= length as i64;
                sending.window -= length as i64;
                let is_last = sending.body.is_empty() && sending.trailers.is_none();
                frame(&mut self.out, DATA, if is_last { END_STREAM } else { 0 }, sending.stream, &chunk);
            }
            if sending.body.is_empty() {
                if let Some(trailers) = sending.trailers {
                    frame(&mut self.out, HEADERS, END_HEADERS | END_STREAM, sending.stream, trailers);
                }
                self.sending.remove(at);
            } else {
                at += 1;
            }
            // What is behind must not fill memory: the rest follows when this has been written.
            if self.out.len() > 1 << 20 {
                break;
            }
        }
    }

    /// Goes on where `flush` stopped because enough was waiting.
    pub(crate) fn refill(&mut self) {
        if !self.sending.is_empty() {
            self.flush();
        }
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        frame(&mut self.out, kind, flags, stream, payload);
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte))
}

// === HPACK ===

/// The header block of the first request of a connection: its fields enter the dynamic table.
pub(crate) fn first_request(authority: &str, path: &str) -> Vec<u8> {
    // `:method: POST`, `:scheme: http`, then `:path`, `:authority`, `content-type`, `te`, `user-agent`.
    let mut block = vec![0x83, 0x86, 0x44];
    text(&mut block, path);
    block.push(0x41);
    text(&mut block, authority);
    block.push(0x5f);
    text(&mut block, "application/grpc");
    block.push(0x40);
    text(&mut block, "te");
    text(&mut block, "trailers");
    block.push(0x7a);
    text(&mut block, "tonic/0.14.2");
    block
}

/// The header block of further requests: the same fields by their places in the table.
pub(crate) const NEXT_REQUEST: [u8; 7] = [0x83, 0x86, 0xc2, 0xc1, 0xc0, 0xbf, 0xbe];

/// `:status: 200` and `content-type: application/grpc`, whatever the size of the other end's table.
pub(crate) const REPLY: &[u8] = b"\x88\x0f\x10\x10application/grpc";
/// `grpc-status: 0`
pub(crate) const TRAILERS: &[u8] = b"\x00\x0bgrpc-status\x010";

fn text(block: &mut Vec<u8>, text: &str) {
    block.push(u8::try_from(text.len()).unwrap_or(0) & 0x7f);
    block.extend_from_slice(text.as_bytes());
}
