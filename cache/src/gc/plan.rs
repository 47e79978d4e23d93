//! Which parts of the store no image needs, and which of them a prune takes. Nothing is removed here, except
//! blobs that turn out damaged.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use rustix::fs::Stat;
use serde_json::Value;

use super::{PruneKind, PruneOptions, PruneReport, TREES};
use crate::digest::{DiffId, Digest, Key, LayerId};
use crate::directory::{Directory, c_name, disk_bytes, disk_usage};
use crate::error::StoreError;
use crate::layer::LayerRecord;
use crate::store::Store;

/// The largest manifest, index or config that is looked into.
const DOCUMENT_LIMIT: u64 = 32 << 20;
/// A context that was not built for this long has its file digests forgotten.
const FORGET_FILES_AFTER: Duration = Duration::from_secs(30 * 24 * 60 * 60);

impl Store {
    pub(super) fn plan(&self, options: &PruneOptions) -> Result<Plan, StoreError> {
        let cutoff = options.until.and_then(|age| SystemTime::now().checked_sub(age));
        let expired = |used: SystemTime| cutoff.is_none_or(|cutoff| used < cutoff);

        let mut plan = Plan::default();
        if options.kind == Some(PruneKind::CacheMounts) {
            self.plan_mounts(&mut plan, 0, options, &expired)?;
            return Ok(plan);
        }
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
        // Where a newer version left its mark, nobody knows what belongs to what.
        let loose = layers.values().all(|layer| layer.readable);
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
            if loose && !users.contains_key(&digest) && expired(modified(&stat)) {
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

        if options.all {
            let mut idle: Vec<(&LayerId, &CachedLayer)> = layers.iter().collect();
            idle.retain(|(_, layer)| layer.needed && layer.bytes > 0 && expired(layer.used));
            idle.sort_unstable_by_key(|(id, _)| *id);
            plan.bytes += idle.iter().map(|(_, layer)| layer.bytes).sum::<u64>();
            plan.trees.extend(idle.into_iter().map(|(id, _)| id.clone()));
        }

        if options.all {
            total += self.plan_clones(&mut plan, total, options, &expired)?;
        }
        if options.all && options.kind.is_none() {
            self.plan_mounts(&mut plan, total, options, &expired)?;
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

    /// Clones of repositories, the longest unused first; the size of those that stay. `others` is the size of what else is
    /// kept.
    fn plan_clones(
        &self,
        plan: &mut Plan,
        others: u64,
        options: &PruneOptions,
        expired: &dyn Fn(SystemTime) -> bool,
    ) -> Result<u64, StoreError> {
        let Some(directory) = self.clones()? else {
            return Ok(0);
        };
        let mut clones = Vec::new();
        for name in directory.text_names()? {
            let Some(stat) = directory.stat(&name)? else {
                continue;
            };
            let bytes = c_name(&directory.path_of(&name))
                .and_then(|name| disk_usage(directory.as_fd(), &name, &mut HashSet::new()))
                .map_err(|error| StoreError::io("looking at", directory.path_of(&name), error))?;
            clones.push((modified(&stat), name, bytes));
        }
        clones.sort();
        let mut total: u64 = clones.iter().map(|(_, _, bytes)| bytes).sum();
        for (used, name, bytes) in clones {
            if expired(used) && options.keep_storage.is_none_or(|keep| others + total > keep) {
                total -= bytes;
                plan.bytes += bytes;
                plan.clones.push(name);
            }
        }
        Ok(total)
    }

    /// Caches that steps mount, the longest unused first. `others` is the size of what else is kept.
    fn plan_mounts(
        &self,
        plan: &mut Plan,
        others: u64,
        options: &PruneOptions,
        expired: &dyn Fn(SystemTime) -> bool,
    ) -> Result<(), StoreError> {
        let mut mounts = self.all_cache_mounts()?;
        mounts.sort_by_key(|mount| mount.used);
        let mut total = others + mounts.iter().map(|mount| mount.bytes).sum::<u64>();
        for mount in mounts {
            if !expired(mount.used) || options.keep_storage.is_some_and(|keep| total <= keep) {
                continue;
            }
            total -= mount.bytes;
            plan.bytes += mount.bytes;
            plan.mounts.push((mount.name, mount.id));
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
        for name in self.0.layers.text_names()? {
            let Ok(id) = name.parse::<LayerId>() else {
                continue;
            };
            let Ok(directory) = self.0.layers.child(&name) else {
                continue;
            };
            let known = known_facts(&directory, &id)?;
            let blobs: Vec<Digest> = known.iter().flat_map(LayerRecord::blobs).copied().collect();
            let is_needed = match &known {
                None => true,
                Some(record) => {
                    needed.layers.contains(&id)
                        || record
                            .diff_id
                            .is_some_and(|diff_id| needed.diff_ids.contains(&diff_id))
                        || blobs.iter().any(|digest| needed.blobs.contains(digest))
                }
            };
            // Of a layer that an image needs, only the tree may go, and only if it can be made again.
            let usage = match is_needed {
                true if !blobs.iter().any(|digest| self.has_blob(digest)) => Ok(0),
                true => TREES
                    .iter()
                    .map(|tree| disk_usage(directory.as_fd(), tree, &mut seen))
                    .sum(),
                false => disk_usage(
                    self.0.layers.as_fd(),
                    &CString::new(name.as_str()).unwrap_or_default(),
                    &mut seen,
                ),
            };
            let bytes = usage.map_err(|error| StoreError::io("measuring", directory.path(), error))?;
            let used = self
                .0
                .layers
                .stat(&name)?
                .map_or(SystemTime::UNIX_EPOCH, |stat| modified(&stat));
            let layer = CachedLayer {
                blobs,
                readable: known.is_some(),
                needed: is_needed,
                used,
                bytes,
            };
            layers.insert(id, layer);
        }
        Ok(layers)
    }
}

/// What is known about the layer in `directory`; `None` when a newer version wrote it.
fn known_facts(directory: &Directory, id: &LayerId) -> Result<Option<LayerRecord>, StoreError> {
    match LayerRecord::load(directory.path(), id) {
        Ok(record) => Ok(Some(record.unwrap_or_else(|| LayerRecord::new(id.clone())))),
        Err(StoreError::Layer { source, .. }) if source.kind() == io::ErrorKind::Unsupported => Ok(None),
        Err(error) => Err(error),
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
    /// Whether this version knows what belongs to it.
    readable: bool,
    needed: bool,
    used: SystemTime,
    /// What its directory takes; of a layer that an image needs, what its tree takes if it can be made again.
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
pub(super) struct Plan {
    pub(super) images: Vec<Digest>,
    pub(super) records: Vec<String>,
    pub(super) layers: Vec<LayerId>,
    /// Layers whose tree shall go.
    pub(super) trees: Vec<LayerId>,
    pub(super) blobs: Vec<Digest>,
    pub(super) files: Vec<String>,
    /// Clones of repositories.
    pub(super) clones: Vec<String>,
    /// Directory and name of caches that steps mount.
    pub(super) mounts: Vec<(String, String)>,
    /// What that will give back.
    pub(super) bytes: u64,
}

impl Plan {
    fn remove_blob(&mut self, digest: Digest, bytes: u64) {
        self.bytes += bytes;
        self.blobs.push(digest);
    }

    /// What a prune that carries it out would report.
    pub(super) fn report(self) -> PruneReport {
        let Self {
            images,
            records,
            layers,
            blobs,
            mounts,
            bytes,
            ..
        } = self;
        PruneReport {
            images,
            layers,
            blobs,
            records: records.len() as u64,
            mounts: mounts.into_iter().map(|(_, id)| id).collect(),
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
