//! The body of a node's answer.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use smallvec::SmallVec;

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
    /// What was read in advance, in order.
    first: SmallVec<[Frame<Bytes>; 2]>,
    /// `None` once its end is known.
    rest: Option<NodeBody>,
    in_flight: Option<InFlight>,
}

// === impl ReplyBody ===

impl ReplyBody {
    pub(crate) fn new(body: NodeBody, in_flight: InFlight) -> Self {
        Self { first: SmallVec::new(), rest: Some(body), in_flight: Some(in_flight) }
    }

    /// Reads a short answer to its end, and the beginning of a long one. Until then nothing has gone to
    /// the client, so that a request whose answer breaks off here can be made again elsewhere, or refused
    /// in words.
    pub(crate) async fn prime(mut self) -> Result<Self, BrokenAnswer> {
        let Some(mut body) = self.rest.take() else { return Ok(self) };
        let mut read = 0;
        while read <= PRIMED_BYTES {
            match body.frame().await {
                Some(frame) => {
                    let frame = frame?;
                    read += frame.data_ref().map_or(0, Bytes::len);
                    self.first.push(frame);
                }
                None => {
                    self.first.reverse();
                    return Ok(self);
                }
            }
        }
        self.first.reverse();
        self.rest = Some(body);
        Ok(self)
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
        if let Some(frame) = this.first.pop() {
            return Poll::Ready(Some(Ok(frame)));
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
        self.first.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let read: u64 = self.first.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        let mut hint = self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + read);
        }
        hint.set_lower(hint.lower() + read);
        hint
    }
}
