//! Markers: what arrives at a node can be matched with what was sent.

use std::fmt;

/// One request of a generated case, as its path and header name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Marker {
    pub(crate) kind: Kind,
    pub(crate) number: u64,
}

/// What may become of a marked request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// It may be forwarded, once to each node at most, or be refused.
    Whole,
    /// Its body does not end as it says, or does not agree with its head: it never arrives complete.
    Broken,
    /// It stands where no request is: in a body, a value, a name. It never arrives.
    Inside,
}

// === impl Marker ===

impl Marker {
    /// The first marker of kind `kind` in `text`.
    pub(crate) fn of_kind(text: &str, kind: Kind) -> Option<Self> {
        Self::all(text).find(|marker| marker.kind == kind)
    }

    /// All markers in `text`. Those that were damaged on their way are none.
    pub(crate) fn all(text: &str) -> impl Iterator<Item = Self> + '_ {
        text.split("mark-").skip(1).filter_map(|text| {
            let mut parts = text.splitn(3, '-');
            let kind = Kind::of(parts.next()?)?;
            let number = parts.next()?.parse().ok()?;
            let marker = Self { kind, number };
            parts.next()?.starts_with(&format!("{:08x}", marker.check())).then_some(marker)
        })
    }

    /// Tells a marker from one that was altered.
    fn check(self) -> u32 {
        let number = self.number.wrapping_mul(6).wrapping_add(self.kind as u64 + 1);
        (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mark-{}-{}-{:08x}", self.kind.letter(), self.number, self.check())
    }
}

impl Kind {
    fn letter(self) -> &'static str {
        match self {
            Self::Whole => "w",
            Self::Broken => "b",
            Self::Inside => "i",
        }
    }

    fn of(letter: &str) -> Option<Self> {
        [Self::Whole, Self::Broken, Self::Inside].into_iter().find(|kind| kind.letter() == letter)
    }
}

#[test]
fn a_marker_is_found_again_and_an_altered_one_is_not() {
    let marker = Marker { kind: Kind::Broken, number: 1234 };
    let text = format!("/a/{marker}?x=1");
    assert_eq!(Marker::all(&text).collect::<Vec<_>>(), [marker]);
    assert_eq!(Marker::of_kind(&text, Kind::Whole), None);
    for altered in
        [text.replace("-1234-", "-1235-"), text.replace("-b-", "-w-"), text.replace("mark", "park")]
    {
        assert_eq!(Marker::all(&altered).next(), None, "{altered}");
    }
}
