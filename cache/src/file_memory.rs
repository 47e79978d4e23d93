//! Digests of local files, remembered by what `stat` says, so that an unchanged context costs one walk.
//!
//! **Invariant**: a digest is only remembered for a file that had settled before this run first looked at anything:
//! both its times lie further back than a clock tick. Whoever changes such a file later gives it a new ctime, which
//! nobody can set back, so that equal `stat` means equal bytes. A file changed a moment ago is read
//! again by the next run (git calls such an entry racily clean). A write through a shared mapping that is older than
//! that look is not seen, as in git; and a file server's clock must not lag behind ours.

mod fresh;
mod table;

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::digest::ContentDigest;
use crate::error::StoreError;
use crate::layer::{LayerPath, Timestamp};
use crate::store::Store;

use fresh::Fresh;
use table::{Table, encode};

/// What identifies a version of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStat {
    /// Device.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Time of the last change of the content.
    pub mtime: Timestamp,
    /// Time of the last change of anything.
    pub ctime: Timestamp,
}

impl FileStat {
    /// The version that is open.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let found = file.metadata()?;
        let time = |seconds, nanoseconds: i64| Timestamp {
            seconds,
            nanoseconds: u32::try_from(nanoseconds).unwrap_or(0),
        };
        Ok(Self {
            dev: found.dev(),
            ino: found.ino(),
            size: found.len(),
            mtime: time(found.mtime(), found.mtime_nsec()),
            ctime: time(found.ctime(), found.ctime_nsec()),
        })
    }

    /// Whether any change after `now`, in nanoseconds since 1970, gives the file other times.
    pub(crate) fn has_settled(&self, now: i128) -> bool {
        let coarse = self.mtime.nanoseconds == 0 && self.ctime.nanoseconds == 0;
        let tick = if coarse { COARSE_TICK } else { FINE_TICK };
        let nanoseconds =
            |time: Timestamp| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
        nanoseconds(self.mtime).max(nanoseconds(self.ctime)) + tick < now
    }
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> i128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as i128)
}

/// Paths that nobody asked for are forgotten when the memory was written this often without them.
const MAX_AGE: u32 = 16;

/// Two ticks of the slowest clock that Linux stamps files with (100 per second).
const FINE_TICK: i128 = 20_000_000;
/// Where times have no nanoseconds: two seconds, the coarsest in use (FAT).
const COARSE_TICK: i128 = 2_000_000_000;

/// The remembered digests of one context directory. Shared freely between threads.
pub struct FileMemory {
    store: Store,
    name: String,
    /// Nanoseconds since 1970 when the memory was opened.
    opened: i128,
    known: Table,
    /// Which records of `known` were asked for.
    used: Vec<AtomicBool>,
    fresh: Mutex<Fresh>,
}

/// The part of a memory in which the files of a directory are: looking there takes fewer steps, and those close together.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    records: Range<usize>,
    /// Behind what was found last: where the next one is, when names are asked for in their order.
    next: usize,
}

impl Scope {
    fn of(records: Range<usize>) -> Self {
        Self {
            next: records.start,
            records,
        }
    }
}

impl std::fmt::Debug for FileMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileMemory")
            .field("known", &self.known.count)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Whether the file `name` of remembered digests is sound, or has gone.
    pub(crate) fn is_file_memory_whole(&self, name: &str) -> Result<bool, StoreError> {
        let mut bytes = Vec::new();
        let Some(mut file) = self.0.files.open_file(name)? else {
            return Ok(true);
        };
        file.read_to_end(&mut bytes)
            .map_err(|error| StoreError::io("reading", self.0.files.path_of(name), error))?;
        Ok(Table::parse(bytes).is_some())
    }

    /// The memory of the context directory `context_root`. Take it before the first `stat` of a file in it.
    pub fn file_memory(&self, context_root: &Path) -> Result<FileMemory, StoreError> {
        use std::os::unix::ffi::OsStrExt;
        let opened = now();
        let root = context_root
            .canonicalize()
            .unwrap_or_else(|_| context_root.to_owned());
        let name = ContentDigest::of(root.as_os_str().as_bytes()).hex();
        let mut bytes = Vec::new();
        if let Some(mut file) = self.0.files.open_file(&name)? {
            bytes.reserve_exact(
                file.metadata()
                    .map_or(0, |m| usize::try_from(m.len()).unwrap_or(0)),
            );
            file.read_to_end(&mut bytes)
                .map_err(|error| StoreError::io("reading", self.0.files.path_of(&name), error))?;
        }
        let known = Table::parse(bytes).unwrap_or_default();
        let used = (0..known.count).map(|_| AtomicBool::new(false)).collect();
        Ok(FileMemory {
            store: self.clone(),
            name,
            opened,
            known,
            used,
            fresh: Mutex::default(),
        })
    }
}

