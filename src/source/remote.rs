//! Sources that lie elsewhere, once they are named by content: whoever wants their files gets them as a layer of the store.

use rbuild_cache::LayerId;

use super::git::GitSource;
use super::http::HttpSource;
use crate::error::BuildError;
use crate::graph::Op;

/// Fetches sources.
pub trait RemoteSource: Sync {
    /// The files of `Op::Http` or `Op::Git` as a layer of the store: what the digest or commit of the operation names, or
    /// an error. Called from several threads at once, and only when the solver has no record of the operation's key.
    fn fetch(&self, op: &Op) -> Result<LayerId, BuildError>;
}

/// Those that a build can fetch.
#[derive(Debug)]
pub struct Remotes {
    /// Files of web servers.
    pub http: HttpSource,
    /// Commits of repositories.
    pub git: GitSource,
}

impl RemoteSource for Remotes {
    fn fetch(&self, op: &Op) -> Result<LayerId, BuildError> {
        match op {
            Op::Http(op) => self.http.layer(op),
            Op::Git(op) => self.git.fetch(op),
            _ => Err(BuildError::message("what is no remote source cannot be fetched")),
        }
    }
}
