//! `--locked`: what names mean is in the lock file, and nobody is asked. `rbuild lock` finds out through the same door what is
//! to be written there.

use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, bail, ensure};
use rbuild_cache::Digest;
use rbuild_parser::git_url::GitUrl;

use super::Build;
use super::announced::Announced;
use crate::cli::config;
use crate::error::BuildError;
use crate::frontend::{GitRequest, HttpRequest, ImageMeta, MetaResolver};
use crate::graph::address::masked;
use crate::graph::{Address, CopyOp, GitOp, HttpOp, Platform, Reference};
use crate::source::image::{LAYOUT_PREFIX, PullPolicy};
use crate::source::lock::{LOCK_LIMIT, Lock, LockedCommit, LockedFile, LockedImage, git_name};
use crate::source::remote::Remotes;

/// The flags about the lock file.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Sources")]
pub struct LockedArgs {
    /// Build from what the lock file has (see `rbuild lock`): no name is looked up, and what is not in it or has changed is an error
    #[arg(long)]
    pub locked: bool,
    /// The lock file; a build is --locked then [default: the Dockerfile's name and .lock, beside it]
    #[arg(long, value_name = "FILE")]
    pub lock_file: Option<PathBuf>,
}

/// Which entries of a lock file hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holding {
    /// All, and there are no others (`--locked`).
    Only,
    /// All; what is missing is looked up (`rbuild lock`).
    Known,
    /// All but those of these names (`rbuild lock --update=NAME`).
    But(Vec<String>),
    /// None (`rbuild lock --update`, `--check`).
    None,
}

/// A lock file in use.
#[derive(Debug)]
pub(super) struct Pins {
    path: PathBuf,
    holding: Holding,
    /// What the file has.
    pub(super) lock: Lock,
    /// What was asked for so far, and what it is.
    found: Mutex<Lock>,
}

impl Pins {
    /// The lock file at `path`; an empty one if there is none and all may be looked up.
    pub(super) fn read(path: PathBuf, holding: Holding) -> anyhow::Result<Self> {
        let lock = match text(&path)? {
            Some(text) => config::parse(&text, &path)?,
            None if holding == Holding::Only => {
                return Err(
                    BuildError::message(format!("there is no lock file {}", path.display()))
                        .hint(Some("`rbuild lock` with the same flags writes it".to_owned()))
                        .into(),
                );
            }
            None => Lock::default(),
        };
        Ok(Self {
            path,
            holding,
            lock,
            found: Mutex::default(),
        })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What was asked for, and what it is.
    pub(super) fn into_found(self) -> (Lock, Lock) {
        let found = self.found.into_inner().unwrap_or_else(PoisonError::into_inner);
        (self.lock, found)
    }

    /// The entry of `name` if it holds.
    fn held<'a, T>(&self, entry: Option<&'a T>, name: &str) -> anyhow::Result<Option<&'a T>> {
        match &self.holding {
            Holding::Only if entry.is_none() => Err(self.missing(name)),
            Holding::None => Ok(None),
            Holding::But(names) if names.iter().any(|wanted| is_meant(wanted, name)) => Ok(None),
            _ => Ok(entry),
        }
    }

    fn missing(&self, what: &str) -> anyhow::Error {
        let error = BuildError::message(format!("{what} is not in {}", self.path.display()));
        error
            .hint(Some("`rbuild lock` with the same flags adds it".to_owned()))
            .into()
    }

    fn record(&self, add: impl FnOnce(&mut Lock)) {
        add(&mut self.found.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Whether somebody who says `wanted` means the entry `name`.
pub(super) fn is_meant(wanted: &str, name: &str) -> bool {
    let repository = |name: &str| name.split(['#', '?']).next().map(str::to_owned);
    wanted == name
        || Reference::parse(wanted).is_ok_and(|reference| reference.to_string() == name)
        || repository(name).is_some_and(|repository| repository == wanted)
}

/// The file's text, if it is there. A pipe is not waited for.
fn text(path: &Path) -> anyhow::Result<Option<String>> {
    let reading = || format!("reading {}", path.display());
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = std::fs::File::options()
        .read(true)
        .custom_flags(nonblocking)
        .open(path);
    let file = match file {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.with_context(reading)?,
    };
    ensure!(
        file.metadata().with_context(reading)?.is_file(),
        "{}: it is no regular file",
        reading()
    );
    let mut text = String::new();
    let size = file.take(LOCK_LIMIT + 1).read_to_string(&mut text);
    ensure!(
        size.with_context(reading)? as u64 <= LOCK_LIMIT,
        "{}: it has more than {LOCK_LIMIT} bytes",
        reading()
    );
    Ok(Some(text))
}

/// Answers from the lock file, and asks for the rest.
pub(super) struct Locked<'a> {
    pub(super) pins: &'a Pins,
    pub(super) announced: Announced<'a>,
}

impl Locked<'_> {
    fn remotes(&self, url: &str) -> anyhow::Result<&Remotes> {
        let remotes = self.announced.remotes;
        remotes.with_context(|| format!("{} is not asked for here", masked(url)))
    }

    /// An image that the lock file names by digest.
    fn locked_image(
        &self,
        reference: &str,
        name: &str,
        entry: &LockedImage,
        platform: &Platform,
    ) -> anyhow::Result<ImageMeta> {
        let wanted = entry.platforms.get(&platform.to_string());
        if wanted.is_none() && self.pins.holding == Holding::Only {
            return Err(self.pins.missing(&format!("{name} for {platform}")));
        }
        let images = self.announced.images;
        let meta = self.announced.image_step(reference, platform, || {
            match reference.strip_prefix(LAYOUT_PREFIX) {
                Some(location) => images.resolve_layout(location, platform),
                None => {
                    let digest = *wanted.unwrap_or(&entry.digest);
                    let pinned = images.full_name(reference)?.with_digest(digest);
                    images.resolve(&pinned, platform, PullPolicy::Missing)
                }
            }
        })?;
        if let Some(wanted) = wanted
            && meta.op.manifest != *wanted
        {
            bail!(moved(name, &self.pins.path, wanted, &meta.op.manifest));
        }
        let mut meta = meta;
        // As it is called in the Dockerfile: messages say so, and it counts in no key.
        name.clone_into(&mut meta.op.reference);
        Ok(meta)
    }
}