impl FileMemory {
    /// Where the files in `directory` are.
    pub fn scope(&self, directory: &LayerPath) -> Scope {
        if directory.is_root() {
            return Scope::of(0..self.known.count);
        }
        let mut name = [directory.as_bytes(), b"/"].concat();
        let start = self.known.first_from(&name, 0..self.known.count);
        // The byte behind a slash: all names below the directory come before it.
        if let Some(last) = name.last_mut() {
            *last = b'/' + 1;
        }
        Scope::of(start..self.known.first_from(&name, start..self.known.count))
    }

    /// The digest of the file at `path` (relative) if it surely still has the bytes it had. Only looks in `scope`.
    pub fn get(&self, scope: &mut Scope, path: &LayerPath, stat: &FileStat) -> Option<ContentDigest> {
        let path = path.as_bytes();
        let Scope { records, next } = scope;
        let is_next = records.contains(next) && self.known.path(*next) == Some(path);
        let found = match is_next {
            true => Some(*next),
            false => self.known.find(path, records.clone()),
        };
        if let Some(position) = found {
            *next = position + 1;
            self.used[position].store(true, Ordering::Relaxed);
            if let Some((known, digest)) = self.known.record(position)
                && known == *stat
            {
                return Some(digest);
            }
        }
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.digest(path, stat)
    }

    /// Remembers `digest`. `stat` must have been taken before the file was read.
    pub fn put(&self, path: &LayerPath, stat: &FileStat, digest: ContentDigest) {
        if !stat.has_settled(self.opened) {
            return;
        }
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.push(path, stat, digest);
    }

    /// Writes what changed, if anything did, and forgets it here. Of two processes that save at once, the later one is
    /// remembered.
    pub fn save(&self) -> Result<(), StoreError> {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        if fresh.is_empty() {
            return Ok(());
        }
        fresh.sort();
        let age = |position: usize| match self.used[position].load(Ordering::Relaxed) {
            true => 0,
            false => self.known.age(position).saturating_add(1),
        };
        let kept = (0..self.known.count).map(|position| (position, age(position)));
        let mut replaced = |path| fresh.has(path);
        let kept: Vec<(usize, u32)> = kept
            .filter(|(position, age)| {
                let path = self.known.path(*position);
                *age <= MAX_AGE && path.is_some_and(|path| !replaced(path))
            })
            .collect();
        let count = kept.len() + fresh.len();
        let write = |file: &mut File| encode(count, || fresh.merged(&self.known, &kept), file);
        self.store
            .replace_file_by(&self.store.0.files, &self.name, write, false)?;
        *fresh = Fresh::default();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(n: u64) -> FileStat {
        let time = Timestamp {
            seconds: 1_600_000_000,
            nanoseconds: 5,
        };
        FileStat {
            dev: 1,
            ino: n,
            size: n,
            mtime: time,
            ctime: time,
        }
    }

    fn named(path: impl AsRef<[u8]>) -> LayerPath {
        LayerPath::clean(path.as_ref())
    }

    impl FileMemory {
        /// What is remembered, wherever it is looked for.
        fn recall(&self, path: impl AsRef<[u8]>, stat: &FileStat) -> Option<ContentDigest> {
            let path = named(path);
            let everywhere = self.get(&mut self.scope(&LayerPath::root()), &path, stat);
            let nearby = self.get(&mut self.scope(&path.parent().unwrap_or_default()), &path, stat);
            assert_eq!(everywhere, nearby);
            nearby
        }
    }

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        (directory, store)
    }

    #[test]
    fn remembers_what_did_not_change() {
        let (directory, store) = store();
        let digest = |n: u64| ContentDigest::of(&n.to_le_bytes());
        let open = || store.file_memory(directory.path()).unwrap();
        let path = |n: u64| format!("dir{}/{n}\u{fffd}", n % 7).into_bytes();
        let memory = open();
        assert_eq!(memory.recall(b"x", &stat(1)), None);
        for n in 0..500 {
            memory.put(&named(path(n)), &stat(n), digest(n));
            assert_eq!(memory.recall(path(n), &stat(n)), Some(digest(n)));
        }
        memory.save().unwrap();
        let memory = open();
        for n in 0..500 {
            assert_eq!(memory.recall(path(n), &stat(n)), Some(digest(n)));
            assert_eq!(memory.recall(path(n), &stat(n + 1)), None);
        }
        // In the order of the names or not, with names between that nobody knows.
        for directory in ["", "dir3"] {
            let directory = named(directory);
            let mut paths: Vec<(LayerPath, u64)> = (0..500).map(|n| (named(path(n)), n)).collect();
            paths.retain(|(path, _)| path.strip_prefix(&directory).is_some());
            paths.sort();
            let there_and_back: Vec<_> = paths.iter().chain(paths.iter().rev()).collect();
            let mut scope = memory.scope(&directory);
            for (path, n) in there_and_back {
                assert_eq!(
                    memory.get(&mut scope, path, &stat(*n)),
                    Some(digest(*n)),
                    "{path}"
                );
                let unknown = LayerPath::clean(&[path.as_bytes(), b"!"].concat());
                assert_eq!(memory.get(&mut scope, &unknown, &stat(*n)), None);
            }
        }
        let mut changed = stat(3);
        changed.ctime.nanoseconds += 1;
        assert_eq!(memory.recall(path(3), &changed), None);
        memory.put(&named(path(3)), &changed, digest(1003));
        memory.save().unwrap();
        assert_eq!(open().recall(path(3), &changed), Some(digest(1003)));
        assert_eq!(open().recall(path(3), &stat(3)), None);
        assert_eq!(open().recall(path(4), &stat(4)), Some(digest(4)));
        assert_eq!(
            store
                .file_memory(Path::new("/elsewhere"))
                .unwrap()
                .recall(path(4), &stat(4)),
            None
        );
    }

