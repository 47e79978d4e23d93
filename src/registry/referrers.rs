//! What refers to an image at a registry: attestations, signatures. Registries that know of it list them themselves; at
//! others there is a tag for each image, `sha256-...`, which leads to the list (distribution-spec 1.1, "Referrers tag schema").

use bytes::Bytes;
use rbuild_cache::{Digest, Referrer, Referrers};
use reqwest::Method;
use reqwest::header::HeaderMap;

use super::client::{Registry, again, pull_scope};
use super::document::{MANIFEST_LIMIT, OCI_INDEX};
use super::error::RegistryError;
use super::push::PushBlob;
use super::reference::Reference;
use super::retry::Failure;
use super::transport::{Call, Exchange};
use super::words::refused;

/// How often the list of a tag is written when somebody else writes it at the same time.
const ATTEMPTS: usize = 3;

impl Registry {
    /// What refers to the manifest `subject` of the repository of `name`.
    pub fn referrers(&self, name: &Reference, subject: &Digest) -> Result<Vec<Referrer>, RegistryError> {
        match self.listed_referrers(name, subject) {
            Err(error) if does_not_know(&error) => self.tagged_referrers(name, subject),
            listed => listed,
        }
    }

    /// Pushes a manifest that refers to another one, with its blobs, and sees to it that it is found.
    pub fn push_referrer(
        &self,
        name: &Reference,
        subject: &Digest,
        referrer: &Referrer,
        manifest: &[u8],
        blobs: &[PushBlob<'_>],
    ) -> Result<(), RegistryError> {
        let by_digest = name.with_digest(referrer.descriptor.digest);
        self.push_blobs(&by_digest, blobs, &|_, _, _| {})?;
        let put = self.put_manifest(&by_digest, &referrer.descriptor.media_type, manifest)?;
        if put.refers {
            return Ok(());
        }
        let tag = list_tag(name, subject)?;
        for _ in 0..ATTEMPTS {
            let mut list = self.tagged_referrers(name, subject)?;
            if list.contains(referrer) {
                return Ok(());
            }
            list.retain(|known| known.descriptor.digest != referrer.descriptor.digest);
            list.push(referrer.clone());
            let doing = format!("pushing {tag}");
            let bytes =
                serde_json::to_vec(&Referrers::new(list)).map_err(|e| refused(&doing, e.to_string()))?;
            self.push_manifest(&tag, OCI_INDEX, &bytes)?;
        }
        if self.tagged_referrers(name, subject)?.contains(referrer) {
            return Ok(());
        }
        let reason = "others write it at the same time; push once more".to_owned();
        Err(refused(&format!("adding to {tag}"), reason))
    }

    /// The list that the registry keeps itself.
    fn listed_referrers(&self, name: &Reference, subject: &Digest) -> Result<Vec<Referrer>, RegistryError> {
        let doing = format!("looking what refers to {}@{subject}", name.name());
        self.places(name, &doing)?;
        let (name, subject) = (name.clone(), *subject);
        let said = doing.clone();
        let attempt = async move |exchange: Exchange| -> Result<Vec<u8>, Failure> {
            let repository = name.repository();
            let call = Call {
                doing: &doing,
                method: Method::GET,
                target: &format!("/v2/{repository}/referrers/{subject}"),
                repository,
                scopes: vec![pull_scope(repository)],
                headers: HeaderMap::new(),
                body: Bytes::new(),
            };
            let host = exchange.session.host(name.domain());
            let response = exchange.call(&host, &call).await?;
            exchange.read_limited(response, MANIFEST_LIMIT, &doing).await
        };
        let bytes = self.run(move |exchange| again(exchange, attempt))?;
        read(&bytes, &said)
    }

    /// The list that a tag leads to.
    fn tagged_referrers(&self, name: &Reference, subject: &Digest) -> Result<Vec<Referrer>, RegistryError> {
        let tag = list_tag(name, subject)?;
        match self.manifest(&tag) {
            Ok(document) => read(&document.bytes, &format!("reading {tag}")),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// The tag under which a list is kept where the registry keeps none.
fn list_tag(name: &Reference, subject: &Digest) -> Result<Reference, RegistryError> {
    Ok(name.with_tag(&format!("sha256-{}", subject.hex()))?)
}

/// Whether the registry has no such interface. What it says to that differs.
fn does_not_know(error: &RegistryError) -> bool {
    error.is_not_found()
        || matches!(error, RegistryError::Status { status, .. } if matches!(status, 400 | 405 | 406 | 501))
}

fn read(bytes: &[u8], doing: &str) -> Result<Vec<Referrer>, RegistryError> {
    let list: Referrers = serde_json::from_slice(bytes)
        .map_err(|error| refused(doing, format!("it is no list of manifests: {error}")))?;
    Ok(list.manifests)
}
