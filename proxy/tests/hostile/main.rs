//! What strangers send on the wire: it is refused, or forwarded in one unambiguous form, and harms nobody
//! else.
//!
//! `QDRANT_ROUTER_HOSTILE` says how many generated requests are sent, `QDRANT_ROUTER_HOSTILE_RATE` how many a second,
//! `QDRANT_ROUTER_SEED` which, and `QDRANT_ROUTER_HOSTILE_WORKERS` how many threads the router has for them.
//! `QDRANT_BIN` names a server for what is tried on a cluster.

mod ambiguity;
mod attack;
mod cancelled;
mod cluster;
mod frames;
mod generated;
mod marker;
mod polite;
mod pressure;
mod process;
#[path = "../program/program.rs"]
mod program;
mod secrets;
mod shapes;
mod spy;
mod strict;
mod talk;
mod wire;