    #[test]
    fn fresh_files_are_not_remembered() {
        let (directory, store) = store();
        let memory = store.file_memory(directory.path()).unwrap();
        let at = |offset: i128| {
            let time = memory.opened + offset;
            Timestamp {
                seconds: (time / 1_000_000_000) as i64,
                nanoseconds: (time % 1_000_000_000) as u32,
            }
        };
        let old = stat(1);
        for (mtime, ctime, remembered) in [
            (old.mtime, old.ctime, true),
            (old.mtime, at(0), false),
            (old.mtime, at(-15_000_000), false),
            (at(-30_000_000), at(-30_000_001), true),
            (at(5_000_000_000), old.ctime, false),
            (
                Timestamp {
                    nanoseconds: 0,
                    ..at(0)
                },
                Timestamp {
                    nanoseconds: 0,
                    ..at(0)
                },
                false,
            ),
        ] {
            let stat = FileStat { mtime, ctime, ..old };
            memory.put(&named(b"x"), &stat, ContentDigest::of(b""));
            assert_eq!(
                memory.recall(b"x", &stat).is_some(),
                remembered,
                "{mtime:?} {ctime:?}"
            );
        }
    }

    #[test]
    fn forgets_what_nobody_asks_for() {
        let (directory, store) = store();
        let open = || store.file_memory(directory.path()).unwrap();
        let memory = open();
        memory.put(&named(b"gone"), &stat(1), ContentDigest::of(b"gone"));
        memory.put(&named(b"kept"), &stat(2), ContentDigest::of(b"kept"));
        memory.save().unwrap();
        for n in 0..=u64::from(MAX_AGE) {
            let memory = open();
            assert!(memory.recall(b"kept", &stat(2)).is_some());
            memory.put(&named(b"busy"), &stat(100 + n), ContentDigest::of(b""));
            memory.save().unwrap();
        }
        assert!(open().known.find(b"gone", 0..1000).is_none());
        assert!(open().recall(b"kept", &stat(2)).is_some());
    }

    #[test]
    fn no_flipped_bit_gives_another_digest() {
        let (directory, store) = store();
        let memory = store.file_memory(directory.path()).unwrap();
        for n in 0..3 {
            memory.put(&named(format!("f{n}")), &stat(n), ContentDigest::of(&[n as u8]));
        }
        memory.save().unwrap();
        let path = store.0.files.path_of(&memory.name);
        let good = std::fs::read(&path).unwrap();
        let damaged = (0..good.len() * 8).map(|bit| {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            bad
        });
        for bad in damaged.chain((0..good.len()).step_by(7).map(|length| good[..length].to_vec())) {
            std::fs::write(&path, bad).unwrap();
            let memory = store.file_memory(directory.path()).unwrap();
            assert_eq!(memory.recall(b"f1", &stat(1)), None);
        }
    }

    #[test]
    fn nothing_new_writes_nothing() {
        let (directory, store) = store();
        let memory = store.file_memory(directory.path()).unwrap();
        memory.save().unwrap();
        assert!(store.0.files.names().unwrap().is_empty());
    }

    #[test]
    fn many_entries_load_at_once() {
        let (directory, store) = store();
        let memory = store.file_memory(directory.path()).unwrap();
        let path = |n: u64| format!("some/directory/with/a/name{}/file-{n}.txt", n % 100).into_bytes();
        for n in 0..20_000 {
            memory.put(&named(path(n)), &stat(n), ContentDigest::of(b""));
        }
        memory.save().unwrap();
        let start = std::time::Instant::now();
        let memory = store.file_memory(directory.path()).unwrap();
        let loaded = start.elapsed();
        assert!((0..20_000).all(|n| memory.recall(path(n), &stat(n)).is_some()));
        println!(
            "loaded in {loaded:?}, looked up in {:?}",
            start.elapsed() - loaded
        );
    }
}
