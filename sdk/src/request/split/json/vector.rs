//! What vectors in JSON have in common.

use super::{
    super::super::{
        NotUnderstood,
        json::{Scan, is_space},
    },
    strict::check,
};

/// More than two digits of an exponent may be a number that Qdrant refuses, and so may as many bytes.
const MAX_EXPONENT_DIGITS: usize = 2;
const MAX_NUMBER_BYTES: usize = 64;

/// A vector without its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A list of so many numbers.
    Dense(usize),
    /// Something else: its text with all numbers alike.
    Other(Vec<u8>),
}

impl Shape {
    /// Of a point without a vector.
    pub(super) const NOTHING: Self = Self::Other(Vec::new());

    /// Of this vector, all of which is looked at.
    pub(super) fn of(vector: &[u8]) -> Result<Self, NotUnderstood> {
        if let Some(length) = dense_length(vector) {
            return Ok(Self::Dense(length));
        }
        check(vector)?;
        if vector == b"null" {
            return Ok(Self::NOTHING);
        }
        // What begins with a number has nothing else, or is no vector.
        if Scan::new(vector).is_dense() {
            return Err(NotUnderstood);
        }
        skeleton(vector).map(Self::Other)
    }
}

/// The length of a list of numbers and nothing else.
fn dense_length(vector: &[u8]) -> Option<usize> {
    let mut at = usize::from(vector.first() == Some(&b'['));
    let mut length = 0;
    while at > 0 {
        at = after_number(vector, after_space(vector, at))?;
        length += 1;
        at = after_space(vector, at);
        match vector.get(at)? {
            b',' => at += 1,
            b']' if at + 1 == vector.len() => return Some(length),
            _ => return None,
        }
    }
    None
}

/// The text of a vector with `0` for each number, and without white space.
fn skeleton(vector: &[u8]) -> Result<Vec<u8>, NotUnderstood> {
    let (mut text, mut at) = (Vec::new(), 0);
    while let Some(&byte) = vector.get(at) {
        match byte {
            b'"' => {
                let after = Scan::at(vector, at).after_value()?;
                let string = &vector[at..after];
                // Which indices of a sparse vector fit, their number does not tell.
                if string == br#""indices""# {
                    return Err(NotUnderstood);
                }
                text.extend_from_slice(string);
                at = after;
            }
            b'-' | b'0'..=b'9' => {
                text.push(b'0');
                at = after_number(vector, at).ok_or(NotUnderstood)?;
            }
            _ => {
                text.extend((!is_space(byte)).then_some(byte));
                at += 1;
            }
        }
    }
    Ok(text)
}

fn after_space(text: &[u8], mut at: usize) -> usize {
    while text.get(at).copied().is_some_and(is_space) {
        at += 1;
    }
    at
}

fn after_number(text: &[u8], start: usize) -> Option<usize> {
    let whole = start + usize::from(text.get(start) == Some(&b'-'));
    // Nearly all numbers have one digit before their point.
    let mut at = match text.get(whole..) {
        Some([b'0'..=b'9', b'.', ..]) => whole + 1,
        _ => after_digits(text, whole),
    };
    // A number begins with a digit, and with a zero only where that is all of the whole.
    if at == whole || (at > whole + 1 && text[whole] == b'0') {
        return None;
    }
    if text.get(at) == Some(&b'.') {
        let fraction = at + 1;
        at = after_digits(text, fraction);
        if at == fraction {
            return None;
        }
    }
    if let Some(b'e' | b'E') = text.get(at) {
        let exponent = at + 1 + usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        at = after_digits(text, exponent);
        if at == exponent || at > exponent + MAX_EXPONENT_DIGITS {
            return None;
        }
    }
    (at - start <= MAX_NUMBER_BYTES).then_some(at)
}

/// Eight bytes are looked at at a time.
fn after_digits(text: &[u8], mut at: usize) -> usize {
    const ZEROS: u64 = 0x3030_3030_3030_3030;
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    const OVER_NINE: u64 = 0x7676_7676_7676_7676;
    while let Some(eight) = text.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        // Digits become 0 to 9, so that what is added reaches the highest bit in all other bytes.
        let eight = u64::from_le_bytes(*eight) ^ ZEROS;
        let others = (((eight & LOW) + OVER_NINE) | eight) & !LOW;
        if others != 0 {
            return at + others.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while text.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers_have_a_length() {
        for (vector, length) in [
            ("[1]", 1),
            ("[0,-0,10,-1.5,0.25e3,1E-45,2e+07]", 7),
            ("[ 1 ,\n\t2.0\r, 3 ]", 3),
            ("[12345678,123456789,0.12345678,-0.1234567890123456789]", 4),
        ] {
            assert_eq!(Shape::of(vector.as_bytes()), Ok(Shape::Dense(length)), "{vector}");
        }
    }

    #[test]
    fn other_vectors_have_their_own_shape() {
        for (vector, shape) in [
            ("[]", "[]"),
            ("[[1.5, 2], [3,4]]", "[[0,0],[0,0]]"),
            (r#"{"e 1": [1], "\"2\\": [[-1e5], []]}"#, r#"{"e 1":[0],"\"2\\":[[0],[]]}"#),
            ("[null, 1]", "[null,0]"),
            ("[true]", "[true]"),
            ("null", ""),
        ] {
            assert_eq!(Shape::of(vector.as_bytes()), Ok(Shape::Other(shape.as_bytes().to_vec())), "{vector}");
        }
    }

    #[test]
    fn what_qdrant_may_refuse_in_one_point_alone_has_no_shape() {
        for vector in [
            "[1e400]",
            r#"[1,"]"]"#,
            "[ 1, [2]]",
            r#"{"a":[1e400,2]}"#,
            "[[1,2],[1e400,2]]",
            r#"{"s":{"indices":[3,3],"values":[0.5,1]}}"#,
        ] {
            assert_eq!(Shape::of(vector.as_bytes()), Err(NotUnderstood), "{vector}");
        }
    }

    #[test]
    fn what_is_not_json_has_no_shape() {
        for vector in [
            "",
            "[",
            "1,2",
            "[1",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[01]",
            "[1.]",
            "[.5]",
            "[+1]",
            "[1e]",
            "[1e+]",
            "[--1]",
            "[1]]",
            "[1:2]",
            "[1;2]",
            "[12345678:1]",
            "[0x10]",
            "[1\u{b}]",
        ] {
            assert_eq!(Shape::of(vector.as_bytes()), Err(NotUnderstood), "{vector}");
        }
    }

    #[test]
    fn digits_end_where_they_end() {
        for byte in 0..=255_u8 {
            for length in 0..20 {
                let text = [vec![b'7'; length], vec![byte], vec![b'7'; 9]].concat();
                let expected = if byte.is_ascii_digit() { text.len() } else { length };
                assert_eq!(after_digits(&text, 0), expected, "{length} digits, then {byte}");
            }
        }
    }
}
