//! What a server's version changes about routing.

use std::{fmt, str::FromStr};

/// The version of a Qdrant server, as `GET /` tells it.
///
/// ```
/// use qdrant_router::topology::Version;
///
/// let version: Version = "1.19.0-dev".parse()?;
/// assert!(version >= Version::ROUTE_AFFINITY);
/// # Ok::<(), qdrant_router::topology::VersionError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The major version.
    pub major: u16,
    /// The minor version.
    pub minor: u16,
    /// The patch level.
    pub patch: u16,
}

/// Text is not `MAJOR.MINOR.PATCH`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a version; an example is `1.18.3`")]
pub struct VersionError(String);

/// How a server hashes the ids of points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hashing {
    /// As every release but one.
    #[default]
    Stable,
    /// As 1.15.0, whose hash of a UUID lacks its length prefix.
    Deviating,
}

// === impl Version ===

impl Version {
    /// Since this version `x-qdrant-route-affinity` selects the replica of a read.
    pub const ROUTE_AFFINITY: Self = Self { major: 1, minor: 19, patch: 0 };

    /// The one release that hashes UUIDs otherwise.
    const DEVIATING: Self = Self { major: 1, minor: 15, patch: 0 };
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let error = || VersionError(text.to_owned());
        let core = text.split(['-', '+']).next().unwrap_or_default();
        let mut numbers = core.split('.').map(str::parse);
        let mut number = || numbers.next()?.ok();
        match (number(), number(), number()) {
            (Some(major), Some(minor), Some(patch)) => Ok(Self { major, minor, patch }),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

// === impl Hashing ===

impl Hashing {
    /// How servers of these versions hash. A cluster that is just being upgraded hashes both ways; then
    /// the later one counts, because only the number of internal RPCs depends on it.
    pub(super) fn of(versions: impl IntoIterator<Item = Option<Version>>) -> Self {
        let mut versions = versions.into_iter().peekable();
        let is_deviating = versions.peek().is_some() && versions.all(|v| v == Some(Version::DEVIATING));
        if is_deviating { Self::Deviating } else { Self::Stable }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_parse_and_compare() {
        let of = |text: &str| text.parse::<Version>();
        assert_eq!(of("1.18.3"), Ok(Version { major: 1, minor: 18, patch: 3 }));
        assert_eq!(of("1.19.0-dev").map(|v| v.to_string()), Ok("1.19.0".to_owned()));
        assert!(of("1.9.7").ok() < of("1.18.0").ok());
        for text in ["", "1", "1.18", "1.18.x", "v1.18.3", "-1.0.0"] {
            assert!(of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_a_cluster_of_nothing_but_1_15_0_deviates() {
        let version = |text: &str| text.parse().ok();
        assert_eq!(Hashing::of([version("1.15.0"), version("1.15.0")]), Hashing::Deviating);
        assert_eq!(Hashing::of([version("1.15.0"), version("1.15.1")]), Hashing::Stable);
        assert_eq!(Hashing::of([version("1.15.0"), None]), Hashing::Stable);
        assert_eq!(Hashing::of([]), Hashing::Stable);
    }
}
