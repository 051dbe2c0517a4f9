//! Reading from clients that may send much that asks for nothing.
//!
//! Pings, settings, priorities, empty data: each frame of HTTP/2 is work, and thousands fit in what one turn of a
//! connection reads. A connection is read in small pieces at first, and in larger ones as long as what comes are
//! requests. Where it is other frames mostly, every small piece is a turn of its own, so that others are served between
//! its pieces.
//!
//! Such frames are paid for: by requests, and by what is written to the client, whose window updates for a large answer
//! come in floods too. What nobody has paid for is a flood, and waits in the room of [`Floods`].

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use qdrant_router_http2::{PREFACE, yield_to_arrivals};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::floods::{Floods, Wait};

/// What is read at once of a connection that is not trusted, and from where on it is.
const LEAST: usize = 512;
const TRUSTED: usize = 4 << 10;

/// What is read in one turn, whatever it is. A client that uploads without a pause would keep others waiting for
/// milliseconds.
const SHARE: usize = 64 << 10;

/// So many frames that ask for nothing in one piece are nothing unusual.
const USUAL: usize = 8;

/// What such a frame costs, in bytes written to the client: no library updates two windows more often. A request pays
/// for as much as four kilobytes do: it may be reset, and has a priority.
const PRICE: usize = 1 << 10;
const REQUEST: usize = 4 << 10;

/// What a connection may spend at first, and have at most: a burst of window updates follows a large answer.
const FIRST: usize = 64 << 10;
const MOST: usize = 1 << 20;

/// The head of a frame, and the kinds that carry requests.
const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// A connection of HTTP/2, read as it deserves.
#[derive(Debug)]
pub(super) struct Wary<S> {
    stream: S,
    frames: Frames,
    floods: Floods,
    wait: Option<Wait>,
    /// What has been read in this turn.
    read: usize,
}

/// Where a connection of HTTP/2 stands.
#[derive(Debug)]
struct Frames {
    /// The next frame's head, as far as it has come.
    head: [u8; HEAD_BYTES],
    head_length: usize,
    /// What is to come of the frame's payload.
    left: usize,
    /// What is read at once.
    piece: usize,
    /// What may be spent on frames that ask for nothing.
    credit: usize,
    /// Whether anything was earned since it last flooded.
    has_earned: bool,
    turn: Turn,
}

/// When a connection is read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Turn {
    #[default]
    Now,
    /// After others have been served.
    Later,
    /// After the floods before it.
    Flood,
}

/// The frames whose heads were in a piece.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    requests: usize,
    others: usize,
}

// === impl Wary ===

impl<S> Wary<S> {
    /// Reads from `stream`, a connection of the worker whose floods wait in `floods`.
    pub(super) fn new(stream: S, floods: Floods) -> Self {
        Self { stream, frames: Frames::new(), floods, wait: None, read: 0 }
    }
}

