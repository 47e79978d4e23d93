//! What do we already have? Bytes at rest: blobs, layers in their three forms, snapshots,
//! cache records, tags, and what keeps them consistent when many processes share one store.
//!
//! This room knows digests, tar headers, whiteouts and locks. It knows no Dockerfile and no
//! process: it never uses the parser or the executor.

pub mod digest;
pub mod layer;
pub mod tree;

pub use digest::{ContentDigest, DiffId, Digest, Key, KeyBuilder, LayerId};
