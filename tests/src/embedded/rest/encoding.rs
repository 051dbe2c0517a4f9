//! Compressed bodies, decoded as Qdrant's web framework decodes them.

use std::io::{self, Read};

use bytes::Bytes;
use flate2::bufread::{GzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

/// The buffer that brotli itself chooses for streams.
const BROTLI_BUFFER: usize = 4096;

/// Why a body has no plain form.
#[derive(Debug)]
pub(super) enum Undecodable {
    TooLarge,
    Broken(io::Error),
}

/// The plain form of a body of at most `limit` bytes, behind whose end nothing may follow. A body in an encoding without a
/// known name is taken as it is.
pub(super) fn plain(headers: &HeaderMap, body: Bytes, limit: usize) -> Result<Bytes, Undecodable> {
    let name = headers.get(CONTENT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut rest = &*body;
    let mut source: Box<dyn Read + '_> = match name.trim().to_ascii_lowercase().as_str() {
        "gzip" => Box::new(GzDecoder::new(&mut rest)),
        "deflate" => Box::new(ZlibDecoder::new(&mut rest)),
        "br" => Box::new(brotli_decompressor::Decompressor::new(&mut rest, BROTLI_BUFFER)),
        "zstd" => Box::new(zstd::stream::read::Decoder::with_buffer(&mut rest).map_err(Undecodable::Broken)?),
        _ => return Ok(body),
    };
    let mut decoded = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    source.by_ref().take(bound).read_to_end(&mut decoded).map_err(Undecodable::Broken)?;
    if decoded.len() > limit {
        return Err(Undecodable::TooLarge);
    }
    drop(source);
    if !rest.is_empty() {
        return Err(Undecodable::Broken(io::ErrorKind::WriteZero.into()));
    }
    Ok(decoded.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use http::HeaderValue;

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

    fn decode(encoding: &'static str, body: Vec<u8>, limit: usize) -> Result<Bytes, Undecodable> {
        let headers = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(encoding))]);
        plain(&headers, body.into(), limit)
    }

    #[test]
    fn four_encodings_and_none() {
        for (encoding, body) in [
            ("gzip", gzip(TEXT)),
            ("GZIP", gzip(TEXT)),
            ("deflate", deflate(TEXT)),
            ("br", BROTLI.to_vec()),
            ("zstd", ZSTD.to_vec()),
            ("identity", TEXT.to_vec()),
            ("snappy", TEXT.to_vec()),
        ] {
            assert_eq!(decode(encoding, body, TEXT.len()).expect(encoding), TEXT, "{encoding}");
        }
        assert_eq!(plain(&HeaderMap::new(), TEXT.into(), 0).expect("as it is"), TEXT);
    }

    #[test]
    fn broken_and_endless_bodies_are_refused() {
        for (encoding, body) in [
            ("gzip", TEXT.to_vec()),
            ("br", vec![0xff; 64]),
            ("zstd", TEXT.to_vec()),
            ("deflate", gzip(TEXT)),
            ("gzip", [gzip(TEXT), vec![0]].concat()),
            ("gzip", [gzip(TEXT), gzip(TEXT)].concat()),
            ("deflate", [deflate(TEXT), vec![0]].concat()),
        ] {
            assert!(matches!(decode(encoding, body, 1 << 20), Err(Undecodable::Broken(_))), "{encoding}");
        }
        let bomb = gzip(&vec![b' '; 1 << 20]);
        assert!(matches!(decode("gzip", bomb, 1 << 19), Err(Undecodable::TooLarge)));
    }
}
