//! What may go: build cache that no image needs.
//!
//! **Invariant**: what a named image of `index.json` reaches (manifests, configs, layer blobs, and the layers that its
//! diff ids name) is never removed. A prune works alone: every open store holds `gc.lock` shared, a prune holds it
//! exclusively. Killed half-way it leaves less cache, never a broken one: names go before records, records before the layers they
//! lead to, layers before their blobs, and a layer leaves its place by one rename before it is taken apart.

mod plan;

use std::ffi::CStr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use self::plan::Plan;
use crate::digest::{Digest, Key, LayerId};
use crate::directory::{Directory, c_name, disk_bytes, remove_tree};
use crate::error::StoreError;
use crate::lock::{holders, lock};
use crate::store::Store;

/// What to remove.
#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    /// Also what serves only builds: cache records that lead to layers of images, trees of layers that an image has as
    /// blobs, remembered file digests, clones of repositories, caches that steps mount. Named images stay.
    pub all: bool,
    /// Only what was not used for this long.
    pub until: Option<Duration>,
    /// Stop when the cache takes no more than this many bytes of disk; the longest unused goes first.
    pub keep_storage: Option<u64>,
    /// Only say what would be removed.
    pub dry_run: bool,
    /// Only this kind of things.
    pub kind: Option<PruneKind>,
    /// What the journal of evictions calls it: `prune --all`, or the limit that demands it.
    pub rule: String,
}

/// A kind of things that a prune may remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneKind {
    /// Caches of `RUN --mount=type=cache`, which otherwise only go with [`PruneOptions::all`].
    CacheMounts,
    /// All but these.
    Regular,
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

/// How long a prune waits for others to leave the store.
const PATIENCE: Duration = Duration::from_secs(5);

impl Store {
    /// Removes build cache and nameless images. Waits a little for other processes to leave the store, then
    /// fails with [`StoreError::Busy`]. Layer trees of an ordinary user hold files of subordinate ids: call it inside the
    /// user namespace.
    pub fn prune(&self, options: &PruneOptions) -> Result<PruneReport, StoreError> {
        let _alone = if options.dry_run {
            None
        } else {
            Some(Alone::wait(self, PATIENCE)?)
        };
        // Another process may have come before.
        self.0
            .trees
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clear();
        let plan = self.plan(options)?;
        if options.dry_run {
            Ok(plan.report())
        } else {
            let report = self.carry_out(plan, &options.rule)?;
            self.trim_builds(options.all)?;
            Ok(report)
        }
    }

    fn carry_out(&self, plan: Plan, rule: &str) -> Result<PruneReport, StoreError> {
        let mut report = PruneReport::default();
        self.remove_nameless(&plan.images)?;
        report.images = plan.images;
        let evicted: Vec<Key> = plan.records.iter().filter_map(|name| name.parse().ok()).collect();
        self.note_evictions(rule, &evicted)?;
        for name in &plan.records {
            self.0.keys.unlink(name)?;
            report.records += 1;
        }
        self.rewrite_operations()?;
        for id in plan.layers {
            report.freed += self.take_apart(&self.0.layers, id.as_str())?;
            report.layers.push(id);
        }
        for id in plan.trees {
            let place = self.0.layers.path_of(id.as_str());
            let layer = self
                .0
                .layers
                .child(id.as_str())
                .map_err(|e| StoreError::io("opening", place, e))?;
            for tree in TREES.map(CStr::to_string_lossy) {
                if layer.stat(&tree)?.is_some() {
                    report.freed += self.take_apart(&layer, &tree)?;
                }
            }
        }
        for digest in plan.blobs {
            let name = digest.hex();
            let stat = self.0.blobs.stat(&name)?;
            self.0.blobs.unlink(&name)?;
            report.freed += stat
                .filter(|stat| stat.st_nlink == 1)
                .map_or(0, |stat| disk_bytes(stat.st_blocks));
            report.blobs.push(digest);
        }
        for name in plan.files {
            report.freed += self
                .0
                .files
                .stat(&name)?
                .map_or(0, |stat| disk_bytes(stat.st_blocks));
            self.0.files.unlink(&name)?;
        }
        if let Some(clones) = self.clones()? {
            for name in plan.clones {
                report.freed += self.take_apart(&clones, &name)?;
            }
        }
        for (name, id) in plan.mounts {
            report.freed += self.take_apart(&self.0.mounts, &name)?;
            report.mounts.push(id);
        }
        // Nobody else is here, so a lock file is what a killed process left.
        for name in self.0.locks.text_names()? {
            self.0.locks.unlink(&name)?;
        }
        self.sweep_temporary()?;
        Ok(report)
    }

