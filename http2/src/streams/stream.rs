//! One request and its answer, as one side knows them.

use std::{collections::VecDeque, mem, task::Waker};

use bytes::Bytes;
use http::{HeaderMap, Response};

use super::{Broken, write_head};
use crate::{
    frame::{flag, kind},
    outbox::Outbox,
};

/// Data that is shorter than this is copied, so that it keeps no more memory than it needs.
pub(super) const MAX_COPIED: usize = 8 << 10;

/// With so many pieces of a message that nobody has taken, short ones are put together.
const MAX_PIECES: usize = 16;

/// One request and its answer.
#[derive(Debug)]
pub(super) struct Stream {
    // To the other side.
    pub(super) window: i64,
    pub(super) unsent: Bytes,
    /// The trailers that follow it.
    pub(super) last: Option<HeaderMap>,
    /// How far the message has got.
    pub(super) sending: Sending,
    pub(super) is_ready: bool,
    /// How often it has been found without any room in its windows since it last went on.
    pub(super) stalls: u8,
    /// Who waits to send more, or to hear that nothing more is wanted.
    pub(super) sender: Option<Waker>,
    /// After how many bytes of the connection its headers begin.
    pub(super) begins: u64,
    /// Whether nobody waits for its end.
    pub(super) is_left: bool,
    // From the other side.
    /// The head of an answer; that of a request is taken at once.
    pub(super) head: Option<Response<()>>,
    pub(super) has_head: bool,
    pub(super) data: VecDeque<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
    pub(super) credit: Credit,
    /// How much data is to come, where that was said.
    pub(super) left: Option<u64>,
    /// Whether all of the message is there.
    pub(super) is_complete: bool,
    /// Whether nobody takes its data.
    pub(super) is_unwanted: bool,
    pub(super) broken: Option<Broken>,
    pub(super) receiver: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// More may come.
    Open,
    /// What is unsent is the last of it.
    Ending,
    Over,
}

/// How much the other side may send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Credit {
    window: i64,
    /// What may be sent beyond it, as soon as it is told.
    untold: i64,
    whole: i64,
}

// === impl Stream ===

impl Stream {
    /// In a box, so that a table of streams is small, and to enter and to leave it costs little.
    pub(super) fn boxed(window: i64, credit: u32, sending: Sending) -> Box<Self> {
        Box::write(
            Box::new_uninit(),
            Self {
                window,
                unsent: Bytes::new(),
                last: None,
                sending,
                is_ready: false,
                stalls: 0,
                sender: None,
                begins: 0,
                is_left: false,
                head: None,
                has_head: false,
                data: VecDeque::new(),
                trailers: None,
                credit: Credit::new(credit),
                left: None,
                is_complete: false,
                is_unwanted: false,
                broken: None,
                receiver: None,
            },
        )
    }

    /// How much of the body may be sent now.
    pub(super) fn room(&self, connection: i64) -> usize {
        usize::try_from(self.window.min(connection)).unwrap_or_default()
    }

    /// Puts `most` bytes of the body into a frame.
    pub(super) fn write_data(&mut self, id: u32, most: usize, outbox: &mut Outbox) {
        let data = self.unsent.split_to(most.min(self.unsent.len()));
        self.window -= data.len() as i64;
        self.stalls = 0;
        let is_last = self.unsent.is_empty() && self.sending == Sending::Ending && self.last.is_none();
        if is_last {
            self.sending = Sending::Over;
        }
        let flags = if is_last { flag::END_STREAM } else { 0 };
        write_head(outbox.small(), data.len(), kind::DATA, flags, id);
        outbox.push(data);
    }

    /// Nothing more goes to the other side, and no more comes from there, unless all of it has. A server that has begun
    /// to answer has looked at the request.
    pub(super) fn break_off(&mut self, is_unprocessed: bool, reason: &str) {
        if !self.is_closed_by_other() {
            let is_unprocessed = is_unprocessed && !self.has_head;
            self.broken = Some(Broken { is_unprocessed, reason: reason.into() });
        }
        self.sending = Sending::Over;
        (self.unsent, self.last) = (Bytes::new(), None);
        for waker in [self.receiver.take(), self.sender.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    /// Keeps a copy of `data`. Of many short pieces some are put together, so that what keeps them costs no more than
    /// they do.
    pub(super) fn take_short(&mut self, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let is_many = self.data.len() >= MAX_PIECES;
        match self.data.back_mut().filter(|last| is_many && last.len() + data.len() <= MAX_COPIED) {
            Some(last) => {
                // It grows by doubling, as nobody else has it.
                let mut longer = mem::take(last).try_into_mut().unwrap_or_else(|shared| shared[..].into());
                longer.extend_from_slice(data);
                *last = longer.freeze();
            }
            None => self.data.push_back(Bytes::copy_from_slice(data)),
        }
    }

    /// Whether nothing more comes from the other side.
    pub(super) fn is_closed_by_other(&self) -> bool {
        self.is_complete || self.broken.is_some()
    }

    /// How many bytes nobody has taken.
    pub(super) fn unread(&self) -> usize {
        self.data.iter().map(Bytes::len).sum()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed_by_other() && self.sending == Sending::Over
    }
}

// === impl Credit ===

impl Credit {
    pub(super) fn new(whole: u32) -> Self {
        let whole = i64::from(whole);
        Self { window: whole, untold: 0, whole }
    }

    /// Whether so much may come.
    pub(super) fn take(&mut self, length: usize) -> bool {
        self.window -= length as i64;
        self.window >= 0
    }

    /// So much has been taken away; the other side is told once that is half of what it may send, or of all.
    pub(super) fn give(&mut self, length: usize) -> Option<u32> {
        self.untold += length as i64;
        // Of a window that others keep nearly closed, every part counts.
        if self.untold == 0 || self.untold < self.whole / 2 && self.untold < self.window / 2 {
            return None;
        }
        self.window += self.untold;
        u32::try_from(mem::take(&mut self.untold)).ok()
    }
}
