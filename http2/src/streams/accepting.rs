//! What a server knows beside: which requests have come.

use std::{collections::VecDeque, task::Waker};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode, header};

use super::{
    End, LAST_STREAM, MAX_QUIET, Sending, Side, Stream, Streams, fields::Fields, receive::Violation, set,
    stream::MAX_COPIED,
};
use crate::{
    frame::{PREFACE, Reason, kind},
    hpack::{self, Encoder},
    is_of_one_connection, length,
};

/// Requests that a client may give up before anybody has looked at them, and errors that it may make.
const MAX_GIVEN_UP: usize = 20;
const MAX_OFFENCES: usize = 1024;

/// How often an answer may be found standing still. It is looked at every twenty seconds.
const MAX_STALLS: u8 = 3;

/// What the client answers when it knows that no more streams are taken.
const FAREWELL: [u8; 8] = *b"farewell";

/// Which requests have come.
#[derive(Debug)]
pub(super) struct Accepting {
    has_preface: bool,
    /// The last stream that the client opened.
    pub(super) last: u32,
    /// Requests that nobody has looked at yet, and how many of them were given up.
    arrived: VecDeque<(u32, Request<()>)>,
    given_up: usize,
    offences: usize,
    farewell: Farewell,
}

/// How far the end of a connection is agreed upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    No,
    /// Streams that the client opens before it knows are taken.
    Asked,
    Over,
}

/// A request that has come.
pub(crate) struct Accepted {
    pub(crate) id: u32,
    pub(crate) request: Request<()>,
    /// How long its body is, where its head tells.
    pub(crate) left: Option<u64>,
    /// All of its body, where that is there and short.
    pub(crate) body: Option<Bytes>,
}

// === impl Accepting ===

impl Accepting {
    pub(super) fn new() -> Self {
        Self {
            has_preface: false,
            last: 0,
            arrived: VecDeque::new(),
            given_up: 0,
            offences: 0,
            farewell: Farewell::No,
        }
    }

    /// Lets go of what a quiet connection does not need.
    pub(super) fn rest(&mut self) {
        self.arrived.shrink_to(MAX_QUIET);
    }
}

// === impl Streams ===

impl Streams {
    // === from the client ===

    /// Takes what a client sends first off `read`; tells whether it has come.
    pub(super) fn receive_preface(&mut self, read: &mut BytesMut) -> Result<bool, Violation> {
        let Side::Server(accepting) = &mut self.side else { return Ok(true) };
        if !accepting.has_preface {
            let length = read.len().min(PREFACE.len());
            if read[..length] != PREFACE[..length] {
                return Err(Violation::new(Reason::PROTOCOL_ERROR, "it does not speak HTTP/2"));
            }
            accepting.has_preface = length == PREFACE.len();
            if accepting.has_preface {
                read.advance(length);
            }
        }
        Ok(accepting.has_preface)
    }

