//! Who leads a write to a shard.
//!
//! Qdrant has no leader election per shard. The leader is a pure function of the replica set: the
//! numerically highest peer id among those that the ordering admits, evaluated by whichever peer
//! holds the request.

use super::{PeerId, Replica};

/// The `ordering` of a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WriteOrdering {
    /// The coordinator leads, replica or not (Qdrant's default).
    #[default]
    Weak,
    /// The highest usable replica leads.
    Medium,
    /// The highest replica leads, whatever its state.
    Strong,
}

/// The peer that leads writes of `ordering` to a shard with these `replicas`.
///
/// `None` where any peer may lead (`weak`) or none can (`medium` without a usable replica).
///
/// ```
/// use qdrant_router::topology::{Replica, ReplicaState, WriteOrdering, leader};
///
/// let replicas = [
///     Replica { peer: 10, state: ReplicaState::Active },
///     Replica { peer: 20, state: ReplicaState::Dead },
/// ];
/// assert_eq!(leader(&replicas, WriteOrdering::Medium), Some(10));
/// assert_eq!(leader(&replicas, WriteOrdering::Strong), Some(20));
/// ```
#[must_use]
pub fn leader(replicas: &[Replica], ordering: WriteOrdering) -> Option<PeerId> {
    let admitted = |replica: &&Replica| match ordering {
        WriteOrdering::Weak => false,
        WriteOrdering::Medium => replica.state.is_source_of_truth(),
        WriteOrdering::Strong => true,
    };
    replicas.iter().filter(admitted).map(|replica| replica.peer).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::ReplicaState;

    fn set(replicas: &[(PeerId, ReplicaState)]) -> Vec<Replica> {
        replicas.iter().map(|&(peer, state)| Replica { peer, state }).collect()
    }

    #[test]
    fn medium_takes_the_highest_source_of_truth() {
        for (states, medium, strong) in [
            ([ReplicaState::Active; 3], Some(3), Some(3)),
            ([ReplicaState::Active, ReplicaState::Active, ReplicaState::Dead], Some(2), Some(3)),
            ([ReplicaState::Active, ReplicaState::Recovery, ReplicaState::Partial], Some(1), Some(3)),
            ([ReplicaState::Listener, ReplicaState::Resharding, ReplicaState::Listener], Some(2), Some(3)),
            ([ReplicaState::Dead, ReplicaState::Unknown, ReplicaState::Initializing], None, Some(3)),
        ] {
            let replicas = set(&[(1, states[0]), (3, states[2]), (2, states[1])]);
            assert_eq!(leader(&replicas, WriteOrdering::Weak), None);
            assert_eq!(leader(&replicas, WriteOrdering::Medium), medium, "{states:?}");
            assert_eq!(leader(&replicas, WriteOrdering::Strong), strong, "{states:?}");
        }
        assert_eq!(leader(&[], WriteOrdering::Strong), None);
    }
}
