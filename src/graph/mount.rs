//! What a RUN has mounted (spec 3.3).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One mount of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountOp {
    /// Absolute, clean path in the process' root file system.
    pub target: String,
    /// Writing is refused.
    pub read_only: bool,
    /// What is mounted.
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum MountKind {
    /// Files of another vertex. What is written is thrown away.
    Bind {
        /// Which of the vertex' [`super::Vertex::mounts`]; `None` for nothing at all (`from=scratch`).
        input: Option<usize>,
        /// Path in its root file system.
        source: String,
    },
    /// A directory that outlives the build. Its content is in no key.
    Cache(CacheOp),
    /// Memory.
    Tmpfs {
        /// The most bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<u64>,
    },
    /// A secret of the caller as a file.
    Secret {
        /// Which.
        id: String,
        /// The build fails without it.
        required: bool,
        /// Permission bits, owner and group.
        owner: MountOwner,
    },
    /// An ssh agent of the caller as a socket.
    Ssh {
        /// Which.
        id: String,
        /// The build fails without it.
        required: bool,
        /// Permission bits, owner and group.
        owner: MountOwner,
    },
    /// A directory or file of the machine (`--volume`). What is written there stays.
    Volume {
        /// Where; its content is in no key.
        path: PathBuf,
        /// What is written is thrown away instead.
        overlay: bool,
    },
}

/// A cache (spec M7, M8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheOp {
    /// Its name, with `BUILDKIT_CACHE_MOUNT_NS` in front.
    pub id: String,
    /// Who may use it at the same time.
    pub sharing: CacheSharing,
    /// What its directory has when it is made.
    pub owner: MountOwner,
    /// Which of the vertex' [`super::Vertex::mounts`] a new cache begins with, if it does not begin empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<usize>,
    /// The directory that is mounted: of the seed, or of the cache when there is none.
    pub source: String,
}

/// Permission bits, owner and group of what is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountOwner {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheSharing {
    /// Everybody.
    Shared,
    /// A second user gets another copy.
    Private,
    /// A second user waits.
    Locked,
}

/// A secret of the caller in the environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretEnv {
    /// Name of the variable.
    pub name: String,
    /// Which secret.
    pub id: String,
    /// The build fails without it.
    pub required: bool,
}
