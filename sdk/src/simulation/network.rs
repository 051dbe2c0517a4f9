//! Connections as pipes in memory.

use std::{cell::RefCell, io, net::SocketAddr};

use tokio::io::DuplexStream;

use super::cluster::World;

/// What a pipe holds before its writer waits.
const PIPE_BYTES: usize = 64 << 10;

thread_local! {
    /// The world that this thread's runtime dials into.
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Makes all connections of this thread lead into `world`.
pub(super) fn install(world: World) {
    WORLD.set(Some(world));
}

/// A connection to `address`; `None` where this thread simulates nothing.
pub(crate) async fn connect(address: SocketAddr) -> Option<io::Result<DuplexStream>> {
    let world = WORLD.with_borrow(Clone::clone)?;
    if !world.is_listening(address) {
        return Some(Err(io::ErrorKind::ConnectionRefused.into()));
    }
    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    world.accept(address, theirs);
    Some(Ok(ours))
}
