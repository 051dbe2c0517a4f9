//! A whole router before a simulated cluster, in virtual time.
//!
//! Everything is the real code, from the resolver's answer to the bytes on a connection; only sockets are
//! pipes in memory ([`network`]), nodes are small HTTP servers ([`cluster`]), and time stands still while
//! there is something to do. A schedule of faults and requests is drawn from a seed, and what must hold
//! for every schedule is checked against what the nodes have seen.
//!
//! `QDRANT_ROUTER_SIMULATIONS=5000 cargo test -p qdrant-router --release simulation` runs more schedules;
//! `QDRANT_ROUTER_SIMULATION_SEED=7` runs one again.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    ops::Range,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use prost::Message;
use qdrant_client::qdrant::{CountPoints, UpsertPoints};
use tokio::time::Instant;

use self::cluster::{Condition, Seen, World};
use crate::{
    Router,
    dice::Dice,
    route::Reason,
    topology::{Epoch, Settings},
};

mod aside;
mod cluster;
pub(crate) mod network;

/// How long the router may take to learn of what it cannot notice by itself.
const NOTICE: Duration = Duration::from_secs(4);

/// After the last fault is gone, a request that still waits has this long.
const LAST_CALL: Duration = Duration::from_secs(60);

/// Schedules per run, unless the environment says otherwise.
const SCHEDULES: u64 = 150;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    WeakWrite,
    MediumWrite,
}

/// What became of a request.
#[derive(Debug)]
struct Outcome {
    id: u64,
    kind: Kind,
    collection: &'static str,
    asked_at: Instant,
    answered_at: Instant,
    /// A status of HTTP; what gRPC says is translated.
    status: u16,
    /// How many times it was sent.
    attempts: usize,
    /// Why it went where it was answered.
    reason: Option<Reason>,
    #[expect(dead_code, reason = "shown where an assertion fails")]
    text: String,
}

/// A schedule's own numbers, apart from the router's.
struct Draw(Dice);

impl Draw {
    fn below(&self, bound: u64) -> u64 {
        self.0.throw() % bound
    }

    fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }

    fn one_of<T: Clone>(&self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize].clone()
    }
}

