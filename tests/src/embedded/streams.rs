//! What HTTP/2 allows a server to do to its clients' streams: drain a connection, and refuse.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// The gRPC port's manners.
#[derive(Debug)]
pub(crate) struct Streams {
    drains: watch::Sender<u64>,
    refused: AtomicU64,
}

impl Default for Streams {
    fn default() -> Self {
        Self { drains: watch::channel(0).0, refused: AtomicU64::new(0) }
    }
}

// === impl Streams ===

impl Streams {
    /// Drains every connection that exists: GOAWAY, and the end once the last stream has been answered.
    pub(crate) fn drain(&self) {
        self.drains.send_modify(|drains| *drains += 1);
    }

    /// Changes with every drain.
    pub(crate) fn drains(&self) -> watch::Receiver<u64> {
        self.drains.subscribe()
    }

    /// Refuses this many streams from now on.
    pub(crate) fn refuse(&self, streams: u64) {
        self.refused.store(streams, Ordering::SeqCst);
    }

    /// Whether the stream that just opened is one of those.
    pub(crate) fn refuses(&self) -> bool {
        self.refused.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}
