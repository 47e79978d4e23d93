//! A layer without times later than a given one, for images that do not depend on when they were built
//! (SOURCE_DATE_EPOCH with `rewrite-timestamp`).
//!
//! What is built from entries is clamped as it is written ([`super::LayerBuilder::clamp`]). What a process wrote is a
//! tree, which stays as it is for the steps on top of it; its clamped layer is written straight out of it as a layer
//! of its own, and the tree never gets another tar for that. The record of the one remembers the other.

use std::io::Read;

use serde::{Deserialize, Serialize};

use super::entry::{Entry, Kind, Timestamp};
use super::forms::Layer;
use crate::digest::LayerId;
use crate::error::StoreError;
use crate::tree::{Tree, TreeError};
use crate::view::View;

/// How many clamped layers a record remembers: epochs follow the commits of a repository, and each is used for a while.
const REMEMBERED: usize = 8;

/// That another layer is this one with times up to `latest`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClampedLayer {
    /// Seconds since 1970-01-01 UTC.
    pub latest: i64,
    /// The other layer.
    pub layer: LayerId,
}

impl Layer {
    /// The layer that has this one's entries with no time later than `latest` (seconds since 1970): this one itself
    /// when it has none. The bytes of files are read once.
    pub fn clamped(&self, latest: i64) -> Result<LayerId, StoreError> {
        if let Some(known) = self.known_clamped(latest)? {
            return Ok(known);
        }
        let index = self.index()?;
        let limit = Timestamp {
            seconds: latest,
            nanoseconds: 0,
        };
        let made = if index.entries().iter().all(|e| e.entry.mtime <= limit) {
            self.id().clone()
        } else {
            let files = View::new(vec![self.clone()]);
            let mut builder = self.store().layer_builder()?;
            builder.clamp(latest);
            for found in index.entries() {
                let entry = &found.entry;
                let mut data = match entry.kind {
                    Kind::File { .. } => Some(files.open(&entry.path).map_err(|e| self.unreadable(e))?),
                    _ => None,
                };
                builder.append(entry, data.as_mut().map(|data| data as &mut dyn Read))?;
            }
            builder.commit()?
        };
        let _lock = self.lock()?;
        self.change_record(|record| {
            record.clamped.retain(|known| known.latest != latest);
            let surplus = (record.clamped.len() + 1).saturating_sub(REMEMBERED);
            record.clamped.drain(..surplus);
            record.clamped.push(ClampedLayer {
                latest,
                layer: made.clone(),
            });
        })?;
        Ok(made)
    }

    /// The result of an earlier [`Layer::clamped`], if the store still has it.
    pub fn known_clamped(&self, latest: i64) -> Result<Option<LayerId>, StoreError> {
        let known = self
            .record()?
            .clamped
            .into_iter()
            .find(|known| known.latest == latest);
        Ok(known
            .map(|known| known.layer)
            .filter(|layer| self.store().layer_exists(layer)))
    }

    fn unreadable(&self, error: TreeError) -> StoreError {
        match error {
            TreeError::Io { cause, .. } => self.failed("reading", cause),
            other => self.failed("reading", std::io::Error::other(other)),
        }
    }
}

/// `entry` with a time no later than `limit`; `None` when it has one.
pub(super) fn clamped_entry(entry: &Entry, limit: Option<Timestamp>) -> Option<Entry> {
    let limit = limit.filter(|limit| entry.mtime > *limit)?;
    Some(Entry {
        mtime: limit,
        ..entry.clone()
    })
}
