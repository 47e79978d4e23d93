//! The mounts that a step asks for, put into its root.
//!
//! A source is opened by the builder's path of it, and the part that is wanted by descriptor inside it, where no
//! link and no swapped directory leads out; what is mounted is that descriptor. A target is opened inside the root after
//! everything above it was mounted, and is a descriptor as well. So a path is looked up once, and never
//! where somebody else can change what it means in between.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use crate::inroot::{self, Created, Kind};
use crate::mounts::{self, failed};
use crate::spec::{ExecSpec, Mount, MountSource, Scratch};
use crate::step::{Shared, secret};
use crate::sys::{self, attr};
use crate::{Error, Ownership, emulation};

/// Mounts all of `spec.mounts` below `root`, outer ones first. What has to be made in `upper` for that goes to `created`.
pub(crate) fn mounts(
    shared: &Shared,
    spec: &ExecSpec,
    root: BorrowedFd<'_>,
    upper: BorrowedFd<'_>,
    created: &mut Created,
) -> Result<(), Error> {
    let mut order: Vec<&Mount> = spec.mounts.iter().collect();
    order.sort_by_key(|mount| parts(&mount.target).count());
    let mut sources = Sources {
        shared,
        spec,
        secrets: None,
        files: 0,
    };
    for mount in order {
        if parts(&mount.target).next().is_none() {
            return Err(Error::Setup(
                "mounting: the root itself cannot be covered".to_owned(),
            ));
        }
        let source = sources.open(mount)?;
        let target = created
            .ensure(root, upper, &mount.target, source.kind)
            .map_err(|e| {
                Error::Setup(format!(
                    "finding {} in the image, to mount there: {e}",
                    mount.target
                ))
            })?;
        if source.kind == Kind::File && file_type(&mount.target, target.as_fd())? == FileType::Directory {
            return Err(Error::Setup(format!(
                "mounting {}: it is a directory in the image, and a file is to be mounted there",
                mount.target
            )));
        }
        mounts::attach(&mount.target, &source.tree, target.as_fd())?;
    }
    Ok(())
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !matches!(*part, "" | "."))
}

/// A mount that is attached nowhere yet.
struct Source {
    tree: OwnedFd,
    kind: Kind,
}

struct Sources<'a> {
    shared: &'a Shared,
    spec: &'a ExecSpec,
    /// The file system of the step's secrets, once there is one.
    secrets: Option<OwnedFd>,
    /// How many files that has.
    files: usize,
}

