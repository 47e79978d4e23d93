//! `manifest inspect`: what is stored under a name, and with `--verbose` what docker says of it.

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rbuild_cache::{Descriptor, Store};
use serde_json::{Value, json};

use super::{InspectArgs, descriptor_of};
use crate::cli::context::print;
use crate::cli::{Context, inspect, members};
use crate::registry::document::{CONFIG_LIMIT, MANIFEST_LIMIT, Reading};
use crate::registry::{Document, Reference, Registry};

pub(super) fn show(args: &InspectArgs, context: &Context, store: &Store) -> anyhow::Result<()> {
    let known = descriptor_of(store, &args.image)?;
    let name = Reference::parse(&args.image);
    let registry = match &name {
        Ok(name) => members::context_for(context, args.insecure, [name]).registry(),
        Err(_) => context.registry(),
    };
    let documents = Documents {
        store,
        registry,
        name: name.as_ref().ok().cloned(),
    };
    let document = match known {
        Some(descriptor) => documents.named(&descriptor)?,
        None => documents.registry.manifest(&name?)?,
    };
    let json = match args.verbose {
        true => verbose(&documents, &document, &args.image)?,
        false => serde_json::from_slice(&document.bytes)?,
    };
    print(inspect::indented(&json)?)
}

/// Where manifests and configs are.
struct Documents<'a> {
    store: &'a Store,
    registry: Registry,
    name: Option<Reference>,
}

impl Documents<'_> {
    /// Of the store, else of the registry.
    fn named(&self, descriptor: &Descriptor) -> anyhow::Result<Document> {
        if self.store.has_blob(&descriptor.digest) {
            let bytes = self.store.read_blob(&descriptor.digest, MANIFEST_LIMIT)?;
            return Document::new(bytes, Some(&descriptor.media_type)).map_err(anyhow::Error::msg);
        }
        let name = self
            .name
            .as_ref()
            .context("the store does not have all of the list")?;
        Ok(self.registry.manifest(&name.with_digest(descriptor.digest))?)
    }

    /// The platform that the config of an image tells.
    fn platform(&self, config: &Descriptor) -> anyhow::Result<Value> {
        let bytes = match (&self.name, self.store.has_blob(&config.digest)) {
            (Some(name), false) => self.registry.small_blob(name, config, CONFIG_LIMIT)?,
            _ => self.store.read_blob(&config.digest, CONFIG_LIMIT)?,
        };
        let config: Value = serde_json::from_slice(&bytes)?;
        let mut platform = json!({"architecture": config["architecture"], "os": config["os"]});
        if let Some(variant) = config["variant"].as_str() {
            platform["variant"] = variant.into();
        }
        Ok(platform)
    }
}

/// As docker shows it: an object for an image, a list of them for a list.
fn verbose(documents: &Documents<'_>, document: &Document, text: &str) -> anyhow::Result<Value> {
    let name = documents
        .name
        .as_ref()
        .map_or_else(|| text.to_owned(), Reference::to_string);
    let reading = document.read().map_err(anyhow::Error::msg)?;
    let Reading::Index(index) = reading else {
        return described(documents, document, &name, None);
    };
    let shown = index.entries.iter().map(|entry| {
        let document = documents.named(&entry.descriptor)?;
        let name = format!("{name}@{}", entry.descriptor.digest);
        described(
            documents,
            &document,
            &name,
            entry.platform.as_ref().map(|platform| json!(platform)),
        )
    });
    Ok(Value::Array(shown.collect::<anyhow::Result<_>>()?))
}

fn described(
    documents: &Documents<'_>,
    document: &Document,
    name: &str,
    platform: Option<Value>,
) -> anyhow::Result<Value> {
    let platform = match (platform, document.read()) {
        (Some(platform), _) => platform,
        (None, Ok(Reading::Manifest(manifest))) => documents.platform(&manifest.config)?,
        // An attestation is for none.
        (None, _) => Value::Null,
    };
    let mut descriptor = json!(document.descriptor);
    if !platform.is_null() {
        descriptor["platform"] = platform;
    }
    let kind = match document
        .descriptor
        .media_type
        .starts_with("application/vnd.docker.")
    {
        true => "SchemaV2Manifest",
        false => "OCIManifest",
    };
    let manifest: Value = serde_json::from_slice(&document.bytes)?;
    Ok(json!({
        "Ref": name,
        "Descriptor": descriptor,
        "Raw": STANDARD.encode(&document.bytes),
        kind: manifest,
    }))
}
