//! Going behind what does not matter.
//!
//! Texts are taken and returned by value, which keeps the place in them in registers.

use memchr::{memchr2, memchr3};

use super::{
    NotUnderstood, Result, Scan, is_after_value,
    word::{Marks, Word},
};

/// What lies behind the member that `text` begins with, whatever its key and its value are.
#[inline(never)]
pub(super) fn member(text: &[u8]) -> Result<&[u8]> {
    let mut scan = Scan::new(key(text)?.1);
    scan.value()?;
    Ok(scan.rest)
}

/// What lies behind the value that `text` begins with.
#[inline(never)]
pub(super) fn value(text: &[u8]) -> Result<&[u8]> {
    let (first, rest) = text.split_first().ok_or(NotUnderstood)?;
    match first {
        b'"' => string(rest),
        b'[' => nested(rest, b'[', b']'),
        b'{' => nested(rest, b'{', b'}'),
        b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
            let length = rest.iter().position(is_after_value).unwrap_or(rest.len());
            Ok(&rest[length..])
        }
        _ => Err(NotUnderstood),
    }
}

/// The key that `text` begins with, and what lies behind its colon.
#[inline]
pub(super) fn key(text: &[u8]) -> Result<(&[u8], &[u8])> {
    let text = text.strip_prefix(b"\"").ok_or(NotUnderstood)?;
    // The same key can be written in many ways, and nobody does; control characters are no JSON.
    let end = find(
        text,
        |word| word.equal_to(b'"') | word.equal_to(b'\\') | word.controls(),
        |text| text.iter().position(|&byte| matches!(byte, b'"' | b'\\' | ..b' ')),
    );
    let (key, rest) = text.split_at(end.ok_or(NotUnderstood)?);
    let mut behind = Scan::new(rest.strip_prefix(b"\"").ok_or(NotUnderstood)?);
    behind.expect(b':')?;
    Ok((key, behind.rest))
}

/// What lies behind a text whose opening quote is behind.
#[inline]
fn string(mut rest: &[u8]) -> Result<&[u8]> {
    loop {
        let found =
            find(rest, |word| word.equal_to(b'"') | word.equal_to(b'\\'), |rest| memchr2(b'"', b'\\', rest));
        let (byte, behind) = pass(rest, found)?;
        if byte == b'"' {
            return Ok(behind);
        }
        // What is escaped is no end.
        rest = behind.get(1..).ok_or(NotUnderstood)?;
    }
}

/// What lies behind an array or object that has been opened. Brackets of the other kind lie within it in pairs, so they need
/// not be looked at.
#[inline]
fn nested(mut rest: &[u8], open: u8, close: u8) -> Result<&[u8]> {
    let mut depth = 1;
    while depth > 0 {
        // Between two texts there is most often no more than this.
        if let [b':' | b',', behind @ ..] = rest {
            rest = behind;
        }
        if let [b'"', behind @ ..] = rest {
            rest = string(behind)?;
            continue;
        }
        let found = find(
            rest,
            |word| word.equal_to(b'"') | word.equal_to(open) | word.equal_to(close),
            |rest| memchr3(b'"', open, close, rest),
        );
        let (byte, behind) = pass(rest, found)?;
        rest = behind;
        match byte {
            b'"' => rest = string(rest)?,
            byte if byte == open => depth += 1,
            _ => depth -= 1,
        }
    }
    Ok(rest)
}

/// The byte that a search has `found`, and what lies behind it.
#[inline]
pub(super) fn pass(text: &[u8], found: Option<usize>) -> Result<(u8, &[u8])> {
    let found = found.and_then(|at| text[at..].split_first());
    found.map(|(&byte, rest)| (byte, rest)).ok_or(NotUnderstood)
}

/// Searches the first words of `text` with `near`, and the rest of it with `far`. Keys, and most of what lies between quotes
/// and brackets, are short: setting up a search takes as long as to look at four words.
#[inline]
fn find(text: &[u8], near: impl Fn(Word) -> Marks, far: impl Fn(&[u8]) -> Option<usize>) -> Option<usize> {
    let first = text.first_chunk().and_then(|word| near(Word::of(word)).first());
    first.or_else(|| find_further(text, near, far))
}

/// Searches a text that has nothing in its first word, or is shorter than one.
#[inline(never)]
fn find_further(
    text: &[u8],
    near: impl Fn(Word) -> Marks,
    far: impl Fn(&[u8]) -> Option<usize>,
) -> Option<usize> {
    const NEAR: usize = 4;
    let mut seen = 0;
    for word in text.as_chunks::<8>().0.iter().take(NEAR) {
        if let Some(at) = near(Word::of(word)).first() {
            return Some(seen + at);
        }
        seen += word.len();
    }
    Some(seen + far(&text[seen..])?)
}
