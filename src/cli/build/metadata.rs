//! `--metadata-file`: what was made, in buildx' words.

use rbuild_cache::Descriptor;
use serde_json::{Map, Value, json};

use super::Build;
use crate::attestation::PROVENANCE;
use crate::exporter::Exported;
use crate::registry::Reference;

impl Build<'_> {
    /// The text of the file.
    pub(super) fn metadata(&self, exported: &Exported) -> anyhow::Result<Vec<u8>> {
        let images = self.made.borrow();
        let mut found = Map::new();
        for image in images.iter() {
            let provenance = image.attested.iter().find(|it| it.predicate_type == PROVENANCE);
            if let Some(provenance) = provenance {
                let name = match images.len() {
                    1 => "buildx.build.provenance".to_owned(),
                    _ => format!("buildx.build.provenance/{}", image.platform),
                };
                found.insert(name, provenance.predicate.clone());
            }
        }
        if let Some(manifest) = &exported.manifest {
            let only = match images.as_slice() {
                [image] if !self.options.as_index => Some(image),
                _ => None,
            };
            let mut descriptor = descriptor(manifest);
            if let Some(image) = only {
                found.insert(
                    "containerimage.config.digest".to_owned(),
                    json!(exported.image_id),
                );
                let config: Value = serde_json::from_slice(&image.config)?;
                descriptor["annotations"] = json!({
                    "config.digest": exported.image_id,
                    "org.opencontainers.image.created": config["created"],
                });
                descriptor["platform"] = json!(image.platform);
            }
            found.insert("containerimage.descriptor".to_owned(), descriptor);
            found.insert("containerimage.digest".to_owned(), json!(manifest.digest));
            let own = self.options.outputs.iter().find(|output| output.has_manifest());
            let own = own.map(|output| output.names.clone()).unwrap_or_default();
            let names = match own.is_empty() {
                true => self.options.tags.iter().map(Reference::to_string).collect(),
                false => own
                    .iter()
                    .map(|name| Ok(Reference::parse(name)?.to_string()))
                    .collect::<anyhow::Result<Vec<_>>>()?,
            };
            if !names.is_empty() {
                found.insert("image.name".to_owned(), names.join(",").into());
            }
        }
        found.sort_keys();
        let mut text = serde_json::to_vec_pretty(&found)?;
        text.push(b'\n');
        Ok(text)
    }
}

fn descriptor(of: &Descriptor) -> Value {
    json!({"mediaType": of.media_type, "digest": of.digest, "size": of.size})
}
