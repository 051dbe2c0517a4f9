//! What follows from each frame that the other side sends.

use std::mem;

use bytes::{Buf, BytesMut};
use smallvec::SmallVec;

use super::{Block, End, LAST_STREAM, MAX_FRAMED, PING, Side, Streams, fields::Fields, stream::MAX_COPIED};
use crate::frame::{self, Head, Reason, flag, kind, setting};

/// A block of headers has no more frames than this.
const MAX_BLOCK_FRAMES: usize = 64;

/// Frames that have to be answered, until the answers are written.
const MAX_UNANSWERED: usize = 1024;

/// Something that the other side may not do; the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) reason: Reason,
    pub(crate) what: &'static str,
}

const WRONG_SIZE: Violation =
    Violation::new(Reason::FRAME_SIZE_ERROR, "a frame has not the form of its kind");
pub(super) const GARBLED: Violation = Violation::new(Reason::COMPRESSION_ERROR, "headers cannot be read");
const TOO_WIDE: Violation = Violation::new(Reason::FLOW_CONTROL_ERROR, "a window is wider than one can be");

// === impl Streams ===

impl Streams {
    /// Takes the frames off `read` that are there as a whole.
    pub(crate) fn receive(&mut self, read: &mut BytesMut) -> Result<(), Violation> {
        if !self.receive_preface(read)? {
            return Ok(());
        }
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
                if block.bytes.len() > 2 * self.limits.header_list_bytes as usize
                    || block.frames > MAX_BLOCK_FRAMES
                {
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
                if self.streams.get(&head.stream).is_none_or(|stream| stream.is_closed()) {
                    self.unanswered += 1;
                }
                self.receive_reset(head.stream, reason)
            }
            kind::SETTINGS => self.receive_settings(head, payload),
            kind::PUSH_PROMISE => Err(Violation::new(Reason::PROTOCOL_ERROR, "it pushes, which it may not")),
            kind::PING => {
                if head.stream != 0 || payload.len() != PING.len() {
                    return Err(WRONG_SIZE);
                }
                if !head.has(flag::ACK) {
                    self.unanswered += 1;
                    self.write_short(kind::PING, flag::ACK, 0, payload);
                } else if payload == PING {
                    self.is_pinged = false;
                } else {
                    self.receive_pong(payload);
                }
                Ok(())
            }
            kind::GOAWAY => {
                let (last, rest) = payload.split_first_chunk().ok_or(WRONG_SIZE)?;
                let (reason, _) = rest.split_first_chunk().ok_or(WRONG_SIZE)?;
                let last = u32::from_be_bytes(*last) & LAST_STREAM;
                let reason = Reason(u32::from_be_bytes(*reason));
                match self.side {
                    Side::Client(_) => self.receive_goaway(last, reason),
                    Side::Server(_) => self.receive_farewell(reason),
                }
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
        let is_opened = match &self.side {
            Side::Client(opening) => id < opening.next,
            Side::Server(accepting) => id <= accepting.last,
        };
        if id % 2 == 1 && is_opened {
            return Ok(());
        }
        Err(Violation::new(Reason::PROTOCOL_ERROR, "a stream was not opened"))
    }

    fn receive_headers(&mut self, id: u32, block: &[u8], ends_stream: bool) -> Result<(), Violation> {
        let mut fields = Fields::default();
        self.decode(block, &mut fields)?;
        match self.side {
            Side::Client(_) => self.receive_answer(id, &mut fields, ends_stream),
            Side::Server(_) => self.receive_request(id, &mut fields, ends_stream),
        }
    }

    /// Takes the head of an answer, or its trailers.
    fn receive_answer(&mut self, id: u32, fields: &mut Fields, ends_stream: bool) -> Result<(), Violation> {
        self.must_be_known(id)?;
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_closed_by_other()) else {
            return Ok(());
        };
        if fields.is_too_long {
            return self.offends(id, Reason::PROTOCOL_ERROR, "its headers are longer than was allowed");
        }
        if !fields.are_of_answer() {
            return self.offends(id, Reason::PROTOCOL_ERROR, "its headers are not those of an answer");
        }
        match (stream.has_head, fields.status()) {
            // More is to come.
            (false, Some(status)) if status.is_informational() && !ends_stream => return Ok(()),
            (false, Some(status)) => {
                (stream.head, stream.has_head) = (Some(fields.response(status)), true);
            }
            (true, None) if ends_stream => stream.trailers = Some(mem::take(&mut fields.headers)),
            (false, None) => {
                return self.offends(id, Reason::PROTOCOL_ERROR, "its headers have no status");
            }
            (true, _) => return self.offends(id, Reason::PROTOCOL_ERROR, "it has a second head"),
        }
        self.proceed(id, ends_stream);
        Ok(())
    }

