//! Reading from clients that may send much that asks for nothing.
//!
//! Pings, settings, priorities, empty data: each frame of HTTP/2 is work, and thousands fit in what one turn of a
//! connection reads. A connection is read in small pieces at first, and in larger ones as long as what comes are
//! requests. Where it is other frames mostly, every small piece is a turn of its own, so that a flood has the share of
//! one connection, and others are served between its pieces. Nothing is held back or taken amiss: window updates for a
//! large answer come in floods too.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::PREFACE;

/// What is read at once of a connection that is not trusted, and from where on it is.
const LEAST: usize = 512;
const TRUSTED: usize = 4 << 10;

/// So many frames that ask for nothing in one piece are nothing unusual.
const USUAL: usize = 8;

/// The head of a frame, and the kinds that carry requests.
const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// A connection of a client, read as it deserves.
#[derive(Debug)]
pub(super) struct Wary<S> {
    stream: S,
    speech: Speech,
}

/// What a client speaks.
#[derive(Debug)]
enum Speech {
    /// So much of HTTP/2's preface has come.
    Unknown(usize),
    Http1,
    Http2(Frames),
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
    /// Others are served before it is read again.
    gives_way: bool,
}

/// The frames whose heads were in a piece.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    requests: usize,
    others: usize,
}

// === impl Wary ===

impl<S> Wary<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, speech: Speech::Unknown(0) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wary<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.speech.gives_way() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let piece = this.speech.piece();
        let before = buffer.filled().len();
        if piece >= TRUSTED {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        } else {
            let mut bytes = [0; TRUSTED];
            let mut part = ReadBuf::new(&mut bytes[..piece.min(buffer.remaining())]);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
            buffer.put_slice(part.filled());
        }
        this.speech.hear(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wary<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
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

// === impl Speech ===

impl Speech {
    fn piece(&self) -> usize {
        match self {
            Self::Unknown(_) => LEAST,
            Self::Http1 => TRUSTED,
            Self::Http2(frames) => frames.piece,
        }
    }

    /// Whether it is somebody else's turn; asked once.
    fn gives_way(&mut self) -> bool {
        match self {
            Self::Unknown(_) | Self::Http1 => false,
            Self::Http2(frames) => std::mem::take(&mut frames.gives_way),
        }
    }

    fn hear(&mut self, mut bytes: &[u8]) {
        if let Self::Unknown(known) = *self {
            let rest = &PREFACE[known..];
            let length = rest.len().min(bytes.len());
            *self = match bytes[..length] == rest[..length] {
                false => Self::Http1,
                true if length == rest.len() => Self::Http2(Frames::new()),
                true => Self::Unknown(known + length),
            };
            bytes = &bytes[length..];
        }
        if let Self::Http2(frames) = self
            && !bytes.is_empty()
        {
            let count = frames.count(bytes);
            frames.judge(&count);
        }
    }
}

// === impl Frames ===

impl Frames {
    fn new() -> Self {
        Self { head: [0; HEAD_BYTES], head_length: 0, left: 0, piece: LEAST, gives_way: false }
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
                    HEADERS => count.requests += 1,
                    DATA if self.left > 0 => count.requests += 1,
                    _ => count.others += 1,
                }
            }
        }
        count
    }

    fn judge(&mut self, count: &Count) {
        if count.others > USUAL + count.requests {
            self.piece = LEAST;
            self.gives_way = true;
        } else {
            self.piece = (2 * self.piece).min(TRUSTED);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        theirs.write_all(sent).await.expect("room");
        drop(theirs);
        let mut wary = Wary::new(ours);
        let (mut read, mut turns) = (Vec::new(), 0);
        {
            let mut all = std::pin::pin!(async {
                // As much at once as a server reads.
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

    #[tokio::test]
    async fn a_flood_takes_turns_and_requests_do_not() {
        for (sent, least, most) in [
            (request().repeat(100), 1, 1),
            ([pings(USUAL), request().repeat(100)].concat(), 1, 1),
            // Thirty pings fit in a piece.
            (pings(600), 20, 25),
            ([request().repeat(100), pings(2_000)].concat(), 50, 60),
            (frame(DATA, &[]).repeat(600), 10, 15),
        ] {
            let sent = [&PREFACE[..], &sent].concat();
            let (read, turns) = read(&sent).await;
            assert_eq!(read, sent);
            assert!((least..=most).contains(&turns), "{turns} turns for {} bytes", sent.len());
        }
    }

    #[tokio::test]
    async fn http1_is_left_alone() {
        for sent in
            ["GET / HTTP/1.1\r\n\r\n".repeat(1000), "P".to_owned(), "PRI * HTTP/1.1\r\n\r\n".repeat(99)]
        {
            assert_eq!(read(sent.as_bytes()).await, (sent.into_bytes(), 1));
        }
    }

    #[test]
    fn frames_are_counted_wherever_they_are_cut() {
        let sent = [request(), pings(3), frame(DATA, &[]), request(), frame(250, &[1; 70_000])].concat();
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
