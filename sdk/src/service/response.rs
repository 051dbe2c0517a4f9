//! The body of a response.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use crate::balance::InFlight;

/// The body of a response: streamed from the node as the client takes it.
#[derive(Debug)]
pub struct ResponseBody(Kind);

#[derive(Debug)]
enum Kind {
    /// With the guard that counts the request as in flight until its last byte.
    Node(Incoming, Option<InFlight>),
    /// Made here; gRPC ends with trailers.
    Local(Bytes, Option<HeaderMap>),
}

// === impl ResponseBody ===

impl ResponseBody {
    pub(super) fn streamed(body: Incoming, in_flight: InFlight) -> Self {
        Self(Kind::Node(body, Some(in_flight)))
    }

    pub(super) fn local(bytes: Bytes) -> Self {
        Self(Kind::Local(bytes, None))
    }

    pub(super) fn with_trailers(bytes: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self(Kind::Local(bytes, trailers))
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.get_mut().0 {
            Kind::Node(body, in_flight) => {
                let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
                if frame.is_none() {
                    in_flight.take();
                }
                Poll::Ready(frame)
            }
            Kind::Local(bytes, trailers) if bytes.is_empty() => {
                Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Kind::Local(bytes, _) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Node(body, _) => body.is_end_stream(),
            Kind::Local(bytes, trailers) => bytes.is_empty() && trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Node(body, _) => body.size_hint(),
            Kind::Local(bytes, _) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}
