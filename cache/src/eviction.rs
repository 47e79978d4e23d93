//! The journal of what was removed from the cache: which records went, when, and by which rule. It answers one question,
//! why a step that was built before is built again, so it is bounded, and losing a part of it loses no more than an answer.
//!
//! `evictions` has one JSON document per line, the newest last.

use std::io::{Read, Write};
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::digest::Key;
use crate::error::StoreError;
use crate::store::Store;

/// The name of the journal in the store.
pub(crate) const JOURNAL: &str = "evictions";
/// The oldest half goes when the journal is larger.
const MOST_BYTES: usize = 256 << 10;
/// Keys in one line.
const LINE_KEYS: usize = 1000;
/// Digits of a key: enough to tell those of one store apart.
const DIGITS: usize = 16;

/// That a record was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// When, by the clock of the machine.
    pub at: SystemTime,
    /// What removed it: `prune --all`, for example.
    pub rule: String,
}

#[derive(Serialize, Deserialize)]
struct Line {
    /// Milliseconds since 1970-01-01 UTC: builds and prunes follow each other within a second.
    at: u64,
    rule: String,
    keys: Vec<String>,
}

impl Store {
    /// Notes that the records of `keys` are removed by `rule`.
    pub fn note_evictions(&self, rule: &str, keys: &[Key]) -> Result<(), StoreError> {
        if keys.is_empty() {
            return Ok(());
        }
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let at = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let mut text = String::new();
        for keys in keys.chunks(LINE_KEYS) {
            let line = Line {
                at,
                rule: rule.to_owned(),
                keys: keys.iter().map(short).collect(),
            };
            let line = serde_json::to_string(&line)
                .map_err(|error| StoreError::io("encoding a line of", JOURNAL, error))?;
            text.push_str(&line);
            text.push('\n');
        }
        let root = &self.0.root;
        let size = root
            .file(JOURNAL, OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.metadata()
            })
            .map_err(|error| StoreError::io("writing", root.path_of(JOURNAL), error))?
            .len();
        if size > MOST_BYTES as u64 {
            let bytes = self.evictions()?;
            let middle = bytes.len().saturating_sub(MOST_BYTES / 2);
            let start = bytes[middle..].iter().position(|byte| *byte == b'\n');
            let newest = start.map_or(&[][..], |start| &bytes[middle + start + 1..]);
            self.replace_file(root, JOURNAL, newest, false)?;
        }
        Ok(())
    }

    /// The last removal of the record of `key` that is remembered.
    pub fn eviction(&self, key: &Key) -> Result<Option<Eviction>, StoreError> {
        let bytes = self.evictions()?;
        let wanted = short(key);
        let lines = bytes.rsplit(|byte| *byte == b'\n');
        // What is no line of ours is what a full disk left.
        let mut known = lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok());
        let found = known.find(|line| line.keys.contains(&wanted));
        Ok(found.map(|line| Eviction {
            at: SystemTime::UNIX_EPOCH
                .checked_add(Duration::from_millis(line.at))
                .unwrap_or(SystemTime::UNIX_EPOCH),
            rule: line.rule,
        }))
    }

    /// What is wrong with the journal, as far as its lines tell.
    pub(crate) fn damage_of_journal(&self) -> Result<Option<&'static str>, StoreError> {
        let bytes = self.evictions()?;
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let sound = |line: &[u8]| {
            let line = serde_json::from_slice::<Line>(line);
            line.is_ok_and(|line| line.keys.iter().all(|key| key.len() == DIGITS))
        };
        Ok((!lines.into_iter().all(sound)).then_some("has a line that is none"))
    }

    fn evictions(&self) -> Result<Vec<u8>, StoreError> {
        let root = &self.0.root;
        let mut bytes = Vec::new();
        if let Some(mut file) = root.open_file(JOURNAL)? {
            file.read_to_end(&mut bytes)
                .map_err(|error| StoreError::io("reading", root.path_of(JOURNAL), error))?;
        }
        Ok(bytes)
    }
}

fn short(key: &Key) -> String {
    key.hex()[..DIGITS].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> Key {
        Key(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    #[test]
    fn the_last_rule_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        assert_eq!(store.eviction(&key(1)).unwrap(), None);
        store.note_evictions("prune", &[]).unwrap();
        assert!(!store.root().join(JOURNAL).exists());
        store.note_evictions("prune", &[key(1), key(2)]).unwrap();
        store.note_evictions("prune --all", &[key(2)]).unwrap();
        assert_eq!(store.eviction(&key(1)).unwrap().unwrap().rule, "prune");
        let last = store.eviction(&key(2)).unwrap().unwrap();
        assert_eq!(last.rule, "prune --all");
        assert!(last.at > SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        assert_eq!(store.eviction(&key(3)).unwrap(), None);

        // Half a line costs no other line.
        let path = store.root().join(JOURNAL);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"{\"at\":1,\"ru\n");
        std::fs::write(&path, bytes).unwrap();
        store.note_evictions("a limit", &[key(3)]).unwrap();
        assert_eq!(store.eviction(&key(3)).unwrap().unwrap().rule, "a limit");
        assert_eq!(store.eviction(&key(1)).unwrap().unwrap().rule, "prune");
    }

    #[test]
    fn the_journal_stays_small() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let keys: Vec<Key> = (0..40_000).map(key).collect();
        for part in keys.chunks(5000) {
            store.note_evictions("prune", part).unwrap();
        }
        let size = std::fs::metadata(store.root().join(JOURNAL)).unwrap().len();
        assert!(size <= MOST_BYTES as u64, "{size}");
        assert!(store.eviction(keys.last().unwrap()).unwrap().is_some());
        assert_eq!(store.eviction(&keys[0]).unwrap(), None);
    }
}
