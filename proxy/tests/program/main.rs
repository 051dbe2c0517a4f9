//! The program as its users start it.

mod bench;
mod config;
mod docs;
mod doctor;
mod program;
mod reload;
mod serve;
mod tls;
