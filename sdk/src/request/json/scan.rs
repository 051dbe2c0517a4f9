//! Walking over JSON without reading it.
//!
//! What is skipped costs a search for the next quote or bracket, not a look at each number: nearly all of a body of
//! Qdrant is vectors. For that, skipped values are only told apart, not checked.

use std::ops::Range;

use memchr::memchr;

use super::NotUnderstood;

mod skip;
mod word;

/// A place in a text, before a value or a key.
#[derive(Clone, Debug)]
pub(crate) struct Scan<'a> {
    /// Of the whole text.
    length: usize,
    rest: &'a [u8],
}

type Result<T> = std::result::Result<T, NotUnderstood>;

impl<'a> Scan<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { length: text.len(), rest: text }
    }

    /// Before the value that begins there.
    pub(crate) fn at(text: &'a [u8], at: usize) -> Self {
        Self { length: text.len(), rest: &text[at..] }
    }

    /// Where the value ends.
    pub(crate) fn after_value(mut self) -> Result<usize> {
        self.value()?;
        Ok(self.position())
    }

    /// Takes an object, and has `member` take each of its keys and the value behind it.
    #[inline]
    pub(crate) fn object(&mut self, mut member: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.expect(b'{')?;
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            // Goes to the key.
            self.peek();
            member(self)?;
            match self.next() {
                Some(b',') => {}
                Some(b'}') => return Ok(()),
                _ => return Err(NotUnderstood),
            }
        }
    }

    /// Takes the key `name` and the colon behind it, if that comes next, without white space before it. It takes a comparison
    /// or two, where finding the end of a key takes a search.
    #[inline(always)]
    pub(crate) fn key<const N: usize>(&mut self, name: &[u8; N]) -> Result<bool> {
        let Some((key, rest)) = self.rest.split_at_checked(N + 2) else { return Ok(false) };
        if key[0] != b'"' || key[1..=N] != name[..] || key[N + 1] != b'"' {
            return Ok(false);
        }
        self.rest = rest;
        self.expect(b':').map(|()| true)
    }

    /// Takes whatever key comes next, and the colon behind it.
    #[inline]
    pub(crate) fn any_key(&mut self) -> Result<&'a [u8]> {
        self.peek();
        let (key, rest) = skip::key(self.rest)?;
        self.rest = rest;
        Ok(key)
    }

    /// Takes whatever key comes next, without white space before it, and its value.
    #[inline]
    pub(crate) fn member(&mut self) -> Result<()> {
        self.rest = skip::member(self.rest)?;
        Ok(())
    }

    /// Takes an array, and has `element` take each of its values.
    #[inline]
    pub(crate) fn array(&mut self, mut element: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.expect(b'[')?;
        if self.take(b']') {
            return Ok(());
        }
        loop {
            element(self)?;
            match self.next() {
                Some(b',') => {}
                Some(b']') => return Ok(()),
                _ => return Err(NotUnderstood),
            }
        }
    }

    /// Takes a value of any kind, and returns its text.
    #[inline]
    pub(crate) fn value(&mut self) -> Result<&'a [u8]> {
        self.peek();
        let text = self.rest;
        self.rest = skip::value(text)?;
        Ok(&text[..text.len() - self.rest.len()])
    }

    /// Takes a number without a sign, fraction or exponent, if that is the value and it has at most nineteen digits: every
    /// such number fits in 64 bits.
    #[inline]
    pub(crate) fn number(&mut self) -> Option<u64> {
        const MAX_DIGITS: usize = 19;
        let first = self.peek()?;
        let (mut number, mut length) = (0, 0);
        while let Some(&byte @ b'0'..=b'9') = self.rest.get(length) {
            if length == MAX_DIGITS {
                return None;
            }
            number = number * 10 + u64::from(byte - b'0');
            length += 1;
        }
        let rest = &self.rest[length..];
        let is_number = length == 1 || length > 1 && first != b'0';
        if !is_number || !rest.first().is_none_or(is_after_value) {
            return None;
        }
        self.rest = rest;
        Some(number)
    }

    /// Takes the vector of a point. One that begins with a number is a list of numbers, which the next bracket ends.
    /// Searching for that alone is twice as fast, and vectors are nearly all of a body. With anything else in it, it is no
    /// vector: Qdrant refuses the body wherever that is sent, and it is never cut.
    #[inline]
    pub(crate) fn vector(&mut self) -> Result<()> {
        if !self.is_dense() {
            return self.value().map(drop);
        }
        self.rest = skip::pass(self.rest, memchr(b']', self.rest))?.1;
        Ok(())
    }

    /// Whether the value is a list that begins with a number.
    #[inline]
    pub(crate) fn is_dense(&self) -> bool {
        let mut inside = self.clone();
        inside.take(b'[') && matches!(inside.peek(), Some(b'-' | b'0'..=b'9'))
    }

    /// Where the value lies that has just been taken.
    pub(crate) fn before(&self, value: &[u8]) -> Range<usize> {
        self.position() - value.len()..self.position()
    }

    /// Takes `null`, if that is the value.
    #[inline]
    pub(crate) fn null(&mut self) -> bool {
        let is_null = self.peek() == Some(b'n');
        is_null && self.value() == Ok(b"null")
    }

    /// The first byte of the value.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<u8> {
        match self.rest {
            &[byte, ..] if byte > b' ' => Some(byte),
            _ => {
                self.rest = after_space(self.rest);
                self.rest.first().copied()
            }
        }
    }

    /// Nothing is left.
    pub(crate) fn end(mut self) -> Result<()> {
        if self.peek().is_none() { Ok(()) } else { Err(NotUnderstood) }
    }

    /// Takes the first byte of what comes next.
    #[inline]
    fn next(&mut self) -> Option<u8> {
        let byte = self.peek();
        self.rest = self.rest.get(1..).unwrap_or_default();
        byte
    }

    #[inline]
    fn take(&mut self, wanted: u8) -> bool {
        let is_there = self.peek() == Some(wanted);
        if is_there {
            self.rest = &self.rest[1..];
        }
        is_there
    }

    #[inline]
    fn expect(&mut self, wanted: u8) -> Result<()> {
        if self.take(wanted) { Ok(()) } else { Err(NotUnderstood) }
    }

    fn position(&self) -> usize {
        self.length - self.rest.len()
    }
}

