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
            biased;
            Some(Ok(address)) = answers.join_next() => { asked.remove(&address); }
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
        }
    }
}

/// Asks a silent node for a sign of life, and takes it out where there is none in time.
async fn look(balance: &Balance, transport: &Transport, topology: &TopologyHandle, address: Address) {
    let mut answer = std::pin::pin!(answer(transport, address));
    match tokio::time::timeout(ANSWER_TIME, &mut answer).await {
        // A broken connection is found by those whose connection it is.
        Ok(Sign::Alive | Sign::Unclear) => return balance.hear(address),
        // Whoever waits there waits for a process that is about to end, however long that takes.
        Ok(Sign::Closed) => {
            balance.give_up(address);
            topology.refresh();
            return;
        }
        Err(_) => {}
    }
    // An answer to somebody else is as good a sign.
    if !balance.silent(SILENCE).contains(&address) {
        return;
    }
    balance.give_up(address);
    topology.refresh();
    if tokio::time::timeout(LATE_ANSWER_TIME, answer).await == Ok(Sign::Alive) {
        balance.answered(address);
    }
}

/// What comes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// The node has answered, however it did.
    Alive,
    /// It takes no connections: a server that is told to end closes its REST port first, and may leave what it has
    /// accepted over gRPC without an answer for as long as it has.
    Closed,
    /// The question got lost.
    Unclear,
}

/// Asks what costs the node nothing.
async fn answer(transport: &Transport, address: Address) -> Sign {
    let (uri, headers, body) = (Uri::from_static("/healthz"), HeaderMap::new(), Body::Full(Bytes::new()));
    let head = Outgoing { method: &Method::GET, uri: &uri, headers: &headers };
    match transport.send(address, Protocol::Rest, head, body).await {
        Ok(response) => drain(response.into_body()).await,
        Err(error) if error.no_connection => return Sign::Closed,
        Err(_) => return Sign::Unclear,
    }
    Sign::Alive
}
