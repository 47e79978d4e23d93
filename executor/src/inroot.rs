//! Paths inside a root that somebody else filled.
//!
//! Every name is resolved by the kernel with `RESOLVE_IN_ROOT`: a symbolic link, absolute or with
//! any number of `..`, ends inside. Magic links (`/proc/*/fd/N`) are refused.
//! What had to be made for a mount is remembered as [`Created`], so that it can be taken away.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, mkdirat, openat2, readlinkat,
    statat, unlinkat, utimensat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// As many symbolic links as the kernel follows.
const MAX_LINKS: usize = 40;

const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// Opens `path` inside `root`; links are followed inside.
pub(crate) fn open(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    loop {
        // EAGAIN: somebody renamed a directory while ".." was resolved.
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), INSIDE) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
}

/// The kind of thing that a path must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
}

/// Opens `path` inside `root` by `O_PATH`, making it and its missing parents when it does not exist.
/// What was made is appended to `created` (directories first), when the caller wants to know.
pub(crate) fn ensure(
    root: BorrowedFd<'_>,
    path: &str,
    kind: Kind,
    created: &mut Vec<String>,
) -> io::Result<OwnedFd> {
    let mut flags = OFlags::PATH;
    if kind == Kind::Directory {
        flags |= OFlags::DIRECTORY;
    }
    match open(root, path, flags) {
        Err(Errno::NOENT) => {}
        result => return Ok(result?),
    }

    let (mut links, mut real) = (0, Vec::<String>::new());
    let mut rest: Vec<String> = components(path).rev().map(str::to_owned).collect();
    while let Some(name) = rest.pop() {
        if name == ".." {
            real.pop();
            continue;
        }
        let parent = open(root, &absolute(&real), OFlags::PATH | OFlags::DIRECTORY)?;
        match statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                links += 1;
                // The text of a link of /proc is not where it leads.
                if links > MAX_LINKS || is_proc(&parent)? {
                    return Err(Errno::LOOP.into());
                }
                let target = readlinkat(&parent, &name, Vec::new())?;
                let target = target
                    .to_str()
                    .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
                if target.starts_with('/') {
                    real.clear();
                }
                rest.extend(components(target).rev().map(str::to_owned));
            }
            Ok(_) => real.push(name),
            Err(Errno::NOENT) => {
                let file = kind == Kind::File && rest.is_empty();
                if file {
                    rustix::fs::openat(
                        &parent,
                        &name,
                        OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                        Mode::from_raw_mode(0o644),
                    )?;
                } else {
                    mkdirat(&parent, &name, Mode::from_raw_mode(0o755))?;
                }
                real.push(name);
                created.push(absolute(&real));
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(open(root, &absolute(&real), flags)?)
}

fn is_proc(directory: &OwnedFd) -> rustix::io::Result<bool> {
    Ok(rustix::fs::fstatfs(directory)?.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

fn components(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|c| !c.is_empty() && *c != ".")
}

fn absolute(real: &[String]) -> String {
    format!("/{}", real.join("/"))
}

/// The mount points that were made in the upper directory of a step, with the directories that they brought there:
/// enough to tell afterwards which of them the step touched.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Created {
    links: Vec<Link>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Link {
    path: String,
    /// Was it in the upper directory before?
    kept: bool,
    state: State,
    /// The modification time to go back to, for a directory that existed in the image.
    mtime: Option<(i64, i64)>,
}

/// What changes whenever anybody touches a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    mode: u32,
    uid: u32,
    gid: u32,
    ctime: (i64, i64),
}

impl State {
    fn of(stat: &Stat) -> State {
        State {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            ctime: (stat.st_ctime, stat.st_ctime_nsec as i64),
        }
    }
}

impl Created {
    /// Opens `path` in `root` (an overlay over `upper`) by `O_PATH`, making it when it does not exist, and remembers
    /// what that did to `upper`.
    ///
    /// `root` is what the mount point will be seen in, `upper` what has to be clean afterwards. What lies in something
    /// that is mounted on `root` is of no interest: it goes with that, or belongs to it.
    pub(crate) fn ensure(
        &mut self,
        root: BorrowedFd<'_>,
        upper: BorrowedFd<'_>,
        path: &str,
        kind: Kind,
    ) -> io::Result<OwnedFd> {
        match open(root, path, OFlags::PATH | directory_flag(kind)) {
            Err(Errno::NOENT) => {}
            result => return Ok(result?),
        }
        // Which directories the image has, with their times, must be known before anything is made.
        let before = probe(root, upper, path)?;
        let mut made = Vec::new();
        let fd = ensure(root, path, kind, &mut made)?;
        let Some(last) = made.last() else {
            return Ok(fd);
        };
        let mut prefix = String::new();
        for name in components(last) {
            prefix.push('/');
            prefix.push_str(name);
            if self.links.iter().any(|link| link.path == prefix) {
                continue;
            }
            let Ok((_, stat)) = lstat_beneath(upper, &prefix) else {
                break;
            };
            let known = before.iter().find(|(path, ..)| *path == prefix);
            self.links.push(Link {
                kept: known.is_some_and(|(_, _, in_upper)| *in_upper),
                path: prefix.clone(),
                state: State::of(&stat),
                mtime: known.map(|(_, mtime, _)| *mtime),
            });
        }
        Ok(fd)
    }

    /// Call it when all mount points are there: making one changes the directory that it lies in.
    pub(crate) fn settle(&mut self, upper: BorrowedFd<'_>) {
        for link in &mut self.links {
            if let Ok((_, stat)) = lstat_beneath(upper, &link.path) {
                link.state = State::of(&stat);
            }
        }
    }

    /// Whether nothing had to be made.
    pub(crate) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// The directories and files that this changed, and the mount point.
    pub(crate) fn paths(&self) -> impl Iterator<Item = String> {
        self.links.iter().map(|link| link.path.clone())
    }

    /// Takes away from `upper` what is still as it was made. Never an error: what cannot be
    /// removed has been changed by the step and belongs to it.
    pub(crate) fn remove(&self, upper: BorrowedFd<'_>) {
        let is_untouched = |link: &Link| {
            lstat_beneath(upper, &link.path).is_ok_and(|(_, stat)| State::of(&stat) == link.state)
        };
        let mut links: Vec<(&Link, bool)> =
            self.links.iter().map(|link| (link, is_untouched(link))).collect();
        links.sort_by_key(|(link, _)| std::cmp::Reverse(components(&link.path).count()));
        // Directories in which something stays that was not there before.
        let mut changed = HashSet::new();
        for (link, untouched) in links {
            let (directory, name) = link.path.rsplit_once('/').unwrap_or_default();
            if !untouched || changed.contains(link.path.as_str()) {
                changed.insert(directory);
                continue;
            }
            let Ok((parent, stat)) = lstat_beneath(upper, &link.path) else {
                continue;
            };
            let removed = !link.kept
                && match FileType::from_raw_mode(stat.st_mode) {
                    FileType::RegularFile => {
                        stat.st_size == 0 && unlinkat(&parent, name, AtFlags::empty()).is_ok()
                    }
                    FileType::Directory => unlinkat(&parent, name, AtFlags::REMOVEDIR).is_ok(),
                    _ => false,
                };
            if removed {
                continue;
            }
            let Some((tv_sec, tv_nsec)) = link.mtime else {
                changed.insert(directory);
                continue;
            };
            let omit = Timespec {
                tv_sec: 0,
                tv_nsec: rustix::fs::UTIME_OMIT,
            };
            let times = Timestamps {
                last_access: omit,
                last_modification: Timespec {
                    tv_sec,
                    tv_nsec: tv_nsec as _,
                },
            };
            // The time is cosmetic: a failure leaves a directory that is newer than it was.
            let _ = utimensat(&parent, name, &times, AtFlags::SYMLINK_NOFOLLOW);
        }
    }
}

fn directory_flag(kind: Kind) -> OFlags {
    if kind == Kind::Directory {
        OFlags::DIRECTORY
    } else {
        OFlags::empty()
    }
}

/// The existing directories on the way to `path`: real path, mtime, whether they are in `upper`.
pub(crate) type Existing = Vec<(String, (i64, i64), bool)>;

pub(crate) fn probe(root: BorrowedFd<'_>, upper: BorrowedFd<'_>, path: &str) -> io::Result<Existing> {
    let mut existing = Existing::new();
    let (mut links, mut real) = (0, Vec::<String>::new());
    let mut rest: Vec<String> = components(path).rev().map(str::to_owned).collect();
    while let Some(name) = rest.pop() {
        if name == ".." {
            real.pop();
            continue;
        }
        real.push(name);
        let here = absolute(&real);
        let Ok(fd) = open(root, &here, OFlags::PATH | OFlags::NOFOLLOW) else {
            break;
        };
        let stat = rustix::fs::fstat(&fd)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                real.pop();
                let target = readlinkat(&fd, "", Vec::new())?;
                let target = target
                    .to_str()
                    .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
                if target.starts_with('/') {
                    real.clear();
                }
                rest.extend(components(target).rev().map(str::to_owned));
            }
            _ => {
                let in_upper = lstat_beneath(upper, &here).is_ok();
                existing.push((here, (stat.st_mtime as i64, stat.st_mtime_nsec as i64), in_upper));
            }
        }
    }
    Ok(existing)
}

/// The parent directory of `path` below `upper` and the entry's own state; no link is followed.
fn lstat_beneath(upper: BorrowedFd<'_>, path: &str) -> rustix::io::Result<(OwnedFd, Stat)> {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = openat2(
        upper,
        format!(".{parent}"),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )?;
    let stat = statat(parent.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((parent, stat))
}
