//! Owners and ids for steps in a namespace with one id.
//!
//! In such a namespace every file belongs to one user and every process is that user, its root. A *supervisor*, a process
//! beside each step, answers the calls that deal with anything else (seccomp user notification): chown notes the
//! owner on the file ([`note`]), stat shows it, setuid and its kind change what the process believes to be
//! ([`credentials`]), getuid and its kind tell it, and what it may do to files is decided by it ([`permission`]). Everything that it does not have to know better it leaves to the kernel, so
//! that errors, modes, times, copies on write and file capabilities are the kernel's own.
//!
//! What is not kept apart: `/proc/PID/status` and credentials passed over sockets show that one id; access control lists
//! name nobody else. A supervisor has no more rights than the
//! step, so a step that deceives it gains nothing.

mod credentials;
mod files;
mod filter;
mod identity;
mod note;
mod permission;
mod task;

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::process::Signal;
use rustix::thread::LinkNameSpaceType;
use serde::{Deserialize, Serialize};

use self::credentials::{Change, Credentials};
use self::files::{Asked, New, current};
use self::filter::{FCHMODAT2, legacy};
use self::note::Notes;
use self::permission::{EXECUTE, NameChange, Named, WRITE};
use self::task::{Known, Task};
use crate::sys::{self, Answer, Notification};
use crate::user::Identity;
use crate::{Error, mounts, protocol};

pub(crate) use self::filter::notifying;

/// The bit that tells `O_TMPFILE` from `O_DIRECTORY`.
const NAMELESS: OFlags = OFlags::from_bits_retain((libc::O_TMPFILE & !libc::O_DIRECTORY) as u32);

/// What a supervisor says when it has understood.
const READY: &[u8] = b"+";

/// What a step tells its supervisor, beside two descriptors: the listener and the mount namespace.
#[derive(Debug, Serialize, Deserialize)]
struct Start {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    bounding: u64,
}

/// Starts a supervisor: its pidfd, and the socket by which the step hands itself over.
pub(crate) fn start() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = protocol::sockets()?;
    match sys::clone_into(0)? {
        Some(child) => Ok((child, theirs)),
        None => {
            let tied = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
            if tied.is_err() || sys::close_all_but(&[ours.as_fd()]).is_err() {
                sys::exit_now(1)
            }
            let code = match supervise(&ours) {
                Ok(()) => 0,
                Err(error) => {
                    // Once the step runs nobody listens; then the exit code says enough.
                    let _ = rustix::net::send(&ours, error.to_string().as_bytes(), SendFlags::NOSIGNAL);
                    1
                }
            };
            sys::exit_now(code)
        }
    }
}

/// Notes the owner of a file that the executor makes for a step. Where a file cannot keep the note, it stays root's.
pub(crate) fn note_owner(file: BorrowedFd<'_>, uid: u32, gid: u32) -> rustix::io::Result<()> {
    let stat = rustix::fs::fstat(file)?;
    let note = note::Note {
        uid,
        gid,
        device: None,
    };
    Notes::default().set(mounts::by_descriptor(file).as_bytes(), &stat, note)
}

/// In the step: the calls of this process and its children are answered by the supervisor from now on.
pub(crate) fn hand_over(socket: BorrowedFd<'_>, identity: &Identity, bounding: u64) -> io::Result<()> {
    let filter =
        notifying().ok_or_else(|| io::Error::other("no system call filter is known for this machine"))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mounts = rustix::fs::open("/proc/self/ns/mnt", flags, Mode::empty())?;
    let start = serde_json::to_vec(&Start {
        uid: identity.uid,
        gid: identity.gid,
        groups: identity.groups.clone(),
        bounding,
    })?;
    let listener = sys::install_notifying_filter(filter.program())?;
    let fds = [listener.as_fd(), mounts.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let packet = [io::IoSlice::new(&start)];
    rustix::io::retry_on_intr(|| sendmsg(socket, &packet, &mut ancillary, SendFlags::NOSIGNAL))?;
    let mut answer = vec![0u8; 4096];
    let (length, _) =
        rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut answer[..], RecvFlags::empty()))?;
    match &answer[..length] {
        READY => Ok(()),
        b"" => Err(io::Error::other("it has ended")),
        error => Err(io::Error::other(String::from_utf8_lossy(error).into_owned())),
    }
}

