//! The peek at gRPC requests: the first line of the input is the path, the rest the body with its frame.

#![no_main]

use http::{Method, Uri};
use libfuzzer_sys::fuzz_target;
use qdrant_router::request::{Call, Depth, Protocol};

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|&byte| byte == b'\n').unwrap_or(input.len());
    let (line, body) = (&input[..end], input.get(end + 1..).unwrap_or_default());
    let Some(uri) = std::str::from_utf8(line).ok().and_then(|line| line.parse::<Uri>().ok()) else { return };
    let call = Call::of(Protocol::Grpc, &Method::POST, &uri);
    let _ = (call.collection(body), call.shard(body), call.file(body));
    for (keys, ids) in [(false, false), (true, false), (false, true), (true, true)] {
        let _ = call.intent(body, Depth { keys, ids });
    }
});
