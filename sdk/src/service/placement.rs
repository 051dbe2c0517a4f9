//! Finds out where a request belongs, reading its body where that matters.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body as HttpBody;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    Inner,
    wishes::{NodePin, Placing},
};
use crate::{
    aside::is_long,
    dispatch::{Admitted, Credentials, Failure, Placement},
    request::{
        Body, BoxError, Call, Class, Collected, Compressed, Depth, Intent, NotUnderstood, Protocol, Repeat,
        collect,
    },
    route::{Local, Reason, Split, Way, depth, settle},
    topology::{Collection, Hashing, Known, Lookup, Node, PeerId, Topology, Version},
};

/// No collection of Qdrant has a longer name, in bytes.
const MAX_COLLECTION_NAME: usize = 255;

/// A long message names its collection within so many bytes, unless it is made by hand.
const BEGINNING: usize = 1 << 10;

/// What is known of a request before it is sent.
pub(super) struct Prepared {
    pub(super) placement: Placement,
    pub(super) collection: Option<Arc<str>>,
    pub(super) snapshot: Arc<Topology>,
    pub(super) body: Body,
    /// The body as it is looked into: whole and not compressed.
    pub(super) plain: Option<Bytes>,
}

/// A body as far as it has been read.
struct Seen {
    body: Body,
    /// All of it, or what came before the limit; nothing of a stream.
    bytes: Bytes,
    is_whole: bool,
}

// === impl Inner ===

