//! What follows from each frame that the server sends.

use std::mem;

use bytes::{Buf, BytesMut};
use http::{HeaderMap, Response, StatusCode};
use smallvec::SmallVec;

use super::{
    super::{
        MAX_HEADER_LIST_BYTES,
        frame::{self, Head, Reason, flag, kind, setting},
        hpack::{self, Name},
    },
    Block, End, LAST_STREAM, MAX_FRAMED, PING, Streams,
    stream::{MAX_COPIED, Stream},
};

/// A block of headers has no more bytes and no more frames than this.
const MAX_BLOCK_BYTES: usize = 2 * MAX_HEADER_LIST_BYTES;
const MAX_BLOCK_FRAMES: usize = 64;

/// Frames that have to be answered, until the answers are written.
const MAX_UNANSWERED: usize = 1024;

/// Something that no server may do; the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Violation {
    pub(in super::super) reason: Reason,
    pub(in super::super) what: &'static str,
}

const WRONG_SIZE: Violation =
    Violation::new(Reason::FRAME_SIZE_ERROR, "a frame has not the form of its kind");
const TOO_WIDE: Violation = Violation::new(Reason::FLOW_CONTROL_ERROR, "a window is wider than one can be");

// === impl Streams ===

impl Streams {
    /// Takes the frames off `read` that are there as a whole.
    pub(in super::super) fn receive(&mut self, read: &mut BytesMut) -> Result<(), Violation> {
        while let Some(&head) = read.first_chunk::<{ frame::HEAD_BYTES }>() {
            let head = Head::read(head);
            if !self.has_settings && head.kind != kind::SETTINGS {
                return Err(Violation::new(
                    Reason::PROTOCOL_ERROR,
                    "its first frame is no SETTINGS: it does not speak HTTP/2",
                ));
            }
            if head.length > frame::MAX_FRAME_BYTES {
                return Err(Violation::new(Reason::FRAME_SIZE_ERROR, "a frame is longer than it may be"));
            }
            if read.len() < frame::HEAD_BYTES + head.length {
                break;
            }
            read.advance(frame::HEAD_BYTES);
            self.receive_frame(head, read)?;
            if self.unanswered > MAX_UNANSWERED {
                return Err(Violation::new(Reason::ENHANCE_YOUR_CALM, "it floods the connection"));
            }
        }
        Ok(())
    }

    /// Takes the payload of `head` off `read`.
    fn receive_frame(&mut self, head: Head, read: &mut BytesMut) -> Result<(), Violation> {
        if self.block.is_some() && head.kind != kind::CONTINUATION {
            return Err(Violation::new(Reason::PROTOCOL_ERROR, "headers are interrupted"));
        }
        if head.kind == kind::DATA {
            return self.receive_data(head, read);
        }
        let outcome = self.receive_short(head, &read[..head.length]);
        read.advance(head.length);
        outcome
    }

    fn receive_short(&mut self, head: Head, payload: &[u8]) -> Result<(), Violation> {
        match head.kind {
            kind::HEADERS => {
                let mut block = unpadded(head, payload)?;
                if head.has(flag::PRIORITY) {
                    block = block.get(5..).ok_or(WRONG_SIZE)?;
                }
                let ends_stream = head.has(flag::END_STREAM);
                if head.has(flag::END_HEADERS) {
                    return self.receive_headers(head.stream, block, ends_stream);
                }
                self.block =
                    Some(Block { stream: head.stream, ends_stream, bytes: block.to_vec(), frames: 1 });
                Ok(())
            }
            kind::CONTINUATION => {
                let Some(block) = self.block.as_mut().filter(|block| block.stream == head.stream) else {
                    return Err(Violation::new(Reason::PROTOCOL_ERROR, "a CONTINUATION continues nothing"));
                };
                block.bytes.extend_from_slice(payload);
                block.frames += 1;
                if block.bytes.len() > MAX_BLOCK_BYTES || block.frames > MAX_BLOCK_FRAMES {
                    return Err(Violation::new(Reason::ENHANCE_YOUR_CALM, "headers have no end"));
                }
                if head.has(flag::END_HEADERS)
                    && let Some(block) = self.block.take()
                {
                    return self.receive_headers(block.stream, &block.bytes, block.ends_stream);
                }
                Ok(())
            }
            kind::RST_STREAM => {
                let reason = Reason(u32::from_be_bytes(payload.try_into().map_err(|_| WRONG_SIZE)?));
                self.must_be_known(head.stream)?;
                if self.streams.get(&head.stream).is_none_or(Stream::is_closed) {
                    self.unanswered += 1;
                }
                self.receive_reset(head.stream, reason);
                Ok(())
            }
            kind::SETTINGS => self.receive_settings(head, payload),
            kind::PUSH_PROMISE => {
                Err(Violation::new(Reason::PROTOCOL_ERROR, "it pushes, which it was told not to"))
            }
            kind::PING => {
                if head.stream != 0 || payload.len() != PING.len() {
                    return Err(WRONG_SIZE);
                }
                if !head.has(flag::ACK) {
                    self.unanswered += 1;
                    self.write_short(kind::PING, flag::ACK, 0, payload);
                } else if payload == PING {
                    self.is_pinged = false;
                }
                Ok(())
            }
            kind::GOAWAY => {
                let (last, rest) = payload.split_first_chunk().ok_or(WRONG_SIZE)?;
                let (reason, _) = rest.split_first_chunk().ok_or(WRONG_SIZE)?;
                self.receive_goaway(
                    u32::from_be_bytes(*last) & LAST_STREAM,
                    Reason(u32::from_be_bytes(*reason)),
                );
                Ok(())
            }
            kind::WINDOW_UPDATE => {
                let more = u32::from_be_bytes(payload.try_into().map_err(|_| WRONG_SIZE)?) & LAST_STREAM;
                self.receive_window(head.stream, i64::from(more))
            }
            // PRIORITY, and whatever else there may be, says nothing that must be known.
            _ => Ok(()),
        }
    }

