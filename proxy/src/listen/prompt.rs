//! Bodies of requests that keep coming.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

/// How long a client may be silent while its request is read, as nginx has it.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request; it ends with an error where nothing more of it comes for [`BODY_TIMEOUT`]. Time
/// passes while more is waited for, and not while a node is slow to take what has come.
pub(super) struct Prompt<B> {
    body: B,
    /// Only there while more is waited for.
    silence: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug, thiserror::Error)]
#[error("nothing more of its body came within {BODY_TIMEOUT:?}; look at the client, or at what is between")]
struct Silent;

// === impl Prompt ===

impl<B> Prompt<B> {
    pub(super) fn new(body: B) -> Self {
        Self { body, silence: None }
    }
}

impl<B> Body for Prompt<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.silence = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let silence = this.silence.get_or_insert_with(|| Box::pin(tokio::time::sleep(BODY_TIMEOUT)));
        silence.as_mut().poll(cx).map(|()| Some(Err(Silent.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::{StreamExt, stream};
    use http_body_util::{BodyExt, StreamBody};
    use tokio::time::Instant;

    use super::*;

    /// A chunk after each of `pauses`, and no end.
    fn chunks(pauses: &'static [u64]) -> Prompt<impl Body<Data = Bytes, Error = BoxError> + Unpin> {
        let chunks = stream::iter(pauses).then(async |&pause| {
            tokio::time::sleep(Duration::from_secs(pause)).await;
            Ok(Frame::data(Bytes::from_static(b"x")))
        });
        Prompt::new(StreamBody::new(Box::pin(chunks.chain(stream::pending()))))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_come_slowly_and_must_keep_coming() {
        let mut body = chunks(&[59, 59, 0]);
        for _ in 0..3 {
            body.frame().await.expect("a frame").expect("a chunk");
        }
        let began = Instant::now();
        let error = body.frame().await.expect("an end").expect_err("silence");
        assert!(error.to_string().contains("within 60s"), "{error}");
        assert_eq!(began.elapsed(), BODY_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_not_blamed_for_a_slow_node() {
        let mut body = chunks(&[50, 50]);
        body.frame().await.expect("a frame").expect("a chunk");
        tokio::time::sleep(10 * BODY_TIMEOUT).await;
        body.frame().await.expect("a frame").expect("a chunk");
    }
}
