//! What do we already have? Bytes at rest: blobs, layers in their three forms, snapshots,
//! cache records, tags, and what keeps them consistent when many processes share one store.
//!
//! This room knows digests, tar headers, whiteouts and locks. It knows no Dockerfile and no
//! process: it never uses the parser or the executor.

pub mod blob;
pub mod check;
pub mod difference;
pub mod digest;
mod directory;
pub mod error;
pub mod eviction;
pub mod file_memory;
pub mod gc;
pub mod history;
pub mod hold;
pub mod image;
pub mod layer;
pub mod listing;
pub mod lock;
pub mod mounts;
pub mod record;
pub mod referrers;
mod session;
pub mod store;
mod temporary;
pub mod tree;
mod usage;
pub mod view;

pub use blob::{BlobProvider, BlobWriter, VerifiedReader};
pub use check::{CheckOptions, CheckReport, Damage, DamageKind};
pub use digest::{ContentDigest, DiffId, Digest, Key, KeyBuilder, LayerId};
pub use error::StoreError;
pub use eviction::Eviction;
pub use file_memory::{FileMemory, FileStat, Scope};
pub use gc::{PruneFilter, PruneKind, PruneOptions, PruneReport};
pub use history::{BuildName, FoundBuild, KeptBuild};
pub use hold::Hold;
pub use image::{Descriptor, StoredImage};
pub use listing::ListChange;
pub use lock::KeyLock;
pub use mounts::{CacheMount, CacheMountFound, CacheMountRequest, CacheUse};
pub use record::{Made, Record};
pub use referrers::{Referrer, Referrers};
pub use store::Store;
pub use temporary::{TempDir, abandon_temporary};
pub use usage::{Usage, UsageItem, UsageKind};
pub use view::{FileParts, View};
