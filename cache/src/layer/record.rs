//! What the store remembers of a layer beside its bytes: `layers/<id>/record.json`.
//!
//! A line is a state, checksummed; the last sound one holds. A change adds a line, which costs less than a file that
//! replaces another, and no reader ever finds nothing.
//!
//! Whether the tree (`fs/`) and the index (`index`) exist is not repeated here: they lie in the
//! same directory, and each appears there by one rename.

use std::path::Path;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::clamp::ClampedLayer;
use crate::digest::{ContentDigest, DiffId, Digest, LayerId};
use crate::error::StoreError;

/// The version that this program writes. A record with a higher one is left alone.
pub const RECORD_VERSION: u32 = 1;

/// The facts known about one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Version of this format.
    pub version: u32,
    /// Name of the layer in this store.
    pub id: LayerId,
    /// Digest of the uncompressed tar, once somebody asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff_id: Option<DiffId>,
    /// The uncompressed tar, when it was written as a blob; its digest is the diff id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tar: Option<TarForm>,
    /// Compressed blobs of this layer: pulled ones first, then those made here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compressed: Vec<CompressedForm>,
    /// Repositories (`registry.example/repository`) from which `compressed[0]` can be fetched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<String>,
    /// Layers that are this one with its times clamped, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clamped: Vec<ClampedLayer>,
    /// A snapshot with the same diff id, whose tree serves this layer as long as it exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twin: Option<LayerId>,
    /// Digest of the entries without their times, once computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<ContentDigest>,
    /// Sum of the sizes of its files, once the entries were seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// The uncompressed tar as a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TarForm {
    /// Name of the blob, equal to the diff id.
    pub digest: Digest,
    /// Its length.
    pub size: u64,
}

/// A compressed (or, when pulled, possibly plain) blob of the layer's tar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompressedForm {
    /// Name of the blob.
    pub digest: Digest,
    /// Its length.
    pub size: u64,
    /// As a manifest names it.
    pub media_type: String,
    /// How this program made it ([`super::Compression::encoder`]); `None` for a pulled blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<String>,
}

impl LayerRecord {
    /// A record that knows nothing but the name.
    pub fn new(id: LayerId) -> Self {
        // A layer that was pulled or built from entries carries its diff id in its name.
        let diff_id = id
            .as_str()
            .strip_prefix("d-")
            .and_then(|hex| format!("sha256:{hex}").parse().ok())
            .map(DiffId);
        Self {
            version: RECORD_VERSION,
            id,
            diff_id,
            tar: None,
            compressed: Vec::new(),
            origins: Vec::new(),
            clamped: Vec::new(),
            twin: None,
            content: None,
            size: None,
        }
    }

    /// The record of the layer `id` in its directory; `None` when the store has no such layer. A damaged record
    /// is as good as an empty one: all that it says can be found out again, but where a missing blob came from.
    pub fn load(directory: &Path, id: &LayerId) -> Result<Option<Self>, StoreError> {
        let path = directory.join("record.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(directory.is_dir().then(|| Self::new(id.clone())));
            }
            Err(error) => return Err(StoreError::io("reading", &path, error)),
        };
        for line in bytes.rsplit(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            if is_newer(line) {
                let error = io::Error::new(
                    io::ErrorKind::Unsupported,
                    "a newer version of this program wrote it",
                );
                return Err(StoreError::layer("reading the record of", id, &path, error));
            }
            let Ok(stored) = serde_json::from_slice::<Stored>(line) else {
                continue;
            };
            if stored.record.id == *id && stored.check == check(&stored.record) {
                return Ok(Some(stored.record));
            }
        }
        Ok(Some(Self::new(id.clone())))
    }

    /// Adds this state to the file at `path`, which older states are left in.
    pub(super) fn append(&self, path: &Path) -> io::Result<()> {
        // The line break in front keeps it apart from what a full disk left of another.
        let line = [b"\n", self.to_bytes().as_slice()].concat();
        let mut file = fs::File::options().append(true).create(true).open(path)?;
        io::Write::write_all(&mut file, &line)
    }

    /// Whether a blob is known that was not made here, and that its origin therefore may have.
    pub fn has_pulled(&self) -> bool {
        self.compressed.iter().any(|form| form.encoder.is_none())
    }

    /// Whether `line` is exactly what was written for the layer `id`.
    pub(super) fn is_sound(line: &[u8], id: &LayerId) -> bool {
        let stored = serde_json::from_slice::<Stored>(line);
        stored.is_ok_and(|stored| stored.record.id == *id && stored.record.to_bytes() == line)
    }

    /// As [`LayerRecord::load`] reads it.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let stored = Stored {
            check: check(self),
            record: self.clone(),
        };
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    /// Every blob that belongs to the layer, whether it is in the store or not.
    pub fn blobs(&self) -> impl Iterator<Item = &Digest> {
        self.tar
            .iter()
            .map(|tar| &tar.digest)
            .chain(self.compressed.iter().map(|form| &form.digest))
    }
}

