//! A proxy that sends every Qdrant request straight to the node that holds its data.
//!
//! All routing is the [SDK's](qdrant_router). This crate adds what a program needs around it: the
//! [command line](cli) and configuration, [listeners](listen) for both protocols, the [admin port](admin), a
//! [journal] of what happens to the cluster, and an orderly [life](lifecycle).

pub mod admin;
pub mod cli;
mod config;
mod doctor;
pub mod journal;
pub mod lifecycle;
pub mod listen;
pub mod metrics;
pub mod telemetry;
pub mod workers;