impl Inner {
    /// Finds out where a request belongs, reading its body where that matters. Unless it is `admitted`,
    /// it is only to be explained, and no node is asked on its behalf.
    pub(super) async fn prepare<B>(
        &self,
        call: &Call,
        Placing { is_encoded, pin, affinity }: Placing,
        headers: &HeaderMap,
        body: B,
        mut admitted: Option<&mut Admitted>,
    ) -> Result<Prepared, Failure>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let may_ask = admitted.is_some();
        let way = self.routing.way(call.class);
        let is_blind = may_ask && pin.is_none() && way == Way::Unrouted;
        let Seen { body, bytes, is_whole } = self
            .read(call, body, admitted.as_deref_mut())
            .await
            .map_err(|error| Failure::ClientGone(error.to_string()))?;
        let is_seen = is_whole && !is_blind;
        let may_be_compressed = is_encoded || call.protocol == Protocol::Grpc;
        let compressed =
            (is_seen && may_be_compressed).then(|| Compressed::of(call.protocol, headers, &bytes)).flatten();
        let plain = match compressed {
            Some(compressed) => Box::pin(self.decode(compressed)).await,
            None => is_seen.then(|| bytes.clone()),
        };
        // What was decoded is in memory beside what came.
        let plain = plain.filter(|plain| {
            plain.as_ptr() == bytes.as_ptr()
                || admitted.as_mut().is_none_or(|admitted| admitted.hold(plain.len()))
        });
        let looked_at = if is_blind { &Bytes::new() } else { plain.as_ref().unwrap_or(&bytes) };
        let name = if call.is_told_by_message() && is_long(looked_at.len(), 0) {
            match call.collection(&looked_at[..BEGINNING]) {
                Some(name) => Some(Cow::Borrowed(name)),
                None => Box::pin(self.named_by_long(call, looked_at)).await.map(Cow::Owned),
            }
        } else {
            call.collection(looked_at).map(Cow::Borrowed)
        };
        let name = name.as_deref();
        let found = self.dispatcher.topology.found().await;
        let kept = |topology: &Topology| name.map(|name| topology.keep(name));
        let (placement, collection, snapshot) = match pin {
            Some(pin) => (pinned(call, pin, &found)?, kept(&found), found),
            None if is_blind => (Placement::Unrouted, kept(&found), found),
            None if call.is_on_points() => {
                let topology = &self.dispatcher.topology;
                let is_name = |name: &&str| (1..=MAX_COLLECTION_NAME).contains(&name.len());
                let (snapshot, known) = match name.filter(is_name) {
                    Some(name) => match topology.glance(&found, name) {
                        Ok(known) => (found, known),
                        // Whoever has to wait does so in a box, which keeps the future of everybody else small.
                        Err(wanted_since) => Box::pin(topology.learn(name, wanted_since)).await,
                    },
                    None => (found, None),
                };
                let Some(Known { name, lookup: Lookup::Found(collection) }) = known else {
                    let reason = name.map_or(Reason::NotUnderstood, |_| Reason::UnknownCollection);
                    let (placement, collection) = (Placement::Opaque(reason), kept(&snapshot));
                    return Ok(Prepared { placement, collection, snapshot, body, plain });
                };
                let depth = deepest(call, &collection, !may_ask || way == Way::Observed);
                // Over REST, nothing is looked for where nothing can be told.
                let is_looked_into = depth != Depth::default() || call.is_told_by_message();
                let mut intent = match &plain {
                    Some(plain) if is_looked_into && is_long(plain.len(), 0) => {
                        Box::pin(self.peek_into_long(call, plain, depth, &collection)).await
                    }
                    Some(plain) => intent(call, plain, depth, &collection),
                    None if depth == Depth::default() => call.intent(&bytes, depth),
                    // Too large to be looked into, or compressed in an unknown way: the path tells the rest.
                    None => Ok(Intent::unseen(call, &collection)),
                };
                if let Ok(intent) = &mut intent {
                    if intent.has_lists() {
                        let listed = intent.listed_bytes();
                        if listed > 0 && admitted.is_some_and(|admitted| !admitted.hold(listed)) {
                            *intent = Intent { action: intent.action, ..Intent::unseen(call, &collection) };
                        }
                        // What may be cut is settled where it is not.
                        if Split::points(intent) == 0 && is_long(0, intent.ids()) {
                            Box::pin(self.settle(intent, &collection, snapshot.hashing())).await;
                        }
                    }
                    if affinity.is_some()
                        && call.reads_points()
                        && snapshot.is_at_least(Version::ROUTE_AFFINITY)
                    {
                        intent.affinity = affinity;
                    }
                }
                let placement = match intent {
                    Ok(intent) => Placement::Points(collection, intent),
                    Err(NotUnderstood) => Placement::Opaque(Reason::NotUnderstood),
                };
                (placement, Some(name), snapshot)
            }
            None => {
                let credentials = may_ask.then(|| Credentials::of(headers));
                let collection = kept(&found);
                let (placement, snapshot) =
                    self.place_elsewhere(call, name, credentials, looked_at, found).await;
                (placement, collection, snapshot)
            }
        };
        Ok(Prepared { placement, collection, snapshot, body, plain })
    }

    /// Reads the body, unless it may be endless or cannot matter.
    async fn read<B>(
        &self,
        call: &Call,
        body: B,
        mut admitted: Option<&mut Admitted>,
    ) -> Result<Seen, BoxError>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        // Uploads and what is not known are passed on as they come. Over gRPC, what is known is one
        // short message that names its collection.
        let is_stream = match call.class {
            Class::Unknown => true,
            Class::NodeLocal => !call.is_told_by_body(),
            Class::Read
            | Class::Write
            | Class::Consensus
            | Class::Anywhere
            | Class::SnapshotList
            | Class::SnapshotCreate => false,
        };
        if is_stream {
            let body = Body::stream(body);
            return Ok(Seen { body, bytes: Bytes::new(), is_whole: false });
        }
        // Counted as it comes, so that bodies which never end are too.
        let hold = |bytes| admitted.as_mut().is_none_or(|admitted| admitted.hold(bytes));
        Ok(match collect(call.protocol, body, self.body_limit, hold).await? {
            Collected::Whole(bytes) => Seen { body: Body::Full(bytes.clone()), bytes, is_whole: true },
            Collected::TooLarge { read, body } => Seen { body, bytes: read, is_whole: false },
        })
    }

    /// What a compressed body stands for.
    async fn decode(&self, compressed: Compressed) -> Option<Bytes> {
        if !compressed.is_known() {
            return None;
        }
        let (body_limit, admission) = (self.body_limit, self.admission.clone());
        if let Some(plain) = compressed.decode_short(body_limit.min(admission.room())) {
            return Some(plain);
        }
        // How much may be kept in memory is asked when its turn has come.
        self.dispatcher.aside.run(move || compressed.decode(body_limit.min(admission.room()))).await
    }

    /// The collection that a long message names, behind everything else perhaps.
    async fn named_by_long(&self, call: &Call, body: &Bytes) -> Option<String> {
        let (call, body) = (call.clone(), body.clone());
        self.dispatcher.aside.run(move || call.collection(&body).map(str::to_owned)).await
    }

    /// What an operation on points with a long body asks for.
    async fn peek_into_long(
        &self,
        call: &Call,
        plain: &Bytes,
        depth: Depth,
        collection: &Arc<Collection>,
    ) -> Result<Intent, NotUnderstood> {
        let (call, plain, collection) = (call.clone(), plain.clone(), collection.clone());
        self.dispatcher.aside.run(move || intent(&call, &plain, depth, &collection)).await
    }

    /// Finds the shards of many points once, and not for each attempt again.
    async fn settle(&self, intent: &mut Intent, collection: &Arc<Collection>, hashing: Hashing) {
        let (mut lent, collection) = (intent.take(), collection.clone());
        let work = move || {
            settle(&mut lent, &collection, hashing);
            lent
        };
        *intent = self.dispatcher.aside.run(work).await;
    }

    /// Where everything else belongs.
    async fn place_elsewhere(
        &self,
        call: &Call,
        collection: Option<&str>,
        credentials: Option<Credentials>,
        body: &[u8],
        found: Arc<Topology>,
    ) -> (Placement, Arc<Topology>) {
        let has_peers = found.nodes().iter().any(|node| node.peer.is_some());
        let home = || Placement::Local(Local::Home(collection.map(str::to_owned)));
        // What tells the node is short.
        let body = if is_long(body.len(), 0) { &[] } else { body };
        match call.class {
            Class::SnapshotList if has_peers => (Placement::AllNodes, found),
            Class::SnapshotList | Class::SnapshotCreate => (home(), found),
            Class::NodeLocal => {
                let file = call.file(body);
                if let (Some(name), Some(shard)) = (collection, call.shard(body)) {
                    let (snapshot, known) = self.dispatcher.topology.look_up(found, name).await;
                    let placement = match known {
                        Some(Known { lookup: Lookup::Found(found), .. }) => {
                            Placement::Local(Local::Holder(found, shard))
                        }
                        _ => home(),
                    };
                    return (placement, snapshot);
                }
                let keeper = match &file {
                    Some(file) => self.keeper(collection, file, credentials, &found).await,
                    None => None,
                };
                let placement = keeper.map_or_else(home, |node| {
                    Placement::Local(Local::Node(node.address, Reason::SnapshotHolder))
                });
                (placement, found)
            }
            Class::Consensus => (Placement::Class { not: call.peer }, found),
            Class::Read | Class::Write | Class::Anywhere | Class::Unknown => {
                (Placement::Class { not: None }, found)
            }
        }
    }

    /// The node that keeps a snapshot: the peer whose id is in its name, as in those of collections, or
    /// the one that lists it.
    async fn keeper(
        &self,
        collection: Option<&str>,
        file: &str,
        credentials: Option<Credentials>,
        found: &Arc<Topology>,
    ) -> Option<Node> {
        if let Some(node) = collection.and_then(|_| found.node(peer_in_name(file)?)) {
            return Some(node.clone());
        }
        let list = match collection {
            Some(name) => {
                format!("/collections/{}/snapshots", utf8_percent_encode(name, NON_ALPHANUMERIC))
            }
            None => "/snapshots".to_owned(),
        };
        self.dispatcher.keeper(found, &credentials?, &list, file).await
    }
}

