//! What a step without namespaces is kept from by Landlock: files outside of its root, even when it gets out
//! of the chroot, and the processes around it.
//!
//! Landlock only takes away, and needs no privilege but `no_new_privs`. How much of it there is depends on the kernel:
//! files from 5.19 (before that it would forbid moving a file to another directory), signals from 6.12.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags};

use crate::sys::{self, RulesetAttributes};

/// Everything that the first version knows: execute to make_sym.
const FILES_OF_FIRST: u64 = (1 << 13) - 1;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEVICE: u64 = 1 << 15;
const SCOPE_ABSTRACT_SOCKETS: u64 = 1;
const SCOPE_SIGNALS: u64 = 1 << 1;

/// What the kernel offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Landlock(u32);

impl Landlock {
    pub(crate) fn of_kernel() -> Landlock {
        // A kernel without it, or a filter that does not know it.
        Landlock(sys::landlock_version().unwrap_or(0))
    }

    /// Can files be kept away?
    pub(crate) fn has_files(self) -> bool {
        self.0 >= 2
    }

    /// Can signals be kept in?
    pub(crate) fn has_signals(self) -> bool {
        self.0 >= 6
    }

    fn files(self) -> u64 {
        match self.0 {
            0 | 1 => 0,
            2 => FILES_OF_FIRST | REFER,
            3 | 4 => FILES_OF_FIRST | REFER | TRUNCATE,
            _ => FILES_OF_FIRST | REFER | TRUNCATE | IOCTL_DEVICE,
        }
    }

    /// From here on this process and its descendants reach nothing outside of `root`, and signal only each other. What the kernel
    /// does not offer is left out. Needs `no_new_privs`.
    pub(crate) fn enclose(self, root: BorrowedFd<'_>) -> io::Result<()> {
        let scopes = SCOPE_SIGNALS | SCOPE_ABSTRACT_SOCKETS;
        self.restrict(self.files(), scopes, root)
    }

    /// From here on this process and its descendants signal only each other. Needs `no_new_privs`.
    pub(crate) fn keep_signals(self) -> io::Result<()> {
        // Moving and linking to another directory is forbidden by every ruleset that does not allow it.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let everything = rustix::fs::open("/", flags, Mode::empty())?;
        self.restrict(REFER, SCOPE_SIGNALS, everything.as_fd())
    }

    fn restrict(self, files: u64, scopes: u64, root: BorrowedFd<'_>) -> io::Result<()> {
        let scoped = if self.has_signals() { scopes } else { 0 };
        if files == 0 && scoped == 0 {
            return Ok(());
        }
        let ruleset = sys::landlock_ruleset(&RulesetAttributes {
            files,
            network: 0,
            scoped,
        })?;
        if files != 0 {
            sys::landlock_allow_beneath(ruleset.as_fd(), root, files)?;
        }
        sys::landlock_restrict_self(ruleset.as_fd())
    }
}
