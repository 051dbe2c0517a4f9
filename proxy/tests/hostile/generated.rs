//! Generated input, while others are served.
//!
//! The attack comes from a process of its own with the idle policy, and the well-behaved have a thread of
//! their own: on one machine, what the attack itself costs is not the program's doing.

use std::{
    env,
    net::SocketAddr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use http::StatusCode;
use testkit::Block;

use crate::{
    attack::attack,
    polite::{Nodes, WellBehaved},
    process::{MAX_GROWTH, Memory},
    program::{Program, eventually, get},
    spy::Spies,
    wire::Generator,
};

/// How many requests are sent, unless the environment says otherwise, and from which seed.
const REQUESTS: u64 = 20_000;
const SEED: u64 = 1;

/// How long the well-behaved have the program for themselves, to compare with.
const ALONE: Duration = Duration::from_secs(5);

/// What [`hostile_input_is_forwarded_plainly_or_not_at_all_and_harms_nobody_else`] starts.
#[tokio::test]
#[ignore = "attacks where QDRANT_ROUTER_ATTACK says"]
async fn attackers() {
    let ports = env::var("QDRANT_ROUTER_ATTACK").expect("two addresses");
    let mut ports = ports.split(' ').map(|port| port.parse().expect("an address"));
    let ports = [ports.next().expect("of REST"), ports.next().expect("of gRPC")];
    let (requests, seed) = (number("QDRANT_ROUTER_HOSTILE", REQUESTS), number("QDRANT_ROUTER_SEED", SEED));
    let rate = number("QDRANT_ROUTER_HOSTILE_RATE", 0);
    attack(ports, Generator::seeded(seed), requests, (rate > 0).then_some(rate as f64)).await;
}

pub(crate) fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// How many workers the router has, and how much it keeps of a body: the attack uploads some of ten megabytes, which the
/// memory that is watched would be full of.
pub(crate) fn settings() -> [String; 2] {
    let workers = number("QDRANT_ROUTER_HOSTILE_WORKERS", 2);
    [format!("--workers={workers}"), "--body-limit=2MiB".to_owned()]
}

/// Sends so many generated requests to the ports of `program`, while well-behaved clients are answered; tells how
/// far its memory has grown over it.
pub(crate) async fn attacked(program: &Program, ports: [SocketAddr; 2], nodes: Nodes, requests: u64) -> u64 {
    let seed = number("QDRANT_ROUTER_SEED", SEED);
    let well_behaved = WellBehaved::start(ports[0], ports[1], nodes);
    tokio::time::sleep(ALONE).await;
    let mut alone = well_behaved.end().await;
    assert_eq!(alone.failures, Vec::<String>::new());

    let memory = Memory::of(program);
    let well_behaved = WellBehaved::start(ports[0], ports[1], nodes);
    let mut attackers = Command::new("nice");
    attackers
        .args(["-n", "19"])
        .arg(env::current_exe().expect("this program"))
        .args(["--exact", "generated::attackers", "--ignored"])
        .env("QDRANT_ROUTER_ATTACK", ports.map(|port| port.to_string()).join(" "))
        .env("QDRANT_ROUTER_HOSTILE", requests.to_string())
        .env("QDRANT_ROUTER_SEED", seed.to_string())
        .stdout(Stdio::null());
    let began = Instant::now();
    let ended = tokio::task::spawn_blocking(move || attackers.status()).await.expect("no panic");
    assert!(ended.expect("`nice` of coreutils").success(), "the attackers gave up");
    let took = began.elapsed();
    let mut served = well_behaved.end().await;
    let growth = memory.growth();
    println!(
        "{requests} hostile requests from seed {seed}, {:.0} a second; {} well-behaved ones answered, p99 {:?} alone \
         and {:?} under attack; memory grew by {} KiB",
        requests as f64 / took.as_secs_f64(),
        served.count(),
        alone.p99(),
        served.p99(),
        growth >> 10,
    );
    assert_eq!(served.failures, Vec::<String>::new());
    growth
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_input_is_forwarded_plainly_or_not_at_all_and_harms_nobody_else() {
    let requests = number("QDRANT_ROUTER_HOSTILE", REQUESTS);
    let block = Block::claim().expect("addresses");
    let spies = Spies::start(&block).await;
    let nodes = [0, 1].map(|node| format!("--node={}", block.node(node)));
    let [workers, body_limit] = settings();
    let flags = [&nodes[0], &nodes[1], &workers, &body_limit, "--log=warn"];
    let program = Program::serve(block.proxy(), &flags);
    eventually("it is ready", async || {
        get(block.proxy(), 9633, "/readyz").await.is_some_and(|(status, _)| status == StatusCode::OK)
    })
    .await;
    let ports = [6333, 6334].map(|port| SocketAddr::new(block.proxy(), port));
    let growth = attacked(&program, ports, Nodes::Spies, requests).await;

    let seen = std::mem::take(&mut *spies.seen());
    println!("{} forwarded, {} broke off", seen.forwarded, seen.broken_off);
    let said = program.said();
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(seen.mistakes, Vec::<String>::new());
    assert!(seen.forwarded > requests / 20, "the nodes have seen {} requests", seen.forwarded);
    assert!(growth <= MAX_GROWTH, "memory grew by {growth} bytes");
}
