//! One request through the proxy, from a client's bytes to its answer.
//!
//! The proxy has the thread that is counted; client and backend have another one each. One request is under way at a
//! time, so that it is always the same work.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use qdrant_router::{Router, Routing, topology::Settings};
use qdrant_router_proxy::{lifecycle::Proxy, listen};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    sync::{oneshot, watch},
    task::LocalSet,
};

use crate::{
    Cost,
    backend::{Backend, NODES, address},
    bodies, counted,
    frames::{self, Connection, Event, Messages, PREFACE},
    scenario::{Protocol, SPREAD, Scenario},
    steps::sized,
};

/// A request that is counted.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) name: &'static str,
    what: What,
    routing: Routing,
}

#[derive(Clone, Copy, Debug)]
enum What {
    RestQuery,
    RestUpsert,
    GrpcQuery,
    GrpcUpsert,
}

/// When all that is not a request's own is over: soon after the start the nodes are asked about themselves once more.
const SETTLED: Duration = Duration::from_millis(500);

/// Each with and without routing, one after the other.
pub(crate) const ALL: [Request; 8] = [
    Request::of("request: REST query of 0.6 KB", What::RestQuery, Routing::All),
    Request::of("request: REST query of 0.6 KB, routing off", What::RestQuery, Routing::Off),
    Request::of("request: REST upsert of 6 KB", What::RestUpsert, Routing::All),
    Request::of("request: REST upsert of 6 KB, routing off", What::RestUpsert, Routing::Off),
    Request::of("request: gRPC query of 0.6 KB", What::GrpcQuery, Routing::All),
    Request::of("request: gRPC query of 0.6 KB, routing off", What::GrpcQuery, Routing::Off),
    Request::of("request: gRPC upsert of 6 KB", What::GrpcUpsert, Routing::All),
    Request::of("request: gRPC upsert of 6 KB, routing off", What::GrpcUpsert, Routing::Off),
];

// === impl Request ===

impl Request {
    const fn of(name: &'static str, what: What, routing: Routing) -> Self {
        Self { name, what, routing }
    }

    /// Makes the request so many times, after twice as many that warm up, and returns what they cost.
    pub(crate) fn run(&self, rounds: u32) -> Result<Cost, String> {
        let scenario = self.scenario();
        serve_backend(scenario.clone())?;
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        let (proxy, _stop) = runtime.block_on(start(self.routing))?;
        let (warm, is_warm) = oneshot::channel();
        let (go, goes) = mpsc::channel();
        let (done, is_done) = oneshot::channel();
        let client = thread::spawn(move || {
            let mut client = Client::connect(proxy, &scenario)?;
            (0..rounds).try_for_each(|_| client.ask())?;
            thread::sleep(SETTLED);
            (0..rounds).try_for_each(|_| client.ask())?;
            let _ = warm.send(());
            goes.recv().map_err(|error| error.to_string())?;
            (0..rounds).try_for_each(|_| client.ask())?;
            let _ = done.send(());
            Ok::<(), String>(())
        });
        let wait = |runtime: &Runtime, event: oneshot::Receiver<()>| runtime.block_on(event).is_ok();
        let mut is_complete = wait(&runtime, is_warm);
        let mut is_done = Some(is_done);
        let cost = counted(|| {
            let _ = go.send(());
            is_complete &= is_done.take().is_some_and(|event| wait(&runtime, event));
        });
        client.join().map_err(|_| "the client gave up")??;
        if is_complete { Ok(cost) } else { Err("not all requests were answered".to_owned()) }
    }

    fn scenario(&self) -> Scenario {
        let points = |rest: &str| format!("/collections/{SPREAD}/points{rest}");
        let (protocol, method, path, body, reply) = match self.what {
            What::RestQuery => (
                Protocol::Rest,
                "POST",
                points("/query"),
                sized(600, bodies::rest_query),
                bodies::rest_found(),
            ),
            What::RestUpsert => (
                Protocol::Rest,
                "PUT",
                points(""),
                sized(6000, |dimensions| bodies::rest_upsert(1, dimensions)),
                bodies::rest_written(),
            ),
            What::GrpcQuery => {
                let body = sized(600, |dimensions| bodies::grpc_query(SPREAD, dimensions));
                (Protocol::Grpc, "POST", "/qdrant.Points/Query".to_owned(), body, bodies::grpc_found())
            }
            What::GrpcUpsert => {
                let body = sized(6000, |dimensions| bodies::grpc_upsert(SPREAD, 1, dimensions));
                (Protocol::Grpc, "POST", "/qdrant.Points/Upsert".to_owned(), body, bodies::grpc_written())
            }
        };
        Scenario { name: self.name, protocol, path, method, body, reply, connections: 1, streams: 1 }
    }
}

