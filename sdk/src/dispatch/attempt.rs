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
use hyper::body::Incoming;

use crate::{
    balance::{Balance, InFlight},
    route::Plan,
    transport::{Exchange, SendError, Sent},
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
    pub(super) plan: Plan,
    exchange: Option<Exchange>,
    in_flight: Option<InFlight>,
    /// Resolves when the node turns out to hang.
    hung: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// A body that streams from the client ends with the client.
    is_repeatable: bool,
}

/// A response, and the guard that counts its request as in flight.
pub(super) type Answered = (Response<Incoming>, InFlight);

// === impl Attempt ===

impl Attempt {
    pub(super) fn new(plan: Plan, exchange: Exchange, balance: &Arc<Balance>, is_repeatable: bool) -> Self {
        let in_flight = balance.start(plan.address);
        let hung = Box::pin(in_flight.hung());
        Self { plan, exchange: Some(exchange), in_flight: Some(in_flight), hung, is_repeatable }
    }
}

impl Future for Attempt {
    type Output = Result<Answered, SendError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(exchange) = &mut this.exchange else { return Poll::Pending };
        if let Poll::Ready(outcome) = Pin::new(exchange).poll(cx) {
            this.exchange = None;
            let Some(in_flight) = this.in_flight.take() else { return Poll::Pending };
            in_flight.heard();
            return Poll::Ready(outcome.map(|response| (response, in_flight)));
        }
        ready!(this.hung.as_mut().poll(cx));
        Poll::Ready(Err(SendError {
            sent: Sent::Unknown,
            no_connection: false,
            reason: "the node does not answer".to_owned(),
        }))
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let (Some(exchange), Some(in_flight)) = (self.exchange.take(), self.in_flight.take()) else { return };
        if !self.is_repeatable {
            return;
        }
        // Outside of a runtime there is no connection left either.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let rest = async {
                    if let Ok(response) = exchange.await {
                        in_flight.heard();
                        drain(response.into_body()).await;
                    }
                };
                let _ = tokio::time::timeout(AFTERLIFE, rest).await;
            });
        }
    }
}

/// Reads an unwanted answer to its end, unless that is far.
pub(super) async fn drain(mut body: Incoming) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, bytes::Bytes::len);
        if read > MAX_UNWANTED_BYTES {
            return;
        }
    }
}
