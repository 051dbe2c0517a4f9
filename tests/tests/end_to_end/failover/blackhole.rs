//! A host that vanishes without a word: packets to it are lost, and nothing comes back.
//!
//! Loopback loses nothing, so one node is reached through a network namespace of its own: a front in there, a pair of
//! virtual interfaces, and a front out here. In the namespace a blackhole route then swallows every answer. Needs `ip`
//! (iproute2) and the right to make namespaces; says so where either is missing.

use std::{
    net::IpAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use testkit::{Cluster, Front};

use super::{Load, Mix, assert_no_failed_read, eventually, fill, noticed};
use crate::bed::{Bed, router_for};

/// Tells a process of this binary to be the front in the namespace: `LISTEN TARGET`.
const FRONT: &str = "QDRANT_ROUTER_TEST_FRONT";

/// A namespace with a front in it. Removed when dropped.
struct Namespace {
    name: String,
    outside: IpAddr,
    inside: IpAddr,
    front: Option<Child>,
}

fn ip(arguments: &str) -> bool {
    let outcome =
        Command::new("ip").args(arguments.split(' ')).stdout(Stdio::null()).stderr(Stdio::null()).status();
    outcome.is_ok_and(|status| status.success())
}

impl Namespace {
    /// `None` where this machine has no namespaces for us.
    fn new() -> Option<Self> {
        let number = std::process::id() % 60_000;
        let name = format!("qr{number}");
        let net = format!("10.{}.{}", 200 + number / 256 % 56, number % 256);
        let (outside, inside) = (format!("{net}.1"), format!("{net}.2"));
        let made = ip(&format!("netns add {name}"));
        let namespace = Self {
            name,
            outside: outside.parse().expect("an address"),
            inside: inside.parse().expect("an address"),
            front: None,
        };
        let name = &namespace.name;
        let is_made = made
            && ip(&format!("link add {name}o type veth peer name {name}i netns {name}"))
            && ip(&format!("addr add {outside}/24 dev {name}o"))
            && ip(&format!("link set {name}o up"))
            && ip(&format!("-n {name} addr add {inside}/24 dev {name}i"))
            && ip(&format!("-n {name} link set {name}i up"));
        is_made.then_some(namespace)
    }

    /// Has a front in the namespace lead to whatever listens outside.
    fn open(&mut self) {
        let front = Command::new("ip")
            .args(["netns", "exec", &self.name])
            .arg(std::env::current_exe().expect("this program"))
            .args(["failover::blackhole::the_front_in_the_namespace", "--exact"])
            .env(FRONT, format!("{} {}", self.inside, self.outside))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.front = Some(front.expect("a front"));
    }

    fn swallow(&self, does: bool) {
        let verb = if does { "add" } else { "del" };
        assert!(ip(&format!("-n {} route {verb} blackhole {}/32", self.name, self.outside)), "a route");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(front) = &mut self.front {
            let _ = front.kill();
            let _ = front.wait();
        }
        ip(&format!("link del {}o", self.name));
        ip(&format!("netns del {}", self.name));
    }
}

/// Nothing, unless it is told to be a front.
#[tokio::test(flavor = "multi_thread")]
async fn the_front_in_the_namespace() {
    let Ok(told) = std::env::var(FRONT) else { return };
    let (listen, target) = told.split_once(' ').expect("two addresses");
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let _front = Front::start(ip(listen), ip(target), None).await.expect("a free address");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_vanishes_fails_no_read() {
    let Some(mut namespace) = Namespace::new() else {
        println!("skipped: no network namespace can be made here (`ip` of iproute2, as root)");
        return;
    };
    let cluster = Cluster::builder().nodes(3).start().await.expect("a cluster");
    let _outside = Front::start(namespace.outside, cluster.node(1).ip(), None).await.expect("a free address");
    namespace.open();
    let mut listed: Vec<IpAddr> = cluster.nodes().iter().map(testkit::Node::ip).collect();
    listed[1] = namespace.inside;
    cluster.dns().set(cluster.headless_name(), listed);
    let bed = Bed::around(cluster, router_for).await;
    noticed(&bed, 1, true).await;
    fill(&bed, 2).await;

    let load = Load::start(&bed, Mix::ReadsAlone);
    load.goes_on(300).await;
    load.ledger.strike();
    namespace.swallow(true);
    noticed(&bed, 1, false).await;
    load.goes_on(1_000).await;
    namespace.swallow(false);
    noticed(&bed, 1, true).await;
    load.goes_on(300).await;
    let ledger = load.stop().await;
    ledger.tell("blackhole: packets to a node and back are lost");
    assert_no_failed_read("blackhole", &ledger);
    assert!(ledger.slowest_read() < Duration::from_secs(5), "{:?}", ledger.slowest_read());
    eventually("the node is used again", async || bed.router.topology().problems().is_empty()).await;
}
