//! The mounts of a step, each made and placed by descriptor.
//!
//! Everything comes from the new mount interface (kernel 5.2; `mount_setattr` 5.12): a file system is
//! configured, made as a detached mount, and moved onto a target that was opened inside
//! the root before anything was mounted there. No path string of the image is ever handed to the kernel without
//! a root descriptor, and a link in the image cannot move a target.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::Error;
use crate::spec::Script;
use crate::sys::{self, attr};

/// Hidden from a step, as Docker hides them: an empty directory or `/dev/null` is put over each.
const MASKED_IN_PROC: &[&str] = &[
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];
const MASKED_IN_SYS: &[&str] = &["firmware", "devices/virtual/powercap"];

/// Readable, never writable.
const READ_ONLY_IN_PROC: &[&str] = &["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Device nodes of a step: name, minor number (all are memory devices, major 1, but `tty`).
pub(crate) const DEVICES: &[(&str, u32, u32)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const DEVICE_LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Names what was being mounted, and adds what the kernel said about it.
pub(crate) fn failed(what: &str, error: impl Into<io::Error>) -> Error {
    Error::Setup(format!("mounting {what}: {}", error.into()))
}

/// A file system that is mounted nowhere yet.
pub(crate) fn detached(
    what: &str,
    fs: &str,
    options: &[(&str, &str)],
    flags: MountAttrFlags,
) -> Result<OwnedFd, Error> {
    let context = fsopen(fs, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| failed(what, e))?;
    let made = (|| {
        for &(key, value) in options {
            match value {
                "" => fsconfig_set_flag(context.as_fd(), key)?,
                _ => fsconfig_set_string(context.as_fd(), key, value)?,
            }
        }
        fsconfig_create(context.as_fd())?;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)
    })();
    made.map_err(|e| explained(what, &context, e))
}

/// An error with the kernel's own words, which it leaves on the file system context.
fn explained(what: &str, context: &OwnedFd, error: Errno) -> Error {
    let mut said = String::new();
    let mut line = [0u8; 1024];
    while let Ok(length) = rustix::io::read(context, &mut line[..]) {
        if length == 0 {
            break;
        }
        said.push_str("; ");
        said.push_str(
            String::from_utf8_lossy(&line[..length])
                .trim()
                .trim_start_matches(['e', 'w', 'i', ' ']),
        );
    }
    Error::Setup(format!("mounting {what}: {error}{said}"))
}

/// Puts a detached mount onto an open target.
pub(crate) fn attach(what: &str, mount: &OwnedFd, target: BorrowedFd<'_>) -> Result<(), Error> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags).map_err(|e| failed(what, e))
}

fn attach_at(what: &str, mount: &OwnedFd, parent: BorrowedFd<'_>, name: &str) -> Result<(), Error> {
    move_mount(mount, "", parent, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(|e| failed(what, e))
}

fn clone_tree(what: &str, at: BorrowedFd<'_>, path: &str, recursive: bool) -> Result<OwnedFd, Error> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(at, path, flags).map_err(|e| failed(what, e))
}

const QUIET: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
const QUIET_READ_ONLY: u64 = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;

/// The root file system, mounted over its own upper directory: the layers, below them `stub`, above
/// them `upper`. Returns its root.
pub(crate) fn root(
    layers: &[PathBuf],
    work: &Path,
    stub: &Path,
    upper: BorrowedFd<'_>,
) -> Result<OwnedFd, Error> {
    let mut lowers = Vec::with_capacity(layers.len() + 1);
    for lower in layers.iter().map(|p| p.as_path()).chain([stub]) {
        lowers.push(directory(lower)?);
    }
    let work = directory(work)?;
    overlay(
        "the root file system",
        &lowers,
        Some((upper, work.as_fd())),
        upper,
    )
}

/// An overlay of `lowers`, topmost first, mounted over `target`; `writes` are its upper and work directory, without
/// which it can only be read. Returns its root.
///
/// `userxattr` always, so that a layer means the same in and outside a user namespace; `volatile`,
/// because what a step wrote is nothing until it is committed, and an `fsync` per package helps nobody.
/// Directories are named by descriptor: names over 255 bytes pass, and the step's `/proc/mounts` tells
/// nothing about the builder's paths.
pub(crate) fn overlay(
    what: &str,
    lowers: &[OwnedFd],
    writes: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
    target: BorrowedFd<'_>,
) -> Result<OwnedFd, Error> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| failed(what, e))?;
    let fd = context.as_fd();
    // Since 6.13 the kernel takes the descriptor itself; a walk through /proc costs more than the rest of the call.
    let mut takes_descriptors = true;
    let mut set = |key: &str, directory: BorrowedFd<'_>| {
        if takes_descriptors {
            match fsconfig_set_fd(fd, key, directory) {
                Err(Errno::INVAL | Errno::BADF) => takes_descriptors = false,
                result => return result,
            }
        }
        fsconfig_set_string(fd, key, by_descriptor(directory))
    };
    for lower in lowers {
        match set("lowerdir+", lower.as_fd()) {
            Err(Errno::INVAL) => return overlay_before_6_7(what, lowers, writes, target),
            result => result.map_err(|e| explained(what, &context, e))?,
        }
    }
    let made = (|| {
        if let Some((upper, work)) = writes {
            set("upperdir", upper)?;
            set("workdir", work)?;
            fsconfig_set_flag(fd, "volatile")?;
        }
        fsconfig_set_flag(fd, "userxattr")?;
        // The kernel's default is a build option; with an index, stale handles would refuse the mount.
        fsconfig_set_string(fd, "index", "off")?;
        fsconfig_create(fd)?;
        fsmount(fd, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    })();
    let root = made.map_err(|e| explained(what, &context, e))?;
    attach(what, &root, target)?;
    Ok(root)
}

