//! What is said of an image, attached to it: as manifests beside it that name it as their subject (OCI referrers), as one
//! manifest in its index (BuildKit's way), or as files beside files. None of it changes the image's own manifest.

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::Context as _;
use rbuild_cache::layer::{Kind, LayerPath};
use rbuild_cache::tree::Tree;
use rbuild_cache::{Descriptor, Digest, Referrer, Store};
use serde_json::{Value, json};
use sha2::Digest as _;

use super::BuiltImage;
use super::push::stored_blob;
use crate::attestation::{Attested, PREDICATE_TYPE, STATEMENT, Subject};
use crate::registry::document::{MANIFEST_LIMIT, OCI_MANIFEST};
use crate::registry::{PushBlob, Reference, Registry};

/// The config of a manifest that is no image.
const EMPTY: &[u8] = b"{}";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// What BuildKit calls a manifest of attestations in an index.
const IN_INDEX: &str = "application/vnd.docker.attestation.manifest.v1+json";
/// The annotation by which an entry of an index says that it tells of another one.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// The annotation by which an entry of an index names the one that it tells of.
pub const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

/// A manifest about an image; it and its blobs are in the store.
#[derive(Debug, Clone)]
pub struct Attached {
    /// The manifest.
    pub referrer: Referrer,
    /// What it names beside its subject.
    pub blobs: Vec<Descriptor>,
}

/// The manifests beside `subject`, one for each attestation.
pub fn beside(
    store: &Store,
    image: &BuiltImage,
    subject: &Descriptor,
    names: &[Reference],
) -> anyhow::Result<Vec<Attached>> {
    let wanted = image.attested.iter().filter(|attested| !attested.place.in_index);
    wanted
        .map(|attested| {
            let statement = statement(store, attested, image, subject, names)?;
            let kind = (PREDICATE_TYPE.to_owned(), attested.predicate_type.to_owned());
            manifest(store, STATEMENT, &[statement], BTreeMap::from([kind]), subject)
        })
        .collect()
}

/// The manifest in the index that names `subject`, with all attestations that belong there.
pub fn inside(
    store: &Store,
    image: &BuiltImage,
    subject: &Descriptor,
    names: &[Reference],
) -> anyhow::Result<Option<Attached>> {
    let wanted = image.attested.iter().filter(|attested| attested.place.in_index);
    let statements = wanted.map(|attested| statement(store, attested, image, subject, names));
    let statements = statements.collect::<anyhow::Result<Vec<_>>>()?;
    if statements.is_empty() {
        return Ok(None);
    }
    manifest(store, IN_INDEX, &statements, BTreeMap::new(), subject).map(Some)
}

/// A statement as a layer of a manifest.
fn statement(
    store: &Store,
    attested: &Attested,
    image: &BuiltImage,
    subject: &Descriptor,
    names: &[Reference],
) -> anyhow::Result<Value> {
    let subjects = Subject::of_image(&subject.digest, names, &image.platform);
    let bytes = attested.statement(&subjects)?;
    Ok(json!({
        "mediaType": STATEMENT,
        "digest": store.put_blob(&bytes)?,
        "size": bytes.len(),
        "annotations": {PREDICATE_TYPE: attested.predicate_type},
    }))
}

fn manifest(
    store: &Store,
    artifact_type: &str,
    layers: &[Value],
    annotations: BTreeMap<String, String>,
    subject: &Descriptor,
) -> anyhow::Result<Attached> {
    let empty = Descriptor {
        media_type: EMPTY_TYPE.to_owned(),
        digest: store.put_blob(EMPTY)?,
        size: EMPTY.len() as u64,
    };
    let mut blobs = vec![empty.clone()];
    for layer in layers {
        blobs.push(serde_json::from_value(layer.clone())?);
    }
    let mut json = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": empty,
        "layers": layers,
        "subject": subject,
    });
    if !annotations.is_empty() {
        json["annotations"] = json!(annotations);
    }
    let bytes = serde_json::to_vec(&json)?;
    let descriptor = Descriptor {
        media_type: OCI_MANIFEST.to_owned(),
        digest: store.put_blob(&bytes)?,
        size: bytes.len() as u64,
    };
    let artifact_type = artifact_type.to_owned();
    Ok(Attached {
        referrer: Referrer {
            descriptor,
            artifact_type,
            annotations,
        },
        blobs,
    })
}

impl Attached {
    /// A manifest of the store that refers to an image.
    pub fn stored(store: &Store, referrer: Referrer) -> anyhow::Result<Self> {
        let doing = || format!("reading {} of the store", referrer.descriptor.digest);
        let bytes = store
            .read_blob(&referrer.descriptor.digest, MANIFEST_LIMIT)
            .with_context(doing)?;
        let blobs = crate::registry::Document::new(bytes, None).and_then(|document| document.blobs());
        let blobs = blobs.map_err(anyhow::Error::msg).with_context(doing)?;
        Ok(Self { referrer, blobs })
    }

