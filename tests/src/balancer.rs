//! What kube-proxy does behind a ClusterIP.
//!
//! One address, one random backend per *connection*, bytes copied both ways. Like the original it knows nothing of
//! requests, does not retry, and does not notice that a backend died: a dead pod stays listed until somebody takes it
//! out, and connections given to it fail. That is the behaviour the router is measured against, so it is not softened.
//!
//! One difference remains. Where kube-proxy lets the connection attempt itself fail, a listener in user space has
//! already accepted it; the client sees a reset instead of a refusal.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::{GRPC_PORT, REST_PORT, lock};

/// A TCP balancer that listens on Qdrant's REST and gRPC ports. Dropping it closes its listeners and connections.
pub struct Balancer {
    ip: IpAddr,
    shared: Arc<Shared>,
    _listeners: JoinSet<()>,
}

struct Shared {
    dice: Dice,
    backends: Mutex<Backends>,
}

#[derive(Default)]
struct Backends {
    listed: Vec<IpAddr>,
    connections: BTreeMap<IpAddr, u64>,
}

// === impl Balancer ===

impl Balancer {
    /// Listens on ports 6333 and 6334 of `ip`, with no backends yet. Equal seeds make equal choices.
    ///
    /// # Errors
    ///
    /// When one of the ports is taken.
    pub async fn start(ip: IpAddr, seed: u64) -> io::Result<Balancer> {
        let shared = Arc::new(Shared { dice: Dice::new(seed), backends: Mutex::default() });
        let mut listeners = JoinSet::new();
        for port in [REST_PORT, GRPC_PORT] {
            let listener = TcpListener::bind(SocketAddr::new(ip, port)).await?;
            listeners.spawn(accept(listener, port, Arc::clone(&shared)));
        }
        Ok(Balancer { ip, shared, _listeners: listeners })
    }

    /// The address that stands for the ClusterIP.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Where REST clients connect.
    #[must_use]
    pub fn rest_addr(&self) -> SocketAddr {
        SocketAddr::new(self.ip, REST_PORT)
    }

    /// Where gRPC clients connect.
    #[must_use]
    pub fn grpc_addr(&self) -> SocketAddr {
        SocketAddr::new(self.ip, GRPC_PORT)
    }

    /// Replaces the list. Connections that exist are not touched, as conntrack leaves them alone.
    pub fn set_backends(&self, backends: Vec<IpAddr>) {
        lock(&self.shared.backends).listed = backends;
    }

    /// Lists a backend, as when its pod becomes ready.
    pub fn add(&self, backend: IpAddr) {
        let listed = &mut lock(&self.shared.backends).listed;
        if !listed.contains(&backend) {
            listed.push(backend);
        }
    }

    /// Takes a backend out, as when its pod stops being ready.
    pub fn remove(&self, backend: IpAddr) {
        lock(&self.shared.backends).listed.retain(|listed| *listed != backend);
    }

    /// The backends among which new connections are spread.
    #[must_use]
    pub fn backends(&self) -> Vec<IpAddr> {
        lock(&self.shared.backends).listed.clone()
    }

    /// How many connections each backend was chosen for, failed attempts included.
    #[must_use]
    pub fn connections_by_backend(&self) -> BTreeMap<IpAddr, u64> {
        lock(&self.shared.backends).connections.clone()
    }
}

impl fmt::Debug for Balancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balancer")
            .field("ip", &self.ip)
            .field("backends", &self.backends())
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    fn choose(&self) -> Option<IpAddr> {
        let mut backends = lock(&self.backends);
        let count = u64::try_from(backends.listed.len()).ok().filter(|count| *count > 0)?;
        let index = usize::try_from(self.dice.roll() % count).ok()?;
        let chosen = backends.listed.get(index).copied()?;
        *backends.connections.entry(chosen).or_default() += 1;
        Some(chosen)
    }
}

async fn accept(listener: TcpListener, port: u16, shared: Arc<Shared>) {
    // The connections live in the task of their listener, so dropping the balancer ends them all.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    connections.spawn(serve(client, shared.choose(), port));
                }
                // Out of file descriptors, most likely: accepting at once would only burn the processor.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(mut client: TcpStream, backend: Option<IpAddr>, port: u16) {
    if forward(&mut client, backend, port).await.is_err() {
        // Reset, not close: the client must not take a broken exchange for a complete one.
        let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
    }
}

