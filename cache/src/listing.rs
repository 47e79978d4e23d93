//! Lists of files, kept small: what a COPY read, so that two of its runs can be compared later.
//!
//! A list is cut into chunks at places that its paths decide, and each chunk is kept once, named by its content: two lists
//! that differ in one file share all chunks but one. `lists/v1/<name>` is a list, the names of its chunks with a
//! checksum; `lists/v1/<digest>` a chunk. What is damaged or missing is as if it had never been kept.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;

use crate::digest::{ContentDigest, Key};
use crate::directory::Directory;
use crate::error::StoreError;
use crate::store::Store;

/// A chunk has so many items on average, and at most four times as many: few files for a large context, little to write
/// for one that changed.
const CHUNK: u64 = 2048;
/// Bytes that a chunk may become when it is unpacked.
const CHUNK_LIMIT: u64 = 64 << 20;
const MAGIC: &[u8] = b"rbuild-list 1\n";
const CHUNK_MAGIC: &[u8] = b"rbuild-chunk 1\n";
/// With which chunks begin that older versions wrote, without a checksum of their packed bytes.
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// A path whose facts are not the same in two lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListChange {
    /// The path.
    pub path: Vec<u8>,
    /// What the first list says of it; `None` when it has no such path.
    pub before: Option<Vec<u8>>,
    /// What the second says.
    pub after: Option<Vec<u8>>,
}

/// A path and its facts.
type Item = (Vec<u8>, Vec<u8>);

impl Store {
    /// Keeps a list of paths, each with facts about it, under `name`, which stands for its content. `items` is only asked
    /// for when the list is not there yet.
    pub fn put_list<I, P, F>(&self, name: &Key, items: impl FnOnce() -> I) -> Result<(), StoreError>
    where
        I: IntoIterator<Item = (P, F)>,
        P: AsRef<[u8]>,
        F: AsRef<[u8]>,
    {
        let lists = self.lists()?;
        if lists.stat(&name.hex())?.is_some() {
            return Ok(());
        }
        let (mut names, mut chunk, mut count) = (Vec::new(), Vec::new(), 0);
        for (path, facts) in items() {
            for part in [path.as_ref(), facts.as_ref()] {
                chunk.extend_from_slice(&(part.len() as u64).to_le_bytes());
                chunk.extend_from_slice(part);
            }
            count += 1;
            if hash(path.as_ref()).is_multiple_of(CHUNK) || count == 4 * CHUNK {
                names.extend_from_slice(&self.put_chunk(&lists, &chunk)?.0);
                chunk.clear();
                count = 0;
            }
        }
        if !chunk.is_empty() {
            names.extend_from_slice(&self.put_chunk(&lists, &chunk)?.0);
        }
        let list = [MAGIC, &checksum(name, &names), &names].concat();
        self.replace_file(&lists, &name.hex(), &list, false)
    }

    /// The paths whose facts differ, in order; `None` when one of the lists is not there.
    pub fn compare_lists(&self, before: &Key, after: &Key) -> Result<Option<Vec<ListChange>>, StoreError> {
        let lists = self.lists()?;
        let (Some(old), Some(new)) = (read_list(&lists, before)?, read_list(&lists, after)?) else {
            return Ok(None);
        };
        let shared = |one: &[ContentDigest], other: &[ContentDigest]| {
            let other: HashSet<&ContentDigest> = other.iter().collect();
            let differing = one.iter().filter(|name| !other.contains(name));
            differing.copied().collect::<Vec<_>>()
        };
        let read = |names: Vec<ContentDigest>| -> Result<Option<HashMap<_, _>>, StoreError> {
            let mut items = HashMap::new();
            for name in names {
                let Some(chunk) = read_chunk(&lists, &name)? else {
                    return Ok(None);
                };
                items.extend(chunk);
            }
            Ok(Some(items))
        };
        let (Some(mut gone), Some(come)) = (read(shared(&old, &new))?, read(shared(&new, &old))?) else {
            return Ok(None);
        };
        let mut changes = BTreeMap::new();
        for (path, facts) in come {
            let old = gone.remove(&path);
            if old.as_ref() != Some(&facts) {
                changes.insert(path, (old, Some(facts)));
            }
        }
        changes.extend(gone.into_iter().map(|(path, facts)| (path, (Some(facts), None))));
        let change = |(path, (before, after))| ListChange { path, before, after };
        Ok(Some(changes.into_iter().map(change).collect()))
    }

