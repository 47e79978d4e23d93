//! Which manifest does a name lead to, and which of an index is for a platform?

use bytes::Bytes;
use rbuild_cache::{Descriptor, Digest};
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response};

use super::client::{Registry, again, pull_scope};
use super::document::{Document, MANIFEST_LIMIT, MANIFEST_TYPES, Reading};
use super::error::RegistryError;
use super::mirror::Place;
use super::origin::origin_text;
use super::reference::Reference;
use super::retry::Failure;
use super::transport::{Call, Exchange};
use super::words::refused;
use crate::graph::Platform;

const DIGEST_HEADER: &str = "docker-content-digest";
/// An index may name an index, but not for ever.
const INDEX_DEPTH: usize = 3;

/// A platform's manifest, and the index that named it.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The index, when the reference named one.
    pub index: Option<Document>,
    /// The manifest of the platform.
    pub manifest: Document,
}

impl Registry {
    /// What `reference` names now, without fetching it (HEAD). `None` when the registry does not say.
    pub fn head_manifest(&self, reference: &Reference) -> Result<Option<Descriptor>, RegistryError> {
        let doing = format!("looking up {reference}");
        self.anywhere(reference, &doing, |place| self.head_at(place, doing.clone()))
    }

    fn head_at(&self, place: &Place, doing: String) -> Result<Option<Descriptor>, RegistryError> {
        let reference = place.reference.clone();
        self.run_at(place, async move |exchange| {
            let response = manifest_response(&exchange, &reference, Method::HEAD, &doing).await?;
            let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
            let digest = text(DIGEST_HEADER).and_then(|text| text.parse::<Digest>().ok());
            // The length of a body that does not come is not in `content_length()`.
            let size = text(CONTENT_LENGTH.as_str()).and_then(|text| text.parse().ok());
            let media_type = text(CONTENT_TYPE.as_str()).map(str::to_owned);
            let (Some(digest), Some(size), Some(media_type)) = (digest, size, media_type) else {
                return Ok(None);
            };
            if let Some(expected) = reference.digest()
                && *expected != digest
            {
                let host = origin_text(response.url());
                return Err(RegistryError::Digest {
                    doing,
                    host,
                    expected: *expected,
                    actual: digest,
                });
            }
            Ok(Some(Descriptor {
                media_type,
                digest,
                size,
            }))
        })
    }

    /// The manifest or index that `reference` names; its digest wins over its tag and is verified.
    pub fn manifest(&self, reference: &Reference) -> Result<Document, RegistryError> {
        let doing = format!("pulling the manifest of {reference}");
        self.anywhere(reference, &doing, |place| self.manifest_at(place, doing.clone()))
    }

    fn manifest_at(&self, place: &Place, doing: String) -> Result<Document, RegistryError> {
        let reference = place.reference.clone();
        let attempt = async move |exchange: Exchange| -> Result<Document, Failure> {
            let response = manifest_response(&exchange, &reference, Method::GET, &doing).await?;
            let host = origin_text(response.url());
            let headers = response.headers().clone();
            let bytes = exchange.read_limited(response, MANIFEST_LIMIT, &doing).await?;
            let actual = Digest::of(&bytes);
            let said = headers
                .get(DIGEST_HEADER)
                .and_then(|value| value.to_str().ok())
                .and_then(|t| t.parse().ok());
            // Without a digest in the name the header tells at least of damage on the way.
            if let Some(expected) = reference.digest().copied().or(said)
                && expected != actual
            {
                let doing = doing.clone();
                let error = RegistryError::Digest {
                    doing,
                    host,
                    expected,
                    actual,
                };
                return Err(error.into());
            }
            let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
            Ok(Document::new(bytes, media_type).map_err(|reason| refused(&doing, reason))?)
        };
        self.run_at(place, move |exchange| again(exchange, attempt))
    }

    /// The manifest of `reference` for `platform` (spec F9): an index must have a match, a single
    /// manifest is taken whatever its platform.
    pub fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<Resolved, RegistryError> {
        let document = self.manifest(reference)?;
        self.resolve_document(reference, document, platform)
    }

    /// [`Self::resolve`] when the document that `reference` names is here already.
    pub fn resolve_document(
        &self,
        reference: &Reference,
        document: Document,
        platform: &Platform,
    ) -> Result<Resolved, RegistryError> {
        let fetch = |entry: &Descriptor| self.manifest(&reference.with_digest(entry.digest));
        select_platform(&reference.to_string(), document, platform, &fetch)
    }
}

/// Follows `document` through its indexes to the manifest for `platform`; `fetch` gets the entries.
pub fn select_platform<E: From<RegistryError>>(
    name: &str,
    document: Document,
    platform: &Platform,
    fetch: &dyn Fn(&Descriptor) -> Result<Document, E>,
) -> Result<Resolved, E> {
    let refuse = |reason| refused(&format!("reading the manifest of {name}"), reason);
    let mut resolved = Resolved {
        index: None,
        manifest: document,
    };
    for _ in 0..=INDEX_DEPTH {
        let index = match resolved.manifest.read().map_err(refuse)? {
            Reading::Manifest(_) => return Ok(resolved),
            Reading::Index(index) => index,
        };
        let Some(entry) = index.select(platform) else {
            let (reference, wanted) = (name.to_owned(), platform.to_string());
            return Err(RegistryError::Platform {
                reference,
                wanted,
                offered: index.offered(),
            }
            .into());
        };
        let child = fetch(&entry.descriptor)?;
        if child.descriptor != entry.descriptor {
            let (said, is) = (&entry.descriptor, &child.descriptor);
            let reason = format!(
                "its index says {} bytes of {} for {}, but it is {} bytes of {} with digest {}",
                said.size, said.media_type, said.digest, is.size, is.media_type, is.digest
            );
            return Err(refuse(reason).into());
        }
        let outer = resolved.index.take();
        resolved = Resolved {
            index: outer.or(Some(resolved.manifest)),
            manifest: child,
        };
    }
    Err(refuse("its indexes are nested too deeply".to_owned()).into())
}

async fn manifest_response(
    exchange: &Exchange,
    reference: &Reference,
    method: Method,
    doing: &str,
) -> Result<Response, RegistryError> {
    let version = match reference.digest() {
        Some(digest) => digest.to_string(),
        None => reference.tag().unwrap_or("latest").to_owned(),
    };
    let mut headers = HeaderMap::new();
    for media_type in MANIFEST_TYPES {
        headers.append(ACCEPT, HeaderValue::from_static(media_type));
    }
    let host = exchange.session.host(reference.domain());
    let call = Call {
        doing,
        method,
        target: &format!("/v2/{}/manifests/{version}", reference.repository()),
        repository: reference.repository(),
        scopes: vec![pull_scope(reference.repository())],
        headers,
        body: Bytes::new(),
    };
    exchange.call(&host, &call).await
}
