//! Notices nodes that hang: that accept requests and never answer.
//!
//! A connection to a stopped process stays open, and what is written into it is acknowledged by the
//! system, so silence is the only sign. A node that has been silent for a moment while requests wait is
//! asked for its health; where that is not answered at once either, the node is taken out and those
//! that wait go elsewhere. A node that merely has slow requests answers the question and keeps them.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use tokio::{task::JoinSet, time::MissedTickBehavior};

use super::attempt::drain;
use crate::{
    balance::Balance,
    request::{Body, Protocol},
    topology::{Address, Observer, TopologyHandle},
    transport::{Outgoing, Transport},
};

/// How often nodes are looked at.
const TICK: Duration = Duration::from_millis(50);

/// A node may be silent for this long while requests wait.
const SILENCE: Duration = Duration::from_millis(250);

/// Then it has this long to say that it lives, before it is taken out,
const ANSWER_TIME: Duration = Duration::from_millis(250);

/// and this long to be taken back: a slow node is no dead one.
const LATE_ANSWER_TIME: Duration = Duration::from_secs(5);

/// Latencies are settled once in so many ticks: once a second.
const SETTLE_TICKS: u32 = 20;

/// Watches until it is dropped.
pub(crate) async fn watch(balance: Arc<Balance>, transport: Arc<Transport>, topology: TopologyHandle) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked: HashSet<Address> = HashSet::new();
    let mut answers: JoinSet<Address> = JoinSet::new();
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
                        let (balance, transport) = (balance.clone(), transport.clone());
                        let topology = topology.clone();
                        answers.spawn(async move {
                            look(&balance, &transport, &topology, address).await;
                            address
                        });
                    }
                }
            }
            Some(Ok(address)) = answers.join_next() => { asked.remove(&address); }
        }
    }
}

/// Asks a silent node for a sign of life, and takes it out where there is none in time.
async fn look(balance: &Balance, transport: &Transport, topology: &TopologyHandle, address: Address) {
    let mut answer = std::pin::pin!(answer(transport, address));
    if tokio::time::timeout(ANSWER_TIME, &mut answer).await.is_ok() {
        balance.hear(address);
        return;
    }
    // An answer to somebody else is as good a sign.
    if !balance.silent(SILENCE).contains(&address) {
        return;
    }
    balance.give_up(address);
    topology.refresh();
    if tokio::time::timeout(LATE_ANSWER_TIME, answer).await == Ok(true) {
        balance.answered(address);
    }
}

/// Asks what costs the node nothing, and tells whether it has answered, however it did. A refused or broken
/// connection is a sign too, and found by those whose connection it is.
async fn answer(transport: &Transport, address: Address) -> bool {
    let (uri, headers, body) = (Uri::from_static("/healthz"), HeaderMap::new(), Body::Full(Bytes::new()));
    let head = Outgoing { method: &Method::GET, uri: &uri, headers: &headers };
    let Ok(exchange) = transport.send(address, Protocol::Rest, head, body) else { return false };
    let Ok(response) = exchange.await else { return false };
    drain(response.into_body()).await;
    true
}