    /// All that it consists of.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.referrer.descriptor).chain(&self.blobs)
    }

    /// The same.
    pub fn into_blobs(self) -> impl Iterator<Item = Descriptor> {
        std::iter::once(self.referrer.descriptor).chain(self.blobs)
    }

    /// The entry of an index that says that it tells of `subject`.
    pub fn entry_in_index(&self, subject: &Digest) -> Value {
        json!({
            "mediaType": self.referrer.descriptor.media_type,
            "digest": self.referrer.descriptor.digest,
            "size": self.referrer.descriptor.size,
            "annotations": {REFERENCE_DIGEST: subject, REFERENCE_TYPE: "attestation-manifest"},
            "platform": {"architecture": "unknown", "os": "unknown"},
        })
    }

    /// Pushes it to `name`, as a manifest that an index will name.
    pub fn push(&self, registry: &Registry, store: &Store, name: &Reference) -> anyhow::Result<()> {
        let manifest = self.manifest(store)?;
        registry
            .push_image(name, OCI_MANIFEST, &manifest, &self.to_push(store), &|_, _, _| {})
            .with_context(|| format!("pushing {}", name.familiar()))?;
        Ok(())
    }

    fn manifest(&self, store: &Store) -> anyhow::Result<Vec<u8>> {
        Ok(store.read_blob(&self.referrer.descriptor.digest, MANIFEST_LIMIT)?)
    }

    fn to_push<'a>(&'a self, store: &'a Store) -> Vec<PushBlob<'a>> {
        self.blobs.iter().map(|blob| stored_blob(store, blob)).collect()
    }
}

/// Pushes them to the repository of `name`, where they are found by `subject`.
pub fn push(
    registry: &Registry,
    store: &Store,
    name: &Reference,
    subject: &Digest,
    attached: &[Attached],
) -> anyhow::Result<()> {
    for one in attached {
        let manifest = one.manifest(store)?;
        registry
            .push_referrer(name, subject, &one.referrer, &manifest, &one.to_push(store))
            .with_context(|| format!("pushing what is attested of {}", name.familiar()))?;
    }
    Ok(())
}

/// Keeps them in the store as long as the manifest `subject` is there.
pub fn keep(store: &Store, subject: &Digest, attached: &[Attached]) -> anyhow::Result<()> {
    if attached.is_empty() {
        return Ok(());
    }
    let referrers: Vec<Referrer> = attached.iter().map(|one| one.referrer.clone()).collect();
    store
        .refer(subject, &referrers)
        .context("keeping what is attested of the image")
}

/// What is kept in the store of the manifest `subject`.
pub fn kept(store: &Store, subject: &Digest) -> anyhow::Result<Vec<Attached>> {
    let referrers = store.referrers(subject)?.into_iter();
    referrers
        .map(|referrer| Attached::stored(store, referrer))
        .collect()
}

/// The statements about the files of `tree`, by the names that they get beside them.
pub fn files(tree: &dyn Tree, image: &BuiltImage, prefix: &str) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let wanted: Vec<&Attested> = image.attested.iter().filter(|it| !it.place.images_only).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let subjects = subjects(tree).context("reading the files that the attestation is about")?;
    let file = |attested: &&Attested| {
        Ok((
            format!("{prefix}{}", attested.place.file),
            attested.statement(&subjects)?,
        ))
    };
    wanted.iter().map(file).collect()
}

/// Every regular file with its digest, sorted by path.
fn subjects(tree: &dyn Tree) -> anyhow::Result<Vec<Subject>> {
    let mut subjects = Vec::new();
    let mut pending = vec![LayerPath::root()];
    while let Some(directory) = pending.pop() {
        for entry in tree.read_dir(&directory)? {
            if entry.is_dir() {
                pending.push(entry.path);
                continue;
            }
            if !matches!(entry.kind, Kind::File { .. }) {
                continue;
            }
            let mut hasher = sha2::Sha256::new();
            let mut file = tree.open(&entry.path)?;
            let mut buffer = vec![0; 1 << 16];
            loop {
                match file.read(&mut buffer)? {
                    0 => break,
                    count => hasher.update(&buffer[..count]),
                }
            }
            let hex: String = hasher
                .finalize()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            subjects.push(Subject {
                name: entry.path.to_string().trim_start_matches('/').to_owned(),
                digest: format!("sha256:{hex}").parse().map_err(anyhow::Error::new)?,
            });
        }
    }
    subjects.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(subjects)
}
