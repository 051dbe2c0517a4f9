//! End-to-end suites: clients, the router in both its forms, and a cluster of three nodes.
//!
//! Every suite runs on embedded nodes, and on real ones where `QDRANT_BIN` names a server.

mod access;
mod bed;
mod clients;
mod corpus;
mod direct;
mod discovery;
mod equality;
mod explain;
mod failover;
mod hops;
mod keys;
mod ledger;
mod limits;
mod load;
mod placement;
mod python;
mod routing;
mod snapshots;
mod splits;
mod tls;
