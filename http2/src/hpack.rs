//! Headers of HTTP/2, compressed (RFC 7541).

use std::{collections::VecDeque, hash::Hasher};

use http::{HeaderMap, HeaderName, HeaderValue};
use rustc_hash::FxHasher;

use crate::huffman;

/// How large a table may be that nobody said anything about.
pub(crate) const TABLE_BYTES: usize = 4096;

/// Room that is kept for a string that has to be decoded.
const MAX_TEXT_KEPT: usize = 1 << 10;

/// What a field costs beside its bytes.
const FIELD_BYTES: usize = 32;

/// The fields that both sides know from the start; the first is number 1.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// Where some of them are.
pub(crate) const GET: u8 = 2;
pub(crate) const POST: u8 = 3;
pub(crate) const HTTP: u8 = 6;
pub(crate) const HTTPS: u8 = 7;
pub(crate) const OK: u8 = 8;

/// The name of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Pseudo(Pseudo),
    Header(HeaderName),
}

/// What is no header, but written like one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pseudo {
    Authority,
    Method,
    Path,
    Scheme,
    Status,
}

/// A block of fields is not what it should be, and what follows cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Garbled;

/// Reads the blocks of one direction of a connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// The latest first.
    table: VecDeque<(Name, HeaderValue)>,
    size: usize,
    limit: usize,
    text: Vec<u8>,
}

/// Writes the blocks of one direction of a connection.
///
/// A field that comes a second time soon goes into the table that both sides keep, and is a byte or two from then on.
/// Those that are new each time (a deadline, a trace) stay out of it.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// The latest first.
    table: VecDeque<Entry>,
    size: usize,
    limit: usize,
    /// How many fields have ever gone into the table.
    inserted: u64,
    seen: [[Seen; WAYS]; SETS],
    /// The smallest limit since the last block, of which the other side has to be told.
    lowered: Option<usize>,
}

/// How many fields are remembered: a few in each of the sets that the last bits of their hash tell. With one place per
/// hash, two fields of all requests that shared it would drive each other out for good; among ten fields that happens to
/// every second connection.
const SETS: usize = 16;
const WAYS: usize = 4;

/// Fields longer than this are written out each time.
const MAX_INDEXED_BYTES: usize = 1024;

#[derive(Debug)]
struct Entry {
    /// Name and value, one after the other.
    bytes: Box<[u8]>,
    name_length: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    hash: u64,
    /// Which field of all that went into the table it is, if it did.
    number: Option<u64>,
}

// === impl Decoder ===

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { table: VecDeque::new(), size: 0, limit: TABLE_BYTES, text: Vec::new() }
    }

    /// Hands the fields of `block` to `take`, one by one.
    pub(crate) fn decode(
        &mut self,
        mut block: &[u8],
        mut take: impl FnMut(Name, HeaderValue),
    ) -> Result<(), Garbled> {
        let mut is_first = true;
        while let Some(&first) = block.first() {
            match first {
                0x80.. => {
                    let at = integer(&mut block, 7)?;
                    let (name, value) = self.indexed(at)?;
                    take(name, value);
                }
                0x20..0x40 => {
                    let limit = integer(&mut block, 5)?;
                    if !is_first || limit > TABLE_BYTES {
                        return Err(Garbled);
                    }
                    self.limit = limit;
                    self.make_room(0);
                    continue;
                }
                _ => {
                    let is_kept = first & 0x40 != 0;
                    let at = integer(&mut block, if is_kept { 6 } else { 4 })?;
                    let name = if at == 0 { self.name(&mut block)? } else { self.indexed_name(at)? };
                    let text = string(&mut block, &mut self.text)?;
                    let mut value = HeaderValue::from_bytes(text).map_err(|_| Garbled)?;
                    // Never to be kept in a table: on no other connection either (RFC 7541, 6.2.3).
                    value.set_sensitive(first & 0xf0 == 0x10);
                    if is_kept {
                        self.insert(name.clone(), value.clone());
                    }
                    take(name, value);
                }
            }
            is_first = false;
        }
        self.text.shrink_to(MAX_TEXT_KEPT);
        Ok(())
    }

    fn name(&mut self, block: &mut &[u8]) -> Result<Name, Garbled> {
        let text = string(block, &mut self.text)?;
        match text.first() {
            Some(b':') => Pseudo::named(text).map(Name::Pseudo).ok_or(Garbled),
            _ => HeaderName::from_lowercase(text).map(Name::Header).map_err(|_| Garbled),
        }
    }

    fn indexed(&self, at: usize) -> Result<(Name, HeaderValue), Garbled> {
        match at.checked_sub(1).ok_or(Garbled)? {
            known if known < STATIC.len() => {
                Ok((static_name(known)?, HeaderValue::from_static(STATIC[known].1)))
            }
            at => self.table.get(at - STATIC.len()).cloned().ok_or(Garbled),
        }
    }

    fn indexed_name(&self, at: usize) -> Result<Name, Garbled> {
        match at.checked_sub(1).ok_or(Garbled)? {
            known if known < STATIC.len() => static_name(known),
            at => self.table.get(at - STATIC.len()).map(|(name, _)| name.clone()).ok_or(Garbled),
        }
    }

    fn insert(&mut self, name: Name, value: HeaderValue) {
        let size = size(&name, &value);
        self.make_room(size);
        if size <= self.limit {
            self.size += size;
            self.table.push_front((name, value));
        }
    }

    fn make_room(&mut self, room: usize) {
        while self.size + room > self.limit
            && let Some((name, value)) = self.table.pop_back()
        {
            self.size -= size(&name, &value);
        }
    }
}

