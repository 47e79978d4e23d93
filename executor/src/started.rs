//! A step that was started.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::SendFlags;

use crate::cancel::Running;
use crate::cgroup::StepGroup;
use crate::cover::Cover;
use crate::executor::Ended;
use crate::inroot::Created;
use crate::protocol::{Report, order, receive_report};
use crate::{Cancel, Error, Exit, Rootfs};

/// A step that was started by [`crate::Executor::start`]. Dropped, it is killed.
#[derive(Debug)]
#[must_use]
pub struct Started<'a> {
    pub(crate) reports: OwnedFd,
    pub(crate) root: &'a Rootfs,
    pub(crate) cover: Option<Cover>,
    pub(crate) group: Option<StepGroup>,
    pub(crate) cancel: &'a Cancel,
    pub(crate) _running: Running<'a>,
}

impl Started<'_> {
    /// Waits for its end.
    ///
    /// When this returns, no process of the step is left, and `upper` holds what the step wrote and
    /// nothing else. Nothing has been synced to disk: the step's own `fsync` calls do nothing.
    pub fn wait(mut self) -> Result<Ended, Error> {
        let (mut result, created) = self.follow();
        if let (Ok(exit), Some(group)) = (&mut result, &self.group)
            && !exit.success()
            && group.ran_out_of_memory()
        {
            *exit = Exit::OutOfMemory;
        }
        let mut touched = Vec::new();
        if !created.is_empty() {
            remove_mount_points(self.root.changed(), &created)?;
            touched.extend(created.paths());
        }
        if let Some(cover) = self.cover.take() {
            touched.extend(cover.lift()?);
        }
        result.map(|exit| Ended { exit, touched })
    }

    /// Reads reports until the step is gone, passing a cancellation on.
    fn follow(&self) -> (Result<Exit, Error>, Created) {
        let (reports, cancel) = (&self.reports, self.cancel);
        let mut created = Created::default();
        let mut began = false;
        let mut failure = None;
        let mut stopping = Stopping::No;
        loop {
            let mut fds = vec![PollFd::new(reports, PollFlags::IN)];
            match stopping {
                Stopping::No => fds.push(PollFd::from_borrowed_fd(cancel.fd(), PollFlags::IN)),
                Stopping::Asked { .. } => {
                    fds.push(PollFd::from_borrowed_fd(cancel.forced_fd(), PollFlags::IN));
                }
                Stopping::Forced => {}
            }
            let timeout = stopping.time_left();
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return (Err(Error::internal("waiting for the step", e)), created),
            }
            let reported = !fds[0].revents().is_empty();
            let pushed = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
            stopping = stopping.next(pushed, reports, cancel.grace());
            if !reported {
                continue;
            }
            match receive_report(reports.as_fd()) {
                Ok(Some(Report::Ready(made))) => {
                    created = made;
                    began = true;
                }
                Ok(Some(Report::Setup(text))) => failure = Some(Error::Setup(text)),
                Ok(Some(Report::Start(text))) => failure = Some(Error::Start(text)),
                Ok(Some(Report::Gone(exit))) => {
                    let result = match (failure, &stopping) {
                        (Some(error), _) => Err(error),
                        (None, Stopping::No)
                            if began || matches!(exit, Exit::Signal(_) | Exit::OutOfMemory) =>
                        {
                            Ok(exit)
                        }
                        (None, Stopping::No) => Err(Error::Setup(
                            "the process of the step ended before its command began".to_owned(),
                        )),
                        (None, _) => Err(Error::Cancelled),
                    };
                    return (result, created);
                }
                Ok(None) => {
                    let ended = io::Error::other("the spawner ended");
                    return (Err(Error::internal("waiting for the step", ended)), created);
                }
                Err(e) => return (Err(Error::internal("waiting for the step", e)), created),
            }
        }
    }
}

/// How far a cancellation has come.
#[derive(Clone, Copy, Debug)]
enum Stopping {
    No,
    Asked { until: Instant },
    Forced,
}

impl Stopping {
    fn time_left(self) -> Option<Timespec> {
        let Stopping::Asked { until } = self else {
            return None;
        };
        let left = until.saturating_duration_since(Instant::now());
        Some(Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        })
    }

    /// The next state, after `pushed` (the cancellation that was waited for came) or the time has run out.
    fn next(self, pushed: bool, reports: &OwnedFd, grace: Duration) -> Stopping {
        let send = |order: u8| {
            // The step may be gone: then its last report is on the way.
            let _ = rustix::net::send(reports, &[order], SendFlags::NOSIGNAL);
        };
        match self {
            Stopping::No if pushed => {
                send(order::TERMINATE);
                Stopping::Asked {
                    until: Instant::now() + grace,
                }
            }
            Stopping::Asked { until } if pushed || Instant::now() >= until => {
                send(order::KILL);
                Stopping::Forced
            }
            same => same,
        }
    }
}

fn remove_mount_points(upper: &Path, created: &Created) -> Result<(), Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let upper = rustix::fs::open(upper, flags, Mode::empty())
        .map_err(|e| Error::internal("opening the upper directory", e))?;
    created.remove(upper.as_fd());
    Ok(())
}
