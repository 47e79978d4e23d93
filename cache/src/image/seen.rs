//! What was found in a long `index.json`, so that it is looked through once as long as it stays as it is.
//!
//! **Invariant**: as with the files of a context ([`crate::FileMemory`]), what is kept is of a file that had settled, so that equal
//! `stat` means equal bytes. Entries are kept as they stand there and are judged by their own checksums when they are used. A file
//! that is damaged or missing is as if nothing had been looked for yet.

use std::collections::BTreeMap;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::{Key, KeyBuilder};
use crate::error::StoreError;
use crate::file_memory::{FileStat, now};
use crate::store::Store;

pub(crate) const SEEN: &str = "index.seen";
/// Bytes of a list that is looked through as soon as what is kept of it.
const SHORT: u64 = 64 << 10;
/// So many texts are kept, more than a build looks for.
const TEXTS: usize = 32;
/// In so many bytes.
const LIMIT: usize = 256 << 10;

/// The entries in which a text is a value, by text.
type Found = BTreeMap<String, Vec<Value>>;

/// One look into `index.json` as it is now.
pub(super) struct Look<'a> {
    store: &'a Store,
    /// Stands for the file as it is.
    version: String,
    found: Found,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    version: String,
    found: Found,
}

impl<'a> Look<'a> {
    /// `None` where nothing is to be kept: the file is short, or has changed a moment ago.
    pub fn begin(store: &'a Store, file: &std::fs::File) -> io::Result<Option<Self>> {
        let now = now();
        let stat = FileStat::of(file)?;
        if stat.size < SHORT || !stat.has_settled(now) {
            return Ok(None);
        }
        let version = version_of(&stat).hex();
        let kept = store.seen().ok().flatten().filter(|kept| kept.version == version);
        Ok(Some(Self {
            store,
            version,
            found: kept.map(|kept| kept.found).unwrap_or_default(),
        }))
    }

    /// What an earlier look for `text` has found.
    pub fn take(&mut self, text: &str) -> Option<Vec<Value>> {
        self.found.remove(text)
    }

    /// Keeps what was found. Where that cannot be written the list is looked through again.
    pub fn keep(mut self, text: &str, entries: Vec<Value>) {
        if self.found.len() == TEXTS {
            self.found.clear();
        }
        self.found.insert(text.to_owned(), entries);
        let (version, found) = (self.version, self.found);
        if let Ok(text) = serde_json::to_string(&Kept { version, found })
            && text.len() < LIMIT
        {
            let text = format!("{}\n{text}", checksum(&text));
            let _ = self
                .store
                .replace_file(&self.store.0.root, SEEN, text.as_bytes(), false);
        }
    }
}

impl Store {
    fn seen(&self) -> Result<Option<Kept>, StoreError> {
        let root = &self.0.root;
        let Some(file) = root.open_file(SEEN)? else {
            return Ok(None);
        };
        let mut text = String::new();
        let read = file.take(2 * LIMIT as u64).read_to_string(&mut text);
        read.map_err(|error| StoreError::io("reading", root.path_of(SEEN), error))?;
        let sound = text.split_once('\n').filter(|(sum, text)| *sum == checksum(text));
        Ok(sound.and_then(|(_, text)| serde_json::from_str(text).ok()))
    }

    /// Whether what is kept is sound, or there is nothing.
    pub(crate) fn is_seen_whole(&self) -> Result<bool, StoreError> {
        let exists = self.0.root.stat(SEEN)?.is_some();
        Ok(!exists || self.seen().is_ok_and(|kept| kept.is_some()))
    }
}

fn checksum(text: &str) -> String {
    KeyBuilder::new("index-seen/1")
        .field("text", text.as_bytes())
        .finish()
        .hex()
}

fn version_of(stat: &FileStat) -> Key {
    let mut key = KeyBuilder::new("index-version/1");
    for (name, value) in [("device", stat.dev), ("inode", stat.ino), ("size", stat.size)] {
        key.field(name, &value.to_le_bytes());
    }
    for (name, time) in [("mtime", stat.mtime), ("ctime", stat.ctime)] {
        key.field(name, &time.seconds.to_le_bytes());
        key.field(name, &time.nanoseconds.to_le_bytes());
    }
    key.finish()
}
