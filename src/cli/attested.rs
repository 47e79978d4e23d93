//! What is attested of an image, for `inspect` of the store and of registries: provenance and lists of packages by their
//! buildx names, `.Provenance` and `.SBOM`.

use rbuild_cache::{Descriptor, Digest, Referrer, Store};
use serde_json::{Map, Value, json};

use crate::attestation::{PREDICATE_TYPE, SPDX, STATEMENT};
use crate::exporter::attached::{self, REFERENCE_DIGEST};
use crate::registry::document::MANIFEST_LIMIT;
use crate::registry::{Reference, Registry};

/// More than any statement.
const STATEMENT_LIMIT: u64 = 256 << 20;

/// What is said of one image.
#[derive(Debug, Default)]
pub struct Said {
    provenance: Value,
    sbom: Value,
}

/// Where manifests and blobs are read.
enum Place<'a> {
    Store(&'a Store),
    Registry(&'a Registry, &'a Reference),
}

impl Place<'_> {
    fn manifest(&self, descriptor: &Descriptor) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::Store(store) => Ok(store.read_blob(&descriptor.digest, MANIFEST_LIMIT)?),
            Self::Registry(registry, name) => {
                Ok(registry.manifest(&name.with_digest(descriptor.digest))?.bytes)
            }
        }
    }

    fn blob(&self, descriptor: &Descriptor) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::Store(store) => Ok(store.read_blob(&descriptor.digest, STATEMENT_LIMIT)?),
            Self::Registry(registry, name) => Ok(registry.small_blob(name, descriptor, STATEMENT_LIMIT)?),
        }
    }
}

/// Whether a template asks for it: finding it takes reading, or asking a registry.
pub fn is_asked_for(template: &str) -> bool {
    template.contains("Provenance") || template.contains("SBOM")
}

impl Said {
    /// What the store has of the image `manifest`, which `index` leads to, if that is another document.
    pub fn stored(store: &Store, manifest: &Digest, index: Option<&Descriptor>) -> anyhow::Result<Self> {
        let place = Place::Store(store);
        let mut said = Self::default();
        let kept = attached::kept(store, manifest)?;
        let referrers: Vec<Referrer> = kept.into_iter().map(|one| one.referrer).collect();
        let inside = match index {
            Some(index) => in_index(&place.manifest(index)?, manifest)?,
            None => Vec::new(),
        };
        said.read(&place, &of_statements(&referrers), &inside)?;
        Ok(said)
    }

    /// What a registry has of it.
    pub fn pushed(
        registry: &Registry,
        name: &Reference,
        manifest: &Digest,
        index: Option<&[u8]>,
    ) -> anyhow::Result<Self> {
        let mut said = Self::default();
        let referrers = registry.referrers(name, manifest)?;
        let inside = match index {
            Some(index) => in_index(index, manifest)?,
            None => Vec::new(),
        };
        said.read(
            &Place::Registry(registry, name),
            &of_statements(&referrers),
            &inside,
        )?;
        Ok(said)
    }

    /// Later ones win.
    fn read(
        &mut self,
        place: &Place<'_>,
        beside: &[Descriptor],
        inside: &[Descriptor],
    ) -> anyhow::Result<()> {
        for descriptor in inside.iter().chain(beside) {
            let manifest: Value = serde_json::from_slice(&place.manifest(descriptor)?)?;
            for layer in manifest["layers"].as_array().into_iter().flatten() {
                let kind = layer["annotations"][PREDICATE_TYPE].as_str().unwrap_or_default();
                let is_provenance = kind.starts_with("https://slsa.dev/provenance/");
                if layer["mediaType"] != STATEMENT || !(is_provenance || kind == SPDX) {
                    continue;
                }
                let statement = place.blob(&serde_json::from_value(layer.clone())?)?;
                let statement: Value = serde_json::from_slice(&statement)?;
                let predicate = statement["predicate"].clone();
                match is_provenance {
                    true => self.provenance = json!({"SLSA": predicate}),
                    false => self.sbom = json!({"SPDX": predicate}),
                }
            }
        }
        Ok(())
    }

    /// Puts `Provenance` and `SBOM` into the fields of an image.
    pub fn write(self, fields: &mut Map<String, Value>) {
        fields.insert("Provenance".to_owned(), self.provenance);
        fields.insert("SBOM".to_owned(), self.sbom);
    }
}

/// Those that are statements, as far as their list tells.
fn of_statements(referrers: &[Referrer]) -> Vec<Descriptor> {
    let is_statement = |it: &&Referrer| it.artifact_type == STATEMENT;
    referrers
        .iter()
        .filter(is_statement)
        .map(|it| it.descriptor.clone())
        .collect()
}

/// The manifests of an index that tell of its entry `subject`.
fn in_index(index: &[u8], subject: &Digest) -> anyhow::Result<Vec<Descriptor>> {
    let index: Value = serde_json::from_slice(index)?;
    let subject = Value::from(subject.to_string());
    let entries = index["manifests"].as_array().into_iter().flatten();
    let about = entries.filter(|entry| entry["annotations"][REFERENCE_DIGEST] == subject);
    Ok(about
        .map(|entry| serde_json::from_value(entry.clone()))
        .collect::<Result<_, _>>()?)
}
