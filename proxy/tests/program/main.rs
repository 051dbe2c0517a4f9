//! The program as its users start it.

mod access;
mod bench;
mod config;
mod docs;
mod doctor;
mod program;
mod reload;
mod serve;
mod tls;
mod trace;
mod upkeep;