    /// Takes the directory `name` out of its place and apart. Returns the bytes of disk that this gave back.
    fn take_apart(&self, directory: &Directory, name: &str) -> Result<u64, StoreError> {
        let (scratch, temporary) = self.scratch_name()?;
        directory.rename(name, scratch.directory(), &temporary)?;
        let path = scratch.directory().path_of(&temporary);
        c_name(&path)
            .and_then(|temporary| remove_tree(scratch.directory().as_fd(), &temporary))
            .map_err(|error| StoreError::io("removing what was in", directory.path_of(name), error))
    }

    /// The directory of clones of repositories, if there is one.
    fn clones(&self) -> Result<Option<Directory>, StoreError> {
        match self.0.root.child("git") {
            Ok(directory) => Ok(Some(directory)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("opening", self.0.root.path_of("git"), error)),
        }
    }

    /// Drops from the lists of keys those that have no record any more.
    fn rewrite_operations(&self) -> Result<(), StoreError> {
        let ops = &self.0.ops;
        for name in ops.text_names()? {
            let Ok(op) = name.parse::<Key>() else { continue };
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

/// The names of the tree forms in the directory of a layer.
const TREES: [&CStr; 2] = [c"fs", c"fs.single"];

/// While it lives, no other process (and no other handle) has the store open.
struct Alone<'a>(&'a Store);

impl<'a> Alone<'a> {
    fn wait(store: &'a Store, patience: Duration) -> Result<Self, StoreError> {
        let file = &store.0.gc_lock;
        let path = || store.0.root.path_of("gc.lock");
        let start = Instant::now();
        loop {
            // A failed attempt gives up the shared lock, so that two prunes do not wait for each other.
            match lock(file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(store)),
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                    return Err(StoreError::io("locking", path(), error));
                }
                Err(_) if start.elapsed() < patience => std::thread::sleep(Duration::from_millis(20)),
                Err(_) => break,
            }
        }
        let others = holders(file);
        lock(file, FlockOperation::LockShared).map_err(|error| StoreError::io("locking", path(), error))?;
        Err(StoreError::Busy { others })
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        let _ = lock(&self.0.0.gc_lock, FlockOperation::LockShared);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::Value;

    use super::*;
    use crate::digest::{ContentDigest, DiffId};
    use crate::image::Descriptor;
    use crate::layer::{LayerRecord, RECORD_VERSION, TarForm};
    use crate::record::Record;

    /// As the layers write it.
    fn write_record(directory: &std::path::Path, record: &LayerRecord) {
        let check = ContentDigest::of(&serde_json::to_vec(record).unwrap());
        let stored = serde_json::json!({"check": check, "record": record});
        std::fs::write(directory.join("record.json"), stored.to_string()).unwrap();
        let version = LayerRecord::load(directory, &record.id).map(|loaded| loaded.unwrap());
        assert!(version.map_or(record.version > RECORD_VERSION, |loaded| loaded == *record));
    }

    struct Fixture {
        _directory: tempfile::TempDir,
        store: Store,
    }

    impl Fixture {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::open(&directory.path().join("store")).unwrap();
            Self {
                _directory: directory,
                store,
            }
        }

        /// A layer with a tree and a tar blob, and a record that leads to it. `n` names it and tells its age in hours.
        fn layer(&self, n: u8) -> (LayerId, Digest, Key) {
            let id = LayerId::from_random([n; 16]);
            let tar = self.store.put_blob(&[n; 5000]).unwrap();
            let directory = self.store.root().join("layers").join(id.as_str());
            std::fs::create_dir_all(directory.join("fs/etc")).unwrap();
            std::fs::write(directory.join("fs/etc/file"), [n; 9000]).unwrap();
            let mut record = LayerRecord::new(id.clone());
            record.diff_id = Some(DiffId(tar));
            record.tar = Some(TarForm {
                digest: tar,
                size: 5000,
            });
            write_record(&directory, &record);
            let key = Key([n; 32]);
            let record = Record {
                op: Key([0; 32]),
                layer: id.clone(),
                inputs: Vec::new(),
                created: 0,
                duration_ms: 0,
            };
            self.store.put_record(&key, &record).unwrap();
            let keys = self.store.0.keys.path_of(&key.hex());
            for path in [directory, self.store.blob_path(&tar), keys] {
                let file = std::fs::File::open(path).unwrap();
                file.set_modified(SystemTime::now() - Duration::from_secs(3600 * u64::from(n)))
                    .unwrap();
            }
            (id, tar, key)
        }

        fn image(&self, name: &str, layers: &[Digest]) -> Digest {
            let config = serde_json::json!({"rootfs": {"type": "layers", "diff_ids": layers}});
            let config = self.store.put_blob(config.to_string().as_bytes()).unwrap();
            let layers: Vec<Value> = layers
                .iter()
                .map(|digest| serde_json::json!({"digest": digest}))
                .collect();
            let manifest = serde_json::json!({"config": {"digest": config}, "layers": layers, "name": name});
            let manifest = self.store.put_blob(manifest.to_string().as_bytes()).unwrap();
            let index = serde_json::json!({"manifests": [{"digest": manifest}]}).to_string();
            let digest = self.store.put_blob(index.as_bytes()).unwrap();
            let descriptor = Descriptor {
                media_type: "index".to_owned(),
                digest,
                size: index.len() as u64,
            };
            self.store.tag(name, &descriptor).unwrap();
            digest
        }

        fn has(&self, (id, tar, key): &(LayerId, Digest, Key)) -> [bool; 3] {
            let layer = self.store.root().join("layers").join(id.as_str()).is_dir();
            [
                layer,
                self.store.has_blob(tar),
                self.store.record(key).unwrap().is_some(),
            ]
        }
    }

