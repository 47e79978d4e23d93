//! What takes the space of the store: blocks of the disk, as `du` counts them, by kind and thing by thing.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::time::SystemTime;

use serde::Serialize;

use crate::digest::Digest;
use crate::directory::{Directory, c_name, disk_bytes, disk_usage};
use crate::error::StoreError;
use crate::gc::survey::{Found, FoundLayer, Survey, all_files};
use crate::record::Made;
use crate::store::Store;

/// A kind of things that take space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UsageKind {
    /// Manifests, indexes and configs of images.
    Images,
    /// Layers as directories, which steps stand on.
    LayerTrees,
    /// Layers as uncompressed archives.
    LayerTars,
    /// Layers as compressed archives.
    LayerBlobs,
    /// What is known about layers: their records and lists of files.
    LayerIndexes,
    /// Files of web servers.
    HttpSources,
    /// Files and clones of Git repositories.
    GitSources,
    /// Caches of `RUN --mount=type=cache`.
    CacheMounts,
    /// Cache records, remembered file digests, records of builds.
    Records,
    /// What running processes write, and what killed ones left.
    Temporary,
    /// Tags, locks, and all else.
    Other,
}

impl UsageKind {
    /// All kinds, in the order in which they are shown.
    pub const ALL: [UsageKind; 11] = [
        Self::Images,
        Self::LayerTrees,
        Self::LayerTars,
        Self::LayerBlobs,
        Self::LayerIndexes,
        Self::HttpSources,
        Self::GitSources,
        Self::CacheMounts,
        Self::Records,
        Self::Temporary,
        Self::Other,
    ];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::LayerTrees => "layers: trees",
            Self::LayerTars => "layers: tars",
            Self::LayerBlobs => "layers: compressed",
            Self::LayerIndexes => "layers: indexes",
            Self::HttpSources => "http sources",
            Self::GitSources => "git sources",
            Self::CacheMounts => "cache mounts",
            Self::Records => "records",
            Self::Temporary => "temporary",
            Self::Other => "other",
        }
    }
}

/// One thing.
#[derive(Debug, Clone)]
pub struct UsageItem {
    /// What `prune --filter id=` calls it.
    pub id: String,
    /// What it is, as BuildKit calls it: `regular`, `exec.cachemount`, `source.git.checkout`.
    pub kind: &'static str,
    /// What made it, in words.
    pub description: String,
    /// Blocks, in bytes.
    pub bytes: u64,
    /// How much of that `prune --all` gives back when nobody uses the store.
    pub reclaimable: u64,
    /// Whether an image needs it too.
    pub shared: bool,
    /// Whether a running process has used it.
    pub in_use: bool,
    /// Whether steps write to it.
    pub mutable: bool,
    /// When it was made, in seconds since 1970-01-01 UTC, where that is known.
    pub created: Option<u64>,
    /// When it was made or used last.
    pub used: SystemTime,
}

/// What takes the space.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// Layers, caches and clones.
    pub items: Vec<UsageItem>,
    /// Bytes by kind, and how much of that can be had back; all kinds together are all of the store.
    pub kinds: Vec<(UsageKind, u64, u64)>,
    /// Named images.
    pub images: usize,
}

impl Usage {
    /// All of the store.
    pub fn total(&self) -> u64 {
        self.kinds.iter().map(|(_, bytes, _)| bytes).sum()
    }

    /// What `prune --all` would give back.
    pub fn reclaimable(&self) -> u64 {
        self.kinds.iter().map(|(_, _, bytes)| bytes).sum()
    }

    fn add(&mut self, kind: UsageKind, bytes: u64, reclaimable: u64) {
        match self.kinds.iter_mut().find(|(known, ..)| *known == kind) {
            Some((_, all, some)) => {
                *all += bytes;
                *some += reclaimable;
            }
            None => self.kinds.push((kind, bytes, reclaimable)),
        }
    }
}

impl Store {
    /// Measures the store. Layer trees of an ordinary user hold directories of subordinate ids: call it inside the user
    /// namespace.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let images = self.images()?;
        let named = images.iter().filter(|image| image.name.is_some());
        let roots: Vec<Digest> = named.map(|image| image.descriptor.digest).collect();
        let needed = self.reachable(roots)?;
        let mut seen = HashSet::new();
        let survey = self.survey(needed, &mut seen)?;
        let pinned = self.0.session.oldest(&self.0.sessions, false)?;
        let in_use = |used: SystemTime| pinned.is_some_and(|pinned| used >= pinned);

