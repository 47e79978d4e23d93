//! A request to stop, shared by all steps of a build.
//!
//! Two levels: the first [`Cancel::cancel`] asks (SIGTERM, a grace period, SIGKILL), the second
//! one kills at once. Both are descriptors that stay readable, so that any number of
//! waiters can poll them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

/// Asks running steps to stop; clones are the same request.
#[derive(Clone, Debug)]
pub struct Cancel(Arc<Request>);

#[derive(Debug)]
struct Request {
    count: AtomicU32,
    grace: Duration,
    /// Steps that run.
    running: AtomicU32,
    asked: OwnedFd,
    forced: OwnedFd,
}

impl Cancel {
    /// How long a step may take to end unless told otherwise, as Docker's.
    pub const GRACE: Duration = Duration::from_secs(10);

    /// A request that nobody has made yet.
    pub fn new() -> io::Result<Cancel> {
        Cancel::with_grace(Cancel::GRACE)
    }

    /// The same, after which steps may take `grace` between SIGTERM and SIGKILL.
    pub fn with_grace(grace: Duration) -> io::Result<Cancel> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Cancel(Arc::new(Request {
            count: AtomicU32::new(0),
            grace,
            running: AtomicU32::new(0),
            asked: eventfd(0, flags)?,
            forced: eventfd(0, flags)?,
        })))
    }

    /// Asks to stop; the second call asks to stop at once.
    pub fn cancel(&self) {
        let fd = match self.0.count.fetch_add(1, Ordering::SeqCst) {
            0 => &self.0.asked,
            1 => &self.0.forced,
            _ => return,
        };
        // Adding 1 to an eventfd that is 0 cannot block or fail.
        let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
    }

    /// How long a step may take between SIGTERM and SIGKILL.
    pub fn grace(&self) -> Duration {
        self.0.grace
    }

    /// Has anybody asked to stop?
    pub fn is_cancelled(&self) -> bool {
        self.0.count.load(Ordering::SeqCst) > 0
    }

    /// Readable once somebody has asked.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.asked.as_fd()
    }

    /// Readable once somebody has asked twice.
    pub fn forced_fd(&self) -> BorrowedFd<'_> {
        self.0.forced.as_fd()
    }

    /// Whether steps run that a request has to wait for.
    pub fn has_running_steps(&self) -> bool {
        self.0.running.load(Ordering::SeqCst) > 0
    }

    /// Counts a step as running until the value is dropped.
    pub(crate) fn running(&self) -> Running<'_> {
        self.0.running.fetch_add(1, Ordering::SeqCst);
        Running(self)
    }
}

/// A step that runs.
#[derive(Debug)]
pub(crate) struct Running<'a>(&'a Cancel);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}
