//! What does a name mean now? The store knows, or the registry is asked: once for each name, whoever wants it, for whichever
//! platform.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rbuild_cache::Descriptor;

use super::{ImageSource, Origin, PullPolicy};
use crate::frontend::ImageMeta;
use crate::graph::Platform;
use crate::registry::Reference;
use crate::registry::document::{Document, MANIFEST_LIMIT};

/// What a name leads to.
#[derive(Debug, Clone)]
pub(super) struct Named {
    /// An index or a manifest.
    pub(super) descriptor: Descriptor,
    /// What the store had under the name when the registry was asked.
    pub(super) before: Option<Descriptor>,
    /// The document, if the registry sent it.
    document: Option<Document>,
}

impl Named {
    /// Whether that is what the store had.
    pub(super) fn is_known(&self) -> bool {
        self.before.as_ref() == Some(&self.descriptor)
    }
}

/// What a registry answered about a name; locked while it is asked.
type Answer = Arc<Mutex<Option<Named>>>;

/// The names that registries were asked about.
#[derive(Debug, Clone, Default)]
pub(super) struct Names(Arc<Mutex<HashMap<Reference, Answer>>>);

impl Names {
    fn of(&self, reference: &Reference) -> Answer {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(names.entry(reference.clone()).or_default())
    }
}

impl ImageSource {
    /// What a name leads to, and the image of the platform.
    pub(super) fn look(
        &self,
        reference: &Reference,
        platform: &Platform,
        policy: PullPolicy,
    ) -> anyhow::Result<(Named, ImageMeta)> {
        let mut named = self.answer(reference, policy)?;
        if let Some(meta) = self.stored(reference, &named.descriptor, platform)? {
            return Ok((named, meta));
        }
        let document = match named.document.take() {
            Some(document) => document,
            None => self.registry.manifest(reference)?,
        };
        named.descriptor.clone_from(&document.descriptor);
        let resolved = self.registry.resolve_document(reference, document, platform)?;
        let name = reference.to_string();
        let meta = self.keep(&name, &Origin::Registry(reference), &resolved, platform)?;
        Ok((named, meta))
    }

    /// What a name leads to, asked for if it has to be.
    fn answer(&self, reference: &Reference, policy: PullPolicy) -> anyhow::Result<Named> {
        let answer = self.names.of(reference);
        let mut answer = answer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = answer.as_ref() {
            return Ok(known.clone());
        }
        let before = self.store.image(&reference.to_string())?;
        let fetched = |reference: &Reference| -> anyhow::Result<Named> {
            let document = self.registry.manifest(reference)?;
            Ok(Named {
                descriptor: document.descriptor.clone(),
                before: before.clone(),
                document: Some(document),
            })
        };
        let known = before.clone().or_else(|| self.stored_by_digest(reference));
        let Some(descriptor) = known else {
            return Ok(answer.insert(fetched(reference)?).clone());
        };
        let known = Named {
            descriptor,
            before: before.clone(),
            document: None,
        };
        // A digest never means anything else.
        if policy == PullPolicy::Missing || reference.digest().is_some() {
            return Ok(known);
        }
        let named = match self.registry.head_manifest(reference)? {
            Some(now) if now.digest == known.descriptor.digest => known,
            // Until the next question the tag may move on.
            Some(now) => fetched(&reference.with_digest(now.digest))?,
            None => fetched(reference)?,
        };
        Ok(answer.insert(named).clone())
    }

    /// What has a digest is known by whatever name it came.
    fn stored_by_digest(&self, reference: &Reference) -> Option<Descriptor> {
        let bytes = self.store.read_blob(reference.digest()?, MANIFEST_LIMIT).ok()?;
        let document = Document::new(bytes, None).ok()?;
        document.read().is_ok().then_some(document.descriptor)
    }
}
