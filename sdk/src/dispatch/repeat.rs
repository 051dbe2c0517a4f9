//! Whether a request may be sent again: one table, and nothing else decides.

use std::{fmt, str::FromStr, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use percent_encoding::percent_decode;

use super::Placement;
use crate::{
    request::{Action, Class, Intent, Protocol, Repeat},
    topology::WriteOrdering,
    transport::Sent,
};

/// Which writes are repeated when it is unknown whether the first sending was processed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryWrites {
    /// None.
    Never,
    /// Writes of points with `weak` ordering: their effect is idempotent, and the official client repeats them
    /// too. Of batches, those whose operations all name their points and have no condition. Once after a connection
    /// that broke, and once after an error that asks for a retry: a node that ends causes both, the second of them up to
    /// half a minute after the first (Qdrant 1.18).
    #[default]
    Idempotent,
    /// Also writes of any ordering, batches with filters and conditions, which may come to something else the second time,
    /// and changes of metadata, which may then answer that what was asked for is done already. As often.
    Always,
}

/// What repeating a request would do if the first attempt had been processed after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeatable {
    /// Nothing.
    Freely,
    /// The same effect again, which other writers may see; once for each way in which an attempt may fail.
    Once,
    /// Something else than was asked, or something that the caller has not allowed.
    Never,
}

/// Text is not the name of a [`RetryWrites`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is `never`, `idempotent` or `always`")]
pub struct RetryWritesError;

/// What an answer asks of whoever has sent the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// Nothing: it is the client's, as are wrong requests, time-outs and quotas of storage.
    Nothing,
    /// The node cannot do it, as far as its own view and state go (`500` and `503`, INTERNAL and UNAVAILABLE), and
    /// another one may.
    ///
    /// Two such errors go by other names. A connection between nodes that broke is told as a limit (`429`,
    /// RESOURCE_EXHAUSTED), but without the time after which to come back. And a node whose view of the shards is
    /// behind tells FAILED_PRECONDITION over gRPC, where REST has `500`.
    Another,
    /// The node has refused at its door what another one may take: over its own quota of storage (`507`, and
    /// RESOURCE_EXHAUSTED with a mark), it proposes no index and no vector name to the cluster (Qdrant 1.19). A write of points
    /// that is refused so is the client's, because it reached other nodes first.
    Elsewhere,
    /// A limit is reached (`429`, RESOURCE_EXHAUSTED), and this is how long the node wants to be left alone; zero where
    /// that cannot be read. Qdrant counts reads per collection and node.
    Pause(Duration),
}

// === impl RetryWrites ===

impl FromStr for RetryWrites {
    type Err = RetryWritesError;

    fn from_str(name: &str) -> Result<Self, RetryWritesError> {
        match name {
            "never" => Ok(Self::Never),
            "idempotent" => Ok(Self::Idempotent),
            "always" => Ok(Self::Always),
            _ => Err(RetryWritesError),
        }
    }
}

impl fmt::Display for RetryWrites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "never",
            Self::Idempotent => "idempotent",
            Self::Always => "always",
        })
    }
}

// === impl Repeatable ===

impl Repeatable {
    pub(super) fn of(repeat: Repeat, placement: &Placement, policy: RetryWrites) -> Self {
        let is_weak_write = matches!(
            placement,
            Placement::Points(_, Intent { action: Action::Write(WriteOrdering::Weak), .. })
        );
        let names_points = matches!(placement, Placement::Points(_, intent) if intent.names_points());
        match (repeat, policy) {
            (Repeat::Safe, _) => Self::Freely,
            (Repeat::Idempotent, RetryWrites::Idempotent) if is_weak_write => Self::Once,
            (Repeat::Batch, RetryWrites::Idempotent) if is_weak_write && names_points => Self::Once,
            (Repeat::Idempotent | Repeat::Batch | Repeat::Verify, RetryWrites::Always) => Self::Once,
            (Repeat::Idempotent | Repeat::Batch | Repeat::Verify | Repeat::Never, _) => Self::Never,
        }
    }

    /// Whether the request may be sent to another node after an attempt failed; `unknown_outcomes`
    /// counts the attempts so far, this one included, that may have been processed and failed in the same way: broken
    /// off, or answered with an error.
    pub(super) fn allows(self, sent: Sent, unknown_outcomes: usize) -> bool {
        match (sent, self) {
            (Sent::No, _) | (Sent::Unknown, Self::Freely) => true,
            (Sent::Unknown, Self::Once) => unknown_outcomes <= 1,
            (Sent::Unknown, Self::Never) => false,
        }
    }

    /// What is known of a request that no attempt got an answer to. What changes nothing has changed
    /// nothing, processed or not.
    pub(super) fn outcome(self, unknown_outcomes: usize) -> Sent {
        match self {
            Self::Once | Self::Never if unknown_outcomes > 0 => Sent::Unknown,
            Self::Freely | Self::Once | Self::Never => Sent::No,
        }
    }
}

// === impl Asks ===

