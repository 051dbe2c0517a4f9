//! Answers that a node gives without serving: for a time, it is out of budget, broken or busy.
//!
//! Only requests about points and indexes are answered so. The node still says what it is and counts, so that a test can go on
//! looking at it, and a router at the topology.

use std::sync::Mutex;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body_util::Full;
use tonic::Status;

use super::error::{Kind, OpError};
use super::rest;
use super::shard::lock;

/// One such answer. It is given before the request has any effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canned {
    kind: Kind,
    text: String,
    retry_after: Option<u32>,
    times: Option<u64>,
}

/// What a node has been told to answer, and how often it did.
#[derive(Debug, Default)]
pub(crate) struct Cans {
    state: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    canned: Option<Canned>,
    given: u64,
}

// === impl Canned ===

impl Canned {
    /// 429 and `RESOURCE_EXHAUSTED`; with a value, both tell after how many seconds to come back.
    #[must_use]
    pub fn rate_limited(retry_after: Option<u32>) -> Self {
        let text = match retry_after {
            Some(seconds) => format!(
                "Read rate limit exceeded: Operation requires 1 tokens but only 0.0 were available. Retry after {seconds}s"
            ),
            None => "Read rate limit exceeded, request larger than the rate limiter capacity".to_owned(),
        };
        Self { retry_after, ..Self::new(Kind::RateLimited, &text) }
    }

    /// 500 and `INTERNAL`.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(Kind::Service, "Local shard 0 not found")
    }

    /// 503 and `UNAVAILABLE`.
    #[must_use]
    pub fn unavailable() -> Self {
        Self::new(Kind::Unavailable, "shard 0 is being recovered")
    }

    /// 507 and `RESOURCE_EXHAUSTED` with a mark, of a node that is over its quota (Qdrant 1.19).
    #[must_use]
    pub fn no_storage() -> Self {
        Self::new(Kind::NoStorage, "Disk usage 91% is over the limit of 90%")
    }

    /// This often, and then no more. Without it: until the node is healed.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// What the error says, after the words with which Qdrant begins errors of this kind.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = text.into();
        self
    }

    fn new(kind: Kind, text: &str) -> Self {
        Self { kind, text: text.to_owned(), retry_after: None, times: None }
    }

    fn error(&self) -> OpError {
        OpError::new(self.kind, &self.text)
    }

    /// As REST says it.
    pub(crate) fn rest(&self, began: Instant) -> Response<Full<Bytes>> {
        let mut response = rest::refusal(self.error(), began);
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    /// As gRPC says it.
    pub(crate) fn status(&self) -> Status {
        let mut status = Status::from(self.error());
        if let Some(seconds) = self.retry_after
            && let Ok(value) = seconds.to_string().parse()
        {
            status.metadata_mut().insert("retry-after", value);
        }
        status
    }
}

// === impl Cans ===

impl Cans {
    pub(crate) fn set(&self, canned: Option<Canned>) {
        lock(&self.state).canned = canned;
    }

    /// The answer to the next request, if it is not to be served.
    pub(crate) fn take(&self) -> Option<Canned> {
        let mut state = lock(&self.state);
        let canned = state.canned.as_mut()?;
        if let Some(times) = &mut canned.times {
            *times = times.checked_sub(1)?;
        }
        let canned = canned.clone();
        state.given += 1;
        Some(canned)
    }

    /// How many such answers were given so far.
    pub(crate) fn given(&self) -> u64 {
        lock(&self.state).given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_ends() {
        let cans = Cans::default();
        assert_eq!(cans.take(), None);
        cans.set(Some(Canned::internal().times(2)));
        assert!(cans.take().is_some() && cans.take().is_some() && cans.take().is_none());
        cans.set(Some(Canned::unavailable()));
        assert!((0..10).all(|_| cans.take().is_some()));
        cans.set(None);
        assert_eq!((cans.take(), cans.given()), (None, 12));
    }

    #[test]
    fn both_protocols_say_the_same() {
        for (canned, status, code, text) in [
            (
                Canned::rate_limited(Some(3)).text("slow down"),
                429,
                tonic::Code::ResourceExhausted,
                "Rate limiting exceeded: slow down",
            ),
            (
                Canned::internal(),
                500,
                tonic::Code::Internal,
                "Service internal error: Local shard 0 not found",
            ),
            (
                Canned::unavailable().text("x"),
                503,
                tonic::Code::Unavailable,
                "Shard temporarily unavailable: x",
            ),
            (Canned::no_storage().text("x"), 507, tonic::Code::ResourceExhausted, "Insufficient storage: x"),
        ] {
            let rest = canned.rest(Instant::now());
            let grpc = canned.status();
            assert_eq!((rest.status().as_u16(), grpc.code(), grpc.message()), (status, code, text));
            let retry = rest.headers().get("retry-after").map(HeaderValue::as_bytes);
            assert_eq!(
                retry,
                grpc.metadata().get("retry-after").map(tonic::metadata::MetadataValue::as_bytes)
            );
            assert_eq!(retry.is_some(), status == 429);
            assert_eq!(grpc.metadata().contains_key("qdrant-insufficient-storage"), status == 507);
        }
    }
}
