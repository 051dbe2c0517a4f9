//! Micro-benchmarks of the routing decision.
