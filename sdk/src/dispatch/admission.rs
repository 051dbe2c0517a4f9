//! How much the router takes on at once. Beyond it, requests are refused at once, so that those under way
//! are served.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is under way.
#[derive(Debug)]
pub(crate) struct Admission {
    requests: Arc<Semaphore>,
    held: Arc<Held>,
}

/// One request under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    _request: OwnedSemaphorePermit,
    held: Arc<Held>,
    /// Bytes of its body that are kept in memory.
    mine: usize,
}

/// Bytes of bodies in memory, of all requests together.
#[derive(Debug)]
struct Held {
    bytes: AtomicUsize,
    max: usize,
}

// === impl Admission ===

impl Admission {
    /// At most `max_requests` at once, with bodies of `max_held` bytes in memory together.
    pub(crate) fn new(max_requests: usize, max_held: usize) -> Self {
        let requests = Arc::new(Semaphore::new(max_requests.min(Semaphore::MAX_PERMITS)));
        Self { requests, held: Arc::new(Held { bytes: AtomicUsize::new(0), max: max_held }) }
    }

    /// Lets a request in, unless too many are.
    pub(crate) fn admit(&self) -> Option<Admitted> {
        let request = self.requests.clone().try_acquire_owned().ok()?;
        Some(Admitted { _request: request, held: self.held.clone(), mine: 0 })
    }

    /// Bytes of bodies that may still be kept in memory.
    pub(crate) fn room(&self) -> usize {
        self.held.max.saturating_sub(self.held.bytes.load(Ordering::Relaxed))
    }
}

// === impl Admitted ===

impl Admitted {
    /// Counts this many more bytes of its body as kept in memory, unless there is no room for them.
    pub(crate) fn hold(&mut self, bytes: usize) -> bool {
        let Held { bytes: held, max } = &*self.held;
        let sum = |held: usize| held.checked_add(bytes).filter(|sum| sum <= max);
        let has_room = held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).is_ok();
        if has_room {
            self.mine += bytes;
        }
        has_room
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.held.bytes.fetch_sub(self.mine, Ordering::Relaxed);
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
        assert!(request.hold(70));
        assert_eq!(admission.room(), 30);
        assert!(!request.hold(31));
        assert!(request.hold(30));
        assert_eq!(admission.room(), 0);
        drop(request);
        assert_eq!(admission.room(), 100);
    }
}
