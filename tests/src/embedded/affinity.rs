//! `x-qdrant-route-affinity`: reads with the same token go to the same replicas, whichever node coordinates them.
//!
//! Written apart from the router's own, as the ring is, and held against the same vectors.

/// The header, and the gRPC metadata.
pub(crate) const HEADER: &str = "x-qdrant-route-affinity";

const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

/// A client's token, reduced to a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Affinity(u64);

// === impl Affinity ===

impl Affinity {
    /// An empty token is none.
    pub(crate) fn from_token(token: &[u8]) -> Option<Self> {
        (!token.is_empty()).then(|| Self(fnv1a(token)))
    }

    /// Sorts peers into the order in which they are asked.
    pub(crate) fn order(self, peers: &mut [u64]) {
        peers.sort_by_key(|peer| (self.key(*peer), *peer));
    }

    fn key(self, peer: u64) -> u64 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.0.to_le_bytes());
        bytes[8..].copy_from_slice(&peer.to_le_bytes());
        fnv1a(&bytes)
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn affinity(token: &str) -> Affinity {
        Affinity::from_token(token.as_bytes()).expect("a token")
    }

    #[test]
    fn published_seed_and_keys() {
        let user = affinity("user-42");
        assert_eq!(user, Affinity(0x32c6_d7a5_4d35_dacb));
        assert_eq!(
            [1, 2, 3].map(|peer| user.key(peer)),
            [0x1e21_81fe_2bce_84b3, 0xc131_2ce3_0b00_a650, 0xe02b_f3ec_15ef_f071]
        );
        assert_eq!(Affinity::from_token(b""), None);
    }

    #[test]
    fn published_orders() {
        for (token, expected) in
            [("user-42", [1003, 1001, 1002]), ("user-1", [1001, 1002, 1003]), ("abc", [1002, 1001, 1003])]
        {
            let mut peers = [1002, 1003, 1001];
            affinity(token).order(&mut peers);
            assert_eq!(peers, expected, "{token}");
        }
    }
}