impl Sources<'_> {
    fn open(&mut self, mount: &Mount) -> Result<Source, Error> {
        let what = mount.target.as_str();
        let read_only = if mount.read_only { attr::RDONLY } else { 0 };
        match &mount.source {
            MountSource::Host {
                path,
                create,
                recursive,
            } => {
                let whole = open_host(what, path)?;
                let part = part_of(what, whole, &mount.path, *create)?;
                cloned(
                    what,
                    part.as_fd(),
                    read_only | attr::NOSUID | attr::NODEV,
                    *recursive,
                )
            }
            MountSource::Layers { lowers, scratch } => {
                let whole = self.layers(what, lowers, scratch.as_ref())?;
                let part = part_of(what, whole, &mount.path, false)?;
                cloned(what, part.as_fd(), read_only | attr::NODEV, false)
            }
            MountSource::Memory { size } => {
                let size = size.filter(|size| *size > 0).map(|size| size.to_string());
                let mut options = vec![("mode", "1777")];
                options.extend(size.as_deref().map(|size| ("size", size)));
                let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
                let tree = mounts::detached(what, "tmpfs", &options, flags)?;
                if mount.read_only {
                    sys::mount_setattr(tree.as_fd(), attr::RDONLY, false).map_err(|e| failed(what, e))?;
                }
                Ok(Source {
                    tree,
                    kind: Kind::Directory,
                })
            }
            MountSource::Secret {
                secret,
                mode,
                uid,
                gid,
            } => {
                let file = self.secret_file(what, *secret, *mode, (*uid, *gid))?;
                cloned(what, file.as_fd(), QUIET_READ_ONLY, false)
            }
            MountSource::Socket { path, mode, uid, gid } => {
                let socket = open_host(what, path)?;
                self.give(what, socket.as_fd(), *mode, (*uid, *gid))?;
                cloned(what, socket.as_fd(), QUIET_READ_ONLY, false)
            }
        }
    }

    /// The trees as one, mounted out of the step's sight: a part of it can only be taken once it is mounted somewhere.
    fn layers(
        &self,
        what: &str,
        lowers: &[impl AsRef<Path>],
        scratch: Option<&Scratch>,
    ) -> Result<OwnedFd, Error> {
        let empty = mounts::directory(&self.shared.empty)?;
        if lowers.is_empty() && scratch.is_none() {
            return Ok(empty);
        }
        let mut trees = lowers
            .iter()
            .map(|lower| mounts::directory(lower.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        // One alone is no overlay.
        trees.push(empty);
        let writes = match scratch {
            None => None,
            Some(scratch) => Some((
                mounts::directory(&scratch.upper)?,
                mounts::directory(&scratch.work)?,
            )),
        };
        let writes = writes.as_ref().map(|(upper, work)| (upper.as_fd(), work.as_fd()));
        mounts::overlay(
            what,
            &trees,
            writes,
            mounts::directory(&self.shared.staging)?.as_fd(),
        )
    }

    fn secret_file(
        &mut self,
        what: &str,
        number: usize,
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> Result<OwnedFd, Error> {
        let setup = |doing: &str, e: std::io::Error| Error::Setup(format!("{doing} the secret {what}: {e}"));
        let memory = match &self.secrets {
            Some(memory) => memory,
            None => {
                let flags = MountAttrFlags::MOUNT_ATTR_NOSUID
                    | MountAttrFlags::MOUNT_ATTR_NODEV
                    | MountAttrFlags::MOUNT_ATTR_NOEXEC;
                let memory = mounts::detached("secrets", "tmpfs", &[("mode", "700")], flags)?;
                mounts::attach(
                    "secrets",
                    &memory,
                    mounts::directory(&self.shared.staging)?.as_fd(),
                )?;
                self.secrets.insert(memory)
            }
        };
        // Two mounts may show one secret with different owners.
        self.files += 1;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(memory, self.files.to_string(), flags, Mode::from_raw_mode(0o600))
            .map_err(|e| setup("making", e.into()))?;
        let mut file = std::fs::File::from(file);
        file.write_all(secret(self.spec, number)?.bytes())
            .map_err(|e| setup("writing", e))?;
        self.give(what, file.as_fd(), mode, (uid, gid))?;
        Ok(file.into())
    }

    /// Sets owner and mode of a file that was made for this step.
    fn give(&self, what: &str, file: BorrowedFd<'_>, mode: u32, (uid, gid): (u32, u32)) -> Result<(), Error> {
        let fail = |e: Errno| Error::Setup(format!("mounting {what}: giving it to {uid}:{gid}: {e}"));
        match self.shared.ownership {
            Ownership::Emulated => emulation::note_owner(file, uid, gid).map_err(fail)?,
            Ownership::Real => {
                let (user, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                rustix::fs::chownat(file, "", user, group, AtFlags::EMPTY_PATH).map_err(|e| match e {
                    Errno::INVAL => Error::Setup(format!(
                        "mounting {what}: {uid}:{gid} is outside the ids that the builder has"
                    )),
                    e => fail(e),
                })?;
            }
        }
        // By its name, because a descriptor that only names a file does not change its mode.
        rustix::fs::chmod(mounts::by_descriptor(file), Mode::from_raw_mode(mode & 0o7777)).map_err(fail)
    }
}

const QUIET_READ_ONLY: u64 = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;

fn open_host(what: &str, path: &Path) -> Result<OwnedFd, Error> {
    let opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    opened.map_err(|e| Error::Setup(format!("mounting {what}: opening {}: {e}", path.display())))
}

/// `path` inside `whole`, made as a directory when it is not there and `create` says so.
fn part_of(what: &str, whole: OwnedFd, path: &str, create: bool) -> Result<OwnedFd, Error> {
    if parts(path).next().is_none() {
        return Ok(whole);
    }
    let found = if create {
        inroot::ensure(whole.as_fd(), path, Kind::Directory, &mut Vec::new())
    } else {
        inroot::open(whole.as_fd(), path, OFlags::PATH).map_err(Into::into)
    };
    found.map_err(|e| {
        Error::Setup(format!(
            "mounting {what}: finding {path:?} in what is to be mounted: {e}"
        ))
    })
}

/// What `part` is, as a mount of its own.
fn cloned(what: &str, part: BorrowedFd<'_>, attributes: u64, recursive: bool) -> Result<Source, Error> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(part, "", flags).map_err(|e| failed(what, e))?;
    sys::mount_setattr(tree.as_fd(), attributes, recursive).map_err(|e| failed(what, e))?;
    let kind = match file_type(what, part)? {
        FileType::Directory => Kind::Directory,
        _ => Kind::File,
    };
    Ok(Source { tree, kind })
}

fn file_type(what: &str, file: BorrowedFd<'_>) -> Result<FileType, Error> {
    let stat = rustix::fs::fstat(file).map_err(|e| failed(what, e))?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}
