//! Sources that lie elsewhere, once they are named by content: whoever wants their files gets them as a layer of the store.

use std::fmt;

use rbuild_cache::LayerId;

use crate::error::BuildError;
use crate::graph::Op;

/// Fetches sources.
pub trait RemoteSource: Sync {
    /// The files of `Op::Http` or `Op::Git` as a layer of the store: what the digest or commit of the operation names, or
    /// an error. Called from several threads at once, and only when the solver has no record of the operation's key.
    fn fetch(&self, op: &Op) -> Result<LayerId, BuildError>;
}

/// Fetches nothing: for graphs without remote sources.
#[derive(Debug, Clone, Copy)]
pub struct NoRemotes;

impl RemoteSource for NoRemotes {
    fn fetch(&self, op: &Op) -> Result<LayerId, BuildError> {
        Err(BuildError::message(format!(
            "{} cannot be fetched here",
            Shown(op)
        )))
    }
}

/// A source as messages name it.
#[derive(Debug)]
pub struct Shown<'a>(pub &'a Op);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Op::Http(op) => f.write_str(&op.url),
            Op::Git(op) => write!(f, "{}#{}", op.remote, op.commit),
            _ => f.write_str("what is no remote source"),
        }
    }
}
