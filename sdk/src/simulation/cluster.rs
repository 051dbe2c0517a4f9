//! Nodes that answer as Qdrant does, as far as the router looks, and remember what they were asked.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{io::DuplexStream, sync::watch, task::AbortHandle, time::Instant};

use super::{Shared, ip};
use crate::discovery::{Answer, Resolve, ResolveError};

/// How a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// It answers.
    Well,
    /// It answers late.
    Slow(Duration),
    /// It answers requests for data with errors of its own.
    Failing,
    /// It processes requests, and their answers break off.
    BreakingOff,
    /// It accepts requests and answers nothing.
    Hanging,
    /// It runs and accepts no connections.
    Refusing,
    /// It does not run.
    Dead,
}

/// A request for data that a node has seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) id: u64,
    pub(super) at: Instant,
    pub(super) ip: IpAddr,
    pub(super) node: usize,
    /// Since when another cluster's node answers there.
    pub(super) stranger_since: Option<Instant>,
    pub(super) is_processed: bool,
}

/// The simulated cluster, its names, and what happened.
#[derive(Clone)]
pub(super) struct World(Shared<State>);

/// The name service of the world.
#[derive(Clone)]
pub(super) struct Names(Shared<State>);

struct State {
    nodes: Vec<Node>,
    /// Nodes of another cluster, and since when.
    strangers: BTreeMap<IpAddr, Instant>,
    /// The entries of the log: what each made of the placement.
    log: Vec<(Instant, Placements)>,
    seen: Vec<Seen>,
    /// When each address was first listed.
    listed: BTreeMap<IpAddr, Instant>,
    names_fail: bool,
    /// Whether they ever did.
    names_failed: bool,
    next_address: usize,
}

/// By collection and shard: the nodes with a replica.
type Placements = BTreeMap<String, Vec<Vec<usize>>>;

struct Node {
    ip: IpAddr,
    /// Whether the name has listed it under this address, so far.
    listing: Vec<(Instant, bool)>,
    condition: watch::Sender<Condition>,
    /// Its conditions so far.
    history: Vec<(Instant, Condition)>,
    /// Whether it has another address than at first.
    has_moved: bool,
    /// Entries of the log that it sees, where that is not all.
    frozen_at: Option<usize>,
    /// Whether that was so, so far.
    freezing: Vec<(Instant, bool)>,
    connections: Vec<AbortHandle>,
}

/// As if it had always been so.
const LONG_AGO: Duration = Duration::from_secs(3600);

/// A peer id for a node; ascending, as Qdrant's need not be.
fn peer(node: usize) -> u64 {
    1_000 + node as u64
}

// === impl World ===