// === impl Name ===

impl Name {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Pseudo(pseudo) => pseudo.as_str(),
            Self::Header(name) => name.as_str(),
        }
    }
}

// === impl Pseudo ===

impl Pseudo {
    pub(crate) const COUNT: usize = 5;

    const ALL: [Self; Self::COUNT] = [Self::Authority, Self::Method, Self::Path, Self::Scheme, Self::Status];

    fn named(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|pseudo| pseudo.as_str().as_bytes() == name)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Authority => ":authority",
            Self::Method => ":method",
            Self::Path => ":path",
            Self::Scheme => ":scheme",
            Self::Status => ":status",
        }
    }
}

/// What a field counts as.
pub(crate) fn size(name: &Name, value: &HeaderValue) -> usize {
    name.as_str().len() + value.len() + FIELD_BYTES
}

fn static_name(at: usize) -> Result<Name, Garbled> {
    match STATIC[at].0 {
        name if name.starts_with(':') => Pseudo::named(name.as_bytes()).map(Name::Pseudo).ok_or(Garbled),
        name => HeaderName::from_lowercase(name.as_bytes()).map(Name::Header).map_err(|_| Garbled),
    }
}

/// Takes a number off `block` whose first byte has `bits` of it.
fn integer(block: &mut &[u8], bits: u32) -> Result<usize, Garbled> {
    let mut next = || {
        let (&byte, rest) = block.split_first().ok_or(Garbled)?;
        *block = rest;
        Ok(usize::from(byte))
    };
    let most = (1 << bits) - 1;
    let mut number = next()? & most;
    if number < most {
        return Ok(number);
    }
    // Nothing here is longer than four bytes of seven bits can tell.
    for at in 0..4 {
        let byte = next()?;
        number += (byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Garbled)
}

/// Takes a string off `block`; `text` is where it is put where it has to be decoded.
fn string<'t, 'b: 't>(block: &mut &'b [u8], text: &'t mut Vec<u8>) -> Result<&'t [u8], Garbled> {
    let is_coded = block.first().ok_or(Garbled)? & 0x80 != 0;
    let length = integer(block, 7)?;
    let (string, rest) = block.split_at_checked(length).ok_or(Garbled)?;
    *block = rest;
    if !is_coded {
        return Ok(string);
    }
    text.clear();
    huffman::decode(string, text).ok_or(Garbled)?;
    Ok(text)
}

// === impl Encoder ===

impl Encoder {
    pub(crate) fn new() -> Self {
        Self {
            table: VecDeque::new(),
            size: 0,
            limit: TABLE_BYTES,
            inserted: 0,
            seen: [[Seen::default(); WAYS]; SETS],
            lowered: None,
        }
    }

    /// The other side keeps a table of so many bytes at most.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        let limit = limit.min(TABLE_BYTES);
        if limit != self.limit {
            self.lowered = Some(self.lowered.map_or(limit, |lowered| lowered.min(limit)));
            self.limit = limit;
            self.make_room(0);
        }
    }

    /// Begins a block.
    pub(crate) fn begin(&mut self, block: &mut Vec<u8>) {
        if let Some(lowered) = self.lowered.take() {
            write_integer(block, 0x20, 5, lowered);
            if lowered < self.limit {
                write_integer(block, 0x20, 5, self.limit);
            }
        }
    }

    /// Appends a field that is in the table that both sides know from the start, by its number there.
    pub(crate) fn known(block: &mut Vec<u8>, number: u8) {
        block.push(0x80 | number);
    }

    /// Appends all headers, but for those that are to stay behind.
    pub(crate) fn fields(
        &mut self,
        block: &mut Vec<u8>,
        headers: &HeaderMap,
        is_left_out: &dyn Fn(&HeaderName) -> bool,
    ) {
        for (name, value) in headers {
            if !is_left_out(name) {
                self.field(block, name.as_str(), value.as_bytes(), value.is_sensitive());
            }
        }
    }

    /// Appends a field.
    pub(crate) fn field(&mut self, block: &mut Vec<u8>, name: &str, value: &[u8], is_secret: bool) {
        if is_secret || name.len() + value.len() > MAX_INDEXED_BYTES {
            return literal(block, if is_secret { 0x10 } else { 0 }, 4, name, value);
        }
        let hash = hash(name, value);
        // The latest comes first.
        let set = &mut self.seen[hash as usize % SETS];
        let known = set.iter().position(|seen| seen.hash == hash);
        if known != Some(0) {
            set[..=known.unwrap_or(WAYS - 1)].rotate_right(1);
        }
        if known.is_none() {
            set[0] = Seen { hash, number: None };
            return literal(block, 0, 4, name, value);
        }
        if let Some(number) = set[0].number
            && let Ok(at) = usize::try_from(self.inserted - number - 1)
            && self.table.get(at).is_some_and(|entry| entry.is(name, value))
        {
            return write_integer(block, 0x80, 7, STATIC.len() + 1 + at);
        }
        set[0].number = Some(self.inserted);
        self.insert(name, value);
        literal(block, 0x40, 6, name, value);
    }

    fn insert(&mut self, name: &str, value: &[u8]) {
        let entry = Entry { bytes: [name.as_bytes(), value].concat().into(), name_length: name.len() };
        self.make_room(entry.size());
        if entry.size() <= self.limit {
            self.size += entry.size();
            self.table.push_front(entry);
        }
        // Where it is too large the table is empty now, so that all in it have gone in later.
        self.inserted += 1;
    }

    fn make_room(&mut self, room: usize) {
        while self.size + room > self.limit
            && let Some(entry) = self.table.pop_back()
        {
            self.size -= entry.size();
        }
    }
}

