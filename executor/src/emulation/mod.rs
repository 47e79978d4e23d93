//! Owners and ids for steps in a namespace with one id.
//!
//! In such a namespace every file belongs to one user and every process is that user, its root. A *supervisor*, a process
//! beside each step, answers the calls that deal with anything else (seccomp user notification): chown notes the
//! owner on the file ([`note`]), stat shows it, setuid and its kind change what the process believes to be
//! ([`credentials`]), getuid and its kind tell it, and what it may do to files is decided by it ([`permission`]).
//! Everything that the supervisor does not have to know better it leaves to the kernel, so that errors, modes, times, copies
//! on write and file capabilities are the kernel's own.
//!
//! What is not kept apart: `/proc/PID/status` and credentials passed over sockets show that one id; access control lists
//! name nobody else. A supervisor has no more rights than the step, so a step that deceives it gains nothing.

mod calls;
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
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::process::Signal;
use rustix::thread::LinkNameSpaceType;
use serde::{Deserialize, Serialize};

use self::credentials::Credentials;
use self::note::Notes;
use self::task::{Known, Task};
use crate::sys::{self, Answer};
use crate::user::Identity;
use crate::{Error, mounts, protocol};

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
    let filter = filter::notifying()
        .ok_or_else(|| io::Error::other("no system call filter is known for this machine"))?;
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
    // Of the pid namespace in which it knows the step's threads.
    let processes = mounts::processes()?;
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
        let reading_ends = reading_ends_with_the_step();
        let mut look = !reading_ends;
        loop {
            if look && has_ended(listener)? {
                return Ok(());
            }
            look = !reading_ends;
            let notification = match sys::receive_notification(listener) {
                Ok(notification) => notification,
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => {
                    look = true;
                    continue;
                }
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
}

/// Waits until there is a call to answer, or nobody left who could make one.
fn has_ended(listener: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(listener, PollFlags::IN)];
    loop {
        match poll(&mut fds, None) {
            Ok(_) => return Ok(!fds[0].revents().contains(PollFlags::IN)),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Does the kernel end the wait for a call when nobody is left to make one (6.11)? Without that, every wait is preceded
/// by another one that tells.
fn reading_ends_with_the_step() -> bool {
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 11)
}
