//! What the tour walks on: the cluster, the router as a proxy in front of it, and clients.

use std::net::SocketAddr;

use qdrant_client::Qdrant;
use qdrant_router::Router;
use qdrant_router_proxy::{admin, lifecycle::Proxy, listen};
use testkit::Cluster;
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{Duration, Instant},
};

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// How long a state may be waited for.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) router: Router,
    rest: SocketAddr,
    grpc: SocketAddr,
    admin: SocketAddr,
    _stop: watch::Sender<bool>,
}

impl Stage {
    /// Starts everything. Each node has an address of its own, 127.0.0.11 and so on.
    pub(crate) async fn set() -> Result<Self, Error> {
        let cluster = Cluster::builder().nodes(3).fixed_addresses(true).start().await?;
        let router = Router::builder()
            .headless(cluster.headless_name())
            .fallback(cluster.service_name())
            .dns(cluster.dns().addr())
            .build()?;

        let ip = cluster.block().proxy();
        let bind = async |port: u16| {
            TcpListener::bind((ip, port)).await.map_err(|error| format!("{ip}:{port}: {error}"))
        };
        let (rest, grpc, admin_port) = (bind(6333).await?, bind(6334).await?, bind(9633).await?);
        let addresses = (rest.local_addr()?, grpc.local_addr()?, admin_port.local_addr()?);
        let (stop, stopped) = watch::channel(false);
        let proxy = Proxy::new(router.clone());
        tokio::spawn(listen::serve(rest, proxy.clone(), stopped.clone()));
        tokio::spawn(listen::serve(grpc, proxy.clone(), stopped));
        tokio::spawn(admin::serve(admin_port, proxy));

        let (rest, grpc, admin) = addresses;
        let stage = Self { cluster, router, rest, grpc, admin, _stop: stop };
        stage
            .wait_for("the router to find the nodes", async || {
                stage.router.topology().snapshot().nodes().len() == 3
            })
            .await?;
        Ok(stage)
    }

    /// The official client, pointed at the router.
    pub(crate) fn routed(&self) -> Result<Qdrant, Error> {
        client(self.grpc)
    }

    /// The official client, pointed at each node: what round robin over the nodes uses.
    pub(crate) fn direct(&self) -> Result<Vec<Qdrant>, Error> {
        self.cluster.nodes().iter().map(|node| client(node.grpc_addr())).collect()
    }

    /// A plain REST client of the router.
    pub(crate) fn rest(&self) -> testkit::Rest {
        testkit::Rest::new(self.rest, None)
    }

    /// Waits until every node and the router know the collection's placement.
    pub(crate) async fn know(&self, collection: &str) -> Result<(), Error> {
        self.cluster.settled().await?;
        let topology = self.router.topology();
        self.wait_for("the router to know the collection", async || {
            let snapshot = topology.knowing(collection).await;
            let is_known = snapshot.collections().any(|(name, _)| name == collection);
            is_known && !topology.change().concerns(None, &snapshot)
        })
        .await
    }

    pub(crate) async fn wait_for(
        &self,
        what: &str,
        mut holds: impl AsyncFnMut() -> bool,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + DEADLINE;
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        while !holds().await {
            if Instant::now() > deadline {
                return Err(format!("waited {DEADLINE:?} for {what}").into());
            }
            pause.tick().await;
        }
        Ok(())
    }

    pub(crate) fn print_addresses(&self) {
        println!("\nStill up. Try:");
        println!("  curl http://{}/collections", self.rest);
        println!("  curl -i -H 'x-qdrant-router-explain: 1' http://{}/collections/books/points/7", self.rest);
        println!("  curl http://{}/topology", self.admin);
        println!("  curl http://{}/metrics", self.admin);
        let (dns, name) = (self.cluster.dns().addr(), self.cluster.headless_name());
        println!("  QDRANT_ROUTER_DNS={dns} cargo run --example quickstart -- {name}");
        println!("gRPC clients: http://{}", self.grpc);
        println!("Dashboard:    http://{}/", self.admin);
        println!("Type `kill 1`, `restart 1` or `move 1` to see a node leave, return or change its address.");
        println!("Ctrl-C ends it.");
    }
}

fn client(addr: SocketAddr) -> Result<Qdrant, Error> {
    Ok(Qdrant::from_url(&format!("http://{addr}")).skip_compatibility_check().build()?)
}
