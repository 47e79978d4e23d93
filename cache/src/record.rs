//! Cache records: which layer a key led to. A record is versioned, checksummed and bound to its
//! key: whatever is wrong with one makes it a miss, never another answer.
//!
//! `keys/v1/<key>` holds one line `rbuild-record 1 <blake3 of the rest, keyed by the key>` and JSON. `ops/v1/<op>` holds one line per key. The
//! version is in the directory name: another version neither reads these records nor destroys them.

use std::io::{Read, Write};

use rustix::fs::OFlags;
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
    /// What kind of thing was made.
    #[serde(default)]
    pub made: Made,
    /// The step in words, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// What a record leads to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Made {
    /// What a step made.
    #[default]
    Step,
    /// The file of a web server.
    Http,
    /// The files of a Git repository.
    Git,
    /// A build context that is no directory of this machine.
    Context,
}

const MAGIC: &str = "rbuild-record 1 ";

impl Store {
    /// The record of `key`. A damaged record, and one in a format that this version does not know, is `None`.
    pub fn record(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        match self.pin(&self.0.keys, &key.hex())? {
            Some(_) => self.read_record(key),
            None => Ok(None),
        }
    }

    /// The record of `key`; reading it so is no use.
    pub(crate) fn read_record(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let keys = &self.0.keys;
        let name = key.hex();
        let Some(mut file) = keys.open_file(&name)? else {
            return Ok(None);
        };
        let mut text = String::new();
        match file.read_to_string(&mut text) {
            Ok(_) => Ok(decode(key, &text)),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Ok(None),
            Err(error) => Err(StoreError::io("reading", keys.path_of(&name), error)),
        }
    }

    /// Whether there is a record of `key` that cannot be read: a damaged one, or one of another version.
    pub fn has_unreadable_record(&self, key: &Key) -> Result<bool, StoreError> {
        Ok(self.0.keys.stat(&key.hex())?.is_some() && self.read_record(key)?.is_none())
    }

    /// Writes the record of `key`, replacing an older one.
    pub fn put_record(&self, key: &Key, record: &Record) -> Result<(), StoreError> {
        let name = key.hex();
        // Before the record: a key without a record is a miss, a record that its operation does not know would be lost.
        // A prune that comes between would take the line away again.
        let _inside = self.0.gate.enter()?;
        let bytes = encode(key, record)?.into_bytes();
        if self.0.keys.stat(&name)?.is_none() {
            let (ops, op) = (&self.0.ops, record.op.hex());
            ops.file(&op, OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND)
                .and_then(|mut file| file.write_all(format!("{name}\n").as_bytes()))
                .map_err(|error| StoreError::io("writing", ops.path_of(&op), error))?;
            return self.replace_file(&self.0.keys, &name, &bytes, false);
        }
        self.exchange_file(&self.0.keys, &name, &bytes)
    }

    /// The keys under which results of the operation `op` were recorded, newest first. Their records may be gone.
    pub fn keys_of_op(&self, op: &Key) -> Result<Vec<Key>, StoreError> {
        let (ops, name) = (&self.0.ops, op.hex());
        let Some(mut file) = ops.open_file(&name)? else {
            return Ok(Vec::new());
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|error| StoreError::io("reading", ops.path_of(&name), error))?;
        let mut seen = std::collections::HashSet::new();
        let mut keys: Vec<Key> = bytes.split(|b| *b == b'\n').rev().filter_map(line_key).collect();
        keys.retain(|key| seen.insert(*key));
        Ok(keys)
    }
}

/// The key at the end of `line`: before it may stand what a full disk left of another.
fn line_key(line: &[u8]) -> Option<Key> {
    let digits = line.get(line.len().checked_sub(64)?..)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn encode(key: &Key, record: &Record) -> Result<String, StoreError> {
    let body = serde_json::to_string(record)
        .map_err(|error| StoreError::io("encoding a record of", key.hex(), error))?;
    Ok(format!("{MAGIC}{}\n{body}", checksum(key, &body)))
}

fn decode(key: &Key, text: &str) -> Option<Record> {
    let (found, body) = text.strip_prefix(MAGIC)?.split_once('\n')?;
    if found != checksum(key, body) {
        return None;
    }
    serde_json::from_str(body).ok()
}

fn checksum(key: &Key, body: &str) -> String {
    blake3::keyed_hash(&key.0, body.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(n: u8) -> Record {
        Record {
            op: Key([1; 32]),
            layer: LayerId::from_random([n; 16]),
            inputs: vec![("env".to_owned(), "A=ü\n".to_owned())],
            created: 1_700_000_000,
            duration_ms: 12,
            made: Made::Step,
            description: "RUN make".to_owned(),
        }
    }

    #[test]
    fn records_are_kept_and_listed_newest_first() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let keys: Vec<Key> = (0..5).map(|n| Key([n; 32])).collect();
        assert_eq!(store.record(&keys[0]).unwrap(), None);
        for (key, n) in keys.iter().zip(0..) {
            store.put_record(key, &sample(n)).unwrap();
            store.put_record(key, &sample(n + 100)).unwrap();
            assert_eq!(store.record(key).unwrap(), Some(sample(n + 100)));
        }
        let newest_first: Vec<Key> = keys.iter().rev().copied().collect();
        assert_eq!(store.keys_of_op(&Key([1; 32])).unwrap(), newest_first);
        assert_eq!(store.keys_of_op(&Key([2; 32])).unwrap(), []);

        // What a full disk leaves of a line costs nobody else's line.
        let path = store.0.ops.path_of(&Key([1; 32]).hex());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"0123");
        std::fs::write(&path, bytes).unwrap();
        store.put_record(&Key([9; 32]), &sample(9)).unwrap();
        assert_eq!(store.keys_of_op(&Key([1; 32])).unwrap()[0], Key([9; 32]));
    }

    #[test]
    fn no_flipped_bit_gives_another_record() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let key = Key([3; 32]);
        store.put_record(&key, &sample(3)).unwrap();
        let path = store.0.keys.path_of(&key.hex());
        let good = std::fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bad).unwrap();
            assert_eq!(store.record(&key).unwrap(), None, "bit {bit}");
            assert!(store.has_unreadable_record(&key).unwrap());
        }
        for length in [0, 1, 20, good.len() / 2, good.len() - 1] {
            std::fs::write(&path, &good[..length]).unwrap();
            assert_eq!(store.record(&key).unwrap(), None, "{length} bytes");
        }
        std::fs::write(&path, &good).unwrap();
        assert!(!store.has_unreadable_record(&key).unwrap());
        assert!(!store.has_unreadable_record(&Key([4; 32])).unwrap());
        // A record under another name is no record.
        std::fs::write(store.0.keys.path_of(&Key([4; 32]).hex()), &good).unwrap();
        assert_eq!(store.record(&Key([4; 32])).unwrap(), None);
        // A newer format is left alone.
        std::fs::write(&path, b"rbuild-record 2 whatever\n").unwrap();
        assert_eq!(store.record(&key).unwrap(), None);
    }
}
