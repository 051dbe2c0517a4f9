//! The body of a response.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::{
    dispatch::{Admitted, ReplyBody},
    transport::BrokenAnswer,
};

/// The body of a response: streamed from the node as the client takes it.
#[derive(Debug)]
pub struct ResponseBody {
    kind: Kind,
    /// Its request is under way until the end of this.
    admitted: Option<Arc<Admitted>>,
}

#[derive(Debug)]
enum Kind {
    Node(ReplyBody),
    /// Made here; gRPC ends with trailers.
    Local(Bytes, Option<HeaderMap>),
}

// === impl ResponseBody ===

impl ResponseBody {
    pub(super) fn streamed(body: ReplyBody) -> Self {
        Self::of(Kind::Node(body))
    }

    pub(super) fn local(bytes: Bytes) -> Self {
        Self::of(Kind::Local(bytes, None))
    }

    pub(super) fn with_trailers(bytes: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self::of(Kind::Local(bytes, trailers))
    }

    fn of(kind: Kind) -> Self {
        Self { kind, admitted: None }
    }

    /// Counts the request as under way until the end of its body.
    pub(super) fn keep(&mut self, admitted: Arc<Admitted>) {
        self.admitted = Some(admitted);
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BrokenAnswer;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenAnswer>>> {
        match &mut self.get_mut().kind {
            Kind::Node(body) => Pin::new(body).poll_frame(cx),
            Kind::Local(bytes, trailers) if bytes.is_empty() => {
                Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Kind::Local(bytes, _) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Node(body) => body.is_end_stream(),
            Kind::Local(bytes, trailers) => bytes.is_empty() && trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Node(body) => body.size_hint(),
            Kind::Local(bytes, _) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}
