//! What the fuzz targets in `tests/fuzz` reach beyond the public interface. Compiled for them alone.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use super::{Call, Compressed, Pieces, Protocol};
use crate::topology::PointId;

/// The ids of a write, and its parts with the points at even and at odd places.
pub fn split(call: &Call, body: &Bytes) -> Option<(Vec<PointId>, [Bytes; 2])> {
    let pieces = Pieces::of(call, body).ok()?;
    if pieces.ids.len() < 2 {
        return None;
    }
    let parts = [pieces.part(|at| at % 2 == 0), pieces.part(|at| at % 2 == 1)];
    Some((pieces.ids, parts))
}

/// The plain form of a REST body that is compressed so.
pub fn plain(encoding: &'static str, body: &Bytes, limit: usize) -> Option<Bytes> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    Compressed::of(Protocol::Rest, &headers, body)?.decode(limit)
}
