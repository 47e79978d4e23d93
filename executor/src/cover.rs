//! What mounts do elsewhere, done with renames: `/dev`, `/proc`, `/sys`, `resolv.conf` and `hosts` of a step in a
//! directory without mounts.
//!
//! What the image has at these places is put aside for the time of the step, and put back afterwards, whatever the step has
//! made of its own. Works in the builder, before the step's process exists and after the last of its processes has gone, so that
//! nobody changes the tree meanwhile; places are found by the kernel inside of the root ([`inroot`]).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, openat2, utimensat,
};
use rustix::io::Errno;

use crate::inroot::{self, Kind};
use crate::mounts::{DEVICES, write_script};
use crate::spawner::{host_resolv_conf, hosts_text};
use crate::spec::{ExecSpec, Mount};
use crate::stand_in::{Origin, StandIn};
use crate::{Error, network, trust};

/// The covered places of one step.
#[derive(Debug)]
pub(crate) struct Cover {
    root: OwnedFd,
    aside: OwnedFd,
    places: Vec<Place>,
    /// Directories that were made on the way, outermost first.
    made: Vec<String>,
    parents: Vec<Parent>,
}

#[derive(Debug)]
struct Place {
    path: String,
    /// Whether the image had something there.
    has_original: bool,
    /// Where that belongs which lies there now, if it is not thrown away.
    origin: Option<Origin>,
}

/// A directory in which something was covered.
#[derive(Debug)]
struct Parent {
    path: String,
    /// Wherever the step moves it.
    directory: OwnedFd,
    mtime: Timespec,
    /// After covering.
    ctime: Timespec,
}

impl Cover {
    /// Covers what a step of `spec` must not see in `root`. `aside` is an empty directory on the same file system.
    pub(crate) fn lay(root: &Path, aside: &Path, spec: &ExecSpec) -> Result<Cover, Error> {
        let machine = String::from_utf8_lossy(&host_resolv_conf()).into_owned();
        let resolv_conf = network::resolv::text(&machine, &spec.dns, None);
        let extra: Vec<(String, String)> = spec
            .extra_hosts
            .iter()
            .map(|(name, address)| match address.as_str() {
                // The network is the machine's.
                ExecSpec::HOST_GATEWAY => (name.clone(), "127.0.0.1".to_owned()),
                address => (name.clone(), address.to_owned()),
            })
            .collect();
        let hosts = hosts_text(&spec.hostname, &extra);
        let mut cover = Cover {
            root: directory(root)?,
            aside: directory(aside)?,
            places: Vec::new(),
            made: Vec::new(),
            parents: Vec::new(),
        };
        let directory = || Ok(StandIn::Directory(0o755));
        let file = |bytes| {
            Ok(StandIn::File {
                bytes,
                mode: 0o644,
                owner: (0, 0),
            })
        };
        let usual = [
            ("/proc", directory()),
            ("/sys", directory()),
            ("/dev", directory()),
            ("/etc/resolv.conf", file(resolv_conf.as_bytes())),
            ("/etc/hosts", file(hosts.as_bytes())),
        ];
        // `aside` lies in a directory of this build, and that in the temporary ones of the store.
        let store = aside.ancestors().nth(3).unwrap_or(aside);
        let mut mounts: Vec<&Mount> = spec.mounts.iter().collect();
        mounts.sort_by_key(|mount| {
            mount
                .target
                .split('/')
                .filter(|part| !matches!(*part, "" | "."))
                .count()
        });
        let laid = usual
            .into_iter()
            .try_for_each(|(path, stand_in)| cover.put(path, stand_in?))
            // The nodes first: something may be mounted below them.
            .and_then(|()| cover.devices(spec))
            .and_then(|()| {
                mounts
                    .into_iter()
                    .try_for_each(|mount| cover.put(&mount.target, StandIn::of(mount, spec, store)?))
            })
            .and_then(|()| {
                cover
                    .remember_parents()
                    .and_then(|()| wait_for_tick(cover.aside.as_fd()))
                    .map_err(|e| Error::Setup(format!("preparing the root file system: {e}")))
            });
        match laid {
            Ok(()) => Ok(cover),
            Err(error) => {
                // The tree is not used after that.
                let _ = cover.lift();
                Err(error)
            }
        }
    }

    fn put(&mut self, path: &str, stand_in: StandIn<'_>) -> Result<(), Error> {
        self.try_put(path, stand_in)
            .map_err(|e| Error::Setup(format!("preparing {path} of the image: {e}")))
    }