/// Sends one request and waits for the end of its answer.
async fn ask(router: Router, collection: &'static str, kind: Kind, grpc: bool, id: u64) -> Outcome {
    let asked_at = Instant::now();
    let request = match (kind, grpc) {
        (Kind::Read, false) => Request::post(format!("/collections/{collection}/points/count"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from_static(b"{}"))),
        (_, false) => {
            let ordering = if kind == Kind::WeakWrite { "weak" } else { "medium" };
            Request::put(format!("/collections/{collection}/points?ordering={ordering}"))
                .header("content-type", "application/json")
                .body(Full::new(format!(r#"{{"points":[{{"id":{id},"vector":[1.0]}}]}}"#).into()))
        }
        (Kind::Read, true) => {
            let message = CountPoints { collection_name: collection.to_owned(), ..CountPoints::default() };
            grpc_request("/qdrant.Points/Count", &message)
        }
        (_, true) => {
            let ordering =
                qdrant_client::qdrant::WriteOrdering { r#type: i32::from(kind == Kind::MediumWrite) };
            let point = qdrant_client::qdrant::PointStruct::new(id, vec![1.0], qdrant_client::Payload::new());
            let message = UpsertPoints {
                collection_name: collection.to_owned(),
                points: vec![point],
                ordering: Some(ordering),
                ..UpsertPoints::default()
            };
            grpc_request("/qdrant.Points/Upsert", &message)
        }
    };
    let mut request = request.expect("a request");
    request.headers_mut().insert("x-request-id", id.into());
    let (response, routed) = router.route(request).await;
    let (head, body) = response.into_parts();
    let body = body.collect().await;
    let mut status = head.status.as_u16();
    let mut text = String::new();
    match body {
        Err(error) => (status, text) = (599, error.to_string()),
        Ok(body) => {
            let in_trailers = body.trailers().and_then(|trailers| trailers.get("grpc-status"));
            let code = head.headers.get("grpc-status").or(in_trailers).cloned();
            if grpc && code.as_ref().is_none_or(|code| code != "0") {
                status = if code.is_some_and(|code| code == "8") { 429 } else { 503 };
            }
            if status != StatusCode::OK {
                text = format!("{:?} {}", head.headers, String::from_utf8_lossy(&body.to_bytes()));
            }
        }
    }
    Outcome {
        id,
        kind,
        collection,
        asked_at,
        answered_at: Instant::now(),
        status,
        attempts: routed.attempts,
        reason: routed.reason,
        text,
    }
}

fn grpc_request(path: &str, message: &impl Message) -> http::Result<Request<Full<Bytes>>> {
    framed(path, &message.encode_to_vec())
}

fn framed(path: &str, message: &[u8]) -> http::Result<Request<Full<Bytes>>> {
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(message.len()).expect("a short message").to_be_bytes());
    body.extend_from_slice(message);
    Request::post(path)
        .version(http::Version::HTTP_2)
        .header("content-type", "application/grpc")
        .body(Full::new(body.into()))
}

/// The router before `world`, with its first survey done.
async fn router(world: &World, seed: u64) -> Router {
    let router = Router::builder()
        .headless("qdrant-headless")
        .seed(seed)
        .topology_settings(Settings { probe_interval: Duration::from_secs(2), ..Settings::default() })
        .build_with(world.names())
        .expect("a router");
    router.topology().surveyed().await;
    router
}

/// Notes every epoch that the router publishes.
fn epochs(router: &Router) -> tokio::task::JoinHandle<()> {
    let mut topology = router.topology().clone();
    tokio::spawn(async move {
        let mut newest: Option<Epoch> = None;
        loop {
            let epoch = topology.snapshot().epoch();
            assert!(epoch >= newest, "epoch {epoch:?} after {newest:?}");
            newest = epoch;
            topology.changed().await;
        }
    })
}

/// What became of each request: its status, when it ended, and when each node saw it.
type Account = Vec<(u64, u16, Duration, Vec<(usize, Duration)>)>;

/// Draws a schedule from `seed`, runs it, checks what must hold, and gives an account of it.
async fn run(seed: u64) -> Account {
    let draw = Draw(Dice::seeded(seed));
    let nodes = 3 + draw.below(3) as usize;
    let world = World::new(nodes);
    world.create("books", 1 + draw.below(4) as usize, 2 + draw.below(2) as usize);
    world.create("solo", 1, 1);
    network::install(world.clone());
    let router = router(&world, seed).await;
    let watch = epochs(&router);

    let began = Instant::now();
    let end = began + Duration::from_secs(20);
    let mut next_event = began + draw.millis(500, 2000);
    let mut requests = tokio::task::JoinSet::new();
    let mut id = 0;
    while Instant::now() < end {
        tokio::time::sleep(draw.millis(5, 150)).await;
        if Instant::now() >= next_event {
            next_event = Instant::now() + draw.millis(200, 2500);
            something_happens(&world, &draw);
        }
        id += 1;
        let kind = draw.one_of(&[Kind::Read, Kind::Read, Kind::Read, Kind::WeakWrite, Kind::MediumWrite]);
        let collection = draw.one_of(&["books", "books", "solo"]);
        requests.spawn(ask(router.clone(), collection, kind, draw.below(2) == 0, id));
    }
    (0..nodes).for_each(|node| world.mend(node));
    let ended = tokio::time::timeout(LAST_CALL, requests.join_all()).await;
    let outcomes = ended.unwrap_or_else(|_| panic!("a request never ended"));
    assert_eq!(outcomes.len() as u64, id);
    let _story = Story { world: &world, outcomes: &outcomes, began };
    assert!(!watch.is_finished(), "an older epoch won");
    drop(watch);

    let seen = world.seen();
    nobody_else_was_asked(&world, &seen);
    nothing_was_done_too_often(&outcomes, &seen);
    reads_found_whoever_was_well(&world, &outcomes, &seen);
    the_last_replica_was_asked(&world, &outcomes, &seen);
    let repeats = seen.len().saturating_sub(outcomes.len());
    assert!(repeats as f64 <= allowance(outcomes.len(), began.elapsed()), "{repeats} repeats and hedges");
    let account = |outcome: &Outcome| {
        let by = seen.iter().filter(|request| request.id == outcome.id);
        let by = by.map(|request| (request.node, request.at - began)).collect();
        (outcome.id, outcome.status, outcome.answered_at - began, by)
    };
    outcomes.iter().map(account).collect()
}

/// Told where a run fails, after its seconds.
struct Story<'a> {
    world: &'a World,
    outcomes: &'a [Outcome],
    began: Instant,
}

impl Drop for Story<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        println!("{}", self.world.story(self.began));
        let seen = self.world.seen();
        for outcome in self.outcomes {
            let by = seen.iter().filter(|request| request.id == outcome.id);
            let by: Vec<_> = by.map(|request| (request.node, request.at - outcome.asked_at)).collect();
            let Outcome { id, kind, collection, status, reason, .. } = outcome;
            let at = outcome.asked_at - self.began;
            println!("{at:?} request {id}: {kind:?} of {collection}: {status} by {reason:?}, seen by {by:?}");
        }
    }
}

