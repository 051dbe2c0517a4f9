//! What a client knows of one connection, and what follows from each frame. Nothing here does I/O.

use std::{collections::VecDeque, mem, task::Waker};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Response, StatusCode};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::{
    Broken, CONNECTION_WINDOW, MAX_HEADER_LIST_BYTES, Outgoing, STREAM_WINDOW,
    frame::{self, Head, Reason, flag, kind, setting},
    hpack::{self, Decoder, Encoder, Name},
    outbox::Outbox,
};

/// Streams that may be opened before the server has said how many.
const PRESUMED_STREAMS: usize = 100;

/// The last stream that can have a number.
const LAST_STREAM: u32 = (1 << 31) - 1;

/// With so much to be written, no more data is put into frames: streams take turns, and short requests do not wait for
/// long ones.
const MAX_FRAMED: usize = 128 << 10;

/// Data of an answer that is shorter than this is copied, so that it keeps no more memory than it needs.
const MAX_COPIED: usize = 1 << 10;

/// With so many pieces of an answer that nobody has taken, short ones are put together.
const MAX_PIECES: usize = 16;

/// A block of headers has no more bytes and no more frames than this.
const MAX_BLOCK_BYTES: usize = 2 * MAX_HEADER_LIST_BYTES;
const MAX_BLOCK_FRAMES: usize = 64;

/// Frames that have to be answered, until the answers are written.
const MAX_UNANSWERED: usize = 1024;

/// One connection.
#[derive(Debug)]
pub(super) struct Streams {
    streams: FxHashMap<u32, Stream>,
    next: u32,
    end: Option<End>,
    /// Those who wait until a stream may be opened.
    waiting: Vec<Waker>,
    /// Who drives the connection.
    driver: Option<Waker>,
    // To the server.
    pub(super) outbox: Outbox,
    encoder: Encoder,
    window: i64,
    initial_window: i64,
    max_frame: usize,
    max_streams: usize,
    /// How many streams are open.
    open: usize,
    /// Streams with data that their windows have room for, in turn.
    ready: VecDeque<u32>,
    /// How many bytes have ever been to be written.
    queued: u64,
    /// Frames since the last writing that had to be answered.
    unanswered: usize,
    // From the server.
    decoder: Decoder,
    /// Headers whose last frame has not come yet.
    block: Option<Block>,
    /// How many bytes may come, and how many more of which it was not told yet.
    credit: Credit,
    has_settings: bool,
    is_pinged: bool,
}

/// One request and its answer.
#[derive(Debug)]
struct Stream {
    // To the server.
    window: i64,
    unsent: Bytes,
    /// How far the request has got.
    sending: Sending,
    is_ready: bool,
    sender: Option<Waker>,
    /// After how many bytes of the connection its headers begin.
    begins: u64,
    // From the server.
    head: Option<Response<()>>,
    has_head: bool,
    data: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    credit: Credit,
    /// Whether all of the answer is there.
    is_answered: bool,
    broken: Option<Broken>,
    receiver: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    /// More may come.
    Open,
    /// What is unsent is the last of it.
    Ending,
    Over,
}

/// How much the other side may send.
#[derive(Clone, Copy, Debug)]
struct Credit {
    window: i64,
    /// What may be sent beyond it, as soon as it is told.
    untold: i64,
}

#[derive(Debug)]
struct Block {
    stream: u32,
    ends_stream: bool,
    bytes: Vec<u8>,
    frames: usize,
}

/// Why no more streams can be opened.
#[derive(Clone, Debug)]
enum End {
    /// The connection ends once its streams are over.
    Announced(Reason),
    Over,
}

/// Something that no server may do; the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) reason: Reason,
    pub(super) what: &'static str,
}

/// The next of an answer's body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
}

/// Why a stream cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unopened {
    /// As many as the server allows are open.
    Full,
    /// The connection takes no more.
    Over,
}

// === impl Streams ===