impl<S: AsyncRead + Unpin> Wary<S> {
    fn poll_piece(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let piece = self.frames.piece;
        if piece >= TRUSTED {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let mut bytes = [0; TRUSTED];
        let mut part = ReadBuf::new(&mut bytes[..piece.min(buffer.remaining())]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        buffer.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wary<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match std::mem::take(&mut this.frames.turn) {
            Turn::Now if this.read < SHARE => {}
            Turn::Now | Turn::Later => {
                this.read = 0;
                yield_to_arrivals(cx);
                return Poll::Pending;
            }
            Turn::Flood => {
                let has_earned = std::mem::take(&mut this.frames.has_earned);
                let wait = this.floods.wait(has_earned);
                this.wait = Some(wait.ok_or_else(|| io::Error::other("one flood of frames too many"))?);
            }
        }
        if let Some(wait) = &mut this.wait {
            ready!(Pin::new(wait).poll(cx));
            this.wait = None;
        }
        let before = buffer.filled().len();
        let Poll::Ready(outcome) = this.poll_piece(cx, buffer) else {
            this.read = 0;
            return Poll::Pending;
        };
        outcome?;
        this.read += buffer.filled().len() - before;
        this.frames.hear(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wary<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        this.frames.earn(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, slices))?;
        this.frames.earn(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

// === impl Frames ===

impl Frames {
    fn new() -> Self {
        // The preface is passed over like a payload.
        let left = PREFACE.len();
        Self {
            head: [0; HEAD_BYTES],
            head_length: 0,
            left,
            piece: LEAST,
            credit: FIRST,
            has_earned: false,
            turn: Turn::Now,
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        let count = self.count(bytes);
        self.judge(&count);
    }

    fn count(&mut self, mut bytes: &[u8]) -> Count {
        let mut count = Count::default();
        while !bytes.is_empty() {
            let payload = self.left.min(bytes.len());
            self.left -= payload;
            bytes = &bytes[payload..];
            let head = (HEAD_BYTES - self.head_length).min(bytes.len());
            self.head[self.head_length..][..head].copy_from_slice(&bytes[..head]);
            self.head_length += head;
            bytes = &bytes[head..];
            if self.head_length == HEAD_BYTES {
                let [high, middle, low, kind, ..] = self.head;
                self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
                self.head_length = 0;
                match kind {
                    HEADERS | DATA if self.left > 0 => count.requests += 1,
                    _ => count.others += 1,
                }
            }
        }
        count
    }

    fn earn(&mut self, bytes: usize) {
        self.credit = self.credit.saturating_add(bytes).min(MOST);
        self.has_earned |= bytes > 0;
    }

    fn judge(&mut self, count: &Count) {
        self.earn(REQUEST * count.requests);
        if count.others <= USUAL + count.requests {
            self.piece = (2 * self.piece).min(TRUSTED);
            return;
        }
        self.piece = LEAST;
        let left = self.credit.checked_sub(PRICE * count.others);
        self.turn = if left.is_some() { Turn::Later } else { Turn::Flood };
        self.credit = left.unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::Instant,
    };

    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 0], payload].concat()
    }

    fn pings(count: usize) -> Vec<u8> {
        frame(6, &[7; 8]).repeat(count)
    }

    fn request() -> Vec<u8> {
        [frame(HEADERS, &[b'h'; 100]), frame(DATA, &[b'd'; 1000])].concat()
    }

    /// Reads what was sent, and tells in how many turns.
    async fn read(sent: &[u8]) -> (Vec<u8>, usize) {
        read_after(&[], sent).await
    }

    /// The same after `answer` was written.
    async fn read_after(answer: &[u8], sent: &[u8]) -> (Vec<u8>, usize) {
        let (ours, mut theirs) = tokio::io::duplex(4 << 20);
        theirs.write_all(sent).await.expect("room");
        theirs.shutdown().await.expect("a pipe");
        let mut wary = Wary::new(ours, Floods::default());
        let mut read = vec![0; PREFACE.len().min(sent.len())];
        wary.read_exact(&mut read).await.expect("a preface");
        wary.write_all(answer).await.expect("room");
        let mut turns = 0;
        {
            let mut all = std::pin::pin!(async {
                let mut buffer = [0; 8 << 10];
                while let length @ 1.. = wary.read(&mut buffer).await.expect("a pipe") {
                    read.extend_from_slice(&buffer[..length]);
                }
            });
            std::future::poll_fn(|cx| {
                turns += 1;
                all.as_mut().poll(cx)
            })
            .await;
        }
        (read, turns)
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_takes_turns_and_requests_do_not() {
        for (sent, least, most) in [
            (request().repeat(50), 1, 1),
            (request().repeat(500), 9, 10),
            ([pings(USUAL), request().repeat(50)].concat(), 1, 1),
            // Thirty pings fit in a piece.
            (pings(600), 20, 45),
            ([request().repeat(100), pings(2_000)].concat(), 50, 120),
            (frame(DATA, &[]).repeat(600), 10, 25),
            (frame(HEADERS, &[]).repeat(600), 10, 25),
        ] {
            let sent = [&PREFACE[..], &sent].concat();
            let (read, turns) = read(&sent).await;
            assert_eq!(read, sent);
            assert!((least..=most).contains(&turns), "{turns} turns for {} bytes", sent.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_paid_for_does_not_wait() {
        let update = |count| frame(8, &[0, 0, 64, 0]).repeat(count);
        let reset = [frame(HEADERS, b"request"), frame(3, &[0, 0, 0, 8])].concat();
        for (answer, sent, waits) in [
            (0, update(60), false),
            (0, update(200), true),
            // Two updates for every two kilobytes.
            (1 << 20, update(1 << 10), false),
            (1 << 20, update(2 << 10), true),
            (0, reset.repeat(10_000), false),
            // Two hundred of them at once.
            (
                0,
                [frame(HEADERS, b"request").repeat(200), frame(3, &[0, 0, 0, 8]).repeat(200)].concat(),
                false,
            ),
            (0, pings(200), true),
        ] {
            let began = Instant::now();
            read_after(&vec![b'a'; answer], &[&PREFACE[..], &sent].concat()).await;
            let waited = began.elapsed();
            assert_eq!(!waited.is_zero(), waits, "{waited:?} for {} bytes after {answer}", sent.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_too_many_is_let_go() {
        let floods = Floods::default();
        let others: Vec<_> = std::iter::from_fn(|| floods.wait(false)).collect();
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        theirs.write_all(&[&PREFACE[..], &pings(600)].concat()).await.expect("room");
        let mut wary = Wary::new(ours, floods);
        let mut read = Vec::new();
        wary.read_to_end(&mut read).await.expect_err("no room");
        assert!(read.len() < 100 * pings(1).len(), "{} bytes", read.len());
        drop(others);
    }

    #[test]
    fn frames_are_counted_wherever_they_are_cut() {
        let sent =
            [PREFACE.to_vec(), request(), pings(3), frame(DATA, &[]), request(), frame(250, &[1; 70_000])]
                .concat();
        for length in [1, 2, 8, 9, 10, 500, sent.len()] {
            let mut frames = Frames::new();
            let mut all = Count::default();
            for piece in sent.chunks(length) {
                let count = frames.count(piece);
                all.requests += count.requests;
                all.others += count.others;
            }
            assert_eq!(all, Count { requests: 4, others: 5 }, "in pieces of {length}");
            assert_eq!((frames.left, frames.head_length), (0, 0));
        }
    }
}
