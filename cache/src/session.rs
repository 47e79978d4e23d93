//! Who uses the store at the moment, and since when: what keeps a prune from taking away what a running build stands on.
//!
//! **Pins.** Every open store is a session: it holds the lock of a file in `sessions/`, whose modification time is the
//! moment it began. Whoever is told that something exists (a record, a layer, a blob) gives it a new modification time if
//! the one it has is from before his session. So a prune spares what was made or used since the oldest living session
//! began, and nobody has to say what he is done with: the lock goes with the process.
//!
//! **The gate.** Being told and giving the new time happen inside [`Gate::enter`], a lock shared by all who
//! use the store and held for an instant. A prune decides what may go while others work, then looks at the times once
//! more and takes the things out of their places inside [`Gate::close`], alone and without removing a byte there.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FlockOperation, OFlags, Stat, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;

use crate::directory::Directory;
use crate::error::StoreError;
use crate::lock::{lock, lock_within};
use crate::store::Store;

/// How long anybody waits for the gate. A prune holds it for as long as it takes to rename what goes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Clocks that stamp files move on by ticks.
const TICK: Duration = Duration::from_millis(20);
/// More than ever use a store at once.
const MOST_SESSIONS: u32 = 10_000;

/// One that uses the store. Ends when it is dropped, or when its process does.
#[derive(Debug)]
pub(crate) struct Session {
    _slot: File,
    name: String,
    began: SystemTime,
}

impl Session {
    /// Begins: takes the first slot that nobody has. Slots are made once and stay.
    pub(crate) fn begin(slots: &Directory) -> Result<Self, StoreError> {
        for number in 0..MOST_SESSIONS {
            let name = number.to_string();
            let fail = |error| StoreError::io("locking", slots.path_of(&name), error);
            let slot = slots.file(&name, OFlags::RDWR | OFlags::CREATE).map_err(fail)?;
            match lock(&slot, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(fail(error)),
            }
            // Until the new time is there, the older one pins more than it must.
            rustix::fs::futimens(&slot, &now()).map_err(|errno| fail(errno.into()))?;
            let began = slot.metadata().and_then(|m| m.modified()).map_err(fail)?;
            return Ok(Self {
                _slot: slot,
                name,
                began,
            });
        }
        Err(StoreError::Refused {
            path: slots.path().to_owned(),
            reason: format!("{MOST_SESSIONS} processes use the store"),
        })
    }

    /// Whether `stat` is of something that was made or used since.
    pub(crate) fn has_seen(&self, stat: &Stat) -> bool {
        modified(stat) >= self.began
    }

    /// When the oldest session began that lives; without this one unless `own`. `None` when there is none.
    pub(crate) fn oldest(&self, slots: &Directory, own: bool) -> Result<Option<SystemTime>, StoreError> {
        let mut oldest = own.then_some(self.began);
        for name in slots.text_names()?.into_iter().filter(|name| *name != self.name) {
            let Some(slot) = slots.open_file(&name)? else {
                continue;
            };
            if lock(&slot, FlockOperation::NonBlockingLockShared).is_ok() {
                continue;
            }
            let began = slot.metadata().and_then(|m| m.modified());
            let began = began.map_err(|error| StoreError::io("looking at", slots.path_of(&name), error))?;
            oldest = Some(oldest.map_or(began, |oldest| oldest.min(began)));
        }
        Ok(oldest.map(|oldest| oldest.checked_sub(TICK).unwrap_or(oldest)))
    }
}

/// See the head of this module.
#[derive(Debug)]
pub(crate) struct Gate {
    file: File,
    path: PathBuf,
    /// How many threads are inside; the lock belongs to the file, which they share.
    inside: Mutex<usize>,
}

impl Gate {
    pub(crate) fn new(file: File, path: PathBuf) -> Self {
        Self {
            file,
            path,
            inside: Mutex::new(0),
        }
    }

    /// Goes in beside others. Not to be held while waiting for anything.
    pub(crate) fn enter(&self) -> Result<Inside<'_>, StoreError> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if *inside == 0 {
            self.wait(FlockOperation::LockShared)?;
        }
        *inside += 1;
        Ok(Inside(self))
    }

    /// Shuts it: waits until nobody is inside, and lets nobody in.
    pub(crate) fn close(&self) -> Result<Closed<'_>, StoreError> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        // Threads of this process that are inside come out within an instant; they need the counter for that.
        while *inside > 0 {
            drop(inside);
            std::thread::yield_now();
            inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        }
        self.wait(FlockOperation::LockExclusive)?;
        Ok(Closed {
            gate: self,
            _inside: inside,
        })
    }

    fn wait(&self, operation: FlockOperation) -> Result<(), StoreError> {
        lock_within(PATIENCE, &self.file, &self.path, operation)
    }
}

/// Inside the gate, beside others.
pub(crate) struct Inside<'a>(&'a Gate);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut inside = self.0.inside.lock().unwrap_or_else(PoisonError::into_inner);
        *inside = inside.saturating_sub(1);
        if *inside == 0 {
            let _ = lock(&self.0.file, FlockOperation::Unlock);
        }
    }
}

/// The gate is shut.
pub(crate) struct Closed<'a> {
    gate: &'a Gate,
    _inside: std::sync::MutexGuard<'a, usize>,
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        let _ = lock(&self.gate.file, FlockOperation::Unlock);
    }
}

impl Store {
    /// What `name` in `directory` is, if it is there: then no prune takes it as long as this store is open.
    pub(crate) fn pin(&self, directory: &Directory, name: &str) -> Result<Option<Stat>, StoreError> {
        let Some(stat) = directory.stat(name)? else {
            return Ok(None);
        };
        if self.0.session.has_seen(&stat) {
            return Ok(Some(stat));
        }
        let _inside = self.0.gate.enter()?;
        match rustix::fs::utimensat(directory, name, &now(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            // Where nothing can be written, nothing is pruned.
            _ => Ok(Some(stat)),
        }
    }
}

fn now() -> Timestamps {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    Timestamps {
        last_access: now,
        last_modification: now,
    }
}

/// When it was made or used.
pub(crate) fn modified(stat: &Stat) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
    SystemTime::UNIX_EPOCH + since + Duration::from_nanos(stat.st_mtime_nsec)
}
