//! SipHash-2-4 with a zero key, of messages of whole words: all that Qdrant hashes to place a point.
//!
//! How long a message is, and most often how it begins, is known where this is compiled into, and what comes of that need not
//! be found out for each of the many points of a write.

/// Rounds after each word, and after the last.
const ROUNDS: usize = 2;
const LAST_ROUNDS: usize = 4;

/// `somepseudorandomlygeneratedbytes`, as a zero key leaves it.
const START: State =
    State(0x736f_6d65_7073_6575, 0x646f_7261_6e64_6f6d, 0x6c79_6765_6e65_7261, 0x7465_6462_7974_6573);

#[derive(Clone, Copy, Debug)]
struct State(u64, u64, u64, u64);

/// The hash of these words, each with its lowest byte first.
#[inline]
pub(super) fn hash<const WORDS: usize>(words: [u64; WORDS]) -> u64 {
    let length = (WORDS * size_of::<u64>()) as u64;
    let mut state = START;
    for word in words {
        state.add(word);
    }
    // What is left of the message, which is nothing, below its length.
    state.add(length << 56);
    state.end()
}

// === impl State ===

impl State {
    #[inline]
    fn add(&mut self, word: u64) {
        self.3 ^= word;
        (0..ROUNDS).for_each(|_| self.round());
        self.0 ^= word;
    }

    #[inline]
    fn end(mut self) -> u64 {
        self.2 ^= 0xff;
        (0..LAST_ROUNDS).for_each(|_| self.round());
        self.0 ^ self.1 ^ self.2 ^ self.3
    }

    #[inline]
    fn round(&mut self) {
        let Self(a, b, c, d) = self;
        *a = a.wrapping_add(*b);
        *b = b.rotate_left(13) ^ *a;
        *a = a.rotate_left(32);
        *c = c.wrapping_add(*d);
        *d = d.rotate_left(16) ^ *c;
        *a = a.wrapping_add(*d);
        *d = d.rotate_left(21) ^ *a;
        *c = c.wrapping_add(*b);
        *b = b.rotate_left(17) ^ *c;
        *c = c.rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use siphasher::sip::SipHasher24;

    use super::*;
    use crate::dice::Dice;

    fn agrees<const WORDS: usize>(words: [u64; WORDS]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(hash(words), SipHasher24::new().hash(&bytes), "{words:x?}");
    }

    #[test]
    fn it_is_the_siphash_of_others() {
        let dice = Dice::seeded(11);
        agrees([]);
        for _ in 0..1_000 {
            agrees([dice.throw()]);
            agrees([0, dice.throw()]);
            agrees([1, dice.throw(), dice.throw()]);
            agrees([1, 16, dice.throw(), dice.throw()]);
        }
    }
}
