//! Which call is about what: numbers and arguments, as x86_64 and aarch64 have them.

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::credentials::Change;
use super::files::{Asked, New, current};
use super::filter::{FCHMODAT2, legacy};
use super::permission::{EXECUTE, NameChange, Named, WRITE};
use super::task::Task;
use super::{Reply, Supervisor};
use crate::sys::Notification;

/// The bit that tells `O_TMPFILE` from `O_DIRECTORY`.
const NAMELESS: OFlags = OFlags::from_bits_retain((libc::O_TMPFILE & !libc::O_DIRECTORY) as u32);

impl Supervisor {
    /// What is answered.
    pub(super) fn reply(&mut self, task: &Task<'_>, notification: &Notification) -> Result<Reply, Errno> {
        let call = i64::from(notification.call);
        let args = &notification.arguments;
        if !self.executed {
            self.executed = matches!(call, libc::SYS_execve | libc::SYS_execveat);
            if !self.executed {
                return Ok(Reply::Continue);
            }
        }
        match call {
            legacy::ACCESS | libc::SYS_faccessat | libc::SYS_faccessat2 => {
                let (directory, path, mode, flags) = match call {
                    legacy::ACCESS => (current(), args[0], args[1], 0),
                    libc::SYS_faccessat => (args[0] as i32, args[1], args[2], 0),
                    _ => (args[0] as i32, args[1], args[2], args[3] as i32),
                };
                if self.known.all_root() {
                    return Ok(Reply::Continue);
                }
                let Ok(path) = path_of(task, path, flags) else {
                    return Ok(Reply::Continue);
                };
                let named = Named {
                    directory,
                    path: &path,
                    follow: flags & libc::AT_SYMLINK_NOFOLLOW == 0,
                };
                self.reply_to_access(task, named, mode as u32, flags & libc::AT_EACCESS != 0)
            }
            libc::SYS_chdir
            | libc::SYS_fchdir
            | legacy::UNLINK
            | legacy::RMDIR
            | libc::SYS_unlinkat
            | legacy::RENAME
            | libc::SYS_renameat
            | libc::SYS_renameat2
            | legacy::LINK
            | libc::SYS_linkat
            | legacy::CHMOD
            | libc::SYS_fchmod
            | libc::SYS_fchmodat
            | FCHMODAT2
            | libc::SYS_truncate
            | legacy::UTIME
            | legacy::UTIMES
            | legacy::FUTIMESAT
            | libc::SYS_utimensat => self.reply_to_change(task, call, args),
            legacy::STAT | legacy::LSTAT | libc::SYS_fstat | libc::SYS_newfstatat | libc::SYS_statx => {
                self.reply_to_stat(task, call, args)
            }
            legacy::CHOWN | legacy::LCHOWN | libc::SYS_fchown | libc::SYS_fchownat => {
                self.reply_to_chown(task, call, args)
            }
            legacy::OPEN
            | legacy::CREAT
            | libc::SYS_openat
            | libc::SYS_openat2
            | legacy::MKDIR
            | libc::SYS_mkdirat
            | legacy::MKNOD
            | libc::SYS_mknodat
            | legacy::SYMLINK
            | libc::SYS_symlinkat => self.reply_to_creation(task, call, args),
            libc::SYS_setxattr | libc::SYS_lsetxattr | libc::SYS_fsetxattr => {
                self.change_attribute(task, args[1], true)
            }
            libc::SYS_removexattr | libc::SYS_lremovexattr | libc::SYS_fremovexattr => {
                self.change_attribute(task, args[1], false)
            }
            libc::SYS_listxattr | libc::SYS_llistxattr => {
                let follow = call == libc::SYS_listxattr;
                let path = task.text(args[0])?;
                let place = task.place(&self.known, current(), &path, follow)?;
                self.list_attributes(task, place, args[1], args[2])
            }
            libc::SYS_flistxattr => {
                self.list_attributes(task, task.descriptor(args[0] as i32), args[1], args[2])
            }
            _ => self.reply_about_identity(task, call, args),
        }
    }

