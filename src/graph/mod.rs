//! The build graph: vertices, what they do, and a definition that names all inputs by digest
//! (design D13). Other builders call this LLB. Knows nothing of Dockerfiles and nothing of stores.

pub mod address;
pub mod confinement;
pub mod definition;
pub mod mount;
pub mod op;
pub mod platform;
pub mod reference;
pub mod written;

pub use address::Address;
pub use confinement::{Capabilities, Confinement, SystemCalls};
pub use definition::{Definition, Location, Vertex, VertexId};
pub use mount::{CacheOp, CacheSharing, MountKind, MountOp, MountOwner, SecretEnv};
pub use op::{
    CopyOp, CopySource, ExecOp, GitOp, HttpOp, ImageOp, InlineFile, LocalOp, MkdirOp, NetworkMode, Op,
    RemotePath, Ulimit, Unpack,
};
pub use platform::Platform;
pub use reference::{Reference, ReferenceError};
pub use written::{Variable, Written};
