//! What a client knows beside: which streams it may open.

use std::{collections::BTreeMap, mem, task::Waker};

use bytes::Bytes;

use super::{End, LAST_STREAM, Sending, Side, Stream, Streams};
use crate::{client::Outgoing, frame::Reason};

/// Streams that may be opened before the server has said how many.
const PRESUMED_STREAMS: usize = 100;

/// Which streams may be opened.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) next: u32,
    pub(super) most: usize,
    /// Those who wait until a stream may be opened, by their place in the line, and the next place.
    waiting: BTreeMap<u64, Waker>,
    tickets: u64,
}

/// Why a stream cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unopened {
    /// As many as the server allows are open.
    Full,
    /// The connection takes no more.
    Over,
}

// === impl Opening ===

impl Opening {
    pub(super) fn new() -> Self {
        Self { next: 1, most: PRESUMED_STREAMS, waiting: BTreeMap::new(), tickets: 0 }
    }
}

// === impl Streams ===

impl Streams {
    /// Whether a stream can be opened.
    pub(crate) fn room(&self) -> Result<(), Unopened> {
        match &self.side {
            Side::Client(opening) if self.end.is_none() && opening.next <= LAST_STREAM => {
                if self.open >= opening.most { Err(Unopened::Full) } else { Ok(()) }
            }
            Side::Client(_) | Side::Server(_) => Err(Unopened::Over),
        }
    }

    /// Waits in the line for a stream to be over, at the place of `ticket`, or at a new one; tells where.
    pub(crate) fn wait_for_room(&mut self, ticket: Option<u64>, waker: &Waker) -> Option<u64> {
        let Side::Client(opening) = &mut self.side else { return None };
        let ticket = ticket.unwrap_or_else(|| {
            opening.tickets += 1;
            opening.tickets
        });
        opening.waiting.insert(ticket, waker.clone());
        Some(ticket)
    }

    /// Gives up a place in the line, and what may have been called out to it.
    pub(crate) fn leave_line(&mut self, ticket: u64) {
        if let Side::Client(opening) = &mut self.side {
            opening.waiting.remove(&ticket);
        }
        self.wake_waiting();
    }

    /// Calls as many as there is room for.
    pub(super) fn wake_waiting(&mut self) {
        let room = self.room();
        let Side::Client(opening) = &mut self.side else { return };
        let room = match room {
            Ok(()) => opening.most - self.open,
            Err(Unopened::Full) => 0,
            Err(Unopened::Over) => usize::MAX,
        };
        for _ in 0..room {
            let Some((_, waiting)) = opening.waiting.pop_first() else { break };
            waiting.wake();
        }
    }

    /// Opens a stream for a request; `body` is all of its body, or `None` where that is still to come.
    pub(crate) fn open(&mut self, request: Outgoing<'_>, body: &mut Option<Bytes>) -> Result<u32, Unopened> {
        self.room()?;
        let Side::Client(opening) = &mut self.side else { return Err(Unopened::Over) };
        let id = opening.next;
        opening.next += 2;
        let body = body.take();
        let sending = match &body {
            None => Sending::Open,
            Some(body) if body.is_empty() => Sending::Over,
            Some(_) => Sending::Ending,
        };
        self.open += 1;
        let mut stream = Stream::boxed(self.initial_window, self.limits.stream_window, sending);
        stream.unsent = body.unwrap_or_default();
        stream.begins = self.queued;
        self.streams.insert(id, stream);
        self.write_headers(id, sending == Sending::Over, |encoder, block| request.encode(encoder, block));
        self.frame_now(id);
        Ok(id)
    }

    /// No more streams are opened.
    pub(crate) fn leave(&mut self) {
        if self.end.is_none() {
            self.end = Some(End::Announced(Reason::NO_ERROR));
            // Servers on h2 before 0.4.14 take it for the end of all streams.
            if self.open == 0 {
                self.say_goodbye(Reason::NO_ERROR);
            }
        }
        self.wake_driver();
    }

    /// What the server's first settings do not limit is not limited.
    pub(super) fn end_presumption(&mut self) {
        if !mem::replace(&mut self.has_settings, true)
            && let Side::Client(opening) = &mut self.side
        {
            opening.most = usize::MAX;
        }
    }
}
