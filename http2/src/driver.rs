//! What reads and writes.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, Sleep},
};

use crate::{outbox::Outbox, streams::Streams, turns::yield_to_arrivals};

/// So much is read at once, and more as long as that is not enough.
const READ_BYTES: usize = 16 << 10;
const MAX_READ_BYTES: usize = 64 << 10;

/// So often a connection is read from before others have their turn.
const READS: usize = 4;

/// How long the end of a connection may take.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// How long the other side may take, after an orderly end, to read what it was sent and to end its own half: in all, and
/// without a sign of it.
pub(crate) const LINGER: Duration = Duration::from_secs(30);
pub(crate) const LINGER_IN_SILENCE: Duration = Duration::from_secs(5);

/// A connection, shared by those who have to do with its streams and the one task that reads and writes.
#[derive(Debug)]
pub(crate) struct Shared(Mutex<Streams>);

/// How long a connection may be quiet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// After so long the other side is asked whether it is there,
    pub(crate) ping_interval: Duration,
    /// and is given up when the answer takes longer than this.
    pub(crate) ping_timeout: Duration,
}

/// What reads and writes, until the connection is over.
pub(crate) struct Driver<S> {
    shared: Arc<Shared>,
    stream: S,
    read: BytesMut,
    /// How much is read at once.
    most: usize,
    /// What is being written, and how many bytes have been.
    outbox: Outbox,
    written: u64,
    /// Whether the stream keeps nothing of that back, as TLS may.
    is_flushed: bool,
    /// Whether the stream takes nothing more before the other side has taken something.
    is_blocked: bool,
    patience: Patience,
    /// When to ask whether the other side is there, or no longer to wait for its answer.
    clock: Pin<Box<Sleep>>,
    is_asked: bool,
    /// Whether anything has come since that was last looked at.
    is_heard: bool,
    /// How long the other side may take to end its half.
    linger: Duration,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(streams: Streams) -> Arc<Self> {
        Arc::new(Self(Mutex::new(streams)))
    }

    pub(crate) fn streams(&self) -> MutexGuard<'_, Streams> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is there at once, or waited for.
pub(crate) fn ready<T>(value: Option<T>) -> Poll<T> {
    value.map_or(Poll::Pending, Poll::Ready)
}

// === impl Driver ===

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(crate) fn new(shared: Arc<Shared>, stream: S, patience: Patience) -> Self {
        Self {
            shared,
            stream,
            read: BytesMut::new(),
            most: READ_BYTES,
            outbox: Outbox::default(),
            written: 0,
            is_flushed: true,
            is_blocked: false,
            patience,
            clock: Box::pin(tokio::time::sleep(patience.ping_interval)),
            is_asked: false,
            is_heard: false,
            linger: SHUTDOWN,
        }
    }

