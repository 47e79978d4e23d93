//! What may go: build cache that no image needs.
//!
//! **Invariant**: what a named image of `index.json` reaches (manifests, configs, layer blobs, and the layers that its
//! diff ids name) is never removed. A prune works alone: every open store holds `gc.lock` shared, a prune holds it
//! exclusively. Killed half-way it leaves less cache, never a broken one: names go before records, records before the layers they
//! lead to, layers before their blobs, and a layer leaves its place by one rename before it is taken apart.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{FlockOperation, Stat};
use serde_json::Value;

use crate::digest::{DiffId, Digest, Key, LayerId};
use crate::directory::{disk_bytes, disk_usage, remove_tree};
use crate::error::StoreError;
use crate::layer::LayerRecord;
use crate::lock::{holders, lock};
use crate::store::Store;

/// What to remove.
#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    /// Also the cache records that lead to layers of images, and remembered file digests. Named images stay.
    pub all: bool,
    /// Only what was not used for this long.
    pub until: Option<Duration>,
    /// Stop when the cache takes no more than this many bytes of disk; the longest unused goes first.
    pub keep_storage: Option<u64>,
    /// Only say what would be removed.
    pub dry_run: bool,
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
    /// Disk space given back, in bytes of whole blocks.
    pub freed: u64,
}