/// The rest of the text, without the white space that it begins with. Clients that care for speed write none.
#[inline(never)]
fn after_space(text: &[u8]) -> &[u8] {
    let at = text.iter().position(|&byte| !is_space(byte)).unwrap_or(text.len());
    &text[at..]
}

pub(crate) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Whether a number or a word is over before the byte.
fn is_after_value(byte: &u8) -> bool {
    matches!(byte, b',' | b']' | b'}') || is_space(*byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).expect("text")
    }

    fn members(json: &str) -> Result<Vec<(&str, &str)>> {
        let (mut scan, mut found) = (Scan::new(json.as_bytes()), Vec::new());
        scan.object(|scan| {
            found.push((text(scan.any_key()?), text(scan.value()?)));
            Ok(())
        })?;
        let understood = scan.end().map(|()| found);
        // What does not matter is gone behind in another way, and is the same.
        let mut scan = Scan::new(json.as_bytes());
        let passed = scan.object(Scan::member).and_then(|()| scan.end());
        assert_eq!(passed, understood.as_ref().map(drop).map_err(|error| *error), "{json}");
        understood
    }

    #[test]
    fn members_are_told_apart_whatever_is_in_them() {
        assert_eq!(
            members(r#" { "a" : [1, [2], {"x":"]"}] , "b":{"c":"}\"}\\"} ,"":"\\","d":-1e5 , "e":null} "#),
            Ok(vec![
                ("a", r#"[1, [2], {"x":"]"}]"#),
                ("b", r#"{"c":"}\"}\\"}"#),
                ("", r#""\\""#),
                ("d", "-1e5"),
                ("e", "null"),
            ])
        );
        assert_eq!(members("{}"), Ok(vec![]));
    }

    #[test]
    fn every_end_is_found_whole_or_not_at_all() {
        let json = r#"{"a":[{"b":"\"]"},[0.5,{}]],"c":"d\\"}"#;
        assert!(members(json).is_ok());
        for length in 0..json.len() {
            assert_eq!(members(&json[..length]), Err(NotUnderstood), "{}", &json[..length]);
        }
    }

    #[test]
    fn ends_are_found_however_far_away_they_are() {
        // Searches look at words first, and at the rest in another way.
        for (before, after) in (0..48).flat_map(|before| (0..12).map(move |after| (before, after))) {
            for filler in ["x", " ", "\u{7f}", "é"] {
                let [before, after] = [before, after].map(|count| filler.repeat(count));
                let key = format!("{before}{after}");
                for value in [
                    format!(r#""{before}{after}""#),
                    format!(r#""{before}\"{after}""#),
                    format!(r#"["{before}]",[{after:?}],[]]"#),
                    format!(r#"{{"{before}":{{"{after}":"}}"}}}}"#),
                ] {
                    let json = format!(r#"{{"{key}":{value}}}"#);
                    assert_eq!(members(&json), Ok(vec![(&*key, &*value)]), "{json}");
                    assert_eq!(members(&json[..json.len() - 1]), Err(NotUnderstood), "{json}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_object_is_not_understood() {
        for json in [
            "",
            "[]",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{"a":1 2}"#,
            r#"{a:1}"#,
            r#"{"a":+1}"#,
            r#"{"a":]}"#,
            r#"{"a":1}}"#,
            r#"{"a":1} {}"#,
            r#"{"\u0061":1}"#,
            "{\"a\":\u{c}1}",
            "{\"a\n\":1}",
        ] {
            assert_eq!(members(json), Err(NotUnderstood), "{json}");
        }
    }

    #[test]
    fn elements_come_in_their_order() {
        let elements = |json: &'static str| {
            let (mut scan, mut found) = (Scan::new(json.as_bytes()), Vec::new());
            scan.array(|scan| {
                found.push(if scan.null() { "nothing" } else { text(scan.value()?) });
                Ok(())
            })?;
            scan.end().map(|()| found)
        };
        assert_eq!(
            elements(r#"[ 1 ,"a,b" , null,[],[ 2 ] ]"#),
            Ok(vec!["1", r#""a,b""#, "nothing", "[]", "[ 2 ]"])
        );
        assert_eq!(elements(" [ ] "), Ok(vec![]));
        for json in ["[", "[1", "[1,]", "[1 2]", "[,1]", "{}", "[nul]]"] {
            assert_eq!(elements(json), Err(NotUnderstood), "{json}");
        }
    }
}