    /// Ready with the reason when the connection is over.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        self.shared.streams().set_driver(cx.waker());
        // What is there to be written goes first, as somebody waits for it.
        let written = self.write(cx);
        let may_read = written.is_err() || self.shared.streams().may_read();
        if may_read && let Poll::Ready(reason) = self.poll_read(cx) {
            return Poll::Ready(reason);
        }
        // Only now, as what has come may have waited for this thread.
        if self.poll_silence(cx).is_ready() {
            self.linger = Duration::ZERO;
            return Poll::Ready(format!("the {} is silent", self.shared.streams().other()));
        }
        if let Err(error) = written.and_then(|()| self.write(cx)) {
            // Whatever has come tells more.
            let reason = self.poll_read(cx);
            return Poll::Ready(if let Poll::Ready(reason) = reason { reason } else { error.to_string() });
        }
        if !may_read && self.shared.streams().may_read() {
            cx.waker().wake_by_ref();
        }
        if self.outbox.len() > 0 || !self.is_flushed || !self.shared.streams().is_done() {
            return Poll::Pending;
        }
        self.linger = LINGER;
        Poll::Ready("the connection has ended".to_owned())
    }

    /// Ends the connection, which is over because of `reason`.
    pub(crate) async fn close(mut self, reason: &str) {
        self.fail(reason);
        let _ = tokio::time::timeout(SHUTDOWN, self.stream.shutdown()).await;
        let _ = tokio::time::timeout(self.linger, self.discard()).await;
    }

    /// Reads until the other side has ended its half, too. A system that closes a socket to which more comes resets the
    /// connection, and takes back what it was to send: the end of the last answer.
    async fn discard(&mut self) {
        self.outbox = Outbox::default();
        loop {
            self.read.clear();
            self.read.reserve(READ_BYTES);
            match tokio::time::timeout(LINGER_IN_SILENCE, self.stream.read_buf(&mut self.read)).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0) | Err(_)) | Err(_) => return,
            }
        }
    }

    /// Ready when the other side does not answer that it is there.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.clock.as_mut().poll(cx).is_ready() {
            self.shared.streams().give_up_stalled();
            let Patience { ping_interval, ping_timeout } = self.patience;
            let next = match (std::mem::take(&mut self.is_heard), self.is_asked) {
                (false, true) => return Poll::Ready(()),
                (false, false) => {
                    self.shared.streams().ping();
                    self.is_asked = true;
                    ping_timeout
                }
                // Its answer is behind much else.
                (true, true) => ping_timeout,
                (true, false) => ping_interval,
            };
            self.clock.as_mut().reset(Instant::now() + next);
        }
        Poll::Pending
    }

    /// Reads what there is; ready with the reason when nothing more comes.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        for _ in 0..READS {
            self.read.reserve(self.most);
            let read = match pin!(self.stream.read_buf(&mut self.read)).poll(cx) {
                Poll::Ready(Ok(0)) => {
                    // It may still read.
                    let _ = self.write(cx);
                    return Poll::Ready(self.shared.streams().ending("the connection was closed"));
                }
                Poll::Ready(Ok(read)) => read,
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(self.shared.streams().ending(&error.to_string()));
                }
                Poll::Pending => {
                    if self.read.is_empty() && self.shared.streams().rest() {
                        self.read = BytesMut::new();
                        self.outbox.shrink();
                    }
                    return Poll::Pending;
                }
            };
            self.is_heard = true;
            self.most = match read >= self.most {
                true => (2 * self.most).min(MAX_READ_BYTES),
                false => READ_BYTES,
            };
            let mut streams = self.shared.streams();
            if let Err(violation) = streams.receive(&mut self.read) {
                streams.say_goodbye(violation.reason);
                let reason = format!("the {} breaks the protocol: {}", streams.other(), violation.what);
                drop(streams);
                // It may want to know.
                let _ = self.write(cx);
                return Poll::Ready(reason);
            }
            if self.is_asked && !streams.is_pinged() {
                self.is_asked = false;
                self.clock.as_mut().reset(Instant::now() + self.patience.ping_interval);
            }
        }
        yield_to_arrivals(cx);
        Poll::Pending
    }

    /// Writes as much as can be.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            if self.outbox.len() == 0 {
                let mut streams = self.shared.streams();
                streams.fill();
                if streams.outbox.len() == 0 {
                    break;
                }
                std::mem::swap(&mut streams.outbox, &mut self.outbox);
            }
            self.is_flushed = false;
            let before = self.outbox.len();
            let outcome = self.outbox.poll_write(&mut self.stream, cx);
            let written = before - self.outbox.len();
            self.written += written as u64;
            // Who takes what is sent is there.
            self.is_heard |= self.is_blocked && written > 0;
            self.is_blocked = outcome.is_pending();
            match outcome {
                Poll::Ready(outcome) => outcome?,
                Poll::Pending => return Ok(()),
            }
        }
        if !self.is_flushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            flushed?;
            self.is_flushed = true;
        }
        Ok(())
    }
}

impl<S> Driver<S> {
    fn fail(&self, reason: &str) {
        self.shared.streams().fail(self.written, reason);
    }
}

impl<S> Drop for Driver<S> {
    /// A runtime that ends takes its connections with it, and nobody may wait for them on another.
    fn drop(&mut self) {
        self.fail("its runtime has ended");
    }
}
