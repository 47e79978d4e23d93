//! What does a registry have? Blocking operations over HTTP that any thread may call at once.
//!
//! The async code runs on one thread of its own, which starts with the first operation. The main
//! process has to be single-threaded when it enters its namespaces, so [`Registry::quiesce`] ends
//! that thread and all that it started; what was learned (tokens, schemes) stays.
//!
//! Invariant: what is returned as having a digest has it; a stream is checked when it ends.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use rbuild_cache::{Descriptor, Digest};
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response};
use tokio::sync::{mpsc, oneshot};

use super::connection::Clients;
use super::credentials::CredentialFiles;
use super::document::{Document, MANIFEST_LIMIT, MANIFEST_TYPES, Reading};
use super::download::{BlobReader, Download};
use super::error::RegistryError;
use super::mirror::{Decisions, Place, Rules, is_short};
use super::origin::origin_text;
use super::reference::Reference;
use super::retry::{Failure, Patience, Retry};
use super::transport::{Call, Exchange, Host, Session, refused};
use crate::graph::Platform;

const DIGEST_HEADER: &str = "docker-content-digest";
/// Chunks of a download that wait for their reader; a chunk is what one read gave, at most some 100 KiB.
const DOWNLOAD_QUEUE: usize = 32;
/// An index may name an index, but not for ever.
const INDEX_DEPTH: usize = 3;

/// How to talk to registries.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// `host[:port]` that may be spoken to without TLS, or with a certificate that nobody vouches for.
    /// Hosts of this machine always may.
    pub insecure: Vec<String>,
    /// Mirrors, moved and blocked registries, short names.
    pub rules: Rules,
    /// Reads what is decided instead of `rules`, when it first matters: before a registry is asked, or a name without one is
    /// understood.
    pub later: Option<fn() -> Result<Decisions, String>>,
    /// Where certificates for single hosts are ([`super::certificates`]).
    pub certificates: Vec<PathBuf>,
    /// The longest time without a byte of progress.
    pub stall_limit: Duration,
    /// Blobs larger than this are sent in parts of it.
    pub upload_part: u64,
    /// A blob from a slow connection comes over several, in parts of this.
    pub download_part: u64,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            rules: Rules::default(),
            later: None,
            certificates: super::certificates::usual_directories(),
            stall_limit: Duration::from_secs(60),
            upload_part: 64 << 20,
            download_part: 8 << 20,
        }
    }
}

/// A client of all registries. Cheap to clone; made without I/O.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    session: Arc<Session>,
    engine: Mutex<Option<Engine>>,
}

/// The thread that runs the async code.
struct Engine {
    exchange: Exchange,
    handle: tokio::runtime::Handle,
    /// Dropped to end it.
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// A platform's manifest, and the index that named it.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The index, when the reference named one.
    pub index: Option<Document>,
    /// The manifest of the platform.
    pub manifest: Document,
}

/// A host that is asked for an image.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The place, and what is asked for there.
    pub place: Place,
    /// `HOST[:PORT]` that is connected to.
    pub address: String,
    /// Whether it may be spoken to without TLS or verification.
    pub insecure: bool,
    /// Whether there are certificates for it alone.
    pub certificates: bool,
    /// Whose credentials it is shown, and from where they are; never the secret.
    pub credentials: Option<String>,
}

impl Registry {
    /// A client; nothing is connected, read or started.
    pub fn new(options: RegistryOptions) -> Self {
        Self::with_credentials(options, CredentialFiles::from_environment())
    }

    /// The same with credentials of these files only.
    pub fn with_credentials(options: RegistryOptions, credentials: CredentialFiles) -> Self {
        let session = Arc::new(Session::new(options, credentials));
        Self(Arc::new(Inner {
            session,
            engine: Mutex::new(None),
        }))
    }

    /// Ends all connections and joins all threads of this client: afterwards the process has no thread of it.
    /// A later operation starts again. Transfers that are running fail.
    pub fn quiesce(&self) {
        let engine = self
            .0
            .engine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(engine) = engine {
            drop(engine.stop);
            let _ = engine.thread.join();
        }
    }

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