/// Device nodes of the mount open nothing: a step may make them, and a layer may hold them, but where root builds they
/// are the machine's disks. In a user namespace the kernel sees to it.
pub(crate) fn without_devices(what: &str, mount: BorrowedFd<'_>) -> Result<(), Error> {
    sys::mount_setattr(mount, attr::NODEV, false).map_err(|e| failed(what, e))
}

/// Whether an overlay can be mounted whose layers lie in the directory of this build. The file system decides: on another overlay,
/// as in a container, it mostly cannot.
pub(crate) fn can_overlay(scratch: &Path, stub: &Path) -> bool {
    let attempt = || -> Result<(), Error> {
        let make = |name: &str| {
            let path = scratch.join(name);
            std::fs::create_dir(&path).map_err(|e| failed("a trial", e))?;
            Ok(path)
        };
        let (upper, work) = (make("trial-upper")?, make("trial-work")?);
        root(&[], &work, stub, directory(&upper)?.as_fd())?;
        rustix::mount::unmount(&upper, rustix::mount::UnmountFlags::DETACH).map_err(|e| failed("a trial", e))
    };
    attempt().is_ok()
}

/// The directory itself as the root, mounted over itself, because a root has to be a mount.
pub(crate) fn directory_as_root(directory: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let what = "the root file system";
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let root = open_tree(directory, "", flags).map_err(|e| failed(what, e))?;
    attach(what, &root, directory)?;
    Ok(root)
}

/// Older kernels take all layers in one string, for which only mount(2) leaves room.
fn overlay_before_6_7(
    what: &str,
    lowers: &[OwnedFd],
    writes: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
    target: BorrowedFd<'_>,
) -> Result<OwnedFd, Error> {
    let lowers: Vec<String> = lowers.iter().map(|l| by_descriptor(l.as_fd())).collect();
    let target = by_descriptor(target);
    let mut options = format!("lowerdir={},userxattr,index=off", lowers.join(":"));
    if let Some((upper, work)) = writes {
        let (upper, work) = (by_descriptor(upper), by_descriptor(work));
        options.push_str(&format!(",upperdir={upper},workdir={work},volatile"));
    }
    let options = std::ffi::CString::new(options).map_err(|e| failed(what, e))?;
    rustix::mount::mount(
        "overlay",
        &target,
        "overlay",
        rustix::mount::MountFlags::empty(),
        &*options,
    )
    .map_err(|e| failed(what, e))?;
    // Looked up again from above, the name leads to what is mounted there.
    let path = std::fs::read_link(&target).map_err(|e| failed(what, e))?;
    directory(&path)
}

pub(crate) fn directory(path: &Path) -> Result<OwnedFd, Error> {
    rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| Error::Setup(format!("opening {}: {e}", path.display())))
}

