//! [`Router`]: one Tower service for every REST and gRPC request.

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body::Body as HttpBody;
use smallvec::SmallVec;

use crate::{
    balance::Balance,
    dispatch::{
        Admission, Answer, Credentials, DirectAnswer, Dispatcher, Failure, Gathered, Job, Merged, Placement,
        Reply, RetryWrites, deadline, in_time, refuse,
    },
    request::{BoxError, Call, Class, Protocol},
    route::{Explanation, Plan, Reason, Routing},
    task::AbortOnDrop,
    topology::{Address, Node, PeerId, Topology, TopologyHandle},
    transport::{Connections, Transport},
};

mod builder;
mod explain;
mod placement;
mod response;
mod wishes;

pub use self::{
    builder::{BuildError, RouterBuilder},
    explain::{ExplainError, Question},
    response::ResponseBody,
};
use self::{
    placement::{Prepared, known_nodes},
    wishes::Wishes,
};

/// Sends each request straight to the node that holds its data.
///
/// A Tower service over `http::Request`s of either protocol: gRPC where the content type says so,
/// REST otherwise. Cloning is cheap, and all clones share their connections and their view of the
/// cluster. The service never fails: where no node answers, the response says so in the
/// client's protocol.
///
/// ```no_run
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use qdrant_router::Router;
/// use tower::ServiceExt;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let router = Router::builder()
///     .headless("qdrant-headless.demo.svc")
///     .fallback("qdrant.demo.svc")
///     .build()?;
///
/// let request = http::Request::post("/collections/books/points/count").body(Full::<Bytes>::from("{}"))?;
/// let response = router.oneshot(request).await?;
/// println!("{}", response.status());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Router(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dispatcher: Dispatcher,
    admission: Arc<Admission>,
    body_limit: usize,
    routing: Routing,
    retry_writes: RetryWrites,
    /// Notices nodes that hang.
    watch: Arc<AbortOnDrop>,
    /// Drops connections to addresses that are no longer nodes.
    _janitor: AbortOnDrop,
}

/// How a request was routed. Every response of a [`Router`] carries one in its extensions.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Routed {
    /// The protocol of the request.
    pub protocol: Protocol,
    /// What it worked on.
    pub class: Class,
    /// Its route: a path with placeholders (REST), or the full name of an RPC; `unknown` where it has none.
    pub operation: &'static str,
    /// The collection that it names, as far as that was looked for.
    pub collection: Option<Arc<str>>,
    /// Why it went where it went; `None` where there was nobody to send it to.
    pub reason: Option<Reason>,
    /// The peer that answered, where known.
    pub peer: Option<PeerId>,
    /// How many times it was sent, each of its parts counted.
    pub attempts: usize,
    /// What it was sent as: one request, or the parts of a split. More attempts than parts are repeats.
    pub parts: usize,
    /// The internal RPCs that Qdrant was expected to need for it, where that can be told.
    pub expected_rpcs: Option<u32>,
    /// The internal RPCs that it would have needed on average over the nodes, as behind a Service that picks one at
    /// random, less those expected; `None` where those cannot be told.
    pub avoided_rpcs: Option<f64>,
    /// Whether a node answered.
    pub answered: bool,
    /// Where it would have gone, with [`Routing::Observe`].
    pub observed: Option<Box<Explanation>>,
    /// Who answered, each part of it.
    places: SmallVec<[(Option<PeerId>, Address); 1]>,
    /// What it was decided on.
    snapshot: Option<Arc<Topology>>,
}

// === impl Router ===

impl Router {
    /// Starts to configure a router.
    pub fn builder() -> RouterBuilder {
        RouterBuilder::new()
    }

    /// The router's view of the cluster, which it keeps fresh.
    #[must_use]
    pub fn topology(&self) -> &TopologyHandle {
        &self.0.dispatcher.topology
    }

    /// How many reads were sent to a second node, because the first was slower than usual.
    #[must_use]
    pub fn hedges(&self) -> u64 {
        self.0.dispatcher.hedges.load(Ordering::Relaxed)
    }