        let mut usage = Usage {
            images: images.iter().filter(|image| image.name.is_some()).count(),
            ..Usage::default()
        };
        UsageKind::ALL.iter().for_each(|kind| usage.add(*kind, 0, 0));
        let mut counted = HashSet::new();
        for (id, layer) in &survey.layers {
            let (all, some) = usage.add_layer(&survey, layer, &mut counted);
            usage.items.push(UsageItem {
                id: id.to_string(),
                kind: match layer.made {
                    Made::Git => "source.git.checkout",
                    Made::Http => "source.http",
                    Made::Context => "source.local",
                    Made::Step => "regular",
                },
                description: layer.description.clone(),
                bytes: all,
                reclaimable: some,
                shared: layer.needed,
                in_use: layer.held || in_use(layer.used),
                mutable: false,
                created: layer.created,
                used: layer.used,
            });
        }
        for (digest, found) in &survey.blobs {
            if counted.insert(*digest) {
                let free = if survey.needed.blobs.contains(digest) {
                    0
                } else {
                    found.bytes
                };
                usage.add(UsageKind::Images, found.bytes, free);
            }
        }
        let mutable = |id: &str, kind, description: &str, bytes, used| UsageItem {
            id: id.to_owned(),
            kind,
            description: description.to_owned(),
            bytes,
            reclaimable: bytes,
            shared: false,
            in_use: in_use(used),
            mutable: true,
            created: None,
            used,
        };
        for mount in &survey.mounts {
            usage.add(UsageKind::CacheMounts, mount.bytes, mount.bytes);
            let item = mutable(&mount.name, "exec.cachemount", &mount.id, mount.bytes, mount.used);
            usage.items.push(item);
        }
        for (name, Found { bytes, used }) in &survey.clones {
            usage.add(UsageKind::GitSources, *bytes, *bytes);
            let item = mutable(
                name,
                "source.git.checkout",
                "clone of a repository",
                *bytes,
                *used,
            );
            usage.items.push(item);
        }
        let records = survey
            .records
            .iter()
            .map(|record| record.found.bytes)
            .sum::<u64>();
        let files = survey.files.iter().map(|(_, found)| found.bytes).sum::<u64>();
        usage.add(UsageKind::Records, records + files, records + files);
        let lists = all_files(&self.0.ops)?.iter().map(|(_, found)| found.bytes).sum();
        usage.add(UsageKind::Records, lists, 0);
        self.add_the_rest(&mut usage, &mut seen)?;
        usage
            .items
            .sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.id.cmp(&b.id)));
        Ok(usage)
    }

    /// Directories themselves, and what lies directly in the root.
    fn add_the_rest(&self, usage: &mut Usage, seen: &mut HashSet<(u64, u64)>) -> Result<(), StoreError> {
        let inner = &self.0;
        let mut other = 0;
        for name in inner.root.text_names()? {
            let path = inner.root.path_of(&name);
            let measure = |seen: &mut HashSet<(u64, u64)>| {
                c_name(&path)
                    .and_then(|name| disk_usage(inner.root.as_fd(), &name, seen))
                    .map_err(|error| StoreError::io("measuring", &path, error))
            };
            match name.as_str() {
                // What is in them was counted.
                "blobs" | "layers" | "keys" | "ops" | "files" | "mounts" | "git" => {}
                "tmp" => {
                    let bytes = measure(seen)?;
                    usage.add(UsageKind::Temporary, bytes, 0);
                }
                "builds" | "lists" | "evictions" => {
                    let bytes = measure(seen)?;
                    usage.add(UsageKind::Records, bytes, 0);
                }
                _ => other += measure(seen)?,
            }
        }
        other += own(&inner.root)?;
        let inside = [
            &inner.blobs,
            &inner.layers,
            &inner.keys,
            &inner.ops,
            &inner.files,
            &inner.mounts,
        ];
        for directory in inside {
            other += own(directory)?;
        }
        for name in ["blobs", "keys", "ops", "files", "mounts", "git"] {
            if let Some(stat) = inner.root.stat(name)? {
                other += disk_bytes(stat.st_blocks);
            }
        }
        usage.add(UsageKind::Other, other, 0);
        Ok(())
    }
}

impl Usage {
    /// Counts a layer: what all of it takes, and how much of that can be had back.
    fn add_layer(
        &mut self,
        survey: &Survey,
        layer: &FoundLayer,
        counted: &mut HashSet<Digest>,
    ) -> (u64, u64) {
        use UsageKind as K;
        let kind = |own| match layer.made {
            Made::Http => K::HttpSources,
            Made::Git => K::GitSources,
            Made::Step | Made::Context => own,
        };
        let trees = if layer.removable() > 0 { layer.trees } else { 0 };
        let rest = if layer.needed || layer.held { 0 } else { layer.rest };
        let mut add = |own, bytes, reclaimable| {
            self.add(kind(own), bytes, reclaimable);
            (bytes, reclaimable)
        };
        let mut parts = vec![
            add(K::LayerTrees, layer.trees, trees),
            add(K::LayerIndexes, layer.rest, rest),
        ];
        let tar = layer
            .facts
            .as_ref()
            .and_then(|facts| facts.diff_id)
            .map(|diff_id| diff_id.0);
        for digest in layer.blobs() {
            let Some(found) = survey.blobs.get(digest).filter(|_| counted.insert(*digest)) else {
                continue;
            };
            let stays = layer.needed || layer.held;
            let free = if survey.needed.blobs.contains(digest) || stays {
                0
            } else {
                found.bytes
            };
            let form = if tar == Some(*digest) {
                K::LayerTars
            } else {
                K::LayerBlobs
            };
            parts.push(add(form, found.bytes, free));
        }
        parts
            .iter()
            .fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
    }
}

/// Blocks of the directory itself, in bytes.
fn own(directory: &Directory) -> Result<u64, StoreError> {
    let stat = rustix::fs::fstat(directory)
        .map_err(|errno| StoreError::io("looking at", directory.path(), errno))?;
    Ok(disk_bytes(stat.st_blocks))
}