impl Streams {
    pub(super) fn new() -> Self {
        let mut streams = Self {
            streams: FxHashMap::default(),
            next: 1,
            end: None,
            waiting: Vec::new(),
            driver: None,
            outbox: Outbox::default(),
            encoder: Encoder::new(),
            window: i64::from(frame::INITIAL_WINDOW),
            initial_window: i64::from(frame::INITIAL_WINDOW),
            max_frame: frame::MAX_FRAME_BYTES,
            max_streams: PRESUMED_STREAMS,
            open: 0,
            ready: VecDeque::new(),
            queued: 0,
            unanswered: 0,
            decoder: Decoder::new(),
            block: None,
            credit: Credit { window: i64::from(CONNECTION_WINDOW), untold: 0 },
            has_settings: false,
            is_pinged: false,
        };
        let small = streams.outbox.small();
        small.extend_from_slice(frame::PREFACE);
        let settings = [
            (setting::ENABLE_PUSH, 0),
            (setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (setting::MAX_HEADER_LIST_SIZE, MAX_HEADER_LIST_BYTES as u32),
        ];
        write_head(small, 6 * settings.len(), kind::SETTINGS, 0, 0);
        for (id, value) in settings {
            small.extend_from_slice(&id.to_be_bytes());
            small.extend_from_slice(&value.to_be_bytes());
        }
        write_u32_frame(small, kind::WINDOW_UPDATE, 0, CONNECTION_WINDOW - frame::INITIAL_WINDOW);
        streams.queued = small.len() as u64;
        streams
    }

    /// Who is to be woken when there is something to write.
    pub(super) fn set_driver(&mut self, waker: &Waker) {
        set(&mut self.driver, waker);
    }

    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// Whether there is nothing left to do.
    pub(super) fn is_done(&self) -> bool {
        match self.end {
            None => false,
            Some(End::Announced(_)) => self.open == 0 && self.outbox.len() == 0,
            Some(End::Over) => true,
        }
    }

    /// Whether a stream can be opened.
    pub(super) fn room(&self) -> Result<(), Unopened> {
        match () {
            () if self.end.is_some() || self.next > LAST_STREAM => Err(Unopened::Over),
            () if self.open >= self.max_streams => Err(Unopened::Full),
            () => Ok(()),
        }
    }

    pub(super) fn wait_for_room(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|waiting| waiting.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }

    fn wake_waiting(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }

    // === to the server ===

    /// Opens a stream for a request; `body` is all of its body, or `None` where that is still to come.
    pub(super) fn open(&mut self, request: Outgoing<'_>, body: &mut Option<Bytes>) -> Result<u32, Unopened> {
        self.room()?;
        let body = body.take();
        let id = self.next;
        self.next += 2;
        self.open += 1;
        let begins = self.queued;
        let is_bodiless = body.as_ref().is_some_and(Bytes::is_empty);
        let before = self.outbox.len();
        self.write_headers(id, request, is_bodiless);
        let sending = match (&body, is_bodiless) {
            (None, _) => Sending::Open,
            (Some(_), true) => Sending::Over,
            (Some(_), false) => Sending::Ending,
        };
        let mut stream = Stream {
            window: self.initial_window,
            unsent: body.unwrap_or_default(),
            sending,
            is_ready: false,
            sender: None,
            begins,
            head: None,
            has_head: false,
            data: VecDeque::new(),
            trailers: None,
            credit: Credit { window: i64::from(STREAM_WINDOW), untold: 0 },
            is_answered: false,
            broken: None,
            receiver: None,
        };
        // Nearly all bodies go out with their heads.
        if sending == Sending::Ending && self.ready.is_empty() {
            let most = self.max_frame.min(stream.room(self.window));
            if stream.unsent.len() <= most {
                self.window -= stream.unsent.len() as i64;
                stream.write_data(id, most, &mut self.outbox);
            }
        }
        self.queued += (self.outbox.len() - before) as u64;
        let has_more = !stream.unsent.is_empty();
        self.streams.insert(id, stream);
        if has_more {
            self.make_ready(id);
        }
        self.wake_driver();
        Ok(id)
    }

    fn write_headers(&mut self, id: u32, request: Outgoing<'_>, ends_stream: bool) {
        let flags = if ends_stream { flag::END_STREAM } else { 0 };
        let small = self.outbox.small();
        let start = small.len();
        small.extend_from_slice(&[0; frame::HEAD_BYTES]);
        request.encode(&mut self.encoder, small);
        let length = small.len() - start - frame::HEAD_BYTES;
        if length <= self.max_frame {
            let head = Head { length, kind: kind::HEADERS, flags: flags | flag::END_HEADERS, stream: id };
            small[start..start + frame::HEAD_BYTES].copy_from_slice(&head.bytes());
            return;
        }
        let block = small.split_off(start + frame::HEAD_BYTES);
        small.truncate(start);
        let count = block.len().div_ceil(self.max_frame);
        for (at, piece) in block.chunks(self.max_frame).enumerate() {
            let (kind, flags) = if at == 0 { (kind::HEADERS, flags) } else { (kind::CONTINUATION, 0) };
            let end = if at + 1 == count { flag::END_HEADERS } else { 0 };
            write_head(small, piece.len(), kind, flags | end, id);
            small.extend_from_slice(piece);
        }
    }

    /// Takes more of a request's body; `None` as long as what was given before is not on its way.
    pub(super) fn send(&mut self, id: u32, data: &mut Bytes, waker: &Waker) -> Option<Sent> {
        match self.streams.get_mut(&id) {
            Some(stream) if stream.sending == Sending::Open && stream.broken.is_none() => {
                if !stream.unsent.is_empty() {
                    set(&mut stream.sender, waker);
                    return None;
                }
                stream.unsent = mem::take(data);
                self.make_ready(id);
                Some(Sent::Taken)
            }
            _ => Some(Sent::Nowhere),
        }
    }

    /// Ends a request.
    pub(super) fn finish(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.sending == Sending::Open {
            stream.sending = Sending::Ending;
            if stream.unsent.is_empty() {
                let small = self.outbox.small();
                write_head(small, 0, kind::DATA, flag::END_STREAM, id);
                self.queued += frame::HEAD_BYTES as u64;
                stream.sending = Sending::Over;
                self.close_if_over(id);
            }
            self.wake_driver();
        }
    }

    fn make_ready(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.is_ready && stream.window > 0 && !stream.unsent.is_empty() {
            stream.is_ready = true;
            self.ready.push_back(id);
            self.wake_driver();
        }
    }

    /// Puts data into frames, as far as there is room for it.
    pub(super) fn fill(&mut self) {
        self.unanswered = 0;
        while self.window > 0
            && self.outbox.len() < MAX_FRAMED
            && let Some(id) = self.ready.pop_front()
        {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.is_ready = false;
            let most = self.max_frame.min(stream.room(self.window));
            if most == 0 || stream.unsent.is_empty() {
                continue;
            }
            let before = self.outbox.len();
            self.window -= most.min(stream.unsent.len()) as i64;
            stream.write_data(id, most, &mut self.outbox);
            self.queued += (self.outbox.len() - before) as u64;
            if stream.unsent.is_empty() {
                if let Some(sender) = stream.sender.take() {
                    sender.wake();
                }
                self.close_if_over(id);
            } else if stream.window > 0 {
                stream.is_ready = true;
                self.ready.push_back(id);
            }
        }
    }

    /// Whether there is data that only waits to be written.
    pub(super) fn has_more(&self) -> bool {
        self.window > 0 && !self.ready.is_empty()
    }

    /// Asks whether the server is there.
    pub(super) fn ping(&mut self) {
        self.is_pinged = true;
        self.write_short(kind::PING, 0, 0, &PING);
    }

    /// Whether a ping waits for its answer.
    pub(super) fn is_pinged(&self) -> bool {
        self.is_pinged
    }

    fn write_short(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let small = self.outbox.small();
        write_head(small, payload.len(), kind, flags, stream);
        small.extend_from_slice(payload);
        self.queued += (frame::HEAD_BYTES + payload.len()) as u64;
        self.wake_driver();
    }

    fn reset(&mut self, id: u32, reason: Reason) {
        self.write_short(kind::RST_STREAM, 0, id, &reason.0.to_be_bytes());
    }

    // === to whoever waits for the answer ===

    /// The head of the answer; `None` as long as it is not there.
    pub(super) fn head(&mut self, id: u32, waker: &Waker) -> Option<Result<Response<()>, Broken>> {
        let stream = self.streams.get_mut(&id)?;
        if let Some(head) = stream.head.take() {
            return Some(Ok(head));
        }
        if let Some(broken) = &stream.broken {
            return Some(Err(broken.clone()));
        }
        set(&mut stream.receiver, waker);
        None
    }

    /// The next of the answer's body; `None` as long as it is not there.
    pub(super) fn next(&mut self, id: u32, waker: &Waker) -> Option<Result<Next, Broken>> {
        let stream = self.streams.get_mut(&id)?;
        if let Some(data) = stream.data.pop_front() {
            let is_answered = stream.is_answered;
            // Whoever takes it has made room for as much.
            let told = stream.credit.give(data.len(), STREAM_WINDOW).filter(|_| !is_answered);
            if let Some(told) = told {
                self.write_short(kind::WINDOW_UPDATE, 0, id, &told.to_be_bytes());
            }
            self.give(data.len());
            return Some(Ok(Next::Data(data)));
        }
        if let Some(trailers) = stream.trailers.take() {
            return Some(Ok(Next::Trailers(trailers)));
        }
        if stream.is_answered {
            return Some(Ok(Next::End));
        }
        if let Some(broken) = &stream.broken {
            return Some(Err(broken.clone()));
        }
        set(&mut stream.receiver, waker);
        None
    }

    /// Whether all of the answer was taken.
    pub(super) fn is_over(&self, id: u32) -> bool {
        self.streams.get(&id).is_some_and(|stream| {
            stream.is_answered && stream.head.is_none() && stream.data.is_empty() && stream.trailers.is_none()
        })
    }

    /// Nobody waits for the answer any more.
    pub(super) fn forget(&mut self, id: u32) {
        let Some(stream) = self.streams.remove(&id) else { return };
        let unread = stream.data.iter().map(Bytes::len).sum();
        if !stream.is_closed() {
            self.closed();
            if !matches!(self.end, Some(End::Over)) {
                self.reset(id, Reason::CANCEL);
            }
        }
        self.give(unread);
    }

    /// A stream is over, which makes room for another.
    fn closed(&mut self) {
        self.open -= 1;
        self.wake_waiting();
        if self.open == 0 && self.end.is_some() {
            self.wake_driver();
        }
    }

    fn close_if_over(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(Stream::is_closed) {
            self.closed();
        }
    }

    /// The server may send so much more on the connection.
    fn give(&mut self, length: usize) {
        if let Some(told) = self.credit.give(length, CONNECTION_WINDOW) {
            self.write_short(kind::WINDOW_UPDATE, 0, 0, &told.to_be_bytes());
        }
    }

    // === from the server ===

    /// Takes the frames off `read` that are there as a whole.
    pub(super) fn receive(&mut self, read: &mut BytesMut) -> Result<(), Violation> {
        while let Some(&head) = read.first_chunk::<{ frame::HEAD_BYTES }>() {
            let head = Head::read(head);
            if head.length > frame::MAX_FRAME_BYTES {
                return Err(Violation::new(Reason::FRAME_SIZE_ERROR, "a frame is longer than it may be"));
            }
            if read.len() < frame::HEAD_BYTES + head.length {
                read.reserve(frame::HEAD_BYTES + head.length - read.len());
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
        if !self.has_settings && head.kind != kind::SETTINGS {
            return Err(Violation::new(
                Reason::PROTOCOL_ERROR,
                "its first frame is no SETTINGS: it does not speak HTTP/2",
            ));
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
                self.unanswered += 1;
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
            let _ = stream.credit.give(padding, 0);
            self.give(padding);
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
        if !stream.is_closed_by_server() {
            let is_unprocessed = reason == Reason::REFUSED_STREAM;
            stream.break_off(is_unprocessed, &format!("the node reset the stream: {reason}"));
        }
        stream.stop_sending();
        stream.wake();
        if !was_closed {
            self.closed();
        }
    }

    /// A stream cannot go on, by the server's fault.
    fn offends(&mut self, id: u32, reason: Reason, what: &'static str) {
        self.reset(id, reason);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let was_closed = stream.is_closed();
        stream.break_off(false, &format!("the answer of the node makes no sense: {what}"));
        stream.stop_sending();
        stream.wake();
        if !was_closed {
            self.closed();
        }
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
            if more == 0 || self.window > frame::MAX_WINDOW {
                return Err(TOO_WIDE);
            }
            if self.has_more() {
                self.wake_driver();
            }
            return Ok(());
        }
        self.must_be_known(id)?;
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        stream.window += more;
        if more == 0 || stream.window > frame::MAX_WINDOW {
            self.offends(id, Reason::FLOW_CONTROL_ERROR, "its window is wider than one can be");
            return Ok(());
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
            if !stream.is_closed_by_server() {
                stream.break_off(true, &format!("the node ends the connection: {reason}"));
            }
            stream.stop_sending();
            stream.wake();
            closed += 1;
        }
        self.open -= closed;
    }

    /// The connection is over; `written` is how many bytes have left.
    pub(super) fn fail(&mut self, written: u64, reason: &str) {
        if matches!(self.end, Some(End::Over)) {
            return;
        }
        self.end = Some(End::Over);
        for stream in self.streams.values_mut().filter(|stream| !stream.is_closed()) {
            if !stream.is_closed_by_server() {
                // Of a request that had not begun to leave nobody has seen anything.
                stream.break_off(stream.begins >= written, reason);
            }
            stream.stop_sending();
            stream.wake();
        }
        self.open = 0;
        self.ready.clear();
        self.wake_waiting();
        self.wake_driver();
    }

    /// No more streams are opened.
    pub(super) fn leave(&mut self) {
        if self.end.is_none() {
            self.end = Some(End::Announced(Reason::NO_ERROR));
            self.say_goodbye(Reason::NO_ERROR);
        }
        self.wake_driver();
    }

    /// Why the connection is over, which the server may have told before.
    pub(super) fn ending(&self, reason: &str) -> String {
        match &self.end {
            Some(End::Announced(announced)) if *announced != Reason::NO_ERROR => {
                format!("the node has ended the connection: {announced}")
            }
            _ => reason.to_owned(),
        }
    }

    /// Tells the server why the connection ends.
    pub(super) fn say_goodbye(&mut self, reason: Reason) {
        let mut payload = [0; 8];
        payload[4..].copy_from_slice(&reason.0.to_be_bytes());
        self.write_short(kind::GOAWAY, 0, 0, &payload);
    }
}

/// What became of a piece of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Taken,
    /// Nobody takes it; the answer tells why.
    Nowhere,
}

const PING: [u8; 8] = *b"routing?";

const WRONG_SIZE: Violation =
    Violation::new(Reason::FRAME_SIZE_ERROR, "a frame has not the form of its kind");
const TOO_WIDE: Violation = Violation::new(Reason::FLOW_CONTROL_ERROR, "a window is wider than one can be");

fn write_head(small: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    small.extend_from_slice(&Head { length, kind, flags, stream }.bytes());
}

fn write_u32_frame(small: &mut Vec<u8>, kind: u8, stream: u32, value: u32) {
    write_head(small, 4, kind, 0, stream);
    small.extend_from_slice(&value.to_be_bytes());
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

fn set(slot: &mut Option<Waker>, waker: &Waker) {
    if !slot.as_ref().is_some_and(|old| old.will_wake(waker)) {
        *slot = Some(waker.clone());
    }
}

// === impl Violation ===

impl Violation {
    const fn new(reason: Reason, what: &'static str) -> Self {
        Self { reason, what }
    }
}

// === impl Stream ===

impl Stream {
    /// How much of the body may be sent now.
    fn room(&self, connection: i64) -> usize {
        usize::try_from(self.window.min(connection)).unwrap_or_default()
    }

    /// Puts `most` bytes of the body into a frame.
    fn write_data(&mut self, id: u32, most: usize, outbox: &mut Outbox) {
        let data = self.unsent.split_to(most.min(self.unsent.len()));
        self.window -= data.len() as i64;
        let is_last = self.unsent.is_empty() && self.sending == Sending::Ending;
        if is_last {
            self.sending = Sending::Over;
        }
        let flags = if is_last { flag::END_STREAM } else { 0 };
        write_head(outbox.small(), data.len(), kind::DATA, flags, id);
        outbox.push(data);
    }

    /// No more of the answer comes. A node that has begun to answer has looked at the request.
    fn break_off(&mut self, is_unprocessed: bool, reason: &str) {
        self.broken =
            Some(Broken { is_unprocessed: is_unprocessed && !self.has_head, reason: reason.into() });
    }

    fn stop_sending(&mut self) {
        self.sending = Sending::Over;
        self.unsent = Bytes::new();
    }

    /// Keeps a copy of `data`. Of many short pieces some are put together, so that what keeps them costs no more than
    /// they do.
    fn take_short(&mut self, data: &[u8]) {
        let is_many = self.data.len() >= MAX_PIECES;
        match self.data.back_mut().filter(|last| is_many && last.len() + data.len() <= MAX_COPIED) {
            Some(last) => *last = [last, data].concat().into(),
            None if data.is_empty() => {}
            None => self.data.push_back(Bytes::copy_from_slice(data)),
        }
    }

    /// Whether nothing more comes from the server.
    fn is_closed_by_server(&self) -> bool {
        self.is_answered || self.broken.is_some()
    }

    fn is_closed(&self) -> bool {
        self.is_closed_by_server() && self.sending == Sending::Over
    }

    fn wake(&mut self) {
        for waker in [self.receiver.take(), self.sender.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

// === impl Credit ===

impl Credit {
    /// Whether so much may come.
    fn take(&mut self, length: usize) -> bool {
        self.window -= length as i64;
        self.window >= 0
    }

    /// So much has been taken away; the other side is told once that is half of `whole`.
    fn give(&mut self, length: usize, whole: u32) -> Option<u32> {
        self.untold += length as i64;
        if whole == 0 || self.untold < i64::from(whole / 2) {
            return None;
        }
        self.window += self.untold;
        u32::try_from(mem::take(&mut self.untold)).ok()
    }
}