    /// Takes the head of a request, or its trailers.
    pub(super) fn receive_request(
        &mut self,
        id: u32,
        fields: &mut Fields,
        ends_stream: bool,
    ) -> Result<(), Violation> {
        let Side::Server(accepting) = &mut self.side else { return Ok(()) };
        if id.is_multiple_of(2) {
            return Err(Violation::new(Reason::PROTOCOL_ERROR, "a stream has a number that no client gives"));
        }
        if id <= accepting.last {
            return self.receive_trailers(id, fields, ends_stream);
        }
        accepting.last = id;
        let most = self.limits.streams.map_or(usize::MAX, |streams| streams as usize);
        // Streams that are over may still have somebody who is about to notice.
        let is_full = self.open >= most || self.streams.len() / 2 >= most;
        if is_full || accepting.farewell == Farewell::Over {
            self.unanswered += 1;
            self.reset(id, Reason::REFUSED_STREAM);
            return Ok(());
        }
        if fields.is_too_long {
            self.write_headers(id, true, |encoder, block| {
                encode_status(encoder, block, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
            });
            return if ends_stream { self.offence() } else { self.refuse(id, Reason::NO_ERROR) };
        }
        let Some(request) = fields.request() else { return self.refuse(id, Reason::PROTOCOL_ERROR) };
        let Ok(left) = announced(request.headers()) else { return self.refuse(id, Reason::PROTOCOL_ERROR) };
        if ends_stream && left.is_some_and(|left| left > 0) {
            return self.refuse(id, Reason::PROTOCOL_ERROR);
        }
        let mut stream = Stream::boxed(self.initial_window, self.limits.stream_window, Sending::Open);
        stream.left = left;
        (stream.has_head, stream.is_complete) = (true, ends_stream);
        self.streams.insert(id, stream);
        self.open += 1;
        if let Side::Server(accepting) = &mut self.side {
            accepting.arrived.push_back((id, request));
        }
        Ok(())
    }

    fn receive_trailers(&mut self, id: u32, fields: &mut Fields, ends_stream: bool) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        if stream.is_closed_by_other() {
            // What is late may have been sent before our end of it was known, but not after the client's own.
            return if stream.is_complete { self.offence() } else { Ok(()) };
        }
        if !ends_stream || fields.is_too_long {
            return self.offends(id, Reason::PROTOCOL_ERROR, "its trailers do not end it, or are too long");
        }
        if stream.left.is_some_and(|left| left > 0) {
            return self.offends(id, Reason::PROTOCOL_ERROR, "its body is shorter than it says");
        }
        match fields.trailers() {
            Some(trailers) => stream.trailers = Some(trailers),
            None => return self.offends(id, Reason::PROTOCOL_ERROR, "its trailers are malformed"),
        }
        self.proceed(id, true);
        Ok(())
    }

    /// Refuses a request that makes no sense.
    fn refuse(&mut self, id: u32, reason: Reason) -> Result<(), Violation> {
        self.reset(id, reason);
        self.offence()
    }

    /// The client has made an error, of which there may be some.
    pub(super) fn offence(&mut self) -> Result<(), Violation> {
        let Side::Server(accepting) = &mut self.side else { return Ok(()) };
        accepting.offences += 1;
        if accepting.offences > MAX_OFFENCES {
            return Err(Violation::new(Reason::ENHANCE_YOUR_CALM, "it makes one error after the other"));
        }
        Ok(())
    }

    /// A client has given up a request.
    pub(super) fn give_up(&mut self, id: u32) -> Result<(), Violation> {
        let Side::Server(accepting) = &mut self.side else { return Ok(()) };
        if accepting.arrived.front().is_some_and(|(first, _)| *first <= id) {
            accepting.given_up += 1;
        }
        if accepting.given_up > MAX_GIVEN_UP {
            return Err(Violation::new(Reason::ENHANCE_YOUR_CALM, "it gives up what it asks for at once"));
        }
        Ok(())
    }

    /// Looks for answers that their client does not read on, and resets those that have stood still for long: each keeps
    /// memory, a place among the requests, and a share of the window of its node's connection.
    pub(crate) fn give_up_stalled(&mut self) {
        let Side::Server(_) = self.side else { return };
        let waits = |stream: &Stream| !stream.is_closed() && !stream.unsent.is_empty();
        // One that has used up its own window may keep that of the connection from the others.
        let is_own = self.streams.values().any(|stream| waits(stream) && stream.window <= 0);
        let most = if is_own { i64::MAX } else { self.window };
        let mut stalled = Vec::new();
        for (&id, stream) in &mut self.streams {
            if waits(stream) && stream.room(most) == 0 {
                stream.stalls += 1;
                if stream.stalls > MAX_STALLS {
                    stream.break_off(false, "the client does not read its answer");
                    stalled.push(id);
                }
            }
        }
        for id in stalled {
            self.reset(id, Reason::CANCEL);
            self.conclude(id);
        }
    }

    // === to whoever answers ===

    /// The next request that has come.
    pub(crate) fn accept(&mut self) -> Option<Accepted> {
        loop {
            let Side::Server(accepting) = &mut self.side else { return None };
            let Some((id, request)) = accepting.arrived.pop_front() else {
                accepting.given_up = 0;
                return None;
            };
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            if stream.sending == Sending::Over {
                self.forget(id);
                continue;
            }
            let left = stream.left.map(|left| left + stream.unread() as u64);
            let is_short = stream.is_complete
                && stream.trailers.is_none()
                && stream.data.len() <= 1
                && stream.unread() <= MAX_COPIED;
            let body = is_short.then(|| stream.data.pop_front().unwrap_or_default());
            if let Some(body) = &body {
                self.give(body.len());
            }
            return Some(Accepted { id, request, left, body });
        }
    }

