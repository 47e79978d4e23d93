//! The files of a commit as a layer: never a checkout. `git archive` writes them as a tar, which the one strict reader takes;
//! so no link is followed, no hook, filter or index is touched, and no file of the machine is written, whatever the
//! repository holds. Submodules are repositories of their own whose files go below their paths; nothing that `.gitmodules` says is
//! used but names, paths and URLs.

use std::collections::HashSet;
use std::io::Read;
use std::time::SystemTime;

use anyhow::{Context as _, bail, ensure};
use rbuild_cache::layer::{
    Entry, Kind, LayerBlob, LayerPath, MEDIA_TYPE_TAR, TarReader, TarWriter, Timestamp,
};
use rbuild_cache::{BlobWriter, DiffId, LayerId, Store};
use rbuild_parser::git_url::Remote;

use super::GitSource;
use super::clone::Clone;
use super::connection::Connection;
use super::failure::Failure;
use super::git_dir;
use super::lfs::{LargeFiles, Lfs};
use super::listing::{self, Listed};
use super::submodules::Submodules;
use crate::error::BuildError;
use crate::graph::GitOp;

/// How deep submodules may have submodules.
const MAX_DEPTH: usize = 16;

/// A clone is not what it should be: it is thrown away and made anew.
#[derive(Debug, thiserror::Error)]
#[error("the clone of {remote} is damaged: {failure}")]
pub struct Damaged {
    remote: String,
    failure: Failure,
}

/// A repository whose files are wanted.
struct Wanted<'a> {
    remote: Remote,
    commit: &'a str,
    /// What led to the commit; may be empty.
    reference: &'a str,
    subdir: &'a str,
    keep_git_dir: bool,
    /// Where its files go.
    prefix: LayerPath,
    depth: usize,
}

/// Writes the layer of one operation.
pub struct Export<'a> {
    source: &'a GitSource,
    op: &'a GitOp,
    /// Clones are made anew.
    renew: bool,
    tar: TarWriter<BlobWriter>,
    seen: HashSet<LayerPath>,
    directories: HashSet<LayerPath>,
    /// The time of all files, unless it is that of the commit.
    time: Option<Timestamp>,
}

/// The layer of `op`.
pub fn export(source: &GitSource, op: &GitOp, renew: bool) -> Result<LayerId, BuildError> {
    let (remote, _) = Remote::parse(&op.remote).map_err(BuildError::new)?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let time = Timestamp {
        seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: 0,
    };
    let mut export = Export {
        source,
        op,
        renew,
        tar: TarWriter::new(source.store.blob_writer().map_err(BuildError::new)?),
        seen: HashSet::new(),
        directories: HashSet::from([LayerPath::root()]),
        time: (!op.commit_time).then_some(time),
    };
    export.repository(&Wanted {
        remote,
        commit: &op.commit,
        reference: &op.reference,
        subdir: &op.subdir,
        keep_git_dir: op.keep_git_dir,
        prefix: LayerPath::root(),
        depth: 0,
    })?;
    export.finish(&source.store).map_err(BuildError::from)
}