/// One fault, or the end of one. At most two nodes are in trouble at a time.
fn something_happens(world: &World, draw: &Draw) {
    let node = draw.below(world.nodes() as u64) as usize;
    let troubled = (0..world.nodes()).filter(|&node| world.is_in_trouble(node)).count();
    if world.is_in_trouble(node) {
        match draw.below(3) {
            0 if world.condition(node) == Condition::Dead => world.move_to_new_address(node),
            0 | 1 => world.mend(node),
            _ => {}
        }
        return;
    }
    match draw.below(12) {
        0 if troubled < 2 => world.set(node, Condition::Dead),
        1 if troubled < 2 => world.set(node, Condition::Hanging),
        2 if troubled < 2 => world.set(node, Condition::Failing),
        3 if troubled < 2 => world.set(node, Condition::BreakingOff),
        4 if troubled < 2 => world.set(node, Condition::Refusing),
        5 => world.set(node, Condition::Slow(draw.millis(20, 600))),
        6 if troubled < 2 => world.give_address_away(node),
        7 => world.move_replica("books", draw.0.throw()),
        8 => world.move_replica("solo", draw.0.throw()),
        9 => world.freeze_view(node),
        10 => world.names().fail(draw.below(2) == 0),
        _ => world.names().list(node, draw.below(3) != 0),
    }
}

/// Requests go to addresses that the name has listed, and to no node of another cluster once it could be
/// known.
fn nobody_else_was_asked(world: &World, seen: &[Seen]) {
    for request in seen {
        assert!(world.was_listed(request.ip, request.at), "{request:?}: never listed");
        if let Some(since) = request.stranger_since {
            assert!(request.at - since <= NOTICE, "{request:?}: asked after {:?}", request.at - since);
        }
    }
}

/// A medium write is never processed twice, a weak one at most once more, and what was acknowledged was
/// processed.
fn nothing_was_done_too_often(outcomes: &[Outcome], seen: &[Seen]) {
    let mut processed: HashMap<u64, usize> = HashMap::new();
    for request in seen.iter().filter(|request| request.is_processed) {
        *processed.entry(request.id).or_default() += 1;
    }
    for outcome in outcomes.iter().filter(|outcome| outcome.kind != Kind::Read) {
        let times = processed.get(&outcome.id).copied().unwrap_or_default();
        let most = if outcome.kind == Kind::WeakWrite { 2 } else { 1 };
        assert!(times <= most, "{outcome:?}: processed {times} times");
        assert!(outcome.status != 200 || times > 0, "{outcome:?}: acknowledged and not processed");
    }
}

/// While any node is well, reads are answered, as long as there is a budget to find it with.
fn reads_found_whoever_was_well(world: &World, outcomes: &[Outcome], seen: &[Seen]) {
    let by_stranger: BTreeSet<u64> =
        seen.iter().filter(|request| request.stranger_since.is_some()).map(|request| request.id).collect();
    let failed = |outcome: &&Outcome| outcome.kind == Kind::Read && outcome.status != 200;
    for outcome in outcomes.iter().filter(failed).filter(|outcome| !by_stranger.contains(&outcome.id)) {
        if has_spent_its_budget(outcomes, outcome) {
            continue;
        }
        let well = (0..world.nodes())
            .find(|&node| world.was_well(node, outcome.asked_at - NOTICE, outcome.answered_at));
        let tried: Vec<usize> =
            seen.iter().filter(|request| request.id == outcome.id).map(|request| request.node).collect();
        assert_eq!(well, None, "{outcome:?}: that node was well all the time; seen by {tried:?}");
    }
}

/// Whether nothing was left to pay a repeat of this request with: those of the ten seconds before had spent
/// what there is at the least.
fn has_spent_its_budget(outcomes: &[Outcome], outcome: &Outcome) -> bool {
    let before = |other: &&Outcome| {
        other.asked_at <= outcome.answered_at
            && other.answered_at + Duration::from_secs(10) > outcome.asked_at
    };
    let repeats: usize = outcomes.iter().filter(before).map(|other| other.attempts.saturating_sub(1)).sum();
    repeats >= 50
}

