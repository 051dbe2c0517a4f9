//! Compressed bodies, decoded for a look into them and never for forwarding.

use std::{borrow::Cow, io::Read};

use bytes::Bytes;
use flate2::read::{GzDecoder, ZlibDecoder};
use http::{HeaderMap, HeaderValue, header};

use super::{
    Protocol,
    grpc::{HEADER, frame},
};

/// Brotli's own choice for streams.
const BROTLI_BUFFER: usize = 4096;

/// JSON and vectors seldom become smaller than an eighth.
const USUAL_RATIO: usize = 8;

/// To decode a short body into so many bytes takes a fifth of a millisecond.
const SHORT: usize = 16 << 10;
const SHORT_DECODED: usize = 64 << 10;

/// A compressed body. It may stand for one that is a thousand times as long.
#[derive(Debug)]
pub(crate) struct Compressed {
    protocol: Protocol,
    /// As the headers name it, if they do.
    encoding: Option<Cow<'static, str>>,
    body: Bytes,
}

// === impl Compressed ===

impl Compressed {
    /// `body`, where it is compressed.
    pub(crate) fn of(protocol: Protocol, headers: &HeaderMap, body: &Bytes) -> Option<Self> {
        let compressed = |encoding| Self { protocol, encoding, body: body.clone() };
        match protocol {
            Protocol::Rest => name(headers.get(header::CONTENT_ENCODING)).map(|name| compressed(Some(name))),
            Protocol::Grpc => {
                (body.first() == Some(&1)).then(|| compressed(name(headers.get("grpc-encoding"))))
            }
        }
    }

    /// Its plain form, where both are short, in an encoding whose decoder stops where it is told to.
    pub(crate) fn decode_short(&self, limit: usize) -> Option<Bytes> {
        let stops = matches!(self.encoding.as_deref(), Some("gzip" | "deflate"));
        if stops && self.body.len() <= SHORT { self.decode(limit.min(SHORT_DECODED)) } else { None }
    }

    /// Its plain form, as a node would decode it; `None` where it has none of at most `limit` bytes, or its encoding is
    /// not one that Qdrant takes (gzip, br, zstd, deflate; gzip over gRPC).
    pub(crate) fn decode(&self, limit: usize) -> Option<Bytes> {
        let encoding = self.encoding.as_deref()?;
        match self.protocol {
            Protocol::Rest => decoded(encoding, &self.body, limit).map(Bytes::from),
            Protocol::Grpc if encoding == "gzip" => {
                decoded(encoding, self.body.get(HEADER..)?, limit).map(|message| frame(&message))
            }
            Protocol::Grpc => None,
        }
    }
}

/// The name of an encoding in lower case; `None` for none. Of several, Qdrant takes none either.
fn name(value: Option<&HeaderValue>) -> Option<Cow<'static, str>> {
    match value?.to_str() {
        Ok(name) if name.trim().eq_ignore_ascii_case("identity") => None,
        Ok(name) => Some(name.trim().to_ascii_lowercase().into()),
        Err(_) => Some("unreadable".into()),
    }
}

fn decoded(encoding: &str, body: &[u8], limit: usize) -> Option<Vec<u8>> {
    match encoding {
        "gzip" => read(GzDecoder::new(body), body.len(), limit),
        "deflate" => read(ZlibDecoder::new(body), body.len(), limit),
        "br" => read(brotli_decompressor::Decompressor::new(body, BROTLI_BUFFER), body.len(), limit),
        "zstd" => read(ruzstd::decoding::StreamingDecoder::new(body).ok()?, body.len(), limit),
        _ => None,
    }
}

