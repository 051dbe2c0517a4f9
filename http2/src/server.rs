//! A server, for requests of one client.
//!
//! [`serve`] hands each request over with the [`Exchange`] that takes its answer, which whoever gets them may do in a
//! task of its own.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    driver::{self, Driver, Patience, Shared},
    streams::{Accepted, Broken, Limits, Next, Sent, Streams},
    turns::after_others,
};

/// Uploads should not wait for a round trip per 64 KiB; what nobody has read of them takes no more than the connection's
/// window, short bodies that came with their heads aside. Headers are limited as Qdrant limits them.
const LIMITS: Limits = Limits {
    stream_window: 1 << 20,
    connection_window: 4 << 20,
    header_list_bytes: 16 << 10,
    streams: Some(256),
};

/// Clients may be quiet for long.
const PATIENCE: Patience =
    Patience { ping_interval: Duration::from_secs(20), ping_timeout: Duration::from_secs(20) };

/// A request that waits for its answer. One that is dropped without is reset.
#[must_use]
pub struct Exchange {
    shared: Arc<Shared>,
    id: u32,
}

/// The body of a request, as it comes. It is read no longer than its [`Exchange`] lives.
#[derive(Debug)]
pub struct Incoming(Source);

#[derive(Debug)]
enum Source {
    /// It was there with its head.
    Whole(Bytes),
    Stream(Rest),
}

/// What is still to come.
struct Rest {
    shared: Arc<Shared>,
    id: u32,
    /// How long it is, where its head tells.
    left: Option<u64>,
}

/// Serves a connection: hands its requests to `accept`, and writes their answers. Once `is_ending` and polled again, it
/// tells the client to open no more streams, and ends when those that there are have ended.
///
/// Requests have a path for their URI; to whom they were addressed is not looked at. Of their other fields and of their
/// bodies only what RFC 9113 allows comes this far.
///
/// Tells the reason why the connection is over.
pub async fn serve<S>(
    stream: S,
    mut accept: impl FnMut(Request<Incoming>, Exchange),
    is_ending: &AtomicBool,
) -> String
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let shared = Shared::new(Streams::server(&LIMITS));
    let mut driver = Driver::new(shared.clone(), stream, PATIENCE);
    let reason = poll_fn(|cx| {
        if is_ending.load(Ordering::Relaxed) {
            shared.streams().retire();
        }
        let outcome = driver.poll(cx);
        if outcome.is_ready() {
            return outcome;
        }
        // The lock is not held while it is accepted.
        while let Some(accepted) = { shared.streams().accept() } {
            let (request, exchange) = Exchange::of(accepted, &shared);
            accept(request, exchange);
        }
        outcome
    })
    .await;
    driver.close(&reason).await;
    reason
}

// === impl Exchange ===

impl Exchange {
    fn of(accepted: Accepted, shared: &Arc<Shared>) -> (Request<Incoming>, Self) {
        let Accepted { id, request, left, body } = accepted;
        let source = match body {
            Some(bytes) => Source::Whole(bytes),
            None => Source::Stream(Rest { shared: shared.clone(), id, left }),
        };
        (request.map(|()| Incoming(source)), Self { shared: shared.clone(), id })
    }

    /// Sends what `answer` comes to, unless the client gives the request up before. What is left of it then is cleared away
    /// after it has gone out.
    ///
    /// The future of `answer` is made where it stays: one that was handed over would be copied, with all the room that it
    /// has for later.
    pub async fn answer<B: Body<Data = Bytes>>(self, answer: impl AsyncFnOnce() -> Response<B>) {
        let mut answer = pin!(answer());
        let response = poll_fn(|cx| {
            // Before it is begun, too: its client may have gone while others had their turn.
            if self.poll_unwanted(cx).is_ready() {
                return Poll::Ready(None);
            }
            answer.as_mut().poll(cx).map(Some)
        });
        if let Some(response) = response.await {
            self.send(response).await;
        }
    }

    async fn send<B: Body<Data = Bytes>>(&self, response: Response<B>) {
        let (head, body) = response.into_parts();
        let mut body = pin!(body);
        let is_bodiless = body.is_end_stream();
        self.shared.streams().answer(self.id, head.status, &head.headers, is_bodiless);
        if !is_bodiless {
            self.send_body(body.as_mut()).await;
        }
        after_others().await;
    }

    async fn send_body<B: Body<Data = Bytes>>(&self, mut body: Pin<&mut B>) {
        let trailers = loop {
            let frame = poll_fn(|cx| match body.as_mut().poll_frame(cx) {
                Poll::Ready(frame) => Poll::Ready(Some(frame)),
                Poll::Pending => self.poll_unwanted(cx).map(|()| None),
            });
            let frame = match frame.await {
                None | Some(Some(Err(_))) => return,
                Some(None) => break None,
                Some(Some(Ok(frame))) => frame,
            };
            let mut data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => break frame.into_trailers().ok(),
            };
            let is_last = body.is_end_stream();
            if data.is_empty() {
                match is_last {
                    true => break None,
                    false => continue,
                }
            }
            let sent = poll_fn(|cx| {
                driver::ready(self.shared.streams().send(self.id, &mut data, is_last, cx.waker()))
            });
            if sent.await == Sent::Nowhere || is_last {
                return;
            }
        };
        self.shared.streams().finish(self.id, trailers);
    }

    /// Ready when the client has given the request up.
    fn poll_unwanted(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.shared.streams().is_wanted(self.id, cx.waker()) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.shared.streams().leave_answer(self.id);
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("id", &self.id).finish_non_exhaustive()
    }
}

// === impl Incoming ===

impl Body for Incoming {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let rest = match &mut self.get_mut().0 {
            Source::Whole(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Source::Whole(bytes) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Source::Stream(rest) => rest,
        };
        let next = ready!(driver::ready(rest.shared.streams().next(rest.id, cx.waker())))?;
        Poll::Ready(match next {
            Next::Data(data) => {
                rest.left = rest.left.map(|left| left.saturating_sub(data.len() as u64));
                Some(Ok(Frame::data(data)))
            }
            Next::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
            Next::End => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Whole(bytes) => bytes.is_empty(),
            Source::Stream(rest) => rest.shared.streams().is_over(rest.id),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Stream(rest) => rest.left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

// === impl Rest ===

impl Drop for Rest {
    fn drop(&mut self) {
        self.shared.streams().leave_body(self.id);
    }
}

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rest").field("id", &self.id).field("left", &self.left).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
