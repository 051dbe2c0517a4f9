//! Looking at eight bytes at once.

use std::ops::BitOr;

/// Eight bytes of a text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word(u64);

/// Marked bytes of a word, of which only the first is certain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks(u64);

/// The lowest bit of each byte.
const LOWEST: u64 = u64::from_ne_bytes([0x01; 8]);

/// The highest bit of each byte.
const HIGHEST: u64 = u64::from_ne_bytes([0x80; 8]);

// === impl Word ===

impl Word {
    #[inline]
    pub(super) fn of(bytes: &[u8; 8]) -> Self {
        Self(u64::from_le_bytes(*bytes))
    }

    /// Those that are `byte`.
    #[inline]
    pub(super) fn equal_to(self, byte: u8) -> Marks {
        Self(self.0 ^ (LOWEST * u64::from(byte))).less_than(1)
    }

    /// Those that are control characters.
    #[inline]
    pub(super) fn controls(self) -> Marks {
        self.less_than(b' ')
    }

    /// Those that are less than `limit`, which is 128 at most. Subtracting it sets their highest bit, which bytes of 128 and
    /// more have themselves. What is less also borrows from the byte behind it, so that one may be marked wrongly.
    #[inline]
    fn less_than(self, limit: u8) -> Marks {
        Marks(self.0.wrapping_sub(LOWEST * u64::from(limit)) & !self.0 & HIGHEST)
    }
}

// === impl Marks ===

impl Marks {
    /// Where the first one is.
    #[inline]
    pub(super) fn first(self) -> Option<usize> {
        (self.0 != 0).then(|| self.0.trailing_zeros() as usize / 8)
    }
}

impl BitOr for Marks {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Dice;

    #[test]
    fn the_first_one_is_found_among_whatever_there_is() {
        let dice = Dice::seeded(3);
        // Some of them close to what is looked for.
        let some =
            [0x00, 0x01, 0x1f, 0x20, 0x21, b'"', b'"' ^ 1, b'\\', b'\\' ^ 1, 0x7f, 0x80, 0x9f, 0xa2, 0xff];
        for _ in 0..20_000 {
            let bytes: [u8; 8] = std::array::from_fn(|_| some[dice.throw() as usize % some.len()]);
            let word = Word::of(&bytes);
            let first = |is: fn(u8) -> bool| bytes.iter().position(|&byte| is(byte));
            assert_eq!(word.equal_to(b'"').first(), first(|byte| byte == b'"'), "{bytes:x?}");
            assert_eq!(word.controls().first(), first(|byte| byte < b' '), "{bytes:x?}");
            let any = word.equal_to(b'"') | word.equal_to(b'\\') | word.controls();
            assert_eq!(any.first(), first(|byte| matches!(byte, b'"' | b'\\' | ..b' ')), "{bytes:x?}");
        }
    }
}
