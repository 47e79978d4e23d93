//! SIGINT, SIGTERM and SIGHUP as something to wait for.
//!
//! [`install`] blocks them and opens a signalfd: no handler, no thread. It is called at the
//! start of `main`, before any thread exists, so that every thread inherits the mask; steps
//! get the mask cleared before they execute anything.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The signals that ask the builder to stop, waiting to be read.
#[derive(Debug)]
pub struct Signals(OwnedFd);

/// Turns SIGINT, SIGTERM and SIGHUP into descriptor events from now on. Call before any thread starts.
///
/// Children started with [`std::process::Command`] inherit the blocked signals: the builder forwards a
/// stop by killing them. Steps start with nothing blocked.
pub fn install() -> io::Result<Signals> {
    crate::sys::stop_signals().map(Signals)
}

impl Signals {
    /// Blocks until one of the signals arrives and returns its number.
    pub fn wait(&self) -> io::Result<i32> {
        crate::sys::read_signal(self.0.as_fd())
    }
}

impl AsFd for Signals {
    /// Readable when a signal is there; for `poll` together with other descriptors.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Lets writes beyond the limit of file sizes (`ulimit -f`) fail instead of ending the program. Steps begin with the
/// default again.
pub fn survive_file_size_limit() {
    crate::sys::ignore_file_size_signal();
}
