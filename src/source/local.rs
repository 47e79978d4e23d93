//! A directory of this machine as a tree: the build context and named contexts.
//!
//! The directory is opened once; everything else is reached from that descriptor without following
//! a link. What the ignore patterns leave out does not exist here, and is not looked at.

mod scan;

use std::collections::{BTreeSet, HashMap};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use anyhow::Context as _;
use rbuild_cache::layer::{Entry, Kind, LayerPath, Timestamp};
use rbuild_cache::tree::{Known, Listed, Tree, TreeError};
use rbuild_cache::{ContentDigest, FileMemory, FileStat, Scope};
use rbuild_parser::ignore::Matcher;
use rustix::fs::{Mode, OFlags};

use scan::{Listing, Lookup, Node, Verdict, Xattrs};

/// How much of a file's metadata counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ContextMode {
    /// All that the file system has.
    #[default]
    Raw,
    /// What git keeps of it: whether a file is executable. Umask, checkout time, attributes and hard links do not
    /// show; all times are `time`, in seconds since 1970.
    Git {
        /// What all times are.
        time: i64,
    },
}

impl ContextMode {
    pub(super) fn shown(self, mut entry: Entry) -> Entry {
        let Self::Git { time } = self else { return entry };
        entry.mode = match entry.kind {
            Kind::Directory { .. } => 0o755,
            Kind::Symlink { .. } => entry.mode,
            _ if entry.mode & 0o100 == 0 => 0o644,
            _ => 0o755,
        };
        entry.mtime = Timestamp {
            seconds: time,
            nanoseconds: 0,
        };
        entry.xattrs.clear();
        entry
    }
}

/// A directory without what its ignore patterns leave out. Owners are shown as 0:0 (spec P12).
///
/// What was once seen of a directory is kept: a build sees one state of it, not several.
pub struct LocalContext {
    root: OwnedFd,
    shown: PathBuf,
    ignore: Option<Matcher>,
    mode: ContextMode,
    memory: Option<FileMemory>,
    listings: RwLock<HashMap<LayerPath, Arc<Listing>>>,
    links: Mutex<HashMap<(u64, u64), u64>>,
    warnings: Mutex<BTreeSet<String>>,
}

impl std::fmt::Debug for LocalContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalContext")
            .field("path", &self.shown)
            .finish_non_exhaustive()
    }
}

