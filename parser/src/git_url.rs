//! Git repositories as sources (spec 7.2): `https://host/repo.git#ref:subdir`, `ssh://`, `git://`, `git@host:path`, and
//! everything that may stand in the fragment and the query.
//!
//! Whoever writes such a URL decides what is given to `git` and `ssh` on a command line. So nothing of it may begin like
//! an option, hold a control character or name another transport, and credentials are kept apart from all that is
//! shown, compared or handed on as text.

mod decode;
mod query;
mod remote;

use std::fmt;

pub use remote::{Credentials, Remote, Scheme};

use decode::percent;
use query::Query;

/// A repository and what of it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitUrl {
    /// The repository, without credentials.
    pub remote: Remote,
    /// What stood before the host of an http(s) URL.
    pub credentials: Option<Credentials>,
    /// Branch, tag, full ref or full commit id; without it the default branch.
    pub reference: Option<String>,
    /// The directory of the repository that is the root, clean and relative; without it all.
    pub subdir: Option<String>,
    /// The commit, or its first digits, that the ref has to lead to; lower case.
    pub checksum: Option<String>,
    /// Whether `.git` stays.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are filled.
    pub submodules: Option<bool>,
    /// Which times files bear.
    pub mtime: Option<Mtime>,
    /// Whether the commit of `checksum` is fetched whatever the ref leads to.
    pub fetch_by_commit: bool,
}

/// Times of the files of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mtime {
    /// When they are written.
    Checkout,
    /// When the commit was made.
    Commit,
}

