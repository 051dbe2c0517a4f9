//! HTTP/2 (RFC 9113) for requests that are passed on.
//!
//! A general implementation keeps requests and answers in types of its own, and moves each frame through several tasks,
//! queues and state machines. Of one that passes them on less is asked: headers are encoded from where they are, a body
//! that is there goes out with its head, and what comes is cut out of the bytes that were read. Both sides together take
//! half the instructions of a request that passes.
//!
//! There is a [`client`] and a [`server`]. Both share the protocol without I/O ([`Streams`](streams::Streams)), and the
//! one task per connection that reads and writes ([`Driver`](driver::Driver)).
//!
//! It is made for [qdrant-router](https://docs.rs/qdrant-router), whose needs alone it follows: no pushes, no
//! priorities, no tunnels.

use http::{HeaderName, header};

pub use self::frame::PREFACE;

pub mod client;
pub mod server;

mod driver;
mod frame;
mod hpack;
mod huffman;
mod outbox;
mod streams;
#[cfg(test)]
mod testing;

/// Whether a header concerns a connection of HTTP/1.1, and has no place in HTTP/2 (RFC 9113, 8.2.2).
#[must_use]
pub fn is_of_one_connection(name: &HeaderName) -> bool {
    matches!(*name, header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}