    /// How many repeats and hedges were left out because the budget for them was spent; those that a request wanted
    /// to pay in advance included. It holds a fifth of the requests of the last ten seconds, and five a second.
    #[must_use]
    pub fn repeats_refused(&self) -> u64 {
        self.0.dispatcher.budget.refused()
    }

    /// The connections that are open to the node at `address`, for clients' requests: those of this router, of its
    /// clones, and of those [with connections of their own](Self::with_own_connections).
    #[must_use]
    pub fn connections(&self, address: Address) -> Connections {
        self.0.dispatcher.transport.connections(address)
    }

    /// Which requests it routes.
    #[must_use]
    pub fn routing(&self) -> Routing {
        self.0.routing
    }

    /// Whether both share one view of the cluster: clones, and those [with connections of their
    /// own](Self::with_own_connections).
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.admission, &other.0.admission)
    }

    /// The same router on connections of its own, for a runtime of its own: view, load, limits and budget are shared,
    /// and no connection is driven by another thread. Must be called on the runtime that will use it.
    #[must_use]
    pub fn with_own_connections(&self) -> Self {
        let transport = Arc::new(self.0.dispatcher.transport.afresh());
        let janitor = AbortOnDrop::spawn(sweep(self.topology().clone(), transport.clone()));
        Self(Arc::new(Inner {
            dispatcher: Dispatcher { transport, ..self.0.dispatcher.clone() },
            admission: self.0.admission.clone(),
            body_limit: self.0.body_limit,
            routing: self.0.routing,
            retry_writes: self.0.retry_writes,
            watch: self.0.watch.clone(),
            _janitor: janitor,
        }))
    }

    /// Load and health of the nodes.
    #[must_use]
    pub fn balance(&self) -> &Balance {
        &self.0.dispatcher.balance
    }

    /// Answers `request`, and tells how it was routed.
    ///
    /// The same as calling the service, without the box around its future and the extension of its response.
    pub async fn route<B>(&self, request: Request<B>) -> (Response<ResponseBody>, Routed)
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut head, body) = request.into_parts();
        let protocol = Protocol::of(&head.headers);
        let call = Call::of(protocol, &head.method, &head.uri);
        let mut routed = Routed::unanswered(&call);

        if !has_path(&head.method, &head.uri) {
            return (refuse(protocol, &Failure::NoPath).map(ResponseBody::local), routed);
        }
        let Some(mut admitted) = self.0.admission.admit() else {
            return (refuse(protocol, &Failure::Overloaded).map(ResponseBody::local), routed);
        };
        let deadline = if protocol == Protocol::Grpc { deadline(&head.headers) } else { None };
        let Wishes { explain, retry_writes, placing } = match Wishes::take(&mut head.headers) {
            Ok(wishes) => wishes,
            Err(failure) => return (refuse(protocol, &failure).map(ResponseBody::local), routed),
        };
        let retry_writes = retry_writes.unwrap_or(self.0.retry_writes);
        let prepared = {
            // Pinned, so that there is one of it for both ways.
            let preparing = pin!(self.0.prepare(&call, placing, &head.headers, body, Some(&mut admitted)));
            match deadline {
                Some(deadline) => in_time(deadline, preparing).await,
                None => preparing.await,
            }
        };
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(failure) => {
                let failure = Box::pin(self.explained(failure, &head.headers)).await;
                return (refuse(protocol, &failure).map(ResponseBody::local), routed);
            }
        };
        let Prepared { placement, collection, snapshot, body, plain } = prepared;
        let admitted = Arc::new(admitted);
        let mut job = Job {
            protocol,
            class: call.class,
            repeat: call.repeat,
            retry_writes,
            deadline,
            placement,
            collection,
            snapshot: snapshot.clone(),
            head,
            body,
            plain,
            admitted: Some(admitted.clone()),
        };
        routed.collection.clone_from(&job.collection);
        routed.snapshot = Some(snapshot.clone());
        // What is rare lies in boxes, so that the future of what is common is small.
        if self.0.is_observed(&call, &job) {
            routed.observed = Some(Box::pin(self.0.observe(&call, &mut job)).await);
        }
        let dispatcher = &self.0.dispatcher;
        let dealt =
            if job.lists_points() { Box::pin(dispatcher.deal(&call, &mut job)).await } else { Ok(None) };
        let parts = match dealt {
            Ok(parts) => parts,
            Err(failure) => return (refuse(protocol, &failure).map(ResponseBody::local), routed),
        };
        let mut response = if matches!(job.placement, Placement::AllNodes) {
            let Gathered { reply, plans, attempts, parts, is_complete } =
                Box::pin(dispatcher.gather(job)).await;
            routed.merged(Reason::AllNodes, &plans);
            (routed.attempts, routed.parts, routed.answered) = (attempts, parts, is_complete);
            merged_response(reply)
        } else if let Some(parts) = parts {
            // The whole is not kept beside them.
            drop(job);
            let Merged { reply, plans, attempts, parts } =
                Box::pin(dispatcher.send_parts(protocol, parts)).await;
            routed.merged(Reason::Split, &plans);
            (routed.attempts, routed.parts, routed.answered) = (attempts, parts, plans.len() == parts);
            merged_response(reply)
        } else {
            let direct = match dispatcher.direct(&call, &job) {
                Some(read) => Box::pin(dispatcher.read_direct(read)).await,
                None => None,
            };
            match direct {
                Some(DirectAnswer { reply, plans, attempts, avoided_rpcs }) => {
                    routed.merged(Reason::DirectRead, &plans);
                    routed.avoided_rpcs = avoided_rpcs;
                    (routed.attempts, routed.parts, routed.answered) = (attempts, plans.len(), true);
                    merged_response(reply)
                }
                None => self.send_whole(&mut job, &mut routed).await,
            }
        };
        response.body_mut().keep(admitted);
        if explain {
            routed.write_headers(&snapshot, response.headers_mut());
        }
        (response, routed)
    }

    /// Adds to a failure what only those may know whom Qdrant lets in.
    async fn explained(&self, failure: Failure, headers: &HeaderMap) -> Failure {
        let Failure::UnknownNode { name, .. } = failure else { return failure };
        let dispatcher = &self.0.dispatcher;
        let snapshot = dispatcher.topology.snapshot();
        match dispatcher.refusal(&snapshot, &Credentials::of(headers)).await {
            Ok(()) => Failure::UnknownNode { name, known: known_nodes(&snapshot) },
            Err(refusal) => refusal,
        }
    }

    #[cfg(test)]
    pub(crate) fn aside(&self) -> &crate::aside::Aside {
        &self.0.dispatcher.aside
    }

    async fn send_whole(&self, job: &mut Job, routed: &mut Routed) -> Response<ResponseBody> {
        let dispatcher = &self.0.dispatcher;
        // Before it is placed, and before the time that its node takes is measured.
        dispatcher.transport.gather(job.protocol).await;
        let Answer { response, plan, attempts } = match dispatcher.send(job).await {
            Ok(answer) => answer,
            Err(failure) => {
                routed.attempts = failure.attempts();
                return refuse(job.protocol, &failure).map(ResponseBody::local);
            }
        };
        routed.reason = Some(plan.reason);
        routed.peer = plan.peer;
        routed.places.push((plan.peer, plan.address));
        routed.attempts = attempts;
        routed.expected_rpcs = plan.expected_rpcs;
        routed.avoided_rpcs = plan.avoided_rpcs();
        routed.answered = true;
        // A gRPC error is a success of HTTP that tells its status in the first headers.
        let is_error = || response.headers().get("grpc-status").is_some_and(|status| status != "0");
        if job.class == Class::Consensus && response.status().is_success() && !is_error() {
            dispatcher.topology.note_change(plan.address, job.collection.as_deref());
        }
        response.map(ResponseBody::streamed)
    }
}