impl LocalContext {
    /// Opens the directory. `memory` must be that of `path`, taken from the store before.
    pub fn open(path: &Path, ignore: Option<Matcher>, memory: Option<FileMemory>) -> anyhow::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .with_context(|| format!("opening the context {}", path.display()))?;
        Ok(Self {
            root,
            shown: path.to_owned(),
            ignore: ignore.filter(|matcher| !matcher.is_empty()),
            mode: ContextMode::Raw,
            memory,
            listings: RwLock::default(),
            links: Mutex::default(),
            warnings: Mutex::default(),
        })
    }

    /// The same directory, shown in another way.
    pub fn with_mode(self, mode: ContextMode) -> Self {
        Self { mode, ..self }
    }

    /// Writes the digests that were found to the store. Without it they are computed again next time.
    pub fn save(&self) -> Result<(), rbuild_cache::StoreError> {
        self.memory.as_ref().map_or(Ok(()), FileMemory::save)
    }

    /// What was left out although it was asked for: sockets. One line each, sorted; each is given once.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.warnings)).into_iter().collect()
    }

    /// Ends with the process: to give back what is known of a million files one by one takes a tenth of the time in which
    /// all were looked at.
    pub fn abandon(self) {
        std::mem::forget(self.listings);
    }

    fn known(&self, path: &LayerPath) -> Option<Arc<Listing>> {
        self.listings
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(path)
            .cloned()
    }

    fn keep(&self, path: LayerPath, listing: Listing) -> Arc<Listing> {
        let mut listings = self.listings.write().unwrap_or_else(PoisonError::into_inner);
        listings.entry(path).or_insert_with(|| Arc::new(listing)).clone()
    }

    /// The directory at `path`, without directories that would only exist to hold something and hold nothing.
    fn listing(&self, path: &LayerPath) -> Result<Arc<Listing>, TreeError> {
        if let Some(listing) = self.known(path) {
            return Ok(listing);
        }
        let mut listing = self.scan(path)?;
        self.settle(&mut listing)?;
        Ok(self.keep(path.clone(), listing))
    }

    fn scan(&self, path: &LayerPath) -> Result<Listing, TreeError> {
        scan::list(self.root.as_fd(), path, self).map_err(|source| at(path, said_of_listed(source)))
    }

    /// Completes what a listing says of the directories in it: their attributes, and whether those that would only
    /// exist to hold something hold anything.
    fn settle(&self, listing: &mut Listing) -> Result<(), TreeError> {
        let mut failure = None;
        listing.nodes.retain_mut(|node| {
            if !node.directory || failure.is_some() {
                return true;
            }
            self.complete(node).unwrap_or_else(|error| {
                failure = Some(error);
                true
            })
        });
        failure.map_or(Ok(()), Err)
    }

    /// Gives the directory `node` its attributes; whether it is to stay.
    fn complete(&self, node: &mut Node) -> Result<bool, TreeError> {
        let path = &node.entry.path;
        if node.held && self.listing(path)?.nodes.is_empty() {
            return Ok(false);
        }
        let xattrs = match self.known(path) {
            Some(below) => below.xattrs.clone(),
            None => self.directory_xattrs(path)?,
        };
        if xattrs != node.entry.xattrs {
            Arc::make_mut(&mut node.entry).xattrs = xattrs;
        }
        Ok(true)
    }

    fn directory_xattrs(&self, path: &LayerPath) -> Result<Xattrs, TreeError> {
        let look = || {
            let parent = path.parent().unwrap_or_default();
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let parent = scan::open_beneath(self.root.as_fd(), &parent, flags)?;
            Ok(scan::xattrs_at(parent.as_fd(), &CString::new(path.name())?))
        };
        look().map_err(|source| at(path, source))
    }

    /// Gives `take` the node at `path`; the root has none.
    fn node<T>(&self, path: &LayerPath, take: impl FnOnce(&Node) -> T) -> Result<Option<T>, TreeError> {
        let Some(parent) = path.parent() else {
            return Ok(None);
        };
        if let Some(listing) = self.known(&parent) {
            let nodes = &listing.nodes;
            let found = nodes.binary_search_by(|node| node.entry.path.as_bytes().cmp(path.as_bytes()));
            return Ok(found.ok().map(|index| take(&nodes[index])));
        }
        let verdict = self.judge(path);
        if verdict == Verdict::Excluded {
            return Ok(None);
        }
        let look = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let directory = scan::open_beneath(self.root.as_fd(), &parent, flags)?;
            scan::look(directory.as_fd(), &CString::new(path.name())?, path.clone(), self)
        };
        let node = match look() {
            Ok(node) => node,
            Err(error) if scan::is_absent(&error) => None,
            Err(error) => return Err(at(path, error)),
        };
        let Some(node) = node else { return Ok(None) };
        if verdict == Verdict::Held && (!node.entry.is_dir() || self.listing(path)?.nodes.is_empty()) {
            return Ok(None);
        }
        Ok(Some(take(&node)))
    }

    fn open_file(&self, path: &LayerPath) -> Result<(File, FileStat), TreeError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let open = || {
            let file = scan::open_beneath(self.root.as_fd(), path, flags)?;
            let stat = scan::file_stat(file.as_fd())?;
            let stat = stat.ok_or_else(|| io::Error::other("it is no regular file any more"))?;
            Ok((File::from(file), stat))
        };
        open().map_err(|source| at(path, said_of_listed(source)))
    }

    /// Digest and identity of a file that did not change while it was read, and still is as long as `entry` says.
    fn hash_unchanged(&self, entry: &Entry) -> Result<(ContentDigest, FileStat), TreeError> {
        /// A file that is being written is read again, but not for ever.
        const ATTEMPTS: usize = 5;

        let path = &entry.path;
        for _ in 0..ATTEMPTS {
            let (mut file, opened) = self.open_file(path)?;
            if entry.kind != (Kind::File { size: opened.size }) {
                break;
            }
            let (digest, size) = hash(&mut file).map_err(|source| at(path, source))?;
            let closed = scan::file_stat(file.as_fd()).map_err(|source| at(path, source))?;
            if closed == Some(opened) && size == opened.size {
                return Ok((digest, opened));
            }
        }
        Err(at(
            path,
            io::Error::other("the file changed while it was being read"),
        ))
    }

    fn group_of(&self, node: &Node) -> Option<u64> {
        let stat = node.stat().filter(|_| node.linked)?;
        if self.mode != ContextMode::Raw {
            return None;
        }
        let mut links = lock(&self.links);
        let next = links.len() as u64;
        Some(*links.entry((stat.dev, stat.ino)).or_insert(next))
    }

    fn warn_of(&self, sockets: &[LayerPath]) {
        if !sockets.is_empty() {
            let lines = sockets
                .iter()
                .map(|path| format!("{path} is a socket and was left out"));
            lock(&self.warnings).extend(lines);
        }
    }
}

