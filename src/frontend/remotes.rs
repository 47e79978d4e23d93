//! What lies elsewhere and has to be asked for before there is a graph: files of web servers, commits of repositories.
//!
//! An operand of ADD is known only once its instruction is lowered. So stages are lowered with placeholders for what is
//! not known, all that was asked for is resolved, several at a time, and they are lowered again.

use std::collections::BTreeMap;

use rbuild_cache::Digest;

use super::MetaResolver;
use crate::error::BuildError;
use crate::graph::{GitOp, HttpOp, Location, Op};

/// How many servers are asked at the same time.
const PARALLEL: usize = 8;

/// A file of a web server that a build wants.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HttpRequest {
    /// The address as it was written, with user name and password.
    pub url: String,
    /// How the file is to be called.
    pub filename: String,
    /// The digest that it has to have (`--checksum`): then the server need not be asked.
    pub checksum: Option<Digest>,
    /// More bytes than this are refused.
    pub limit: Option<u64>,
}

/// A commit that a build wants.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GitRequest {
    /// The repository as it was written, with user name, password, query and fragment.
    pub url: String,
    /// `--keep-git-dir`, if it was given.
    pub keep_git_dir: Option<bool>,
    /// `--checksum`: a commit or how it begins.
    pub checksum: Option<String>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RemoteRequest {
    Http(HttpRequest),
    Git(GitRequest),
}

/// What is known of remote sources.
#[derive(Debug, Default)]
pub(super) struct Remotes {
    answers: BTreeMap<RemoteRequest, Op>,
    wanted: Vec<(RemoteRequest, Location)>,
}

impl Remotes {
    /// The source that answers a request, or one that stands for it until [`Remotes::resolve`].
    pub(super) fn get(&mut self, request: RemoteRequest, location: &Location) -> Op {
        if let Some(known) = self.answers.get(&request) {
            return known.clone();
        }
        let placeholder = request.placeholder();
        if !self.wanted.iter().any(|(wanted, _)| *wanted == request) {
            self.wanted.push((request, location.clone()));
        }
        placeholder
    }

    /// Asks for all that was wanted; `false` when there was nothing.
    pub(super) fn resolve(&mut self, resolver: &dyn MetaResolver) -> Result<bool, BuildError> {
        let wanted = std::mem::take(&mut self.wanted);
        for some in wanted.chunks(PARALLEL) {
            let answers: Vec<anyhow::Result<Op>> = std::thread::scope(|scope| {
                let threads: Vec<_> = some
                    .iter()
                    .map(|(request, _)| scope.spawn(move || request.resolve(resolver)))
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| {
                        thread
                            .join()
                            .unwrap_or_else(|_| Err(anyhow::anyhow!("asking for a remote source broke off")))
                    })
                    .collect()
            });
            for ((request, location), answer) in some.iter().zip(answers) {
                let op = answer.map_err(|error| BuildError::from(error).at(Some(location.clone())))?;
                self.answers.insert(request.clone(), op);
            }
        }
        Ok(!wanted.is_empty())
    }
}

impl RemoteRequest {
    fn resolve(&self, resolver: &dyn MetaResolver) -> anyhow::Result<Op> {
        match self {
            Self::Http(request) => resolver.resolve_http(request).map(Op::Http),
            Self::Git(request) => resolver.resolve_git(request).map(Op::Git),
        }
    }

    /// Differs for different requests, and says nothing secret.
    fn placeholder(&self) -> Op {
        let digest = Digest::of(format!("{self:?}").as_bytes());
        match self {
            Self::Http(request) => Op::Http(HttpOp {
                url: String::new(),
                digest,
                filename: request.filename.clone(),
                modified: None,
            }),
            Self::Git(_) => Op::Git(GitOp {
                remote: String::new(),
                reference: String::new(),
                commit: digest.hex(),
                subdir: String::new(),
                keep_git_dir: false,
                submodules: false,
                commit_time: false,
                lfs: false,
            }),
        }
    }
}
