//! One attempt: a request on its way to one node.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::Response;
use http_body_util::BodyExt;
use smallvec::SmallVec;
use tokio::time::Sleep;

use super::{
    Admitted,
    observer::{AttemptOutcome, Observed},
};
use crate::{
    balance::{Balance, InFlight},
    route::Plan,
    transport::{Exchange, NodeBody, SendError},
};

/// How long an attempt that nobody waits for any more may go on.
const AFTERLIFE: Duration = Duration::from_secs(30);

/// An answer of up to this size is read to its end though nobody wants it.
const MAX_UNWANTED_BYTES: usize = 1 << 20;

/// A request on its way to one node.
///
/// Once sent it is not taken back. Qdrant kills a connection on which more than twenty streams were
/// reset before it looked at them, and with it every other request there; so when the client goes away,
/// or a hedge was faster, the attempt ends by itself with nobody listening.
pub(super) struct Attempt {
    plan: Plan,
    exchange: Option<Exchange>,
    in_flight: Option<InFlight>,
    /// Resolves when the node turns out to hang; `None` once that has been told.
    hung: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// A body that streams from the client ends with the client.
    is_repeatable: bool,
    is_read: bool,
    observed: Observed,
    admitted: Option<Arc<Admitted>>,
}

/// A response, and the guard that counts its request as in flight.
pub(super) type Answered = (Response<NodeBody>, InFlight);

// === impl Attempt ===

impl Attempt {
    pub(super) fn new(
        plan: Plan,
        exchange: Exchange,
        balance: &Arc<Balance>,
        is_repeatable: bool,
        is_read: bool,
        observed: Observed,
        admitted: Option<Arc<Admitted>>,
    ) -> Self {
        let in_flight = balance.start(plan.address);
        let hung: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(in_flight.hung());
        let (exchange, in_flight, hung) = (Some(exchange), Some(in_flight), Some(hung));
        Self { plan, exchange, in_flight, hung, is_repeatable, is_read, observed, admitted }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answered, SendError>> {
        let Some(exchange) = &mut self.exchange else { return Poll::Pending };
        let outcome = ready!(Pin::new(exchange).poll(cx));
        self.exchange = None;
        self.observed.end(match &outcome {
            Ok(response) => {
                AttemptOutcome::Answered { status: response.status(), headers: response.headers() }
            }
            Err(error) => AttemptOutcome::Failed { reason: &error.reason },
        });
        let Some(in_flight) = self.in_flight.take() else { return Poll::Pending };
        in_flight.heard();
        Poll::Ready(outcome.map(|response| (response, in_flight)))
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let (Some(exchange), Some(in_flight)) = (self.exchange.take(), self.in_flight.take()) else { return };
        // What has not left yet must not leave later, when its client believes it lost and does something else.
        if !self.is_repeatable || !exchange.is_begun() {
            return;
        }
        let is_read = self.is_read;
        // It counts as under way to its end, so that clients who come and go are bounded like those who wait.
        let admitted = self.admitted.take();
        // Outside of a runtime there is no connection left either.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let rest = async {
                    if let Ok(response) = exchange.await {
                        in_flight.heard();
                        // That somebody else was faster is what tells that this node is slow.
                        in_flight.answered(is_read);
                        drain(response.into_body()).await;
                    }
                };
                let _ = tokio::time::timeout(AFTERLIFE, rest).await;
                drop(admitted);
            });
        }
    }
}

/// The attempts of one request that are under way. The first good answer wins.
#[derive(Default)]
pub(super) struct Race {
    attempts: SmallVec<[Attempt; 1]>,
    /// When the first of them counts as slow.
    slow_at: Option<Pin<Box<Sleep>>>,
}

/// What happens in a race.
#[expect(clippy::large_enum_variant, reason = "the large one is the common one, and none is kept")]
pub(super) enum Event {
    /// An attempt has ended.
    Ended(Plan, Result<Answered, SendError>),
    /// The first attempt takes longer than reads usually do.
    Slow(Plan),
    /// The node of an attempt hangs. The attempt goes on.
    Hung,
}

// === impl Race ===

impl Race {
    /// Adds an attempt; `patience` is how long it may take before it counts as slow.
    pub(super) fn start(&mut self, attempt: Attempt, patience: Option<Duration>) {
        self.attempts.push(attempt);
        self.slow_at = patience.map(|patience| Box::pin(tokio::time::sleep(patience)));
    }

    /// Whether nothing is under way.
    pub(super) fn is_over(&self) -> bool {
        self.attempts.is_empty()
    }

    /// Waits for what happens next; never where nothing is under way.
    pub(super) async fn next(&mut self) -> Event {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        for at in 0..self.attempts.len() {
            if let Poll::Ready(outcome) = self.attempts[at].poll(cx) {
                let attempt = self.attempts.remove(at);
                return Poll::Ready(Event::Ended(attempt.plan, outcome));
            }
        }
        for attempt in &mut self.attempts {
            if let Some(hung) = &mut attempt.hung
                && hung.as_mut().poll(cx).is_ready()
            {
                attempt.hung = None;
                return Poll::Ready(Event::Hung);
            }
        }
        if let (Some(slow_at), Some(first)) = (&mut self.slow_at, self.attempts.first()) {
            ready!(slow_at.as_mut().poll(cx));
            self.slow_at = None;
            if let Some(in_flight) = &first.in_flight {
                in_flight.is_late();
            }
            return Poll::Ready(Event::Slow(first.plan));
        }
        Poll::Pending
    }
}

/// Reads an unwanted answer to its end, unless that is far.
pub(super) async fn drain(mut body: NodeBody) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, bytes::Bytes::len);
        if read > MAX_UNWANTED_BYTES {
            return;
        }
    }
}
