//! Notices nodes that hang: that accept requests and never answer.
//!
//! A connection to a stopped process stays open, and what is written into it is acknowledged by the
//! system, so silence is the only sign. A node that has been silent for a moment while requests wait is
//! asked for its health; where that is not answered at once either, the node is taken out and those
//! that wait go elsewhere. A node that merely has slow requests answers the question and keeps them.

use std::{collections::HashSet, sync::Arc, time::Duration};

use http::Request;
use tokio::{task::JoinSet, time::MissedTickBehavior};

use super::attempt::drain;
use crate::{
    balance::Balance,
    request::{Body, Protocol},
    topology::{Address, TopologyHandle},
    transport::Transport,
};

/// How often nodes are looked at.
const TICK: Duration = Duration::from_millis(50);

/// A node may be silent for this long while requests wait.
const SILENCE: Duration = Duration::from_millis(250);

/// Then it has this long to say that it lives.
const ANSWER_TIME: Duration = Duration::from_millis(250);

/// Latencies are settled once in so many ticks: once a second.
const SETTLE_TICKS: u32 = 20;

/// Watches until it is dropped.
pub(crate) async fn watch(balance: Arc<Balance>, transport: Arc<Transport>, topology: TopologyHandle) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked: HashSet<Address> = HashSet::new();
    let mut answers: JoinSet<(Address, bool)> = JoinSet::new();
    let mut count = 0_u32;
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                count = count.wrapping_add(1);
                if count.is_multiple_of(SETTLE_TICKS) {
                    balance.settle();
                }
                for address in balance.silent(SILENCE) {
                    if asked.insert(address) {
                        let transport = transport.clone();
                        answers.spawn(async move { (address, lives(&transport, address).await) });
                    }
                }
            }
            Some(Ok((address, lives))) = answers.join_next() => {
                asked.remove(&address);
                if lives {
                    balance.hear(address);
                } else {
                    balance.give_up(address);
                    topology.refresh();
                }
            }
        }
    }
}

/// Whether the node answers a question that costs it nothing, however it answers.
async fn lives(transport: &Transport, address: Address) -> bool {
    let Ok(request) = Request::get("/healthz").body(Body::Full(bytes::Bytes::new())) else { return true };
    let Ok(exchange) = transport.send(address, Protocol::Rest, request) else { return true };
    match tokio::time::timeout(ANSWER_TIME, exchange).await {
        Ok(Ok(response)) => {
            drain(response.into_body()).await;
            true
        }
        // A refused or broken connection is a sign too, and found by those whose connection it is.
        Ok(Err(_)) => true,
        Err(_) => false,
    }
}
