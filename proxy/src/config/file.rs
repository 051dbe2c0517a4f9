//! Reading the YAML file: keys of one level, each with a value or a list of values.
//!
//! Values are kept as they are written, so that the parsers of the command line see the same text.

use std::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

/// One key of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Counted from one.
    pub(super) line: usize,
    pub(super) values: Vec<String>,
    /// Whether the values were written as a list.
    pub(super) is_list: bool,
}

/// What is wrong with the file, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    line: usize,
    what: String,
}

/// The events of one file.
struct Events<'a>(Parser<'a, StrInput<'a>>);

/// The entries of the file in their order.
pub(super) fn entries(text: &str) -> Result<Vec<Entry>, Mistake> {
    let mut events = Events(Parser::new_from_str(text));
    let mut entries = Vec::new();
    loop {
        match events.next()? {
            (Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing, _) => {}
            (Event::StreamEnd, _) => return Ok(entries),
            (Event::MappingStart(..), _) => break,
            (Event::Scalar(value, ScalarStyle::Plain, ..), _) if is_null(&value) => {}
            (_, line) => {
                return Err(Mistake::at(
                    line,
                    "not a list of keys with their values; an example of a line is `headless: my-headless.my-namespace.svc`",
                ));
            }
        }
    }
    loop {
        match events.next()? {
            (Event::MappingEnd, _) => break,
            (Event::Scalar(key, ..), line) => entries.push(events.entry(key.into_owned(), line)?),
            (_, line) => return Err(Mistake::at(line, "a key is a plain word, such as `headless`")),
        }
    }
    loop {
        match events.next()? {
            (Event::StreamEnd, _) => return Ok(entries),
            (Event::DocumentEnd, _) => {}
            (_, line) => {
                return Err(Mistake::at(line, "a second document begins here; the file holds one"));
            }
        }
    }
}

/// What YAML reads as no value.
fn is_null(value: &str) -> bool {
    matches!(value, "" | "~" | "null" | "Null" | "NULL")
}

// === impl Events ===

impl<'a> Events<'a> {
    fn next(&mut self) -> Result<(Event<'a>, usize), Mistake> {
        let (event, span): (Event<'a>, Span) = self
            .0
            .next_event()
            .transpose()?
            .unwrap_or((Event::StreamEnd, Span::empty(saphyr_parser::Marker::default())));
        Ok((event, span.start.line()))
    }

    /// The entry of `key`, whose value comes next.
    fn entry(&mut self, key: String, line: usize) -> Result<Entry, Mistake> {
        let single = |key: String, value: String| Entry { key, line, values: vec![value], is_list: false };
        match self.next()?.0 {
            Event::Scalar(value, ScalarStyle::Plain, ..) if is_null(&value) => {
                Err(Mistake::at(line, format!("{key} has no value; give it one, or remove the line")))
            }
            Event::Scalar(value, ..) => Ok(single(key, value.into_owned())),
            Event::SequenceStart(..) => Ok(Entry { values: self.list(&key)?, key, line, is_list: true }),
            Event::Alias(_) => {
                Err(Mistake::at(line, format!("{key} is an alias (`*`); write the value out")))
            }
            _ => Err(Mistake::at(line, format!("{key} holds keys of its own; all keys are of one level"))),
        }
    }

    fn list(&mut self, key: &str) -> Result<Vec<String>, Mistake> {
        let mut values = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(values),
                (Event::Scalar(value, style, ..), _) if style != ScalarStyle::Plain || !is_null(&value) => {
                    values.push(value.into_owned());
                }
                (_, line) => {
                    return Err(Mistake::at(line, format!("an item of {key} is not a plain value")));
                }
            }
        }
    }
}

// === impl Mistake ===

impl Mistake {
    fn at(line: usize, what: impl Into<String>) -> Self {
        Self { line, what: what.into() }
    }
}

impl From<ScanError> for Mistake {
    fn from(error: ScanError) -> Self {
        let what = format!(
            "not YAML: {}; check the indentation, the colons, and the quotes from here upwards",
            error.info()
        );
        Self::at(error.marker().line(), what)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, line: usize, values: &[&str], is_list: bool) -> Entry {
        let values = values.iter().map(|&value| value.to_owned()).collect();
        Entry { key: key.to_owned(), line, values, is_list }
    }

    #[test]
    fn keys_have_values_and_lines() {
        let text = "# a comment\nheadless: q.demo.svc # another\n\nlisten_rest: \"0.0.0.0:6333\"\nnode:\n  - a:1\n  - b\nfallback: [c, 'd']\nupstream_tls: true\n";
        assert_eq!(
            entries(text),
            Ok(vec![
                entry("headless", 2, &["q.demo.svc"], false),
                entry("listen_rest", 4, &["0.0.0.0:6333"], false),
                entry("node", 5, &["a:1", "b"], true),
                entry("fallback", 8, &["c", "d"], true),
                entry("upstream_tls", 9, &["true"], false),
            ])
        );
    }

    #[test]
    fn an_empty_file_has_no_keys() {
        for text in ["", "\n", "# nothing\n", "---\n", "{}", "~"] {
            assert_eq!(entries(text), Ok(Vec::new()), "{text:?}");
        }
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, says) in [
            ("headless", "1: not a list of keys"),
            ("- headless", "1: not a list of keys"),
            ("a: 1\nheadless:\n", "2: headless has no value"),
            ("a: 1\nupstream:\n  tls: true\n", "2: upstream holds keys of its own"),
            ("a: &x 1\nb: *x\n", "2: b is an alias"),
            ("node: [[a]]", "1: an item of node"),
            ("a: 1\n---\nb: 2\n", "a second document"),
            ("a: 1\nb: [1\n", "not YAML"),
            ("a: \"1\n", "not YAML"),
            ("a: 1\n\tb: 2\n", "not YAML"),
        ] {
            let said = entries(text).expect_err(text).to_string();
            assert!(said.contains(says), "{text:?}: {said}");
        }
    }
}
