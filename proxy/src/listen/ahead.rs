//! Reading much at once where much is there, for a reader that asks for little.
//!
//! A server of HTTP/2 reads a frame at a time, and a client that uploads sends hundreds of them. Each read is a call of
//! the system; to copy what one large call brought costs less.

use std::{
    io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

/// What is read at once.
const AHEAD: usize = 64 << 10;

/// A read that brought as much as was asked for, and no less than this, has left more behind.
const LONG: usize = 4 << 10;

/// What was read ahead of a connection, which is while its client uploads. Nothing is held for one that is quiet.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    bytes: Vec<u8>,
    /// Where in them lies what has been read and not yet taken.
    left: Range<usize>,
    is_uploading: bool,
}

// === impl Ahead ===

impl Ahead {
    /// Reads from `stream`, which nobody else reads from.
    pub(super) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.left.is_empty() {
            self.take(buffer);
            return Poll::Ready(Ok(()));
        }
        if !self.is_uploading {
            let asked = buffer.remaining();
            ready!(Pin::new(stream).poll_read(cx, buffer))?;
            self.is_uploading = asked >= LONG && buffer.remaining() == 0;
            return Poll::Ready(Ok(()));
        }
        self.bytes.resize(AHEAD, 0);
        let mut all = ReadBuf::new(&mut self.bytes);
        let read = Pin::new(stream).poll_read(cx, &mut all);
        self.left = 0..all.filled().len();
        if self.left.len() < LONG {
            self.is_uploading = false;
        }
        self.take(buffer);
        read
    }

    fn take(&mut self, buffer: &mut ReadBuf<'_>) {
        let length = self.left.len().min(buffer.remaining());
        buffer.put_slice(&self.bytes[self.left.start..self.left.start + length]);
        self.left.start += length;
        if self.left.is_empty() && !self.is_uploading {
            self.bytes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::future::poll_immediate;
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    /// A stream that counts how often it is read.
    struct Counted<S>(S, usize);

    impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.1 += 1;
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    /// A connection that is read ahead.
    struct Reader<S> {
        stream: S,
        ahead: Ahead,
    }

    impl<S: AsyncRead + Unpin> Reader<S> {
        fn new(stream: S) -> Self {
            Self { stream, ahead: Ahead::default() }
        }

        async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let mut buffer = ReadBuf::new(buffer);
            poll_fn(|cx| self.ahead.poll_read(&mut self.stream, cx, &mut buffer)).await?;
            Ok(buffer.filled().len())
        }
    }

    #[tokio::test]
    async fn an_upload_takes_few_reads_and_arrives_as_it_was_sent() {
        let (ours, mut theirs) = duplex(4 << 20);
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        theirs.write_all(&sent).await.expect("room");
        theirs.shutdown().await.expect("a pipe");
        let mut reader = Reader::new(Counted(ours, 0));
        let (mut read, mut buffer) = (Vec::new(), [0; 8 << 10]);
        while let length @ 1.. = reader.read(&mut buffer).await.expect("a pipe") {
            read.extend_from_slice(&buffer[..length]);
        }
        assert!(read == sent);
        let reads = reader.stream.1;
        assert!(reads <= 3_000_000 / AHEAD + 4, "{reads} reads");
    }

    #[tokio::test]
    async fn short_requests_are_read_into_the_readers_buffer() {
        let (ours, mut theirs) = duplex(1 << 20);
        let mut reader = Reader::new(ours);
        let mut buffer = [0; 8 << 10];
        for length in [1, LONG, buffer.len() - 1] {
            theirs.write_all(&vec![b'x'; length]).await.expect("room");
            assert_eq!(reader.read(&mut buffer).await.expect("a pipe"), length);
            assert!(reader.ahead.bytes.is_empty(), "{length}");
        }
    }

    #[tokio::test]
    async fn nothing_is_held_once_the_upload_is_over() {
        let (ours, mut theirs) = duplex(1 << 20);
        let mut reader = Reader::new(ours);
        let mut buffer = [0; 8 << 10];
        theirs.write_all(&[b'x'; 100_000]).await.expect("room");
        let mut read = 0;
        while read < 100_000 {
            read += reader.read(&mut buffer).await.expect("a pipe");
        }
        assert!(!reader.ahead.bytes.is_empty());
        assert!(poll_immediate(std::pin::pin!(reader.read(&mut buffer))).await.is_none());
        assert!(reader.ahead.bytes.capacity() == 0 && !reader.ahead.is_uploading);
        theirs.write_all(b"more").await.expect("room");
        assert_eq!(reader.read(&mut buffer).await.expect("a pipe"), 4);
    }

    #[tokio::test]
    async fn nothing_is_held_after_a_short_end_that_was_taken_in_pieces() {
        let (ours, mut theirs) = duplex(1 << 20);
        let mut reader = Reader::new(ours);
        let mut buffer = [0; 8 << 10];
        theirs.write_all(&[b'x'; 8 << 10]).await.expect("room");
        assert_eq!(reader.read(&mut buffer).await.expect("a pipe"), buffer.len());
        theirs.write_all(&[b'x'; 1_000]).await.expect("room");
        for _ in 0..2 {
            assert_eq!(reader.read(&mut buffer[..500]).await.expect("a pipe"), 500);
        }
        assert_eq!(reader.ahead.bytes.capacity(), 0);
    }
}
