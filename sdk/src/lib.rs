//! Sends every Qdrant request straight to the node that holds its data.

mod connect;
pub mod dice;
pub mod discovery;
pub mod topology;

pub use connect::{Tls, TlsError};