/// What an operation on points asks for, looked at no deeper than `depth`.
#[inline]
fn intent(call: &Call, plain: &[u8], depth: Depth, collection: &Collection) -> Result<Intent, NotUnderstood> {
    let intent = call.intent(plain, depth);
    if intent.is_err() && call.repeat == Repeat::Batch {
        // It is not repeated then, and goes where it would have gone.
        return call.intent(plain, self::depth(collection));
    }
    intent
}

/// How deep an operation on points is looked into.
fn deepest(call: &Call, collection: &Collection, is_explained: bool) -> Depth {
    match call.repeat {
        // An explanation counts what a batch costs even where that changes nothing.
        _ if is_explained => Depth::FULL,
        // Whether it may be repeated depends on what it names.
        Repeat::Batch => Depth { ids: true, ..depth(collection) },
        Repeat::Safe | Repeat::Idempotent | Repeat::Verify | Repeat::Never => depth(collection),
    }
}

/// The peer in the name of a collection's snapshot, `{collection}-{peer}-{year}-{month}-…-{second}.snapshot`.
fn peer_in_name(file: &str) -> Option<PeerId> {
    /// Year to second.
    const TIME: usize = 6;
    let stem = file.strip_suffix(".snapshot")?;
    let mut parts = stem.rsplit('-');
    let is_time = parts.by_ref().take(TIME).all(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    let peer = parts.next()?.parse().ok()?;
    // Before the peer comes the name of the collection.
    (is_time && parts.next().is_some()).then_some(peer)
}

/// The placement that a pin asks for.
fn pinned(call: &Call, pin: NodePin, topology: &Topology) -> Result<Placement, Failure> {
    let has_peers = topology.nodes().iter().any(|node| node.peer.is_some());
    match (pin, call.class) {
        (NodePin::All, Class::SnapshotList | Class::SnapshotCreate) if has_peers => Ok(Placement::AllNodes),
        (NodePin::All, Class::SnapshotList | Class::SnapshotCreate) => {
            Ok(Placement::Local(Local::Home(call.collection(&[]).map(str::to_owned))))
        }
        (NodePin::All, _) => Err(Failure::NotForAllNodes),
        (NodePin::Node(name), _) => {
            let is_meant = |node: &&Node| {
                node.name.as_deref() == Some(&*name)
                    || node.peer.is_some_and(|peer| peer.to_string() == name)
                    || node.address.ip.to_string() == name
            };
            match topology.nodes().iter().find(is_meant) {
                Some(node) => Ok(Placement::Local(Local::Node(node.address, Reason::PinnedNode))),
                None => Err(Failure::UnknownNode { name, known: Vec::new() }),
            }
        }
    }
}

/// The nodes that a pin may name.
pub(super) fn known_nodes(topology: &Topology) -> Vec<String> {
    let describe = |node: &Node| match node.peer {
        Some(peer) => format!("{} (peer {peer})", node.label()),
        None => node.label(),
    };
    topology.nodes().iter().map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_is_in_the_name_of_a_collections_snapshot() {
        for (file, peer) in [
            ("books-3917528459216744-2026-11-24-02-20-33.snapshot", Some(3_917_528_459_216_744)),
            ("my-old-books-7-2026-11-24-02-20-33.snapshot", Some(7)),
            ("full-snapshot-2026-11-24-02-20-33.snapshot", None),
            ("books-2026-11-24-02-20-33.snapshot", None),
            ("2026-11-24-02-20-33.snapshot", None),
            ("books-7-2026-11-24-02-20-33.tar", None),
            ("books-7-2026-11-24-02-20-xx.snapshot", None),
            ("", None),
        ] {
            assert_eq!(peer_in_name(file), peer, "{file}");
        }
    }
}
