//! The `qdrant-router` command.
fn main() {}
