//! Where the examples find their cluster.

use std::{
    env,
    net::{AddrParseError, SocketAddr},
};

/// The headless Service that the command line names.
pub(crate) fn headless() -> Result<String, &'static str> {
    env::args().nth(1).ok_or("name the headless Service of a Qdrant cluster")
}

/// The DNS server that `QDRANT_ROUTER_DNS` names, as for the proxy; the system's where it names none.
pub(crate) fn dns() -> Result<Option<SocketAddr>, AddrParseError> {
    env::var("QDRANT_ROUTER_DNS").ok().map(|server| server.parse()).transpose()
}
