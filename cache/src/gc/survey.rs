//! What lies in the store, what of it images need, and what it takes on the disk. Nothing is removed here, except
//! blobs that turn out damaged.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::TREES;
use crate::digest::{DiffId, Digest, Key, LayerId};
use crate::directory::{Directory, c_name, disk_bytes, disk_usage};
use crate::error::StoreError;
use crate::layer::LayerRecord;
use crate::mounts::FoundCacheMount;
use crate::record::{Made, Record};
use crate::session::modified;
use crate::store::Store;

/// The largest manifest, index or config that is looked into.
const DOCUMENT_LIMIT: u64 = 32 << 20;
/// Bytes per millisecond at which things are fetched again, by a guess that is rather low.
const FETCHED_PER_MS: u64 = 10_000;
/// Bytes per millisecond at which trees are unpacked again.
const UNPACKED_PER_MS: u64 = 100_000;

/// All that a prune may want to know.
pub(crate) struct Survey {
    pub(crate) needed: Needed,
    pub(crate) layers: HashMap<LayerId, FoundLayer>,
    pub(crate) blobs: HashMap<Digest, Found>,
    pub(crate) records: Vec<FoundRecord>,
    pub(crate) mounts: Vec<FoundCacheMount>,
    pub(crate) clones: Vec<(String, Found)>,
    /// Files with remembered digests.
    pub(crate) files: Vec<(String, Found)>,
}

/// Something on the disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    /// Blocks, in bytes.
    pub(crate) bytes: u64,
    /// When it was made or used last.
    pub(crate) used: SystemTime,
}

/// What images need.
#[derive(Default)]
pub(crate) struct Needed {
    pub(crate) blobs: HashSet<Digest>,
    diff_ids: HashSet<DiffId>,
    /// The names of pulled layers with these diff ids.
    layers: HashSet<LayerId>,
}

/// A layer and what its directory takes.
pub(crate) struct FoundLayer {
    /// What is known about it, if this version knows what belongs to it.
    pub(crate) facts: Option<LayerRecord>,
    /// Whether an image needs it.
    pub(crate) needed: bool,
    /// Whether something outside stands on it ([`crate::hold`]).
    pub(crate) held: bool,
    pub(crate) used: SystemTime,
    /// Blocks of its trees, in bytes.
    pub(crate) trees: u64,
    /// Blocks of its index, its record and its directory, in bytes.
    pub(crate) rest: u64,
    /// Whether a blob that it can be made from again is here.
    pub(crate) has_blob: bool,
    /// How long it took to make, in milliseconds.
    pub(crate) worth_ms: u64,
    pub(crate) made: Made,
    pub(crate) description: String,
    pub(crate) created: Option<u64>,
}

impl FoundLayer {
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Digest> {
        self.facts.iter().flat_map(LayerRecord::blobs)
    }

    /// What its directory gives back: all of it, or of a layer that an image needs its tree, if it can be made again.
    pub(crate) fn removable(&self) -> u64 {
        match (self.needed, self.has_blob) {
            _ if self.held => 0,
            (false, _) => self.trees + self.rest,
            (true, true) => self.trees,
            (true, false) => 0,
        }
    }

    /// How long it takes to have again what [`FoundLayer::removable`] counts, in milliseconds.
    pub(crate) fn worth(&self) -> u64 {
        let fetched = |facts: &LayerRecord| facts.has_pulled() && !facts.origins.is_empty();
        if self.needed {
            self.trees / UNPACKED_PER_MS
        } else if self.facts.as_ref().is_some_and(fetched) {
            self.worth_ms.max((self.trees + self.rest) / FETCHED_PER_MS)
        } else {
            self.worth_ms
        }
    }
}

/// How long it takes to fetch `bytes` again, in milliseconds.
pub(crate) fn worth_of_fetched(bytes: u64) -> u64 {
    bytes / FETCHED_PER_MS
}

/// A cache record; `None` inside when it is damaged.
pub(crate) struct FoundRecord {
    pub(crate) key: Key,
    pub(crate) record: Option<Record>,
    pub(crate) found: Found,
}

impl Store {
    /// Looks at everything. A file with several names counts once.
    pub(crate) fn survey(
        &self,
        needed: Needed,
        seen: &mut HashSet<(u64, u64)>,
    ) -> Result<Survey, StoreError> {
        let records = self.all_records()?;
        let blobs: HashMap<Digest, Found> = all_files(&self.0.blobs)?
            .into_iter()
            .filter_map(|(name, found)| Some((format!("sha256:{name}").parse().ok()?, found)))
            .collect();
        let mut layers = self.all_layers(&needed, &blobs, seen)?;
        for found in &records {
            if let Some(record) = &found.record
                && let Some(layer) = layers.get_mut(&record.layer)
            {
                layer.used = layer.used.max(found.found.used);
                layer.worth_ms = layer.worth_ms.max(record.duration_ms);
                layer.created = Some(layer.created.map_or(record.created, |c| c.min(record.created)));
                layer.made = record.made;
                if layer.description.is_empty() {
                    layer.description.clone_from(&record.description);
                }
            }
        }
        Ok(Survey {
            needed,
            layers,
            blobs,
            records,
            mounts: self.all_cache_mounts(seen)?,
            clones: self.all_clones(seen)?,
            files: all_files(&self.0.files)?,
        })
    }

