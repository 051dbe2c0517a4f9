//! The program as its users start it.

mod config;
mod program;
mod serve;