async fn forward(client: &mut TcpStream, backend: Option<IpAddr>, port: u16) -> io::Result<()> {
    let backend = backend.ok_or(io::ErrorKind::ConnectionRefused)?;
    let mut server = TcpStream::connect(SocketAddr::new(backend, port)).await?;
    // A relay that waits to fill segments would add latency that the network it stands for does not have.
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    copy_bidirectional(client, &mut server).await?;
    Ok(())
}

/// Seeded dice that many tasks may roll at once: a counter through the SplitMix64 finaliser.
struct Dice(AtomicU64);

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(AtomicU64::new(seed))
    }

    fn roll(&self) -> u64 {
        mix(self.0.fetch_add(GOLDEN, Ordering::Relaxed).wrapping_add(GOLDEN))
    }
}

/// The SplitMix64 finaliser: neighbouring inputs give unrelated outputs, and no two inputs give the same.
pub(crate) fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::Block;

    const BACKENDS: usize = 3;

    /// Servers that say their number and then echo.
    async fn backends(block: &Block) -> (Vec<IpAddr>, Vec<JoinSet<()>>) {
        let mut ips = Vec::new();
        let mut tasks = Vec::new();
        for i in 0..BACKENDS {
            let ip = block.node(i);
            let listener = TcpListener::bind(SocketAddr::new(ip, REST_PORT)).await.expect("a free port");
            let mut set = JoinSet::new();
            set.spawn(async move {
                let mut connections = JoinSet::new();
                while let Ok((mut stream, _)) = listener.accept().await {
                    connections.spawn(async move {
                        let (mut read, mut write) = stream.split();
                        if write.write_u8(u8::try_from(i).expect("small")).await.is_ok() {
                            let _ = tokio::io::copy(&mut read, &mut write).await;
                        }
                    });
                }
            });
            ips.push(ip);
            tasks.push(set);
        }
        (ips, tasks)
    }

    async fn who(balancer: &Balancer) -> io::Result<usize> {
        TcpStream::connect(balancer.rest_addr()).await?.read_u8().await.map(usize::from)
    }

    #[tokio::test]
    async fn spreads_connections_over_the_backends() {
        let block = Block::claim().expect("a free block");
        let (ips, _servers) = backends(&block).await;
        let balancer = Balancer::start(block.balancer(), 7).await.expect("listening");
        balancer.set_backends(ips.clone());
        let mut seen = [0_u64; BACKENDS];
        for _ in 0..60 {
            seen[who(&balancer).await.expect("an answer")] += 1;
        }
        assert!(seen.iter().all(|count| *count >= 8), "{seen:?}");
        let counted: Vec<u64> = balancer.connections_by_backend().into_values().collect();
        assert_eq!(counted, seen);
        balancer.remove(ips[1]);
        for _ in 0..20 {
            assert_ne!(who(&balancer).await.expect("an answer"), 1);
        }
    }

    #[tokio::test]
    async fn a_dead_backend_stays_listed_and_fails() {
        let block = Block::claim().expect("a free block");
        let (ips, mut servers) = backends(&block).await;
        let balancer = Balancer::start(block.balancer(), 7).await.expect("listening");
        balancer.set_backends(vec![ips[0]]);
        let mut open = TcpStream::connect(balancer.rest_addr()).await.expect("connected");
        assert_eq!(open.read_u8().await.expect("its number"), 0);
        open.write_u8(42).await.expect("sent");
        assert_eq!(open.read_u8().await.expect("the echo"), 42);

        servers[0].shutdown().await;
        assert!(open.read_u8().await.is_err(), "the connection ends with its backend");
        assert!(who(&balancer).await.is_err());
        assert_eq!(balancer.backends(), [ips[0]]);
        balancer.set_backends(vec![ips[2]]);
        assert_eq!(who(&balancer).await.expect("an answer"), 2);
    }

    #[tokio::test]
    async fn no_backends_is_a_reset() {
        let block = Block::claim().expect("a free block");
        let balancer = Balancer::start(block.balancer(), 7).await.expect("listening");
        assert!(who(&balancer).await.is_err());
    }

    #[test]
    fn equal_seeds_choose_alike() {
        let rolls = |seed| {
            let dice = Dice::new(seed);
            std::array::from_fn::<u64, 8, _>(|_| dice.roll())
        };
        assert_eq!(rolls(1), rolls(1));
        assert_ne!(rolls(1), rolls(2));
    }
}