/// The life of a supervisor: it ends when no process of the step is left.
fn supervise(socket: &OwnedFd) -> Result<(), Error> {
    let fail = |what: &'static str| move |e: io::Error| Error::internal(what, e);
    let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    // Of its own pid namespace, in which it knows the step's threads.
    let processes = mounts::detached("/proc", "proc", &[], quiet)?;
    let Some((start, listener, namespace)) = receive(socket).map_err(fail("receiving the step"))? else {
        return Ok(());
    };
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
        .map_err(|e| fail("entering the mounts of the step")(e.into()))?;
    rustix::process::fchdir(&processes).map_err(|e| fail("entering /proc")(e.into()))?;
    rustix::process::umask(Mode::empty());
    // Each file that is being made takes descriptors.
    if let Ok((_, hard)) = sys::limit(libc::RLIMIT_NOFILE) {
        let _ = sys::set_limit(libc::RLIMIT_NOFILE, hard, hard);
    }
    sys::wake_synchronously(listener.as_fd());
    let first = Credentials::first(start.uid, start.gid, start.groups, start.bounding);
    let mut supervisor = Supervisor {
        known: Known::new(first),
        notes: Notes::default(),
        processes: rustix::fs::fstat(&processes)
            .map_err(|e| fail("looking at /proc")(e.into()))?
            .st_dev,
        executed: false,
    };
    rustix::io::retry_on_intr(|| rustix::net::send(socket, READY, SendFlags::NOSIGNAL))
        .map_err(|e| fail("answering the step")(e.into()))?;
    supervisor
        .serve(listener.as_fd())
        .map_err(fail("answering the step"))
}

fn receive(socket: &OwnedFd) -> io::Result<Option<(Start, OwnedFd, OwnedFd)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut packet = vec![0u8; 1 << 20];
    let received = rustix::io::retry_on_intr(|| {
        let buffers = &mut [io::IoSliceMut::new(&mut packet)];
        recvmsg(socket, buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    if received.bytes == 0 {
        // The step could not be made.
        return Ok(None);
    }
    let start = serde_json::from_slice(&packet[..received.bytes])?;
    let mut fds = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    match (fds.next(), fds.next()) {
        (Some(listener), Some(namespace)) => Ok(Some((start, listener, namespace))),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// What is known of a step.
#[derive(Debug)]
struct Supervisor {
    known: Known,
    notes: Notes,
    /// The device of the supervisor's `/proc`.
    processes: u64,
    /// Has the command been executed? Before, the sandbox makes itself, and the kernel knows best.
    executed: bool,
}

/// The result of a call.
#[derive(Debug)]
enum Reply {
    /// The kernel carries it out.
    Continue,
    Value(i64),
    /// A descriptor for the caller, closed by exec or not.
    File(OwnedFd, bool),
}

impl Supervisor {
    fn serve(&mut self, listener: BorrowedFd<'_>) -> io::Result<()> {
        loop {
            let mut fds = [PollFd::from_borrowed_fd(listener, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            }
            let ready = fds[0].revents();
            if !ready.contains(PollFlags::IN) {
                return Ok(());
            }
            let notification = match sys::receive_notification(listener) {
                Ok(notification) => notification,
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => continue,
                Err(e) => return Err(e),
            };
            let task = Task {
                listener,
                id: notification.id,
                thread: notification.thread,
            };
            let reply = self.reply(&task, &notification);
            let answered = match reply {
                Ok(Reply::Continue) => sys::answer(listener, task.id, Answer::Continue),
                Ok(Reply::Value(value)) => sys::answer(listener, task.id, Answer::Value(value)),
                Ok(Reply::File(file, close)) => {
                    match sys::answer_with_file(listener, task.id, file.as_fd(), close) {
                        // As many as it may have are open.
                        Err(e) if e.raw_os_error() == Some(libc::EMFILE) => {
                            sys::answer(listener, task.id, Answer::Errno(libc::EMFILE))
                        }
                        answered => answered,
                    }
                }
                Err(errno) => sys::answer(listener, task.id, Answer::Errno(errno.raw_os_error())),
            };
            match answered {
                // It died meanwhile.
                Err(e) if e.raw_os_error() != Some(libc::ENOENT) => return Err(e),
                _ => {}
            }
        }
    }

    fn reply(&mut self, task: &Task<'_>, notification: &Notification) -> Result<Reply, Errno> {
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
        if let New::File(flags, _) = new
            && self.known.all_root()
            && !flags.intersects(OFlags::CREATE | NAMELESS)
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
            New::File(flags, _) if !flags.intersects(OFlags::CREATE | NAMELESS) => Ok(Reply::Continue),
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