    /// A small blob in memory, verified.
    pub fn small_blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let doing = format!("pulling {} of {reference}", blob.digest);
        if blob.size > limit {
            return Err(refused(
                &doing,
                format!("its {} bytes are more than the {limit} allowed", blob.size),
            ));
        }
        self.anywhere(reference, &doing, |place| {
            self.small_blob_at(place, blob, doing.clone())
        })
    }

    fn small_blob_at(
        &self,
        place: &Place,
        blob: &Descriptor,
        doing: String,
    ) -> Result<Vec<u8>, RegistryError> {
        let (reference, blob) = (place.reference.clone(), blob.clone());
        let attempt = async move |exchange: Exchange| -> Result<Vec<u8>, Failure> {
            let host = exchange.session.host(reference.domain());
            let response =
                blob_response(&exchange, &host, &reference, &blob.digest, (0, None), &doing).await?;
            let address = origin_text(response.url());
            let bytes = exchange.read_limited(response, blob.size, &doing).await?;
            let actual = Digest::of(&bytes);
            if actual != blob.digest {
                let doing = doing.clone();
                let error = RegistryError::Digest {
                    doing,
                    host: address,
                    expected: blob.digest,
                    actual,
                };
                return Err(error.into());
            }
            Ok(bytes)
        };
        self.run_at(place, move |exchange| again(exchange, attempt))
    }

    /// A blob of the repository of `reference` as a stream. Fails at once when the registry does not have it.
    pub fn blob(
        &self,
        reference: &Reference,
        digest: &Digest,
        size: u64,
    ) -> Result<BlobReader, RegistryError> {
        let doing = format!("pulling {digest} of {}", reference.name());
        self.anywhere(&reference.with_digest(*digest), &doing, |place| {
            self.blob_at(place, digest, size, doing.clone())
        })
    }

    fn blob_at(
        &self,
        place: &Place,
        digest: &Digest,
        size: u64,
        doing: String,
    ) -> Result<BlobReader, RegistryError> {
        let (chunks, receiver) = mpsc::channel(DOWNLOAD_QUEUE);
        let (reference, expected) = (place.reference.clone(), *digest);
        let name = doing.clone();
        self.run_at(place, async move |exchange| {
            let host = exchange.session.host(reference.domain());
            let response = blob_response(&exchange, &host, &reference, &expected, (0, None), &doing).await?;
            tokio::spawn(async move {
                let download = Download {
                    exchange: exchange.with_patience(Patience::Usual),
                    host,
                    reference,
                    digest: expected,
                    size,
                    doing,
                };
                // A reader that went away is no error.
                if let Err(error) = download.run(response, &chunks).await {
                    let _ = chunks.send(Err(io::Error::other(error))).await;
                }
            });
            Ok(())
        })?;
        Ok(BlobReader::new(receiver, size, expected, name))
    }

    /// Asks for `reference` at one place after the other. Mirrors that cannot be reached are not asked again.
    fn anywhere<T>(
        &self,
        reference: &Reference,
        doing: &str,
        ask: impl Fn(&Place) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut failures: Vec<String> = Vec::new();
        let session = &self.0.session;
        for place in self.places(reference, doing)? {
            let host = place.reference.domain();
            if place.is_mirror && session.is_lost(host) {
                continue;
            }
            match ask(&place) {
                Err(error) if place.is_mirror && error.is_of_this_place() => {
                    if matches!(error, RegistryError::Network { .. }) {
                        session.lose(host);
                    }
                    failures.push(error.to_string());
                }
                Err(error) if !failures.is_empty() => {
                    return Err(RegistryError::Everywhere {
                        error: Box::new(error),
                        mirrors: failures.join("; "),
                    });
                }
                result => return result,
            }
        }
        Err(refused(doing, "nobody is left to be asked".to_owned()))
    }

    /// Where `reference` is looked for.
    pub(super) fn places(&self, reference: &Reference, doing: &str) -> Result<Vec<Place>, RegistryError> {
        let decided = self.0.session.decided();
        let places = decided.and_then(|decided| decided.rules.places(reference));
        places.map_err(|reason| refused(doing, reason))
    }

    fn run_at<T, F>(&self, place: &Place, operation: impl FnOnce(Exchange) -> F) -> Result<T, RegistryError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, RegistryError>> + Send + 'static,
    {
        let patience = if place.is_mirror {
            Patience::Hasty
        } else {
            Patience::Usual
        };
        self.run(move |exchange| operation(exchange.with_patience(patience)))
    }

    /// Whether `host` lets us in, as far as it wants to know who we are (`/v2/`).
    pub fn ping(&self, host: &str) -> Result<(), RegistryError> {
        self.get(host, "/v2/".to_owned(), format!("logging in to {host}"))
            .map(drop)
    }

    /// A small answer of a registry's API that is about no repository.
    pub fn get(&self, host: &str, target: String, doing: String) -> Result<Vec<u8>, RegistryError> {
        let host = host.to_owned();
        let attempt = async move |exchange: Exchange| -> Result<Vec<u8>, Failure> {
            let host = exchange.session.host(&host);
            let call = Call {
                doing: &doing,
                method: Method::GET,
                target: &target,
                repository: "",
                scopes: Vec::new(),
                headers: HeaderMap::new(),
                body: Bytes::new(),
            };
            let response = exchange.call(&host, &call).await?;
            exchange.read_limited(response, MANIFEST_LIMIT, &doing).await
        };
        self.run(move |exchange| again(exchange, attempt))
    }

    /// What `text` names: short names mean what the configuration says.
    pub fn parse(&self, text: &str) -> Result<Reference, RegistryError> {
        if !is_short(text) {
            return Ok(Reference::parse(text)?);
        }
        Ok(self.decisions(text)?.rules.parse(text)?)
    }

    /// The file of another program that gives the short name `text` another meaning than docker's.
    pub fn renamed_by(&self, text: &str) -> Result<Option<&Path>, RegistryError> {
        if !is_short(text) {
            return Ok(None);
        }
        let rules = &self.decisions(text)?.rules;
        let file = rules.alias(text).and_then(|(alias, _)| alias.file.as_deref());
        Ok(file.filter(|_| rules.parse(text) != Reference::parse(text)))
    }

    /// The files that were read when it first mattered what is decided about registries.
    pub fn files(&self) -> Result<&[PathBuf], RegistryError> {
        Ok(&self.decisions("registries")?.files)
    }

    fn decisions(&self, about: &str) -> Result<&Decisions, RegistryError> {
        let decided = self.0.session.decided();
        decided.map_err(|reason| refused(&format!("looking what is decided about {about}"), reason))
    }

    /// Which hosts are asked for `reference`, in which order, and how; nobody is asked for that.
    pub fn explain(&self, reference: &Reference) -> Result<Vec<Asked>, RegistryError> {
        let session = &self.0.session;
        let doing = format!("looking where {reference} is");
        let places = self.places(reference, &doing)?;
        let explain = |place: Place| {
            let host = session.host(place.reference.domain());
            let credentials = session
                .credentials
                .explain(&host.name, place.reference.repository())?;
            Ok(Asked {
                address: host.address.clone(),
                insecure: host.insecure,
                certificates: super::certificates::are_for(&session.options.certificates, &host.address),
                credentials,
                place,
            })
        };
        places.into_iter().map(explain).collect()
    }

    pub(super) fn options(&self) -> &RegistryOptions {
        &self.0.session.options
    }

    /// Runs an operation on the engine's thread and waits for it.
    pub(super) fn run<T, F>(&self, operation: impl FnOnce(Exchange) -> F) -> Result<T, RegistryError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, RegistryError>> + Send + 'static,
    {
        let (handle, exchange) = self.engine()?;
        let (sender, receiver) = oneshot::channel();
        let operation = operation(exchange);
        handle.spawn(async move {
            let _ = sender.send(operation.await);
        });
        receiver.blocking_recv().unwrap_or_else(|_| Err(ended()))
    }

    /// The runtime and what to use on it; started when there is none.
    pub(super) fn engine(&self) -> Result<(tokio::runtime::Handle, Exchange), RegistryError> {
        let mut slot = self.0.engine.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = slot.as_ref() {
            return Ok((engine.handle.clone(), engine.exchange.clone()));
        }
        let start = |e: io::Error| RegistryError::Start(e.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(start)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        // Dropping the runtime, on that thread, waits for the threads that look up names.
        let body = move || {
            let _ = runtime.block_on(stopped);
        };
        let thread = std::thread::Builder::new()
            .name("registry".to_owned())
            .spawn(body)
            .map_err(start)?;
        let exchange = Exchange {
            session: Arc::clone(&self.0.session),
            clients: Arc::new(Clients::default()),
            patience: Patience::Usual,
        };
        *slot = Some(Engine {
            exchange: exchange.clone(),
            handle: handle.clone(),
            stop,
            thread,
        });
        Ok((handle, exchange))
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("options", &self.0.session.options)
            .finish_non_exhaustive()
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

/// The bytes of a blob from the first place on, to the end or before the second place.
pub(super) async fn blob_response(
    exchange: &Exchange,
    host: &Host,
    reference: &Reference,
    digest: &Digest,
    (from, to): (u64, Option<u64>),
    doing: &str,
) -> Result<Response, RegistryError> {
    let mut headers = HeaderMap::new();
    let last = to.map_or_else(String::new, |to| to.saturating_sub(1).to_string());
    if (from > 0 || to.is_some())
        && let Ok(value) = HeaderValue::from_str(&format!("bytes={from}-{last}"))
    {
        headers.insert(RANGE, value);
    }
    let call = Call {
        doing,
        method: Method::GET,
        target: &format!("/v2/{}/blobs/{digest}", reference.repository()),
        repository: reference.repository(),
        scopes: vec![pull_scope(reference.repository())],
        headers,
        body: Bytes::new(),
    };
    exchange.call(host, &call).await
}

/// What `attempt` gives, once it is whole. Bytes with another digest than they have to have may have been damaged on the
/// way: they come once more, not for ever.
pub(super) async fn again<T>(
    exchange: Exchange,
    attempt: impl AsyncFn(Exchange) -> Result<T, Failure>,
) -> Result<T, RegistryError> {
    let mut backoff = exchange.backoff();
    let mut damaged = false;
    loop {
        let mut failure = match attempt(exchange.clone()).await {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        if matches!(*failure.error, RegistryError::Digest { .. }) && !damaged {
            damaged = true;
            failure.retry = Retry::After(None);
        }
        tokio::time::sleep(backoff.pause(failure)?).await;
    }
}

pub(super) fn pull_scope(repository: &str) -> String {
    format!("repository:{repository}:pull")
}

pub(super) fn ended() -> RegistryError {
    RegistryError::Start("the client was shut down while it was working".to_owned())
}
