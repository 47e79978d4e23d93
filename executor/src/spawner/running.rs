//! A step that runs: the orders that it gets, and how it ended.

use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Signal, WaitId, WaitIdOptions, waitid};

use crate::protocol::order;

/// A step, from its first process to the end of its last.
pub(super) struct Running {
    pub(super) child: OwnedFd,
    /// `None` once the builder has closed its end.
    pub(super) reports: Option<OwnedFd>,
    /// Answers for the owners of its files, where there is one id. A pidfd.
    pub(super) supervisor: Option<OwnedFd>,
    /// Where the child takes orders and tells how the step ended, when it is a warden.
    pub(super) warden: Option<OwnedFd>,
    /// Was it killed from here?
    pub(super) killed: bool,
}

impl Running {
    /// Reads one order. A command that does not handle SIGTERM would ignore it as pid 1, so it is killed instead:
    /// the same result that the signal has for any other process, without the wait.
    pub(super) fn obey(&mut self) {
        let Some(reports) = &self.reports else { return };
        let mut byte = [0u8; 1];
        let received = rustix::net::recv(reports, &mut byte[..], rustix::net::RecvFlags::DONTWAIT);
        let kill = match received {
            Ok((1, _)) if byte[0] == order::TERMINATE => self.warden.is_none() && !handles_term(&self.child),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
            Ok((1, _)) => true,
            _ => {
                self.reports = None;
                true
            }
        };
        self.killed |= kill;
        if let Some(warden) = &self.warden {
            let order = if kill { order::KILL } else { order::TERMINATE };
            // It may have ended by itself meanwhile.
            let _ = rustix::net::send(warden, &[order], rustix::net::SendFlags::NOSIGNAL);
            return;
        }
        let signal = if kill { Signal::KILL } else { Signal::TERM };
        // It may have ended by itself meanwhile.
        let _ = rustix::process::pidfd_send_signal(&self.child, signal);
    }
}

/// Waits for a supervisor, which ends when its step has.
pub(super) fn ended_well(supervisor: &OwnedFd) -> bool {
    let status =
        rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(supervisor.as_fd()), WaitIdOptions::EXITED));
    matches!(status, Ok(Some(status)) if status.exit_status() == Some(0))
}

/// Does the process catch SIGTERM? Looked up in the builder's /proc, where its number is another one.
fn handles_term(child: &OwnedFd) -> bool {
    use std::os::fd::AsRawFd;
    let field = |text: &str, name: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(name))
            .map(|value| value.trim().to_owned())
    };
    let info = format!("/proc/self/fdinfo/{}", child.as_raw_fd());
    let caught = std::fs::read_to_string(info)
        .ok()
        .and_then(|text| field(&text, "Pid:"))
        .and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok())
        .and_then(|text| field(&text, "SigCgt:"))
        .and_then(|mask| u64::from_str_radix(&mask, 16).ok());
    caught.is_some_and(|mask| mask & (1 << (Signal::TERM.as_raw() - 1)) != 0)
}
