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
pub fn install() -> io::Result<Signals> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Signals {
    /// Blocks until one of the signals arrives and returns its number.
    pub fn wait(&self) -> io::Result<i32> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
