//! One node: its addresses, its storage, and the process that comes and goes between them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::auth::Keys;
use super::canned::Canned;
use super::consensus::Consensus;
use super::engine::{Engine, EngineParts};
use super::fault::{Fault, FaultWatch};
use super::lie::Lie;
use super::life::Life;
use super::listen::{Conditions, Port, Speaks};
use super::misconduct::Misconduct;
use super::shard::{Storage, lock};
use super::version::Version;
use super::{grpc, peer_rpc, rest};

/// How often a node looks for replicas to heal.
const HEALING_ROUND: Duration = Duration::from_millis(100);

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The address of all three ports.
    pub ip: IpAddr,
    /// REST over HTTP/1.1.
    pub rest_port: u16,
    /// Public gRPC over HTTP/2 without TLS.
    pub grpc_port: u16,
    /// What the nodes say to each other.
    pub p2p_port: u16,
    /// The identity that outlives addresses.
    pub peer_id: u64,
    /// The host that `GET /cluster` shows for this node. Nobody dials it.
    pub uri_host: String,
    /// The key that allows everything; none allows everybody everything.
    pub api_key: Option<String>,
    /// A key that allows reading.
    pub read_only_api_key: Option<String>,
    /// Whether the node shows itself as part of a cluster.
    pub cluster_enabled: bool,
    /// The version it shows, such as [`DEFAULT_VERSION`](super::DEFAULT_VERSION).
    pub version: String,
}

/// A Qdrant-like node on its own loopback address.
#[derive(Debug)]
pub struct EmbeddedNode {
    options: Mutex<NodeOptions>,
    consensus: Arc<Consensus>,
    storage: Arc<Storage>,
    fault: watch::Sender<Option<Fault>>,
    misconduct: Arc<Misconduct>,
    version: Version,
    /// The runtime of the node, for what is done to it from outside.
    runtime: Handle,
    process: tokio::sync::Mutex<Option<Process>>,
    /// What of the running process must be reached without waiting.
    running: Mutex<Option<Running>>,
}

/// A running process: ending it closes its ports.
#[derive(Debug)]
struct Process {
    end: watch::Sender<bool>,
    serving: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Running {
    engine: Arc<Engine>,
    ports: [Port; 3],
}

// === impl EmbeddedNode ===

impl EmbeddedNode {
    /// Starts a node and has it join the cluster. Returns when all three ports listen.
    pub async fn start(options: NodeOptions, consensus: Arc<Consensus>) -> io::Result<Self> {
        let (fault, _) = watch::channel(None);
        let node = Self {
            version: Version::new(&options.version),
            options: Mutex::new(options),
            consensus,
            storage: Arc::default(),
            misconduct: Arc::default(),
            fault,
            runtime: Handle::current(),
            process: tokio::sync::Mutex::default(),
            running: Mutex::default(),
        };
        node.restart().await?;
        Ok(node)
    }

    /// The node's identity.
    pub fn peer_id(&self) -> u64 {
        lock(&self.options).peer_id
    }

    /// The address of all three ports.
    pub fn ip(&self) -> IpAddr {
        lock(&self.options).ip
    }

    /// Has the node show another version, and behave like it where it matters to routing, from now on.
    pub fn set_version(&self, version: &str) {
        self.version.set(version);
    }

    /// Ends the process as `kill -9` would: ports and connections close at once, storage stays. Returns when nothing
    /// listens any more.
    pub async fn kill(&self) {
        let mut process = self.process.lock().await;
        lock(&self.running).take();
        if let Some(process) = process.take() {
            // The ports close before anybody can learn of it from the metadata.
            process.end.send_replace(true);
            for task in process.serving {
                // A task that panicked has closed its port too.
                drop(task.await);
            }
            self.consensus.set_alive(self.peer_id(), false);
        }
    }

    /// Starts the process again, with the same storage, identity and ports. Ends a running one first. Replicas that
    /// missed writes are healed in the background.
    pub async fn restart(&self) -> io::Result<()> {
        self.restart_at(self.ip()).await
    }

    /// As [`Self::restart`], at another address: what Kubernetes does with a pod.
    pub async fn restart_at(&self, ip: IpAddr) -> io::Result<()> {
        self.kill().await;
        let mut process = self.process.lock().await;
        lock(&self.options).ip = ip;
        *process = Some(self.launch()?);
        Ok(())
    }

    /// Breaks the node, or mends it. Ports close and open before this returns. Outlasts restarts.
    pub fn set_fault(&self, fault: Option<Fault>) {
        let running = lock(&self.running);
        self.fault.send_replace(fault);
        if let Some(running) = &*running {
            let _runtime = self.runtime.enter();
            for port in &running.ports {
                if fault == Some(Fault::Refuse) {
                    port.close();
                } else {
                    port.open();
                }
            }
            self.consensus.set_alive(self.peer_id(), takes_part(fault));
        }
    }

