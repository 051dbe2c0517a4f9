//! The program as its users start it.

mod access;
mod bench;
mod config;
mod docs;
mod doctor;
mod metrics;
mod program;
mod reload;
mod serve;
mod telling;
mod tls;
mod trace;
mod upkeep;