impl World {
    /// Nodes that are well and listed.
    pub(super) fn new(nodes: usize) -> Self {
        let now = Instant::now();
        let new = |node| Node {
            ip: ip(node + 1),
            listing: vec![(now - LONG_AGO, true)],
            condition: watch::Sender::new(Condition::Well),
            history: vec![(now - LONG_AGO, Condition::Well)],
            has_moved: false,
            frozen_at: None,
            freezing: vec![(now - LONG_AGO, false)],
            connections: Vec::new(),
        };
        let state = State {
            nodes: (0..nodes).map(new).collect(),
            strangers: BTreeMap::new(),
            log: vec![(now, Placements::new())],
            seen: Vec::new(),
            listed: (0..nodes).map(|node| (ip(node + 1), now)).collect(),
            names_fail: false,
            names_failed: false,
            next_address: nodes + 1,
        };
        Self(Shared::new(state.into()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn names(&self) -> Names {
        Names(self.0.clone())
    }

    pub(super) fn nodes(&self) -> usize {
        self.lock().nodes.len()
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.lock().seen.clone()
    }

    pub(super) fn condition(&self, node: usize) -> Condition {
        *self.lock().nodes[node].condition.borrow()
    }

    /// Whether clients might notice that something is wrong with it.
    pub(super) fn is_in_trouble(&self, node: usize) -> bool {
        !matches!(self.condition(node), Condition::Well | Condition::Slow(_))
    }

    // --- what happens ---

    pub(super) fn create(&self, collection: &str, shards: usize, replicas: usize) {
        let mut state = self.lock();
        let count = state.nodes.len();
        let shards = (0..shards).map(|shard| (0..replicas).map(|k| (shard + k) % count).collect()).collect();
        state.commit(|placements| _ = placements.insert(collection.to_owned(), shards));
    }

    pub(super) fn set(&self, node: usize, condition: Condition) {
        let mut state = self.lock();
        let node = &mut state.nodes[node];
        node.history.push((Instant::now(), condition));
        if matches!(condition, Condition::Dead | Condition::Refusing) {
            node.connections.drain(..).for_each(|connection| connection.abort());
        }
        node.condition.send_replace(condition);
    }

    /// It runs, answers, and knows everything.
    pub(super) fn mend(&self, node: usize) {
        self.set(node, Condition::Well);
        let mut state = self.lock();
        state.nodes[node].frozen_at = None;
        state.nodes[node].freezing.push((Instant::now(), false));
    }

    /// A pod that was dead comes back elsewhere.
    pub(super) fn move_to_new_address(&self, node: usize) {
        {
            let mut state = self.lock();
            let new = ip(state.next_address);
            state.next_address += 1;
            state.nodes[node].ip = new;
            state.nodes[node].has_moved = true;
            state.list_all();
        }
        self.mend(node);
    }

    /// The pod comes back elsewhere, and another cluster's gets its old address.
    pub(super) fn give_address_away(&self, node: usize) {
        self.set(node, Condition::Dead);
        let old = self.lock().nodes[node].ip;
        self.move_to_new_address(node);
        self.lock().strangers.insert(old, Instant::now());
    }

    /// A shard of `collection` moves to a node that does not have it, where there is one.
    pub(super) fn move_replica(&self, collection: &str, dice: u64) {
        let mut state = self.lock();
        let count = state.nodes.len();
        state.commit(|placements| {
            let shards = placements.get_mut(collection).expect("a collection");
            let at = dice as usize % shards.len();
            let replicas = &mut shards[at];
            let newcomer =
                (0..count).map(|k| (dice as usize + k) % count).find(|node| !replicas.contains(node));
            if let Some(newcomer) = newcomer {
                let slot = (dice >> 32) as usize % replicas.len();
                replicas[slot] = newcomer;
            }
        });
    }

    /// From now on the node learns of no entry of the log.
    pub(super) fn freeze_view(&self, node: usize) {
        let mut state = self.lock();
        let entries = state.log.len();
        state.nodes[node].frozen_at.get_or_insert(entries);
        state.nodes[node].freezing.push((Instant::now(), true));
    }

    // --- what was ---

    /// Whether the node was well from `from` until `to`, and knew what there was to know.
    pub(super) fn was_well(&self, node: usize, from: Instant, to: Instant) -> bool {
        let state = self.lock();
        let node = &state.nodes[node];
        always(&node.history, from, to, |condition| matches!(condition, Condition::Well | Condition::Slow(_)))
            && state.could_be_found(node, from, to)
    }

    /// Whether the node answered, however poorly.
    pub(super) fn was_reachable(&self, node: usize, from: Instant, to: Instant) -> bool {
        let state = self.lock();
        let node = &state.nodes[node];
        state.could_be_found(node, from, to)
            && always(&node.history, from, to, |condition| match condition {
                Condition::Well | Condition::Failing => true,
                // A slower one may look as if it hung.
                Condition::Slow(delay) => delay < Duration::from_millis(250),
                _ => false,
            })
    }

    /// The node with the only replica of the only shard of `collection` during that time, where every
    /// other node knew so.
    pub(super) fn sole_holder(&self, collection: &str, from: Instant, to: Instant) -> Option<usize> {
        let state = self.lock();
        if !state.nodes.iter().all(|node| always(&node.freezing, from, to, |is_frozen| !is_frozen)) {
            return None;
        }
        let began = state.log.iter().rposition(|&(at, _)| at <= from)?;
        let during = state.log[began..].iter().filter(|&&(at, _)| at <= to);
        let mut holders = during.map(|(_, placements)| placements[collection][0][0]);
        let first = holders.next()?;
        holders.all(|holder| holder == first).then_some(first)
    }

    pub(super) fn was_listed(&self, ip: IpAddr, at: Instant) -> bool {
        self.lock().listed.get(&ip).is_some_and(|&since| since <= at)
    }

    /// All of it, for people.
    pub(super) fn story(&self, began: Instant) -> String {
        use std::fmt::Write;

        let state = self.lock();
        let since = |at: Instant| at.saturating_duration_since(began);
        let mut story = String::new();
        for (at, placements) in &state.log {
            let _ = writeln!(story, "{:?} placement: {placements:?}", since(*at));
        }
        for (number, node) in state.nodes.iter().enumerate() {
            let _ = writeln!(story, "node {number}, last at {}", node.ip);
            for (at, condition) in &node.history {
                let _ = writeln!(story, "  {:?} {condition:?}", since(*at));
            }
            for (at, is_listed) in &node.listing {
                let _ = writeln!(story, "  {:?} listed: {is_listed}", since(*at));
            }
            for (at, is_frozen) in &node.freezing {
                let _ = writeln!(story, "  {:?} its view stands still: {is_frozen}", since(*at));
            }
        }
        story
    }

    // --- connections ---

    pub(super) fn is_listening(&self, address: SocketAddr) -> bool {
        let state = self.lock();
        let is_up = |node: &Node| !matches!(*node.condition.borrow(), Condition::Dead | Condition::Refusing);
        state.strangers.contains_key(&address.ip())
            || state.nodes.iter().any(|node| node.ip == address.ip() && is_up(node))
    }

    pub(super) fn accept(&self, address: SocketAddr, stream: DuplexStream) {
        let world = self.clone();
        let node = self.lock().nodes.iter().position(|node| node.ip == address.ip());
        let connection = tokio::spawn(async move {
            let service = service_fn(move |request| world.clone().answer(address, node, request));
            let stream = TokioIo::new(stream);
            if address.port() == 6333 {
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await;
            } else {
                let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = http2.serve_connection(stream, service).await;
            }
        });
        if let Some(node) = node {
            self.lock().nodes[node].connections.push(connection.abort_handle());
        }
    }

    async fn answer(
        self,
        address: SocketAddr,
        node: Option<usize>,
        request: Request<Incoming>,
    ) -> Result<Response<Reply>, Infallible> {
        let Some(node) = node else { return Ok(self.answer_as_stranger(address.ip(), &request)) };
        let mut condition = self.lock().nodes[node].condition.subscribe();
        // A node that hangs goes on where it stopped.
        let _ = condition.wait_for(|condition| *condition != Condition::Hanging).await;
        let condition = *condition.borrow();
        if let Condition::Slow(delay) = condition {
            tokio::time::sleep(delay).await;
        }
        if let Some(document) = self.document(node, request.uri().path()) {
            return Ok(document);
        }
        let id = request_id(request.headers());
        let is_grpc = address.port() != 6333;
        let is_whole = request.into_body().collect().await.is_ok();
        let is_processed = is_whole && condition != Condition::Failing;
        self.lock().seen.push(Seen {
            id,
            at: Instant::now(),
            ip: address.ip(),
            node,
            stranger_since: None,
            is_processed,
        });
        tokio::time::sleep(Duration::from_micros(300)).await;
        Ok(match condition {
            Condition::Failing => failure(is_grpc),
            Condition::BreakingOff => broken_off(is_grpc),
            _ => success(is_grpc),
        })
    }

    fn answer_as_stranger(&self, ip: IpAddr, request: &Request<Incoming>) -> Response<Reply> {
        let mut state = self.lock();
        match request.uri().path() {
            "/" => json_reply(&json!({ "title": "qdrant", "version": "1.18.3" })),
            "/healthz" => json_reply(&Value::Null),
            "/cluster" => json_reply(&json!({ "result": {
                "status": "enabled", "peer_id": 9, "peers": { "9": { "uri": "http://other-0:6335/" } },
                "raft_info": { "term": 90, "commit": 9_000, "pending_operations": 0, "leader": 9 },
            }})),
            _ => {
                let stranger_since = state.strangers.get(&ip).copied();
                let (id, at) = (request_id(request.headers()), Instant::now());
                let node = usize::MAX;
                state.seen.push(Seen { id, at, ip, node, stranger_since, is_processed: false });
                failure(false)
            }
        }
    }

    /// What the router itself asks for.
    fn document(&self, node: usize, path: &str) -> Option<Response<Reply>> {
        let state = self.lock();
        let entries = state.nodes[node].frozen_at.unwrap_or(state.log.len());
        let (_, placements) = &state.log[entries - 1];
        let document = match path.trim_start_matches('/').split('/').collect::<Vec<_>>()[..] {
            [""] => json!({ "title": "qdrant", "version": "1.18.3" }),
            ["healthz"] => Value::Null,
            ["aliases"] => json!({ "result": { "aliases": [] } }),
            ["cluster"] => {
                let peers: BTreeMap<String, Value> = (0..state.nodes.len())
                    .map(|node| (peer(node).to_string(), json!({ "uri": format!("http://q-{node}:6335/") })))
                    .collect();
                json!({ "result": {
                    "status": "enabled", "peer_id": peer(node), "peers": peers,
                    "raft_info": { "term": 1, "commit": entries, "pending_operations": 0, "leader": peer(0) },
                }})
            }
            ["collections", collection, "cluster"] => match placements.get(collection) {
                Some(shards) => placement_of(node, shards),
                None => return Some(status(StatusCode::NOT_FOUND)),
            },
            ["collections", _] => return Some(status(StatusCode::NOT_FOUND)),
            _ => return None,
        };
        Some(json_reply(&document))
    }
}

/// Whether `is_so` held from `from` until `to`, given what `history` says began when.
fn always<T: Copy>(history: &[(Instant, T)], from: Instant, to: Instant, is_so: impl Fn(T) -> bool) -> bool {
    let began = history.iter().rposition(|&(at, _)| at <= from).unwrap_or(0);
    history[began..].iter().filter(|&&(at, _)| at <= to).all(|&(_, state)| is_so(state))
}

impl State {
    fn commit(&mut self, change: impl FnOnce(&mut Placements)) {
        let mut placements = self.log.last().map(|(_, placements)| placements.clone()).unwrap_or_default();
        change(&mut placements);
        self.log.push((Instant::now(), placements));
    }

    /// Whether the router could know the node's address from `from` until `to`. One that moved, or was listed
    /// anew, while names did not resolve could not be found.
    fn could_be_found(&self, node: &Node, from: Instant, to: Instant) -> bool {
        let is_as_at_first = !node.has_moved && node.listing.iter().all(|&(_, is_listed)| is_listed);
        always(&node.listing, from, to, |is_listed| is_listed) && (is_as_at_first || !self.names_failed)
    }

    fn list_all(&mut self) {
        for node in &mut self.nodes {
            node.listing.push((Instant::now(), true));
            self.listed.entry(node.ip).or_insert_with(Instant::now);
        }
    }
}

impl Node {
    fn is_listed(&self) -> bool {
        self.listing.last().is_some_and(|&(_, is_listed)| is_listed)
    }
}

// === impl Names ===

impl Names {
    /// Lists a node, or does not.
    pub(super) fn list(&self, node: usize, is_listed: bool) {
        let mut state = self.0.lock().expect("a lock");
        state.nodes[node].listing.push((Instant::now(), is_listed));
    }

    /// Names do not resolve, or do again.
    pub(super) fn fail(&self, fails: bool) {
        let mut state = self.0.lock().expect("a lock");
        state.names_fail = fails;
        state.names_failed |= fails;
    }
}

impl Resolve for Names {
    async fn resolve(&self, name: &str) -> Result<Answer, ResolveError> {
        let state = self.0.lock().expect("a lock");
        let addresses: Vec<IpAddr> =
            state.nodes.iter().filter(|node| node.is_listed()).map(|node| node.ip).collect();
        if state.names_fail || addresses.is_empty() {
            let name = name.to_owned();
            return Err(ResolveError { asked: name.clone(), name, reason: "no such name".to_owned() });
        }
        Ok(Answer { addresses, ttl: Duration::from_secs(1) })
    }
}

// === the wire ===

type Reply = Pin<Box<dyn http_body::Body<Data = Bytes, Error = std::io::Error> + Send>>;

fn reply(frames: Vec<std::io::Result<Frame<Bytes>>>) -> Reply {
    Box::pin(StreamBody::new(futures_util::stream::iter(frames)))
}

fn json_reply(document: &Value) -> Response<Reply> {
    Response::new(reply(vec![Ok(Frame::data(document.to_string().into()))]))
}

fn status(status: StatusCode) -> Response<Reply> {
    let mut response = Response::new(reply(Vec::new()));
    *response.status_mut() = status;
    response
}

fn success(is_grpc: bool) -> Response<Reply> {
    if !is_grpc {
        return json_reply(&json!({ "result": { "count": 1 }, "status": "ok", "time": 0.0 }));
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    let frames = vec![Ok(Frame::data(Bytes::from_static(&[0; 5]))), Ok(Frame::trailers(trailers))];
    grpc_head(Response::new(reply(frames)))
}

fn failure(is_grpc: bool) -> Response<Reply> {
    let mut response = status(StatusCode::INTERNAL_SERVER_ERROR);
    if is_grpc {
        *response.status_mut() = StatusCode::OK;
        response.headers_mut().insert("grpc-status", "13".parse().expect("a value"));
        response = grpc_head(response);
    }
    response
}

fn broken_off(is_grpc: bool) -> Response<Reply> {
    let frames =
        vec![Ok(Frame::data(Bytes::from_static(b"\0\0"))), Err(std::io::ErrorKind::ConnectionReset.into())];
    let response = Response::new(reply(frames));
    if is_grpc { grpc_head(response) } else { response }
}

fn grpc_head(mut response: Response<Reply>) -> Response<Reply> {
    response.headers_mut().insert("content-type", "application/grpc".parse().expect("a value"));
    response
}

fn placement_of(node: usize, shards: &[Vec<usize>]) -> Value {
    let mut local = Vec::new();
    let mut remote = Vec::new();
    for (shard_id, replicas) in shards.iter().enumerate() {
        for &replica in replicas {
            if replica == node {
                local.push(json!({ "shard_id": shard_id, "points_count": 1, "state": "Active" }));
            } else {
                remote.push(json!({ "shard_id": shard_id, "peer_id": peer(replica), "state": "Active" }));
            }
        }
    }
    json!({ "result": {
        "peer_id": peer(node), "shard_count": shards.len(), "local_shards": local, "remote_shards": remote,
        "shard_transfers": [],
    }})
}

fn request_id(headers: &HeaderMap) -> u64 {
    headers.get("x-request-id").and_then(|id| id.to_str().ok()?.parse().ok()).unwrap_or(u64::MAX)
}
