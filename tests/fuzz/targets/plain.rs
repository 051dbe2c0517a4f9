//! Compressed bodies: whatever they are, decoding ends and stays below its limit. The first byte chooses
//! the encoding.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use qdrant_router::request::fuzzing;

const LIMIT: usize = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let Some((&choice, body)) = input.split_first() else { return };
    let encoding = ["gzip", "deflate", "br", "zstd"][usize::from(choice % 4)];
    if let Some(plain) = fuzzing::plain(encoding, &Bytes::copy_from_slice(body), LIMIT) {
        assert!(plain.len() <= LIMIT);
    }
});
