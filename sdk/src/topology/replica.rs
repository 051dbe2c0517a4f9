//! Replica states and what each of them allows.

use serde::{Deserialize, Deserializer};

use super::PeerId;

/// One copy of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    /// The peer that holds it.
    pub peer: PeerId,
    /// Its state, as agreed through consensus.
    pub state: ReplicaState,
}

/// The state of a replica, as `/collections/{c}/cluster` names it.
///
/// States were added over time (`ReshardingScaleDown` in 1.12.6, `ActiveRead` in 1.16.0,
/// `ManualRecovery` in 1.17.0) and more may come: what has no name here is [`Unknown`](Self::Unknown)
/// and is used for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReplicaState {
    /// Healthy.
    Active,
    /// Failed; a transfer will recover it.
    Dead,
    /// The target of a transfer: takes writes, is not read.
    Partial,
    /// Its collection or shard key is being created.
    Initializing,
    /// A backup that takes writes and is never read.
    Listener,
    /// A state of Qdrant 1.7 and 1.8.
    PartialSnapshot,
    /// First stage of a snapshot or WAL transfer: takes no replicated writes yet.
    Recovery,
    /// A new shard that resharding up is filling.
    Resharding,
    /// Receives points while resharding down, and is read.
    ReshardingScaleDown,
    /// Readable while writers still treat it as partial.
    ActiveRead,
    /// A snapshot is being recovered into it.
    ManualRecovery,
    /// A state that this version does not know.
    Unknown,
}

// === impl ReplicaState ===

impl ReplicaState {
    /// All states that have a name.
    pub const NAMED: &[Self] = &[
        Self::Active,
        Self::Dead,
        Self::Partial,
        Self::Initializing,
        Self::Listener,
        Self::PartialSnapshot,
        Self::Recovery,
        Self::Resharding,
        Self::ReshardingScaleDown,
        Self::ActiveRead,
        Self::ManualRecovery,
    ];

    /// Whether reads use this replica.
    #[must_use]
    pub fn is_readable(self) -> bool {
        matches!(self, Self::Active | Self::ReshardingScaleDown | Self::ActiveRead)
    }

    /// Whether writes are replicated to it.
    #[must_use]
    pub fn is_updatable(self) -> bool {
        match self {
            Self::Active
            | Self::Partial
            | Self::Initializing
            | Self::Listener
            | Self::Resharding
            | Self::ReshardingScaleDown
            | Self::ActiveRead => true,
            Self::Dead | Self::PartialSnapshot | Self::Recovery | Self::ManualRecovery | Self::Unknown => {
                false
            }
        }
    }

    /// Whether it may lead `medium` writes.
    #[must_use]
    pub fn is_source_of_truth(self) -> bool {
        matches!(self, Self::Active | Self::Resharding | Self::ReshardingScaleDown | Self::ActiveRead)
    }

    /// The name that Qdrant's REST API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "Active",
            Self::Dead => "Dead",
            Self::Partial => "Partial",
            Self::Initializing => "Initializing",
            Self::Listener => "Listener",
            Self::PartialSnapshot => "PartialSnapshot",
            Self::Recovery => "Recovery",
            Self::Resharding => "Resharding",
            Self::ReshardingScaleDown => "ReshardingScaleDown",
            Self::ActiveRead => "ActiveRead",
            Self::ManualRecovery => "ManualRecovery",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<&str> for ReplicaState {
    fn from(name: &str) -> Self {
        Self::NAMED.iter().copied().find(|state| state.as_str() == name).unwrap_or(Self::Unknown)
    }
}

impl<'de> Deserialize<'de> for ReplicaState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from(&*String::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// State, readable, updatable, source of truth: the table of Qdrant 1.18.
    #[test]
    fn what_each_state_allows() {
        for (name, readable, updatable, source_of_truth) in [
            ("Active", true, true, true),
            ("Dead", false, false, false),
            ("Partial", false, true, false),
            ("Initializing", false, true, false),
            ("Listener", false, true, false),
            ("PartialSnapshot", false, false, false),
            ("Recovery", false, false, false),
            ("Resharding", false, true, true),
            ("ReshardingScaleDown", true, true, true),
            ("ActiveRead", true, true, true),
            ("ManualRecovery", false, false, false),
            ("SomethingOf2030", false, false, false),
        ] {
            let state = ReplicaState::from(name);
            assert_eq!(state.is_readable(), readable, "{name} readable");
            assert_eq!(state.is_updatable(), updatable, "{name} updatable");
            assert_eq!(state.is_source_of_truth(), source_of_truth, "{name} source of truth");
        }
    }
}
