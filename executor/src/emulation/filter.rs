//! Which calls of a step are answered by the supervisor: those that deal with owners and ids, and of the others only what
//! creates files. Everything else is not slowed down.
//!
//! It is a filter of its own beside the one that forbids calls: what that one refuses stays refused.

use crate::seccomp::{Arguments, Filter};

/// The same number everywhere.
pub(super) const FCHMODAT2: i64 = 452;

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
    pub(in crate::emulation) const FUTIMESAT: i64 = libc::SYS_futimesat;
    pub(in crate::emulation) const UTIMES: i64 = libc::SYS_utimes;
    pub(in crate::emulation) const UTIME: i64 = libc::SYS_utime;
    pub(in crate::emulation) const CHMOD: i64 = libc::SYS_chmod;
    pub(in crate::emulation) const LINK: i64 = libc::SYS_link;
    pub(in crate::emulation) const RENAME: i64 = libc::SYS_rename;
    pub(in crate::emulation) const RMDIR: i64 = libc::SYS_rmdir;
    pub(in crate::emulation) const UNLINK: i64 = libc::SYS_unlink;
    pub(in crate::emulation) const ACCESS: i64 = libc::SYS_access;
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
    pub(in crate::emulation) const ACCESS: i64 = -18;
    pub(in crate::emulation) const UNLINK: i64 = -17;
    pub(in crate::emulation) const RMDIR: i64 = -16;
    pub(in crate::emulation) const RENAME: i64 = -15;
    pub(in crate::emulation) const LINK: i64 = -14;
    pub(in crate::emulation) const CHMOD: i64 = -13;
    pub(in crate::emulation) const UTIME: i64 = -12;
    pub(in crate::emulation) const UTIMES: i64 = -11;
    pub(in crate::emulation) const FUTIMESAT: i64 = -10;
}

/// Answered whatever the arguments.
const ALWAYS: &[i64] = &[
    legacy::OPEN,
    libc::SYS_openat,
    legacy::ACCESS,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    legacy::UNLINK,
    legacy::RMDIR,
    libc::SYS_unlinkat,
    legacy::RENAME,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    legacy::LINK,
    libc::SYS_linkat,
    legacy::CHMOD,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_truncate,
    legacy::UTIME,
    legacy::UTIMES,
    legacy::FUTIMESAT,
    libc::SYS_utimensat,
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
pub(super) fn notifying() -> Option<Filter> {
    let sometimes = [
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