/// However poorly the node of the only replica answers, it is asked, as long as there is a budget to ask
/// another one after it.
fn the_last_replica_was_asked(world: &World, outcomes: &[Outcome], seen: &[Seen]) {
    for outcome in
        outcomes.iter().filter(|outcome| outcome.kind == Kind::Read && outcome.collection == "solo")
    {
        let Some(holder) = world.sole_holder("solo", outcome.asked_at - NOTICE, outcome.answered_at) else {
            continue;
        };
        if has_spent_its_budget(outcomes, outcome) {
            continue;
        }
        if world.was_reachable(holder, outcome.asked_at - NOTICE, outcome.answered_at) {
            let asked: BTreeSet<usize> =
                seen.iter().filter(|request| request.id == outcome.id).map(|request| request.node).collect();
            assert!(asked.contains(&holder), "{outcome:?}: went to {asked:?}, not to {holder}");
        }
    }
}

/// What repeats and hedges of so many requests in this time may come to.
fn allowance(requests: usize, time: Duration) -> f64 {
    0.2 * requests as f64 + 5.0 * (time.as_secs_f64() + 10.0)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn in_virtual_time<T>(task: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(task)
}

#[test]
fn whatever_happens_the_invariants_hold() {
    let seeds = match number("QDRANT_ROUTER_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("QDRANT_ROUTER_SIMULATIONS").unwrap_or(SCHEDULES),
    };
    let fails = |seed: &u64| std::panic::catch_unwind(|| in_virtual_time(run(*seed))).is_err();
    let failed: Vec<u64> = seeds.filter(fails).collect();
    assert!(failed.is_empty(), "try QDRANT_ROUTER_SIMULATION_SEED with one of {failed:?}");
}

/// Or a failure could not be looked at again.
#[test]
fn the_same_seed_tells_the_same_story() {
    for seed in 0..5 {
        let [once, again] = std::array::from_fn(|_| in_virtual_time(run(seed)));
        for (one, other) in once.iter().zip(&again) {
            assert_eq!(one, other, "seed {seed}");
        }
        assert_eq!(once.len(), again.len());
    }
}

/// Two hundred reads a second, over both protocols.
async fn reads(router: &Router, collection: &'static str, ids: Range<u64>) -> Vec<Outcome> {
    let mut requests = tokio::task::JoinSet::new();
    for id in ids {
        tokio::time::sleep(Duration::from_millis(5)).await;
        requests.spawn(ask(router.clone(), collection, Kind::Read, id % 2 == 0, id));
    }
    requests.join_all().await
}

/// A cluster that answers nothing but errors is not asked much more than it was.
#[test]
fn repeats_stay_within_the_budget() {
    in_virtual_time(async {
        let world = World::new(4);
        world.create("books", 1, 4);
        network::install(world.clone());
        let router = router(&world, 1).await;
        (0..4).for_each(|node| world.set(node, Condition::Failing));
        let began = Instant::now();
        let outcomes = reads(&router, "books", 0..4_000).await;
        assert!(outcomes.iter().all(|outcome| outcome.status >= 500));
        let repeats = world.seen().len() - outcomes.len();
        let allowed = allowance(outcomes.len(), began.elapsed());
        assert!(repeats as f64 <= allowed, "{repeats} repeats, {allowed} allowed");
        assert!(repeats > outcomes.len() / 10, "{repeats} repeats: the budget is there to be used");
        let refused = router.repeats_refused() as usize;
        assert!(refused > outcomes.len() / 2, "{refused} refused: most requests wanted to be repeated");
    });
}

/// The only replica is on a node that answers nothing but errors: other nodes answer in its place, which it
/// is asked often enough to take back.
#[test]
fn a_spared_node_fails_no_reads() {
    in_virtual_time(async {
        let world = World::new(3);
        world.create("solo", 1, 1);
        network::install(world.clone());
        let router = router(&world, 1).await;
        world.set(0, Condition::Failing);
        let outcomes = reads(&router, "solo", 0..4_000).await;
        let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.status != 200).collect();
        assert!(failed.is_empty(), "{} failed, {:?} first", failed.len(), failed[0]);

        world.mend(0);
        let outcomes = reads(&router, "solo", 4_000..4_100).await;
        let last = outcomes.iter().max_by_key(|outcome| outcome.id).expect("a hundred");
        assert_eq!(last.reason, Some(Reason::ReadableReplica));
    });
}

/// The addresses of the simulation.
fn ip(number: usize) -> IpAddr {
    let [.., high, low] = number.to_be_bytes();
    [10, 0, high, low].into()
}

/// Shared by the parts of the simulation.
type Shared<T> = Arc<std::sync::Mutex<T>>;
