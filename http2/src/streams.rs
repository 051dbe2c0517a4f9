//! What one side knows of a connection. Nothing here does I/O.

use std::{collections::VecDeque, mem, task::Waker};

use bytes::Bytes;
use http::{HeaderMap, Response};
use rustc_hash::FxHashMap;

use crate::{
    frame::{self, Head, Reason, flag, kind, setting},
    hpack::{Decoder, Encoder},
    outbox::Outbox,
};

mod accepting;
mod fields;
mod opening;
mod receive;
mod stream;

pub(crate) use self::accepting::Accepted;
pub use self::opening::Unopened;
use self::{
    accepting::Accepting,
    opening::Opening,
    stream::{Credit, Sending, Stream},
};

/// With so much to be written, no more data is put into frames: streams take turns, and short requests do not wait for
/// long ones.
const MAX_FRAMED: usize = 128 << 10;

/// With so much to be written to a client that does not read it, no more of its requests are read. All answers under
/// way have room for their headers.
const MAX_UNREAD: usize = 256 << 10;

/// Streams that a quiet connection has room for.
const MAX_QUIET: usize = 16;

/// The last stream that can have a number.
const LAST_STREAM: u32 = (1 << 31) - 1;

const PING: [u8; 8] = *b"routing?";

/// What one side allows the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Flow-control windows, in bytes.
    pub(crate) stream_window: u32,
    pub(crate) connection_window: u32,
    /// The headers of one message, as they count in their table.
    pub(crate) header_list_bytes: u32,
    /// Streams that may be open at a time, where that is limited.
    pub(crate) streams: Option<u32>,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Streams {
    side: Side,
    limits: &'static Limits,
    streams: FxHashMap<u32, Box<Stream>>,
    end: Option<End>,
    /// Who drives the connection.
    driver: Option<Waker>,
    // To the other side.
    pub(crate) outbox: Outbox,
    encoder: Encoder,
    window: i64,
    initial_window: i64,
    max_frame: usize,
    /// How many streams are open.
    open: usize,
    /// Streams with data that their windows have room for, in turn.
    ready: VecDeque<u32>,
    /// How many bytes have ever been to be written.
    queued: u64,
    /// Frames since the last writing that had to be answered, or meant nothing.
    unanswered: usize,
    // From the other side.
    decoder: Decoder,
    /// Headers whose last frame has not come yet.
    block: Option<Block>,
    /// How many bytes may come, and how many more of which it was not told yet.
    credit: Credit,
    has_settings: bool,
    is_pinged: bool,
}

/// Which side this is, and what it knows beside the other.
#[derive(Debug)]
enum Side {
    Client(Opening),
    Server(Accepting),
}

/// Headers that are still coming.
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

/// The next of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A piece of it.
    Data(Bytes),
    /// What follows it.
    Trailers(HeaderMap),
    /// Nothing more comes.
    End,
}

/// What became of a piece of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way.
    Taken,
    /// Nobody takes it: to a client its answer tells why, and a server need not know.
    Nowhere,
}

/// A message does not come, or not to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Broken {
    /// Whether the server has certainly not looked at the request, as far as a client can tell.
    pub is_unprocessed: bool,
    /// Why that is.
    pub reason: Box<str>,
}

// === impl Streams ===

impl Streams {
    pub(crate) fn client(limits: &'static Limits) -> Self {
        let mut streams = Self::of(Side::Client(Opening::new()), limits);
        streams.outbox.small().extend_from_slice(frame::PREFACE);
        streams.queued = frame::PREFACE.len() as u64;
        streams.greet();
        streams
    }

    pub(crate) fn server(limits: &'static Limits) -> Self {
        let mut streams = Self::of(Side::Server(Accepting::new()), limits);
        streams.greet();
        streams
    }

    fn of(side: Side, limits: &'static Limits) -> Self {
        Self {
            side,
            limits,
            streams: FxHashMap::default(),
            end: None,
            driver: None,
            outbox: Outbox::default(),
            encoder: Encoder::new(),
            window: i64::from(frame::INITIAL_WINDOW),
            initial_window: i64::from(frame::INITIAL_WINDOW),
            max_frame: frame::MAX_FRAME_BYTES,
            open: 0,
            ready: VecDeque::new(),
            queued: 0,
            unanswered: 0,
            decoder: Decoder::new(),
            block: None,
            credit: Credit::new(limits.connection_window),
            has_settings: false,
            is_pinged: false,
        }
    }

