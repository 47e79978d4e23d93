//! `store check`: is everything in the store what it was?
//!
//! All that carries a digest or a checksum is compared with it, references are followed, and trees are compared with the
//! lists of their layers: types, sizes, modes, owners, times, and with the data the digests of all files. What has nothing to be
//! compared with cannot be judged: the bytes of caches that steps mount, and trees whose build was killed before it
//! listed them.
//!
//! A repair takes away what is damaged, so that it counts as missing and is made again, and nothing that is whole. No
//! prune works at the same time; builds may.

mod layers;
mod records;

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read};

use rustix::fs::FlockOperation;
use serde::Serialize;

use crate::digest::Digest;
use crate::directory::Directory;
use crate::error::StoreError;
use crate::image::StoredImage;
use crate::layer::LayerRecord;
use crate::store::Store;

/// The largest manifest, index or config that is looked into.
const DOCUMENT_LIMIT: u64 = 32 << 20;

/// How to check.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckOptions {
    /// Also read all bytes.
    pub read_data: bool,
    /// Take away what is damaged.
    pub repair: bool,
}

/// What is wrong with something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DamageKind {
    /// The bytes have another digest or checksum.
    Content,
    /// It is shorter or longer than it was.
    Size,
    /// Something says that it exists, and it does not.
    Missing,
    /// It leads to something that does not exist.
    Dangling,
    /// A tree is not what its layer says.
    Tree,
    /// It is not of the form that it has to have.
    Malformed,
    /// An image cannot be read as a whole any more.
    Image,
    /// What a killed process left. Not counted as damage: the next build sweeps it.
    Stray,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Damage {
    /// What is wrong.
    pub kind: DamageKind,
    /// Where, below the store; of an image its name.
    pub path: String,
    /// In words.
    pub reason: String,
    /// Whether a repair has taken it away or made it whole.
    pub repaired: bool,
}

/// What a check found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CheckReport {
    /// All findings, sorted.
    pub damages: Vec<Damage>,
    /// How many blobs, layers and records were looked at.
    pub blobs: u64,
    /// See `blobs`.
    pub layers: u64,
    /// See `blobs`.
    pub records: u64,
    /// Named images.
    pub images: u64,
    /// Bytes that were read and compared.
    pub bytes_read: u64,
}

impl CheckReport {
    /// Whether something is damaged, as opposed to left behind.
    pub fn is_damaged(&self) -> bool {
        self.damages.iter().any(|damage| damage.kind != DamageKind::Stray)
    }

    /// Whether something is damaged still.
    pub fn is_damaged_still(&self) -> bool {
        let left = |damage: &Damage| damage.kind != DamageKind::Stray && !damage.repaired;
        self.damages.iter().any(left)
    }
}

impl Store {
    /// Checks the store. Trees of an ordinary user hold files of subordinate ids: call it inside the user namespace.
    pub fn check(&self, options: CheckOptions) -> Result<CheckReport, StoreError> {
        let _no_prune = self.lock_prunes()?;
        let mut check = Check {
            store: self,
            options,
            report: CheckReport::default(),
            sizes: HashMap::new(),
            spoilt: Vec::new(),
            facts: Vec::new(),
        };
        check.layout()?;
        let images = check.tags()?;
        check.layer_records()?;
        check.blobs()?;
        check.trees()?;
        check.documents(&images)?;
        check.records()?;
        check.lists()?;
        check.temporary()?;
        let mut report = check.report;
        report.damages.sort();
        report.damages.dedup();
        Ok(report)
    }
}

/// A check at work.
struct Check<'a> {
    store: &'a Store,
    options: CheckOptions,
    report: CheckReport,
    /// How long blobs are by what names them.
    sizes: HashMap<Digest, u64>,
    /// Blobs that were found damaged.
    spoilt: Vec<Digest>,
    /// What is known about each layer.
    facts: Vec<LayerRecord>,
}