    fn reply_to_stat(&self, task: &Task<'_>, call: i64, args: &[u64; 6]) -> Result<Reply, Errno> {
        let (directory, path, flags, asked) = match call {
            libc::SYS_fstat => {
                let asked = Asked::Stat { to: args[1] };
                return self.stat(task, task.descriptor(args[0] as i32), asked);
            }
            libc::SYS_newfstatat => (
                args[0] as i32,
                args[1],
                args[3] as i32,
                Asked::Stat { to: args[2] },
            ),
            libc::SYS_statx => {
                let asked = Asked::Statx {
                    to: args[4],
                    flags: args[2] as u32,
                    mask: args[3] as u32,
                };
                (args[0] as i32, args[1], args[2] as i32, asked)
            }
            _ => {
                let flags = if call == legacy::LSTAT {
                    libc::AT_SYMLINK_NOFOLLOW
                } else {
                    0
                };
                (current(), args[0], flags, Asked::Stat { to: args[1] })
            }
        };
        let Ok(path) = path_of(task, path, flags) else {
            return Ok(Reply::Continue);
        };
        let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
        if let Some(caller) = self.confined(task)? {
            let named = Named {
                directory,
                path: &path,
                follow,
            };
            self.check_access(task, &caller, named, 0)?;
        }
        match task.place(&self.known, directory, &path, follow) {
            Ok(place) if !path.is_empty() || flags & libc::AT_EMPTY_PATH != 0 => {
                self.stat(task, place, asked)
            }
            _ => Ok(Reply::Continue),
        }
    }

