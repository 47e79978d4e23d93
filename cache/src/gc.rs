//! What may go: build cache that no image needs.
//!
//! **Invariant**: what a named image of `index.json` reaches (manifests, configs, layer blobs, and the layers that its
//! diff ids name) is never removed, and nothing that a running process was told to exist (`session.rs`). What goes is decided while
//! others work, and taken out of its place in small portions with the gate closed, after another look at its time; it is taken apart
//! afterwards. Killed half-way a prune leaves less cache, never a broken one: names go before records, records before
//! the layers they lead to, layers before their blobs, each by one rename.

mod plan;
pub(crate) mod survey;

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use self::plan::{LayerGoes, Plan};
use crate::digest::{Digest, Key, LayerId};
use crate::directory::{Directory, c_name, remove_tree};
use crate::error::StoreError;
use crate::eviction::JOURNAL;
use crate::image::INDEX_BACKUP;
use crate::lock::lock_within;
use crate::session::{Closed, modified};
use crate::store::Store;
use crate::temporary::TempDir;

/// What to remove.
#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    /// Also what serves only builds: cache records that lead to layers of images, trees of layers that an image has as
    /// blobs, remembered file digests, clones of repositories, caches that steps mount. Named images stay.
    pub all: bool,
    /// Only what was not used for this long.
    pub until: Option<Duration>,
    /// Stop when the cache takes no more than this many bytes of disk; what is worth least goes first.
    pub keep_storage: Option<u64>,
    /// As `keep_storage`, but where both are given the larger one holds.
    pub max_used: Option<u64>,
    /// Remove as much as is missing to this many free bytes of the disk.
    pub min_free: Option<u64>,
    /// Stop when this many bytes of disk were given back.
    pub give_back: Option<u64>,
    /// Only say what would be removed.
    pub dry_run: bool,
    /// Only this kind of things.
    pub kind: Option<PruneKind>,
    /// Only things of which this is true.
    pub filter: PruneFilter,
    /// What this process used since it opened the store stays: it is not done yet.
    pub for_own_build: bool,
    /// Images without a name stay that were kept since then: what a build has just made may have none.
    pub images_until: Option<SystemTime>,
    /// What the journal of evictions calls it: `prune --all`, or the limit that demands it.
    pub rule: String,
}

/// What has to be true of what goes. Things are named as `Store::usage` names them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneFilter {
    /// All of these are parts of its id.
    pub ids: Vec<String>,
    /// All of these are parts of its description.
    pub descriptions: Vec<String>,
    /// Whether images need it too.
    pub shared: Option<bool>,
    /// Whether steps write to it.
    pub mutable: Option<bool>,
}

/// A kind of things that a prune may remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneKind {
    /// Caches of `RUN --mount=type=cache`, which otherwise only go with [`PruneOptions::all`].
    CacheMounts,
    /// All but these.
    Regular,
    /// Clones of Git repositories.
    Git,
    /// What is remembered of local directories.
    Local,
    /// Layers and blobs to which neither an image nor a cache record leads; nameless images stay.
    Unused,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Nameless images.
    pub images: Vec<Digest>,
    /// Layers.
    pub layers: Vec<LayerId>,
    /// Blobs.
    pub blobs: Vec<Digest>,
    /// How many cache records.
    pub records: u64,
    /// Caches of `RUN --mount=type=cache`, by the names that Dockerfiles give them.
    pub mounts: Vec<String>,
    /// Disk space given back, in bytes of whole blocks.
    pub freed: u64,
}

/// A disk with less than this is full to most programs.
const LITTLE_SPACE: u64 = 1 << 20;
const FEW_FILES: u64 = 16;

/// How long a prune waits for another one.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many layers and other things are taken while others wait at the gate.
const PORTION: usize = 256;

impl Store {
    /// Removes build cache and nameless images; what running processes use stays. Layer trees of an ordinary user hold
    /// files of subordinate ids: call it inside the user namespace.
    pub fn prune(&self, options: &PruneOptions) -> Result<PruneReport, StoreError> {
        if options.dry_run {
            return Ok(self.plan(options)?.report());
        }
        let _one_at_a_time = self.lock_prunes()?;
        let mut removal = Removal {
            store: self,
            out: self.temp_dir_for_prune()?,
            options,
            pinned: None,
            evicted: Vec::new(),
            taken: 0,
            report: PruneReport::default(),
        };
        // Who gives an image a name meanwhile changes what is needed.
        while !removal.carry_out(self.plan(options)?)? {}
        let report = removal.report;
        self.trim_builds(options.all)?;
        self.sweep_temporary()?;
        self.remove_unused_locks()?;
        self.forget_referrers()?;
        self.forget_trees();
        Ok(report)
    }

