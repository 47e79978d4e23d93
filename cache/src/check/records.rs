//! Cache records, the lists of keys of operations, digests of local files, and what builds left to say.

use std::collections::{HashMap, HashSet};
use std::io::Read;

use super::{Check, DamageKind};
use crate::digest::{Key, LayerId};
use crate::error::StoreError;

impl Check<'_> {
    /// Records are sound and lead to layers; operations know the keys that have records, and no others.
    pub(super) fn records(&mut self) -> Result<(), StoreError> {
        let store = self.store;
        let inner = &store.0;
        let layers: HashSet<LayerId> = inner
            .layers
            .text_names()?
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        let mut of_operations: HashMap<Key, Vec<Key>> = HashMap::new();
        for name in inner.keys.text_names()? {
            let Ok(key) = name.parse::<Key>() else {
                self.damaged(
                    DamageKind::Malformed,
                    &inner.keys,
                    &name,
                    "is no name of a record",
                )?;
                continue;
            };
            self.report.records += 1;
            match store.read_record(&key)? {
                Some(record) if layers.contains(&record.layer) => {
                    of_operations.entry(record.op).or_default().push(key);
                }
                Some(record) => {
                    let reason = format!("leads to layer {}, which does not exist", record.layer);
                    self.damaged(DamageKind::Dangling, &inner.keys, &name, reason)?;
                }
                // One that went meanwhile is none.
                None if inner.keys.stat(&name)?.is_none() => {}
                None => self.damaged(DamageKind::Content, &inner.keys, &name, "its checksum is wrong")?,
            }
        }
        for name in inner.ops.text_names()? {
            let Ok(op) = name.parse::<Key>() else {
                self.damaged(
                    DamageKind::Malformed,
                    &inner.ops,
                    &name,
                    "is no name of an operation",
                )?;
                continue;
            };
            let expected = of_operations.remove(&op).unwrap_or_default();
            self.operation(&op, &expected)?;
        }
        for (op, keys) in of_operations {
            self.operation(&op, &keys)?;
        }
        Ok(())
    }

    /// `keys` have records of the operation `op`.
    fn operation(&mut self, op: &Key, keys: &[Key]) -> Result<(), StoreError> {
        let store = self.store;
        let ops = &store.0.ops;
        let name = op.hex();
        let mut text = String::new();
        if let Some(mut file) = ops.open_file(&name)? {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)
                .map_err(|error| StoreError::io("reading", ops.path_of(&name), error))?;
            text = String::from_utf8_lossy(&bytes).into_owned();
        }
        let lines: Vec<Option<Key>> = text.lines().map(|line| line.parse().ok()).collect();
        let known: HashSet<Key> = lines.iter().flatten().copied().collect();
        let whole = text.is_empty() || text.ends_with('\n');
        let reason = if lines.contains(&None) || !whole {
            (DamageKind::Malformed, "has a line that is no key")
        } else if let Some(key) = keys.iter().find(|key| !known.contains(*key)) {
            // A build may just have written it.
            if store.read_record(key)?.is_none() {
                return Ok(());
            }
            (DamageKind::Missing, "lacks a key that has a record")
        } else if known.len() > keys.len() {
            (DamageKind::Dangling, "has a key without a record")
        } else {
            return Ok(());
        };
        if self.options.repair {
            let mut kept: Vec<Key> = lines
                .iter()
                .flatten()
                .filter(|key| keys.contains(key))
                .copied()
                .collect();
            kept.extend(keys.iter().filter(|key| !known.contains(*key)));
            let text: String = kept.iter().map(|key| format!("{key}\n")).collect();
            if kept.is_empty() {
                ops.unlink(&name)?;
            } else {
                store.replace_file(ops, &name, text.as_bytes(), false)?;
            }
        }
        self.note(reason.0, ops, &name, reason.1, self.options.repair);
        Ok(())
    }

    /// Remembered digests of local files, and what `why` goes by.
    pub(super) fn lists(&mut self) -> Result<(), StoreError> {
        let store = self.store;
        let files = &store.0.files;
        for name in files.text_names()? {
            if !store.is_file_memory_whole(&name)? {
                self.damaged(DamageKind::Content, files, &name, "its checksum is wrong")?;
            }
        }
        for (directory, name, reason) in store.damaged_history()? {
            self.damaged(DamageKind::Content, &directory, &name, reason)?;
        }
        if let Some(reason) = store.damage_of_journal()? {
            self.damaged(
                DamageKind::Malformed,
                &store.0.root,
                crate::eviction::JOURNAL,
                reason,
            )?;
        }
        Ok(())
    }
}
