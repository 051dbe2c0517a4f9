//! What a request asks of the router itself, in headers.

use http::{HeaderMap, HeaderName, header::CONTENT_ENCODING};

use crate::{
    dispatch::{Failure, RetryWrites, RetryWritesError},
    request::Affinity,
};

/// What the names of these headers begin with.
const PREFIX: &str = "x-qdrant-";

/// Asks to be told where the request went, and why.
const EXPLAIN: HeaderName = HeaderName::from_static("x-qdrant-router-explain");

/// Says for one request which writes may be repeated: `never`, `idempotent` or `always`.
const RETRY_WRITES: HeaderName = HeaderName::from_static("x-qdrant-router-retry-writes");

/// Names the node that a request is for.
const NODE: HeaderName = HeaderName::from_static("x-qdrant-node");

/// What a request asks of the router.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) explain: bool,
    pub(super) retry_writes: Option<RetryWrites>,
    pub(super) placing: Placing,
}

/// What it says of its place, and of how its body tells that.
#[derive(Debug, Default)]
pub(super) struct Placing {
    /// Whether its body has an encoding, and may have to be decoded to be looked into (REST).
    pub(super) is_encoded: bool,
    pub(super) pin: Option<NodePin>,
    pub(super) affinity: Option<Affinity>,
}

/// What `x-qdrant-node` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NodePin {
    /// Every node.
    All,
    /// The node of this pod name, peer id or address.
    Node(String),
}

// === impl Wishes ===

impl Wishes {
    /// Takes what is meant for the router off the request; the affinity stays, Qdrant knows it too.
    pub(super) fn take(headers: &mut HeaderMap) -> Result<Self, Failure> {
        // Nearly all requests ask for nothing, and looking for five names costs more than looking at all.
        let (mut is_encoded, mut asks) = (false, false);
        for name in headers.keys() {
            is_encoded |= *name == CONTENT_ENCODING;
            asks |= name.as_str().starts_with(PREFIX);
        }
        if !asks {
            return Ok(Self { placing: Placing { is_encoded, ..Placing::default() }, ..Self::default() });
        }
        let explain = headers.remove(EXPLAIN).is_some_and(|value| value == "1");
        let placing = Placing { is_encoded, pin: NodePin::take(headers), affinity: Affinity::of(headers) };
        Ok(Self { explain, retry_writes: retry_writes(headers)?, placing })
    }
}

fn retry_writes(headers: &mut HeaderMap) -> Result<Option<RetryWrites>, Failure> {
    let Some(wish) = headers.remove(RETRY_WRITES) else { return Ok(None) };
    let wish = String::from_utf8_lossy(wish.as_bytes());
    match wish.parse() {
        Ok(policy) => Ok(Some(policy)),
        Err(RetryWritesError) => Err(Failure::UnknownPolicy(wish.into_owned())),
    }
}

// === impl NodePin ===

impl NodePin {
    fn take(headers: &mut HeaderMap) -> Option<Self> {
        let value = headers.remove(NODE)?;
        let name = String::from_utf8_lossy(value.as_bytes()).trim().to_owned();
        Some(if name == "all" { Self::All } else { Self::Node(name) })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn take(given: &[(HeaderName, &'static str)]) -> (Wishes, HeaderMap) {
        let mut headers: HeaderMap =
            given.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        (Wishes::take(&mut headers).expect("wishes"), headers)
    }

    #[test]
    fn wishes_are_taken_off_the_request() {
        let affinity = HeaderName::from_static("x-qdrant-route-affinity");
        let (wishes, left) = take(&[
            (EXPLAIN, "1"),
            (RETRY_WRITES, "never"),
            (NODE, " qdrant-1 "),
            (affinity.clone(), "user-1"),
            (http::header::ACCEPT, "*/*"),
        ]);
        assert!(wishes.explain);
        assert_eq!(wishes.retry_writes, Some(RetryWrites::Never));
        assert_eq!(wishes.placing.pin, Some(NodePin::Node("qdrant-1".to_owned())));
        assert_eq!(wishes.placing.affinity, Affinity::new(b"user-1"));
        assert_eq!(left.len(), 2);
        assert!(left.contains_key(affinity));
        assert_eq!(take(&[(NODE, "all")]).0.placing.pin, Some(NodePin::All));
    }

    #[test]
    fn most_requests_have_none() {
        for (name, value, is_encoded) in
            [(http::header::ACCEPT, "*/*", false), (CONTENT_ENCODING, "gzip", true)]
        {
            let (Wishes { explain, retry_writes, placing }, left) = take(&[(name, value)]);
            assert!(!explain && retry_writes.is_none() && placing.pin.is_none());
            assert_eq!((placing.is_encoded, left.len()), (is_encoded, 1));
        }
    }

    #[test]
    fn a_policy_that_is_none_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_WRITES, HeaderValue::from_static("sometimes"));
        assert!(matches!(Wishes::take(&mut headers), Err(Failure::UnknownPolicy(_))));
    }
}
