//! Three Qdrant nodes that know one answer, and enough of a cluster for our proxy to route by.

use std::{cell::RefCell, fmt::Write as _, net::SocketAddr, rc::Rc};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::spawn_local,
};

use crate::{
    frames::{Connection, Event, Messages, PREFACE, REPLY, TRAILERS},
    scenario::{EVERYWHERE, Protocol, SPREAD, Scenario},
};

/// How many nodes there are.
pub(crate) const NODES: u8 = 3;

/// The addresses of a node's two ports.
pub(crate) fn address(node: u8) -> (SocketAddr, SocketAddr) {
    let ip = [127, 0, 66, node + 1];
    (SocketAddr::from((ip, 7333)), SocketAddr::from((ip, 7334)))
}

/// Answers until the program ends.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    replies: Rc<RefCell<Replies>>,
}

#[derive(Debug, Default)]
struct Replies {
    /// With its head.
    rest: Bytes,
    grpc: Bytes,
}

// === impl Backend ===

impl Backend {
    /// Listens at all addresses.
    pub(crate) async fn start() -> Result<Self, String> {
        let backend = Self { replies: Rc::default() };
        for node in 0..NODES {
            let (rest, grpc) = address(node);
            let rest = bind(rest).await?;
            let grpc = bind(grpc).await?;
            let this = backend.clone();
            spawn_local(async move {
                while let Ok((tcp, _)) = rest.accept().await {
                    spawn_local(this.clone().rest(tcp, node));
                }
            });
            let this = backend.clone();
            spawn_local(async move {
                while let Ok((tcp, _)) = grpc.accept().await {
                    spawn_local(this.clone().grpc(tcp));
                }
            });
        }
        Ok(backend)
    }

    /// Answers with the reply of `scenario` from now on.
    pub(crate) fn reply_with(&self, scenario: &Scenario) {
        let mut replies = self.replies.borrow_mut();
        match scenario.protocol {
            Protocol::Rest => replies.rest = answer(&scenario.reply),
            Protocol::Grpc => replies.grpc = scenario.reply.clone(),
        }
    }

    async fn rest(self, mut tcp: TcpStream, node: u8) {
        let _ = tcp.set_nodelay(true);
        let mut messages = Messages::default();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let Ok(length @ 1..) = tcp.read(&mut buffer).await else { return };
            let mut out: Vec<Bytes> = Vec::new();
            let read = messages.read(&buffer[..length], |request| {
                out.push(match request.head.starts_with("GET ") {
                    true => about(&request.head, node),
                    false => self.replies.borrow().rest.clone(),
                });
            });
            for reply in out {
                if tcp.write_all(&reply).await.is_err() {
                    return;
                }
            }
            if read.is_err() {
                return;
            }
        }
    }

    async fn grpc(self, mut tcp: TcpStream) {
        let _ = tcp.set_nodelay(true);
        let mut preface = [0; PREFACE.len()];
        if tcp.read_exact(&mut preface).await.is_err() {
            return;
        }
        let (mut input, mut output) = tcp.split();
        let mut connection = Connection::new();
        let mut buffer = vec![0; 256 << 10];
        let mut written = 0;
        loop {
            let arrived = tokio::select! {
                biased;
                sent = output.write(&connection.out[written..]), if written < connection.out.len() => {
                    let Ok(sent) = sent else { return };
                    written += sent;
                    if written == connection.out.len() {
                        connection.out.clear();
                        written = 0;
                        connection.refill();
                    }
                    continue;
                }
                arrived = input.read(&mut buffer) => arrived,
            };
            let Ok(length @ 1..) = arrived else { return };
            let mut asked = Vec::new();
            let read = connection.read(&buffer[..length], |event| {
                if let Event::Complete(stream, _) = event {
                    asked.push(stream);
                }
            });
            if read.is_err() {
                return;
            }
            for stream in asked {
                connection.send(stream, REPLY, self.replies.borrow().grpc.clone(), Some(TRAILERS));
            }
        }
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| {
        format!("the backend cannot listen on {address}: {error}; `ss -ltnp` tells who does")
    })
}

/// `body` as a reply of HTTP/1.1.
fn answer(body: &[u8]) -> Bytes {
    let mut head = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        head,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat().into()
}

/// What a node tells of itself and of the collections.
fn about(head: &str, node: u8) -> Bytes {
    let path = head.split(' ').nth(1).unwrap_or_default();
    let result = match path {
        "/" => return answer(json!({ "title": "qdrant", "version": "1.18.3" }).to_string().as_bytes()),
        "/cluster" => {
            let peers: serde_json::Map<String, Value> = (0..NODES)
                .map(|node| {
                    (peer(node).to_string(), json!({ "uri": format!("http://{}/", address(node).0) }))
                })
                .collect();
            json!({
                "status": "enabled", "peer_id": peer(node), "peers": peers,
                "raft_info": { "term": 1, "commit": 10, "pending_operations": 0, "leader": peer(0),
                    "role": if node == 0 { "Leader" } else { "Follower" }, "is_voter": true },
                "consensus_thread_status": { "consensus_thread_status": "working",
                    "last_update": "2026-01-01T00:00:00Z" },
                "message_send_failures": {},
            })
        }
        "/aliases" => json!({ "aliases": [] }),
        _ if path.ends_with("/cluster") => placement(path.contains(EVERYWHERE), node),
        _ if path.contains(SPREAD) || path.contains(EVERYWHERE) => json!({
            "status": "green", "config": { "params": { "shard_number": 6, "replication_factor": 1 } },
        }),
        _ => json!(true),
    };
    answer(json!({ "result": result, "status": "ok", "time": 0.001 }).to_string().as_bytes())
}

/// `GET /collections/{c}/cluster`: six shards, each on one node or on all.
fn placement(is_everywhere: bool, node: u8) -> Value {
    let (mut local, mut remote) = (Vec::new(), Vec::new());
    for shard in 0..6_u8 {
        for holder in (0..NODES).filter(|holder| is_everywhere || shard % NODES == *holder) {
            if holder == node {
                local.push(json!({ "shard_id": shard, "points_count": 1, "state": "Active" }));
            } else {
                remote.push(json!({ "shard_id": shard, "peer_id": peer(holder), "state": "Active" }));
            }
        }
    }
    json!({ "peer_id": peer(node), "shard_count": 6, "local_shards": local, "remote_shards": remote,
        "shard_transfers": [] })
}

fn peer(node: u8) -> u64 {
    1000 + u64::from(node)
}