    /// Tells the limits.
    fn greet(&mut self) {
        let Limits { stream_window, connection_window, header_list_bytes, streams } = *self.limits;
        let mut settings = Vec::new();
        let mut set = |id: u16, value: u32| {
            settings.extend_from_slice(&id.to_be_bytes());
            settings.extend_from_slice(&value.to_be_bytes());
        };
        if let Side::Client(_) = self.side {
            set(setting::ENABLE_PUSH, 0);
        }
        set(setting::INITIAL_WINDOW_SIZE, stream_window);
        set(setting::MAX_HEADER_LIST_SIZE, header_list_bytes);
        if let Some(streams) = streams {
            set(setting::MAX_CONCURRENT_STREAMS, streams);
        }
        self.write_short(kind::SETTINGS, 0, 0, &settings);
        let wider = connection_window - frame::INITIAL_WINDOW;
        self.write_short(kind::WINDOW_UPDATE, 0, 0, &wider.to_be_bytes());
    }

    /// What the other side is called.
    pub(crate) fn other(&self) -> &'static str {
        match self.side {
            Side::Client(_) => "node",
            Side::Server(_) => "client",
        }
    }

    /// Who is to be woken when there is something to write.
    pub(crate) fn set_driver(&mut self, waker: &Waker) {
        set(&mut self.driver, waker);
    }

    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// Whether what comes may be read. A client has to take what follows from it; a server may wait until its answers
    /// are taken.
    pub(crate) fn may_read(&self) -> bool {
        matches!(self.side, Side::Client(_)) || self.outbox.len() < MAX_UNREAD
    }

    /// Lets go of what a quiet connection does not need; tells whether this is one.
    pub(crate) fn rest(&mut self) -> bool {
        if !self.streams.is_empty() {
            return false;
        }
        self.outbox.shrink();
        self.streams.shrink_to(MAX_QUIET);
        self.ready.shrink_to(MAX_QUIET);
        if let Side::Server(accepting) = &mut self.side {
            accepting.rest();
        }
        true
    }

    /// Whether there is nothing left to do.
    pub(crate) fn is_done(&self) -> bool {
        match self.end {
            None => false,
            Some(End::Announced(_)) => self.open == 0 && self.outbox.len() == 0 && self.is_farewell_over(),
            Some(End::Over) => true,
        }
    }

    // === to the other side ===

    /// Writes the headers of one message, or its trailers.
    fn write_headers(&mut self, id: u32, ends_stream: bool, encode: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        let before = self.outbox.len();
        self.frame_headers(id, ends_stream, encode);
        self.queued += (self.outbox.len() - before) as u64;
        self.wake_driver();
    }

    fn frame_headers(&mut self, id: u32, ends_stream: bool, encode: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        let flags = if ends_stream { flag::END_STREAM } else { 0 };
        let small = self.outbox.small();
        let start = small.len();
        small.extend_from_slice(&[0; frame::HEAD_BYTES]);
        encode(&mut self.encoder, small);
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

    /// Takes more of a body, or the last of it; `None` as long as what was given before is not on its way.
    pub(crate) fn send(&mut self, id: u32, data: &mut Bytes, is_last: bool, waker: &Waker) -> Option<Sent> {
        match self.streams.get_mut(&id) {
            Some(stream) if stream.sending == Sending::Open && stream.broken.is_none() => {
                if !stream.unsent.is_empty() {
                    set(&mut stream.sender, waker);
                    return None;
                }
                stream.unsent = mem::take(data);
                if is_last {
                    stream.sending = Sending::Ending;
                }
                self.frame_now(id);
                Some(Sent::Taken)
            }
            _ => Some(Sent::Nowhere),
        }
    }

    /// Ends a body, with `trailers` where there are any.
    pub(crate) fn finish(&mut self, id: u32, trailers: Option<HeaderMap>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.sending != Sending::Open {
            return;
        }
        stream.sending = Sending::Ending;
        stream.last = trailers;
        if !stream.unsent.is_empty() {
            return;
        }
        if stream.last.is_none() {
            write_head(self.outbox.small(), 0, kind::DATA, flag::END_STREAM, id);
            self.queued += frame::HEAD_BYTES as u64;
            stream.sending = Sending::Over;
            self.wake_driver();
        }
        self.end(id);
    }

    /// Nearly all bodies go out with their heads.
    fn frame_now(&mut self, id: u32) {
        let Some(stream) = self.streams.get(&id) else { return };
        let most = self.max_frame.min(stream.room(self.window));
        let is_next = self.ready.is_empty() && self.outbox.len() < MAX_FRAMED;
        if is_next && !stream.unsent.is_empty() && stream.unsent.len() <= most {
            self.frame_data(id, most);
            self.wake_driver();
        } else {
            self.make_ready(id);
        }
    }

    /// Puts so much of a body into a frame.
    fn frame_data(&mut self, id: u32, most: usize) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let before = self.outbox.len();
        self.window -= most.min(stream.unsent.len()) as i64;
        stream.write_data(id, most, &mut self.outbox);
        self.queued += (self.outbox.len() - before) as u64;
        if !stream.unsent.is_empty() {
            return;
        }
        if let Some(sender) = stream.sender.take() {
            sender.wake();
        }
        self.end(id);
    }

    /// Ends a message of which all data is on its way.
    fn end(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if let Some(trailers) = stream.last.take() {
            stream.sending = Sending::Over;
            self.write_headers(id, true, |encoder, block| {
                encoder.begin(block);
                encoder.fields(block, &trailers, &|_| false);
            });
        }
        self.close_if_over(id);
    }

    fn make_ready(&mut self, id: u32) {
        if self.queue(id) {
            self.wake_driver();
        }
    }

    /// Has a stream take part in the turns, if there is anything to send.
    fn queue(&mut self, id: u32) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        let is_new = !stream.is_ready && stream.window > 0 && !stream.unsent.is_empty();
        if is_new {
            stream.is_ready = true;
            self.ready.push_back(id);
        }
        is_new
    }

    /// Puts data into frames, as far as there is room for it.
    pub(crate) fn fill(&mut self) {
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
            self.frame_data(id, most);
            self.queue(id);
        }
    }

    /// Whether there is data that only waits to be written.
    pub(crate) fn has_more(&self) -> bool {
        self.window > 0 && !self.ready.is_empty()
    }

    /// Asks whether the other side is there.
    pub(crate) fn ping(&mut self) {
        self.is_pinged = true;
        self.write_short(kind::PING, 0, 0, &PING);
    }

    /// Whether a ping waits for its answer.
    pub(crate) fn is_pinged(&self) -> bool {
        self.is_pinged
    }

    fn write_short(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        if matches!(self.end, Some(End::Over)) {
            return;
        }
        let small = self.outbox.small();
        write_head(small, payload.len(), kind, flags, stream);
        small.extend_from_slice(payload);
        self.queued += (frame::HEAD_BYTES + payload.len()) as u64;
        self.wake_driver();
    }

    fn reset(&mut self, id: u32, reason: Reason) {
        self.write_short(kind::RST_STREAM, 0, id, &reason.0.to_be_bytes());
    }

    // === to whoever waits for a message ===

    /// The head of an answer; `None` as long as it is not there.
    pub(crate) fn head(&mut self, id: u32, waker: &Waker) -> Option<Result<Response<()>, Broken>> {
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

    /// The next of a body; `None` as long as it is not there.
    pub(crate) fn next(&mut self, id: u32, waker: &Waker) -> Option<Result<Next, Broken>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Some(Err(Broken { is_unprocessed: false, reason: "its stream is over".into() }));
        };
        if let Some(data) = stream.data.pop_front() {
            // Whoever takes it has made room for as much.
            self.give_back(id, data.len());
            return Some(Ok(Next::Data(data)));
        }
        if let Some(trailers) = stream.trailers.take() {
            return Some(Ok(Next::Trailers(trailers)));
        }
        if stream.is_complete {
            return Some(Ok(Next::End));
        }
        if let Some(broken) = &stream.broken {
            return Some(Err(broken.clone()));
        }
        set(&mut stream.receiver, waker);
        None
    }

    /// Whether all of a message was taken.
    pub(crate) fn is_over(&self, id: u32) -> bool {
        self.streams.get(&id).is_some_and(|stream| {
            stream.is_complete && stream.head.is_none() && stream.data.is_empty() && stream.trailers.is_none()
        })
    }

    /// Nobody has to do with the stream any more; it is reset, unless it is over.
    pub(crate) fn forget(&mut self, id: u32) {
        let Some(stream) = self.streams.remove(&id) else { return };
        if stream.is_ready {
            self.ready.retain(|ready| *ready != id);
        }
        if let Some(receiver) = &stream.receiver {
            receiver.wake_by_ref();
        }
        if !stream.is_closed() {
            self.closed();
            let reason = match self.side {
                Side::Client(_) => Reason::CANCEL,
                Side::Server(_) => Reason::INTERNAL_ERROR,
            };
            self.reset(id, reason);
        }
        self.give(stream.unread());
    }

    /// A stream is over, of which somebody may still have to take notice.
    fn conclude(&mut self, id: u32) {
        self.closed();
        if self.streams.get(&id).is_some_and(|stream| stream.is_left) {
            self.forget(id);
        }
    }

    /// A stream is over, which makes room for another.
    fn closed(&mut self) {
        debug_assert!(self.open > 0, "a stream is over once");
        self.open -= 1;
        self.wake_waiting();
        if self.open == 0 && self.end.is_some() {
            self.wake_driver();
        }
    }

    fn close_if_over(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.sending != Sending::Over {
            return;
        }
        let is_early = !stream.is_closed_by_other();
        if is_early && matches!(self.side, Side::Client(_)) {
            return;
        }
        if is_early {
            // The rest of a request that is answered is not wanted.
            stream.break_off(false, "it was answered before its end");
            self.reset(id, Reason::NO_ERROR);
        }
        self.conclude(id);
    }

    /// The other side may send so much more on a stream.
    fn give_back(&mut self, id: u32, length: usize) {
        if let Some(stream) = self.streams.get_mut(&id)
            && let Some(told) = stream.credit.give(length)
            && !stream.is_closed_by_other()
        {
            self.write_short(kind::WINDOW_UPDATE, 0, id, &told.to_be_bytes());
        }
        self.give(length);
    }

    /// The other side may send so much more on the connection.
    fn give(&mut self, length: usize) {
        if let Some(told) = self.credit.give(length) {
            self.write_short(kind::WINDOW_UPDATE, 0, 0, &told.to_be_bytes());
        }
    }

    // === the end ===

    /// The connection is over; `written` is how many bytes have left.
    pub(crate) fn fail(&mut self, written: u64, reason: &str) {
        if matches!(self.end, Some(End::Over)) {
            return;
        }
        self.end = Some(End::Over);
        (self.outbox, self.block) = (Outbox::default(), None);
        for stream in self.streams.values_mut().filter(|stream| !stream.is_closed()) {
            // Of a request that had not begun to leave nobody has seen anything.
            stream.break_off(stream.begins >= written, reason);
        }
        self.streams.retain(|_, stream| !stream.is_left);
        self.open = 0;
        self.ready.clear();
        self.wake_waiting();
        self.wake_driver();
    }

    /// Why the connection is over, which the other side may have told before.
    pub(crate) fn ending(&self, reason: &str) -> String {
        match &self.end {
            Some(End::Announced(announced)) if *announced != Reason::NO_ERROR => {
                format!("the {} has ended the connection: {announced}", self.other())
            }
            _ => reason.to_owned(),
        }
    }

    /// Tells the other side why the connection ends.
    pub(crate) fn say_goodbye(&mut self, reason: Reason) {
        let last = match &self.side {
            Side::Client(_) => 0,
            Side::Server(accepting) => accepting.last,
        };
        self.write_goaway(last, reason);
    }

    fn write_goaway(&mut self, last: u32, reason: Reason) {
        let mut payload = [0; 8];
        payload[..4].copy_from_slice(&last.to_be_bytes());
        payload[4..].copy_from_slice(&reason.0.to_be_bytes());
        self.write_short(kind::GOAWAY, 0, 0, &payload);
    }
}

fn write_head(small: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    small.extend_from_slice(&Head { length, kind, flags, stream }.bytes());
}

fn set(slot: &mut Option<Waker>, waker: &Waker) {
    if !slot.as_ref().is_some_and(|old| old.will_wake(waker)) {
        *slot = Some(waker.clone());
    }
}
