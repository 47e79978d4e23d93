//! Git repositories: which commit a ref leads to, and its files as a layer.
//!
//! Everything goes through the `git` binary (`command`), once to ask (`ls-remote`; not for a full commit id) and once to fetch,
//! into a clone that the store keeps (`clone`). Nothing is ever checked out (`export`).

mod auth;
mod clone;
mod command;
mod connection;
mod export;
mod failure;
mod git_dir;
mod lfs;
mod listing;
mod refs;
mod submodules;

use std::sync::Arc;

use rbuild_cache::{LayerId, Store};
use rbuild_parser::git_url::{GitUrl, Mtime, Remote, Scheme};

pub use auth::GitAuth;
pub use command::kill_running;

use crate::error::BuildError;
use crate::graph::GitOp;
use crate::registry::{FetchOptions, Registry};
use crate::source::agent::Agents;
use command::Git;
use connection::{Connection, Moved};

/// The agent of `--ssh` that repositories behind ssh are fetched with.
const AGENT: &str = "default";

/// Repositories.
#[derive(Debug)]
pub struct GitSource {
    store: Store,
    git: Git,
    auth: GitAuth,
    moved: Moved,
    /// What fetches large files, and how.
    registry: Registry,
    options: FetchOptions,
    agents: Arc<Agents>,
}

impl GitSource {
    /// Repositories whose clones are kept in `store`. Large files are fetched by `registry`.
    pub fn new(store: Store, auth: GitAuth, registry: Registry, options: FetchOptions) -> Self {
        Self {
            store,
            git: Git::new(options.stall_limit),
            auth,
            moved: Moved::default(),
            registry,
            options,
            agents: Arc::default(),
        }
    }

    /// With the agents that the user has named: the one called `default` is asked for keys.
    #[must_use]
    pub fn with_agents(self, agents: Arc<Agents>) -> Self {
        Self { agents, ..self }
    }

    /// Says that the user trusts the server of this repository with secrets that name no server.
    pub fn trust(&self, remote: &Remote) {
        self.auth.trust(remote);
    }

    /// The commit that `url` leads to.
    pub fn resolve(&self, url: &GitUrl) -> Result<GitOp, BuildError> {
        self.auth.learn(&url.remote, url.credentials.as_ref());
        let connection = self.connection(&url.remote).map_err(BuildError::from)?;
        let checksum = url.checksum.as_deref();
        let reference = match checksum {
            Some(commit) if url.fetch_by_commit => Some(commit),
            _ => url.reference.as_deref(),
        };
        let found = refs::resolve(&connection, reference)?;
        found.check(checksum)?;
        Ok(self.at_commit(url, found.commit, found.reference))
    }

    /// The commit of `url` that somebody knows, and the ref that led to it. Nobody is asked.
    pub fn at_commit(&self, url: &GitUrl, commit: String, reference: String) -> GitOp {
        self.auth.learn(&url.remote, url.credentials.as_ref());
        GitOp {
            remote: url.remote.to_string(),
            reference,
            commit,
            subdir: url.subdir.clone().unwrap_or_default(),
            keep_git_dir: url.keep_git_dir.unwrap_or(false),
            submodules: url.submodules.unwrap_or(true),
            commit_time: url.mtime != Some(Mtime::Checkout),
            lfs: lfs::are_wanted(),
        }
    }

    /// The files of a commit as a layer.
    pub fn fetch(&self, op: &GitOp) -> Result<LayerId, BuildError> {
        match export::export(self, op, false) {
            Err(error) if error.cause.is::<export::Damaged>() => export::export(self, op, true),
            other => other,
        }
    }

    fn connection<'a>(&'a self, remote: &'a Remote) -> anyhow::Result<Connection<'a>> {
        if remote.scheme() == Scheme::Ssh
            && let Some(socket) = self.agents.for_program(AGENT, &self.store)?
        {
            self.git.use_agent(socket);
        }
        Ok(Connection::new(&self.git, &self.auth, &self.moved, remote))
    }
}

#[cfg(test)]
mod tests;
