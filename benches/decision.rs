//! What deciding costs, in time: each step by itself.
//!
//! ```text
//! cargo bench -p qdrant-router-benches --bench decision
//! ```

#[path = "compare/bodies.rs"]
#[allow(dead_code, reason = "the comparison needs the rest")]
mod bodies;
#[allow(dead_code, reason = "the bench of scale needs the rest")]
mod simulated;
mod steps;

use criterion::{Criterion, criterion_group, criterion_main};

fn decision(c: &mut Criterion) {
    for mut step in steps::all() {
        c.bench_function(step.name, |b| b.iter(&mut step.run));
    }
}

criterion_group!(benches, decision);
criterion_main!(benches);
