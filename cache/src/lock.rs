//! Locks between processes (and threads) that share a store: who works on a key, so that
//! a step wanted twice at once runs once. The kernel lets go of them when a process dies.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use crate::digest::Key;
use crate::error::StoreError;
use crate::store::{Inner, Store};

/// Held by the one process (and thread) that works on a key. Dropping it lets the next one in.
pub struct KeyLock {
    /// The file to remove, when it was made for this lock. Before the lock itself: if nothing else keeps the store open, whoever is
    /// let in finds that it is not used any more.
    made: Option<(String, Arc<Inner>)>,
    _file: File,
}

impl std::fmt::Debug for KeyLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.made.as_ref().map(|(name, _)| name);
        f.debug_tuple("KeyLock").field(&name).finish()
    }
}

impl KeyLock {
    /// Whether a key is locked, as opposed to a directory.
    pub(crate) fn is_for_key(&self) -> bool {
        self.made.is_some()
    }
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // While the lock is held: those who wait for this file find out that its name is gone.
        if let Some((name, store)) = &self.made {
            let _ = store.locks.unlink(name);
        }
    }
}

impl Store {
    /// Says to whom `tell` is told that something takes long because another process is at it.
    pub fn set_waiting(&self, tell: impl Fn(&str) + Send + Sync + 'static) {
        *self.0.waiting.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(tell));
    }

    /// Waits until nobody else holds the lock of `key`, and takes it. A thread must not ask for a lock that it holds.
    pub fn lock_key(&self, key: &Key) -> Result<KeyLock, StoreError> {
        loop {
            if let Some(lock) = self.lock_key_unless(key, &|| false)? {
                return Ok(lock);
            }
        }
    }

    /// As [`Store::lock_key`], but `None` as soon as `is_over`.
    pub fn lock_key_unless(
        &self,
        key: &Key,
        is_over: &dyn Fn() -> bool,
    ) -> Result<Option<KeyLock>, StoreError> {
        let mut wait = Wait::new("is at the same step, source or layer");
        loop {
            if let Some(lock) = self.try_lock_key(key)? {
                return Ok(Some(lock));
            }
            if is_over() {
                return Ok(None);
            }
            wait.pause(self, || self.0.locks.open_file(&key.hex()).ok().flatten());
        }
    }

    /// As [`Store::lock_key`], but `None` at once when somebody holds it, or had it and removed the file meanwhile.
    pub fn try_lock_key(&self, key: &Key) -> Result<Option<KeyLock>, StoreError> {
        let locks = &self.0.locks;
        let name = key.hex();
        let fail = |error| StoreError::io("locking", locks.path_of(&name), error);
        let file = locks.file(&name, OFlags::RDWR | OFlags::CREATE).map_err(fail)?;
        match lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(fail(error)),
        }
        let inode = file.metadata().map_err(fail)?.ino();
        if locks.stat(&name)?.is_none_or(|stat| stat.st_ino != inode) {
            return Ok(None);
        }
        Ok(Some(KeyLock {
            _file: file,
            made: Some((name, Arc::clone(&self.0))),
        }))
    }

    /// Waits for the lock of a directory of the store and takes it; `None` when there is no such directory. Makes
    /// nothing: files that come and go are what a file system is slowest at.
    pub(crate) fn lock_directory(&self, directory: &Path) -> Result<Option<KeyLock>, StoreError> {
        let file = match File::open(directory) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("opening", directory, error)),
        };
        self.lock_patiently(&file, directory, "is at the same layer")?;
        Ok(Some(KeyLock {
            _file: file,
            made: None,
        }))
    }
}

/// Waiting for a lock for as long as it takes. Who has it is said once when that is long: a hanging process is not seen
/// otherwise, and a step that another build runs is no hanging one.
struct Wait {
    /// What who has the lock does.
    doing: &'static str,
    since: Instant,
    pause: Duration,
    said: bool,
}

impl Wait {
    fn new(doing: &'static str) -> Self {
        Self {
            doing,
            since: Instant::now(),
            pause: Duration::from_micros(50),
            said: false,
        }
    }

    /// A moment. `file` is what is locked, if it is there.
    fn pause(&mut self, store: &Store, file: impl FnOnce() -> Option<File>) {
        std::thread::sleep(self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        if self.said || self.since.elapsed() < LONG {
            return;
        }
        let Some(file) = file() else { return };
        let pids = pids_of_holders(std::slice::from_ref(&file));
        // Another thread of this process, which shows what it does.
        if pids.contains(&std::process::id()) {
            return;
        }
        self.said = true;
        let who = match pids.first() {
            Some(pid) => format!("another rbuild process (pid {pid})"),
            None => "another rbuild process".to_owned(),
        };
        let waiting = store.0.waiting.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(tell) = &*waiting {
            tell(&format!(
                "waiting for {who}, which {}; if it hangs, end it",
                self.doing
            ));
        }
    }
}

/// How long one waits without a word.
const LONG: Duration = Duration::from_secs(4);
/// Between two looks at a lock.
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

impl Store {
    /// Waits for the lock of `file` at `path`, which somebody has who `doing`.
    pub(crate) fn lock_patiently(
        &self,
        file: &File,
        path: &Path,
        doing: &'static str,
    ) -> Result<(), StoreError> {
        let mut wait = Wait::new(doing);
        loop {
            match lock(file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait.pause(self, || file.try_clone().ok());
                }
                Err(error) => return Err(StoreError::io("locking", path, error)),
            }
        }
    }
}

