//! What a step has mounted beside its root: data, whatever way the isolation has of showing it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// One mount of a step. Those with fewer parts in `target` are mounted first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the step; made for the time of the step when the image does not have it.
    pub target: String,
    /// What is seen there.
    pub source: MountSource,
    /// Which file or directory of the source, found as if the source were the root; `/` for all of it.
    pub path: String,
    /// Writing is refused.
    pub read_only: bool,
}

/// Where the files of a [`Mount`] are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountSource {
    /// A directory, or file, of the builder: what is written there stays.
    Host {
        /// Where.
        path: PathBuf,
        /// `path` of the mount is made, as a directory, when it is not there.
        create: bool,
        /// What is mounted below it is seen as well.
        recursive: bool,
    },
    /// The trees of layers, which never change.
    Layers {
        /// Topmost first; none for an empty directory.
        lowers: Vec<PathBuf>,
        /// Receives what is written; nothing can be written without it.
        scratch: Option<Scratch>,
    },
    /// Memory that goes with the step.
    Memory {
        /// The most bytes; `None` for what the kernel gives.
        size: Option<u64>,
    },
    /// One of the step's secrets as a file in memory.
    Secret {
        /// Its index in [`super::ExecSpec::secrets`].
        secret: usize,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// A socket of the builder.
    Socket {
        /// Where.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// What an overlay writes to, thrown away by the caller after the step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scratch {
    /// Receives the changes; exists.
    pub upper: PathBuf,
    /// Overlay's working directory; exists, empty, on the file system of `upper`.
    pub work: PathBuf,
}

/// An environment variable with a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretVariable {
    /// Its name.
    pub name: String,
    /// Index of its value in [`super::ExecSpec::secrets`].
    pub secret: usize,
}

/// Bytes that nobody is to see but the step. They are not shown by `Debug` and cannot be serialised by accident: they
/// go to the step in a memory file of their own.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// The bytes as they are.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Secrets as one sequence of bytes: each with its length before it.
pub(crate) fn pack(secrets: &[Secret]) -> Vec<u8> {
    let mut packed = Vec::new();
    for secret in secrets {
        packed.extend((secret.0.len() as u64).to_le_bytes());
        packed.extend_from_slice(&secret.0);
    }
    packed
}

/// The reverse of [`pack`]; `None` for anything else.
pub(crate) fn unpack(mut packed: &[u8]) -> Option<Vec<Secret>> {
    let mut secrets = Vec::new();
    while !packed.is_empty() {
        let (length, rest) = packed.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (bytes, rest) = rest.split_at_checked(length)?;
        secrets.push(Secret::new(bytes));
        packed = rest;
    }
    Some(secrets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_travel_and_do_not_show() {
        for secrets in [
            vec![],
            vec![Secret::new(*b"")],
            vec![Secret::new(*b"one"), Secret::new(*b""), Secret::new(*b"\0two\n")],
        ] {
            assert_eq!(unpack(&pack(&secrets)), Some(secrets));
        }
        for bad in [&b"1234567"[..], b"\x05\0\0\0\0\0\0\0abcd", &[0xff; 9]] {
            assert_eq!(unpack(bad), None);
        }
        assert_eq!(format!("{:?}", Secret::new(*b"hush")), "Secret(..)");
    }
}
