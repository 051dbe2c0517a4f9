//! Point ids, as Qdrant hashes and parses them.

use std::fmt;

use uuid::Uuid;

/// The id of a point: an unsigned integer or a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PointId {
    /// A numeric id.
    Num(u64),
    /// A UUID.
    Uuid(Uuid),
}

// === impl PointId ===

impl PointId {
    /// Parses the string form of an id in a request body or in a `PointId.uuid` field.
    ///
    /// Qdrant takes every form of a UUID there (hyphenated, simple, braced, URN) and nothing else:
    /// the string `"42"` is not a number.
    #[must_use]
    pub fn from_body_str(text: &str) -> Option<Self> {
        Uuid::parse_str(text).ok().map(Self::Uuid)
    }

    /// Parses the segment of the path `/collections/{c}/points/{id}`: a number first, then a UUID.
    #[must_use]
    pub fn from_path_segment(text: &str) -> Option<Self> {
        match text.parse() {
            Ok(number) => Some(Self::Num(number)),
            Err(_) => Self::from_body_str(text),
        }
    }
}

impl fmt::Display for PointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Num(number) => number.fmt(f),
            Self::Uuid(uuid) => uuid.fmt(f),
        }
    }
}

impl From<u64> for PointId {
    fn from(number: u64) -> Self {
        Self::Num(number)
    }
}