    fn try_put(&mut self, path: &str, stand_in: StandIn<'_>) -> io::Result<()> {
        let kind = stand_in.kind();
        let before = inroot::probe(self.root.as_fd(), self.root.as_fd(), path)?;
        let mut made = Vec::new();
        let target = inroot::ensure(self.root.as_fd(), path, kind, &mut made)?;
        let path = path_below(self.root.as_fd(), target.as_fd())?;
        drop(target);
        let (parent, name) = split(&path).ok_or(io::ErrorKind::InvalidInput)?;
        let first_made = made.first().and_then(|path| split(path));
        for directory in [Some(parent), first_made.map(|(parent, _)| parent)] {
            let Some(directory) = directory else { continue };
            let known = before.iter().find(|(path, ..)| path == directory);
            self.note_parent(directory, known.map(|(_, mtime, _)| *mtime))?;
        }
        let is_new = made.last() == Some(&path);
        if is_new {
            made.pop();
        }
        self.made.extend(made);
        let directory = self.open(parent)?;
        let number = self.places.len();
        if is_new {
            let flags = match kind {
                Kind::File => AtFlags::empty(),
                Kind::Directory => AtFlags::REMOVEDIR,
            };
            rustix::fs::unlinkat(&directory, name, flags)?;
        } else {
            rustix::fs::renameat(&directory, name, &self.aside, format!("image{number}"))?;
        }
        self.places.push(Place {
            path: path.clone(),
            has_original: !is_new,
            origin: None,
        });
        let origin = stand_in.put(directory.as_fd(), name)?;
        if let Some(place) = self.places.last_mut() {
            place.origin = origin;
        }
        Ok(())
    }