    /// Held by whoever prunes the store, or must not have it pruned meanwhile.
    pub(crate) fn lock_prunes(&self) -> Result<File, StoreError> {
        // The lock of a directory that is there: on a full disk no file can be made for it.
        let path = self.0.sessions.path();
        let directory = rustix::fs::openat(
            &self.0.sessions,
            ".",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| StoreError::io("opening", path, errno))?;
        let file = File::from(directory);
        lock_within(PATIENCE, &file, path, FlockOperation::LockExclusive)?;
        Ok(file)
    }

    /// A temporary directory even on a full disk, where what is least needed makes room for it.
    fn temp_dir_for_prune(&self) -> Result<TempDir, StoreError> {
        match self.temp_dir() {
            Err(error) if error.is_about_space() => {
                self.0.root.unlink(INDEX_BACKUP)?;
                self.0.root.unlink(JOURNAL)?;
                self.temp_dir()
            }
            made => made,
        }
    }

    /// Bytes that are free on the disk of the store for whoever runs this.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        let stat = rustix::fs::fstatvfs(&self.0.root)
            .map_err(|errno| StoreError::io("looking at the disk of", self.root(), errno))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Says so when the disk of the store is full, or nearly.
    pub fn shortage(&self) -> Option<String> {
        let disk = rustix::fs::fstatvfs(&self.0.root).ok()?;
        let bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
        // Where there is no limit of files, all of these numbers are zero.
        let files = (disk.f_files > 0).then_some(disk.f_favail);
        (bytes < LITTLE_SPACE || files.is_some_and(|files| files < FEW_FILES)).then(|| {
            let files = files.map_or(String::new(), |files| format!(" and {files} files"));
            format!(
                "the disk of the store {} is full: {bytes} bytes{files} are free; rbuild prune and rbuild rmi give space back, \
                 --root chooses another disk",
                self.root().display()
            )
        })
    }

    /// Lock files that a killed process left.
    fn remove_unused_locks(&self) -> Result<(), StoreError> {
        for name in self.0.locks.text_names()? {
            if let Ok(key) = name.parse::<Key>() {
                // The lock removes its file when it is dropped.
                let _ = self.try_lock_key(&key);
            }
        }
        Ok(())
    }

    /// The directory of clones of repositories, if there is one.
    pub(crate) fn clones(&self) -> Result<Option<Directory>, StoreError> {
        match self.0.root.child("git") {
            Ok(directory) => Ok(Some(directory)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("opening", self.0.root.path_of("git"), error)),
        }
    }

    /// Drops from the lists of keys those that have no record any more. Call it with the gate closed.
    fn rewrite_operations(
        &self,
        _closed: &Closed<'_>,
        operations: &HashSet<Option<Key>>,
    ) -> Result<(), StoreError> {
        let ops = &self.0.ops;
        let all = operations.contains(&None);
        for name in ops.text_names()? {
            let Ok(op) = name.parse::<Key>() else { continue };
            if !all && !operations.contains(&Some(op)) {
                continue;
            }
            let mut keys = self.keys_of_op(&op)?;
            let before = keys.len();
            let mut kept = Vec::with_capacity(before);
            for key in keys.drain(..).rev() {
                if self.0.keys.stat(&key.hex())?.is_some() {
                    kept.push(key);
                }
            }
            if kept.is_empty() {
                ops.unlink(&name)?;
            } else if kept.len() < before {
                let text: String = kept.iter().map(|key| format!("{key}\n")).collect();
                self.replace_file(ops, &name, text.as_bytes(), false)?;
            }
        }
        Ok(())
    }
}

/// One prune at work.
struct Removal<'a> {
    store: &'a Store,
    /// Where things go before they are taken apart.
    out: TempDir,
    options: &'a PruneOptions,
    /// What was made or used since then stays.
    pinned: Option<SystemTime>,
    /// Records that went and are not in the journal yet.
    evicted: Vec<Key>,
    taken: u64,
    report: PruneReport,
}