    /// Whether an answer is still wanted; if so, `waker` hears of the opposite.
    pub(crate) fn is_wanted(&mut self, id: u32, waker: &Waker) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        if stream.sending != Sending::Open {
            return false;
        }
        set(&mut stream.sender, waker);
        true
    }

    /// Begins an answer, or all of it.
    pub(crate) fn answer(&mut self, id: u32, status: StatusCode, headers: &HeaderMap, is_last: bool) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.sending == Sending::Open) else {
            return;
        };
        if is_last {
            stream.sending = Sending::Over;
        }
        if let Side::Server(accepting) = &mut self.side {
            // Errors now and then do not add up over weeks.
            accepting.offences = accepting.offences.saturating_sub(1);
        }
        self.write_headers(id, is_last, |encoder, block| {
            encode_status(encoder, block, status);
            encoder.fields(block, headers, &is_of_one_connection);
        });
        if is_last {
            self.close_if_over(id);
        }
    }

    /// Whoever answers has done so, or does not.
    pub(crate) fn leave_answer(&mut self, id: u32) {
        match self.streams.get_mut(&id) {
            // The rest of it goes out by itself.
            Some(stream) if stream.sending == Sending::Ending => stream.is_left = true,
            Some(_) => self.forget(id),
            None => {}
        }
    }

    /// Nobody takes the rest of a request's body.
    pub(crate) fn leave_body(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.is_unwanted = true;
        let unread = stream.unread();
        stream.data.clear();
        self.give(unread);
    }

    // === the end ===

    /// No more streams are taken, once the client knows of it.
    pub(crate) fn retire(&mut self) {
        let Side::Server(accepting) = &mut self.side else { return };
        if self.end.is_some() || accepting.farewell != Farewell::No {
            return;
        }
        self.end = Some(End::Announced(Reason::NO_ERROR));
        if !accepting.has_preface {
            // It has opened none.
            accepting.farewell = Farewell::Over;
            return self.say_goodbye(Reason::NO_ERROR);
        }
        accepting.farewell = Farewell::Asked;
        self.write_goaway(LAST_STREAM, Reason::NO_ERROR);
        self.write_short(kind::PING, 0, 0, &FAREWELL);
    }

    /// The client has answered a ping.
    pub(super) fn receive_pong(&mut self, payload: &[u8]) {
        let Side::Server(accepting) = &mut self.side else { return };
        if payload == FAREWELL && accepting.farewell == Farewell::Asked {
            accepting.farewell = Farewell::Over;
            self.say_goodbye(Reason::NO_ERROR);
        }
    }

    /// The client opens no more streams.
    pub(super) fn receive_farewell(&mut self, reason: Reason) {
        if let Side::Server(accepting) = &mut self.side {
            accepting.farewell = Farewell::Over;
        }
        if self.end.is_none() {
            self.end = Some(End::Announced(reason));
        }
        self.wake_driver();
    }

    pub(super) fn is_farewell_over(&self) -> bool {
        match &self.side {
            Side::Client(_) => true,
            Side::Server(accepting) => accepting.farewell == Farewell::Over && accepting.arrived.is_empty(),
        }
    }
}

fn encode_status(encoder: &mut Encoder, block: &mut Vec<u8>, status: StatusCode) {
    encoder.begin(block);
    match status {
        StatusCode::OK => Encoder::known(block, hpack::OK),
        _ => encoder.field(block, ":status", status.as_str().as_bytes(), false),
    }
}

/// How long a body is, where its head tells.
fn announced(headers: &HeaderMap) -> Result<Option<u64>, NoLength> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok(None) };
    match (length(first.as_bytes()), lengths.next()) {
        (Some(number), None) => Ok(Some(number)),
        _ => Err(NoLength),
    }
}

/// A length that is none, or several.
struct NoLength;
