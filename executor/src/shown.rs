//! Trees of layers, mounted for somebody to look at them.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::Error;
use crate::mounts::{attach, detached, directory, failed, overlay};
use crate::sys::{self, attr};

/// Mounts the trees, topmost first, as one at `target`: nothing can be written there, no program has rights of its owner, and
/// no device opens. `empty` is an empty directory that stays as long as the mount.
pub fn mount(trees: &[PathBuf], empty: &Path, target: &Path) -> Result<(), Error> {
    let what = "the image";
    let mut lowers = Vec::with_capacity(trees.len() + 1);
    for tree in trees.iter().map(PathBuf::as_path).chain([empty]) {
        lowers.push(directory(tree)?);
    }
    let target = directory(target)?;
    let root = if trees.is_empty() {
        // An overlay is of two directories at least.
        let nothing = detached(what, "tmpfs", &[("mode", "755")], MountAttrFlags::empty())?;
        attach(what, &nothing, target.as_fd())?;
        nothing
    } else {
        overlay(what, &lowers, None, target.as_fd())?
    };
    let flags = attr::RDONLY | attr::NOSUID | attr::NODEV;
    sys::mount_setattr(root.as_fd(), flags, false).map_err(|e| failed(what, e))
}

/// Takes the mount at `target` away. One that is in use is not.
pub fn unmount_at(target: &Path) -> io::Result<()> {
    Ok(unmount(target, UnmountFlags::NOFOLLOW)?)
}

/// Runs a command to its end. The stop signals of a terminal reach the command by themselves; those that others send are handed
/// on to it. No thread may be there yet that could take them.
pub fn run(command: &mut Command) -> io::Result<ExitStatus> {
    let mut child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::NotFound)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    // Only now: the child would have them blocked.
    let caught = sys::stop_signals()?;
    std::thread::spawn(move || {
        while let Ok((number, of_terminal)) = sys::read_signal_and_origin(&caught) {
            let signal = match number {
                libc::SIGHUP => Signal::HUP,
                libc::SIGINT => Signal::INT,
                _ => Signal::TERM,
            };
            if !of_terminal {
                // It may have ended meanwhile.
                let _ = pidfd_send_signal(&pidfd, signal);
            }
        }
    });
    child.wait()
}