    fn must_be_known(&self, id: u32) -> Result<(), Violation> {
        if id % 2 == 1 && id < self.next {
            return Ok(());
        }
        Err(Violation::new(Reason::PROTOCOL_ERROR, "a stream was not opened"))
    }

    fn receive_headers(&mut self, id: u32, block: &[u8], ends_stream: bool) -> Result<(), Violation> {
        self.must_be_known(id)?;
        let mut status = None;
        let mut headers = HeaderMap::new();
        let mut size = 0;
        let decoded = self.decoder.decode(block, |name, value| {
            size += hpack::size(name, value);
            match name {
                Name::Status => status = StatusCode::from_bytes(value.as_bytes()).ok(),
                Name::Header(name) if size <= MAX_HEADER_LIST_BYTES => {
                    headers.append(name.clone(), value.clone());
                }
                Name::Header(_) => {}
            }
        });
        decoded
            .map_err(|hpack::Garbled| Violation::new(Reason::COMPRESSION_ERROR, "headers cannot be read"))?;
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        if stream.is_closed_by_server() {
            return Ok(());
        }
        if size > MAX_HEADER_LIST_BYTES {
            self.offends(id, Reason::PROTOCOL_ERROR, "its headers are longer than 64 KiB");
            return Ok(());
        }
        match (stream.has_head, status) {
            // More is to come.
            (false, Some(status)) if status.is_informational() && !ends_stream => return Ok(()),
            (false, Some(status)) => {
                let mut head = Response::new(());
                *head.status_mut() = status;
                *head.headers_mut() = headers;
                (stream.head, stream.has_head) = (Some(head), true);
            }
            (true, None) if ends_stream => stream.trailers = Some(headers),
            (false, None) => {
                self.offends(id, Reason::PROTOCOL_ERROR, "its headers have no status");
                return Ok(());
            }
            (true, _) => {
                self.offends(id, Reason::PROTOCOL_ERROR, "it has a second head");
                return Ok(());
            }
        }
        self.proceed(id, ends_stream);
        Ok(())
    }

    fn receive_data(&mut self, head: Head, read: &mut BytesMut) -> Result<(), Violation> {
        self.must_be_known(head.stream)?;
        if !self.credit.take(head.length) {
            return Err(Violation::new(Reason::FLOW_CONTROL_ERROR, "it sends more than the connection may"));
        }
        let stream = self.streams.get_mut(&head.stream).filter(|stream| !stream.is_closed_by_server());
        let Some(stream) = stream else {
            // A late frame of what nobody waits for.
            read.advance(head.length);
            self.give(head.length);
            return Ok(());
        };
        if !stream.credit.take(head.length) {
            return Err(Violation::new(Reason::FLOW_CONTROL_ERROR, "it sends more than a stream may"));
        }
        let (skipped, length) = {
            let data = unpadded(head, &read[..head.length])?;
            (usize::from(head.has(flag::PADDED)), data.len())
        };
        if !stream.has_head {
            read.advance(head.length);
            self.give(head.length);
            self.offends(head.stream, Reason::PROTOCOL_ERROR, "it has data before its head");
            return Ok(());
        }
        if length > MAX_COPIED {
            let mut data = read.split_to(head.length);
            data.advance(skipped);
            data.truncate(length);
            stream.data.push_back(data.freeze());
        } else {
            stream.take_short(&read[skipped..skipped + length]);
            read.advance(head.length);
        }
        let padding = head.length - length;
        if padding > 0 {
            self.give_back(head.stream, padding);
        }
        self.proceed(head.stream, head.has(flag::END_STREAM));
        Ok(())
    }

    /// Something of an answer has come.
    fn proceed(&mut self, id: u32, ends_stream: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.is_answered |= ends_stream;
        if let Some(receiver) = stream.receiver.take() {
            receiver.wake();
        }
        if ends_stream {
            self.close_if_over(id);
        }
    }

