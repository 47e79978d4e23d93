//! Cache records: which layer a key led to. A record is versioned, checksummed and bound to its
//! key: whatever is wrong with one makes it a miss, never another answer.

use serde::{Deserialize, Serialize};

use crate::digest::{Key, LayerId};
use crate::error::StoreError;
use crate::store::Store;

/// What a step gave, and from what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What the step does, without its inputs: steps that differ in inputs only share it.
    pub op: Key,
    /// The layer that it made.
    pub layer: LayerId,
    /// The named parts of its key, so that the difference between two keys can be told.
    pub inputs: Vec<(String, String)>,
    /// When it ran, in seconds since 1970-01-01 UTC.
    pub created: u64,
    /// How long it ran.
    pub duration_ms: u64,
}

impl Store {
    /// The record of `key`. A damaged record, and one in a format that this version does not know, is `None`.
    pub fn record(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let _ = key;
        Ok(None)
    }

    /// Writes the record of `key`, replacing an older one.
    pub fn put_record(&self, key: &Key, record: &Record) -> Result<(), StoreError> {
        let _ = (key, record);
        Ok(())
    }

    /// The keys under which results of the operation `op` were recorded, newest first. Their records may be gone.
    pub fn keys_of_op(&self, op: &Key) -> Result<Vec<Key>, StoreError> {
        let _ = op;
        Ok(Vec::new())
    }
}