    fn receive_data(&mut self, head: Head, read: &mut BytesMut) -> Result<(), Violation> {
        self.must_be_known(head.stream)?;
        if !self.credit.take(head.length) {
            return Err(Violation::new(Reason::FLOW_CONTROL_ERROR, "it sends more than the connection may"));
        }
        let mut stream = self.streams.get_mut(&head.stream);
        if stream.as_ref().is_some_and(|stream| stream.is_complete) {
            return Err(Violation::new(Reason::STREAM_CLOSED, "it sends more after an end"));
        }
        stream = stream.filter(|stream| stream.broken.is_none());
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
        let ends_stream = head.has(flag::END_STREAM);
        let wrong = match stream.left.map(|left| left.checked_sub(length as u64)) {
            _ if !stream.has_head => Some("it has data before its head"),
            Some(None) => Some("its body is longer than it says"),
            Some(Some(1..)) if ends_stream => Some("its body is shorter than it says"),
            Some(left @ Some(_)) => {
                stream.left = left;
                None
            }
            None => None,
        };
        if let Some(what) = wrong {
            read.advance(head.length);
            self.give(head.length);
            return self.offends(head.stream, Reason::PROTOCOL_ERROR, what);
        }
        if stream.is_unwanted {
            // There is room for others, and none for more of it.
            read.advance(head.length);
            self.give(length);
        } else if length > MAX_COPIED {
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
        if length == 0 && !ends_stream {
            return self.offence();
        }
        self.proceed(head.stream, ends_stream);
        Ok(())
    }

    /// Something of a message has come.
    pub(super) fn proceed(&mut self, id: u32, ends_stream: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.is_complete |= ends_stream;
        if let Some(receiver) = stream.receiver.take() {
            receiver.wake();
        }
        if ends_stream {
            self.close_if_over(id);
        }
    }

    fn receive_reset(&mut self, id: u32, reason: Reason) -> Result<(), Violation> {
        let other = self.other();
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_closed()) else {
            return Ok(());
        };
        let what = format!("the {other} reset the stream: {reason}");
        // After an answer that is complete it says that the rest of the request is not wanted.
        stream.break_off(reason == Reason::REFUSED_STREAM, &what);
        self.conclude(id);
        self.give_up(id)
    }

    /// A stream cannot go on, by the other side's fault.
    pub(super) fn offends(&mut self, id: u32, reason: Reason, what: &'static str) -> Result<(), Violation> {
        let message = match self.side {
            Side::Client(_) => "the answer of the node",
            Side::Server(_) => "the request of the client",
        };
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_closed()) else {
            return Ok(());
        };
        stream.break_off(false, &format!("{message} makes no sense: {what}"));
        self.reset(id, reason);
        self.conclude(id);
        self.offence()
    }

    fn receive_settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Violation> {
        if head.stream != 0 || !payload.len().is_multiple_of(6) {
            return Err(WRONG_SIZE);
        }
        if head.has(flag::ACK) {
            return if payload.is_empty() && self.has_settings { Ok(()) } else { Err(WRONG_SIZE) };
        }
        self.end_presumption();
        let mut window = self.initial_window;
        for setting in payload.chunks_exact(6) {
            let id = u16::from_be_bytes([setting[0], setting[1]]);
            let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
            match id {
                setting::HEADER_TABLE_SIZE => self.encoder.set_limit(value as usize),
                setting::MAX_CONCURRENT_STREAMS => {
                    if let Side::Client(opening) = &mut self.side {
                        opening.most = value as usize;
                    }
                }
                setting::INITIAL_WINDOW_SIZE if i64::from(value) > frame::MAX_WINDOW => return Err(TOO_WIDE),
                setting::INITIAL_WINDOW_SIZE => window = i64::from(value),
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
        self.set_initial_window(window)?;
        self.unanswered += 1;
        self.write_short(kind::SETTINGS, flag::ACK, 0, &[]);
        self.wake_waiting();
        Ok(())
    }

    fn set_initial_window(&mut self, window: i64) -> Result<(), Violation> {
        let change = window - mem::replace(&mut self.initial_window, window);
        if change == 0 {
            return Ok(());
        }
        let mut waiting = SmallVec::<[u32; 16]>::new();
        for (id, stream) in &mut self.streams {
            stream.window += change;
            if stream.window > frame::MAX_WINDOW {
                return Err(TOO_WIDE);
            }
            if !stream.unsent.is_empty() {
                waiting.push(*id);
            }
        }
        waiting.into_iter().for_each(|id| self.make_ready(id));
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
            return self.offends(id, Reason::PROTOCOL_ERROR, "its window grows by nothing");
        }
        if stream.window > frame::MAX_WINDOW {
            return self.offends(id, Reason::FLOW_CONTROL_ERROR, "its window is wider than one can be");
        }
        self.make_ready(id);
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
    pub(super) const fn new(reason: Reason, what: &'static str) -> Self {
        Self { reason, what }
    }
}
