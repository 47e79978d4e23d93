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
use reqwest::Method;
use reqwest::header::HeaderMap;
use tokio::sync::oneshot;

use super::connection::Clients;
use super::credentials::CredentialFiles;
use super::document::MANIFEST_LIMIT;
use super::error::RegistryError;
use super::mirror::{Decisions, Place, Rules, is_short};
use super::reference::Reference;
use super::retry::{Failure, Patience, Retry};
use super::transport::{Call, Exchange, Session};
use super::words::refused;

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

    /// Asks for `reference` at one place after the other. Mirrors that cannot be reached are not asked again.
    pub(super) fn anywhere<T>(
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

    pub(super) fn run_at<T, F>(
        &self,
        place: &Place,
        operation: impl FnOnce(Exchange) -> F,
    ) -> Result<T, RegistryError>
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