/// All that `source` yields of a body of `length` bytes, unless that is more than `limit`: a small body may
/// stand for an endless one.
fn read(mut source: impl Read, length: usize, limit: usize) -> Option<Vec<u8>> {
    let usual = length.saturating_mul(USUAL_RATIO).min(limit);
    let mut decoded = Vec::with_capacity(usual);
    source.by_ref().take(u64::try_from(usual).ok()?).read_to_end(&mut decoded).ok()?;
    if decoded.len() == usual {
        // Once, and to the end: growing step by step takes thrice the memory. What is not written to is not taken.
        let rest = limit - usual + 1;
        decoded.reserve_exact(rest);
        source.take(u64::try_from(rest).ok()?).read_to_end(&mut decoded).ok()?;
    }
    (decoded.len() <= limit).then_some(decoded)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{
        Compression,
        write::{GzEncoder, ZlibEncoder},
    };

    use super::*;

    const TEXT: &[u8] = br#"{"points":[1,2,3]}"#;

    /// `TEXT` as `brotli` and `zstd` of Debian write it.
    const BROTLI: &[u8] = &[
        0x8b, 0x08, 0x80, 0x7b, 0x22, 0x70, 0x6f, 0x69, 0x6e, 0x74, 0x73, 0x22, 0x3a, 0x5b, 0x31, 0x2c, 0x32,
        0x2c, 0x33, 0x5d, 0x7d, 0x03,
    ];
    const ZSTD: &[u8] = &[
        0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x12, 0x91, 0x00, 0x00, 0x7b, 0x22, 0x70, 0x6f, 0x69, 0x6e, 0x74, 0x73,
        0x22, 0x3a, 0x5b, 0x31, 0x2c, 0x32, 0x2c, 0x33, 0x5d, 0x7d,
    ];

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).expect("memory");
        encoder.finish().expect("memory")
    }

    fn deflate(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).expect("memory");
        encoder.finish().expect("memory")
    }

    fn decoded(protocol: Protocol, headers: &HeaderMap, body: Vec<u8>, limit: usize) -> Option<Bytes> {
        Compressed::of(protocol, headers, &body.into()).expect("a compressed body").decode(limit)
    }

    fn rest(encoding: &'static str, body: Vec<u8>, limit: usize) -> Option<Bytes> {
        let mut headers = HeaderMap::new();
        headers.insert("content-encoding", HeaderValue::from_static(encoding));
        decoded(Protocol::Rest, &headers, body, limit)
    }

    #[test]
    fn every_encoding_that_qdrant_takes() {
        for (encoding, body) in [
            ("gzip", gzip(TEXT)),
            ("GZIP", gzip(TEXT)),
            ("deflate", deflate(TEXT)),
            ("br", BROTLI.to_vec()),
            ("zstd", ZSTD.to_vec()),
        ] {
            assert_eq!(rest(encoding, body, 1 << 20).as_deref(), Some(TEXT), "{encoding}");
        }
    }

    #[test]
    fn what_is_plain_need_not_be_decoded() {
        let mut headers = HeaderMap::new();
        let mut is_plain = |protocol, body: &'static [u8], encoding: &'static str| {
            headers.insert("content-encoding", HeaderValue::from_static(encoding));
            Compressed::of(protocol, &headers, &Bytes::from_static(body)).is_none()
        };
        assert!(is_plain(Protocol::Rest, TEXT, "identity"));
        assert!(!is_plain(Protocol::Rest, TEXT, "gzip"));
        assert!(is_plain(Protocol::Grpc, b"\0\0\0\0\x01a", "gzip"));
        assert!(!is_plain(Protocol::Grpc, b"\x01\0\0\0\x01a", "identity"));
        assert!(is_plain(Protocol::Grpc, b"", "gzip"));
    }

    #[test]
    fn what_cannot_be_decoded_is_not_looked_into() {
        for (encoding, body) in [
            ("gzip", TEXT.to_vec()),
            ("gzip", gzip(TEXT)[..20].to_vec()),
            ("br", vec![0xff; 64]),
            ("zstd", vec![0x28, 0xb5, 0x2f, 0xfd]),
            ("gzip, br", gzip(TEXT)),
            ("snappy", TEXT.to_vec()),
        ] {
            assert_eq!(rest(encoding, body, 1 << 20), None, "{encoding}");
        }
    }

    #[test]
    fn a_small_body_that_stands_for_a_large_one_is_given_up_at_the_limit() {
        let bomb = gzip(&vec![b' '; 8 << 20]);
        assert!(bomb.len() < 16 << 10);
        assert_eq!(rest("gzip", bomb, 1 << 20), None);
    }

    #[test]
    fn what_is_short_is_so_before_and_after() {
        let short = |text: &[u8]| {
            let compressed = Compressed {
                protocol: Protocol::Rest,
                encoding: Some("gzip".into()),
                body: gzip(text).into(),
            };
            compressed.decode_short(1 << 20)
        };
        assert_eq!(short(TEXT).as_deref(), Some(TEXT));
        assert!(short(&vec![b' '; SHORT_DECODED]).is_some());
        assert_eq!(short(&vec![b' '; SHORT_DECODED + 1]), None);
        // What does not become smaller.
        let dice = crate::dice::Dice::seeded(3);
        let noise: Vec<u8> = (0..SHORT).map(|_| dice.throw() as u8).collect();
        assert_eq!(short(&noise), None);
    }

    #[test]
    fn a_compressed_grpc_message_becomes_a_plain_one() {
        let message = gzip(b"\x0a\x05books");
        let mut framed = frame(&message).to_vec();
        framed[0] = 1;
        let mut headers = HeaderMap::new();
        assert_eq!(decoded(Protocol::Grpc, &headers, framed.clone(), 100), None);
        headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
        let expected = frame(b"\x0a\x05books");
        assert_eq!(decoded(Protocol::Grpc, &headers, framed, 100), Some(expected));
    }
}
