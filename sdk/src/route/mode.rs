//! Which requests are routed: everything, reads alone, or nothing.
//!
//! Only where any node would do is there something to switch. A request that is meant for one node, by a pin,
//! by the name of a snapshot or by a shard, is *addressed*: elsewhere its answer would be wrong, so it goes
//! where it belongs in every mode.

use std::{fmt, str::FromStr};

use crate::request::Class;

/// Which requests are routed. The others go to the ClusterIP Service, or to any healthy node without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Routing {
    /// None, and bodies are not looked into.
    Off,
    /// None, but where each would have gone is found out and told.
    Observe,
    /// Reads: of points, and of what collections there are. Writes go as with [`Off`](Self::Off).
    Reads,
    /// All.
    #[default]
    All,
}

/// Not the name of a [`Routing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("use `off`, `observe`, `reads` or `all`")]
pub struct RoutingError;

/// What is done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It goes where it is found to belong.
    Routed,
    /// Where it belongs is found out and told, and it goes elsewhere.
    Observed,
    /// Nobody looks where it belongs.
    Unrouted,
}

// === impl Routing ===

impl Routing {
    /// What is done with a request of this class that names no node.
    pub(crate) fn way(self, class: Class) -> Way {
        match (self, class) {
            (_, Class::NodeLocal | Class::SnapshotList | Class::SnapshotCreate) | (Self::All, _) => {
                Way::Routed
            }
            (Self::Reads, Class::Read | Class::Anywhere) => Way::Routed,
            (Self::Observe, _) => Way::Observed,
            (Self::Off | Self::Reads, _) => Way::Unrouted,
        }
    }
}

impl FromStr for Routing {
    type Err = RoutingError;

    fn from_str(name: &str) -> Result<Self, RoutingError> {
        match name {
            "off" => Ok(Self::Off),
            "observe" => Ok(Self::Observe),
            "reads" => Ok(Self::Reads),
            "all" => Ok(Self::All),
            _ => Err(RoutingError),
        }
    }
}

impl fmt::Display for Routing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Observe => "observe",
            Self::Reads => "reads",
            Self::All => "all",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Routing; 4] = [Routing::Off, Routing::Observe, Routing::Reads, Routing::All];

    #[test]
    fn names_are_read_as_they_are_written() {
        for routing in ALL {
            assert_eq!(routing.to_string().parse(), Ok(routing));
        }
        assert_eq!("on".parse::<Routing>(), Err(RoutingError));
    }

    #[test]
    fn what_is_addressed_is_routed_in_every_mode() {
        for class in [Class::NodeLocal, Class::SnapshotList, Class::SnapshotCreate] {
            assert_eq!(ALL.map(|routing| routing.way(class)), [Way::Routed; 4], "{class:?}");
        }
        use Way::{Observed, Routed, Unrouted};
        for (class, ways) in [
            (Class::Read, [Unrouted, Observed, Routed, Routed]),
            (Class::Anywhere, [Unrouted, Observed, Routed, Routed]),
            (Class::Write, [Unrouted, Observed, Unrouted, Routed]),
            (Class::Consensus, [Unrouted, Observed, Unrouted, Routed]),
            (Class::Unknown, [Unrouted, Observed, Unrouted, Routed]),
        ] {
            assert_eq!(ALL.map(|routing| routing.way(class)), ways, "{class:?}");
        }
    }
}
