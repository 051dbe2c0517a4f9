//! Turns of the tasks of one thread.

use std::{future::poll_fn, task::Poll};

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