pub(crate) fn by_descriptor(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Whether the kernel gives a `/proc` of this pid namespace. It does not where parts of the one that is there are hidden,
/// as in a container.
pub(crate) fn has_own_processes() -> bool {
    detached("/proc", "proc", &[], QUIET).is_ok()
}

/// `/proc` of this pid namespace, or else the one that is there, with what is hidden in it.
pub(crate) fn processes() -> Result<OwnedFd, Error> {
    detached("/proc", "proc", &[], QUIET).or_else(|refused| {
        let own = clone_tree("/proc", CWD, "/proc", true).map_err(|_| refused)?;
        sys::mount_setattr(own.as_fd(), QUIET_READ_ONLY & !attr::RDONLY, true)
            .map_err(|e| failed("/proc", e))?;
        Ok(own)
    })
}

/// `/proc` of the step. Even when it is not of the step's pid namespace, the step reaches only its own processes.
pub(crate) fn proc(target: BorrowedFd<'_>, empty: &Path, masked: bool) -> Result<OwnedFd, Error> {
    let proc = processes()?;
    attach("/proc", &proc, target)?;
    if masked {
        mask("/proc", proc.as_fd(), MASKED_IN_PROC, empty)?;
        for path in READ_ONLY_IN_PROC {
            if exists(proc.as_fd(), path)?.is_some() {
                let tree = clone_tree(path, proc.as_fd(), path, true)?;
                sys::mount_setattr(tree.as_fd(), QUIET_READ_ONLY, true).map_err(|e| failed(path, e))?;
                attach_at(path, &tree, proc.as_fd(), path)?;
            }
        }
    }
    Ok(proc)
}

fn exists(at: BorrowedFd<'_>, path: &str) -> Result<Option<FileType>, Error> {
    match rustix::fs::statat(at, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT | Errno::ACCESS) => Ok(None),
        Err(e) => Err(failed(path, e)),
    }
}

/// Puts `/dev/null` over files and an empty directory over directories.
fn mask(what: &str, at: BorrowedFd<'_>, paths: &[&str], empty: &Path) -> Result<(), Error> {
    for path in paths {
        let cover = match exists(at, path)? {
            None => continue,
            Some(FileType::Directory) => {
                let empty = open_tree(
                    CWD,
                    empty,
                    OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
                )
                .map_err(|e| failed(what, e))?;
                sys::mount_setattr(empty.as_fd(), QUIET_READ_ONLY, false).map_err(|e| failed(what, e))?;
                empty
            }
            Some(_) => {
                // Read-only: root in the step must not change the mode of the machine's own node.
                let null = host_device("null", 1, 3)?;
                sys::mount_setattr(null.as_fd(), attr::RDONLY | attr::NOSUID | attr::NOEXEC, false)
                    .map_err(|e| failed(what, e))?;
                null
            }
        };
        attach_at(what, &cover, at, path)?;
    }
    Ok(())
}

/// A clone of a device of the builder's `/dev`, after a look at what it really is.
fn host_device(name: &str, major: u32, minor: u32) -> Result<OwnedFd, Error> {
    let path = format!("/dev/{name}");
    let device = clone_tree(&path, CWD, &path, false)?;
    let stat = rustix::fs::fstat(&device).map_err(|e| failed(&path, e))?;
    let right = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(major, minor);
    if right {
        Ok(device)
    } else {
        Err(Error::Setup(format!("mounting {path}: it is not that device")))
    }
}

/// How `/sys` can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sysfs {
    /// A file system of its own.
    Fresh,
    /// The builder's, because a user namespace does not own this network.
    Bind,
}

