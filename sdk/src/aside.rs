//! Long work on bodies, beside the threads that serve connections.
//!
//! A thread serves its connections in turn, so what takes it milliseconds holds all of them up. To cut an upload of 30 MB
//! takes 50 of them, and a small body that is compressed may stand for as much.

use std::{num::NonZero, panic::resume_unwind, sync::Arc, thread::available_parallelism};

use tokio::{sync::Semaphore, task::spawn_blocking};

/// To cut a body of more bytes takes a fifth of a millisecond and more, to hand it to another thread and back a tenth of
/// that.
const LONG: usize = 256 << 10;

/// To find the shard of a point, and to cut there, takes as long as to look at so many bytes.
const PER_POINT: usize = 128;

/// Threads for long work. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Aside {
    turns: Arc<Semaphore>,
}

/// Whether work on so many bytes and points is long.
pub(crate) fn is_long(bytes: usize, points: usize) -> bool {
    bytes + PER_POINT * points > LONG
}

// === impl Aside ===

impl Aside {
    /// As many threads as half of the cores, so that what is long has no more of them than that.
    pub(crate) fn new() -> Self {
        let cores = available_parallelism().map_or(1, NonZero::get);
        Self::of((cores / 2).max(1))
    }

    fn of(threads: usize) -> Self {
        Self { turns: Arc::new(Semaphore::new(threads)) }
    }

    /// Does `work` on another thread, once one is free.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let turn = self.turns.clone().acquire_owned().await;
        let work = move || {
            // Work that nobody waits for any more still has its turn.
            let _turn = turn;
            work()
        };
        match spawn_blocking(work).await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The runtime ends, and so does this task.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

#[cfg(test)]
impl Aside {
    /// Leaves no turn to anybody else.
    pub(crate) async fn take_all(&self) -> tokio::sync::SemaphorePermit<'_> {
        let all = u32::try_from(self.turns.available_permits()).expect("few");
        self.turns.acquire_many(all).await.expect("it is never closed")
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use futures_util::future::{join_all, poll_immediate};

    use super::*;

    /// So that a test fails that would wait forever.
    const LONG_ENOUGH: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn work_has_a_thread_of_its_own() {
        let here = thread::current().id();
        assert_ne!(Aside::of(1).run(|| thread::current().id()).await, here);
    }

    #[tokio::test]
    async fn others_are_served_meanwhile() {
        let (done, is_done) = mpsc::channel();
        let aside = Aside::of(1);
        let work = aside.run(move || is_done.recv_timeout(LONG_ENOUGH));
        let others = async { done.send("by another task") };
        assert_eq!(tokio::join!(work, others), (Ok("by another task"), Ok(())));
    }

    #[tokio::test]
    async fn work_beyond_its_threads_waits_even_if_that_before_is_given_up() {
        let aside = Aside::of(1);
        let (begun, has_begun) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        let first = poll_immediate(Box::pin(aside.run(move || {
            let _ = begun.send(());
            let _ = ends.recv();
        })));
        assert!(first.await.is_none());
        has_begun.recv().expect("it runs on, though nobody waits for it");
        let mut second = Box::pin(aside.run(|| 2));
        assert_eq!(poll_immediate(&mut second).await, None);
        assert_eq!(aside.turns.available_permits(), 0);
        end.send(()).expect("it waits for its end");
        assert_eq!(second.await, 2);
        assert_eq!(join_all((3..6).map(|n| aside.run(move || n))).await, [3, 4, 5]);
    }

    #[tokio::test]
    #[should_panic(expected = "in the work")]
    async fn a_panic_is_that_of_its_request() {
        Aside::of(1).run(|| panic!("in the work")).await;
    }
}
