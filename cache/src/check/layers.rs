//! Layers: their records, their indexes, their trees.

use std::fs;

use super::{Check, DamageKind};
use crate::digest::{Digest, LayerId};
use crate::directory::Directory;
use crate::error::StoreError;
use crate::layer::{Layer, LayerRecord, Soundness};

impl Check<'_> {
    /// Records and indexes; learns how long blobs are.
    pub(super) fn layer_records(&mut self) -> Result<(), StoreError> {
        let store = self.store;
        let layers = &store.0.layers;
        for name in layers.text_names()? {
            let Ok(id) = name.parse::<LayerId>() else {
                self.damaged(DamageKind::Malformed, layers, &name, "is no name of a layer")?;
                continue;
            };
            let Ok(directory) = layers.child(&name) else {
                self.damaged(DamageKind::Malformed, layers, &name, "is no directory")?;
                continue;
            };
            self.report.layers += 1;
            let facts = match LayerRecord::load(directory.path(), &id) {
                Ok(Some(facts)) => facts,
                Ok(None) => continue,
                // A newer version knows what it is.
                Err(StoreError::Layer { .. }) => continue,
                Err(error) => return Err(error),
            };
            match LayerRecord::soundness(directory.path(), &id)? {
                Soundness::Sound => {}
                Soundness::Missing => self.record_lost(&directory, &facts, DamageKind::Missing)?,
                Soundness::Damaged => self.record_lost(&directory, &facts, DamageKind::Content)?,
            }
            self.index(&store.layer(&id)?, &directory, &facts)?;
            self.sizes
                .extend(facts.compressed.iter().map(|form| (form.digest, form.size)));
            self.sizes
                .extend(facts.tar.iter().map(|tar| (tar.digest, tar.size)));
            self.facts.push(facts);
        }
        Ok(())
    }

    /// Writes what is known still.
    fn record_lost(
        &mut self,
        directory: &Directory,
        facts: &LayerRecord,
        kind: DamageKind,
    ) -> Result<(), StoreError> {
        if self.options.repair {
            let bytes = facts.to_bytes();
            self.store.replace_file(directory, RECORD, &bytes, false)?;
        }
        let reason = match kind {
            DamageKind::Missing => "is missing",
            _ => "has a line whose checksum is wrong",
        };
        self.note(kind, directory, RECORD, reason, self.options.repair);
        Ok(())
    }

    fn index(&mut self, layer: &Layer, directory: &Directory, facts: &LayerRecord) -> Result<(), StoreError> {
        let there = directory.stat(INDEX)?.is_some();
        let whole = layer.has_whole_index()?;
        if there && !whole {
            self.damaged(DamageKind::Content, directory, INDEX, "its checksum is wrong")?;
        } else if !there && facts.size.is_some() {
            self.note(
                DamageKind::Missing,
                directory,
                INDEX,
                "is missing",
                self.options.repair,
            );
        } else {
            return Ok(());
        }
        if self.options.repair {
            // Whoever asks for it makes it from another form; when there is none, the layer is lost.
            let _ = layer.index();
        }
        Ok(())
    }

    /// Blobs that records name, and trees. After the blobs were looked at, so that what is compared with them is sound.
    pub(super) fn trees(&mut self) -> Result<(), StoreError> {
        let store = self.store;
        let layers = &store.0.layers;
        for facts in self.facts.clone() {
            let name = facts.id.to_string();
            let Ok(directory) = layers.child(&name) else {
                continue;
            };
            let layer = store.layer(&facts.id)?;
            for digest in made_here(&facts) {
                if store.has_blob(&digest) {
                    continue;
                }
                if self.options.repair {
                    layer.forget_blob(&digest)?;
                }
                self.note(
                    DamageKind::Missing,
                    &store.0.blobs,
                    &digest.hex(),
                    format!("is missing, a form of layer {name}"),
                    self.options.repair,
                );
            }
            for damage in layer.check_trees(self.options.read_data, &self.spoilt)? {
                self.report.bytes_read += damage.bytes_read;
                if let Some((path, reason)) = damage.found {
                    if self.options.repair {
                        layer.discard_tree(&damage.tree)?;
                    }
                    let tree = damage
                        .tree
                        .file_name()
                        .map(|name| name.to_string_lossy().into_owned());
                    let place = format!("{}{path}", tree.unwrap_or_default());
                    self.note(DamageKind::Tree, &directory, &place, reason, self.options.repair);
                }
            }
            let trees = ["fs", "fs.single"].map(|tree| directory.path_of(tree));
            let stray = fs::read_dir(directory.path())
                .map_err(|error| StoreError::io("listing", directory.path(), error))?
                .flatten()
                .map(|entry| entry.path())
                .find(|path| !trees.contains(path) && !KNOWN.iter().any(|known| path.ends_with(known)));
            if let Some(stray) = stray {
                let stray = stray.file_name().map(|name| name.to_string_lossy().into_owned());
                let stray = stray.unwrap_or_default();
                self.damaged(DamageKind::Malformed, &directory, &stray, "is no part of a layer")?;
            }
        }
        Ok(())
    }
}

/// The blobs of a layer that were made here, and so are here unless they were lost.
fn made_here(facts: &LayerRecord) -> Vec<Digest> {
    let tar = facts.tar.iter().map(|tar| tar.digest);
    let compressed = facts.compressed.iter().filter(|form| form.encoder.is_some());
    tar.chain(compressed.map(|form| form.digest)).collect()
}

const RECORD: &str = "record.json";
const INDEX: &str = "index";
/// What else is in the directory of a layer.
const KNOWN: [&str; 4] = [RECORD, INDEX, "boot", "boot.single"];