    #[test]
    fn images_keep_what_they_need() {
        let fixture = Fixture::new();
        let [base, top, loose] = [1, 2, 3].map(|n| fixture.layer(n));
        let image = fixture.image("localhost/a:1", &[base.1, top.1]);
        let blobs = fixture.store.0.blobs.names().unwrap().len();
        let options = PruneOptions {
            dry_run: true,
            ..PruneOptions::default()
        };
        let dry = fixture.store.prune(&options).unwrap();
        assert_eq!(
            (&dry.layers[..], &dry.blobs[..], dry.records),
            (&[loose.0.clone()][..], &[loose.1][..], 1)
        );
        assert_eq!(fixture.has(&loose), [true; 3]);

        let report = fixture.store.prune(&PruneOptions::default()).unwrap();
        assert_eq!(report, dry);
        assert!(report.freed >= 14_000, "{report:?}");
        assert_eq!(fixture.has(&base), [true; 3]);
        assert_eq!(fixture.has(&top), [true; 3]);
        assert_eq!(fixture.has(&loose), [false; 3]);
        assert_eq!(fixture.store.0.blobs.names().unwrap().len(), blobs - 1);
        assert_eq!(fixture.store.keys_of_op(&Key([0; 32])).unwrap(), [top.2, base.2]);
        assert_eq!(
            fixture.store.prune(&PruneOptions::default()).unwrap(),
            PruneReport::default()
        );

        let all = fixture
            .store
            .prune(&PruneOptions {
                all: true,
                ..PruneOptions::default()
            })
            .unwrap();
        assert_eq!((all.records, all.layers.len(), all.blobs.len()), (2, 0, 0));
        assert!(
            all.freed >= 18_000,
            "the trees can be made again from the blobs: {all:?}"
        );
        assert_eq!(fixture.has(&top), [true, true, false]);
        let layer = fixture.store.root().join("layers").join(top.0.as_str());
        assert!(layer.join("record.json").exists() && !layer.join("fs").exists());

        // Without its name, the image goes with all that only it needed.
        fixture.image("localhost/a:1", &[base.1]);
        let report = fixture.store.prune(&PruneOptions::default()).unwrap();
        assert_eq!(report.images, [image]);
        assert_eq!(report.layers, std::slice::from_ref(&top.0));
        assert_eq!(fixture.has(&base)[..2], [true; 2]);
        assert_eq!(fixture.store.images().unwrap().len(), 1);
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let fixture = Fixture::new();
        let layers = [1, 2, 3, 4].map(|n| fixture.layer(n));
        // Not by looking for the records, which would be a use.
        let present = || {
            layers
                .each_ref()
                .map(|(id, ..)| fixture.store.root().join("layers").join(id.as_str()).exists())
        };
        let hours = |n: u64| Some(Duration::from_secs(n * 3600 + 1800));
        fixture
            .store
            .prune(&PruneOptions {
                until: hours(3),
                ..PruneOptions::default()
            })
            .unwrap();
        assert_eq!(present(), [true, true, true, false]);

        let dry = PruneOptions {
            dry_run: true,
            ..PruneOptions::default()
        };
        let total = fixture.store.prune(&dry).unwrap().freed;
        let keep_storage = Some(total - 1);
        fixture
            .store
            .prune(&PruneOptions {
                keep_storage,
                ..PruneOptions::default()
            })
            .unwrap();
        assert_eq!(present(), [true, true, false, false]);
        let report = fixture
            .store
            .prune(&PruneOptions {
                keep_storage,
                ..PruneOptions::default()
            })
            .unwrap();
        assert_eq!(report, PruneReport::default());
    }

