//! The timer of one HTTP/1.1 connection.
//!
//! A connection waits for the head of a request over and over, each time with a time-out that hardly ever ends it. To
//! make, register and remove a timer each time costs more than all else about it; one that is only set to a later moment
//! stays registered. It may wake its connection once, for nothing, during a long request.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};

/// Makes sleeps of the one that was dropped last.
#[derive(Clone, Debug, Default)]
pub(super) struct Reused(Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>);

struct Borrowed {
    /// There until it is given back.
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
    owner: Reused,
}

// === impl Reused ===

impl Reused {
    fn replace(&self, sleep: Option<Pin<Box<tokio::time::Sleep>>>) -> Option<Pin<Box<tokio::time::Sleep>>> {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), sleep)
    }
}

impl Timer for Reused {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let sleep = match self.replace(None) {
            Some(mut sleep) => {
                sleep.as_mut().reset(deadline.into());
                sleep
            }
            None => Box::pin(tokio::time::sleep_until(deadline.into())),
        };
        Box::pin(Borrowed { sleep: Some(sleep), owner: self.clone() })
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into()
    }
}

// === impl Borrowed ===

impl Future for Borrowed {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.get_mut().sleep.as_mut().map_or(Poll::Ready(()), |sleep| sleep.as_mut().poll(cx))
    }
}

impl Sleep for Borrowed {}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.owner.replace(self.sleep.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_sleep_ends_at_its_own_time() {
        let (timer, began) = (Reused::default(), tokio::time::Instant::now());
        for _ in 0..3 {
            drop(timer.sleep(Duration::from_secs(5)));
        }
        timer.sleep(Duration::from_secs(7)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(7));
        timer.sleep(Duration::from_secs(1)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(8), "earlier than the one before");
        tokio::join!(timer.sleep(Duration::from_secs(2)), timer.sleep(Duration::from_secs(3)));
        assert_eq!(began.elapsed(), Duration::from_secs(11), "two at once");
    }
}
