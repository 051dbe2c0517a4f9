//! The room in which floods wait.
//!
//! Connections of one worker that send too much that asks for nothing share what one of them may cost: one after the
//! other has its turn, with a pause before each. The room is small, and whoever finds it full and has done nothing but
//! flood has to go, so that a crowd of them holds neither the worker nor its connections up.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Sleep;

/// The pause before each turn.
const PAUSE: Duration = Duration::from_millis(1);

/// So many wait at a time, and hence no longer than for as many pauses.
const MAX_WAITING: usize = 64;

/// The room of one worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Floods(Arc<AtomicUsize>);

/// Resolves when it is a flood's turn.
#[derive(Debug)]
pub(super) struct Wait {
    sleep: Pin<Box<Sleep>>,
    room: Floods,
}

// === impl Floods ===

impl Floods {
    /// Has a connection wait for those that came before it; `None` where there is no room, unless it `may_stay`.
    pub(super) fn wait(&self, may_stay: bool) -> Option<Wait> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let pauses = u32::try_from(before.min(MAX_WAITING) + 1).unwrap_or(u32::MAX);
        let wait = Wait { sleep: Box::pin(tokio::time::sleep(PAUSE * pauses)), room: self.clone() };
        (before < MAX_WAITING || may_stay).then_some(wait)
    }
}

// === impl Wait ===

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.get_mut().sleep.as_mut().poll(cx)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.room.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn floods_take_turns() {
        let room = Floods::default();
        let began = Instant::now();
        for _ in 0..3 {
            let waiting: Vec<_> = (0..MAX_WAITING).map_while(|_| room.wait(false)).collect();
            assert_eq!(waiting.len(), MAX_WAITING);
            assert!(room.wait(false).is_none(), "the room is full");
            assert!(room.wait(true).is_some(), "but for those that do more than flood");
            let turns = waiting.into_iter().map(async |wait| {
                wait.await;
                began.elapsed()
            });
            let turns = join_all(turns).await;
            assert!(turns.windows(2).all(|pair| pair[1] >= pair[0] + PAUSE), "{turns:?}");
        }
    }
}