    /// All that `roots` need. A document that is missing or damaged leads nowhere: its image cannot be used anyway.
    pub(crate) fn reachable(&self, mut roots: Vec<Digest>) -> Result<Needed, StoreError> {
        let mut needed = Needed::default();
        while let Some(digest) = roots.pop() {
            if !needed.blobs.insert(digest) {
                continue;
            }
            let Some(document) = self.document(&digest)? else {
                continue;
            };
            roots.extend(list(&document, "manifests").filter_map(digest_of));
            roots.extend(
                self.referrers(&digest)?
                    .into_iter()
                    .map(|it| it.descriptor.digest),
            );
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

    pub(crate) fn all_records(&self) -> Result<Vec<FoundRecord>, StoreError> {
        let mut records = Vec::new();
        for (name, found) in all_files(&self.0.keys)? {
            let Ok(key) = name.parse::<Key>() else { continue };
            records.push(FoundRecord {
                record: self.read_record(&key)?,
                key,
                found,
            });
        }
        Ok(records)
    }

    /// All layers, and which of them an image needs.
    fn all_layers(
        &self,
        needed: &Needed,
        blobs: &HashMap<Digest, Found>,
        seen: &mut HashSet<(u64, u64)>,
    ) -> Result<HashMap<LayerId, FoundLayer>, StoreError> {
        let mut layers = HashMap::new();
        let held = self.held_layers()?;
        for name in self.0.layers.text_names()? {
            let Ok(id) = name.parse::<LayerId>() else {
                continue;
            };
            let Ok(directory) = self.0.layers.child(&name) else {
                continue;
            };
            let Some(stat) = self.0.layers.stat(&name)? else {
                continue;
            };
            let facts = known_facts(&directory, &id)?;
            let is_needed = facts.as_ref().is_none_or(|record| {
                let by_diff_id = |diff_id| needed.diff_ids.contains(&diff_id);
                needed.layers.contains(&id)
                    || record.diff_id.is_some_and(by_diff_id)
                    || record.blobs().any(|digest| needed.blobs.contains(digest))
            });
            let measured = TREES
                .iter()
                .map(|tree| disk_usage(directory.as_fd(), tree, seen))
                .sum::<io::Result<u64>>()
                .and_then(|trees| Ok((trees, disk_usage_but(&self.0.layers, &name, &TREES, seen)?)));
            let (trees, rest) =
                measured.map_err(|error| StoreError::io("measuring", directory.path(), error))?;
            let layer = FoundLayer {
                needed: is_needed,
                // The tree may be that of the layer's other name.
                held: held.contains(&id)
                    || facts
                        .as_ref()
                        .and_then(|record| record.diff_id)
                        .is_some_and(|diff_id| held.contains(&LayerId::of_diff_id(&diff_id))),
                used: modified(&stat),
                trees,
                rest,
                has_blob: facts
                    .as_ref()
                    .is_some_and(|record| record.blobs().any(|digest| blobs.contains_key(digest))),
                worth_ms: 0,
                made: Made::default(),
                description: facts
                    .as_ref()
                    .and_then(|record| record.origins.first())
                    .map_or_else(String::new, |origin| format!("pulled from {origin}")),
                created: None,
                facts,
            };
            layers.insert(id, layer);
        }
        Ok(layers)
    }

    /// Clones of repositories.
    fn all_clones(&self, seen: &mut HashSet<(u64, u64)>) -> Result<Vec<(String, Found)>, StoreError> {
        let Some(directory) = self.clones()? else {
            return Ok(Vec::new());
        };
        let mut clones = Vec::new();
        for name in directory.text_names()? {
            let Some(stat) = directory.stat(&name)? else {
                continue;
            };
            let bytes = c_name(&directory.path_of(&name))
                .and_then(|name| disk_usage(directory.as_fd(), &name, seen))
                .map_err(|error| StoreError::io("measuring", directory.path_of(&name), error))?;
            let used = modified(&stat);
            clones.push((name, Found { bytes, used }));
        }
        Ok(clones)
    }
}

/// What the directory `name` takes without what is below `but`, all of which is in it.
fn disk_usage_but(
    parent: &Directory,
    name: &str,
    but: &[&std::ffi::CStr],
    seen: &mut HashSet<(u64, u64)>,
) -> io::Result<u64> {
    let directory = parent.child(name)?;
    let own = rustix::fs::fstat(&directory)?;
    let mut bytes = disk_bytes(own.st_blocks);
    let names: Vec<CString> = directory.names().map_err(io::Error::other)?;
    for name in names.iter().filter(|name| !but.contains(&name.as_c_str())) {
        bytes += disk_usage(directory.as_fd(), name, seen)?;
    }
    Ok(bytes)
}

/// The files in `directory`.
pub(crate) fn all_files(directory: &Directory) -> Result<Vec<(String, Found)>, StoreError> {
    let mut files = Vec::new();
    for name in directory.text_names()? {
        // One that is gone was taken by somebody who may.
        if let Some(stat) = directory.stat(&name)? {
            let found = Found {
                bytes: disk_bytes(stat.st_blocks),
                used: modified(&stat),
            };
            files.push((name, found));
        }
    }
    Ok(files)
}

/// What is known about the layer in `directory`; `None` when a newer version wrote it.
fn known_facts(directory: &Directory, id: &LayerId) -> Result<Option<LayerRecord>, StoreError> {
    match LayerRecord::load(directory.path(), id) {
        Ok(record) => Ok(Some(record.unwrap_or_else(|| LayerRecord::new(id.clone())))),
        Err(StoreError::Layer { cause, .. }) if cause.error().kind() == io::ErrorKind::Unsupported => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// How long ago `used` is.
pub(crate) fn age(used: SystemTime) -> Duration {
    SystemTime::now().duration_since(used).unwrap_or_default()
}

/// The elements of the array `name` of `document`.
fn list<'a>(document: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    document.get(name).and_then(Value::as_array).into_iter().flatten()
}

/// The digest in a descriptor.
fn digest_of(descriptor: &Value) -> Option<Digest> {
    descriptor.get("digest")?.as_str()?.parse().ok()
}