    fn reply_to_chown(&mut self, task: &Task<'_>, call: i64, args: &[u64; 6]) -> Result<Reply, Errno> {
        let id = |argument: u64| argument as u32;
        let (directory, path, flags, uid, gid) = match call {
            libc::SYS_fchown => {
                let place = task.descriptor(args[0] as i32);
                return self.chown(task, place, id(args[1]), id(args[2]));
            }
            libc::SYS_fchownat => (args[0] as i32, args[1], args[4] as i32, id(args[2]), id(args[3])),
            _ => {
                let flags = if call == legacy::LCHOWN {
                    libc::AT_SYMLINK_NOFOLLOW
                } else {
                    0
                };
                (current(), args[0], flags, id(args[1]), id(args[2]))
            }
        };
        if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
            return Err(Errno::INVAL);
        }
        let path = path_of(task, path, flags)?;
        if path.is_empty() && flags & libc::AT_EMPTY_PATH == 0 {
            return Err(Errno::NOENT);
        }
        let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
        let place = task.place(&self.known, directory, &path, follow)?;
        self.chown(task, place, uid, gid)
    }

    fn reply_to_creation(&mut self, task: &Task<'_>, call: i64, args: &[u64; 6]) -> Result<Reply, Errno> {
        let flags = |flags: u64| OFlags::from_bits_retain(flags as u32);
        let target;
        let (directory, path, new) = match call {
            legacy::OPEN => (current(), args[0], New::File(flags(args[1]), args[2] as u32)),
            legacy::CREAT => {
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC;
                (current(), args[0], New::File(flags, args[1] as u32))
            }
            libc::SYS_openat => (args[0] as i32, args[1], New::File(flags(args[2]), args[3] as u32)),
            libc::SYS_openat2 => {
                let mut how = [0u8; 24];
                if args[3] < 24 || task.read(args[2], &mut how).is_err() {
                    return Ok(Reply::Continue);
                }
                let field = |at: usize| how[at..].first_chunk().map_or(0, |b| u64::from_ne_bytes(*b));
                let flags = flags(field(0));
                // With rules for the way to the file only the kernel finds it.
                if field(16) != 0 {
                    return Ok(Reply::Continue);
                }
                (args[0] as i32, args[1], New::File(flags, field(8) as u32))
            }
            legacy::MKDIR => (current(), args[0], New::Directory(args[1] as u32)),
            libc::SYS_mkdirat => (args[0] as i32, args[1], New::Directory(args[2] as u32)),
            legacy::MKNOD => (current(), args[0], New::Node(args[1] as u32, args[2])),
            libc::SYS_mknodat => (args[0] as i32, args[1], New::Node(args[2] as u32, args[3])),
            _ => {
                let (directory, path) = match call {
                    legacy::SYMLINK => (current(), args[1]),
                    _ => (args[1] as i32, args[2]),
                };
                let Ok(text) = task.text(args[0]) else {
                    return Ok(Reply::Continue);
                };
                target = text;
                (directory, path, New::Symlink(&target))
            }
        };
        // With O_PATH nothing is created.
        let creates =
            |flags: OFlags| flags.intersects(OFlags::CREATE | NAMELESS) && !flags.contains(OFlags::PATH);
        if let New::File(flags, _) = new
            && self.known.all_root()
            && !creates(flags)
        {
            return Ok(Reply::Continue);
        }
        let Ok(path) = task.text(path) else {
            return Ok(Reply::Continue);
        };
        if let Some(caller) = self.confined(task)? {
            let named = Named {
                directory,
                path: &path,
                follow: true,
            };
            match new {
                New::File(flags, _) => self.check_open(task, &caller, named, flags)?,
                _ => self.check_change_of_name(task, &caller, named, NameChange::Make)?,
            }
        }
        match new {
            New::File(flags, _) if !creates(flags) => Ok(Reply::Continue),
            _ => self.create(task, directory, &path, new),
        }
    }

    /// Calls that the kernel would refuse to some.
    fn reply_to_change(&self, task: &Task<'_>, call: i64, args: &[u64; 6]) -> Result<Reply, Errno> {
        let Some(caller) = self.confined(task)? else {
            return Ok(Reply::Continue);
        };
        let descriptor = |at: usize| args[at] as i32;
        let path_at = |at: usize| path_of(task, args[at], libc::AT_EMPTY_PATH);
        let named = |directory: i32, at: usize, follow: bool| -> Result<(i32, Vec<u8>, bool), Errno> {
            Ok((directory, path_at(at)?, follow))
        };
        let follow = |flags: u64| flags as i32 & libc::AT_SYMLINK_NOFOLLOW == 0;
        let subject = match call {
            libc::SYS_fchdir | libc::SYS_fchmod => Ok((descriptor(0), Vec::new(), true)),
            libc::SYS_unlinkat => named(descriptor(0), 1, false),
            libc::SYS_renameat | libc::SYS_renameat2 => named(descriptor(0), 1, false),
            libc::SYS_linkat => named(descriptor(2), 3, false),
            legacy::LINK => named(current(), 1, false),
            libc::SYS_fchmodat => named(descriptor(0), 1, true),
            FCHMODAT2 => named(descriptor(0), 1, follow(args[3])),
            legacy::FUTIMESAT => named(descriptor(0), 1, true),
            libc::SYS_utimensat => named(descriptor(0), 1, follow(args[3])),
            _ => named(current(), 0, true),
        };
        // What is wrong with the path, the kernel says.
        let Ok((directory, path, follow)) = subject else {
            return Ok(Reply::Continue);
        };
        let named = Named {
            directory,
            path: &path,
            follow,
        };
        match call {
            libc::SYS_chdir | libc::SYS_fchdir => self.check_access(task, &caller, named, EXECUTE)?,
            libc::SYS_truncate => self.check_access(task, &caller, named, WRITE)?,
            legacy::CHMOD | libc::SYS_fchmod | libc::SYS_fchmodat | FCHMODAT2 => {
                self.check_owner(task, &caller, named)?;
            }
            legacy::UTIME | legacy::UTIMES => self.check_times(task, &caller, named, args[1] == 0)?,
            legacy::FUTIMESAT => self.check_times(task, &caller, named, args[2] == 0)?,
            libc::SYS_utimensat => {
                let now = args[2] == 0 || is_now(task, args[2])?;
                self.check_times(task, &caller, named, now)?;
            }
            legacy::LINK | libc::SYS_linkat => {
                self.check_change_of_name(task, &caller, named, NameChange::Make)?
            }
            _ => self.check_change_of_name(task, &caller, named, NameChange::Remove)?,
        }
        let target = match call {
            legacy::RENAME => Some((current(), 1)),
            libc::SYS_renameat | libc::SYS_renameat2 => Some((descriptor(2), 3)),
            _ => None,
        };
        if let Some((directory, at)) = target
            && let Ok(path) = path_at(at)
        {
            let named = Named {
                directory,
                path: &path,
                follow: false,
            };
            self.check_change_of_name(task, &caller, named, NameChange::Replace)?;
        }
        Ok(Reply::Continue)
    }

    fn reply_about_identity(&mut self, task: &Task<'_>, call: i64, args: &[u64; 6]) -> Result<Reply, Errno> {
        let id = |at: usize| args[at] as u32;
        let value = |id: u32| Ok(Reply::Value(id.into()));
        match call {
            libc::SYS_getuid => value(self.known.of(task)?.uid.real),
            libc::SYS_geteuid => value(self.known.of(task)?.uid.effective),
            libc::SYS_getgid => value(self.known.of(task)?.gid.real),
            libc::SYS_getegid => value(self.known.of(task)?.gid.effective),
            libc::SYS_getresuid | libc::SYS_getresgid => {
                let known = self.known.of(task)?;
                let ids = if call == libc::SYS_getresuid {
                    known.uid
                } else {
                    known.gid
                };
                Supervisor::tell_three(task, args, [ids.real, ids.effective, ids.saved])
            }
            libc::SYS_getgroups => self.tell_groups(task, args[0], args[1]),
            libc::SYS_setuid => self.change_uid(task, Change::One(id(0))),
            libc::SYS_setgid => self.change_gid(task, Change::One(id(0))),
            libc::SYS_setreuid => self.change_uid(task, Change::Two(id(0), id(1))),
            libc::SYS_setregid => self.change_gid(task, Change::Two(id(0), id(1))),
            libc::SYS_setresuid => self.change_uid(task, Change::Three([id(0), id(1), id(2)])),
            libc::SYS_setresgid => self.change_gid(task, Change::Three([id(0), id(1), id(2)])),
            libc::SYS_setfsuid => self.change_file_system_uid(task, id(0)),
            libc::SYS_setfsgid => self.change_file_system_gid(task, id(0)),
            libc::SYS_setgroups => self.change_groups(task, args[0], args[1]),
            libc::SYS_capget => self.tell_capabilities(task, args[0], args[1]),
            libc::SYS_capset => self.change_capabilities(task, args[0], args[1]),
            libc::SYS_prctl => self.keep_capabilities(task, args[1]),
            libc::SYS_chroot => self.change_root(task),
            libc::SYS_execve | libc::SYS_execveat => {
                let (directory, path, flags) = match call {
                    libc::SYS_execve => (current(), args[0], 0),
                    _ => (args[0] as i32, args[1], args[4] as i32),
                };
                let Ok(path) = path_of(task, path, flags) else {
                    return Ok(Reply::Continue);
                };
                if let Some(caller) = self.confined(task)? {
                    let named = Named {
                        directory,
                        path: &path,
                        follow: true,
                    };
                    self.check_access(task, &caller, named, EXECUTE)?;
                }
                match task.place(&self.known, directory, &path, true) {
                    Ok(place) => self.execute(task, place),
                    Err(_) => Ok(Reply::Continue),
                }
            }
            // The limit that carries the credentials: nobody enforces it, and it is shown as it always is.
            libc::SYS_getrlimit => tell_limit(task, args[1]),
            libc::SYS_setrlimit => Ok(Reply::Value(0)),
            libc::SYS_prlimit64 => tell_limit(task, args[3]),
            _ => Ok(Reply::Continue),
        }
    }
}

/// Do both times of `utimensat` mean now, or stay?
fn is_now(task: &Task<'_>, times: u64) -> Result<bool, Errno> {
    const NOW: u32 = libc::UTIME_NOW as u32;
    const OMIT: u32 = libc::UTIME_OMIT as u32;
    let words = task.numbers(times, 8)?;
    Ok([words[2], words[6]].iter().all(|nanoseconds| *nanoseconds == NOW)
        || [words[2], words[6]]
            .iter()
            .all(|nanoseconds| *nanoseconds == OMIT))
}

/// Unlimited.
fn tell_limit(task: &Task<'_>, to: u64) -> Result<Reply, Errno> {
    if to != 0 {
        task.write_numbers(to, &[u32::MAX; 4])?;
    }
    Ok(Reply::Value(0))
}

/// The path argument of a call; a null pointer means the descriptor itself where an empty path does.
fn path_of(task: &Task<'_>, address: u64, flags: i32) -> Result<Vec<u8>, Errno> {
    if address == 0 && flags & libc::AT_EMPTY_PATH != 0 {
        return Ok(Vec::new());
    }
    task.text(address)
}