impl Check<'_> {
    /// Notes damage at `name` in `directory`, which a repair removes.
    fn damaged(
        &mut self,
        kind: DamageKind,
        directory: &Directory,
        name: &str,
        reason: impl Into<String>,
    ) -> Result<(), StoreError> {
        if self.options.repair {
            self.take_away(directory, name)?;
        }
        self.note(kind, directory, name, reason, self.options.repair);
        Ok(())
    }

    fn note(
        &mut self,
        kind: DamageKind,
        directory: &Directory,
        name: &str,
        reason: impl Into<String>,
        repaired: bool,
    ) {
        let path = directory.path_of(name);
        let path = path.strip_prefix(self.store.root()).unwrap_or(&path);
        self.report.damages.push(Damage {
            kind,
            path: path.to_string_lossy().into_owned(),
            reason: reason.into(),
            repaired,
        });
    }

    /// Out of its place by one rename; what it was goes with the temporary directory.
    fn take_away(&self, directory: &Directory, name: &str) -> Result<(), StoreError> {
        let out = self.store.temp_dir()?;
        match rustix::fs::renameat(directory, name, out.directory(), "damaged") {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(StoreError::io("removing", directory.path_of(name), errno)),
        }
    }

    /// The marks of an image layout.
    fn layout(&mut self) -> Result<(), StoreError> {
        let store = self.store;
        let root = &store.0.root;
        let marked = match root.open_file(LAYOUT)? {
            Some(file) => io::read_to_string(file).is_ok_and(|text| text == LAYOUT_TEXT),
            None => false,
        };
        if !marked {
            if self.options.repair {
                store.replace_file(root, LAYOUT, LAYOUT_TEXT.as_bytes(), false)?;
            }
            let reason = "does not say that this is an image layout";
            self.note(DamageKind::Content, root, LAYOUT, reason, self.options.repair);
        }
        Ok(())
    }

    /// `index.json`.
    fn tags(&mut self) -> Result<Vec<StoredImage>, StoreError> {
        let store = self.store;
        let root = &store.0.root;
        if root.stat(crate::image::INDEX)?.is_none() && root.stat(crate::image::INDEX_BACKUP)?.is_some() {
            let repaired = self.options.repair && store.restore_index()?;
            self.note(
                DamageKind::Missing,
                root,
                crate::image::INDEX,
                "is missing",
                repaired,
            );
        }
        let damaged = match store.damaged_tags() {
            Ok(damaged) => damaged,
            Err(StoreError::Index { reason, .. }) => {
                // The state before the last change, if that is whole, else no tags.
                let mut repaired = false;
                if self.options.repair {
                    repaired = store.restore_index()?;
                    if !repaired {
                        self.take_away(root, crate::image::INDEX)?;
                        repaired = true;
                    }
                }
                self.note(DamageKind::Malformed, root, crate::image::INDEX, reason, repaired);
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        if !damaged.is_empty() && self.options.repair {
            store.remove_damaged_tags()?;
        }
        for reason in damaged {
            self.note(
                DamageKind::Content,
                root,
                crate::image::INDEX,
                reason,
                self.options.repair,
            );
        }
        if !store.is_backup_whole()? {
            self.damaged(
                DamageKind::Malformed,
                root,
                crate::image::INDEX_BACKUP,
                "is no list of images",
            )?;
        }
        if !store.is_seen_whole()? {
            let reason = "its checksum is wrong";
            self.damaged(DamageKind::Content, root, crate::image::SEEN, reason)?;
        }
        match store.images() {
            Err(StoreError::Index { .. }) => Ok(Vec::new()),
            images => images,
        }
    }

    /// Every blob has the digest in its name.
    fn blobs(&mut self) -> Result<(), StoreError> {
        let store = self.store;
        let blobs = &store.0.blobs;
        for name in blobs.text_names()? {
            let Ok(digest) = format!("sha256:{name}").parse::<Digest>() else {
                self.damaged(DamageKind::Malformed, blobs, &name, "is no name of a blob")?;
                continue;
            };
            let Some(stat) = blobs.stat(&name)? else { continue };
            self.report.blobs += 1;
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
                self.damaged(DamageKind::Malformed, blobs, &name, "is no regular file")?;
            } else if let Some(expected) = self.sizes.get(&digest).filter(|expected| **expected != size) {
                let reason = format!("has {size} bytes and not {expected}");
                self.spoilt.push(digest);
                self.damaged(DamageKind::Size, blobs, &name, reason)?;
            } else if self.options.read_data {
                let Some(file) = blobs.open_file(&name)? else {
                    continue;
                };
                let read = crate::blob::digest_of(&file);
                let found = read.map_err(|error| StoreError::io("reading", blobs.path_of(&name), error))?;
                self.report.bytes_read += size;
                if found != digest {
                    self.spoilt.push(digest);
                    self.damaged(DamageKind::Content, blobs, &name, "its bytes have another digest")?;
                }
            }
        }
        Ok(())
    }

    /// What images need is there.
    fn documents(&mut self, images: &[StoredImage]) -> Result<(), StoreError> {
        let store = self.store;
        for image in images {
            self.report.images += u64::from(image.name.is_some());
            let mut missing = BTreeSet::new();
            self.follow(image.descriptor.digest, image.descriptor.size, &mut missing, 0)?;
            if missing.is_empty() {
                continue;
            }
            let digest = image.descriptor.digest;
            if self.options.repair {
                store.remove_image(&digest)?;
            }
            let missing: Vec<String> = missing.into_iter().collect();
            self.report.damages.push(Damage {
                kind: DamageKind::Image,
                path: image.name.clone().unwrap_or_else(|| digest.to_string()),
                reason: format!("cannot be read any more: {}", missing.join(", ")),
                repaired: self.options.repair,
            });
        }
        Ok(())
    }

    /// Adds to `missing` what `digest` needs and nobody has.
    fn follow(
        &mut self,
        digest: Digest,
        size: u64,
        missing: &mut BTreeSet<String>,
        depth: usize,
    ) -> Result<(), StoreError> {
        let store = self.store;
        let mut bytes = Vec::new();
        let Some(file) = store.0.blobs.open_file(&digest.hex())? else {
            missing.insert(format!("{digest} is missing"));
            return Ok(());
        };
        file.take(DOCUMENT_LIMIT)
            .read_to_end(&mut bytes)
            .map_err(|error| StoreError::io("reading", store.blob_path(&digest), error))?;
        if Digest::of(&bytes) != digest {
            missing.insert(format!("{digest} is damaged"));
            return Ok(());
        }
        if bytes.len() as u64 != size {
            missing.insert(format!("{digest} has {} bytes and not {size}", bytes.len()));
        }
        let Ok(document) = serde_json::from_slice::<serde_json::Value>(&bytes) else {
            missing.insert(format!("{digest} is no JSON"));
            return Ok(());
        };
        let named = |value: &serde_json::Value| -> Option<(Digest, u64)> {
            let digest = value.get("digest")?.as_str()?.parse().ok()?;
            Some((digest, value.get("size").and_then(serde_json::Value::as_u64)?))
        };
        let list = |name: &str| -> Vec<(Digest, u64)> {
            let values = document.get(name).and_then(serde_json::Value::as_array);
            values.into_iter().flatten().filter_map(named).collect()
        };
        // Indexes of indexes are not as deep as this.
        if depth < 8 {
            for (digest, size) in list("manifests") {
                // An index of a registry names platforms that were never fetched.
                if store.has_blob(&digest) {
                    self.follow(digest, size, missing, depth + 1)?;
                }
            }
        }
        if let Some((config, size)) = document.get("config").and_then(named)
            && (store.blob_size(&config) != Some(size) || self.spoilt.contains(&config))
        {
            missing.insert(format!("its config {config} is missing or damaged"));
        }
        for (layer, size) in list("layers") {
            let whole = store.blob_size(&layer) == Some(size) && !self.spoilt.contains(&layer);
            if whole || self.can_be_had(&layer) {
                continue;
            }
            missing.insert(format!("its layer {layer} is missing or damaged"));
        }
        Ok(())
    }

    /// Whether the blob can be fetched, or made from another form of its layer.
    fn can_be_had(&self, digest: &Digest) -> bool {
        let names = |facts: &&LayerRecord| {
            facts.blobs().any(|blob| blob == digest)
                || facts.diff_id.is_some_and(|diff_id| diff_id.0 == *digest)
        };
        self.facts.iter().filter(names).any(|facts| {
            facts.has_pulled() && !facts.origins.is_empty()
                || self
                    .store
                    .layer(&facts.id)
                    .is_ok_and(|layer| layer.can_make(digest))
        })
    }

    /// What is being written, and what killed processes left of that.
    fn temporary(&mut self) -> Result<(), StoreError> {
        let store = self.store;
        let tmp = &store.0.tmp;
        let mut left = Vec::new();
        for name in tmp.text_names()? {
            let held = match tmp.child(&name) {
                Ok(directory) => {
                    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockShared).is_err()
                }
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
            if !held {
                left.push(name);
            }
        }
        if self.options.repair && !left.is_empty() {
            store.sweep_temporary()?;
        }
        for name in left {
            self.note(
                DamageKind::Stray,
                tmp,
                &name,
                "was left by a killed process",
                self.options.repair,
            );
        }
        Ok(())
    }
}

/// The mark of an image layout, and what is in it.
pub(crate) const LAYOUT: &str = "oci-layout";
pub(crate) const LAYOUT_TEXT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
