//! Tags: which names lead to which manifest, kept in `index.json` of the OCI layout so that
//! other tools read the same names.
//!
//! A name stands in two annotations of an entry: the canonical reference in `io.containerd.image.name` and its tag in
//! `org.opencontainers.image.ref.name`. Entries and fields that other tools wrote are kept as they are. An entry of ours
//! carries a checksum: when that is wrong the name counts as lost, and no name ever leads to another image than the one
//! it was given to. A checksum of the whole file (`seal`) lets a check find what changed beside names. A file that is no index at all is an error and not guessed at; `index.json.bak` has
//! the state before the last change.

mod entry;
mod lines;
mod relabel;
mod seal;
mod seen;

use std::fs::File;
use std::io::Read;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::entry::{decode, full_name, is_renamed, is_sound};
use self::lines::find_lines;
use self::relabel::{Changed, Entry, assign_all, change_all};
use self::seen::Look;
pub(crate) use self::seen::SEEN;
use crate::digest::Digest;
use crate::error::StoreError;
use crate::store::Store;

/// A typed pointer to a blob (OCI image-spec, "OCI Content Descriptors").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the blob.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// One entry of `index.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// Canonical reference (`docker.io/library/x:tag`); `None` for an image that lost its last name.
    pub name: Option<String>,
    /// Its manifest or index.
    pub descriptor: Descriptor,
    /// When the entry was written, RFC 3339.
    pub created: Option<String>,
    /// `os/architecture[/variant]`, where the entry says so.
    pub platform: Option<String>,
}

pub(crate) const INDEX: &str = "index.json";
pub(crate) const INDEX_BACKUP: &str = "index.json.bak";
const INDEX_LOCK: &str = "index.lock";
/// More than any list of tags; a larger file is not read into memory.
const INDEX_LIMIT: u64 = 64 << 20;

impl Store {
    /// All images, in the order in which they were tagged. Entries that other tools wrote and that this
    /// program cannot name by sha256 are left out.
    pub fn images(&self) -> Result<Vec<StoredImage>, StoreError> {
        Ok(self.read_index()?.entries.iter().filter_map(decode).collect())
    }

    /// The manifest or index that the canonical reference `name` leads to.
    pub fn image(&self, name: &str) -> Result<Option<Descriptor>, StoreError> {
        let images = match self.entries_with(name)? {
            Some(entries) => entries.iter().filter_map(decode).collect(),
            None => self.images()?,
        };
        let mut images = images.into_iter().rev();
        let found = images.find(|image| image.name.as_deref() == Some(name));
        Ok(found.map(|image| image.descriptor))
    }

    /// The entries that lead to `digest`, as [`Store::images`] gives them.
    pub fn images_of(&self, digest: &Digest) -> Result<Vec<StoredImage>, StoreError> {
        let mut images = match self.entries_with(&digest.to_string())? {
            Some(entries) => entries.iter().filter_map(decode).collect(),
            None => self.images()?,
        };
        images.retain(|image| image.descriptor.digest == *digest);
        Ok(images)
    }

    /// Lets `name` lead to `descriptor`. An image that loses its last name by this stays, nameless. When it
    /// does so already, nothing is written.
    pub fn tag(&self, name: &str, descriptor: &Descriptor) -> Result<(), StoreError> {
        self.tag_all(&[name], descriptor)
    }

    /// [`Store::tag`] for several names at once: no reader sees some of them only. Without a name the image is
    /// kept nameless, unless it has a name already.
    pub fn tag_all(&self, names: &[&str], descriptor: &Descriptor) -> Result<(), StoreError> {
        if self.is_tagged(names, descriptor)? {
            return Ok(());
        }
        let digest = descriptor.digest.to_string();
        let texts: Vec<&str> = names.iter().copied().chain([digest.as_str()]).collect();
        self.change_related(&texts, |entries| assign_all(entries, names, descriptor))
    }

    /// Takes `name` away, and with its last name the image. Whether there was such a name.
    pub fn untag(&self, name: &str) -> Result<bool, StoreError> {
        let mut found = false;
        self.change_related(&[name], |entries| {
            let before = entries.len();
            let is_it = |image: StoredImage| image.name.as_deref() == Some(name);
            entries.retain(|entry| !entry.image().is_some_and(is_it));
            found = entries.len() < before;
            found
        })?;
        Ok(found)
    }

    /// Removes the image and all its names, which are returned. Blobs and layers stay until [`Store::prune`].
    pub fn remove_image(&self, digest: &Digest) -> Result<Vec<String>, StoreError> {
        let mut names = Vec::new();
        self.change_related(&[&digest.to_string()], |entries| {
            let before = entries.len();
            names.clear();
            entries.retain(|entry| match entry.image() {
                Some(image) if image.descriptor.digest == *digest => {
                    names.extend(image.name);
                    false
                }
                _ => true,
            });
            entries.len() < before
        })?;
        Ok(names)
    }

