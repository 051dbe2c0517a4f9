//! The heads of plain requests, and of the answers to them.

use std::{mem::MaybeUninit, ops::Range};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header, response};
use http_body_util::Full;
use qdrant_router_http2 as http2;
use smallvec::SmallVec;

use super::super::{MAX_HEADERS, date};

/// A longer head is not plain.
const MAX_HEAD_BYTES: usize = 8 << 10;

/// Nor is a longer body.
const MAX_BODY_BYTES: usize = 64 << 10;

/// The end of a body that comes in chunks.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What there is at the beginning of what was read.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a request is what is nearly always there")]
pub(super) enum Found {
    /// A request, taken off with its body.
    Request(Request<Full<Bytes>>),
    /// Not even the whole head of a request.
    PartOfHead,
    /// The head of a plain request, which is so long as a `whole`.
    PartOfBody { whole: usize },
    /// Anything else, left as it is.
    Other,
}

/// How the end of an answer's body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is no body, and no word of it.
    Nothing,
    Length(u64),
    Chunks,
}

/// Names of headers, and where their values lie.
type Lines = SmallVec<[(HeaderName, Range<usize>); 16]>;

// === the request ===

/// Takes a plain request off `read`.
pub(super) fn find(read: &mut BytesMut) -> Found {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    let head_length = match parsed.parse_with_uninit_headers(read, &mut headers) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD_BYTES => length,
        Ok(httparse::Status::Partial) if read.len() < MAX_HEAD_BYTES => {
            return Found::PartOfHead;
        }
        Ok(_) | Err(_) => return Found::Other,
    };
    let (Some(method), Some(target)) = (parsed.method.and_then(method), parsed.path) else {
        return Found::Other;
    };
    if parsed.version != Some(1) || !target.starts_with('/') {
        return Found::Other;
    }
    // Where all of it lies, so that the bytes can be shared by what is made of it.
    let start = read.as_ptr() as usize;
    let place = |bytes: &[u8]| {
        let at = bytes.as_ptr() as usize - start;
        at..at + bytes.len()
    };
    let target = place(target.as_bytes());
    let mut lines = Lines::new();
    let mut body_length = None;
    for line in &*parsed.headers {
        let Ok(name) = HeaderName::from_bytes(line.name.as_bytes()) else { return Found::Other };
        match name {
            header::CONTENT_LENGTH => {
                let length = http2::length(line.value).and_then(|length| usize::try_from(length).ok());
                let length = length.filter(|&length| length <= MAX_BODY_BYTES);
                if length.is_none() || body_length.is_some() {
                    return Found::Other;
                }
                body_length = length;
            }
            header::CONNECTION if line.value.eq_ignore_ascii_case(b"keep-alive") => {}
            header::CONNECTION | header::EXPECT | header::TRANSFER_ENCODING | header::UPGRADE => {
                return Found::Other;
            }
            _ => {}
        }
        lines.push((name, place(line.value)));
    }
    let whole = head_length + body_length.unwrap_or(0);
    if read.len() < whole {
        return Found::PartOfBody { whole };
    }
    // A short copy, so that what is read next goes where this was.
    let head = Bytes::copy_from_slice(&read[..head_length]);
    let Some(mut request) = request(&head, method, target, lines) else { return Found::Other };
    read.advance(head_length);
    *request.body_mut() = Full::new(read.split_to(whole - head_length).freeze());
    Found::Request(request)
}

/// The method, where it is one of Qdrant's routes.
fn method(name: &str) -> Option<Method> {
    Some(match name {
        "GET" => Method::GET,
        "POST" => Method::POST,
        "PUT" => Method::PUT,
        "PATCH" => Method::PATCH,
        "DELETE" => Method::DELETE,
        _ => return None,
    })
}

/// The request without its body; `None` where it has a target or a value that none can have.
fn request(head: &Bytes, method: Method, target: Range<usize>, lines: Lines) -> Option<Request<Full<Bytes>>> {
    let mut request = Request::new(Full::default());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_maybe_shared(head.slice(target)).ok()?;
    let mut headers = HeaderMap::with_capacity(lines.len());
    for (name, value) in lines {
        headers.append(name, HeaderValue::from_maybe_shared(head.slice(value)).ok()?);
    }
    *request.headers_mut() = headers;
    Some(request)
}

// === the answer ===

impl Framing {
    /// Of an answer with this status, whose body has this length, where that is known.
    pub(super) fn of(status: StatusCode, length: Option<u64>) -> Self {
        match (status, length) {
            (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED, _) => Self::Nothing,
            (_, Some(length)) => Self::Length(length),
            (_, None) => Self::Chunks,
        }
    }

    /// Writes what goes before so many bytes of the body. An empty chunk would be the last.
    pub(super) fn begin(self, out: &mut Vec<u8>, length: usize) {
        if self == Self::Chunks && length > 0 {
            out.extend_from_slice(format!("{length:x}\r\n").as_bytes());
        }
    }

    /// Writes what goes after them.
    pub(super) fn end(self, out: &mut Vec<u8>, length: usize) {
        if self == Self::Chunks && length > 0 {
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Writes the head of an answer.
pub(super) fn write_head(out: &mut Vec<u8>, head: &response::Parts, framing: Framing, is_last: bool) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    let mut has_date = false;
    for (name, value) in &head.headers {
        match *name {
            // It is told anew, as this connection has it.
            header::CONNECTION | header::CONTENT_LENGTH | header::TRANSFER_ENCODING => continue,
            header::DATE => has_date = true,
            _ => {}
        }
        write_line(out, name.as_str(), value.as_bytes());
    }
    match framing {
        Framing::Nothing => {}
        Framing::Length(length) => {
            write_line(out, "content-length", itoa::Buffer::new().format(length).as_bytes());
        }
        Framing::Chunks => write_line(out, "transfer-encoding", b"chunked"),
    }
    if !has_date {
        write_line(out, "date", date::now().as_bytes());
    }
    if is_last {
        write_line(out, "connection", b"close");
    }
    out.extend_from_slice(b"\r\n");
}

fn write_line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
