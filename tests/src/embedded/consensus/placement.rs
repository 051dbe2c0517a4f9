//! Where new replicas go: always to the peers that hold fewest, in turn.

use std::collections::BTreeMap;

/// Distributes `shards` times `replicas` over `peers`, evenly. Peers that `taken` counts against come later.
pub(crate) fn spread(
    peers: &[u64],
    shards: u32,
    replicas: u32,
    taken: &BTreeMap<u64, usize>,
) -> Vec<Vec<u64>> {
    let mut load: Vec<(usize, usize, u64)> = peers
        .iter()
        .enumerate()
        .map(|(turn, peer)| (taken.get(peer).copied().unwrap_or(0), turn, *peer))
        .collect();
    let copies = usize::try_from(replicas).unwrap_or(usize::MAX).clamp(1, peers.len().max(1));
    (0..shards)
        .map(|_| {
            load.sort_unstable();
            load.iter_mut()
                .take(copies)
                .map(|(count, _, peer)| {
                    *count += 1;
                    *peer
                })
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_balanced_and_distinct() {
        for (shards, replicas) in [(6, 1), (6, 2), (3, 3), (12, 2)] {
            let placed = spread(&[1, 2, 3], shards, replicas, &BTreeMap::new());
            let mut counts = BTreeMap::new();
            for peers in &placed {
                assert_eq!(peers.len(), replicas as usize);
                for peer in peers {
                    *counts.entry(*peer).or_insert(0u32) += 1;
                }
            }
            assert!(counts.values().all(|count| *count == shards * replicas / 3), "{counts:?}");
        }
    }

    #[test]
    fn more_replicas_than_peers_are_cut() {
        assert_eq!(spread(&[7], 2, 3, &BTreeMap::new()), vec![vec![7], vec![7]]);
    }
}