/// Why a text is no repository that may be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GitUrlError {
    /// The host.
    #[error("the git URL has an invalid host {0:?}")]
    Host(String),
    /// The port.
    #[error("the git URL has an invalid port {0:?}")]
    Port(String),
    /// The user.
    #[error("the git URL has an invalid user {0:?}")]
    User(String),
    /// A password that nothing takes.
    #[error("a git URL of {0}:// takes no password")]
    Password(&'static str),
    /// The path of the repository.
    #[error("the git URL has an invalid path {0:?}")]
    Path(String),
    /// A control character, plain or encoded, or a broken `%`.
    #[error("the git URL holds a control character or a broken percent-encoding")]
    Encoding,
    /// A transport that is not spoken.
    #[error("the git transport {0:?} is not allowed: use https, ssh, http or git")]
    Transport(String),
    /// The ref.
    #[error("invalid git ref {0:?}")]
    Reference(String),
    /// The directory.
    #[error("the sub-directory {0:?} leads out of the repository")]
    Subdir(String),
    /// The commit.
    #[error("invalid git checksum {0:?}: it must be a commit id, or at least 4 digits of one")]
    Checksum(String),
    /// Two things that say different.
    #[error("{what} conflicts: {one:?} vs {other:?}")]
    Conflict {
        /// Of what.
        what: &'static str,
        /// First.
        one: String,
        /// Second.
        other: String,
    },
    /// Both `branch=` and `tag=`.
    #[error("branch conflicts with tag")]
    BranchAndTag,
    /// A part of the query without value.
    #[error("query {0:?} has no value")]
    NoValue(String),
    /// A part of the query that comes twice.
    #[error("query {0:?} has multiple values")]
    Repeated(String),
    /// An unknown part of the query.
    #[error("unexpected query {0:?}")]
    Unexpected(String),
    /// A value that is not one of those possible.
    #[error("invalid {0} value: {1:?}")]
    Value(&'static str, String),
    /// `fetch-by-commit` without a full commit id.
    #[error("fetch-by-commit needs a full commit id: give checksum=")]
    FetchByCommit,
}

impl GitUrl {
    /// Reads a build context or the value of a named one; `None` when it is no git URL. Also takes
    /// `github.com/owner/repository`.
    pub fn of_context(text: &str) -> Result<Option<Self>, GitUrlError> {
        match text.strip_prefix("github.com/") {
            Some(path) => Self::parse(&format!("https://github.com/{path}"), true),
            None => Self::parse(text, false),
        }
    }

    /// Reads an operand of ADD; `None` when it is no git URL.
    pub fn of_add(text: &str) -> Result<Option<Self>, GitUrlError> {
        Self::parse(text, false)
    }

    /// Whether only the server knows which commit it is.
    pub fn asks_server(&self) -> bool {
        let known = match self.fetch_by_commit {
            true => self.checksum.as_deref(),
            false => self.reference.as_deref(),
        };
        !known.is_some_and(is_commit)
    }

    fn parse(text: &str, any_path: bool) -> Result<Option<Self>, GitUrlError> {
        let Some((remote, rest)) = remote::split(text, any_path) else {
            return Ok(None);
        };
        let (remote, credentials) = remote?;
        let (query, fragment) = match rest.split_once('#') {
            Some((query, fragment)) => (query, fragment),
            None => (rest, ""),
        };
        let query = Query::parse(query.strip_prefix('?').unwrap_or_default())?;
        let fragment = percent(fragment, false)?;
        let (reference, subdir) = fragment.split_once(':').unwrap_or((&fragment, ""));
        let mut url = Self {
            remote,
            credentials,
            reference: some(reference),
            subdir: some(subdir),
            checksum: None,
            keep_git_dir: None,
            submodules: None,
            mtime: None,
            fetch_by_commit: false,
        };
        url.apply(&query)?;
        url.check()?;
        Ok(Some(url))
    }

    fn apply(&mut self, query: &Query) -> Result<(), GitUrlError> {
        merge("ref", &mut self.reference, query.text("ref"))?;
        merge("subdir", &mut self.subdir, query.text("subdir"))?;
        let (branch, tag) = (query.text("branch"), query.text("tag"));
        if branch.is_some() && tag.is_some() {
            return Err(GitUrlError::BranchAndTag);
        }
        for (value, prefix) in [(branch, "refs/heads/"), (tag, "refs/tags/")] {
            let full = value.map(|value| match value.starts_with(prefix) {
                true => value,
                false => format!("{prefix}{value}"),
            });
            merge("ref", &mut self.reference, full)?;
        }
        let mut checksum = query.text("checksum");
        merge("checksum", &mut checksum, query.text("commit"))?;
        self.checksum = checksum;
        self.keep_git_dir = query.flag("keep-git-dir")?;
        self.submodules = query.flag("submodules")?;
        self.fetch_by_commit = query.flag("fetch-by-commit")?.unwrap_or(false);
        self.mtime = match query.text("mtime").as_deref() {
            None => None,
            Some("checkout") => Some(Mtime::Checkout),
            Some("commit") => Some(Mtime::Commit),
            Some(other) => return Err(GitUrlError::Value("mtime", other.to_owned())),
        };
        Ok(())
    }

    fn check(&mut self) -> Result<(), GitUrlError> {
        if let Some(subdir) = self.subdir.take() {
            self.subdir = clean(&subdir)?;
        }
        if let Some(checksum) = &mut self.checksum {
            *checksum = commit_prefix(checksum)?;
            if self.reference.is_none() {
                self.reference = Some(checksum.clone());
            }
        }
        if let Some(reference) = &self.reference {
            check_reference(reference)?;
        }
        if self.fetch_by_commit && !self.checksum.as_deref().is_some_and(is_commit) {
            return Err(GitUrlError::FetchByCommit);
        }
        Ok(())
    }

    /// Adds the flags of ADD (`--checksum`, `--keep-git-dir`), which must not say otherwise than the URL.
    pub fn with_flags(
        mut self,
        checksum: Option<&str>,
        keep_git_dir: Option<bool>,
    ) -> Result<Self, GitUrlError> {
        if let Some(checksum) = checksum {
            let checksum = commit_prefix(checksum)?;
            merge("checksum", &mut self.checksum, Some(checksum))?;
        }
        if let (Some(one), Some(other)) = (self.keep_git_dir, keep_git_dir)
            && one != other
        {
            let what = "keep-git-dir";
            let (one, other) = (one.to_string(), other.to_string());
            return Err(GitUrlError::Conflict { what, one, other });
        }
        self.keep_git_dir = self.keep_git_dir.or(keep_git_dir);
        Ok(self)
    }
}

impl fmt::Display for GitUrl {
    /// The repository and what of it, without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.remote)?;
        match (&self.reference, &self.subdir) {
            (None, None) => Ok(()),
            (reference, None) => write!(f, "#{}", reference.as_deref().unwrap_or_default()),
            (reference, Some(subdir)) => write!(f, "#{}:{subdir}", reference.as_deref().unwrap_or_default()),
        }
    }
}

/// Whether `text` is a whole commit id, of SHA-1 or SHA-256.
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64)
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn merge(what: &'static str, known: &mut Option<String>, value: Option<String>) -> Result<(), GitUrlError> {
    match (known.as_ref(), value) {
        (Some(one), Some(other)) if *one != other => Err(GitUrlError::Conflict {
            what,
            one: one.clone(),
            other,
        }),
        (None, value) => {
            *known = value;
            Ok(())
        }
        _ => Ok(()),
    }
}

fn clean(subdir: &str) -> Result<Option<String>, GitUrlError> {
    let parts: Vec<&str> = subdir
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    if parts.contains(&"..") {
        return Err(GitUrlError::Subdir(subdir.to_owned()));
    }
    Ok(some(&parts.join("/")))
}

fn commit_prefix(text: &str) -> Result<String, GitUrlError> {
    let valid = (4..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match valid {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(GitUrlError::Checksum(text.to_owned())),
    }
}

/// The rules of `git check-ref-format`, and nothing that begins like an option.
fn check_reference(text: &str) -> Result<(), GitUrlError> {
    let component = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    let bad = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    let valid = text.split('/').all(component)
        && !text.starts_with('-')
        && !text.ends_with('.')
        && !text.contains("..")
        && !text.contains("@{")
        && text != "@"
        && !text.contains(bad);
    match valid {
        true => Ok(()),
        false => Err(GitUrlError::Reference(text.to_owned())),
    }
}

#[cfg(test)]
mod tests;