/// How long a prune waits for others to leave the store.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest manifest, index or config that is looked into.
const DOCUMENT_LIMIT: u64 = 32 << 20;
/// A context that was not built for this long has its file digests forgotten.
const FORGET_FILES_AFTER: Duration = Duration::from_secs(30 * 24 * 60 * 60);

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
        let plan = self.plan(options)?;
        if options.dry_run {
            Ok(plan.report())
        } else {
            self.carry_out(plan)
        }
    }

    fn plan(&self, options: &PruneOptions) -> Result<Plan, StoreError> {
        let cutoff = options.until.and_then(|age| SystemTime::now().checked_sub(age));
        let expired = |used: SystemTime| cutoff.is_none_or(|cutoff| used < cutoff);

        let mut plan = Plan::default();
        let mut roots = Vec::new();
        for image in self.images()? {
            let tagged = image
                .created
                .as_deref()
                .and_then(|time| time.parse::<jiff::Timestamp>().ok());
            if image.name.is_none() && tagged.is_none_or(|time| expired(time.into())) {
                plan.images.push(image.descriptor.digest);
            } else {
                roots.push(image.descriptor.digest);
            }
        }
        let needed = self.reachable(roots)?;

        let records = self.all_records()?;
        let mut layers = self.all_layers(&needed)?;
        for record in &records {
            if let Some(layer) = record.layer.as_ref().and_then(|id| layers.get_mut(id)) {
                layer.used = layer.used.max(record.used);
            }
        }

        // Blobs that neither an image nor a layer needs: manifests of images that are gone, for instance.
        let mut users: HashMap<Digest, usize> = HashMap::new();
        for digest in layers.values().flat_map(|layer| &layer.blobs) {
            *users.entry(*digest).or_default() += 1;
        }
        let mut blobs = HashMap::new();
        for name in self.0.blobs.text_names()? {
            let Ok(digest) = format!("sha256:{name}").parse::<Digest>() else {
                continue;
            };
            let Some(stat) = self.0.blobs.stat(&name)? else {
                continue;
            };
            if needed.blobs.contains(&digest) {
                continue;
            }
            if !users.contains_key(&digest) && expired(modified(&stat)) {
                plan.remove_blob(digest, disk_bytes(stat.st_blocks));
            } else {
                blobs.insert(digest, disk_bytes(stat.st_blocks));
            }
        }

        // Layers that no image needs, the longest unused first, until the cache is small enough.
        let mut cache: Vec<(&LayerId, &CachedLayer)> =
            layers.iter().filter(|(_, layer)| !layer.needed).collect();
        cache.sort_by_key(|(id, layer)| (layer.used, *id));
        let mut total = blobs.values().sum::<u64>() + cache.iter().map(|(_, layer)| layer.bytes).sum::<u64>();
        for (id, layer) in cache {
            if !expired(layer.used) || options.keep_storage.is_some_and(|keep| total <= keep) {
                continue;
            }
            total -= layer.bytes;
            plan.bytes += layer.bytes;
            plan.layers.push(id.clone());
            for digest in &layer.blobs {
                let left = users.get_mut(digest).map_or(0, |count| {
                    *count = count.saturating_sub(1);
                    *count
                });
                if left == 0
                    && let Some(bytes) = blobs.remove(digest)
                {
                    total -= bytes;
                    plan.remove_blob(*digest, bytes);
                }
            }
        }

        let removed: HashSet<&LayerId> = plan.layers.iter().collect();
        for record in records {
            let layer = record.layer.as_ref().and_then(|id| Some((id, layers.get(id)?)));
            let removable = match layer {
                Some((id, layer)) => {
                    removed.contains(id) || options.all && layer.needed && expired(record.used)
                }
                // Damaged, or its layer is gone.
                None => true,
            };
            if removable {
                plan.records.push(record.name);
            }
        }
        let forget = SystemTime::now().checked_sub(FORGET_FILES_AFTER);
        for name in self.0.files.text_names()? {
            let Some(stat) = self.0.files.stat(&name)? else {
                continue;
            };
            let written = modified(&stat);
            if expired(written) && (options.all || forget.is_some_and(|time| written < time)) {
                plan.bytes += disk_bytes(stat.st_blocks);
                plan.files.push(name);
            }
        }
        Ok(plan)
    }

    fn carry_out(&self, plan: Plan) -> Result<PruneReport, StoreError> {
        let mut report = PruneReport::default();
        self.remove_nameless(&plan.images)?;
        report.images = plan.images;
        for name in &plan.records {
            self.0.keys.unlink(name)?;
            report.records += 1;
        }
        self.rewrite_operations()?;
        for id in plan.layers {
            report.freed += self.remove_layer(&id)?;
            report.layers.push(id);
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
        // Nobody else is here, so a lock file is what a killed process left.
        for name in self.0.locks.text_names()? {
            self.0.locks.unlink(&name)?;
        }
        self.sweep_temporary()?;
        Ok(report)
    }

    /// Takes the layer out of its place and apart. Returns the bytes of disk that this gave back.
    fn remove_layer(&self, id: &LayerId) -> Result<u64, StoreError> {
        let (scratch, name) = self.scratch_name()?;
        self.0.layers.rename(id.as_str(), scratch.directory(), &name)?;
        let path = scratch.directory().path_of(&name);
        let c_name =
            crate::directory::c_name(&path).map_err(|error| StoreError::io("removing", &path, error))?;
        remove_tree(scratch.directory().as_fd(), &c_name)
            .map_err(|error| StoreError::io("removing the layer in", &path, error))
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

    /// All that `roots` need. A document that is missing or damaged leads nowhere: its image cannot be used anyway.
    fn reachable(&self, mut roots: Vec<Digest>) -> Result<Needed, StoreError> {
        let mut needed = Needed::default();
        while let Some(digest) = roots.pop() {
            if !needed.blobs.insert(digest) {
                continue;
            }
            let Some(document) = self.document(&digest)? else {
                continue;
            };
            roots.extend(list(&document, "manifests").filter_map(digest_of));
            needed
                .blobs
                .extend(list(&document, "layers").filter_map(digest_of));
            let Some(config) = document.get("config").and_then(digest_of) else {
                continue;
            };
            needed.blobs.insert(config);
            let Some(config) = self.document(&config)? else {
                continue;
            };
            let diff_ids = config
                .get("rootfs")
                .into_iter()
                .flat_map(|rootfs| list(rootfs, "diff_ids"));
            needed
                .diff_ids
                .extend(diff_ids.filter_map(|id| Some(DiffId(id.as_str()?.parse().ok()?))));
        }
        needed.layers = needed.diff_ids.iter().map(LayerId::of_diff_id).collect();
        Ok(needed)
    }

    /// The JSON document `digest`; `None` when it is missing, damaged, or no JSON.
    fn document(&self, digest: &Digest) -> Result<Option<Value>, StoreError> {
        match self.read_blob(digest, DOCUMENT_LIMIT) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(StoreError::MissingBlob { .. } | StoreError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn all_records(&self) -> Result<Vec<CachedRecord>, StoreError> {
        let mut records = Vec::new();
        for name in self.0.keys.text_names()? {
            let Ok(key) = name.parse::<Key>() else { continue };
            let Some(stat) = self.0.keys.stat(&name)? else {
                continue;
            };
            let layer = self.read_record(&key)?.map(|(record, _)| record.layer);
            records.push(CachedRecord {
                name,
                layer,
                used: modified(&stat),
            });
        }
        Ok(records)
    }

    /// All layers, and which of them an image needs.
    fn all_layers(&self, needed: &Needed) -> Result<HashMap<LayerId, CachedLayer>, StoreError> {
        let mut layers = HashMap::new();
        let mut seen = HashSet::new();
        for name in self.0.layers.names()? {
            let Some(id) = name.to_str().ok().and_then(|name| name.parse::<LayerId>().ok()) else {
                continue;
            };
            let record = self.layer_record(&id)?;
            let blobs: Vec<Digest> = record
                .as_ref()
                .map_or_else(Vec::new, |r| r.blobs().copied().collect());
            let diff_id = record.as_ref().and_then(|record| record.diff_id);
            let is_needed = needed.layers.contains(&id)
                || diff_id.is_some_and(|diff_id| needed.diff_ids.contains(&diff_id))
                || blobs.iter().any(|digest| needed.blobs.contains(digest));
            let stat = self.0.layers.stat(id.as_str())?;
            let bytes = if is_needed {
                0
            } else {
                disk_usage(self.0.layers.as_fd(), &name, &mut seen)
                    .map_err(|error| StoreError::io("measuring", self.0.layers.path_of(id.as_str()), error))?
            };
            let used = stat.as_ref().map_or(SystemTime::UNIX_EPOCH, modified);
            layers.insert(
                id,
                CachedLayer {
                    blobs,
                    needed: is_needed,
                    used,
                    bytes,
                },
            );
        }
        Ok(layers)
    }

    /// What is known about the layer; `None` when that cannot be read.
    fn layer_record(&self, id: &LayerId) -> Result<Option<LayerRecord>, StoreError> {
        let Ok(directory) = self.0.layers.child(id.as_str()) else {
            return Ok(None);
        };
        let Some(mut file) = directory.open_file("record.json")? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|e| StoreError::io("reading", directory.path_of("record.json"), e))?;
        Ok(serde_json::from_slice(&bytes).ok())
    }
}

/// What images need.
#[derive(Default)]
struct Needed {
    blobs: HashSet<Digest>,
    diff_ids: HashSet<DiffId>,
    /// The names of pulled layers with these diff ids.
    layers: HashSet<LayerId>,
}

struct CachedLayer {
    blobs: Vec<Digest>,
    needed: bool,
    used: SystemTime,
    /// What its directory takes; 0 when an image needs it.
    bytes: u64,
}

struct CachedRecord {
    name: String,
    /// `None` when the record is damaged.
    layer: Option<LayerId>,
    used: SystemTime,
}

/// What shall go.
#[derive(Default)]
struct Plan {
    images: Vec<Digest>,
    records: Vec<String>,
    layers: Vec<LayerId>,
    blobs: Vec<Digest>,
    files: Vec<String>,
    /// What that will give back.
    bytes: u64,
}

impl Plan {
    fn remove_blob(&mut self, digest: Digest, bytes: u64) {
        self.bytes += bytes;
        self.blobs.push(digest);
    }

    fn report(self) -> PruneReport {
        let Self {
            images,
            records,
            layers,
            blobs,
            bytes,
            ..
        } = self;
        PruneReport {
            images,
            layers,
            blobs,
            records: records.len() as u64,
            freed: bytes,
        }
    }
}

/// The elements of the array `name` of `document`.
fn list<'a>(document: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    document.get(name).and_then(Value::as_array).into_iter().flatten()
}

/// The digest in a descriptor.
fn digest_of(descriptor: &Value) -> Option<Digest> {
    descriptor.get("digest")?.as_str()?.parse().ok()
}

fn modified(stat: &Stat) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
    SystemTime::UNIX_EPOCH + since + Duration::from_nanos(stat.st_mtime_nsec)
}

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
    use super::*;
    use crate::image::Descriptor;
    use crate::layer::TarForm;
    use crate::record::Record;

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
            std::fs::write(
                directory.join("record.json"),
                serde_json::to_vec(&record).unwrap(),
            )
            .unwrap();
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
        assert_eq!(fixture.has(&top), [true, true, false]);

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
