//! What a signal does to a build.
//!
//! The first one asks the steps to stop and the build to unwind. What does not look for requests to stop (a transfer, an
//! export) gets a moment; then rbuild removes its temporary files and ends, whatever its threads are at. A second signal
//! shortens that.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rbuild_executor::{Cancel, signals};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cli::context::note;
use crate::progress::{Renderer as _, Tail};

/// How long steps may take to end beyond their grace.
const STEPS_WITHIN: Duration = Duration::from_secs(1);

/// How long everything else may take; and steps after a second signal.
const UNWIND_WITHIN: Duration = Duration::from_millis(500);

/// How often is it looked whether steps run.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// The number of the signal that ended the build, 0 for none.
static INTERRUPTED: AtomicI32 = AtomicI32::new(0);

/// The signal that asked the build to stop.
pub fn signal() -> Option<i32> {
    match INTERRUPTED.load(Ordering::Relaxed) {
        0 => None,
        signal => Some(signal),
    }
}

/// Signals that are caught from its making on, and acted upon while they are watched.
pub struct Interrupts {
    signals: Arc<signals::Signals>,
    cancel: Cancel,
    progress: Arc<Tail>,
    watcher: Option<(Cancel, JoinHandle<()>)>,
}

impl Interrupts {
    /// Catches the signals; nobody watches yet. Steps may take `grace` to end. Call it before any thread starts.
    pub fn catch(progress: &Arc<Tail>, grace: Duration) -> io::Result<Self> {
        Ok(Self {
            signals: Arc::new(signals::install()?),
            cancel: Cancel::with_grace(grace)?,
            progress: Arc::clone(progress),
            watcher: None,
        })
    }

    /// The request that a signal makes.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Watches on a thread of its own.
    pub fn watch(&mut self) -> io::Result<()> {
        let stop = Cancel::new()?;
        let watcher = Watcher {
            signals: Arc::clone(&self.signals),
            cancel: self.cancel.clone(),
            progress: Arc::clone(&self.progress),
            stop: stop.clone(),
        };
        self.watcher = Some((stop, std::thread::spawn(move || watcher.run())));
        Ok(())
    }

    /// Ends that thread. A signal that comes now waits for the next [`Interrupts::watch`].
    pub fn pause(&mut self) {
        if let Some((stop, thread)) = self.watcher.take() {
            stop.cancel();
            // A watcher that has panicked watches no more, which is all that is wanted.
            let _ = thread.join();
        }
    }
}

struct Watcher {
    signals: Arc<signals::Signals>,
    cancel: Cancel,
    progress: Arc<Tail>,
    stop: Cancel,
}

impl Watcher {
    fn run(self) {
        let signal = match signal() {
            Some(signal) => signal,
            None => {
                if !self.wait(None) {
                    return;
                }
                let Ok(signal) = self.signals.wait() else { return };
                INTERRUPTED.store(signal, Ordering::Relaxed);
                self.cancel.cancel();
                signal
            }
        };
        let began = Instant::now();
        let within = self.cancel.grace() + STEPS_WITHIN;
        let mut idle_since = began;
        while began.elapsed() < within && idle_since.elapsed() < UNWIND_WITHIN {
            if self.stop.is_cancelled() {
                return;
            }
            if self.wait(Some(&LOOK)) && self.signals.wait().is_ok() {
                self.cancel.cancel();
                std::thread::sleep(UNWIND_WITHIN);
                break;
            }
            if self.cancel.has_running_steps() {
                idle_since = Instant::now();
            }
        }
        self.end(128 + signal)
    }

    /// Whether a signal is there, rather than that time ran out or nobody wants to know any more.
    fn wait(&self, timeout: Option<&Timespec>) -> bool {
        let mut fds = [
            PollFd::new(&*self.signals, PollFlags::IN),
            PollFd::from_borrowed_fd(self.stop.fd(), PollFlags::IN),
        ];
        let polled = rustix::io::retry_on_intr(|| poll(&mut fds, timeout));
        polled.is_ok() && !fds[0].revents().is_empty()
    }

    fn end(&self, code: i32) -> ! {
        // Whoever holds the terminal may never give it back.
        let (told, ended) = mpsc::channel();
        let progress = Arc::clone(&self.progress);
        std::thread::spawn(move || {
            progress.finish();
            note("ERROR: failed to build: the build was interrupted");
            let _ = told.send(());
        });
        let _ = ended.recv_timeout(UNWIND_WITHIN);
        for line in crate::exporter::unfinished::abandon_all() {
            note(&line);
        }
        crate::source::git::kill_running();
        rbuild_cache::abandon_temporary();
        std::process::exit(code)
    }
}