/// Starts the nodes on a thread of their own.
fn serve_backend(scenario: Scenario) -> Result<(), String> {
    let (up, is_up) = mpsc::channel();
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let outcome = Backend::start().await.map(|backend| backend.reply_with(&scenario));
            let _ = up.send(outcome);
            std::future::pending::<()>().await;
        });
    });
    is_up.recv().map_err(|error| error.to_string())?
}

/// Has the proxy listen, and returns its address and what stops it.
async fn start(routing: Routing) -> Result<(SocketAddr, watch::Sender<bool>), String> {
    let mut builder = Router::builder().routing(routing).seed(7);
    for node in 0..NODES {
        let (rest, grpc) = address(node);
        builder = builder.node(format!("{rest}:{}", grpc.port()));
    }
    // No look at the nodes falls into what is counted.
    let settings = Settings { probe_interval: Duration::from_secs(3600), ..Settings::default() };
    let router = builder.topology_settings(settings).build().map_err(|error| error.to_string())?;
    router.topology().surveyed().await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(listen::serve(listener, Proxy::new(router), stopped));
    Ok((address, stop))
}

/// Sends a request and reads its answer, without a runtime.
enum Client {
    Http1 { tcp: TcpStream, request: Vec<u8>, reply: u64 },
    Http2 { tcp: TcpStream, connection: Box<Connection>, first: Vec<u8>, scenario: Scenario, stream: u32 },
}

impl Client {
    fn connect(proxy: SocketAddr, scenario: &Scenario) -> Result<Self, String> {
        let mut tcp = TcpStream::connect(proxy).map_err(|error| error.to_string())?;
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(match scenario.protocol {
            Protocol::Rest => {
                let Scenario { method, path, body, .. } = scenario;
                let head = format!(
                    "{method} {path} HTTP/1.1\r\nhost: {proxy}\r\ncontent-type: application/json\r\nuser-agent: counts\r\naccept: */*\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                let request = [head.as_bytes(), body].concat();
                Self::Http1 { tcp, request, reply: scenario.reply.len() as u64 }
            }
            Protocol::Grpc => {
                tcp.write_all(PREFACE).map_err(|error| error.to_string())?;
                let first = frames::first_request(&proxy.to_string(), &scenario.path);
                let connection = Box::new(Connection::new());
                Self::Http2 { tcp, connection, first, scenario: scenario.clone(), stream: 1 }
            }
        })
    }

    fn ask(&mut self) -> Result<(), String> {
        let mut buffer = [0; 64 << 10];
        let mut answer = None;
        match self {
            Self::Http1 { tcp, request, reply } => {
                tcp.write_all(request).map_err(|error| error.to_string())?;
                let mut messages = Messages::default();
                while answer.is_none() {
                    let length = arrived(tcp, &mut buffer)?;
                    messages.read(&buffer[..length], |message| {
                        answer = Some(message.head.starts_with("HTTP/1.1 200") && message.body == *reply);
                    })?;
                }
            }
            Self::Http2 { tcp, connection, first, scenario, stream } => {
                let block = if *stream == 1 { &first[..] } else { &frames::NEXT_REQUEST[..] };
                connection.send(*stream, block, scenario.body.clone(), None);
                *stream += 2;
                while answer.is_none() {
                    tcp.write_all(&connection.out).map_err(|error| error.to_string())?;
                    connection.out.clear();
                    let length = arrived(tcp, &mut buffer)?;
                    connection.read(&buffer[..length], |event| {
                        answer = Some(matches!(event, Event::Complete(_, length) if length == scenario.reply.len() as u64));
                    })?;
                }
            }
        }
        match answer {
            Some(true) => Ok(()),
            _ => Err("an answer other than the backend's".to_owned()),
        }
    }
}

fn arrived(tcp: &mut TcpStream, buffer: &mut [u8]) -> Result<usize, String> {
    match tcp.read(buffer) {
        Ok(0) => Err("the connection was closed".to_owned()),
        Ok(length) => Ok(length),
        Err(error) => Err(error.to_string()),
    }
}