impl Asks {
    pub(super) fn of<B>(protocol: Protocol, class: Class, response: &Response<B>) -> Self {
        let headers = response.headers();
        let limited_or = |otherwise| pause(headers).map_or(otherwise, Self::Pause);
        let no_storage = if class == Class::Consensus { Self::Elsewhere } else { Self::Nothing };
        match protocol {
            Protocol::Rest => match response.status() {
                StatusCode::INTERNAL_SERVER_ERROR | StatusCode::SERVICE_UNAVAILABLE => Self::Another,
                StatusCode::TOO_MANY_REQUESTS => limited_or(Self::Another),
                StatusCode::INSUFFICIENT_STORAGE => no_storage,
                _ => Self::Nothing,
            },
            Protocol::Grpc => match headers.get(GRPC_STATUS).map(HeaderValue::as_bytes) {
                Some(b"8") if headers.contains_key(NO_STORAGE) => limited_or(no_storage),
                Some(b"8") => limited_or(Self::Another),
                Some(b"9") if says(headers, "No target shard") => Self::Another,
                Some(b"13" | b"14") => Self::Another,
                // Without a status of gRPC it is no answer of Qdrant's, but of something before it.
                None if response.status().is_server_error() => Self::Another,
                Some(_) | None => Self::Nothing,
            },
        }
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Marks a RESOURCE_EXHAUSTED that means a quota of storage (Qdrant 1.19).
const NO_STORAGE: &str = "qdrant-insufficient-storage";

/// For how long the node asks to be left alone, if it does.
fn pause(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok().and_then(|seconds| seconds.parse().ok());
    Some(Duration::from_secs(seconds.unwrap_or_default()))
}

/// Whether the message of a gRPC answer contains `text`, which travels percent-encoded.
fn says(headers: &HeaderMap, text: &str) -> bool {
    let message = headers.get("grpc-message").map(HeaderValue::as_bytes).unwrap_or_default();
    percent_decode(message).decode_utf8_lossy().contains(text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use smallvec::smallvec;

    use super::*;
    use crate::{
        request::{Points, Scope},
        route::Reason,
        topology::{Collection, Epoch, PointId},
    };

    fn write(ordering: WriteOrdering) -> Placement {
        batch(ordering, &[&Points::All])
    }

    fn batch(ordering: WriteOrdering, operations: &[&Points]) -> Placement {
        let scope = |points: &&Points| Scope { points: (*points).clone(), ..Scope::EVERYTHING };
        batch_of(ordering, operations.iter().map(scope))
    }

    fn batch_of(ordering: WriteOrdering, scopes: impl IntoIterator<Item = Scope>) -> Placement {
        let collection = Collection::new(Epoch::default(), Vec::new(), None, 0);
        let action = Action::Write(ordering);
        let intent = Intent { action, scopes: scopes.into_iter().collect(), affinity: None };
        Placement::Points(Arc::new(collection), intent)
    }

    #[test]
    fn errors_of_the_node_ask_for_another() {
        let answer = |status: u16, grpc: Option<&'static str>| {
            let mut response = Response::builder().status(status).body(()).expect("a response");
            if let Some(code) = grpc {
                response.headers_mut().insert("grpc-status", HeaderValue::from_static(code));
            }
            response
        };
        for (status, asks) in
            [(200, false), (400, false), (429, true), (500, true), (503, true), (504, false)]
        {
            assert_eq!(
                Asks::of(Protocol::Rest, Class::Read, &answer(status, None)) == Asks::Another,
                asks,
                "{status}"
            );
        }
        for (code, asks) in
            [("0", false), ("3", false), ("8", true), ("9", false), ("13", true), ("14", true)]
        {
            assert_eq!(
                Asks::of(Protocol::Grpc, Class::Read, &answer(200, Some(code))) == Asks::Another,
                asks,
                "{code}"
            );
        }
        for (status, asks) in [(200, false), (404, false), (502, true), (503, true)] {
            assert_eq!(
                Asks::of(Protocol::Grpc, Class::Read, &answer(status, None)) == Asks::Another,
                asks,
                "HTTP {status}"
            );
        }
    }

    #[test]
    fn errors_of_nodes_by_other_names_ask_for_another_and_those_of_the_client_do_not() {
        let answer = |status: u16, headers: &[(&'static str, &'static str)]| {
            let head = Response::builder().status(status);
            let head = headers.iter().fold(head, |head, (name, value)| head.header(*name, *value));
            head.body(()).expect("a response")
        };
        let grpc =
            |headers: &[_]| Asks::of(Protocol::Grpc, Class::Read, &answer(200, headers)) == Asks::Another;
        let limit = Asks::of(Protocol::Rest, Class::Read, &answer(429, &[("retry-after", "7")]));
        assert_eq!(limit, Asks::Pause(Duration::from_secs(7)));
        assert!(!grpc(&[("grpc-status", "8"), ("retry-after", "7")]), "a limit");
        assert!(!grpc(&[("grpc-status", "8"), (NO_STORAGE, "1")]), "a quota");
        let behind = "Pre-condition%20failure:%20No%20target%20shard%203%20found%20for%20update";
        assert!(grpc(&[("grpc-status", "9"), ("grpc-message", behind)]), "its view is behind");
        assert!(!grpc(&[("grpc-status", "9"), ("grpc-message", "Locked")]), "a lock");
    }

    #[test]
    fn a_quota_of_one_node_is_no_reason_for_another_to_propose_nothing() {
        let rest = Response::builder().status(507).body(()).expect("a response");
        let grpc = Response::builder().header("grpc-status", "8").header(NO_STORAGE, "1");
        let grpc = grpc.body(()).expect("a response");
        for (class, asks) in
            [(Class::Consensus, Asks::Elsewhere), (Class::Write, Asks::Nothing), (Class::Read, Asks::Nothing)]
        {
            assert_eq!(Asks::of(Protocol::Rest, class, &rest), asks, "{class:?}");
            assert_eq!(Asks::of(Protocol::Grpc, class, &grpc), asks, "{class:?}");
        }
    }

    #[test]
    fn a_limit_asks_for_a_pause() {
        let rest = |status: u16, after: &str| {
            Response::builder().status(status).header("retry-after", after).body(()).expect("a response")
        };
        let grpc = |status: &str| {
            let head = Response::builder().header("grpc-status", status).header("retry-after", "7");
            head.body(()).expect("a response")
        };
        let seconds = |protocol, response| match Asks::of(protocol, Class::Read, &response) {
            Asks::Pause(pause) => Some(pause.as_secs()),
            Asks::Another | Asks::Elsewhere | Asks::Nothing => None,
        };
        assert_eq!(seconds(Protocol::Rest, rest(429, "7")), Some(7));
        assert_eq!(seconds(Protocol::Rest, rest(429, "Wed, 21 Oct 2015 07:28:00 GMT")), Some(0));
        assert_eq!(seconds(Protocol::Rest, rest(200, "7")), None);
        let silent = Response::builder().status(429).body(()).expect("a response");
        assert_eq!(seconds(Protocol::Rest, silent), None, "it does not say for how long");
        assert_eq!(seconds(Protocol::Grpc, grpc("8")), Some(7));
        assert_eq!(seconds(Protocol::Grpc, grpc("5")), None);
    }

    #[test]
    fn what_was_not_processed_may_always_go_elsewhere() {
        for repeatable in [Repeatable::Freely, Repeatable::Once, Repeatable::Never] {
            assert!(repeatable.allows(Sent::No, 0));
        }
    }

    #[test]
    fn what_may_have_been_processed_is_repeated_where_that_does_no_harm() {
        use Repeatable::{Freely, Never, Once};
        let class = || Placement::Class { not: None };
        let opaque = || Placement::Opaque(Reason::UnknownCollection);
        let one = Points::Ids(smallvec![PointId::Num(1)]);
        let owned = Points::Owned { by: smallvec![0], ids: 5 };
        let conditional = Scope { points: one.clone(), is_conditional: true, ..Scope::EVERYTHING };
        for (repeat, placement, never, idempotent, always) in [
            (Repeat::Safe, opaque(), Freely, Freely, Freely),
            (Repeat::Safe, class(), Freely, Freely, Freely),
            (Repeat::Idempotent, write(WriteOrdering::Weak), Never, Once, Once),
            (Repeat::Idempotent, write(WriteOrdering::Medium), Never, Never, Once),
            (Repeat::Idempotent, write(WriteOrdering::Strong), Never, Never, Once),
            (Repeat::Batch, write(WriteOrdering::Weak), Never, Never, Once),
            (Repeat::Batch, batch(WriteOrdering::Weak, &[&one, &owned]), Never, Once, Once),
            (Repeat::Batch, batch(WriteOrdering::Strong, &[&one]), Never, Never, Once),
            (Repeat::Batch, batch(WriteOrdering::Weak, &[&one, &Points::All]), Never, Never, Once),
            (Repeat::Batch, batch_of(WriteOrdering::Weak, [conditional]), Never, Never, Once),
            (Repeat::Batch, opaque(), Never, Never, Once),
            (Repeat::Idempotent, opaque(), Never, Never, Once),
            (Repeat::Idempotent, class(), Never, Never, Once),
            (Repeat::Verify, class(), Never, Never, Once),
            (Repeat::Never, class(), Never, Never, Never),
        ] {
            for (policy, expected) in [
                (RetryWrites::Never, never),
                (RetryWrites::Idempotent, idempotent),
                (RetryWrites::Always, always),
            ] {
                let repeatable = Repeatable::of(repeat, &placement, policy);
                assert_eq!(repeatable, expected, "{repeat:?} {placement:?} {policy:?}");
            }
        }
        let verdicts = |repeatable: Repeatable| [1, 2].map(|n| repeatable.allows(Sent::Unknown, n));
        assert_eq!(verdicts(Freely), [true, true]);
        assert_eq!(verdicts(Once), [true, false]);
        assert_eq!(verdicts(Never), [false, false]);
    }
}