    /// Removes the nameless entries with one of these digests.
    pub(crate) fn remove_nameless(&self, digests: &[Digest]) -> Result<(), StoreError> {
        self.change_index(|entries| {
            let before = entries.len();
            entries.retain(|entry| {
                decode(entry).is_none_or(|i| i.name.is_some() || !digests.contains(&i.descriptor.digest))
            });
            entries.len() < before
        })
    }

    /// Whether [`Store::tag_all`] would change nothing, as far as that can be told without reading all entries.
    fn is_tagged(&self, names: &[&str], descriptor: &Descriptor) -> Result<bool, StoreError> {
        for name in names {
            let Some(entries) = self.entries_with(name)? else {
                return Ok(false);
            };
            let mut images = entries.iter().filter_map(decode);
            let mut holders = images
                .by_ref()
                .filter(|image| image.name.as_deref() == Some(*name));
            let (first, second) = (holders.next(), holders.next());
            if second.is_some() || first.is_none_or(|image| image.descriptor != *descriptor) {
                return Ok(false);
            }
        }
        if !names.is_empty() {
            return Ok(true);
        }
        let entries = self
            .entries_with(&descriptor.digest.to_string())?
            .unwrap_or_default();
        let mut images = entries.iter().filter_map(decode);
        Ok(images.any(|image| image.descriptor.digest == descriptor.digest))
    }

    /// The entries in which `text` is a value; `None` when the file is not as this program writes it, an entry a line. A list of
    /// thousands of images is not understood as a whole to find one.
    fn entries_with(&self, text: &str) -> Result<Option<Vec<Value>>, StoreError> {
        let root = &self.0.root;
        let Some(file) = root.open_file(INDEX)? else {
            return Ok(None);
        };
        let Ok(needle) = serde_json::to_string(text) else {
            return Ok(None);
        };
        let reading = |error| StoreError::io("reading", root.path_of(INDEX), error);
        let mut look = Look::begin(self, &file).map_err(reading)?;
        if let Some(known) = look.as_mut().and_then(|look| look.take(text)) {
            return Ok(Some(known));
        }
        let found = find_lines(&mut file.take(INDEX_LIMIT), needle.as_bytes()).map_err(reading)?;
        if let (Some(look), Some(entries)) = (look, &found) {
            look.keep(text, entries.clone());
        }
        Ok(found)
    }

    /// What is wrong with entries of ours, one by one.
    pub(crate) fn damaged_tags(&self) -> Result<Vec<String>, StoreError> {
        let index = self.read_index()?;
        let entries = &index.entries;
        let mut damaged = Vec::new();
        for (number, entry) in (1..).zip(entries) {
            if !is_sound(entry) {
                damaged.push(format!(
                    "the checksum of entry {number} is wrong: its name is lost"
                ));
            } else if is_renamed(entry)
                && !entries
                    .iter()
                    .any(|it| full_name(it) == full_name(entry) && !is_renamed(it))
            {
                damaged.push(format!("entry {number} has a tag that nobody gave to it"));
            }
        }
        if damaged.is_empty() && !index.is_whole() {
            damaged.push("its checksum is wrong: what it says beside names may be so too".to_owned());
        }
        Ok(damaged)
    }

    /// Takes away the entries whose names are lost. What is left counts as whole from then on.
    pub(crate) fn remove_damaged_tags(&self) -> Result<(), StoreError> {
        self.change_whole_index(|index| {
            let was_whole = index.is_whole();
            let entries = &mut index.entries;
            let before = entries.len();
            let original = |entry: &Value, all: &[Value]| {
                !is_renamed(entry)
                    || all
                        .iter()
                        .any(|it| full_name(it) == full_name(entry) && !is_renamed(it))
            };
            let all = entries.clone();
            entries.retain(|entry| is_sound(entry) && original(entry, &all));
            entries.len() < before || !was_whole
        })
    }

