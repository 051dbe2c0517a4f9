//! What the benches in `benches/` reach beyond the public interface. Compiled for them alone.

use std::time::Duration;

use bytes::Bytes;
use http::Response;

use crate::{
    dispatch::{PartReply, Reply, cut, merge},
    request::{Call, Intent, Protocol},
    route::{Conditions, takers},
    topology::{Collection, Topology},
};

/// The bodies of a write's parts, where it is dealt out.
pub fn split(
    call: &Call,
    body: &Bytes,
    intent: &Intent,
    collection: &Collection,
    topology: &Topology,
    conditions: &impl Conditions,
) -> Option<Vec<Bytes>> {
    let shares = cut(call, body, intent, collection, topology, &takers(topology, conditions))?;
    Some(shares.into_iter().map(|share| share.body).collect())
}

/// The body of the reply to a write whose parts were answered so.
pub fn merged(protocol: Protocol, parts: &[Response<Bytes>]) -> Bytes {
    let reply = |part: &Response<Bytes>| Reply {
        status: part.status(),
        headers: part.headers().clone(),
        body: part.body().clone(),
        trailers: None,
    };
    let parts = parts.iter().map(|part| PartReply { shards: 2, reply: Ok(reply(part)) });
    merge(protocol, parts.collect(), Duration::from_millis(1)).body
}
