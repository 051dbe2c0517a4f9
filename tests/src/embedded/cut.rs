//! Connections that break in the middle of an answer.
//!
//! The request has been executed, half of the body is on its way, and then comes a TCP reset: the client knows the status
//! and cannot know the rest. The body and the stream below it meet in a [`Cut`].

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::stream;
use http::Response;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Collected, StreamBody};
use hyper::body::{Body, Frame};
use tokio::sync::watch;

/// The body of any answer.
pub(crate) type AnyBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// The end of one connection, decided by a body and carried out by the stream.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    armed: Arc<AtomicBool>,
    done: Arc<watch::Sender<bool>>,
}

impl Default for Cut {
    fn default() -> Self {
        Self { armed: Arc::default(), done: Arc::new(watch::channel(false).0) }
    }
}

// === impl Cut ===

impl Cut {
    /// Ends the connection as soon as what has been said so far is written.
    fn after_flush(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    /// Ends the connection.
    fn now(&self) {
        self.done.send_replace(true);
    }

    /// To be called when everything is written.
    pub(crate) fn flushed(&self) {
        if self.armed.load(Ordering::SeqCst) {
            self.now();
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        *self.done.borrow()
    }

    /// Waits for the end.
    pub(crate) async fn done(&self) {
        drop(self.done.subscribe().wait_for(|done| *done).await);
    }
}

/// The answer with the first half of its body and no more. An answer without a body worth halving is not given at all.
pub(crate) async fn halve<B>(response: Response<B>, cut: Cut, announce_length: bool) -> Response<AnyBody>
where
    B: Body<Data = Bytes> + Send + 'static,
{
    let (mut head, body) = response.into_parts();
    let whole = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
    let half = whole.len() / 2;
    if half == 0 {
        cut.now();
    }
    if announce_length {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(whole.len()));
    }
    // Two pieces: once the second is asked for, the protocol has taken the first, and will write both before it flushes.
    let last = half.saturating_sub(1);
    let pieces = [whole.slice(..last), whole.slice(last..half)];
    let body = stream::unfold(0, move |at: usize| {
        let (piece, cut) = (pieces.get(at).cloned(), cut.clone());
        async move {
            if at == 1 {
                cut.after_flush();
            }
            match piece {
                Some(piece) => Some((Ok::<_, Infallible>(Frame::data(piece)), at + 1)),
                None => std::future::pending().await,
            }
        }
    });
    Response::from_parts(head, boxed(StreamBody::new(body)))
}

/// The same body behind one type.
pub(crate) fn boxed<B>(body: B) -> AnyBody
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    UnsyncBoxBody::new(body.map_err(Into::into))
}
