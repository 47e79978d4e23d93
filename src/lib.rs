//! rbuild turns a Dockerfile and a context into an OCI image, without a daemon and without root.
//!
//! ```text
//! argv -> BuildOptions -> Context + Dockerfile -> Stages -> Definition (graph of Vertex) -> solve -> Ref per vertex
//!      -> Layers + ImageConfig -> Image -> Exporter(s) -> store / OCI / docker archive / registry / directory
//! ```
//!
//! `docs/architecture.md` tells which room answers which question and which way one may look.

pub mod attestation;
pub mod cli;
pub mod error;
pub mod exporter;
pub mod frontend;
pub mod graph;
mod parallel;
pub mod progress;
pub mod registry;
pub mod sbom;
pub mod solver;
pub mod source;
