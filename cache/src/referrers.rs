//! What refers to an image: manifests that name it as their `subject`, attestations for instance. An image does not
//! say who refers to it, so that is kept beside it: a list in the form of an OCI index for each image. A list that is
//! lost or damaged leads nowhere, the image stays what it is.

use std::collections::BTreeMap;
use std::io::Read;

use rustix::fs::{FlockOperation, OFlags};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::StoreError;
use crate::image::Descriptor;
use crate::lock::lock;
use crate::store::Store;

const LOCK: &str = "referrers.lock";
/// More than any such list.
const LIMIT: u64 = 4 << 20;
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A manifest that refers to another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    /// The manifest.
    #[serde(flatten)]
    pub descriptor: Descriptor,
    /// What it is.
    #[serde(default)]
    pub artifact_type: String,
    /// The annotations of the manifest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A list of them, as the referrers API answers with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrers {
    schema_version: u32,
    media_type: String,
    /// The manifests, in the order in which they came.
    pub manifests: Vec<Referrer>,
}

impl Referrers {
    /// The list of these.
    pub fn new(manifests: Vec<Referrer>) -> Self {
        Self {
            schema_version: 2,
            media_type: OCI_INDEX.to_owned(),
            manifests,
        }
    }
}

impl Store {
    /// What is known to refer to the manifest `subject`.
    pub fn referrers(&self, subject: &Digest) -> Result<Vec<Referrer>, StoreError> {
        let directory = &self.0.referrers;
        let name = subject.hex();
        let Some(file) = directory.open_file(&name)? else {
            return Ok(Vec::new());
        };
        let mut bytes = Vec::new();
        file.take(LIMIT)
            .read_to_end(&mut bytes)
            .map_err(|error| StoreError::io("reading", directory.path_of(&name), error))?;
        let list: Option<Referrers> = serde_json::from_slice(&bytes).ok();
        Ok(list.map(|list| list.manifests).unwrap_or_default())
    }

    /// Keeps `new` with the manifest `subject`, as long as that is kept. Earlier ones of the same kind, by type and
    /// annotations, go.
    pub fn refer(&self, subject: &Digest, new: &[Referrer]) -> Result<(), StoreError> {
        let root = &self.0.root;
        let locking = |error| StoreError::io("locking", root.path_of(LOCK), error);
        let held = root.file(LOCK, OFlags::RDWR | OFlags::CREATE).map_err(locking)?;
        lock(&held, FlockOperation::LockExclusive).map_err(locking)?;
        let known = self.referrers(subject)?;
        let mut list = known.clone();
        for new in new {
            list.retain(|known| {
                known.artifact_type != new.artifact_type || known.annotations != new.annotations
            });
            list.push(new.clone());
        }
        if list == known {
            return Ok(());
        }
        let directory = &self.0.referrers;
        let bytes = serde_json::to_vec(&Referrers::new(list))
            .map_err(|error| StoreError::io("encoding", directory.path_of(&subject.hex()), error))?;
        self.replace_file(directory, &subject.hex(), &bytes, false)
    }

    /// Forgets what refers to manifests that are gone.
    pub(crate) fn forget_referrers(&self) -> Result<(), StoreError> {
        for name in self.0.referrers.text_names()? {
            let subject = format!("sha256:{name}").parse::<Digest>();
            if !subject.is_ok_and(|subject| self.has_blob(&subject)) {
                self.0.referrers.unlink(&name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::gc::PruneOptions;

    fn referrer(store: &Store, kind: &str, subject: &Descriptor, text: &str) -> Referrer {
        let blob = store.put_blob(text.as_bytes()).unwrap();
        let manifest = json!({"schemaVersion": 2, "subject": subject,
            "layers": [{"mediaType": "m", "digest": blob, "size": text.len()}]});
        let bytes = serde_json::to_vec(&manifest).unwrap();
        Referrer {
            descriptor: Descriptor {
                media_type: "m".to_owned(),
                digest: store.put_blob(&bytes).unwrap(),
                size: bytes.len() as u64,
            },
            artifact_type: "a".to_owned(),
            annotations: BTreeMap::from([("kind".to_owned(), kind.to_owned())]),
        }
    }

    /// Lets the clock of the file system move on: what is as old as a session is in use.
    fn older() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }

    #[test]
    fn they_stay_and_go_with_their_image() {
        let here = tempfile::tempdir().unwrap();
        let open = || Store::open(here.path()).unwrap();
        let store = open();
        let bytes = br#"{"schemaVersion":2,"layers":[]}"#;
        let image = Descriptor {
            media_type: "m".to_owned(),
            digest: store.put_blob(bytes).unwrap(),
            size: bytes.len() as u64,
        };
        store.tag("a", &image).unwrap();
        let [first, other, second] =
            [("x", "1"), ("y", "2"), ("x", "3")].map(|(kind, text)| referrer(&store, kind, &image, text));
        store.refer(&image.digest, &[first, other.clone()]).unwrap();
        store.refer(&image.digest, std::slice::from_ref(&second)).unwrap();
        assert_eq!(
            store.referrers(&image.digest).unwrap(),
            [other.clone(), second.clone()]
        );
        drop(store);
        older();

        let store = open();
        let all = PruneOptions {
            all: true,
            ..PruneOptions::default()
        };
        store.prune(&all).unwrap();
        for kept in [&other, &second] {
            let manifest = store.read_blob(&kept.descriptor.digest, 1 << 20).unwrap();
            let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
            let statement: Digest = manifest["layers"][0]["digest"].as_str().unwrap().parse().unwrap();
            assert!(store.has_blob(&statement));
        }
        assert!(!store.has_blob(&Digest::of(b"1")), "what was replaced goes");
        store.untag("a").unwrap();
        drop(store);
        older();
        let store = open();
        store.prune(&all).unwrap();
        assert!(!store.has_blob(&second.descriptor.digest) && !store.has_blob(&Digest::of(b"3")));
        assert_eq!(store.referrers(&image.digest).unwrap(), []);
    }
}