    /// Removes the lists that are not in `wanted`, and chunks that only they have. Returns the bytes of those that stay.
    pub(crate) fn retain_lists(&self, wanted: &HashSet<Key>) -> Result<u64, StoreError> {
        let Some(lists) = self.known_lists()? else {
            return Ok(0);
        };
        let mut names: HashSet<String> = wanted.iter().map(Key::hex).collect();
        for list in wanted {
            let chunks = read_list(&lists, list)?.unwrap_or_default();
            names.extend(chunks.iter().map(ContentDigest::hex));
        }
        let mut bytes = 0;
        for name in lists.text_names()? {
            if names.contains(&name) {
                bytes += lists
                    .stat(&name)?
                    .map_or(0, |stat| crate::directory::disk_bytes(stat.st_blocks));
            } else {
                lists.unlink(&name)?;
            }
        }
        Ok(bytes)
    }

    /// Whether the list `name` is there with all of its chunks.
    pub(crate) fn has_whole_list(&self, name: &Key) -> Result<bool, StoreError> {
        let Some(lists) = self.known_lists()? else {
            return Ok(false);
        };
        let Some(chunks) = read_list(&lists, name)? else {
            return Ok(false);
        };
        for chunk in chunks {
            if read_chunk(&lists, &chunk)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Files that are neither a sound list nor a sound chunk.
    pub(crate) fn damaged_lists(&self) -> Result<Vec<(Directory, String, &'static str)>, StoreError> {
        let mut damaged = Vec::new();
        let Some(lists) = self.known_lists()? else {
            return Ok(damaged);
        };
        for name in lists.text_names()? {
            let Ok(key) = name.parse::<Key>() else { continue };
            let sound =
                read_list(&lists, &key)?.is_some() || read_chunk(&lists, &ContentDigest(key.0))?.is_some();
            if !sound && lists.stat(&name)?.is_some() {
                let again = self.known_lists()?;
                damaged.extend(again.map(|lists| (lists, name.clone(), "its checksum is wrong")));
            }
        }
        Ok(damaged)
    }

    fn put_chunk(&self, lists: &Directory, chunk: &[u8]) -> Result<ContentDigest, StoreError> {
        let digest = ContentDigest::of(chunk);
        let name = digest.hex();
        if lists.stat(&name)?.is_none() {
            let packed = zstd::bulk::compress(chunk, 1)
                .map_err(|error| StoreError::io("compressing", lists.path_of(&name), error))?;
            let bytes = [CHUNK_MAGIC, blake3::hash(&packed).as_bytes(), &packed].concat();
            self.replace_file(lists, &name, &bytes, false)?;
        }
        Ok(digest)
    }

    fn lists(&self) -> Result<Directory, StoreError> {
        self.0.root.ensure_child("lists")?.ensure_child("v1")
    }

    /// The directory of lists, if there is one.
    fn known_lists(&self) -> Result<Option<Directory>, StoreError> {
        match self.0.root.child("lists").and_then(|lists| lists.child("v1")) {
            Ok(lists) => Ok(Some(lists)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("opening", self.0.root.path_of("lists"), error)),
        }
    }
}

/// The chunks of a list.
fn read_list(lists: &Directory, name: &Key) -> Result<Option<Vec<ContentDigest>>, StoreError> {
    let Some(bytes) = read(lists, &name.hex())? else {
        return Ok(None);
    };
    let names = bytes
        .strip_prefix(MAGIC)
        .and_then(|rest| rest.split_at_checked(32))
        .filter(|(found, names)| *found == checksum(name, names));
    let names = names.map(|(_, names)| names.as_chunks::<32>().0);
    Ok(names.map(|names| names.iter().map(|name| ContentDigest(*name)).collect()))
}

/// The items of a chunk.
fn read_chunk(lists: &Directory, name: &ContentDigest) -> Result<Option<Vec<Item>>, StoreError> {
    let Some(bytes) = read(lists, &name.hex())? else {
        return Ok(None);
    };
    // Not every bit of what is packed means something.
    let sound = bytes
        .strip_prefix(CHUNK_MAGIC)
        .and_then(|rest| rest.split_at_checked(32))
        .filter(|(sum, packed)| sum == blake3::hash(packed).as_bytes())
        .map(|(_, packed)| packed);
    let Some(packed) = sound.or_else(|| bytes.starts_with(ZSTD_MAGIC).then_some(&bytes)) else {
        return Ok(None);
    };
    let mut chunk = Vec::new();
    let unpacked = zstd::stream::read::Decoder::with_buffer(packed)
        .and_then(|decoder| decoder.take(CHUNK_LIMIT).read_to_end(&mut chunk));
    if unpacked.is_err() || ContentDigest::of(&chunk) != *name {
        return Ok(None);
    }
    let (mut items, mut rest) = (Vec::new(), chunk.as_slice());
    while let (Some(path), Some(facts)) = (take(&mut rest), take(&mut rest)) {
        items.push((path.to_vec(), facts.to_vec()));
    }
    Ok(Some(items))
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (part, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(part)
}

fn read(lists: &Directory, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(mut file) = lists.open_file(name)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    match file.read_to_end(&mut bytes) {
        Ok(_) => Ok(Some(bytes)),
        Err(error) => Err(StoreError::io("reading", lists.path_of(name), error)),
    }
}

fn checksum(name: &Key, names: &[u8]) -> [u8; 32] {
    *blake3::keyed_hash(&name.0, names).as_bytes()
}

/// FNV-1a, which is quick and need not be more.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn name(number: u8) -> Key {
        Key([number; 32])
    }

    #[test]
    fn every_changed_bit_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let items: Vec<(String, String)> = (0..9).map(|n| (n.to_string(), "facts".to_owned())).collect();
        put(&store, 1, &items);
        assert!(store.damaged_lists().unwrap().is_empty());
        let mut seen = 0;
        for entry in std::fs::read_dir(store.root().join("lists/v1")).unwrap() {
            let path = entry.unwrap().path();
            let good = std::fs::read(&path).unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            for bit in 0..good.len() * 8 {
                file.write_all_at(&[good[bit / 8] ^ 1 << (bit % 8)], bit as u64 / 8)
                    .unwrap();
                assert_eq!(store.damaged_lists().unwrap().len(), 1, "bit {bit}");
                file.write_all_at(&good, 0).unwrap();
                seen += 1;
            }
        }
        assert!(seen > 1000);
        // As older versions wrote it.
        let chunk = b"\x01\0\0\0\0\0\0\0x\x01\0\0\0\0\0\0\0y";
        let place = store.root().join("lists/v1").join(ContentDigest::of(chunk).hex());
        std::fs::write(place, zstd::bulk::compress(chunk, 1).unwrap()).unwrap();
        assert!(store.damaged_lists().unwrap().is_empty());
    }

