//! Connections of clients, and when they are served.
//!
//! A client that was answered well on its connection is known there, and served at once. All others are strangers and
//! take turns: one of them does one step, then everything is done that is there to do for the known, then the next one
//! does. So a crowd of strangers adds a step of theirs, and not the crowd, to what a known client waits for.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::workers::Desk;

/// For each such time that the known have taken, strangers have another turn, up to so many: a busy worker gives them
/// about a tenth of itself or more.
const SHARE: Duration = Duration::from_micros(200);
const MAX_DUE: f64 = 16.0;

/// The turns of one worker's strangers.
#[derive(Clone, Debug)]
pub(crate) struct Turns(mpsc::UnboundedSender<oneshot::Sender<()>>);

/// A client's connection, and the desk that it came to.
#[derive(Debug)]
pub(crate) struct Visit {
    desk: Arc<Desk>,
    is_known: AtomicBool,
}

pin_project! {
    /// What is done for a connection, a step at a time.
    pub(crate) struct Attended<F> {
        #[pin]
        work: F,
        visit: Arc<Visit>,
        turn: Option<oneshot::Receiver<()>>,
    }
}

// === impl Turns ===

impl Turns {
    /// Gives turns on this runtime for as long as somebody may ask for one.
    pub(crate) fn start() -> Self {
        let (ask, mut asked) = mpsc::unbounded_channel::<oneshot::Sender<()>>();
        tokio::spawn(async move {
            let mut due = 1;
            while let Some(turn) = asked.recv().await {
                // Whoever has gone in the meantime needs none.
                due -= u32::from(turn.send(()).is_ok());
                if due == 0 {
                    let began = Instant::now();
                    // Comes back after what can run has run, and what has arrived meanwhile was seen.
                    tokio::task::yield_now().await;
                    due = 1 + began.elapsed().div_duration_f64(SHARE).min(MAX_DUE) as u32;
                }
            }
        });
        Self(ask)
    }

    fn next(&self) -> oneshot::Receiver<()> {
        let (give, turn) = oneshot::channel();
        // Fails where the runtime ends, and this with it.
        let _ = self.0.send(give);
        turn
    }
}

// === impl Visit ===

impl Visit {
    pub(crate) fn new(desk: Arc<Desk>) -> Arc<Self> {
        Arc::new(Self { desk, is_known: AtomicBool::new(false) })
    }

    pub(super) fn desk(&self) -> &Desk {
        &self.desk
    }

    /// From now on the client is served at once.
    pub(super) fn set_known(&self) {
        self.is_known.store(true, Ordering::Relaxed);
    }
}

// === impl Attended ===

impl<F> Attended<F> {
    pub(crate) fn new(visit: Arc<Visit>, work: F) -> Self {
        Self { work, visit, turn: None }
    }
}

impl<F: Future> Future for Attended<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if !this.visit.is_known.load(Ordering::Relaxed) {
            let turn = this.turn.get_or_insert_with(|| this.visit.desk.turns.next());
            let _ = ready!(Pin::new(turn).poll(cx));
        }
        *this.turn = None;
        this.work.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::AtomicUsize};

    use futures_util::future::poll_immediate;
    use qdrant_router::Router;

    use super::*;
    use crate::lifecycle::Proxy;

    const STEPS: usize = 100;
    const STRANGERS: usize = 20;

    fn desk() -> Arc<Desk> {
        let router = Router::builder().node("127.0.0.1").build().expect("a router");
        Arc::new(Desk::shared(Proxy::new(router)))
    }

    fn visit(desk: &Arc<Desk>, is_known: bool) -> Arc<Visit> {
        let visit = Visit::new(desk.clone());
        if is_known {
            visit.set_known();
        }
        visit
    }

    /// Work of so many steps, which are there to do at once, and counted.
    fn steps(done: &Arc<AtomicUsize>) -> impl Future<Output = ()> + use<> {
        let (done, mut left) = (done.clone(), STEPS);
        poll_fn(move |cx| {
            done.fetch_add(1, Ordering::Relaxed);
            left -= 1;
            cx.waker().wake_by_ref();
            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_of_strangers_does_not_hold_up_the_known() {
        let desk = desk();
        let (theirs, ours) = (Arc::default(), Arc::default());
        let strangers: Vec<_> = (0..STRANGERS)
            .map(|_| tokio::spawn(Attended::new(visit(&desk, false), steps(&theirs))))
            .collect();
        let known = tokio::spawn(Attended::new(visit(&desk, true), steps(&ours)));
        known.await.expect("no panic");
        assert_eq!(ours.load(Ordering::Relaxed), STEPS);
        let done = theirs.load(Ordering::Relaxed);
        assert!(done <= STEPS, "{done} steps of strangers for {STEPS} of the known");
        for stranger in strangers {
            stranger.await.expect("no panic");
        }
        assert_eq!(theirs.load(Ordering::Relaxed), STRANGERS * STEPS, "all have had their turns");
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_have_their_share_of_a_busy_worker() {
        let turns = Turns::start();
        let mut strangers: Vec<_> = (0..STRANGERS).map(|_| turns.next()).collect();
        tokio::task::yield_now().await;
        let mut served = || strangers.extract_if(.., |turn| turn.try_recv().is_ok()).count();
        assert_eq!(served(), 1);
        tokio::time::advance(4 * SHARE).await;
        assert_eq!(served(), 5, "one, and four for the time that the known took");
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_costs_no_turn() {
        let turns = Turns::start();
        drop((0..STRANGERS).map(|_| turns.next()).collect::<Vec<_>>());
        let mut own = turns.next();
        tokio::task::yield_now().await;
        own.try_recv().expect("a turn, although so many have asked before");
    }

    #[tokio::test(start_paused = true)]
    async fn who_becomes_known_waits_no_longer() {
        let desk = desk();
        let visit = Visit::new(desk.clone());
        let mut work = std::pin::pin!(Attended::new(visit.clone(), async {}));
        assert!(poll_immediate(work.as_mut()).await.is_none(), "a stranger waits for a turn");
        visit.set_known();
        assert!(poll_immediate(work).await.is_some());
    }
}
