//! Compressed bodies, decoded to be looked into and to be cut. What goes whole is forwarded as it came.

use std::io::{self, Read};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use bytes::Bytes;
use flate2::bufread::{GzDecoder, ZlibDecoder};
use http::{HeaderMap, HeaderValue, header};
use zstd::stream::read::Decoder as ZstdDecoder;

use super::{
    Protocol,
    grpc::{HEADER, frame},
};

/// JSON and vectors seldom become smaller than an eighth.
const USUAL_RATIO: usize = 8;

/// To decode a short body into so many bytes takes a fifth of a millisecond.
const SHORT: usize = 16 << 10;
const SHORT_DECODED: usize = 64 << 10;

/// Windows of zstd have no more than 8 MiB, as RFC 9659 asks of those who send it over HTTP. Nodes take those of 128 MiB.
const ZSTD_WINDOW_LOG: u32 = 23;

/// A compressed body. It may stand for one that is a thousand times as long.
#[derive(Debug)]
pub(crate) struct Compressed {
    protocol: Protocol,
    /// `None` for what Qdrant does not take either.
    encoding: Option<Encoding>,
    body: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

/// Decodes brotli with windows of up to 16 MiB, as RFC 7932 has them: a window is filled before anything is given out.
/// Larger ones, up to a gigabyte, are an extension.
struct Brotli<'a, 'b> {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    body: &'a mut &'b [u8],
}

// === impl Compressed ===

impl Compressed {
    /// `body`, where it is compressed.
    pub(crate) fn of(protocol: Protocol, headers: &HeaderMap, body: &Bytes) -> Option<Self> {
        let encoding = match protocol {
            Protocol::Rest => {
                let name = headers.get(header::CONTENT_ENCODING)?;
                if name.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity") {
                    return None;
                }
                Encoding::of(name)
            }
            Protocol::Grpc if body.first() != Some(&1) => return None,
            Protocol::Grpc => {
                let encoding = headers.get("grpc-encoding").and_then(Encoding::of);
                encoding.filter(|&encoding| encoding == Encoding::Gzip)
            }
        };
        Some(Self { protocol, encoding, body: body.clone() })
    }

    /// Whether the encoding is one that Qdrant takes: gzip, br, zstd, deflate; gzip over gRPC. Of several at once it takes
    /// none.
    pub(crate) fn is_known(&self) -> bool {
        self.encoding.is_some()
    }

    /// Its plain form, where both are short, in an encoding whose decoder needs no large window.
    pub(crate) fn decode_short(&self, limit: usize) -> Option<Bytes> {
        let is_light = matches!(self.encoding, Some(Encoding::Gzip | Encoding::Deflate));
        if is_light && self.body.len() <= SHORT { self.decode(limit.min(SHORT_DECODED)) } else { None }
    }

    /// Its plain form, as a node would decode it; `None` where it has none of at most `limit` bytes.
    pub(crate) fn decode(&self, limit: usize) -> Option<Bytes> {
        let encoding = self.encoding?;
        match self.protocol {
            Protocol::Rest => encoding.decode(&self.body, limit).map(Bytes::from),
            Protocol::Grpc => encoding.decode(self.body.get(HEADER..)?, limit).map(|message| frame(&message)),
        }
    }
}

// === impl Encoding ===

impl Encoding {
    const ALL: [Self; 4] = [Self::Gzip, Self::Deflate, Self::Brotli, Self::Zstd];

    fn of(header: &HeaderValue) -> Option<Self> {
        let wanted = header.as_bytes().trim_ascii();
        Self::ALL.into_iter().find(|known| known.name().eq_ignore_ascii_case(wanted))
    }

