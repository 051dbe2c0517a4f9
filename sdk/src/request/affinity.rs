//! `x-qdrant-route-affinity` (Qdrant 1.19): equal values read from equal replicas.
//!
//! A client sends it so that its reads find warm caches. Qdrant then leaves its preference for local
//! replicas aside and orders the readable ones of each shard by a hash of the value and the peer id.
//! The router passes it on, never makes one up, and sends the read where most of that order leads.

use http::{HeaderMap, HeaderName};

use crate::topology::PeerId;

const HEADER: HeaderName = HeaderName::from_static("x-qdrant-route-affinity");

/// The hash of a route affinity.
///
/// ```
/// use qdrant_router::request::Affinity;
///
/// let affinity = Affinity::new(b"user-42").expect("it is not empty");
/// let mut peers = [1001, 1002, 1003];
/// peers.sort_by_key(|&peer| affinity.rank(peer));
/// assert_eq!(peers, [1003, 1001, 1002]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity(u64);

// === impl Affinity ===

impl Affinity {
    /// The affinity of a header's value; `None` for an empty one, which counts as none.
    #[must_use]
    pub fn new(value: &[u8]) -> Option<Self> {
        (!value.is_empty()).then(|| Self(fnv1a(value)))
    }

    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        Self::new(headers.get(HEADER)?.as_bytes())
    }

    /// Where `peer` stands in the order of replicas: the lowest is asked first.
    #[must_use]
    pub fn rank(self, peer: PeerId) -> (u64, PeerId) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.0.to_le_bytes());
        bytes[8..].copy_from_slice(&peer.to_le_bytes());
        (fnv1a(&bytes), peer)
    }
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::request::{Call, Protocol};

    /// Computed by Qdrant 1.19.
    #[test]
    fn vectors_of_a_real_server() {
        let affinity = Affinity::new(b"user-42").expect("not empty");
        assert_eq!(affinity.0, 0x32c6_d7a5_4d35_dacb);
        for (peer, key) in
            [(1, 0x1e21_81fe_2bce_84b3), (2, 0xc131_2ce3_0b00_a650), (3, 0xe02b_f3ec_15ef_f071)]
        {
            assert_eq!(affinity.rank(peer), (key, peer));
        }
        for (value, order) in
            [("user-42", [1003, 1001, 1002]), ("user-1", [1001, 1002, 1003]), ("abc", [1002, 1001, 1003])]
        {
            let affinity = Affinity::new(value.as_bytes()).expect("not empty");
            let mut peers = [1001, 1002, 1003];
            peers.sort_by_key(|&peer| affinity.rank(peer));
            assert_eq!(peers, order, "{value}");
        }
        assert_eq!(Affinity::new(b""), None);
    }

    #[test]
    fn reads_of_points_alone_heed_it() {
        let rest = |method: &str, path: &str| {
            let (method, uri) = (method.parse().expect("a method"), path.parse().expect("a path"));
            Call::of(Protocol::Rest, &method, &uri).reads_points()
        };
        assert!(rest("GET", "/collections/c/points/7"));
        assert!(rest("POST", "/collections/c/points/query"));
        assert!(rest("POST", "/collections/c/facet"));
        assert!(!rest("GET", "/collections/c"));
        assert!(!rest("GET", "/collections/c/optimizations"));
        assert!(!rest("PUT", "/collections/c/points"));
        let grpc = |path: &str| {
            Call::of(Protocol::Grpc, &Method::POST, &path.parse().expect("a path")).reads_points()
        };
        assert!(grpc("/qdrant.Points/Get") && grpc("/qdrant.Points/QueryBatch"));
        assert!(!grpc("/qdrant.Collections/Get") && !grpc("/qdrant.Points/Upsert"));
    }
}
