//! The version a node shows, and what depends on it.

use std::sync::{Arc, PoisonError, RwLock};

use super::ring::Hashing;

/// The server whose behaviour is imitated, unless a test asks for another.
pub const DEFAULT_VERSION: &str = "1.18.3";

/// The version of one node. Clones show the same one, whenever it changes.
#[derive(Clone, Debug)]
pub(crate) struct Version(Arc<RwLock<Shown>>);

#[derive(Debug)]
struct Shown {
    text: String,
    number: [u64; 3],
}

// === impl Version ===

impl Version {
    pub(crate) fn new(text: &str) -> Self {
        Self(Arc::new(RwLock::new(Shown::parse(text))))
    }

    /// Becomes another version at once, as no real server can.
    pub(crate) fn set(&self, text: &str) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Shown::parse(text);
    }

    pub(crate) fn text(&self) -> String {
        self.0.read().unwrap_or_else(PoisonError::into_inner).text.clone()
    }

    /// Whether reads follow a client's token, which came with 1.19.
    pub(crate) fn has_affinity(&self) -> bool {
        self.number() >= [1, 19, 0]
    }

    /// How this version hashes ids: one release differs.
    pub(crate) fn hashing(&self) -> Hashing {
        if self.number() == [1, 15, 0] { Hashing::Release1150 } else { Hashing::Stable }
    }

    fn number(&self) -> [u64; 3] {
        self.0.read().unwrap_or_else(PoisonError::into_inner).number
    }
}

// === impl Shown ===

impl Shown {
    /// What is no number counts as zero; a suffix such as `-dev` does not count at all.
    fn parse(text: &str) -> Self {
        let mut number = [0; 3];
        let core = text.split(['-', '+']).next().unwrap_or_default();
        for (place, part) in number.iter_mut().zip(core.split('.')) {
            *place = part.parse().unwrap_or(0);
        }
        Self { text: text.to_owned(), number }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_decide_what_a_node_can_do() {
        for (text, affinity, hashing) in [
            ("1.14.1", false, Hashing::Stable),
            ("1.15.0", false, Hashing::Release1150),
            ("1.15.1", false, Hashing::Stable),
            (DEFAULT_VERSION, false, Hashing::Stable),
            ("1.19.0-dev", true, Hashing::Stable),
            ("2.0", true, Hashing::Stable),
        ] {
            let version = Version::new(text);
            assert_eq!((version.has_affinity(), version.hashing()), (affinity, hashing), "{text}");
            assert_eq!(version.text(), text);
        }
    }

    #[test]
    fn clones_change_together() {
        let version = Version::new(DEFAULT_VERSION);
        let seen = version.clone();
        version.set("1.19.0");
        assert!(seen.has_affinity());
    }
}
