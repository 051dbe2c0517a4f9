//! What is to be written to a connection.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use smallvec::SmallVec;
use tokio::io::AsyncWrite;

/// Data longer than this is not copied.
const MAX_COPIED: usize = 8 << 10;

/// Room that is kept when less than a quarter of it was needed.
const MAX_KEPT: usize = 8 << 10;

/// What a quiet connection keeps.
const MAX_QUIET: usize = 1 << 10;

/// So many pieces are written at once.
const MAX_SLICES: usize = 32;

/// Bytes in the order in which they are to be written.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// All that is copied.
    small: Vec<u8>,
    /// What is not, and after how many of the bytes in `small` it comes.
    large: VecDeque<(usize, Bytes)>,
    large_bytes: usize,
    /// How many bytes of `small` are written.
    written: usize,
}

impl Outbox {
    /// Where short things are appended to.
    pub(crate) fn small(&mut self) -> &mut Vec<u8> {
        &mut self.small
    }

    pub(crate) fn push(&mut self, data: Bytes) {
        if data.len() <= MAX_COPIED {
            self.small.extend_from_slice(&data);
        } else {
            self.large_bytes += data.len();
            self.large.push_back((self.small.len(), data));
        }
    }

    /// How many bytes are to be written.
    pub(crate) fn len(&self) -> usize {
        self.small.len() - self.written + self.large_bytes
    }

    /// Writes all of it; ready with nothing left.
    pub(crate) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.len() > 0 {
            let written = if self.large.is_empty() {
                ready!(Pin::new(&mut *stream).poll_write(cx, &self.small[self.written..]))?
            } else {
                ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &self.slices()))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        if self.small.len() < self.small.capacity() / 4 {
            self.small.shrink_to(MAX_KEPT);
        }
        self.small.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Lets go of room that a quiet connection does not need.
    pub(crate) fn shrink(&mut self) {
        self.small.shrink_to(MAX_QUIET);
    }

    fn slices(&self) -> SmallVec<[IoSlice<'_>; MAX_SLICES]> {
        let mut slices = SmallVec::new();
        let mut from = self.written;
        for (at, data) in self.large.iter().take(MAX_SLICES / 2 - 1) {
            if from < *at {
                slices.push(IoSlice::new(&self.small[from..*at]));
                from = *at;
            }
            slices.push(IoSlice::new(data));
        }
        if self.large.len() < MAX_SLICES / 2 && from < self.small.len() {
            slices.push(IoSlice::new(&self.small[from..]));
        }
        slices
    }

    fn advance(&mut self, mut written: usize) {
        while written > 0 {
            let until = self.large.front().map_or(self.small.len(), |(at, _)| *at);
            let small = written.min(until - self.written);
            self.written += small;
            written -= small;
            if let Some((_, data)) = self.large.front_mut() {
                let large = written.min(data.len());
                data.advance(large);
                self.large_bytes -= large;
                written -= large;
                if data.is_empty() && self.written == until {
                    self.large.pop_front();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn pieces_of_all_sizes_arrive_in_their_order() {
        for room in [1, 7, 100, 1 << 20] {
            let (mut ours, mut theirs) = tokio::io::duplex(room);
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for at in 0..60_usize {
                let length = if at % 3 == 0 { MAX_COPIED + at } else { at };
                let piece = Bytes::from(vec![at as u8; length]);
                expected.extend_from_slice(&piece);
                outbox.push(piece);
            }
            assert_eq!(outbox.len(), expected.len());
            let mut seen = vec![0; expected.len()];
            let written = std::future::poll_fn(|cx| outbox.poll_write(&mut ours, cx));
            let (written, read) = tokio::join!(written, theirs.read_exact(&mut seen));
            written.expect("a pipe");
            read.expect("a pipe");
            assert!(seen == expected, "through {room} bytes at a time");
            assert_eq!(outbox.len(), 0);
        }
    }
}
