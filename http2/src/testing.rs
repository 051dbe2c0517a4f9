//! What the tests of both sides have in common.

use std::{future::Future, time::Duration};

use tokio::io::{AsyncReadExt, DuplexStream};

use crate::frame::{HEAD_BYTES, Head, Reason, kind};

/// Fails rather than hangs.
pub(crate) async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), work).await.expect("something comes")
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let head = Head { length: payload.len(), kind, flags, stream };
    [&head.bytes()[..], payload].concat()
}

pub(crate) fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<_> = settings
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(kind::SETTINGS, 0, 0, &payload)
}

/// `:status: 200`
pub(crate) const OK: &[u8] = &[0x88];

pub(crate) fn goaway(last: u32, reason: Reason) -> Vec<u8> {
    frame(kind::GOAWAY, 0, 0, &[last.to_be_bytes(), reason.0.to_be_bytes()].concat())
}

pub(crate) fn reset(stream: u32, reason: Reason) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &reason.0.to_be_bytes())
}

/// The next frame that comes.
pub(crate) async fn heard(other: &mut DuplexStream) -> (Head, Vec<u8>) {
    let mut head = [0; HEAD_BYTES];
    other.read_exact(&mut head).await.expect("a frame");
    let head = Head::read(head);
    let mut payload = vec![0; head.length];
    other.read_exact(&mut payload).await.expect("its payload");
    (head, payload)
}
