//! Images that shall become members of a list: of the store, of registries, of OCI layouts and archives.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use rbuild_cache::{Descriptor, Store};
use serde_json::Value;

use super::Context;
use super::lookup::{self, LookupError};
use crate::exporter::list::{self, List};
use crate::exporter::stored::StoredManifest;
use crate::graph::Platform;
use crate::registry::Reference;
use crate::registry::document::{Index, IndexEntry};
use crate::source::archive;
use crate::source::image::{Gathered, ImageSource, LAYOUT_PREFIX};

/// Finds them.
#[derive(Debug)]
pub struct Members {
    store: Store,
    source: Arc<ImageSource>,
}

impl Members {
    /// `insecure` is about the registries of `images`.
    pub fn of(context: &Context, store: &Store, insecure: bool, images: &[String]) -> anyhow::Result<Self> {
        let names: Vec<Reference> = images
            .iter()
            .filter_map(|image| Reference::parse(image).ok())
            .collect();
        let context = context_for(context, insecure, &names);
        Ok(Self {
            store: store.clone(),
            source: context.source(store, &context.registry()),
        })
    }

    /// The entries of an index for what the store has under a name or id, else its registry: for all platforms, or only
    /// for this machine's.
    pub fn find(&self, text: &str, all: bool) -> anyhow::Result<Vec<Value>> {
        match lookup::find(&self.store, text) {
            Ok(found) => {
                let listed = found.first();
                if all && listed.descriptor != listed.image.descriptor {
                    return self.stored(&listed.descriptor);
                }
                Ok(vec![entry(&listed.image)])
            }
            Err(error) if matches!(error.downcast_ref(), Some(LookupError::Missing(_))) => {
                self.registered(text, all)
            }
            Err(error) => Err(error),
        }
    }

    /// The same, of the registry.
    pub fn registered(&self, text: &str, all: bool) -> anyhow::Result<Vec<Value>> {
        let name = Reference::parse(text)?;
        Ok(entries(self.source.gather(&name)?, all))
    }

    /// What is at a path, an OCI layout or an archive, else what [`Members::find`] finds; all platforms.
    pub fn anywhere(&self, text: &str) -> anyhow::Result<Vec<Value>> {
        if let Some(location) = text.strip_prefix(LAYOUT_PREFIX) {
            return Ok(entries(self.source.gather_layout(location)?, true));
        }
        let path = Path::new(text);
        // `DIR:TAG` and `DIR@DIGEST` as well.
        let directory = text.rsplit_once(['@', ':']).map_or(text, |(directory, _)| {
            directory.strip_suffix("@sha256").unwrap_or(directory)
        });
        if path.is_dir() || Path::new(directory).join("oci-layout").is_file() {
            return Ok(entries(self.source.gather_layout(text)?, true));
        }
        if !path.is_file() {
            return self.find(text, true);
        }
        let file = File::open(path).with_context(|| format!("opening {text}"))?;
        let mut found = Vec::new();
        for image in archive::load(&self.store, None, file).with_context(|| format!("loading {text}"))? {
            found.extend(self.stored(&image.descriptor)?);
        }
        Ok(found)
    }

    /// The entries for a manifest or all of an index of the store.
    fn stored(&self, descriptor: &Descriptor) -> anyhow::Result<Vec<Value>> {
        if let Ok(index) = List::read(&self.store, descriptor) {
            let missing = |entry: &&Value| {
                let digest = entry["digest"].as_str().and_then(|digest| digest.parse().ok());
                digest.is_none_or(|digest| !self.store.has_blob(&digest))
            };
            if let Some(missing) = index.entries().iter().find(missing) {
                anyhow::bail!(
                    "the store does not have {} of the index {}: `rbuild pull --all-platforms` gets all",
                    missing["digest"],
                    descriptor.digest
                );
            }
            return Ok(index.entries().to_vec());
        }
        Ok(vec![entry(&StoredManifest::read(&self.store, descriptor, None)?)])
    }
}

fn entry(image: &StoredManifest) -> Value {
    list::entry(&image.descriptor, &image.facts.platform)
}

fn entries(gathered: Gathered, all: bool) -> Vec<Value> {
    let mut entries: Vec<Value> = Vec::new();
    let host = Platform::host();
    let index = Index {
        entries: gathered
            .members
            .iter()
            .filter_map(|member| {
                let meta = member.meta.as_ref()?;
                Some(IndexEntry {
                    descriptor: Descriptor {
                        media_type: String::new(),
                        digest: meta.op.manifest,
                        size: 0,
                    },
                    platform: serde_json::from_value(member.entry["platform"].clone()).ok(),
                    ref_name: None,
                    is_artifact: false,
                })
            })
            .collect(),
    };
    let ours = index
        .select(&host)
        .map(|entry| entry.descriptor.digest.to_string());
    for member in gathered.members {
        let chosen = ours.as_deref().is_none_or(|ours| member.entry["digest"] == ours);
        if all || chosen {
            entries.push(member.entry);
        }
    }
    entries
}

/// `context`, with the registries of `names` spoken to without TLS if `insecure` says so.
pub fn context_for<'a>(
    context: &Context,
    insecure: bool,
    names: impl IntoIterator<Item = &'a Reference>,
) -> Context {
    let mut context = context.clone();
    if insecure {
        context
            .insecure
            .extend(names.into_iter().map(|name| name.domain().to_owned()));
    }
    context
}

/// `KEY=VALUE` of an annotation.
pub fn annotation(text: &str) -> anyhow::Result<(String, String)> {
    let (key, value) = text
        .split_once('=')
        .with_context(|| format!("invalid annotation {text:?}: it must be KEY=VALUE"))?;
    ensure!(!key.is_empty(), "invalid annotation {text:?}: it has no key");
    Ok((key.to_owned(), value.to_owned()))
}