/// `flock` that goes on after a signal.
pub(crate) fn lock(file: &File, operation: FlockOperation) -> io::Result<()> {
    loop {
        match rustix::fs::flock(file, operation) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// `flock` that gives up when the same processes have had the lock for `patience`, and says which. Where they take turns the
/// work goes on, so that is waited for longer, yet not for ever.
pub(crate) fn lock_within(
    patience: Duration,
    file: &File,
    path: &Path,
    operation: FlockOperation,
) -> Result<(), StoreError> {
    let operation = match operation {
        FlockOperation::LockShared => FlockOperation::NonBlockingLockShared,
        FlockOperation::LockExclusive => FlockOperation::NonBlockingLockExclusive,
        other => other,
    };
    let start = Instant::now();
    let (mut since, mut looked) = (start, start);
    let mut others = String::new();
    let mut pause = Duration::from_micros(50);
    loop {
        match lock(file, operation) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                return Err(StoreError::io("locking", path, error));
            }
            Err(_) => {}
        }
        let now = Instant::now();
        if now - looked >= patience / TURNS_SEEN {
            looked = now;
            let current = holders(std::slice::from_ref(file));
            if current != others {
                others = current;
                since = now;
            }
        }
        if now - since >= patience || now - start >= patience * MOST_TURNS {
            return Err(StoreError::Locked {
                path: path.to_owned(),
                seconds: (now - since).as_secs(),
                others,
            });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// How often who waits looks who has the lock, until it runs out of patience.
const TURNS_SEEN: u32 = 20;

/// What all that take turns may take, in terms of the patience with one.
const MOST_TURNS: u32 = 10;

/// Which processes have locked one of `files`, as far as `/proc/locks` tells.
fn pids_of_holders(files: &[File]) -> Vec<u32> {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let inodes: Vec<u64> = files
        .iter()
        .filter_map(|file| Some(file.metadata().ok()?.ino()))
        .collect();
    let held = |line| inodes.iter().find_map(|inode| holder(line, *inode));
    let mut pids: Vec<u32> = locks.lines().filter_map(held).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Says which other processes have locked one of `files`.
pub(crate) fn holders(files: &[File]) -> String {
    let me = std::process::id();
    let mut pids = pids_of_holders(files);
    pids.retain(|pid| *pid != me);
    let list = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    match pids.len() {
        0 => "other rbuild processes are using the store".to_owned(),
        1 => format!("another rbuild process is using the store (pid {list})"),
        count => format!("{count} other rbuild processes are using the store (pids {list})"),
    }
}

/// The holder of a lock on `inode` in a line such as `1: FLOCK  ADVISORY  READ 4242 08:01:1234 0 EOF`. Those who wait
/// have `->` before the kind.
fn holder(line: &str, inode: u64) -> Option<u32> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, "FLOCK", _, _, pid, place, ..] = fields.as_slice() else {
        return None;
    };
    (place.rsplit(':').next()?.parse() == Ok(inode)).then(|| pid.parse().ok())?
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn who_takes_turns_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let file = File::create(&path).unwrap();
        let hold = |_| {
            let mut command = std::process::Command::new("flock");
            command.arg(&path).args(["sleep", "1"]).spawn().unwrap()
        };
        let mut others: Vec<std::process::Child> = (0..4).map(hold).collect();
        while file.try_lock().is_ok() {
            file.unlock().unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        // Longer than one of them takes, not as long as all do.
        lock_within(
            Duration::from_secs(3),
            &file,
            &path,
            FlockOperation::LockExclusive,
        )
        .unwrap();
        file.unlock().unwrap();
        for other in &mut others {
            other.wait().unwrap();
        }
        let mut other = hold(0);
        while file.try_lock().is_ok() {
            file.unlock().unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        let patience = Duration::from_millis(100);
        let refused = lock_within(patience, &file, &path, FlockOperation::LockExclusive).unwrap_err();
        assert!(refused.to_string().contains("(pid "), "{refused}");
        other.wait().unwrap();
    }

    #[test]
    fn one_at_a_time_and_nothing_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let key = Key([7; 32]);
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let store = Store::open(&directory.path().join("store")).unwrap();
                    for _ in 0..200 {
                        let lock = store.lock_key(&key).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        assert!(store.try_lock_key(&key).unwrap().is_none());
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        let store = Store::open(&directory.path().join("store")).unwrap();
        assert_eq!(store.0.locks.names().unwrap().len(), 0);
        assert!(store.try_lock_key(&key).unwrap().is_some());
        let (one, other) = (
            store.lock_key(&key).unwrap(),
            store.lock_key(&Key([8; 32])).unwrap(),
        );
        drop((one, other));
    }

    #[test]
    fn holders_are_found_in_proc_locks() {
        let inode = 1234;
        for (line, pid) in [
            ("1: FLOCK  ADVISORY  READ 4242 08:01:1234 0 EOF", Some(4242)),
            ("1: FLOCK  ADVISORY  READ 4242 08:01:1235 0 EOF", None),
            ("1: -> FLOCK  ADVISORY  WRITE 4242 08:01:1234 0 EOF", None),
            ("1: POSIX  ADVISORY  READ 4242 08:01:1234 0 EOF", None),
            ("", None),
        ] {
            assert_eq!(holder(line, inode), pid, "{line}");
        }
    }
}
