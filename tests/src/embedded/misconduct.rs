//! Everything a node can be made to do wrong that does not concern its sockets. Lies end with the
//! process, the rest outlasts restarts.

use super::canned::Cans;
use super::lie::Lies;
use super::streams::Streams;

/// One node's misconduct.
#[derive(Debug, Default)]
pub(crate) struct Misconduct {
    pub(crate) cans: Cans,
    pub(crate) lies: Lies,
    pub(crate) streams: Streams,
}