/// `/sys`, read-only unless `writable`.
pub(crate) fn sys(
    target: BorrowedFd<'_>,
    how: Sysfs,
    cgroup2: bool,
    empty: &Path,
    writable: bool,
) -> Result<OwnedFd, Error> {
    let mut flags = QUIET;
    if !writable {
        flags |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    let fresh = match how {
        Sysfs::Fresh => detached("/sys", "sysfs", &[], flags).ok(),
        Sysfs::Bind => None,
    };
    let sys = match fresh {
        Some(sys) => sys,
        None => {
            let sys = clone_tree("/sys", CWD, "/sys", true)?;
            let set = if writable {
                QUIET_READ_ONLY & !attr::RDONLY
            } else {
                QUIET_READ_ONLY
            };
            sys::mount_setattr(sys.as_fd(), set, true).map_err(|e| failed("/sys", e))?;
            sys
        }
    };
    attach("/sys", &sys, target)?;
    if cgroup2 {
        // Not to have it (a container that hides it, say) is no reason to refuse a step.
        let _ = detached("/sys/fs/cgroup", "cgroup2", &[], flags)
            .and_then(|cgroup| attach_at("/sys/fs/cgroup", &cgroup, sys.as_fd(), "fs/cgroup"));
    }
    if !writable {
        mask("/sys", sys.as_fd(), MASKED_IN_SYS, empty)?;
    }
    Ok(sys)
}

/// `/dev`: a small file system with the usual nodes, terminals, shared memory, message queues.
pub(crate) fn dev(target: BorrowedFd<'_>, in_user_namespace: bool, shm_size: u64) -> Result<OwnedFd, Error> {
    let nosuid = MountAttrFlags::MOUNT_ATTR_NOSUID;
    let dev = detached("/dev", "tmpfs", &[("mode", "755"), ("size", "65536k")], nosuid)?;
    let making = |name: &str| {
        let what = format!("/dev/{name}");
        move |e: Errno| failed(&what, e)
    };
    for &(name, major, minor) in DEVICES {
        // A user namespace cannot make nodes that work: there the machine's own are put over plain files.
        let (kind, device) = match in_user_namespace {
            true => (FileType::RegularFile, 0),
            false => (FileType::CharacterDevice, rustix::fs::makedev(major, minor)),
        };
        rustix::fs::mknodat(&dev, name, kind, Mode::from_raw_mode(0o666), device).map_err(making(name))?;
    }
    for &(name, to) in DEVICE_LINKS {
        rustix::fs::symlinkat(to, &dev, name).map_err(making(name))?;
    }
    for name in ["pts", "shm", "mqueue"] {
        rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755)).map_err(making(name))?;
    }
    attach("/dev", &dev, target)?;

    if in_user_namespace {
        for &(name, major, minor) in DEVICES {
            attach_at(name, &host_device(name, major, minor)?, dev.as_fd(), name)?;
        }
    }
    let quiet_device = nosuid | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let pts_options = [
        ("newinstance", ""),
        ("ptmxmode", "0666"),
        ("mode", "0620"),
        ("gid", "5"),
    ];
    let pts = detached("/dev/pts", "devpts", &pts_options, quiet_device)
        // Group 5 does not exist where only a few ids are mapped.
        .or_else(|_| detached("/dev/pts", "devpts", &pts_options[..3], quiet_device))?;
    attach_at("/dev/pts", &pts, dev.as_fd(), "pts")?;
    let shm = detached(
        "/dev/shm",
        "tmpfs",
        &[("mode", "1777"), ("size", &shm_size.to_string())],
        QUIET,
    )?;
    attach_at("/dev/shm", &shm, dev.as_fd(), "shm")?;
    let mqueue = detached("/dev/mqueue", "mqueue", &[], QUIET)?;
    attach_at("/dev/mqueue", &mqueue, dev.as_fd(), "mqueue")?;
    Ok(dev)
}

/// The `null` of a `/dev`, opened for reading.
pub(crate) fn null(dev: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dev, "null", flags, Mode::empty()).map_err(|e| failed("/dev/null", e))
}

/// The script below `/dev`, executable by all.
pub(crate) fn write_script(dev: &OwnedFd, script: &Script) -> Result<(), Error> {
    let bad = || {
        Error::Setup(format!(
            "making the script {}: its path has to be below /dev",
            script.path
        ))
    };
    let failed = |e: io::Error| Error::Setup(format!("making the script {}: {e}", script.path));
    let path = script.path.strip_prefix("/dev/").ok_or_else(bad)?;
    let mut names: Vec<&str> = path.split('/').filter(|n| !n.is_empty()).collect();
    if names.iter().any(|n| matches!(*n, "." | "..")) {
        return Err(bad());
    }
    let file = names.pop().ok_or_else(bad)?;
    let mut directory = sys::duplicate_above_standard(dev.as_fd()).map_err(failed)?;
    for name in names {
        match rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(failed(e.into())),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        directory =
            rustix::fs::openat(&directory, name, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&directory, file, flags, Mode::from_raw_mode(0o755))
        .map_err(|e| failed(e.into()))?;
    io::Write::write_all(&mut std::fs::File::from(fd), &script.data).map_err(failed)
}

/// A file of the builder, read-only, over `target`.
pub(crate) fn file(what: &str, source: &Path, target: BorrowedFd<'_>) -> Result<(), Error> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, source, flags).map_err(|e| failed(what, e))?;
    sys::mount_setattr(tree.as_fd(), QUIET_READ_ONLY, false).map_err(|e| failed(what, e))?;
    attach(what, &tree, target)
}