    /// Puts the state before the last change into its place, if that is whole. Whether it was.
    pub(crate) fn restore_index(&self) -> Result<bool, StoreError> {
        let root = &self.0.root;
        match self.read_index_from(INDEX_BACKUP) {
            Ok(Index {
                bytes: Some(bytes), ..
            }) => {
                self.replace_file(root, INDEX, &bytes, true)?;
                Ok(true)
            }
            Ok(_) | Err(StoreError::Index { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the state before the last change can be read, or there is none.
    pub(crate) fn is_backup_whole(&self) -> Result<bool, StoreError> {
        match self.read_index_from(INDEX_BACKUP) {
            Ok(index) => Ok(index.entries.iter().all(is_sound) && index.is_whole()),
            Err(StoreError::Index { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Changes the entries that say one of `texts`, and the others of the same images, while nobody else does: see
    /// [`relabel::change_related`]. Where those are not told from the rest, `change` gets all.
    fn change_related(
        &self,
        texts: &[&str],
        mut change: impl FnMut(&mut Vec<Entry>) -> bool,
    ) -> Result<(), StoreError> {
        let _held = self.lock_index()?;
        let bytes = self.read_index_bytes(INDEX)?;
        let changed = bytes
            .as_deref()
            .and_then(|bytes| relabel::change_related(bytes, texts, &mut change));
        match (changed, bytes) {
            (Some(Changed::Not), _) => Ok(()),
            (Some(Changed::To(text)), Some(before)) => self.replace_index(Some(&before), &text),
            (_, bytes) => {
                let index = self.parse_index(INDEX, bytes)?;
                self.change_read_index(index, |index| change_all(&mut index.entries, change))
            }
        }
    }

    /// Reads, changes and writes the index while nobody else does. `change` says whether it changed anything.
    fn change_index(&self, change: impl FnOnce(&mut Vec<Value>) -> bool) -> Result<(), StoreError> {
        self.change_whole_index(|index| change(&mut index.entries))
    }

    fn change_whole_index(&self, change: impl FnOnce(&mut Index) -> bool) -> Result<(), StoreError> {
        let _held = self.lock_index()?;
        self.change_read_index(self.read_index()?, change)
    }

    /// While this is held nobody else changes the list.
    fn lock_index(&self) -> Result<File, StoreError> {
        let root = &self.0.root;
        let locking = |error| StoreError::io("locking", root.path_of(INDEX_LOCK), error);
        let held = root
            .file(INDEX_LOCK, OFlags::RDWR | OFlags::CREATE)
            .map_err(locking)?;
        self.lock_patiently(&held, &root.path_of(INDEX_LOCK), "changes the list of images")?;
        Ok(held)
    }

    /// With [`Store::lock_index`] held since `index` was read.
    fn change_read_index(
        &self,
        mut index: Index,
        change: impl FnOnce(&mut Index) -> bool,
    ) -> Result<(), StoreError> {
        if !change(&mut index) {
            return Ok(());
        }
        let text = self.encode_index(&index.fields, &index.entries)?;
        self.replace_index(index.bytes.as_deref(), &text)
    }

    /// Writes `text` in the place of `before`, which is kept beside it.
    fn replace_index(&self, before: Option<&[u8]>, text: &str) -> Result<(), StoreError> {
        let root = &self.0.root;
        match before {
            Some(before) => self.replace_file(root, INDEX_BACKUP, before, false)?,
            // From then on a list that is lost is missed, the first one too.
            None if root.stat(INDEX_BACKUP)?.is_none() => {
                let none = self.encode_index(&seal::new_fields(), &[])?;
                self.replace_file(root, INDEX_BACKUP, none.as_bytes(), false)?;
            }
            None => {}
        }
        self.replace_file(root, INDEX, text.as_bytes(), true)
    }

    fn encode_index(&self, fields: &Map<String, Value>, entries: &[Value]) -> Result<String, StoreError> {
        seal::encode(fields, entries)
            .map_err(|error| StoreError::io("encoding", self.0.root.path_of(INDEX), error))
    }

    fn read_index(&self) -> Result<Index, StoreError> {
        self.read_index_from(INDEX)
    }

    fn read_index_from(&self, name: &str) -> Result<Index, StoreError> {
        self.parse_index(name, self.read_index_bytes(name)?)
    }

    /// `None` when there is no such file.
    fn read_index_bytes(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let root = &self.0.root;
        let Some(file) = root.open_file(name)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(INDEX_LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| StoreError::io("reading", root.path_of(name), error))?;
        Ok(Some(bytes))
    }

    fn parse_index(&self, name: &str, bytes: Option<Vec<u8>>) -> Result<Index, StoreError> {
        let Some(bytes) = bytes else {
            return Ok(Index {
                bytes: None,
                fields: seal::new_fields(),
                entries: Vec::new(),
            });
        };
        let damaged = |reason: String| StoreError::Index {
            path: self.0.root.path_of(name),
            reason,
        };
        if bytes.len() as u64 > INDEX_LIMIT {
            return Err(damaged(format!("it has more than {INDEX_LIMIT} bytes")));
        }
        let mut fields: Map<String, Value> =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if fields.get("schemaVersion") != Some(&json!(2)) {
            return Err(damaged("its schemaVersion is not 2".to_owned()));
        }
        let entries = match fields.get_mut("manifests").map(Value::take) {
            Some(Value::Array(entries)) => entries,
            // What Go programs write for an empty list.
            Some(Value::Null) => Vec::new(),
            _ => return Err(damaged("it has no list of manifests".to_owned())),
        };
        Ok(Index {
            bytes: Some(bytes),
            fields,
            entries,
        })
    }
}

struct Index {
    /// The file as it is; `None` when there is none.
    bytes: Option<Vec<u8>>,
    /// All fields; the value of `manifests` is taken out.
    fields: Map<String, Value>,
    entries: Vec<Value>,
}

impl Index {
    fn is_whole(&self) -> bool {
        self.bytes.as_deref().is_none_or(seal::is_whole)
    }
}

#[cfg(test)]
mod tests;
