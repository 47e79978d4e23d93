//! Runs the graph.

pub mod ops;