    /// Has requests about points answered like this instead of served, or again served. Outlasts restarts.
    pub fn answer_with(&self, canned: Option<Canned>) {
        self.misconduct.cans.set(canned);
    }

    /// How many requests were answered so since the node was made.
    pub fn canned_answers(&self) -> u64 {
        self.misconduct.cans.given()
    }

    /// Has the node lie about the cluster, or tell the truth again, as it does after a restart.
    pub fn lie(&self, lie: Option<Lie>) {
        self.misconduct.lies.set(lie, &self.consensus);
    }

    /// Drains the gRPC connections that exist: each gets a GOAWAY, the streams under way are answered, and then it ends.
    /// New connections are served as ever.
    pub fn goaway(&self) {
        self.misconduct.streams.drain();
    }

    /// Refuses the next streams on the gRPC port with `REFUSED_STREAM`, which says that nothing was done.
    pub fn refuse_streams(&self, count: u64) {
        self.misconduct.streams.refuse(count);
    }

    /// Ends every fault and all misconduct.
    pub fn heal(&self) {
        self.set_fault(None);
        self.answer_with(None);
        self.lie(None);
        self.refuse_streams(0);
    }

    /// Whether no write is under way, every replica here is active and no transfer touches this node. A killed node is
    /// not settled.
    pub async fn settled(&self) -> bool {
        lock(&self.running).as_ref().is_some_and(|running| running.engine.is_settled())
    }

    fn launch(&self) -> io::Result<Process> {
        let options = lock(&self.options).clone();
        let bind = |port: u16, speaks| Port::bind(SocketAddr::new(options.ip, port), speaks);
        let rest_port = bind(options.rest_port, Speaks::Http1)?;
        let grpc_port = bind(options.grpc_port, Speaks::Http2)?;
        let p2p_port = bind(options.p2p_port, Speaks::Http2)?;

        let (end, life) = Life::begin();
        self.lie(None);
        let fault: FaultWatch = self.fault.subscribe();
        let engine = Engine::new(EngineParts {
            peer_id: options.peer_id,
            cluster_enabled: options.cluster_enabled,
            keys: Keys {
                full: options.api_key.filter(|key| !key.is_empty()),
                read_only: options.read_only_api_key.filter(|key| !key.is_empty()),
            },
            consensus: Arc::clone(&self.consensus),
            storage: Arc::clone(&self.storage),
            fault: fault.clone(),
            misconduct: Arc::clone(&self.misconduct),
            version: self.version.clone(),
            life: life.clone(),
        });
        let uri = format!("http://{}:{}/", options.uri_host, options.p2p_port);
        let address = SocketAddr::new(options.ip, options.p2p_port);
        self.consensus.join(options.peer_id, uri, address, &self.storage, &self.version);

        let rest = {
            let engine = Arc::clone(&engine);
            move |request| rest::answer(Arc::clone(&engine), request)
        };
        let grpc = {
            let public = grpc::Public::new(&engine);
            move |request| public.clone().answer(request)
        };
        let p2p = {
            let engine = Arc::clone(&engine);
            move |request| peer_rpc::answer(Arc::clone(&engine), request)
        };
        let internal = Conditions { life: life.clone(), fault: fault.clone(), misconduct: None };
        let public = Conditions { misconduct: Some(Arc::clone(&self.misconduct)), ..internal.clone() };
        let serving = vec![
            rest_port.serve(rest, public.clone()),
            grpc_port.serve(grpc, public),
            p2p_port.serve(p2p, internal),
        ];
        drop(life.spawn(heal(Arc::clone(&self.consensus), options.peer_id, fault)));
        let ports = [rest_port, grpc_port, p2p_port];
        *lock(&self.running) = Some(Running { engine, ports });
        // A fault that outlasts the restart may keep the ports closed.
        let fault = *self.fault.borrow();
        self.set_fault(fault);
        Ok(Process { end, serving })
    }
}

fn takes_part(fault: Option<Fault>) -> bool {
    !matches!(fault, Some(Fault::Hang | Fault::Refuse))
}

/// Heals this node's dead replicas as long as the process lives.
async fn heal(consensus: Arc<Consensus>, peer: u64, fault: FaultWatch) {
    loop {
        tokio::time::sleep(HEALING_ROUND).await;
        if takes_part(*fault.borrow()) {
            consensus.recover(peer).await;
        }
    }
}