impl Lookup for LocalContext {
    fn judge(&self, path: &LayerPath) -> Verdict {
        match &self.ignore {
            Some(matcher) if matcher.excludes(path.as_bytes()) => {
                if matcher.has_negations() && matcher.may_include_below(path.as_bytes()) {
                    Verdict::Held
                } else {
                    Verdict::Excluded
                }
            }
            _ => Verdict::Included,
        }
    }

    fn scope(&self, path: &LayerPath) -> Scope {
        self.memory
            .as_ref()
            .map_or_else(Scope::default, |memory| memory.scope(path))
    }

    fn recall(&self, scope: &mut Scope, path: &LayerPath, stat: &FileStat) -> Option<ContentDigest> {
        self.memory.as_ref()?.get(scope, path, stat)
    }
}

impl Tree for LocalContext {
    fn lookup(&self, path: &LayerPath) -> Result<Option<Entry>, TreeError> {
        if path.is_root() {
            return scan::look_at_root(self.root.as_fd())
                .map(|root| Some(self.mode.shown(root)))
                .map_err(|source| at(path, source));
        }
        self.node(path, |node| self.mode.shown((*node.entry).clone()))
    }

    fn read_dir(&self, path: &LayerPath) -> Result<Vec<Entry>, TreeError> {
        Ok(self
            .listing(path)?
            .nodes
            .iter()
            .map(|node| self.mode.shown((*node.entry).clone()))
            .collect())
    }

    fn list(&self, path: &LayerPath) -> Result<Vec<Listed>, TreeError> {
        let listed = |node: &Node| Listed {
            entry: match self.mode {
                ContextMode::Raw => Arc::clone(&node.entry),
                mode => Arc::new(mode.shown((*node.entry).clone())),
            },
            known: node.digest.get().map(|digest| Known {
                digest: *digest,
                link: self.group_of(node),
            }),
        };
        Ok(self.listing(path)?.nodes.iter().map(listed).collect())
    }

    fn open(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        Ok(Box::new(self.open_file(path)?.0))
    }

    fn content_digest(&self, entry: &Entry) -> Result<ContentDigest, TreeError> {
        let path = &entry.path;
        let seen = self.node(path, |node| (node.digest.get().copied(), node.stat()))?;
        if let Some((Some(digest), _)) = seen {
            return Ok(digest);
        }
        let (digest, opened) = self.hash_unchanged(entry)?;
        if seen.is_some_and(|(_, stat)| stat == Some(opened)) {
            self.node(path, |node| node.digest.set(digest).ok())?;
            // One with attributes is not remembered: see `Lookup::recall`.
            if let Some(memory) = &self.memory
                && entry.xattrs.is_empty()
            {
                memory.put(path, &opened, digest);
            }
        }
        Ok(digest)
    }

