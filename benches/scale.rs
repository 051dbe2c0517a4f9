//! What a large cluster costs: the memory of its snapshot, a look that finds nothing new, and one replica that changes.
//!
//! ```text
//! cargo bench -p qdrant-router-benches --bench scale
//! ```
//!
//! A thousand nodes, ten thousand collections of a hundred shards, three copies each, followed by the SDK's own worker.

mod simulated;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use allocation_counter::{AllocationInfo, measure};
use futures_util::{StreamExt, stream};
use qdrant_router::topology::{ClusterApi, Epoch, Lookup, Topology, TopologyHandle};
use tokio::{
    runtime::{Builder, Runtime},
    time::sleep,
};

use crate::simulated::Simulated;

const NODES: u64 = 1000;
const COLLECTIONS: usize = 10_000;
const SHARDS: u32 = 100;
const REPLICAS: u64 = 3;

/// Longer than the worker takes to ask all nodes once more.
const QUIET: Duration = Duration::from_secs(2);

/// Longer than anything that is measured here.
const NEVER: Duration = Duration::from_secs(24 * 3600);

fn main() {
    // All on one thread, so that every allocation is seen.
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    println!("{NODES} nodes, {COLLECTIONS} collections of {SHARDS} shards, {REPLICAS} copies each\n");
    one_collection();

    let cluster = Simulated::new(NODES, SHARDS, REPLICAS);
    let mut handle = None;
    let (took, nodes) = timed(|| {
        runtime.block_on(async {
            let followed = cluster.follow(NEVER);
            followed.surveyed().await;
            settle(&followed).await;
            handle = Some(followed);
        });
    });
    let handle = handle.expect("a handle");
    println!("nodes alone: {}, found in {took:.2?}", bytes(nodes.bytes_current));

    let (took, collections) = timed(|| runtime.block_on(know_all(&handle)));
    println!("collections: {}, learnt in {took:.2?}", bytes(collections.bytes_current));
    println!("resident:    {}\n", bytes(resident()));
    let known = handle.snapshot().collections().count();
    assert_eq!(known, COLLECTIONS, "collections known");

    report("a look that finds nothing new", &runtime, &cluster, &handle, || ());
    report("one replica of one collection changes", &runtime, &cluster, &handle, || cluster.commit());
    copied(&handle);
}

/// What one placement takes, by itself.
fn one_collection() {
    let cluster = Simulated::new(NODES, SHARDS, REPLICAS);
    let _shares_rings = cluster.collection("the first", Epoch::default());
    let mut collection = None;
    let (took, info) = timed(|| collection = Some(cluster.collection("books", Epoch::default())));
    println!(
        "one collection: {} in {} blocks, made in {took:.1?}",
        bytes(info.bytes_current),
        info.count_current
    );
}

/// Waits until the worker is sure of what it knows.
async fn settle(handle: &TopologyHandle) {
    let mut last = handle.snapshot();
    let mut quiet = Instant::now();
    while quiet.elapsed() < QUIET {
        sleep(Duration::from_millis(20)).await;
        let now = handle.snapshot();
        if !Arc::ptr_eq(&now, &last) {
            (last, quiet) = (now, Instant::now());
        }
    }
}

async fn know_all(handle: &TopologyHandle) {
    stream::iter(0..COLLECTIONS)
        .for_each_concurrent(200, |number| async move {
            handle.knowing(&name(number)).await;
        })
        .await;
    settle(handle).await;
}

fn name(number: usize) -> String {
    format!("collection-{number:05}")
}

/// What the worker does about `event`, until it has been quiet for a while. What the nodes' answers themselves take
/// is left out.
fn report(what: &str, runtime: &Runtime, cluster: &Simulated, handle: &TopologyHandle, event: impl FnOnce()) {
    let before = handle.snapshot();
    let (asked, cpu) = (cluster.asked(), self::cpu());
    let (_, all) = timed(|| {
        event();
        handle.refresh();
        runtime.block_on(async {
            settle(handle).await;
            // Traffic asks for what has changed.
            handle.knowing(&name(0)).await;
            settle(handle).await;
        });
    });
    let (asked, cpu) = (cluster.asked() - asked, self::cpu() - cpu);
    let address = before.nodes()[0].address;
    let began = self::cpu();
    let (_, answers) = timed(|| (0..asked).for_each(|_| drop(runtime.block_on(cluster.cluster(address)))));
    let cpu = cpu.saturating_sub(self::cpu() - began);
    let after = handle.snapshot();
    println!("{what}: {asked} answers of nodes");
    println!(
        "  {:.1} ms of CPU, {} allocations of {} in all",
        cpu.as_secs_f64() * 1000.0,
        all.count_total.saturating_sub(answers.count_total),
        bytes(all.bytes_total.saturating_sub(answers.bytes_total) as i64)
    );
    println!("  a new snapshot: {}", if Arc::ptr_eq(&before, &after) { "no" } else { "yes" });
    println!("  placements that are other objects now: {}", moved(&before, &after));
}

/// What a new snapshot costs where a placement has changed: its map of names is copied.
fn copied(handle: &TopologyHandle) {
    let snapshot = handle.snapshot();
    let map: HashMap<Arc<str>, Lookup> = snapshot
        .collections()
        .map(|(name, collection)| (name.into(), Lookup::Found(collection.clone())))
        .collect();
    let mut copy = None;
    let (took, info) = timed(|| copy = Some(map.clone()));
    println!("a copy of the map of all names: {} in {took:.1?}", bytes(info.bytes_current));
}

fn moved(before: &Topology, after: &Topology) -> usize {
    let is_same = |(name, now): &(&str, &Arc<_>)| {
        before
            .collection(name)
            .is_some_and(|then| matches!(then, Lookup::Found(then) if Arc::ptr_eq(then, now)))
    };
    after.collections().filter(|row| !is_same(row)).count()
}

fn timed(work: impl FnOnce()) -> (Duration, AllocationInfo) {
    let began = Instant::now();
    let info = measure(work);
    (began.elapsed(), info)
}

/// What this thread has used.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0))
}

fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: i64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    kib * 1024
}

fn bytes(bytes: i64) -> String {
    match bytes {
        ..100_000 => format!("{bytes} bytes"),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
