//! The parent of a step that has no pid namespace.
//!
//! It is what pid 1 of a namespace is elsewhere: whatever the step starts and leaves becomes its child (it is a subreaper), and when
//! the command has ended, or the spawner is gone, it kills what is left. Where Landlock keeps the signals of the step in, one call
//! kills all of them at once; elsewhere it goes on until there is no child.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use crate::Exit;
use crate::landlock::Landlock;
use crate::protocol::order;
use crate::sys;

/// How often orphans that have ended are buried while the command runs.
const BURIAL: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// Lives for one step: `start` forks the command's process. The last thing sent to `orders` is how it ended. The caller
/// has closed what this process does not need.
pub(crate) fn run(
    orders: &OwnedFd,
    landlock: Landlock,
    confined: bool,
    start: impl FnOnce() -> io::Result<OwnedFd>,
) -> ! {
    let exit = watch(orders, landlock, confined, start).unwrap_or(Exit::Code(1));
    if let Ok(packet) = serde_json::to_vec(&exit) {
        // A spawner that is gone needs no answer.
        let _ = rustix::net::send(orders, &packet, rustix::net::SendFlags::NOSIGNAL);
    }
    sys::exit_now(0)
}

fn watch(
    orders: &OwnedFd,
    landlock: Landlock,
    confined: bool,
    start: impl FnOnce() -> io::Result<OwnedFd>,
) -> io::Result<Exit> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let mut enclosed = false;
    if confined {
        rustix::thread::set_no_new_privs(true)?;
        enclosed = landlock.has_signals() && landlock.keep_signals().is_ok() && !may_signal_parent();
    }
    let child = start()?;
    let pid = sys::pid_of(child.as_fd())?;
    let mut exit = None;
    while exit.is_none() {
        let mut fds = [
            PollFd::new(&child, PollFlags::IN),
            PollFd::new(orders, PollFlags::IN),
        ];
        match poll(&mut fds, Some(&BURIAL)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        if !fds[1].revents().is_empty() {
            let mut byte = [0u8; 1];
            match rustix::net::recv(orders, &mut byte[..], rustix::net::RecvFlags::DONTWAIT) {
                Ok((1, _)) if byte[0] == order::TERMINATE => {
                    // It may have ended by itself meanwhile.
                    let _ = rustix::process::pidfd_send_signal(&child, Signal::TERM);
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                // The order to kill, or the end of the spawner.
                _ => break,
            }
        }
        while let Ok(Some((ended, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if ended == pid {
                exit = Some(exit_of(status));
            }
        }
    }
    // Until nobody is left: what dies leaves its children here.
    loop {
        if enclosed {
            sys::kill_all_in_reach();
        }
        kill_children(&[]);
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended == pid => exit = Some(exit_of(status)),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => break,
        }
    }
    Ok(exit.unwrap_or(Exit::Signal(Signal::KILL.as_raw())))
}

/// Whether the domain does not hold after all: then nothing may be killed by it.
fn may_signal_parent() -> bool {
    rustix::process::getppid().is_none_or(|parent| rustix::process::test_kill_process(parent).is_ok())
}

pub(crate) fn exit_of(status: WaitStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Code(1),
    }
}

/// Kills the children of this process but those of `spared`.
pub(crate) fn kill_children(spared: &[Pid]) -> Vec<Pid> {
    let mut killed = Vec::new();
    for child in children() {
        if !spared.contains(&child) && rustix::process::kill_process(child, Signal::KILL).is_ok() {
            killed.push(child);
        }
    }
    killed
}

/// The children of this process.
fn children() -> Vec<Pid> {
    let own = rustix::process::getpid();
    let list = format!("/proc/self/task/{own}/children");
    if let Ok(text) = std::fs::read_to_string(list) {
        return text
            .split_whitespace()
            .filter_map(|number| Pid::from_raw(number.parse().ok()?))
            .collect();
    }
    // Kernels that were built without that list.
    let own = own.to_string();
    let is_child = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, in parentheses, may hold anything.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        after_name.split_whitespace().nth(1) == Some(own.as_str())
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.parse::<u32>().is_ok() && is_child(name))
        .filter_map(|name| Pid::from_raw(name.parse().ok()?))
        .collect()
}