    fn link_group(&self, entry: &Entry) -> Result<Option<u64>, TreeError> {
        Ok(self.node(&entry.path, |node| self.group_of(node))?.flatten())
    }

    fn prefetch(
        &self,
        path: &LayerPath,
        enter: &(dyn Fn(&LayerPath) -> bool + Sync),
    ) -> Result<(), TreeError> {
        let threads = std::thread::available_parallelism()
            .map_or(1, NonZero::get)
            .min(8);
        let walk = Walk {
            context: self,
            enter,
            queue: Mutex::default(),
            changed: Condvar::new(),
        };
        walk.lock().waiting.push(path.clone());
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| walk.work());
            }
            walk.work();
        });
        let queue = walk.queue.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = queue.failure {
            return Err(failure);
        }
        // Deepest first: whether a directory holds anything is known when its parent asks.
        let mut found = queue.found;
        found.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        for (path, mut listing) in found {
            self.settle(&mut listing)?;
            self.keep(path, listing);
        }
        Ok(())
    }
}

/// A walk by several threads. Each takes a directory from the queue, lists it, and puts back what it found.
struct Walk<'a> {
    context: &'a LocalContext,
    enter: &'a (dyn Fn(&LayerPath) -> bool + Sync),
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<LayerPath>,
    /// Threads that are listing a directory now.
    busy: usize,
    /// Threads that wait for one.
    idle: usize,
    found: Vec<(LayerPath, Listing)>,
    failure: Option<TreeError>,
}

impl Walk<'_> {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    fn work(&self) {
        let mut queue = self.lock();
        loop {
            let Some(path) = queue.waiting.pop() else {
                if queue.busy == 0 {
                    return;
                }
                queue.idle += 1;
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
                continue;
            };
            queue.busy += 1;
            drop(queue);
            let done = self.list(&path);
            queue = self.lock();
            queue.busy -= 1;
            match done {
                Ok((below, listing)) if queue.failure.is_none() => {
                    queue.waiting.extend(below);
                    queue.found.extend(listing.map(|listing| (path, listing)));
                }
                Ok(_) => {}
                Err(failure) => {
                    queue.waiting.clear();
                    queue.failure.get_or_insert(failure);
                }
            }
            // Waking somebody costs a system call even when nobody sleeps.
            if queue.idle > 0 && (queue.waiting.len() > 1 || queue.busy == 0) {
                self.changed.notify_all();
            }
        }
    }

    /// The directories to go on with, and the listing if it is new.
    fn list(&self, path: &LayerPath) -> Result<(Vec<LayerPath>, Option<Listing>), TreeError> {
        let below = |listing: &Listing| {
            self.context.warn_of(&listing.sockets);
            let directories = listing.nodes.iter().filter(|node| node.directory);
            directories
                .map(|node| node.entry.path.clone())
                .filter(|path| (self.enter)(path))
                .collect()
        };
        match self.context.known(path) {
            Some(known) => Ok((below(&known), None)),
            None => {
                let listing = self.context.scan(path)?;
                Ok((below(&listing), Some(listing)))
            }
        }
    }
}

/// Why what a directory listed a moment before could not be opened.
fn said_of_listed(error: io::Error) -> io::Error {
    if scan::is_absent(&error) {
        return io::Error::other("it was removed while the context was being read");
    }
    error
}

/// blake3 and size of what `reader` gives.
fn hash(reader: &mut impl Read) -> io::Result<(ContentDigest, u64)> {
    thread_local! {
        static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(256 << 10, 0);
        let mut hasher = blake3::Hasher::new();
        let mut size = 0;
        loop {
            match reader.read(buffer) {
                Ok(0) => return Ok((ContentDigest(*hasher.finalize().as_bytes()), size)),
                Ok(count) => {
                    hasher.update(&buffer[..count]);
                    size += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    })
}

fn at(path: &LayerPath, cause: io::Error) -> TreeError {
    TreeError::Io {
        path: path.clone(),
        cause,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