impl Export<'_> {
    fn finish(self, store: &Store) -> anyhow::Result<LayerId> {
        let (blob, _) = self.tar.finish().context("writing the files of the repository")?;
        let (digest, size) = blob.commit(None)?;
        let blob = LayerBlob {
            media_type: MEDIA_TYPE_TAR.to_owned(),
            digest,
            size,
        };
        Ok(store.register_layer(&blob, &DiffId(digest), &[])?)
    }

    fn repository(&mut self, wanted: &Wanted<'_>) -> Result<(), BuildError> {
        if wanted.depth > MAX_DEPTH {
            return Err(BuildError::message(format!(
                "the submodules of {} nest too deep",
                self.op.remote
            )));
        }
        let source = self.source;
        let connection = source.connection(&wanted.remote).map_err(BuildError::from)?;
        let damaged = |failure| {
            BuildError::new(Damaged {
                remote: wanted.remote.to_string(),
                failure,
            })
        };
        let clone = Clone::open(&source.git, &source.store, &wanted.remote, wanted.commit)?;
        if self.renew {
            clone.renew(&source.store, wanted.commit)?;
        }
        if !clone.has(wanted.commit) {
            let sparse = !wanted.subdir.is_empty();
            clone.fetch(&connection, wanted.commit, wanted.reference, sparse)?;
        }
        clone.touch();
        check_subdir(&clone, wanted).map_err(|error| error.unwrap_or_else(damaged))?;
        let subdir = Some(wanted.subdir).filter(|subdir| !subdir.is_empty());
        let listed = clone.list(wanted.commit, subdir).map_err(damaged)?;
        for entry in &listed {
            check_names(&LayerPath::clean(&entry.path))?;
        }
        let (attributes, modules) = files_above(&clone, wanted).map_err(damaged)?;
        complete(
            &clone,
            &connection,
            wanted.commit,
            &[&listed, &attributes, &modules].map(Vec::as_slice).concat(),
            &damaged,
        )?;
        // The time of the commit, and what of it is written.
        let time = clone.time(wanted.commit).map_err(damaged)?;
        let mut tree = wanted.commit.to_owned();
        if subdir.is_some() {
            let scratch = source.store.temp_dir().map_err(BuildError::new)?;
            let wanted = [&listed, &attributes].map(Vec::as_slice).concat();
            tree = clone.tree_of(&wanted, &scratch).map_err(damaged)?;
        }
        let mut large = LargeFiles::default();
        if self.op.lfs {
            let lfs = Lfs {
                registry: &source.registry,
                options: &source.options,
                connection: &connection,
            };
            let scratch = source.store.temp_dir().map_err(BuildError::new)?;
            large = lfs.fetch(&clone, &tree, (&listed, &attributes), &scratch)?;
        }
        self.archive(&clone, wanted, (&tree, time, &large), &damaged)?;
        if wanted.keep_git_dir && subdir.is_none() {
            let tag = match wanted.reference.starts_with("refs/tags/") {
                true => clone.fetch_tag(&connection, wanted.reference, wanted.commit)?,
                false => None,
            };
            let facts = git_dir::Facts {
                remote: &wanted.remote,
                commit: wanted.commit,
                reference: wanted.reference,
                tag: tag.as_deref(),
            };
            let made = git_dir::make(&clone, &source.store, &facts)?;
            self.git_dir(made, wanted)?;
        }
        let links: Vec<&Listed> = listed
            .iter()
            .filter(|entry| entry.kind == listing::Kind::Submodule)
            .collect();
        if links.is_empty() || !self.op.submodules {
            return Ok(());
        }
        let submodules = Submodules::read(&clone, wanted.commit, &wanted.remote).map_err(damaged)?;
        // Two clones are never locked at once: another build might want them the other way round.
        drop(clone);
        for link in links {
            let Some(remote) = submodules.remote_of(&link.path)? else {
                continue;
            };
            let inside = LayerPath::strict(&link.path)
                .and_then(|path| path.strip_prefix(&LayerPath::clean(wanted.subdir.as_bytes())));
            let Some(inside) = inside else { continue };
            self.repository(&Wanted {
                remote,
                commit: &link.id,
                reference: "",
                subdir: "",
                keep_git_dir: false,
                prefix: wanted.prefix.append(&inside),
                depth: wanted.depth + 1,
            })?;
        }
        Ok(())
    }

    fn archive(
        &mut self,
        clone: &Clone<'_>,
        wanted: &Wanted<'_>,
        (tree, time, large): (&str, i64, &LargeFiles),
        damaged: &dyn Fn(Failure) -> BuildError,
    ) -> Result<(), BuildError> {
        let args = ["archive", "--format=tar", tree];
        let call = clone.git().call(args).inside(&clone.path);
        let written = call.stream(|tar| self.entries(tar, wanted, (time, large)));
        match written {
            Ok(written) => {
                let doing = || format!("reading the files of {}", wanted.remote);
                written.with_context(doing).map_err(BuildError::from)
            }
            Err(failure) => Err(damaged(failure)),
        }
    }

    fn entries(
        &mut self,
        tar: &mut dyn Read,
        wanted: &Wanted<'_>,
        (time, large): (i64, &LargeFiles),
    ) -> anyhow::Result<()> {
        let subdir = LayerPath::clean(wanted.subdir.as_bytes());
        let mut tar = TarReader::archive(tar);
        while let Some(member) = tar.next_entry()? {
            let mut entry = member.entry;
            check_names(&entry.path)?;
            let Some(inside) = entry.path.strip_prefix(&subdir).filter(|path| !path.is_root()) else {
                continue;
            };
            let large = large.open(&entry.path)?;
            entry.path = wanted.prefix.append(&inside);
            entry.mode = match entry.kind {
                Kind::Directory { .. } => 0o755,
                Kind::File { .. } if entry.mode & 0o100 == 0 => 0o644,
                Kind::File { .. } => 0o755,
                Kind::Symlink { .. } => 0o777,
                _ => bail!("{} is neither a file nor a directory nor a link", entry.path),
            };
            (entry.uid, entry.gid) = (0, 0);
            entry.mtime = Timestamp {
                seconds: time,
                nanoseconds: 0,
            };
            entry.xattrs.clear();
            match (&entry.kind, large) {
                (Kind::File { .. }, Some((mut file, size))) => {
                    entry.kind = Kind::File { size };
                    self.append(entry, Some(&mut file))?;
                }
                (Kind::File { .. }, None) => self.append(entry, Some(&mut tar))?,
                _ => self.append(entry, None)?,
            }
        }
        Ok(())
    }

    fn git_dir(&mut self, made: git_dir::GitDir, wanted: &Wanted<'_>) -> Result<(), BuildError> {
        let mut write = || -> anyhow::Result<()> {
            for (mut entry, mut bytes) in made.entries()? {
                entry.path = wanted.prefix.append(&entry.path);
                self.append(entry, bytes.as_mut().map(|bytes| &mut **bytes as &mut dyn Read))?;
            }
            Ok(())
        };
        Ok(write().context("writing .git")?)
    }

    /// One entry, which comes after its directory and only once. What a repository holds twice, as a file or link and as a
    /// directory, is made by nobody but an attacker.
    fn append(&mut self, mut entry: Entry, data: Option<&mut dyn Read>) -> anyhow::Result<()> {
        let parent = entry.path.parent().unwrap_or_default();
        ensure!(
            self.directories.contains(&parent),
            "{} does not lie in a directory",
            entry.path
        );
        let new = self.seen.insert(entry.path.clone());
        if entry.is_dir() {
            ensure!(
                new || self.directories.contains(&entry.path),
                "{} is there twice",
                entry.path
            );
            self.directories.insert(entry.path.clone());
            if !new {
                return Ok(());
            }
        }
        ensure!(new, "{} is there twice", entry.path);
        if let Some(time) = self.time {
            entry.mtime = time;
        }
        self.tar.append(&entry, data)?;
        Ok(())
    }
}

