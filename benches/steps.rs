//! The steps of a decision, each as something that can be done over and over.

use std::hint::black_box;

use bytes::Bytes;
use http::{Method, Response, Uri};
use qdrant_router::{
    internals,
    request::{Action, Call, Depth, Intent, Points, Protocol, Scope},
    route::{Conditions, Fitness, Target, plan},
    topology::{Address, HashRing, Lookup, PointId, Replica, ReplicaState, Topology, WriteOrdering, leader},
};
use smallvec::smallvec;
use tokio::runtime::Builder;

use crate::{bodies, simulated::Simulated};

/// A step, and what it is called.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) run: Box<dyn FnMut()>,
}

/// All nodes can be used, and none is busy.
#[derive(Clone, Copy, Debug)]
struct Calm;

impl Conditions for Calm {
    fn fitness(&self, _: Address) -> Fitness {
        Fitness::Fit
    }

    fn load(&self, _: Address) -> u64 {
        0
    }
}

const DEEP: Depth = Depth { keys: true, ids: true };
const BOOKS: &str = "books";

/// All, in the order in which a request takes them.
pub(crate) fn all() -> Vec<Step> {
    let mut steps: Vec<Step> = [
        ("REST: path and peek, 0.6 KB upsert", Protocol::Rest, 600),
        ("REST: path and peek, 6 KB upsert", Protocol::Rest, 6000),
        ("gRPC: path and peek, 0.6 KB upsert", Protocol::Grpc, 600),
        ("gRPC: path and peek, 6 KB upsert", Protocol::Grpc, 6000),
    ]
    .map(|(name, protocol, size)| peek(name, protocol, size))
    .into();
    steps.extend([ring(), leadership()]);
    let (six, hundred) = (topology(3, 6, 1), topology(12, 100, 3));
    let everything = Intent { action: Action::Read, scopes: smallvec![Scope::EVERYTHING], affinity: None };
    steps.push(planning("plan: read of 6 shards on 3 nodes", six.clone(), everything));
    steps.push(planning("plan: id to shard to node, 100 shards on 12 nodes", hundred, write_of(&[7])));
    for (name, protocol) in [
        ("REST: split of 100 points over 3 nodes", Protocol::Rest),
        ("gRPC: split of 100 points over 3 nodes", Protocol::Grpc),
    ] {
        steps.push(split(name, protocol, six.clone()));
    }
    steps.push(merge("REST: merge of 3 replies", Protocol::Rest, &bodies::rest_written()));
    steps.push(merge("gRPC: merge of 3 replies", Protocol::Grpc, &bodies::grpc_written()));
    steps
}

impl Step {
    fn new<T>(name: &'static str, mut run: impl FnMut() -> T + 'static) -> Self {
        let run = Box::new(move || {
            black_box(run());
        });
        Self { name, run }
    }
}

fn ring() -> Step {
    let (ring, mut id) = (HashRing::new(0..100), 0);
    Step::new("ring: id to shard, 100 shards", move || {
        id += 1;
        ring.shard(&PointId::Num(black_box(id)))
    })
}

fn leadership() -> Step {
    let replicas = [1, 2, 3].map(|peer| Replica { peer, state: ReplicaState::Active });
    Step::new("leader: medium, three replicas", move || leader(black_box(&replicas), WriteOrdering::Medium))
}

fn peek(name: &'static str, protocol: Protocol, size: usize) -> Step {
    let (method, uri, _) = upsert(protocol, 1, 1);
    let body = sized(size, |dimensions| upsert(protocol, 1, dimensions).2);
    Step::new(name, move || {
        let call = Call::of(protocol, &method, black_box(&uri));
        call.intent(black_box(&body), DEEP)
    })
}

fn planning(name: &'static str, topology: Topology, intent: Intent) -> Step {
    let mut dice = 0_u64;
    Step::new(name, move || {
        dice = dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let Some(Lookup::Found(collection)) = topology.collection(BOOKS) else { return None };
        plan(Target::Points(collection, black_box(&intent)), &topology, &Calm, &[], dice)
    })
}

fn split(name: &'static str, protocol: Protocol, topology: Topology) -> Step {
    let (method, uri, body) = upsert(protocol, 100, 128);
    let call = Call::of(protocol, &method, &uri);
    let intent = call.intent(&body, DEEP).expect("a body that is understood");
    let cut = move || {
        let Some(Lookup::Found(collection)) = topology.collection(BOOKS) else { return None };
        internals::split(&call, black_box(&body), &intent, collection, &topology, &Calm)
    };
    assert_eq!(cut().map(|parts| parts.len()), Some(3), "{name}");
    Step::new(name, cut)
}

fn merge(name: &'static str, protocol: Protocol, body: &Bytes) -> Step {
    let parts = [(); 3].map(|()| Response::new(body.clone()));
    Step::new(name, move || internals::merged(protocol, black_box(&parts)))
}

fn upsert(protocol: Protocol, points: usize, dimensions: usize) -> (Method, Uri, Bytes) {
    match protocol {
        Protocol::Rest => {
            let uri = Uri::from_static("/collections/books/points?wait=true");
            (Method::PUT, uri, bodies::rest_upsert(points, dimensions))
        }
        Protocol::Grpc => {
            let uri = Uri::from_static("/qdrant.Points/Upsert");
            (Method::POST, uri, bodies::grpc_upsert(BOOKS, points, dimensions))
        }
    }
}

/// A body of about this many bytes, with as many dimensions as that takes.
pub(crate) fn sized(bytes: usize, body: impl Fn(usize) -> Bytes) -> Bytes {
    let (empty, of_hundred) = (body(0).len(), body(100).len());
    body(100 * bytes.saturating_sub(empty) / (of_hundred - empty))
}

/// A write of these points that the leader of their shard takes.
fn write_of(ids: &[u64]) -> Intent {
    let points = Points::Ids(ids.iter().copied().map(PointId::Num).collect());
    let scope = Scope { points, ..Scope::EVERYTHING };
    Intent { action: Action::Write(WriteOrdering::Medium), scopes: smallvec![scope], affinity: None }
}

fn topology(nodes: u64, shards: u32, replicas: u64) -> Topology {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let handle = Simulated::new(nodes, shards, replicas).follow(std::time::Duration::from_secs(3600));
        handle.surveyed().await;
        Topology::clone(&*handle.knowing(BOOKS).await)
    })
}