impl<B> tower::Service<Request<B>> for Router
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let router = self.clone();
        Box::pin(async move {
            let (mut response, routed) = router.route(request).await;
            response.extensions_mut().insert(routed);
            Ok(response)
        })
    }
}

/// How often connections that nobody uses are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Closes connections to addresses that are nodes no longer, and those that have been idle for too long.
async fn sweep(mut topology: TopologyHandle, transport: Arc<Transport>) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        tokio::select! {
            biased;
            () = topology.changed() => {}
            _ = ticks.tick() => {}
        }
        let snapshot = topology.snapshot();
        let is_node = |address| snapshot.nodes().iter().any(|node| node.address == address);
        transport.retain(|address| is_node(address) || snapshot.fallback().contains(&address));
    }
}

fn merged_response(reply: Reply) -> Response<ResponseBody> {
    let Reply { status, headers, body, trailers } = reply;
    let mut response = Response::new(ResponseBody::with_trailers(body, trailers));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Whether a node could only read it as a request for a path of its own. A tunnel that a node granted would
/// carry what nobody has looked at.
fn has_path(method: &Method, uri: &Uri) -> bool {
    match uri.path() {
        "*" => *method == Method::OPTIONS,
        path => *method != Method::CONNECT && path.starts_with('/'),
    }
}

/// The name of a node for people.
fn label(snapshot: &Topology, peer: Option<PeerId>, address: Address) -> String {
    peer.and_then(|peer| snapshot.node(peer)).map_or_else(|| address.ip.to_string(), Node::label)
}

// === impl Routed ===

impl Routed {
    /// The node that answered: its pod name where known, else its address. Several where it was sent in parts.
    #[must_use]
    pub fn node(&self) -> Option<String> {
        let snapshot = self.snapshot.as_ref().filter(|_| !self.places.is_empty())?;
        let labels = self.places.iter().map(|&(peer, address)| label(snapshot, peer, address));
        Some(labels.collect::<Vec<_>>().join(","))
    }

    fn unanswered(call: &Call) -> Self {
        Self {
            protocol: call.protocol,
            class: call.class,
            operation: call.operation,
            collection: None,
            reason: None,
            peer: None,
            attempts: 0,
            parts: 1,
            expected_rpcs: None,
            avoided_rpcs: None,
            answered: false,
            observed: None,
            places: SmallVec::new(),
            snapshot: None,
        }
    }

    /// Takes over how the parts of an answer came about.
    fn merged(&mut self, reason: Reason, plans: &[Plan]) {
        self.reason = Some(reason);
        self.places = plans.iter().map(|plan| (plan.peer, plan.address)).collect();
        self.expected_rpcs = plans.iter().map(|plan| plan.expected_rpcs).sum();
        self.avoided_rpcs = plans.iter().map(Plan::avoided_rpcs).sum();
    }

    fn write_headers(&self, snapshot: &Topology, headers: &mut HeaderMap) {
        let mut set = |name: &'static str, value: String| {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        if let Some(node) = self.node() {
            set("x-qdrant-router-node", node);
        }
        if let Some(reason) = self.reason {
            set("x-qdrant-router-reason", reason.as_str().to_owned());
        }
        if let Some(observed) = &self.observed {
            set("x-qdrant-router-observed-node", observed.nodes());
            set("x-qdrant-router-observed-reason", observed.reason.map_or("none", Reason::as_str).to_owned());
        }
        set("x-qdrant-router-attempts", self.attempts.to_string());
        if let Some(epoch) = snapshot.epoch() {
            set("x-qdrant-router-epoch", epoch.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_and_what_has_no_path_are_not_forwarded() {
        for (method, uri, forwarded) in [
            (Method::GET, "/collections", true),
            (Method::GET, "http://qdrant:6333", true),
            (Method::OPTIONS, "*", true),
            (Method::GET, "*", false),
            (Method::CONNECT, "qdrant:6333", false),
            (Method::CONNECT, "/collections", false),
            (Method::GET, "qdrant:6333", false),
        ] {
            assert_eq!(has_path(&method, &uri.parse().expect("a URI")), forwarded, "{method} {uri}");
        }
    }
}