fn moved(name: &str, path: &Path, wanted: &Digest, found: &Digest) -> BuildError {
    BuildError::message(format!(
        "{name} is {found} now, but {} says {wanted}",
        path.display()
    ))
    .hint(Some(format!(
        "`rbuild lock --update={name}` takes what it is now"
    )))
}

impl MetaResolver for Locked<'_> {
    fn resolve_image(&self, reference: &str, platform: &Platform) -> anyhow::Result<ImageMeta> {
        let images = self.announced.images;
        let name = match reference.strip_prefix(LAYOUT_PREFIX) {
            // A digest needs no other.
            Some(location) if location.contains("@sha256:") => None,
            Some(_) => Some(reference.to_owned()),
            None => {
                let name = images.full_name(reference)?;
                name.digest().is_none().then(|| name.to_string())
            }
        };
        let Some(name) = name else {
            return self.announced.resolve_image(reference, platform);
        };
        let held = self.pins.held(self.pins.lock.images.get(&name), &name)?;
        let (digest, meta) = match held {
            Some(entry) => (
                entry.digest,
                self.locked_image(reference, &name, entry, platform)?,
            ),
            None => self
                .announced
                .image_step(reference, platform, || images.look_up(reference, platform))?,
        };
        let manifest = meta.op.manifest;
        self.pins.record(|found| {
            let entry = found.images.entry(name).or_insert_with(|| LockedImage {
                digest,
                platforms: std::collections::BTreeMap::new(),
            });
            entry.platforms.insert(platform.to_string(), manifest);
        });
        Ok(meta)
    }

    fn meanwhile(&self, reads: &[CopyOp], is_over: &AtomicBool) {
        self.announced.meanwhile(reads, is_over);
    }

    fn resolve_http(&self, request: &HttpRequest) -> anyhow::Result<HttpOp> {
        if request.checksum.is_some() {
            return self.announced.resolve_http(request);
        }
        let url = Address::parse(&request.url)?.url;
        let op = match self.pins.held(self.pins.lock.files.get(&url), &url)? {
            Some(file) => {
                let remotes = self.remotes(&url)?;
                remotes
                    .http
                    .locked(request, file.digest, file.modified, &self.pins.path)?
            }
            None => self.announced.resolve_http(request)?,
        };
        let file = LockedFile {
            digest: op.digest,
            modified: op.modified.unwrap_or_default(),
        };
        self.pins.record(|found| found.files.extend([(url, file)]));
        Ok(op)
    }

    fn resolve_git(&self, request: &GitRequest) -> anyhow::Result<GitOp> {
        let url = GitUrl::of_context(&request.url)?
            .with_context(|| format!("{} is no git repository", masked(&request.url)))?
            .with_flags(request.checksum.as_deref(), request.keep_git_dir)?;
        if !url.asks_server() {
            return self.announced.resolve_git(request);
        }
        let name = git_name(&url);
        let op = match self.pins.held(self.pins.lock.git.get(&name), &name)? {
            Some(found) => {
                let remotes = self.remotes(&request.url)?;
                if self.announced.trusts_dockerfile {
                    remotes.git.trust(&url.remote);
                }
                remotes
                    .git
                    .at_commit(&url, found.commit.clone(), found.reference.clone())
            }
            None => self.announced.resolve_git(request)?,
        };
        let commit = LockedCommit {
            commit: op.commit.clone(),
            reference: op.reference.clone(),
        };
        self.pins.record(|found| found.git.extend([(name, commit)]));
        Ok(op)
    }
}

impl Build<'_> {
    /// Where the lock file of this build is.
    pub(super) fn lock_path(&self) -> anyhow::Result<PathBuf> {
        if let Some(path) = &self.options.locked.lock_file {
            return Ok(path.clone());
        }
        let dockerfile = self.dockerfile()?.path();
        let mut path = dockerfile
            .context(
                "the Dockerfile is no file of this machine, so nothing lies beside it: give --lock-file FILE",
            )?
            .as_os_str()
            .to_owned();
        path.push(".lock");
        Ok(path.into())
    }

    /// The lock file, if the build is to hold it.
    pub(super) fn pins(&self) -> anyhow::Result<Option<Pins>> {
        let asked = &self.options.locked;
        if !asked.locked && asked.lock_file.is_none() {
            return Ok(None);
        }
        ensure!(
            self.options.pull == PullPolicy::Missing,
            "--pull asks what names mean now and --locked does not: leave one of them out"
        );
        Pins::read(self.lock_path()?, Holding::Only).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_meant_by_more_than_their_whole_name() {
        for (wanted, name, expected) in [
            ("debian:12", "docker.io/library/debian:12", true),
            ("debian", "docker.io/library/debian:latest", true),
            ("debian", "docker.io/library/debian:12", false),
            ("https://h/r.git", "https://h/r.git?checksum=abcd#v1", true),
            ("https://h/r.git#main", "https://h/r.git#v1", false),
            ("https://h/f", "https://h/f", true),
        ] {
            assert_eq!(is_meant(wanted, name), expected, "{wanted} {name}");
        }
    }
}
