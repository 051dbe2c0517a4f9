//! HTTP/1.1 on the wire, as far as a client of one server needs it: a request's head out, an answer's head and body in.
//!
//! Nothing here does I/O. What goes out is written from headers that stay where they are, and bodies that come in are cut
//! out of the bytes that were read; of what comes in, heads alone are copied, once.

use std::mem::MaybeUninit;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use qdrant_router_http2 as http2;
use smallvec::SmallVec;

use super::is_of_one_connection;

/// The head of an answer is no longer than this, and has no more headers.
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_HEADERS: usize = 128;

/// The line before a chunk, and all trailers, are no longer than this.
const MAX_LINE_BYTES: usize = 4 << 10;
const MAX_TRAILER_BYTES: usize = 16 << 10;

/// How long the body of a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Known(u64),
    /// It comes in chunks.
    Unknown,
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) framing: Framing,
    /// Whether the connection may be used again after this answer.
    pub(super) is_kept: bool,
}

/// How the end of an answer's body is found, and how far that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked(Chunk),
    UntilClose,
}

/// Where in a chunked body the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    Size,
    Data(u64),
    DataEnd,
    Trailers { read: usize },
}

/// What [`Framing::next`] finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Data(Bytes),
    End,
    /// More bytes have to be read first.
    Missing,
}

/// The answer is not HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is not HTTP/1.1: {0}")]
pub(super) struct Malformed(&'static str);

// === the request ===

/// Writes the head of a request, with the beginning of its body `along`. Of `headers` those that concern one connection
/// only stay behind.
pub(super) fn write_head(
    method: &Method,
    target: &str,
    authority: &str,
    headers: &HeaderMap,
    length: Length,
    along: &[u8],
) -> BytesMut {
    // Most header lines are shorter than this.
    let mut out = BytesMut::with_capacity(128 + target.len() + 48 * headers.len() + along.len());
    out.put_slice(method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(target.as_bytes());
    out.put_slice(b" HTTP/1.1\r\nhost: ");
    out.put_slice(authority.as_bytes());
    out.put_slice(b"\r\n");
    let named = Named::by(headers);
    for (name, value) in headers {
        if is_of_one_connection(name) || *name == header::CONTENT_LENGTH || named.contains(name) {
            continue;
        }
        out.put_slice(name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
    match length {
        // A body that these cannot have need not be said to be empty.
        Length::Known(0)
            if matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS) => {}
        Length::Known(length) => {
            out.put_slice(b"content-length: ");
            out.put_slice(itoa::Buffer::new().format(length).as_bytes());
            out.put_slice(b"\r\n");
        }
        Length::Unknown => out.put_slice(b"transfer-encoding: chunked\r\n"),
    }
    out.put_slice(b"\r\n");
    out.put_slice(along);
    out
}

/// The headers that `Connection` names.
pub(super) struct Named(SmallVec<[HeaderName; 2]>);

impl Named {
    pub(super) fn by(headers: &HeaderMap) -> Self {
        if !headers.keys().any(|name| *name == header::CONNECTION) {
            return Self(SmallVec::new());
        }
        let lists = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
        // What nearly all of them say; the one is dropped anyway, and the other is no header.
        let lists =
            lists.filter(|list| !["keep-alive", "close"].iter().any(|it| list.eq_ignore_ascii_case(it)));
        Self(lists.flat_map(|list| list.split(',')).filter_map(|name| name.trim().parse().ok()).collect())
    }

    pub(super) fn contains(&self, name: &HeaderName) -> bool {
        self.0.contains(name)
    }
}

/// What goes before the data of a chunk; the data is followed by an end of line.
pub(super) fn chunk_head(length: usize) -> BytesMut {
    BytesMut::from(&*format!("{length:x}\r\n"))
}

// === the answer ===

/// Takes the head of the answer off `read`; `None` while it is not complete.
pub(super) fn take_head(read: &mut BytesMut, is_answer_to_head: bool) -> Result<Option<Head>, Malformed> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let length = match parser.parse_response_with_uninit_headers(&mut parsed, read, &mut headers) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if read.len() < MAX_HEAD_BYTES => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(Malformed("its head has no end")),
        Err(httparse::Error::TooManyHeaders) => return Err(Malformed("it has too many headers")),
        Err(_) => return Err(Malformed("its head cannot be read")),
    };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Malformed("it has no status"))?;
    let is_recent = parsed.version == Some(1);

    // Where names and values lie, so that the bytes can be shared by all values.
    let start = read.as_ptr() as usize;
    let place = |bytes: &[u8]| (bytes.as_ptr() as usize - start, bytes.len());
    let mut lines: SmallVec<[_; 16]> = SmallVec::new();
    for line in &*parsed.headers {
        lines.push((place(line.name.as_bytes()), place(line.value)));
    }
    // A short copy, so that what is read next goes where this was.
    let head = Bytes::copy_from_slice(&read[..length]);
    read.advance(length);
    let mut headers = HeaderMap::with_capacity(lines.len());
    let (mut coding, mut length, mut has_connection) = (None, None, false);
    for ((name_at, name_length), (value_at, value_length)) in lines {
        let name = HeaderName::from_bytes(&head[name_at..name_at + name_length])
            .map_err(|_| Malformed("a header has no name"))?;
        let value = HeaderValue::from_maybe_shared(head.slice(value_at..value_at + value_length))
            .map_err(|_| Malformed("a header has a value that none can have"))?;
        match name {
            header::CONNECTION => has_connection = true,
            header::CONTENT_LENGTH => {
                let said =
                    http2::length(value.as_bytes()).ok_or(Malformed("its length is not one number"))?;
                // In one voice, and to the client once.
                if length.replace(said).is_some_and(|before| before != said) {
                    return Err(Malformed("its length is not one number"));
                }
                headers.insert(name, value);
                continue;
            }
            header::TRANSFER_ENCODING if coding.is_some() => {
                return Err(Malformed("its transfer coding is not known"));
            }
            header::TRANSFER_ENCODING => coding = Some(value.clone()),
            _ => {}
        }
        headers.append(name, value);
    }
    let has = |token: &str| {
        let lists = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
        lists.flat_map(|list| list.split(',')).any(|entry| entry.trim().eq_ignore_ascii_case(token))
    };
    let mut is_kept = match is_recent {
        true => !(has_connection && has("close")),
        false => has_connection && has("keep-alive"),
    };
    let is_bodiless = is_answer_to_head
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let framing = match (is_bodiless, coding, length) {
        (true, ..) => Framing::Length(0),
        (false, Some(coding), length) => {
            is_kept &= length.is_none();
            if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed("its transfer coding is not known"));
            }
            // The chunks decide, and a length beside them must not reach the client.
            headers.remove(header::CONTENT_LENGTH);
            Framing::Chunked(Chunk::Size)
        }
        (false, None, Some(length)) => Framing::Length(length),
        (false, None, None) => Framing::UntilClose,
    };
    is_kept &= framing != Framing::UntilClose;
    Ok(Some(Head { status, headers, framing, is_kept }))
}

