//! How much the router takes on at once. Beyond it, requests are refused at once, so that those under way
//! are served.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is under way.
#[derive(Debug)]
pub(super) struct Admission {
    requests: Arc<Semaphore>,
    held: Arc<AtomicUsize>,
    max_held: usize,
}

/// One request under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Admitted {
    _request: OwnedSemaphorePermit,
    held: Arc<AtomicUsize>,
    /// Bytes of its body that are kept in memory.
    mine: usize,
}

// === impl Admission ===

impl Admission {
    /// At most `max_requests` at once, with bodies of `max_held` bytes in memory together.
    pub(super) fn new(max_requests: usize, max_held: usize) -> Self {
        let requests = Arc::new(Semaphore::new(max_requests.min(Semaphore::MAX_PERMITS)));
        Self { requests, held: Arc::default(), max_held }
    }

    /// Lets a request in, unless too many are.
    pub(super) fn admit(&self) -> Option<Admitted> {
        let request = self.requests.clone().try_acquire_owned().ok()?;
        Some(Admitted { _request: request, held: self.held.clone(), mine: 0 })
    }

    /// Bytes of bodies that may still be kept in memory.
    pub(super) fn room(&self) -> usize {
        self.max_held.saturating_sub(self.held.load(Ordering::Relaxed))
    }
}

// === impl Admitted ===

impl Admitted {
    /// Notes that this many bytes of its body are kept in memory.
    pub(super) fn hold(&mut self, bytes: usize) {
        self.mine += bytes;
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.held.fetch_sub(self.mine, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_the_limit_is_refused_until_another_has_ended() {
        let admission = Admission::new(2, 100);
        let first = admission.admit().expect("room");
        let _second = admission.admit().expect("room");
        assert!(admission.admit().is_none());
        drop(first);
        assert!(admission.admit().is_some());
    }

    #[test]
    fn bytes_in_memory_are_counted_while_their_request_lasts() {
        let admission = Admission::new(2, 100);
        let mut request = admission.admit().expect("room");
        request.hold(70);
        assert_eq!(admission.room(), 30);
        request.hold(70);
        assert_eq!(admission.room(), 0);
        drop(request);
        assert_eq!(admission.room(), 100);
    }
}