    /// The nodes of `/dev`, as far as they may be made, and the script.
    fn devices(&self, spec: &ExecSpec) -> Result<(), Error> {
        let fail = |e: Errno| Error::Setup(format!("preparing /dev of the image: {e}"));
        let dev = inroot::open(self.root.as_fd(), "/dev", OFlags::PATH | OFlags::DIRECTORY).map_err(fail)?;
        for &(name, major, minor) in DEVICES {
            let device = rustix::fs::makedev(major, minor);
            let made = rustix::fs::mknodat(
                &dev,
                name,
                FileType::CharacterDevice,
                Mode::from_raw_mode(0o666),
                device,
            );
            let works = made.and_then(|()| {
                let path = format!("{}/{name}", by_descriptor(dev.as_fd()));
                rustix::fs::chmod(path, Mode::from_raw_mode(0o666))?;
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                match rustix::fs::openat(&dev, name, flags, Mode::empty()) {
                    // A terminal that this process does not have.
                    Ok(_) | Err(Errno::NXIO) => Ok(()),
                    Err(e) => Err(e),
                }
            });
            if works.is_err() {
                // No right to make nodes, or a file system on which they do not work. Only one can be replaced: a file
                // takes what is thrown away.
                let _ = rustix::fs::unlinkat(&dev, name, AtFlags::empty());
                if name == "null" {
                    let mode = Mode::from_raw_mode(0o666);
                    rustix::fs::mknodat(&dev, name, FileType::RegularFile, mode, 0).map_err(fail)?;
                    let path = format!("{}/{name}", by_descriptor(dev.as_fd()));
                    rustix::fs::chmod(path, mode).map_err(fail)?;
                }
            }
        }
        for (name, mode) in [("shm", 0o1777), ("pts", 0o755)] {
            rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755)).map_err(fail)?;
            let path = format!("{}/{name}", by_descriptor(dev.as_fd()));
            rustix::fs::chmod(path, Mode::from_raw_mode(mode)).map_err(fail)?;
        }
        if let Some(script) = &spec.script {
            write_script(&dev, script)?;
        }
        match &spec.certificates {
            Some(certificates) => trust::write(self.root.as_fd(), certificates),
            None => Ok(()),
        }
    }

    /// Puts everything back. Returns the paths of the image whose change times moved although the step changed
    /// nothing there.
    pub(crate) fn lift(self) -> Result<Vec<String>, Error> {
        self.try_lift()
            .map_err(|e| Error::internal("putting back what was covered in the image", e))
    }

    fn try_lift(mut self) -> io::Result<Vec<String>> {
        // What the parents look like at the end of the step, before anything is moved in them.
        let mut parents = Vec::new();
        for parent in std::mem::take(&mut self.parents) {
            let stat = rustix::fs::fstat(&parent.directory)?;
            let touched = ctime(&stat) != parent.ctime;
            let back = if touched { mtime(&stat) } else { parent.mtime };
            parents.push((parent.path, parent.directory, touched, back));
        }
        let mut quiet: Vec<String> = Vec::new();
        for (number, place) in self.places.iter().enumerate().rev() {
            let Some((parent, name)) = split(&place.path) else {
                continue;
            };
            let Some((_, directory, ..)) = parents.iter().find(|(path, ..)| path == parent) else {
                continue;
            };
            if let Some(origin) = &place.origin {
                origin.bring_back(directory.as_fd(), name)?;
            }
            match rustix::fs::renameat(directory, name, &self.aside, format!("step{number}")) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
            if place.has_original {
                match rustix::fs::renameat(&self.aside, format!("image{number}"), directory, name) {
                    Ok(()) => quiet.push(place.path.clone()),
                    // The step has removed the directory.
                    Err(Errno::NOENT) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        for path in self.made.iter().rev() {
            let Some((parent, name)) = split(path) else {
                continue;
            };
            let Ok(directory) = self.open(parent) else {
                continue;
            };
            // One that the step has used is the step's.
            let _ = rustix::fs::unlinkat(&directory, name, AtFlags::REMOVEDIR);
        }
        for (path, directory, touched, back) in parents {
            let times = Timestamps {
                last_access: Timespec {
                    tv_sec: 0,
                    tv_nsec: rustix::fs::UTIME_OMIT,
                },
                last_modification: back,
            };
            let place = by_descriptor(directory.as_fd());
            utimensat(rustix::fs::CWD, place, &times, AtFlags::empty())?;
            if !touched {
                quiet.push(path);
            }
        }
        Ok(quiet)
    }

    /// Remembers a directory in which something is about to change. Its modification time is what `probe` found.
    fn note_parent(&mut self, path: &str, mtime: Option<(i64, i64)>) -> io::Result<()> {
        if self.parents.iter().any(|parent| parent.path == path) {
            return Ok(());
        }
        let directory = self.open(path)?;
        let stat = rustix::fs::fstat(&directory)?;
        let mtime = match mtime {
            Some((tv_sec, tv_nsec)) => Timespec {
                tv_sec,
                tv_nsec: tv_nsec as _,
            },
            None => self::mtime(&stat),
        };
        self.parents.push(Parent {
            path: path.to_owned(),
            directory,
            mtime,
            ctime: ctime(&stat),
        });
        Ok(())
    }

    fn remember_parents(&mut self) -> io::Result<()> {
        for parent in &mut self.parents {
            parent.ctime = ctime(&rustix::fs::fstat(&parent.directory)?);
        }
        Ok(())
    }

    /// Opens a directory of the root by its real path.
    fn open(&self, path: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        Ok(openat2(
            &self.root,
            format!(".{path}"),
            flags,
            Mode::empty(),
            resolve,
        )?)
    }
}

/// Waits until the file system gives later times than it has given so far: from then on no change can hide behind an equal
/// change time.
pub(crate) fn wait_for_tick(directory: BorrowedFd<'_>) -> io::Result<()> {
    const NAME: &str = "tick";
    /// File systems that count seconds exist; slower ones are not waited for.
    const ROUNDS: u32 = 3000;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, NAME, flags, Mode::from_raw_mode(0o600))?;
    let touched = || -> io::Result<Timespec> {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_NOW,
        };
        let times = Timestamps {
            last_access: now,
            last_modification: now,
        };
        rustix::fs::futimens(&file, &times)?;
        Ok(ctime(&rustix::fs::fstat(&file)?))
    };
    let first = touched()?;
    for _ in 0..ROUNDS {
        if touched()? != first {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    rustix::fs::unlinkat(directory, NAME, AtFlags::empty())?;
    Ok(())
}

fn directory(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|e| Error::Setup(format!("opening {}: {e}", path.display())))
}

pub(crate) fn by_descriptor(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Where `fd` lies below `root`: `/` and what follows.
fn path_below(root: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> io::Result<String> {
    let place = |fd| std::fs::read_link(by_descriptor(fd));
    let path = place(fd)?;
    let below = path.strip_prefix(place(root)?).map_err(io::Error::other)?;
    let below = String::from_utf8(below.as_os_str().to_owned().into_vec()).map_err(io::Error::other)?;
    Ok(format!("/{below}"))
}

/// The directory and the name of a path; `None` for the root.
fn split(path: &str) -> Option<(&str, &str)> {
    let (parent, name) = path.rsplit_once('/')?;
    let parent = if parent.is_empty() { "/" } else { parent };
    (!name.is_empty()).then_some((parent, name))
}

fn mtime(stat: &Stat) -> Timespec {
    Timespec {
        tv_sec: stat.st_mtime as _,
        tv_nsec: stat.st_mtime_nsec as _,
    }
}

fn ctime(stat: &Stat) -> Timespec {
    Timespec {
        tv_sec: stat.st_ctime as _,
        tv_nsec: stat.st_ctime_nsec as _,
    }
}
