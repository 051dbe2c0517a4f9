//! Where the examples find their cluster.

use std::{env, net::SocketAddr};

/// The headless Service that the command line names.
pub(crate) fn headless() -> Result<String, &'static str> {
    env::args().nth(1).ok_or("name the headless Service of a Qdrant cluster")
}

/// The DNS server that `QDRANT_ROUTER_DNS` names, as for the proxy; the system's where it names none.
pub(crate) fn dns() -> Result<Option<SocketAddr>, String> {
    let Ok(server) = env::var("QDRANT_ROUTER_DNS") else { return Ok(None) };
    server.parse().map(Some).map_err(|_| format!("QDRANT_ROUTER_DNS: `{server}` is not IP:PORT"))
}