// === impl Framing ===

impl Framing {
    /// Takes the next piece of the body off `read`.
    pub(super) fn next(&mut self, read: &mut BytesMut) -> Result<Piece, Malformed> {
        match self {
            Self::Length(0) => Ok(Piece::End),
            Self::Length(left) => Ok(take(read, left)),
            Self::UntilClose if read.is_empty() => Ok(Piece::Missing),
            Self::UntilClose => Ok(Piece::Data(read.split().freeze())),
            Self::Chunked(chunk) => chunk.next(read),
        }
    }

    /// Whether nothing is left.
    pub(super) fn is_over(&self) -> bool {
        *self == Self::Length(0)
    }

    /// How many bytes are still to come, where that is known.
    pub(super) fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }
}

/// As much of `left` as has been read.
fn take(read: &mut BytesMut, left: &mut u64) -> Piece {
    if read.is_empty() {
        return Piece::Missing;
    }
    let length = usize::try_from(*left).map_or(read.len(), |left| left.min(read.len()));
    *left -= length as u64;
    Piece::Data(read.split_to(length).freeze())
}

// === impl Chunk ===

impl Chunk {
    fn next(&mut self, read: &mut BytesMut) -> Result<Piece, Malformed> {
        loop {
            match self {
                Self::Size => {
                    let Some(line) = line(read, MAX_LINE_BYTES)? else { return Ok(Piece::Missing) };
                    let digits = &line[..line.iter().position(|&byte| byte == b';').unwrap_or(line.len())];
                    *self = match size(digits.trim_ascii_end())? {
                        0 => Self::Trailers { read: 0 },
                        size => Self::Data(size),
                    };
                }
                Self::Data(left) => {
                    let piece = take(read, left);
                    if *left == 0 {
                        *self = Self::DataEnd;
                    }
                    return Ok(piece);
                }
                Self::DataEnd => match read.get(..2) {
                    None => return Ok(Piece::Missing),
                    Some(b"\r\n") => {
                        read.advance(2);
                        *self = Self::Size;
                    }
                    Some(_) => return Err(Malformed("a chunk is longer than it says")),
                },
                // Trailers of REST have no meaning to anybody.
                Self::Trailers { read: seen } => {
                    let Some(line) = line(read, MAX_TRAILER_BYTES.saturating_sub(*seen))? else {
                        return Ok(Piece::Missing);
                    };
                    if line.is_empty() {
                        return Ok(Piece::End);
                    }
                    *seen += line.len() + 2;
                }
            }
        }
    }
}

/// Takes a line off `read`, without its end; `None` while that has not been read.
fn line(read: &mut BytesMut, most: usize) -> Result<Option<Bytes>, Malformed> {
    match read.windows(2).take(most).position(|pair| pair == b"\r\n") {
        Some(length) => {
            let line = read.split_to(length).freeze();
            read.advance(2);
            Ok(Some(line))
        }
        None if read.len() > most => Err(Malformed("a line of its framing has no end")),
        None => Ok(None),
    }
}

fn size(digits: &[u8]) -> Result<u64, Malformed> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_number);
    text.and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or(Malformed("a chunk has no size"))
}

#[cfg(test)]
mod tests;