    #[test]
    fn damaged_documents_and_records_are_survived() {
        let fixture = Fixture::new();
        let [one, two] = [1, 2].map(|n| fixture.layer(n));
        fixture.image("localhost/a:1", &[one.1]);
        let broken = fixture.image("localhost/b:1", &[two.1]);
        std::fs::write(fixture.store.blob_path(&broken), b"{").unwrap();
        std::fs::write(fixture.store.0.keys.path_of(&one.2.hex()), b"rubbish").unwrap();
        std::fs::write(fixture.store.root().join("locks").join(one.2.hex()), b"").unwrap();
        let report = fixture.store.prune(&PruneOptions::default()).unwrap();
        assert_eq!(report.layers, [two.0]);
        assert_eq!(fixture.has(&one), [true, true, false]);
        assert!(fixture.store.0.locks.names().unwrap().is_empty());
    }

    #[test]
    fn layers_of_a_newer_version_stay_with_all_blobs() {
        let fixture = Fixture::new();
        let [old, new] = [1, 2].map(|n| fixture.layer(n));
        let mut record = LayerRecord::new(new.0.clone());
        record.version = RECORD_VERSION + 1;
        write_record(&fixture.store.root().join("layers").join(new.0.as_str()), &record);
        let report = fixture.store.prune(&PruneOptions::default()).unwrap();
        assert_eq!((report.layers, report.blobs), (vec![old.0], vec![old.1]));
        assert_eq!(fixture.has(&new), [true; 3]);
    }

    #[test]
    fn clones_go_with_all() {
        let fixture = Fixture::new();
        let clones = fixture.store.root().join("git");
        for (name, hours) in [("old", 5), ("new", 1)] {
            let path = clones.join(name);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("pack"), [0; 9000]).unwrap();
            let used = SystemTime::now() - Duration::from_secs(3600 * hours);
            std::fs::File::open(&path).unwrap().set_modified(used).unwrap();
        }
        fixture.store.prune(&PruneOptions::default()).unwrap();
        assert_eq!(std::fs::read_dir(&clones).unwrap().count(), 2);
        let all = |until| PruneOptions {
            all: true,
            until,
            ..PruneOptions::default()
        };
        let report = fixture
            .store
            .prune(&all(Some(Duration::from_secs(7200))))
            .unwrap();
        assert!(report.freed >= 9000 && clones.join("new").exists() && !clones.join("old").exists());
        fixture.store.prune(&all(None)).unwrap();
        assert_eq!(std::fs::read_dir(&clones).unwrap().count(), 0);
    }

    #[test]
    fn a_store_in_use_is_not_pruned() {
        let fixture = Fixture::new();
        let other = Store::open(fixture.store.root()).unwrap();
        let alone = Alone::wait(&fixture.store, Duration::from_millis(30));
        assert!(matches!(alone, Err(StoreError::Busy { .. })));
        drop(alone);
        drop(other);
        let alone = Alone::wait(&fixture.store, Duration::ZERO).unwrap();
        drop(alone);
        Store::open(fixture.store.root()).unwrap();
    }
}
