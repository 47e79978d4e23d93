//! What stands in for a mount where nothing can be mounted: the files themselves, moved into the root for the time of the step.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};

use crate::Error;
use crate::cover::by_descriptor;
use crate::inroot::{self, Kind};
use crate::spec::{ExecSpec, Mount, MountSource};
use crate::step::secret;

/// What is put at a place of the root.
#[derive(Debug)]
pub(crate) enum StandIn<'a> {
    /// An empty directory of this mode.
    Directory(u32),
    /// A file.
    File {
        bytes: &'a [u8],
        mode: u32,
        owner: (u32, u32),
    },
    /// Something of the store, brought back afterwards.
    Moved(Origin),
    /// Another name of a socket.
    Socket {
        path: &'a Path,
        mode: u32,
        owner: (u32, u32),
    },
}

/// Where something that was moved belongs.
#[derive(Debug)]
pub(crate) struct Origin {
    parent: OwnedFd,
    name: OsString,
    is_dir: bool,
}

impl StandIn<'_> {
    /// What stands in for `mount` of `spec`. Only what lies in `store` is moved: the store knows what becomes of it when the build is
    /// killed meanwhile.
    pub(crate) fn of<'a>(mount: &'a Mount, spec: &'a ExecSpec, store: &Path) -> Result<StandIn<'a>, Error> {
        let refuse = |what: &str| {
            Err(Error::Setup(format!(
                "mounting {}: isolation \"chroot\" cannot mount {what} (start the container that rbuild runs in with user \
                 namespaces: --security-opt seccomp=unconfined)",
                mount.target
            )))
        };
        match &mount.source {
            MountSource::Host { path, create, .. } if path.starts_with(store) => {
                let failed = |e: io::Error| Error::Setup(format!("mounting {}: {e}", mount.target));
                Origin::of(path, &mount.path, *create)
                    .map(StandIn::Moved)
                    .map_err(failed)
            }
            MountSource::Host { .. } => refuse("a directory of the machine"),
            MountSource::Layers { .. } => refuse("layers"),
            MountSource::Memory { .. } => Ok(StandIn::Directory(0o1777)),
            MountSource::Secret {
                secret: number,
                mode,
                uid,
                gid,
            } => {
                if !is_memory(store) {
                    return refuse(
                        "a secret, which may lie in memory only: give it as a variable (--mount=type=secret,id=...,env=NAME), or have the \
                         store in memory (--root on a tmpfs),",
                    );
                }
                Ok(StandIn::File {
                    bytes: secret(spec, *number)?.bytes(),
                    mode: *mode,
                    owner: (*uid, *gid),
                })
            }
            MountSource::Socket { path, mode, uid, gid } => Ok(StandIn::Socket {
                path,
                mode: *mode,
                owner: (*uid, *gid),
            }),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            StandIn::Directory(_) | StandIn::Moved(Origin { is_dir: true, .. }) => Kind::Directory,
            _ => Kind::File,
        }
    }

    /// Puts it at `name` of `directory`, where nothing is. What has to be brought back is returned.
    pub(crate) fn put(self, directory: BorrowedFd<'_>, name: &str) -> io::Result<Option<Origin>> {
        let place = format!("{}/{name}", by_descriptor(directory));
        match self {
            StandIn::Directory(mode) => {
                rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755))?;
                rustix::fs::chmod(place, Mode::from_raw_mode(mode))?;
            }
            StandIn::File { bytes, mode, owner } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let file = rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600))?;
                let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
                rustix::fs::fchown(&file, Some(uid), Some(gid))?;
                rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
                std::fs::File::from(file).write_all(bytes)?;
            }
            StandIn::Moved(origin) => {
                rustix::fs::renameat(&origin.parent, &*origin.name, directory, name)?;
                return Ok(Some(origin));
            }
            StandIn::Socket { path, mode, owner } => {
                rustix::fs::linkat(CWD, path, directory, name, AtFlags::empty())?;
                let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
                rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
                rustix::fs::chmod(place, Mode::from_raw_mode(mode))?;
            }
        }
        Ok(None)
    }
}

impl Origin {
    /// The part `part` of `whole`, links followed inside of it; made, as a directory, when it is missing and `create` says so.
    fn of(whole: &Path, part: &str, create: bool) -> io::Result<Origin> {
        let root = rustix::fs::open(whole, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let found = match create {
            true => inroot::ensure(root.as_fd(), part, Kind::Directory, &mut Vec::new())?,
            false if part == "/" => root,
            false => inroot::open(root.as_fd(), part, OFlags::PATH)?,
        };
        let is_dir = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) == FileType::Directory;
        let path: PathBuf = std::fs::read_link(by_descriptor(found.as_fd()))?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Origin {
            parent: rustix::fs::open(parent, flags, Mode::empty())?,
            name: name.to_owned(),
            is_dir,
        })
    }

    /// Brings back what lies at `name` of `directory` now. A directory that the step has removed is made again, empty.
    pub(crate) fn bring_back(&self, directory: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        match rustix::fs::renameat(directory, name, &self.parent, &*self.name) {
            Err(rustix::io::Errno::NOENT) if self.is_dir => {
                let mode = Mode::from_raw_mode(0o755);
                Ok(rustix::fs::mkdirat(&self.parent, self.name.as_bytes(), mode)?)
            }
            Err(rustix::io::Errno::NOENT) => Ok(()),
            result => Ok(result?),
        }
    }
}

/// Whether files at `path` lie in memory.
fn is_memory(path: &Path) -> bool {
    const TMPFS: u64 = 0x0102_1994;
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type as u64 == TMPFS)
}