/// What lies on the disk.
#[derive(Serialize, Deserialize)]
struct Stored {
    check: ContentDigest,
    record: LayerRecord,
}

/// Whether `line` is what a newer version wrote, as opposed to a number that was spoilt. What else it says there is not known,
/// so its checksum is that of its text.
fn is_newer(line: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Any {
        check: ContentDigest,
        record: Version,
    }
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let newer = |any: &Any| any.record.version > RECORD_VERSION;
    let Some(any) = serde_json::from_slice::<Any>(line).ok().filter(newer) else {
        return false;
    };
    let start = b"\"record\":";
    let text = memchr::memmem::find(line, start).map(|at| &line[at + start.len()..]);
    let text = text.and_then(|text| text.strip_suffix(b"}"));
    text.is_some_and(|text| ContentDigest::of(text) == any.check)
}

fn check(record: &LayerRecord) -> ContentDigest {
    ContentDigest::of(&serde_json::to_vec(record).unwrap_or_default())
}

/// How a manifest names a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerBlob {
    /// Media type of the blob.
    pub media_type: String,
    /// Digest of the blob.
    pub digest: Digest,
    /// Length of the blob.
    pub size: u64,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn every_changed_bit_is_seen_and_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.json");
        let id = LayerId::from_random([1; 16]);
        let mut record = LayerRecord::new(id.clone());
        fs::write(&path, record.to_bytes()).unwrap();
        let first = record.clone();
        record.size = Some(3);
        record.append(&path).unwrap();
        let good = fs::read(&path).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        for bit in 0..good.len() * 8 {
            file.write_all_at(&good, 0).unwrap();
            file.write_all_at(&[good[bit / 8] ^ 1 << (bit % 8)], bit as u64 / 8)
                .unwrap();
            let loaded = LayerRecord::load(directory.path(), &id).unwrap().unwrap();
            let known = [&LayerRecord::new(id.clone()), &first, &record];
            assert!(known.contains(&&loaded), "bit {bit}");
            let sound = LayerRecord::soundness(directory.path(), &id).unwrap();
            assert_eq!(sound, crate::layer::Soundness::Damaged, "bit {bit}");
        }
    }

    #[test]
    fn the_last_sound_state_holds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.json");
        let id = LayerId::from_random([1; 16]);
        let load = || LayerRecord::load(directory.path(), &id).unwrap().unwrap();
        let mut record = LayerRecord::new(id.clone());
        fs::write(&path, record.to_bytes()).unwrap();
        for size in 1..4 {
            record.size = Some(size);
            record.append(&path).unwrap();
            assert_eq!(load(), record);
        }
        // What a full disk leaves of a line, and a line that was spoilt.
        let good = fs::read(&path).unwrap();
        let spoilt = String::from_utf8(record.to_bytes())
            .unwrap()
            .replace("\"size\":3", "\"size\":4");
        for bad in [&good[good.len() - 40..], b"{", spoilt.as_bytes()] {
            fs::write(&path, [good.as_slice(), b"\n", bad].concat()).unwrap();
            assert_eq!(load(), record);
            record.size = record.size.map(|size| size + 1);
            record.append(&path).unwrap();
            assert_eq!(load(), record);
            record.size = Some(3);
        }
        // A newer version's is left alone, one whose number was spoilt is not.
        let newer = LayerRecord {
            version: RECORD_VERSION + 1,
            ..record.clone()
        };
        let text = String::from_utf8(newer.to_bytes()).unwrap();
        fs::write(&path, &text).unwrap();
        assert!(LayerRecord::load(directory.path(), &id).is_err());
        fs::write(&path, text.replace("\"version\":2", "\"version\":3")).unwrap();
        assert_eq!(load(), LayerRecord::new(id.clone()));
        // Another layer's record is none.
        fs::write(&path, LayerRecord::new(LayerId::from_random([2; 16])).to_bytes()).unwrap();
        assert_eq!(load(), LayerRecord::new(id.clone()));
    }
}
