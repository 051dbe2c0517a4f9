//! What a client knows of one connection. Nothing here does I/O.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    task::Waker,
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use rustc_hash::FxHashMap;

use super::{
    Broken, CONNECTION_WINDOW, MAX_HEADER_LIST_BYTES, Outgoing, STREAM_WINDOW,
    frame::{self, Head, Reason, flag, kind, setting},
    hpack::{Decoder, Encoder},
    outbox::Outbox,
};

mod receive;
mod stream;

use self::stream::{Credit, Sending, Stream};

/// Streams that may be opened before the server has said how many.
const PRESUMED_STREAMS: usize = 100;

/// The last stream that can have a number.
const LAST_STREAM: u32 = (1 << 31) - 1;

/// With so much to be written, no more data is put into frames: streams take turns, and short requests do not wait for
/// long ones.
const MAX_FRAMED: usize = 128 << 10;

const PING: [u8; 8] = *b"routing?";

/// One connection.
#[derive(Debug)]
pub(super) struct Streams {
    streams: FxHashMap<u32, Stream>,
    next: u32,
    end: Option<End>,
    /// Those who wait until a stream may be opened, by their place in the line, and the next place.
    waiting: BTreeMap<u64, Waker>,
    tickets: u64,
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
    /// Frames since the last writing that had to be answered, or meant nothing.
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

/// What became of a piece of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Taken,
    /// Nobody takes it; the answer tells why.
    Nowhere,
}

// === impl Streams ===

impl Streams {
    pub(super) fn new() -> Self {
        let mut streams = Self {
            streams: FxHashMap::default(),
            next: 1,
            end: None,
            waiting: BTreeMap::new(),
            tickets: 0,
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
            credit: Credit::new(CONNECTION_WINDOW),
            has_settings: false,
            is_pinged: false,
        };
        streams.outbox.small().extend_from_slice(frame::PREFACE);
        streams.queued = frame::PREFACE.len() as u64;
        let settings = [
            (setting::ENABLE_PUSH, 0),
            (setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (setting::MAX_HEADER_LIST_SIZE, MAX_HEADER_LIST_BYTES as u32),
        ];
        let settings = settings.map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
        streams.write_short(kind::SETTINGS, 0, 0, &settings.concat());
        let wider = CONNECTION_WINDOW - frame::INITIAL_WINDOW;
        streams.write_short(kind::WINDOW_UPDATE, 0, 0, &wider.to_be_bytes());
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

    /// Waits in the line for a stream to be over, at the place of `ticket`, or at a new one; tells where.
    pub(super) fn wait_for_room(&mut self, ticket: Option<u64>, waker: &Waker) -> u64 {
        let ticket = ticket.unwrap_or_else(|| {
            self.tickets += 1;
            self.tickets
        });
        self.waiting.insert(ticket, waker.clone());
        ticket
    }

    /// Gives up a place in the line, and what may have been called out to it.
    pub(super) fn leave_line(&mut self, ticket: u64) {
        self.waiting.remove(&ticket);
        self.wake_waiting();
    }

    /// Calls as many as there is room for.
    fn wake_waiting(&mut self) {
        let room = match self.room() {
            Ok(()) => self.max_streams - self.open,
            Err(Unopened::Full) => 0,
            Err(Unopened::Over) => usize::MAX,
        };
        for _ in 0..room {
            let Some((_, waiting)) = self.waiting.pop_first() else { break };
            waiting.wake();
        }
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
        let mut stream = Stream::new(self.initial_window, body.unwrap_or_default(), sending, begins);
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
            // Whoever takes it has made room for as much.
            self.give_back(id, data.len());
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
            self.reset(id, Reason::CANCEL);
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

    /// The server may send so much more on a stream.
    fn give_back(&mut self, id: u32, length: usize) {
        if let Some(stream) = self.streams.get_mut(&id)
            && let Some(told) = stream.credit.give(length)
            && !stream.is_answered
        {
            self.write_short(kind::WINDOW_UPDATE, 0, id, &told.to_be_bytes());
        }
        self.give(length);
    }

    /// The server may send so much more on the connection.
    fn give(&mut self, length: usize) {
        if let Some(told) = self.credit.give(length) {
            self.write_short(kind::WINDOW_UPDATE, 0, 0, &told.to_be_bytes());
        }
    }

    // === the end ===

    /// The connection is over; `written` is how many bytes have left.
    pub(super) fn fail(&mut self, written: u64, reason: &str) {
        if matches!(self.end, Some(End::Over)) {
            return;
        }
        self.end = Some(End::Over);
        (self.outbox, self.block) = (Outbox::default(), None);
        for stream in self.streams.values_mut().filter(|stream| !stream.is_closed()) {
            // Of a request that had not begun to leave nobody has seen anything.
            stream.break_off(stream.begins >= written, reason);
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
            // Servers on h2 before 0.4.14 take it for the end of all streams.
            if self.open == 0 {
                self.say_goodbye(Reason::NO_ERROR);
            }
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

fn write_head(small: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    small.extend_from_slice(&Head { length, kind, flags, stream }.bytes());
}

fn set(slot: &mut Option<Waker>, waker: &Waker) {
    if !slot.as_ref().is_some_and(|old| old.will_wake(waker)) {
        *slot = Some(waker.clone());
    }
}
