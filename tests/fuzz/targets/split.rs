//! Cutting a write: the parts have the points of the whole, each once and in its order, and every part is
//! a write of those points alone. Input as for the peeks; what begins with `/qdrant` is gRPC.

#![no_main]

use bytes::Bytes;
use http::{Method, Uri};
use libfuzzer_sys::fuzz_target;
use qdrant_router::request::{Call, Depth, Points, Protocol, fuzzing};

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|&byte| byte == b'\n').unwrap_or(input.len());
    let (line, body) = (&input[..end], input.get(end + 1..).unwrap_or_default());
    let Ok(line) = std::str::from_utf8(line) else { return };
    let (protocol, method, uri) = match line.split_once(' ') {
        Some((method, uri)) => (Protocol::Rest, Method::from_bytes(method.as_bytes()), uri.parse::<Uri>()),
        None => (Protocol::Grpc, Ok(Method::POST), line.parse::<Uri>()),
    };
    let (Ok(method), Ok(uri)) = (method, uri) else { return };
    let call = Call::of(protocol, &method, &uri);
    let body = Bytes::copy_from_slice(body);
    // Only what has been understood as a whole is cut.
    let Ok(whole) = call.intent(&body, Depth { keys: true, ids: true }) else { return };
    let Some((ids, parts)) = fuzzing::split(&call, &body) else { return };
    // Even places go to the one part, odd places to the other.
    for (parity, part) in parts.iter().enumerate() {
        let expected: Vec<_> = ids.iter().copied().skip(parity).step_by(2).collect();
        if expected.is_empty() {
            continue;
        }
        let intent = call.intent(part, Depth { keys: true, ids: true }).expect("a part is a write");
        assert_eq!(intent.scopes[0].points, Points::Ids(expected.into()));
        assert_eq!(intent.scopes[0].keys, whole.scopes[0].keys);
        assert_eq!(intent.action, whole.action);
    }
});
