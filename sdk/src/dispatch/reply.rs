//! The body of a node's answer.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;

use crate::{
    balance::InFlight,
    transport::{BrokenAnswer, NodeBody},
};

/// An answer that is no longer than this is read to its end before its head goes out.
const PRIMED_BYTES: usize = 64 << 10;

/// The body of a node's answer, streamed as the client takes it. Its request counts as in flight until
/// the last byte.
#[derive(Debug)]
pub(crate) struct ReplyBody {
    /// What was read in advance: nearly always one piece, and what came after it, the last first.
    first: Bytes,
    more: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    /// `None` once its end is known.
    rest: Option<NodeBody>,
    in_flight: Option<InFlight>,
}

impl ReplyBody {
    pub(crate) fn new(body: NodeBody, in_flight: InFlight) -> Self {
        Self {
            first: Bytes::new(),
            more: Vec::new(),
            trailers: None,
            rest: Some(body),
            in_flight: Some(in_flight),
        }
    }

    /// Reads a short answer to its end, and the beginning of a long one. Until then nothing has gone to
    /// the client, so that a request whose answer breaks off here can be made again elsewhere, or refused
    /// in words.
    pub(crate) async fn prime(&mut self) -> Result<(), BrokenAnswer> {
        let mut read = 0;
        while read <= PRIMED_BYTES
            && let Some(body) = &mut self.rest
        {
            let Some(frame) = body.frame().await else {
                self.rest = None;
                break;
            };
            match frame?.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    read += data.len();
                    if self.first.is_empty() {
                        self.first = data;
                    } else {
                        self.more.push(data);
                    }
                }
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            }
        }
        self.more.reverse();
        Ok(())
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BrokenAnswer;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenAnswer>>> {
        let this = self.get_mut();
        if !this.first.is_empty() {
            let next = this.more.pop().unwrap_or_default();
            return Poll::Ready(Some(Ok(Frame::data(std::mem::replace(&mut this.first, next)))));
        }
        if let Some(trailers) = this.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let frame = match &mut this.rest {
            Some(body) => ready!(Pin::new(body).poll_frame(cx)),
            None => None,
        };
        if frame.is_none() {
            this.rest = None;
            this.in_flight = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.trailers.is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.first.len() as u64 + self.more.iter().map(|data| data.len() as u64).sum::<u64>();
        let mut hint = self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + read);
        }
        hint.set_lower(hint.lower() + read);
        hint
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[tokio::test]
    async fn what_was_read_in_advance_comes_in_its_order() {
        let piece = Bytes::from_static;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let mut body = ReplyBody {
            first: piece(b"one"),
            more: vec![piece(b"three"), piece(b"two")],
            trailers: Some(trailers.clone()),
            rest: None,
            in_flight: None,
        };
        for (text, left) in [("one", 8), ("two", 5), ("three", 0)] {
            let frame = body.frame().await.expect("a frame").expect("no error");
            assert_eq!(frame.into_data().expect("data"), text);
            assert_eq!(body.size_hint().exact(), Some(left));
            assert!(!body.is_end_stream(), "trailers are to come");
        }
        let frame = body.frame().await.expect("a frame").expect("no error");
        assert_eq!(frame.into_trailers().expect("trailers"), trailers);
        assert!(body.is_end_stream() && body.frame().await.is_none());
    }
}
