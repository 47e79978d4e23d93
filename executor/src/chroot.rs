//! A step whose root is only changed, because nothing can be mounted.
//!
//! What mounts hide and show elsewhere, [`crate::cover`] has put into the root before. Here the root is entered, by descriptor, and the
//! ways out of it are closed: capabilities ([`crate::caps::LEADING_OUT`]), Landlock where the kernel has it, and the filter.

use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Mode, OFlags};

use crate::Error;
use crate::enter::Means;
use crate::inroot::Created;
use crate::seccomp;
use crate::spec::ExecSpec;
use crate::step::{Mounted, Shared, setup};
use crate::sys;

/// Opens the root of `spec`, and what is to be its standard input.
pub(crate) fn open(spec: &ExecSpec) -> Result<Mounted, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(spec.rootfs.changed(), flags, Mode::empty())
        .map_err(|e| setup("opening the root file system", e))?;
    // A device leads nowhere, so it may be the builder's.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let null =
        rustix::fs::open("/dev/null", flags, Mode::empty()).map_err(|e| setup("opening /dev/null", e))?;
    let stat = rustix::fs::fstat(&null).map_err(|e| setup("opening /dev/null", e))?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(1, 3);
    if !is_null {
        return Err(Error::Setup(
            "opening /dev/null: it is not that device".to_owned(),
        ));
    }
    Ok(Mounted {
        root,
        null,
        created: Created::default(),
    })
}

/// Makes `root` the root and the working directory of this process.
pub(crate) fn enter(root: BorrowedFd<'_>) -> Result<(), Error> {
    let fail = |e: rustix::io::Errno| setup("changing the root", e);
    rustix::process::fchdir(root).map_err(fail)?;
    rustix::process::chroot(".").map_err(fail)?;
    rustix::process::chdir("/").map_err(fail)
}

/// Closes the ways out, as far as this kernel and the filter of a surrounding container let it. Without CAP_SYS_ADMIN there is a price:
/// programs with the setuid bit give no power.
pub(crate) fn confine(root: BorrowedFd<'_>, shared: &Shared) -> Result<(), Error> {
    let Means { namespaces, .. } = shared.means;
    if !namespaces {
        rustix::thread::set_no_new_privs(true).map_err(|e| setup("giving up new privileges", e))?;
    }
    shared
        .landlock
        .enclose(root)
        .map_err(|e| setup("enclosing the step in its root by Landlock", e))?;
    if !namespaces && !shared.landlock.has_signals() {
        // A container may forbid filters; its own is there all the same.
        let _ = sys::install_filter(&seccomp::no_signal_to_all(), 0);
    }
    Ok(())
}
