//! HTTP/2 (RFC 9113) for requests that are passed on.
//!
//! A general implementation keeps requests and answers in types of its own, and moves each frame through several tasks,
//! queues and state machines. Of one that passes them on less is asked: headers are encoded from where they are, a body
//! that is there goes out with its head, and what comes is cut out of the bytes that were read. A request that passes takes
//! half the instructions so.
//!
//! There is a [`client`] and a [`server`]. Both share the protocol without I/O (`Streams`), and the
//! one task per connection that reads and writes (`Driver`).
//!
//! ```
//! use std::{future::poll_fn, sync::atomic::AtomicBool};
//!
//! use bytes::Bytes;
//! use http::{HeaderMap, Method, Response};
//! use http_body_util::Full;
//! use qdrant_router_http2::{
//!     client::{self, Next, Outgoing},
//!     server::{self, Exchange},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (ours, theirs) = tokio::io::duplex(64);
//! tokio::spawn(async move {
//!     let accept = |_, exchange: Exchange| {
//!         tokio::spawn(exchange.answer(async || { Response::new(Full::new(Bytes::from("hello"))) }));
//!     };
//!     server::serve(theirs, accept, &AtomicBool::new(false)).await
//! });
//!
//! let (connection, driver) = client::connect(ours);
//! tokio::spawn(driver);
//! let request = Outgoing {
//!     method: &Method::GET,
//!     is_encrypted: false,
//!     authority: "127.0.0.1:6333",
//!     path: "/",
//!     headers: &HeaderMap::new(),
//!     is_left_out: &|_| false,
//! };
//! let mut stream = connection.open(request, &mut Some(Bytes::new())).expect("the first one");
//! assert_eq!(poll_fn(|cx| stream.poll_head(cx)).await?.status(), 200);
//! assert_eq!(poll_fn(|cx| stream.poll_next(cx)).await?, Next::Data("hello".into()));
//! # Ok(())
//! # }
//! ```
//!
//! It is made for [qdrant-router](https://docs.rs/qdrant-router), whose needs alone it follows: no pushes, no
//! priorities, no tunnels.

use http::{HeaderName, header};

pub use self::{
    frame::PREFACE,
    turns::{TURN_BYTES, after_others, yield_to_arrivals},
};

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
mod turns;

/// What `content-length` says: digits alone, and no more than there can be.
#[must_use]
pub fn length(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| is_number)?.parse().ok()
}

/// Whether a header concerns a connection of HTTP/1.1, and has no place in HTTP/2 (RFC 9113, 8.2.2).
#[must_use]
pub fn is_of_one_connection(name: &HeaderName) -> bool {
    matches!(*name, header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}