    fn receive_reset(&mut self, id: u32, reason: Reason) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let was_closed = stream.is_closed();
        // After an answer that is complete it says that the rest of the request is not wanted.
        let is_unprocessed = reason == Reason::REFUSED_STREAM;
        stream.break_off(is_unprocessed, &format!("the node reset the stream: {reason}"));
        if !was_closed {
            self.closed();
        }
    }

    /// A stream cannot go on, by the server's fault.
    fn offends(&mut self, id: u32, reason: Reason, what: &'static str) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_closed()) else { return };
        stream.break_off(false, &format!("the answer of the node makes no sense: {what}"));
        self.closed();
        self.reset(id, reason);
    }

    fn receive_settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Violation> {
        if head.stream != 0 || !payload.len().is_multiple_of(6) {
            return Err(WRONG_SIZE);
        }
        if head.has(flag::ACK) {
            return Ok(());
        }
        if !mem::replace(&mut self.has_settings, true) {
            self.max_streams = usize::MAX;
        }
        for setting in payload.chunks_exact(6) {
            let id = u16::from_be_bytes([setting[0], setting[1]]);
            let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
            match id {
                setting::HEADER_TABLE_SIZE => self.encoder.set_limit(value as usize),
                setting::MAX_CONCURRENT_STREAMS => self.max_streams = value as usize,
                setting::INITIAL_WINDOW_SIZE => self.set_initial_window(i64::from(value))?,
                setting::MAX_FRAME_SIZE if (1 << 14..1 << 24).contains(&value) => {
                    // Larger ones would only keep others waiting.
                    self.max_frame = (value as usize).min(MAX_FRAMED / 2);
                }
                setting::MAX_FRAME_SIZE => {
                    return Err(Violation::new(
                        Reason::PROTOCOL_ERROR,
                        "it wants frames of a size that cannot be",
                    ));
                }
                _ => {}
            }
        }
        self.unanswered += 1;
        self.write_short(kind::SETTINGS, flag::ACK, 0, &[]);
        self.wake_waiting();
        Ok(())
    }

    fn set_initial_window(&mut self, window: i64) -> Result<(), Violation> {
        let change = window - mem::replace(&mut self.initial_window, window);
        let mut is_too_wide = window > frame::MAX_WINDOW;
        for stream in self.streams.values_mut() {
            stream.window += change;
            is_too_wide |= stream.window > frame::MAX_WINDOW;
        }
        if is_too_wide {
            return Err(TOO_WIDE);
        }
        let grown: SmallVec<[u32; 16]> = self.streams.keys().copied().collect();
        grown.into_iter().for_each(|id| self.make_ready(id));
        Ok(())
    }

    fn receive_window(&mut self, id: u32, more: i64) -> Result<(), Violation> {
        if id == 0 {
            self.window += more;
            if more == 0 {
                return Err(Violation::new(Reason::PROTOCOL_ERROR, "a window grows by nothing"));
            }
            if self.window > frame::MAX_WINDOW {
                return Err(TOO_WIDE);
            }
            if self.has_more() {
                self.wake_driver();
            }
            return Ok(());
        }
        self.must_be_known(id)?;
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_closed()) else {
            return Ok(());
        };
        stream.window += more;
        if more == 0 {
            self.offends(id, Reason::PROTOCOL_ERROR, "its window grows by nothing");
        } else if stream.window > frame::MAX_WINDOW {
            self.offends(id, Reason::FLOW_CONTROL_ERROR, "its window is wider than one can be");
        } else {
            self.make_ready(id);
        }
        Ok(())
    }

    /// The server takes no more streams, and none after `last` has been looked at.
    fn receive_goaway(&mut self, last: u32, reason: Reason) {
        if !matches!(self.end, Some(End::Over)) {
            self.end = Some(End::Announced(reason));
        }
        self.wake_waiting();
        self.wake_driver();
        let mut closed = 0;
        for (_, stream) in self.streams.iter_mut().filter(|(id, _)| **id > last) {
            if stream.is_closed() {
                continue;
            }
            stream.break_off(true, &format!("the node ends the connection: {reason}"));
            closed += 1;
        }
        self.open -= closed;
    }
}

/// The payload of `head` without what pads it.
fn unpadded(head: Head, payload: &[u8]) -> Result<&[u8], Violation> {
    if !head.has(flag::PADDED) {
        return Ok(payload);
    }
    let (&padding, rest) = payload.split_first().ok_or(WRONG_SIZE)?;
    let length = rest.len().checked_sub(usize::from(padding));
    length
        .map(|length| &rest[..length])
        .ok_or(Violation::new(Reason::PROTOCOL_ERROR, "a frame has more padding than bytes"))
}

// === impl Violation ===

impl Violation {
    const fn new(reason: Reason, what: &'static str) -> Self {
        Self { reason, what }
    }
}