/// Fetches what is not here of these files.
fn complete(
    clone: &Clone<'_>,
    connection: &Connection<'_>,
    commit: &str,
    listed: &[Listed],
    damaged: &dyn Fn(Failure) -> BuildError,
) -> Result<(), BuildError> {
    let files: Vec<Listed> = listed
        .iter()
        .filter(|entry| matches!(entry.kind, listing::Kind::File | listing::Kind::Link))
        .cloned()
        .collect();
    let missing = clone.missing(&files).map_err(damaged)?;
    if missing.is_empty() {
        return Ok(());
    }
    clone.fetch_files(connection, commit, &missing)?;
    match clone.missing(&files).map_err(damaged)?.first() {
        None => Ok(()),
        Some(id) => Err(BuildError::message(format!(
            "the server of {} did not send the file {id}",
            connection.remote()
        ))),
    }
}

/// Files above the wanted directory that say something about those in it: attributes, and what submodules are.
fn files_above(clone: &Clone<'_>, wanted: &Wanted<'_>) -> Result<(Vec<Listed>, Vec<Listed>), Failure> {
    let (mut attributes, mut modules) = (Vec::new(), Vec::new());
    if wanted.subdir.is_empty() {
        return Ok((attributes, modules));
    }
    modules.extend(clone.look_up(wanted.commit, ".gitmodules")?);
    let mut directory = String::new();
    for part in wanted.subdir.split('/') {
        attributes.extend(clone.look_up(wanted.commit, &format!("{directory}.gitattributes"))?);
        directory = format!("{directory}{part}/");
    }
    attributes.retain(|entry| entry.kind == listing::Kind::File);
    Ok((attributes, modules))
}

/// The sub-directory has to be one, and so has all above it: no link and no other repository (A3-1). The error is that
/// of the build, or of a clone that cannot say.
fn check_subdir(clone: &Clone<'_>, wanted: &Wanted<'_>) -> Result<(), Result<BuildError, Failure>> {
    let mut path = String::new();
    for part in wanted.subdir.split('/').filter(|part| !part.is_empty()) {
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(part);
        let refused = |what: &str| {
            let remote = &wanted.remote;
            Err(Ok(BuildError::message(format!(
                "the sub-directory {path:?} of {remote} {what}"
            ))))
        };
        return match clone
            .look_up(wanted.commit, &path)
            .map_err(Err)?
            .map(|found| found.kind)
        {
            Some(listing::Kind::Directory) => continue,
            Some(listing::Kind::Link) => refused("is a symbolic link"),
            Some(listing::Kind::Submodule) => {
                refused("is a submodule: name the repository of the submodule instead")
            }
            Some(listing::Kind::File) => refused("is a file"),
            None => refused("does not exist"),
        };
    }
    Ok(())
}

/// Git itself refuses to check these out: on other systems they would be `.git`.
fn check_names(path: &LayerPath) -> anyhow::Result<()> {
    match path.components().find(|name| is_dot_git(name)) {
        None => Ok(()),
        Some(_) => bail!("{path} is a name that git refuses"),
    }
}

/// `.git` in any case, with characters that some file systems pass over, or its short name.
fn is_dot_git(name: &[u8]) -> bool {
    let text = String::from_utf8_lossy(name);
    let ignored = |c: char| matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    let plain: String = text.chars().filter(|c| !ignored(*c)).collect();
    let plain = plain.split(':').next().unwrap_or_default();
    let plain = plain.trim_end_matches([' ', '.']);
    [".git", "git~1"]
        .iter()
        .any(|bad| plain.eq_ignore_ascii_case(bad))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_dot_git() {
        for bad in [
            ".git",
            ".GIT",
            ".Git ",
            ".git...",
            "git~1",
            "GIT~1",
            ".g\u{200c}it",
            ".git:x",
        ] {
            assert!(is_dot_git(bad.as_bytes()), "{bad:?}");
        }
        for fine in [".gitignore", ".gitmodules", "git", ".github", "x.git", ".git2"] {
            assert!(!is_dot_git(fine.as_bytes()), "{fine:?}");
        }
        assert!(check_names(&LayerPath::clean(b"a/.GiT/hooks")).is_err());
    }
}