// === impl Entry ===

impl Entry {
    fn is(&self, name: &str, value: &[u8]) -> bool {
        let (ours, its) = self.bytes.split_at(self.name_length);
        ours == name.as_bytes() && its == value
    }

    fn size(&self) -> usize {
        self.bytes.len() + FIELD_BYTES
    }
}

fn hash(name: &str, value: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(name.as_bytes());
    hasher.write(value);
    // Zero is what an empty slot has.
    hasher.finish() | 1 << 63
}

/// Writes a field out, with as much of its name as both sides know.
fn literal(block: &mut Vec<u8>, kind: u8, bits: u32, name: &str, value: &[u8]) {
    match STATIC.iter().position(|(known, _)| *known == name) {
        Some(at) => write_integer(block, kind, bits, at + 1),
        None => {
            block.push(kind);
            write_string(block, name.as_bytes());
        }
    }
    write_string(block, value);
}

fn write_string(block: &mut Vec<u8>, text: &[u8]) {
    write_integer(block, 0, 7, text.len());
    block.extend_from_slice(text);
}

fn write_integer(block: &mut Vec<u8>, kind: u8, bits: u32, number: usize) {
    let most = (1 << bits) - 1;
    if number < most {
        return block.push(kind | number as u8);
    }
    block.push(kind | most as u8);
    let mut rest = number - most;
    while rest >= 0x80 {
        block.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, Garbled> {
        let mut fields = Vec::new();
        decoder.decode(block, |name, value| {
            fields.push((name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        })?;
        Ok(fields)
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<_> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
    }

    /// RFC 7541, C.6: three answers on one connection.
    #[test]
    fn answers_of_the_standard() {
        let first =
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d
            29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3";
        let second = "4883 640e ffc1 c0bf";
        let third = "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2
            e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07";
        let (at_21, at_22) = ("Mon, 21 Oct 2013 20:13:21 GMT", "Mon, 21 Oct 2013 20:13:22 GMT");
        let cookie = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
        let site = ("location", "https://www.example.com");
        let private = ("cache-control", "private");
        let mut decoder = Decoder::new();
        for (block, expected) in [
            (first, vec![(":status", "302"), private, ("date", at_21), site]),
            (second, vec![(":status", "307"), private, ("date", at_21), site]),
            (
                third,
                vec![
                    (":status", "200"),
                    private,
                    ("date", at_22),
                    site,
                    ("content-encoding", "gzip"),
                    ("set-cookie", cookie),
                ],
            ),
        ] {
            let fields = decoded(&mut decoder, &bytes(block)).expect("an answer");
            let expected: Vec<_> =
                expected.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            assert_eq!(fields, expected);
        }
    }

    #[test]
    fn garbled_blocks() {
        for (block, why) in [
            (&[0x80][..], "field zero"),
            (&[0xbe], "a field that is not in the table"),
            (&[0x40, 0x05, b'a'], "half a name"),
            (&[0x40, 0x01, b'A', 0x01, b'b'], "a name in capitals"),
            (&[0x40, 0x00, 0x01, b'b'], "no name"),
            (&[0x40, 0x01, b'a', 0x01, b'\n'], "a line break in a value"),
            (&[0x40, 0x04, b':', b'n', b'e', b'w', 0x00], "a pseudo-header that there is not"),
            (&[0x3f, 0xe2, 0x1f], "a larger table than was allowed"),
            (&[0x88, 0x20], "a table that is resized within a block"),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], "an endless number"),
            (&[0xff], "half a number"),
        ] {
            assert_eq!(decoded(&mut Decoder::new(), block), Err(Garbled), "{why}");
        }
    }

    /// What one side writes the other reads, however often fields come again and whatever the table may hold.
    #[test]
    fn fields_come_back_through_tables_of_all_sizes() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let mut dice = fastrand::Rng::with_seed(7);
        let mut throw = |sides: u64| dice.u64(..sides);
        for round in 0..5_000_u64 {
            if round % 50 == 0 {
                encoder.set_limit([0, 40, 100, 700, 4096, 1 << 20][throw(6) as usize]);
            }
            let fields: Vec<_> = (0..throw(6))
                .map(|_| {
                    let name = ["date", "grpc-status", "x-number", "api-key"][throw(4) as usize];
                    (name.to_owned(), "v".repeat(throw(3) as usize * 20) + &throw(9).to_string())
                })
                .collect();
            let mut block = Vec::new();
            encoder.begin(&mut block);
            for (name, value) in &fields {
                encoder.field(&mut block, name, value.as_bytes(), name == "api-key");
            }
            assert_eq!(decoded(&mut decoder, &block), Ok(fields), "round {round}");
        }
    }

    #[test]
    fn what_must_not_be_kept_in_a_table_is_marked() {
        let mut block = Vec::new();
        let mut encoder = Encoder::new();
        encoder.field(&mut block, "api-key", b"secret", true);
        encoder.field(&mut block, "api-key", b"known", false);
        let mut marked = Vec::new();
        let taken = Decoder::new().decode(&block, |_, value| marked.push(value.is_sensitive()));
        assert_eq!((taken, marked), (Ok(()), vec![true, false]));
    }

    #[test]
    fn what_comes_again_is_short_and_what_is_new_each_time_stays_out_of_the_table() {
        let mut encoder = Encoder::new();
        let mut lengths = Vec::new();
        for round in 0..4 {
            let mut block = Vec::new();
            encoder.field(&mut block, "content-type", b"application/grpc", false);
            lengths.push(block.len());
            encoder.field(&mut block, "grpc-timeout", format!("{round}m").as_bytes(), false);
        }
        assert_eq!(lengths, [19, 18, 1, 1]);
        assert_eq!(encoder.table.len(), 1);
        let mut block = Vec::new();
        for _ in 0..3 {
            block.clear();
            encoder.field(&mut block, "api-key", b"secret", true);
        }
        assert_eq!((block[0], encoder.table.len()), (0x10, 1), "secrets are in no table");
    }

    #[test]
    fn fields_of_all_requests_are_short_on_nearly_every_connection() {
        let mut long = 0;
        for client in 0..200 {
            let mut encoder = Encoder::new();
            let fields: Vec<_> = (0..10).map(|field| format!("{client} {field}")).collect();
            let mut block = Vec::new();
            for round in 0..20 {
                block.clear();
                for value in &fields {
                    encoder.field(&mut block, "x-same", value.as_bytes(), false);
                }
                encoder.field(&mut Vec::new(), "x-new", format!("{client} {round}").as_bytes(), false);
            }
            long += usize::from(block.len() > fields.len());
        }
        assert!(long <= 2, "{long} clients of 200");
    }
}
