//! `GET /events`: the [pulse](super::pulse) as server-sent events.
//!
//! One task takes it for everybody, and only while somebody watches. A subscriber that reads slowly
//! misses pulses instead of queueing them.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    time::MissedTickBehavior,
};

use super::{
    nodes::{self, NodeRow},
    pulse::{Figures, Window},
};
use crate::lifecycle::Proxy;

/// Who may watch at the same time.
const MAX_SUBSCRIBERS: usize = 64;

/// One pulse per second.
const INTERVAL: Duration = Duration::from_secs(1);

/// The pulse, and who waits for it.
#[derive(Debug)]
pub(super) struct Feed {
    /// The newest pulse as JSON; `None` while nobody watches.
    newest: watch::Sender<Option<Arc<str>>>,
    /// All nodes at that pulse.
    nodes: Mutex<Option<Arc<[NodeRow]>>>,
    places: Arc<Semaphore>,
    subscribed: Notify,
}

/// Somebody who watches.
struct Subscriber {
    newest: watch::Receiver<Option<Arc<str>>>,
    _place: OwnedSemaphorePermit,
}

// === impl Feed ===

impl Feed {
    pub(super) fn new() -> Self {
        Self {
            newest: watch::Sender::new(None),
            nodes: Mutex::default(),
            places: Arc::new(Semaphore::new(MAX_SUBSCRIBERS)),
            subscribed: Notify::new(),
        }
    }

    /// Takes pulses until the task is dropped.
    pub(super) async fn run(&self, proxy: &Proxy) {
        loop {
            self.subscribed.notified().await;
            let mut window = Window::default();
            let mut ticks = tokio::time::interval(INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while self.newest.receiver_count() > 0 {
                ticks.tick().await;
                let Figures { pulse, nodes } = window.look(proxy);
                match serde_json::to_string(&pulse) {
                    Ok(pulse) => {
                        self.keep(Some(nodes.into()));
                        self.newest.send_replace(Some(pulse.into()));
                    }
                    Err(error) => tracing::error!(%error, "the pulse could not be written"),
                }
            }
            self.keep(None);
            self.newest.send_replace(None);
        }
    }

    /// All nodes, as of the newest pulse where somebody watches.
    pub(super) fn nodes(&self, proxy: &Proxy) -> Arc<[NodeRow]> {
        let kept = self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        kept.unwrap_or_else(|| nodes::rows(&proxy.router(), |_| None).into())
    }

    fn keep(&self, nodes: Option<Arc<[NodeRow]>>) {
        *self.nodes.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
    }

    fn subscribe(&self) -> Option<Subscriber> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        let mut newest = self.newest.subscribe();
        // Whoever comes while others watch is shown the newest pulse at once.
        if newest.borrow().is_some() {
            newest.mark_changed();
        }
        self.subscribed.notify_one();
        Some(Subscriber { newest, _place: place })
    }
}

// === impl Subscriber ===

impl Subscriber {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            self.newest.changed().await.ok()?;
            let pulse = self.newest.borrow_and_update().clone();
            if let Some(pulse) = pulse {
                return Some((Ok(Event::default().event("pulse").data(&*pulse)), self));
            }
        }
    }
}

/// A pulse per second until the client has seen enough.
pub(super) async fn events(State(feed): State<Arc<Feed>>) -> Response {
    match feed.subscribe() {
        Some(subscriber) => {
            let pulses = stream::unfold(subscriber, Subscriber::next);
            Sse::new(pulses).keep_alive(KeepAlive::default()).into_response()
        }
        None => {
            let said = format!("{MAX_SUBSCRIBERS} dashboards watch already\n");
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "10")], said).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_are_bounded_and_given_back() {
        let feed = Feed::new();
        let mut subscribers: Vec<Subscriber> =
            (0..MAX_SUBSCRIBERS).filter_map(|_| feed.subscribe()).collect();
        assert_eq!(subscribers.len(), MAX_SUBSCRIBERS);
        assert!(feed.subscribe().is_none());
        subscribers.pop();
        assert!(feed.subscribe().is_some());
    }
}