    fn put(store: &Store, number: u8, items: &[(String, String)]) {
        store
            .put_list(&name(number), || items.iter().map(|(path, facts)| (path, facts)))
            .unwrap();
    }

    fn count(store: &Store) -> usize {
        std::fs::read_dir(store.root().join("lists/v1")).unwrap().count()
    }

    #[test]
    fn lists_share_what_is_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let mut items: Vec<(String, String)> = (0..20_000)
            .map(|n| (format!("dir/{n:05}"), format!("facts {n}")))
            .collect();
        put(&store, 1, &items);
        let files = count(&store);
        assert!((5..40).contains(&files), "{files}");

        items[70].1 = "other".to_owned();
        let removed = items.remove(3000);
        items.push(("new".to_owned(), "n".to_owned()));
        put(&store, 2, &items);
        assert!(count(&store) <= files + 4, "{files} {}", count(&store));
        let changes = store.compare_lists(&name(1), &name(2)).unwrap().unwrap();
        let bytes = |text: &str| Some(text.as_bytes().to_vec());
        let expected = [
            ("dir/00070", bytes("facts 70"), bytes("other")),
            (&removed.0, bytes(&removed.1), None),
            ("new", None, bytes("n")),
        ]
        .map(|(path, before, after)| ListChange {
            path: path.as_bytes().to_vec(),
            before,
            after,
        });
        assert_eq!(changes, expected);
        assert_eq!(store.compare_lists(&name(1), &name(1)).unwrap(), Some(Vec::new()));
        assert_eq!(store.compare_lists(&name(1), &name(9)).unwrap(), None);

        // A list that is there is not asked for again.
        let untouched = || -> Vec<(&[u8], &[u8])> { panic!("asked") };
        store.put_list(&name(2), untouched).unwrap();
        let kept = store.retain_lists(&HashSet::from([name(2)])).unwrap();
        assert!(kept > 0 && count(&store) <= files);
        assert_eq!(store.compare_lists(&name(1), &name(2)).unwrap(), None);
        assert_eq!(store.retain_lists(&HashSet::new()).unwrap(), 0);
        assert_eq!(count(&store), 0);
    }

    #[test]
    fn damage_is_as_if_it_was_never_kept() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let items = |n: usize| vec![("a".to_owned(), n.to_string())];
        put(&store, 1, &items(1));
        put(&store, 2, &items(2));
        let compare = || store.compare_lists(&name(1), &name(2)).unwrap();
        assert_eq!(compare().unwrap().len(), 1);
        for entry in std::fs::read_dir(store.root().join("lists/v1")).unwrap() {
            let path = entry.unwrap().path();
            let good = std::fs::read(&path).unwrap();
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 1;
                std::fs::write(&path, &bad).unwrap();
                // zstd does not look at every bit of its header; what it gives is looked at.
                assert!(compare().is_none_or(|changes| changes.len() == 1), "{at}");
                std::fs::write(&path, &bad[..at]).unwrap();
                assert_eq!(compare(), None);
            }
            std::fs::write(&path, &good).unwrap();
        }
        assert_eq!(compare().unwrap().len(), 1);
    }
}
