//! Which calls of a step are answered by the supervisor: those that deal with owners and ids, and of the others only what
//! creates files. Everything else is not slowed down.
//!
//! It is a filter of its own beside the one that forbids calls: what that one refuses stays refused.

use crate::seccomp::{Arguments, Filter};

/// `O_CREAT`, and the bit that tells `O_TMPFILE` from `O_DIRECTORY`.
const CREATES: u32 = libc::O_CREAT as u32 | (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;

/// The numbers of calls that not every machine has.
#[cfg(target_arch = "x86_64")]
pub(super) mod legacy {
    pub(in crate::emulation) const STAT: i64 = libc::SYS_stat;
    pub(in crate::emulation) const LSTAT: i64 = libc::SYS_lstat;
    pub(in crate::emulation) const CHOWN: i64 = libc::SYS_chown;
    pub(in crate::emulation) const LCHOWN: i64 = libc::SYS_lchown;
    pub(in crate::emulation) const OPEN: i64 = libc::SYS_open;
    pub(in crate::emulation) const CREAT: i64 = libc::SYS_creat;
    pub(in crate::emulation) const MKDIR: i64 = libc::SYS_mkdir;
    pub(in crate::emulation) const MKNOD: i64 = libc::SYS_mknod;
    pub(in crate::emulation) const SYMLINK: i64 = libc::SYS_symlink;
}

/// Numbers that no call has.
#[cfg(not(target_arch = "x86_64"))]
pub(super) mod legacy {
    pub(in crate::emulation) const STAT: i64 = -1;
    pub(in crate::emulation) const LSTAT: i64 = -2;
    pub(in crate::emulation) const CHOWN: i64 = -3;
    pub(in crate::emulation) const LCHOWN: i64 = -4;
    pub(in crate::emulation) const OPEN: i64 = -5;
    pub(in crate::emulation) const CREAT: i64 = -6;
    pub(in crate::emulation) const MKDIR: i64 = -7;
    pub(in crate::emulation) const MKNOD: i64 = -8;
    pub(in crate::emulation) const SYMLINK: i64 = -9;
}

/// Answered whatever the arguments.
const ALWAYS: &[i64] = &[
    legacy::STAT,
    legacy::LSTAT,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    legacy::CHOWN,
    legacy::LCHOWN,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    legacy::CREAT,
    libc::SYS_openat2,
    legacy::MKDIR,
    libc::SYS_mkdirat,
    legacy::MKNOD,
    libc::SYS_mknodat,
    legacy::SYMLINK,
    libc::SYS_symlinkat,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_chroot,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_flistxattr,
];

/// The filter.
pub(crate) fn notifying() -> Option<Filter> {
    let sometimes = [
        (legacy::OPEN, Arguments::Bits(1, CREATES)),
        (libc::SYS_openat, Arguments::Bits(2, CREATES)),
        (libc::SYS_prctl, Arguments::Value(0, libc::PR_SET_KEEPCAPS as u32)),
        (libc::SYS_prlimit64, Arguments::Value(1, super::task::TAG)),
        (libc::SYS_getrlimit, Arguments::Value(0, super::task::TAG)),
        (libc::SYS_setrlimit, Arguments::Value(0, super::task::TAG)),
    ];
    let always = ALWAYS.iter().map(|call| (*call, Arguments::Any));
    let calls: Vec<_> = always
        .chain(sometimes)
        .filter_map(|(call, arguments)| Some((u32::try_from(call).ok()?, arguments)))
        .collect();
    Filter::notifying(&calls)
}