impl Removal<'_> {
    /// Does what `plan` says; `false` when an image has come that the plan did not know.
    fn carry_out(&mut self, mut plan: Plan) -> Result<bool, StoreError> {
        let store = self.store;
        match store.remove_nameless(&plan.images) {
            Ok(()) => self.report.images.append(&mut plan.images),
            // There is no room to write the list: they go with the next prune, which has it.
            Err(error) if error.is_about_space() => plan.roots.extend(plan.images.drain(..)),
            Err(error) => return Err(error),
        }
        let mut layers = std::mem::take(&mut plan.layers).into_iter().peekable();
        let mut first = true;
        while first || layers.peek().is_some() {
            let portion: Vec<LayerGoes> = layers.by_ref().take(PORTION).collect();
            let closed = store.0.gate.close()?;
            // Sessions may have begun since the plan was made.
            self.pinned = store
                .0
                .session
                .oldest(&store.0.sessions, self.options.for_own_build)?;
            let unknown = store
                .images()?
                .into_iter()
                .any(|image| !plan.roots.contains(&image.descriptor.digest));
            if unknown {
                return Ok(false);
            }
            if std::mem::take(&mut first) {
                self.take_loose(&plan)?;
            }
            for layer in portion {
                self.take_layer(layer)?;
            }
            let last = layers.peek().is_none();
            if last && let Err(error) = store.rewrite_operations(&closed, &plan.operations) {
                // Keys without records cost a look each, and go with the next prune.
                if !error.is_about_space() {
                    return Err(error);
                }
            }
            drop(closed);
            self.take_apart()?;
            let noted = store.note_evictions(&self.options.rule, &std::mem::take(&mut self.evicted));
            noted.or_else(|error| {
                if error.is_about_space() {
                    Ok(())
                } else {
                    Err(error)
                }
            })?;
        }
        Ok(true)
    }

    /// Takes what hangs together with nothing.
    fn take_loose(&mut self, plan: &Plan) -> Result<(), StoreError> {
        let inner = &self.store.0;
        for key in &plan.records {
            self.take_record(key)?;
        }
        for id in &plan.trees {
            if !self.is_unused(&inner.layers, id.as_str())? {
                continue;
            }
            let place = inner.layers.path_of(id.as_str());
            let layer = inner.layers.child(id.as_str());
            let layer = layer.map_err(|error| StoreError::io("opening", place, error))?;
            for tree in TREES.map(CStr::to_string_lossy) {
                self.take(&layer, &tree)?;
            }
        }
        for digest in &plan.blobs {
            self.take_blob(digest)?;
        }
        for name in &plan.files {
            if self.is_unused(&inner.files, name)? {
                self.take(&inner.files, name)?;
            }
        }
        if let Some(clones) = self.store.clones()? {
            for name in &plan.clones {
                // Whoever works in it has the lock of its key.
                let lock = match name.parse::<Key>() {
                    Ok(key) => matches!(self.store.try_lock_key(&key), Ok(Some(_))),
                    Err(_) => true,
                };
                if lock && self.is_unused(&clones, name)? {
                    self.take(&clones, name)?;
                }
            }
        }
        for (name, id) in &plan.mounts {
            if !self.store.is_cache_mount_used(name)? && self.take(&inner.mounts, name)? {
                self.report.mounts.push(id.clone());
            }
        }
        Ok(())
    }

    fn take_layer(&mut self, layer: LayerGoes) -> Result<(), StoreError> {
        let inner = &self.store.0;
        for key in &layer.records {
            if !self.is_unused(&inner.keys, &key.hex())? {
                return Ok(());
            }
        }
        if !self.is_unused(&inner.layers, layer.id.as_str())? {
            return Ok(());
        }
        for key in &layer.records {
            self.take_record(key)?;
        }
        if self.take(&inner.layers, layer.id.as_str())? {
            self.report.layers.push(layer.id);
        }
        for digest in &layer.blobs {
            self.take_blob(digest)?;
        }
        Ok(())
    }

    fn take_record(&mut self, key: &Key) -> Result<(), StoreError> {
        let keys = &self.store.0.keys;
        if self.is_unused(keys, &key.hex())? {
            keys.unlink(&key.hex())?;
            self.evicted.push(*key);
            self.report.records += 1;
        }
        Ok(())
    }

    fn take_blob(&mut self, digest: &Digest) -> Result<(), StoreError> {
        let blobs = &self.store.0.blobs;
        if self.is_unused(blobs, &digest.hex())? && self.take(blobs, &digest.hex())? {
            self.report.blobs.push(*digest);
        }
        Ok(())
    }

    /// Whether `name` is there and nobody who is still at work has used it.
    fn is_unused(&self, directory: &Directory, name: &str) -> Result<bool, StoreError> {
        let Some(stat) = directory.stat(name)? else {
            return Ok(false);
        };
        Ok(self.pinned.is_none_or(|pinned| modified(&stat) < pinned))
    }

    /// Takes `name` out of its place. Whether it was there.
    fn take(&mut self, directory: &Directory, name: &str) -> Result<bool, StoreError> {
        self.taken += 1;
        let out = self.out.directory();
        match rustix::fs::renameat(directory, name, out, self.taken.to_string()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(StoreError::io("removing", directory.path_of(name), errno)),
        }
    }

    /// Gives back the space of what was taken.
    fn take_apart(&mut self) -> Result<(), StoreError> {
        let out = self.out.directory();
        for name in out.text_names()? {
            let path = out.path_of(&name);
            let freed = c_name(&path).and_then(|name| remove_tree(out.as_fd(), &name));
            self.report.freed += freed.map_err(|error| StoreError::io("removing", path, error))?;
        }
        Ok(())
    }
}

/// The names of the tree forms in the directory of a layer.
pub(crate) const TREES: [&CStr; 2] = [c"fs", c"fs.single"];

#[cfg(test)]
mod tests;
