//! Turns of the tasks of one thread.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll},
};

/// So much of a long body is read, written or copied in one turn, and then others have theirs: to copy it takes a quarter of
/// a millisecond. In shorter turns large bodies cost more: what has arrived is cold when its turn comes.
pub const TURN_BYTES: usize = 1 << 20;

/// Resolves after the tasks that can run now have run.
///
/// What several of them have to write goes out right one after the other then, and what is only to be cleared away keeps
/// nobody waiting.
pub async fn after_others() {
    let mut is_due = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut is_due, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Has this task run again after those that can run now have run, and after what has arrived meanwhile was seen.
///
/// A task that wakes itself is run again without a look at what has arrived, sixty times in a row.
pub fn yield_to_arrivals(cx: &mut Context<'_>) {
    // It notes who is to be woken, and has nothing else to do.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        os::unix::net::UnixStream as Blocking,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering::Relaxed},
        },
    };

    use tokio::{io::AsyncReadExt, net::UnixStream};

    use super::*;

    /// Fewer than the times that a task which wakes itself is run before anybody looks at what has arrived.
    const TURNS: u32 = 20;

    /// The turn in which a task finds that another one has read what arrived in its first.
    async fn seen_in_turn(end_turn: impl Fn(&mut Context<'_>) + Send + 'static) -> u32 {
        let (mut theirs, ours) = Blocking::pair().expect("a pair");
        ours.set_nonblocking(true).expect("a mode");
        let mut ours = UnixStream::from_std(ours).expect("a stream");
        let has_read = Arc::<AtomicBool>::default();
        let reader = tokio::spawn({
            let has_read = has_read.clone();
            async move {
                ours.read_u8().await.expect("a byte");
                has_read.store(true, Relaxed);
            }
        });
        // The reader waits.
        tokio::task::yield_now().await;
        let mut turn = 0;
        let worker = tokio::spawn(poll_fn(move |cx| {
            if turn == 0 {
                theirs.write_all(&[1]).expect("room for a byte");
            }
            if turn == TURNS || has_read.load(Relaxed) {
                return Poll::Ready(turn);
            }
            turn += 1;
            end_turn(cx);
            Poll::Pending
        }));
        let seen = worker.await.expect("no panic");
        reader.await.expect("no panic");
        seen
    }

    #[tokio::test]
    async fn what_has_arrived_is_seen_between_two_turns() {
        assert!(seen_in_turn(yield_to_arrivals).await <= 2);
        assert_eq!(seen_in_turn(|cx| cx.waker().wake_by_ref()).await, TURNS, "it is not seen otherwise");
    }
}
