//! Cutting a write of several points into writes of some of them.
//!
//! A write that names its points by id can be dealt out to several nodes. The body is cut between
//! points and put together again around those that a part keeps: points themselves are copied as they
//! are, never decoded or encoded. Everything else in the body (conditions, shard key, payload of a
//! payload operation) goes into every part, and the order of points within a part is that of the whole.

use bytes::Bytes;

use super::{Call, Layout, NotUnderstood, grpc};
use crate::topology::PointId;

mod json;
mod protobuf;

/// A write that has been cut between its points.
#[derive(Clone, Debug)]
pub(crate) struct Pieces {
    /// The ids, in the order of the body.
    pub(crate) ids: Vec<PointId>,
    body: Bytes,
    cut: Cut,
}

#[derive(Clone, Debug)]
enum Cut {
    Json(Vec<json::List>),
    Protobuf(protobuf::Cut),
}

// === impl Pieces ===

impl Pieces {
    /// Cuts the body of `call`.
    ///
    /// # Errors
    ///
    /// [`NotUnderstood`] where the operation is not one on points by id.
    pub(crate) fn of(call: &Call, body: &Bytes) -> Result<Self, NotUnderstood> {
        let (ids, cut) = match call.layout {
            Layout::Rest(layout) => {
                let (ids, lists) = json::cut(layout, body)?;
                (ids, Cut::Json(lists))
            }
            Layout::Grpc(method) => {
                let location = grpc::location(method).ok_or(NotUnderstood)?;
                let (ids, cut) = protobuf::cut(grpc::unframe(body)?, location)?;
                (ids, Cut::Protobuf(cut))
            }
            Layout::Nothing => return Err(NotUnderstood),
        };
        Ok(Self { ids, body: body.clone(), cut })
    }

    /// The body of a request for those points alone that `keeps` names by their place in
    /// [`ids`](Self::ids). It must name at least one.
    pub(crate) fn part(&self, keeps: impl Fn(usize) -> bool) -> Bytes {
        match &self.cut {
            Cut::Json(lists) => json::part(&self.body, lists, keeps),
            Cut::Protobuf(cut) => {
                let message = &self.body[grpc::HEADER..];
                grpc::frame_of(message.len(), |out| protobuf::write_part(out, cut, message, keeps))
            }
        }
    }
}

#[cfg(test)]
mod tests;