    fn name(self) -> &'static [u8] {
        match self {
            Self::Gzip => b"gzip",
            Self::Deflate => b"deflate",
            Self::Brotli => b"br",
            Self::Zstd => b"zstd",
        }
    }

    /// All of `body`. Nothing may be left behind its end: over REST a node refuses that, and over gRPC it is not read. More
    /// frames of zstd belong to it.
    fn decode(self, mut body: &[u8], limit: usize) -> Option<Vec<u8>> {
        let (length, rest) = (body.len(), &mut body);
        let decoded = match self {
            Self::Gzip => read(GzDecoder::new(rest), length, limit),
            Self::Deflate => read(ZlibDecoder::new(rest), length, limit),
            Self::Brotli => read(Brotli::new(rest), length, limit),
            Self::Zstd => {
                let mut decoder = ZstdDecoder::with_buffer(rest).ok()?;
                decoder.window_log_max(ZSTD_WINDOW_LOG).ok()?;
                read(decoder, length, limit)
            }
        }?;
        body.is_empty().then_some(decoded)
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

// === impl Brotli ===

impl<'a, 'b> Brotli<'a, 'b> {
    fn new(body: &'a mut &'b [u8]) -> Self {
        let memory = StandardAlloc::default;
        Self { state: BrotliState::new_strict(memory(), memory(), memory()), body }
    }
}

impl Read for Brotli<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (mut left, mut at) = (self.body.len(), 0);
        let (mut room, mut written, mut total) = (buffer.len(), 0, 0);
        let result = BrotliDecompressStream(
            &mut left,
            &mut at,
            self.body,
            &mut room,
            &mut written,
            buffer,
            &mut total,
            &mut self.state,
        );
        *self.body = &self.body[at..];
        match result {
            BrotliResult::ResultSuccess | BrotliResult::NeedsMoreOutput => Ok(written),
            BrotliResult::NeedsMoreInput => Err(io::ErrorKind::UnexpectedEof.into()),
            BrotliResult::ResultFailure => Err(io::ErrorKind::InvalidData.into()),
        }
    }
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
            ("br", BROTLI[..20].to_vec()),
            ("zstd", ZSTD[..20].to_vec()),
            ("deflate", deflate(TEXT)[..20].to_vec()),
        ] {
            assert_eq!(rest(encoding, body, 1 << 20), None, "{encoding}");
        }
    }

    #[test]
    fn a_small_body_that_stands_for_a_large_one_is_given_up_at_the_limit() {
        let gzip = gzip(&vec![b' '; 8 << 20]);
        // 64 blocks of 128 KiB, each one byte again and again, and a last one of none.
        let zstd =
            [&ZSTD[..4], &[0x00, 13 << 3], &[0x02, 0x00, 0x10, b' '].repeat(64), &[0x01, 0, 0]].concat();
        for (encoding, bomb) in [("gzip", gzip), ("zstd", zstd)] {
            assert!(bomb.len() < 16 << 10);
            assert_eq!(rest(encoding, bomb.clone(), (8 << 20) - 1), None, "{encoding}");
            assert_eq!(rest(encoding, bomb, 8 << 20).map(|plain| plain.len()), Some(8 << 20), "{encoding}");
        }
    }

    #[test]
    fn no_window_is_larger_than_its_standard_allows() {
        // An empty frame that asks for windows of 8 and 16 MiB.
        let zstd = |window: u8| vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, window << 3, 0x01, 0x00, 0x00];
        assert_eq!(rest("zstd", zstd(13), 1 << 20).as_deref(), Some(&b""[..]));
        assert_eq!(rest("zstd", zstd(14), 1 << 20), None);
        assert_eq!(rest("zstd", [ZSTD, &zstd(14)].concat(), 1 << 20), None);
        // `TEXT` as `brotli --large_window=30` writes it.
        let brotli = [
            0x11, 0x1e, 0x22, 0x00, 0x02, 0x7b, 0x22, 0x70, 0x6f, 0x69, 0x6e, 0x74, 0x73, 0x22, 0x3a, 0x5b,
            0x31, 0x2c, 0x32, 0x2c, 0x33, 0x5d, 0x7d, 0x03,
        ];
        assert_eq!(rest("br", brotli.to_vec(), 1 << 20), None);
    }

    #[test]
    fn further_frames_of_zstd_belong_to_the_body_and_further_members_of_gzip_do_not() {
        // Four bytes that are to be skipped.
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 0x04, 0x00, 0x00, 0x00, 1, 2, 3, 4];
        let frames = [ZSTD, &skipped, ZSTD].concat();
        assert_eq!(rest("zstd", frames, 1 << 20).as_deref(), Some(&TEXT.repeat(2)[..]));
        assert_eq!(rest("gzip", gzip(TEXT).repeat(2), 1 << 20), None);
    }

    #[test]
    fn nothing_may_follow_the_end() {
        for (encoding, body) in [
            ("gzip", gzip(TEXT)),
            ("deflate", deflate(TEXT)),
            ("br", BROTLI.to_vec()),
            ("zstd", ZSTD.to_vec()),
        ] {
            for more in [&b"\0"[..], b"more", &[0; 100]] {
                assert_eq!(rest(encoding, [&body[..], more].concat(), 1 << 20), None, "{encoding}");
            }
        }
    }

    #[test]
    fn what_is_short_is_so_before_and_after() {
        let short = |text: &[u8]| {
            let compressed = Compressed {
                protocol: Protocol::Rest,
                encoding: Some(Encoding::Gzip),
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
