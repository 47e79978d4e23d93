//! Tags: which names lead to which manifest, kept in `index.json` of the OCI layout so that
//! other tools read the same names.
//!
//! A name stands in two annotations of an entry: the canonical reference in `io.containerd.image.name` and its tag in
//! `org.opencontainers.image.ref.name`. Entries and fields that other tools wrote are kept as they are. An entry of ours
//! carries a checksum: when that is wrong the name counts as lost, and no name ever leads to another image than the one
//! it was given to. A file that is no index at all is an error and not guessed at; `index.json.bak` has
//! the state before the last change.

use std::io::Read;

use jiff::Timestamp;
use rustix::fs::{FlockOperation, OFlags};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::digest::{Digest, KeyBuilder};
use crate::error::StoreError;
use crate::lock::lock;
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

const FULL_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CREATED: &str = "org.opencontainers.image.created";
const CHECKSUM: &str = "rbuild.checksum";

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
        self.change_index(|entries| {
            let known =
                |entry: &Value| decode(entry).is_some_and(|i| i.descriptor.digest == descriptor.digest);
            if names.is_empty() && !entries.iter().any(known) {
                entries.push(entry_of(None, descriptor));
                return true;
            }
            // Every name is assigned, whatever came of those before.
            names
                .iter()
                .fold(false, |changed, name| assign(entries, name, descriptor) | changed)
        })
    }

    /// Takes `name` away, and with its last name the image. Whether there was such a name.
    pub fn untag(&self, name: &str) -> Result<bool, StoreError> {
        let mut found = false;
        self.change_index(|entries| {
            let before = entries.len();
            entries.retain(|entry| decode(entry).is_none_or(|image| image.name.as_deref() != Some(name)));
            found = entries.len() < before;
            found
        })?;
        Ok(found)
    }

    /// Removes the image and all its names, which are returned. Blobs and layers stay until [`Store::prune`].
    pub fn remove_image(&self, digest: &Digest) -> Result<Vec<String>, StoreError> {
        let mut names = Vec::new();
        self.change_index(|entries| {
            let before = entries.len();
            entries.retain(|entry| match decode(entry) {
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
        let mut bytes = Vec::new();
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        bytes.reserve_exact(usize::try_from(size.min(INDEX_LIMIT)).unwrap_or(0) + 1);
        file.take(INDEX_LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| StoreError::io("reading", root.path_of(INDEX), error))?;
        let first_line = memchr::memchr(b'\n', &bytes).map_or(&bytes[..0], |end| &bytes[..end]);
        if !first_line.starts_with(b"{\"schemaVersion\":2,")
            || !first_line.ends_with(b"\"manifests\":[")
            || !bytes.ends_with(b"}")
        {
            return Ok(None);
        }
        let Ok(needle) = serde_json::to_string(text) else {
            return Ok(None);
        };
        let mut entries = Vec::new();
        let mut from = 0;
        while let Some(found) = memchr::memmem::find(&bytes[from..], needle.as_bytes()) {
            let place = from + found;
            let start = memchr::memrchr(b'\n', &bytes[..place]).map_or(0, |end| end + 1);
            let end = memchr::memchr(b'\n', &bytes[place..]).map_or(bytes.len(), |end| place + end);
            let line = &bytes[start..end];
            let Ok(entry) = serde_json::from_slice(line.strip_suffix(b",").unwrap_or(line)) else {
                return Ok(None);
            };
            entries.push(entry);
            from = end;
        }
        Ok(Some(entries))
    }

    /// What is wrong with entries of ours, one by one.
    pub(crate) fn damaged_tags(&self) -> Result<Vec<String>, StoreError> {
        let entries = self.read_index()?.entries;
        let mut damaged = Vec::new();
        for (number, entry) in (1..).zip(&entries) {
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
        Ok(damaged)
    }

    /// Takes away the entries whose names are lost.
    pub(crate) fn remove_damaged_tags(&self) -> Result<(), StoreError> {
        self.change_index(|entries| {
            let before = entries.len();
            let original = |entry: &Value, all: &[Value]| {
                !is_renamed(entry)
                    || all
                        .iter()
                        .any(|it| full_name(it) == full_name(entry) && !is_renamed(it))
            };
            let all = entries.clone();
            entries.retain(|entry| is_sound(entry) && original(entry, &all));
            entries.len() < before
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
            Ok(index) => Ok(index.entries.iter().all(is_sound)),
            Err(StoreError::Index { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads, changes and writes the index while nobody else does. `change` says whether it changed anything.
    fn change_index(&self, change: impl FnOnce(&mut Vec<Value>) -> bool) -> Result<(), StoreError> {
        let root = &self.0.root;
        let locking = |error| StoreError::io("locking", root.path_of(INDEX_LOCK), error);
        let held = root
            .file(INDEX_LOCK, OFlags::RDWR | OFlags::CREATE)
            .map_err(locking)?;
        lock(&held, FlockOperation::LockExclusive).map_err(locking)?;

        let mut index = self.read_index()?;
        if !change(&mut index.entries) {
            return Ok(());
        }
        if let Some(before) = &index.bytes {
            self.replace_file(root, INDEX_BACKUP, before, false)?;
        }
        let Index {
            mut fields, entries, ..
        } = index;
        fields.entry("manifests").or_insert(Value::Null);
        let text = encode(&fields, &entries)
            .map_err(|error| StoreError::io("encoding", root.path_of(INDEX), error))?;
        self.replace_file(root, INDEX, text.as_bytes(), true)
    }

    fn read_index(&self) -> Result<Index, StoreError> {
        self.read_index_from(INDEX)
    }

    fn read_index_from(&self, name: &str) -> Result<Index, StoreError> {
        let root = &self.0.root;
        let path = root.path_of(name);
        let Some(file) = root.open_file(name)? else {
            let mut fields = Map::new();
            fields.insert("schemaVersion".to_owned(), json!(2));
            fields.insert(
                "mediaType".to_owned(),
                json!("application/vnd.oci.image.index.v1+json"),
            );
            return Ok(Index {
                bytes: None,
                fields,
                entries: Vec::new(),
            });
        };
        let mut bytes = Vec::new();
        file.take(INDEX_LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| StoreError::io("reading", &path, error))?;
        let damaged = |reason: String| StoreError::Index {
            path: path.clone(),
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

/// The index, an entry a line, for [`Store::entries_with`].
fn encode(fields: &Map<String, Value>, entries: &[Value]) -> serde_json::Result<String> {
    let mut text = String::from("{");
    for (number, (name, value)) in fields.iter().enumerate() {
        if number > 0 {
            text.push(',');
        }
        text.push_str(&serde_json::to_string(name)?);
        text.push(':');
        if name != "manifests" {
            text.push_str(&serde_json::to_string(value)?);
            continue;
        }
        text.push('[');
        for (number, entry) in entries.iter().enumerate() {
            text.push_str(if number > 0 { ",\n" } else { "\n" });
            text.push_str(&serde_json::to_string(entry)?);
        }
        text.push_str("\n]");
    }
    text.push('}');
    Ok(text)
}

struct Index {
    /// The file as it is; `None` when there is none.
    bytes: Option<Vec<u8>>,
    /// All fields; `manifests` keeps its place and has its value taken out.
    fields: Map<String, Value>,
    entries: Vec<Value>,
}

/// Lets `name` lead to `descriptor` in `entries`. Whether that changed anything.
fn assign(entries: &mut Vec<Value>, name: &str, descriptor: &Descriptor) -> bool {
    let images: Vec<Option<StoredImage>> = entries.iter().map(decode).collect();
    let has_name = |image: &StoredImage| image.name.as_deref() == Some(name);
    let mut holders = images.iter().flatten().filter(|image| has_name(image));
    let first = holders.next();
    if first.is_some_and(|image| image.descriptor == *descriptor) && holders.next().is_none() {
        return false;
    }
    let mut named: Vec<Digest> = vec![descriptor.digest];
    named.extend(
        images
            .iter()
            .flatten()
            .filter(|i| i.name.is_some() && !has_name(i))
            .map(|i| i.descriptor.digest),
    );
    let mut position = 0;
    entries.retain_mut(|entry| {
        let image = images.get(position).and_then(Option::as_ref);
        position += 1;
        let Some(image) = image.filter(|image| image.name.is_none() || has_name(image)) else {
            return true;
        };
        if named.contains(&image.descriptor.digest) {
            return false;
        }
        if image.name.is_some() {
            named.push(image.descriptor.digest);
            set_name(entry, None, &image.descriptor);
        }
        true
    });
    entries.push(entry_of(Some(name), descriptor));
    true
}

/// An entry of this program.
fn entry_of(name: Option<&str>, descriptor: &Descriptor) -> Value {
    let mut entry = json!({
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest.to_string(),
        "size": descriptor.size,
        "annotations": { CREATED: now() },
    });
    set_name(&mut entry, name, descriptor);
    entry
}

/// What `entry` says; `None` when this program cannot follow it.
fn decode(entry: &Value) -> Option<StoredImage> {
    let descriptor = Descriptor::deserialize(entry).ok()?;
    let annotation = |name| entry.get("annotations")?.get(name)?.as_str();
    let (full, reference) = (annotation(FULL_NAME), annotation(REF_NAME));
    let name = match (full, reference) {
        // Another tool may have copied the entry under a new tag, and the full name with it.
        (Some(full), Some(reference)) if tag_of(full) != Some(reference) => Some(reference),
        (Some(full), _) => Some(full),
        (None, reference) => reference,
    };
    let intact = annotation(CHECKSUM).is_none_or(|sum| sum == checksum(full, &descriptor));
    let platform = entry.get("platform").and_then(|platform| {
        let part = |name| {
            platform
                .get(name)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        let text = format!("{}/{}", part("os")?, part("architecture")?);
        Some(part("variant").map_or(text.clone(), |variant| format!("{text}/{variant}")))
    });
    Some(StoredImage {
        name: name.filter(|_| intact).map(str::to_owned),
        descriptor,
        created: annotation(CREATED).map(str::to_owned),
        platform,
    })
}

/// The name that we gave to an entry.
fn full_name(entry: &Value) -> Option<&str> {
    entry.get("annotations")?.get(FULL_NAME)?.as_str()
}

/// Whether the tag of an entry is not that of its name: other tools make a new tag by copying an entry.
fn is_renamed(entry: &Value) -> bool {
    let reference = entry
        .get("annotations")
        .and_then(|it| it.get(REF_NAME))
        .and_then(Value::as_str);
    full_name(entry).is_some_and(|full| reference != tag_of(full))
}

/// Whether an entry is what was written: one of ours has a checksum, those of other tools can be followed or not.
fn is_sound(entry: &Value) -> bool {
    let ours = |entry: &Value| {
        let annotations = entry.get("annotations")?.as_object()?;
        let has = |name| annotations.contains_key(name);
        Some(has(CHECKSUM) || has(FULL_NAME) && has(CREATED))
    };
    let Ok(descriptor) = Descriptor::deserialize(entry) else {
        return !ours(entry).unwrap_or(false);
    };
    let full = entry
        .get("annotations")
        .and_then(|it| it.get(FULL_NAME))
        .and_then(Value::as_str);
    let sum = entry
        .get("annotations")
        .and_then(|it| it.get(CHECKSUM))
        .and_then(Value::as_str);
    match sum {
        Some(sum) => sum == checksum(full, &descriptor),
        None => !ours(entry).unwrap_or(false),
    }
}

/// Gives `entry` the name `name`, or none.
fn set_name(entry: &mut Value, name: Option<&str>, descriptor: &Descriptor) {
    let Some(fields) = entry.as_object_mut() else {
        return;
    };
    let annotations = fields.entry("annotations").or_insert_with(|| json!({}));
    let Some(annotations) = annotations.as_object_mut() else {
        return;
    };
    annotations.shift_remove(FULL_NAME);
    annotations.shift_remove(REF_NAME);
    if let Some(name) = name {
        annotations.insert(FULL_NAME.to_owned(), json!(name));
        if let Some(tag) = tag_of(name) {
            annotations.insert(REF_NAME.to_owned(), json!(tag));
        }
    }
    annotations.insert(CHECKSUM.to_owned(), json!(checksum(name, descriptor)));
}

/// Binds a name to what it leads to.
fn checksum(name: Option<&str>, descriptor: &Descriptor) -> String {
    KeyBuilder::new("index-entry/1")
        .field("name", name.unwrap_or_default().as_bytes())
        .field("media type", descriptor.media_type.as_bytes())
        .field("digest", descriptor.digest.as_bytes())
        .field("size", &descriptor.size.to_le_bytes())
        .finish()
        .hex()
}

/// The tag of a canonical reference: what stands after its last colon, if that is no port.
fn tag_of(name: &str) -> Option<&str> {
    let (name, _) = name.split_once('@').unwrap_or((name, ""));
    let (_, tag) = name.rsplit_once(':')?;
    (!tag.contains('/')).then_some(tag)
}

/// The current time by the second, RFC 3339.
fn now() -> String {
    Timestamp::from_second(Timestamp::now().as_second())
        .unwrap_or_default()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        (directory, store)
    }

    fn descriptor(n: u8) -> Descriptor {
        Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            digest: Digest::of(&[n]),
            size: u64::from(n),
        }
    }

    fn names(store: &Store) -> Vec<(Option<String>, u64)> {
        store
            .images()
            .unwrap()
            .into_iter()
            .map(|image| (image.name, image.descriptor.size))
            .collect()
    }

    const A: &str = "docker.io/library/a:latest";
    const B: &str = "localhost:5000/b:1";

    #[test]
    fn one_name_of_thousands_is_found_without_the_others() {
        let (_directory, store) = store();
        assert_eq!(store.entries_with(A).unwrap(), None);
        let name = |n: u32| format!("localhost/image-{n}:latest");
        store
            .change_index(|entries| {
                let many = (0..5000).map(|n| entry_of(Some(&name(n)), &descriptor((n % 200) as u8)));
                entries.extend(many);
                true
            })
            .unwrap();
        for n in [0, 7, 4999] {
            assert_eq!(store.entries_with(&name(n)).unwrap().unwrap().len(), 1);
            assert_eq!(store.image(&name(n)).unwrap(), Some(descriptor((n % 200) as u8)));
            assert!(
                store
                    .is_tagged(&[&name(n)], &descriptor((n % 200) as u8))
                    .unwrap()
            );
            assert!(!store.is_tagged(&[&name(n)], &descriptor(250)).unwrap());
        }
        assert_eq!(store.image("image-7").unwrap(), None);
        assert!(store.is_tagged(&[], &descriptor(3)).unwrap());
        assert!(!store.is_tagged(&[], &descriptor(250)).unwrap());
        // As another tool writes it, every entry is read.
        let path = store.root().join(INDEX);
        let index: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        std::fs::write(&path, serde_json::to_vec_pretty(&index).unwrap()).unwrap();
        assert_eq!(store.entries_with(&name(7)).unwrap(), None);
        assert_eq!(store.image(&name(7)).unwrap(), Some(descriptor(7)));
        store.tag(&name(7), &descriptor(8)).unwrap();
        assert_eq!(store.image(&name(7)).unwrap(), Some(descriptor(8)));
        assert_eq!(store.images().unwrap().len(), 5000);
    }

    #[test]
    fn names_move_and_the_last_one_leaves_a_nameless_image() {
        let (_directory, store) = store();
        assert_eq!(names(&store), []);
        store.tag(A, &descriptor(1)).unwrap();
        store.tag(B, &descriptor(1)).unwrap();
        store.tag(A, &descriptor(2)).unwrap();
        let named = |name: &str, n| (Some(name.to_owned()), n);
        assert_eq!(names(&store), [named(B, 1), named(A, 2)], "1 still has a name");
        store.tag(B, &descriptor(2)).unwrap();
        assert_eq!(names(&store), [(None, 1), named(A, 2), named(B, 2)]);
        store.tag(A, &descriptor(1)).unwrap();
        assert_eq!(
            names(&store),
            [named(B, 2), named(A, 1)],
            "a nameless image got its name back"
        );
        assert_eq!(store.image(A).unwrap(), Some(descriptor(1)));
        assert_eq!(store.image("a").unwrap(), None);
        assert!(store.untag(B).unwrap());
        assert!(!store.untag(B).unwrap());
        store.tag(B, &descriptor(1)).unwrap();
        assert_eq!(store.remove_image(&descriptor(1).digest).unwrap(), [A, B]);
        assert_eq!(names(&store), []);
    }

    #[test]
    fn tagging_again_writes_nothing() {
        use std::os::unix::fs::MetadataExt;
        let (_directory, store) = store();
        store.tag(A, &descriptor(1)).unwrap();
        let inode = || store.root().join(INDEX).metadata().unwrap().ino();
        let before = inode();
        store.tag(A, &descriptor(1)).unwrap();
        assert_eq!(inode(), before);
    }

    #[test]
    fn what_other_tools_wrote_is_kept() {
        let (_directory, store) = store();
        let text = r#"{"schemaVersion":2,"extra":{"z":1,"a":2},"manifests":[
            {"mediaType":"m","digest":"sha512:00","size":1,"x":true},
            {"mediaType":"m","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","size":5,
             "annotations":{"org.opencontainers.image.ref.name":"v1","k":"v"},"platform":{"os":"linux","architecture":"arm","variant":"v7"}}],
            "annotations":{"top":"1"}}"#;
        std::fs::write(store.root().join(INDEX), text).unwrap();
        assert_eq!(
            store.images().unwrap()[0].platform.as_deref(),
            Some("linux/arm/v7")
        );
        assert_eq!(store.image("v1").unwrap().unwrap().size, 5);
        store.tag(A, &descriptor(1)).unwrap();
        let after: Value = serde_json::from_slice(&std::fs::read(store.root().join(INDEX)).unwrap()).unwrap();
        let mut expected: Value = serde_json::from_str(text).unwrap();
        let added = after["manifests"][2].clone();
        expected["manifests"].as_array_mut().unwrap().push(added.clone());
        assert_eq!(after.to_string(), expected.to_string());
        assert_eq!(added["annotations"][REF_NAME], "latest");
        assert_eq!(
            std::fs::read(store.root().join(INDEX_BACKUP)).unwrap(),
            text.as_bytes()
        );
    }

    #[test]
    fn no_flipped_bit_leads_a_name_to_another_image() {
        let (_directory, store) = store();
        store.tag(A, &descriptor(1)).unwrap();
        store.tag("docker.io/library/b:latest", &descriptor(2)).unwrap();
        let path = store.root().join(INDEX);
        let good = std::fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).unwrap();
            let Ok(images) = store.images() else { continue };
            for image in images {
                let expected = match image.name.as_deref() {
                    Some(A) => descriptor(1),
                    Some("docker.io/library/b:latest") => descriptor(2),
                    // Its own copy of the tag is all that another tool may have written; such a name is no reference.
                    other => {
                        assert!(
                            other.is_none_or(|name| !name.contains('/')),
                            "bit {bit} made the name {other:?}"
                        );
                        continue;
                    }
                };
                assert_eq!(image.descriptor, expected, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_damaged_index_is_named_and_not_overwritten() {
        let (_directory, store) = store();
        for bad in [
            "",
            "{",
            "[]",
            "null",
            "{\"schemaVersion\":2}",
            "{\"schemaVersion\":1,\"manifests\":[]}",
        ] {
            std::fs::write(store.root().join(INDEX), bad).unwrap();
            let error = store.tag(A, &descriptor(1)).unwrap_err().to_string();
            assert!(
                error.contains("index.json is damaged") && error.contains("index.json.bak"),
                "{error}"
            );
            assert_eq!(std::fs::read_to_string(store.root().join(INDEX)).unwrap(), bad);
        }
    }

    #[test]
    fn no_update_is_lost() {
        let (directory, _store) = store();
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let root = directory.path().join("store");
                scope.spawn(move || {
                    let store = Store::open(&root).unwrap();
                    for n in 0..10_u8 {
                        store
                            .tag(&format!("localhost/t{thread}:{n}"), &descriptor(thread * 10 + n))
                            .unwrap();
                    }
                });
            }
        });
        let store = Store::open(&directory.path().join("store")).unwrap();
        assert_eq!(store.images().unwrap().len(), 40);
    }

    #[test]
    fn tags_of_names() {
        for (name, tag) in [
            (A, Some("latest")),
            (B, Some("1")),
            ("localhost:5000/b", None),
            ("a:1@sha256:00", Some("1")),
        ] {
            assert_eq!(tag_of(name), tag, "{name}");
        }
    }
}
