//! What deciding costs: the ring, the leader, and the peeks into a body.
//!
//! ```text
//! cargo bench -p qdrant-router-benches
//! ```

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use http::Method;
use qdrant_router::{
    request::{Call, Depth, Protocol},
    topology::{HashRing, PointId, Replica, ReplicaState, WriteOrdering, leader},
};

const DEEP: Depth = Depth { keys: true, ids: true };

fn ring(c: &mut Criterion) {
    let ring = HashRing::new(0..100);
    let mut id = 0;
    c.bench_function("ring: point to shard, 100 shards", |b| {
        b.iter(|| {
            id += 1;
            ring.shard(&PointId::Num(black_box(id)))
        });
    });
}

fn leadership(c: &mut Criterion) {
    let replicas = [1, 2, 3].map(|peer| Replica { peer, state: ReplicaState::Active });
    c.bench_function("leader: medium, three replicas", |b| {
        b.iter(|| leader(black_box(&replicas), WriteOrdering::Medium));
    });
}

/// An upsert of one point whose body is about 6 KB: 768 dimensions.
fn peeks(c: &mut Criterion) {
    let vector: Vec<String> = (0..768).map(|i| format!("0.{i:05}")).collect();
    let json = format!(r#"{{"points":[{{"id":7,"vector":[{}]}}]}}"#, vector.join(","));
    let uri = "/collections/books/points?wait=true".parse().expect("a URI");
    c.bench_function("REST: path and peek, 6 KB upsert", |b| {
        b.iter(|| {
            let call = Call::of(Protocol::Rest, &Method::PUT, black_box(&uri));
            call.intent(black_box(json.as_bytes()), DEEP)
        });
    });

    let grpc = grpc_upsert(768);
    let uri = "/qdrant.Points/Upsert".parse().expect("a URI");
    c.bench_function("gRPC: path and peek, 3 KB upsert", |b| {
        b.iter(|| {
            let call = Call::of(Protocol::Grpc, &Method::POST, black_box(&uri));
            call.intent(black_box(&grpc), DEEP)
        });
    });
}

/// `UpsertPoints { collection_name: "books", points: [{ id: 7, vectors: <floats> }] }`, framed.
fn grpc_upsert(dimensions: usize) -> Vec<u8> {
    let field = |number: u8, content: &[u8]| {
        let mut bytes = vec![number << 3 | 2];
        let mut length = content.len();
        while length >= 0x80 {
            bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend_from_slice(content);
        bytes
    };
    let point = [field(1, &[0x08, 7]), field(4, &vec![0; dimensions * 4])].concat();
    let message = [field(1, b"books"), field(3, &point)].concat();
    let length = u32::try_from(message.len()).expect("a short message");
    [&[0], &length.to_be_bytes()[..], &message].concat()
}

criterion_group!(benches, ring, leadership, peeks);
criterion_main!(benches);
