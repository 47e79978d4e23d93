//! How does one request get its answer? Schemes, redirects, retries, time limits.
//!
//! Why this is plain `reqwest` and not `oci-client`, `docs/architecture.md` says.
//!
//! Invariants:
//! * `Authorization` is sent to the origin (scheme, host, port) of the registry and nowhere else, whatever redirects
//!   and `Location`s say (CVE-2026-50151, GHSA-vh4v-2xq2-g5cg);
//! * a registry that is not on this machine cannot point at addresses that only this machine reaches;
//! * TLS is never given up on the way; without TLS or verification only loopback hosts and those that the user
//!   named are spoken to. For these https is tried first, then http, as docker does;
//! * nothing waits longer than [`RegistryOptions::stall_limit`] for the next sign of life.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, LOCATION};
use reqwest::{Body, Client, Method, Response, StatusCode, Url};
use tokio::sync::{OnceCell, Semaphore};

use super::auth::AuthState;
use super::certificates;
use super::challenge::Challenge;
use super::client::RegistryOptions;
use super::connection::{Clients, Reach};
use super::credentials::CredentialFiles;
use super::error::RegistryError;
use super::mirror::Decisions;
use super::origin::{
    authority, follow_location, host_of, is_in_network, is_local, origin_text, resolve_target, same_origin,
};
use super::reference::DEFAULT_DOMAIN;
use super::retry::{Backoff, Failure, Patience, Retry, retry_after};
use super::words::{error_detail, lost_blobs, network, refused, stalled};

/// For a host that may or may not speak TLS to say something.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
const REDIRECTS: u32 = 10;
const ERROR_BODY_LIMIT: u64 = 64 << 10;
/// Where docker.io's registry really is.
const DOCKER_IO_ADDRESS: &str = "registry-1.docker.io";

/// What is remembered of registries as long as this process lives.
pub(super) struct Session {
    pub(super) options: RegistryOptions,
    pub(super) credentials: CredentialFiles,
    hosts: Mutex<HashMap<String, Arc<Host>>>,
    /// Mirrors that could not be reached.
    lost: Mutex<HashSet<String>>,
    /// For parts of blobs that wait for their turn.
    pub(super) rooms: Arc<Semaphore>,
    /// What is decided about registries, once somebody asked.
    decided: OnceLock<Result<Decisions, String>>,
}

/// One registry.
pub(super) struct Host {
    /// As references name it.
    pub(super) name: String,
    /// `host[:port]` to connect to.
    pub(super) address: String,
    /// Whether it may be spoken to without TLS or verification.
    pub(super) insecure: bool,
    pub(super) auth: AuthState,
    base: OnceCell<Url>,
}

/// One request, which may be sent more than once.
pub(super) struct Call<'a> {
    /// For errors: `pulling the manifest of x`.
    pub(super) doing: &'a str,
    pub(super) method: Method,
    /// `/v2/...`, or the `Location` that a registry gave.
    pub(super) target: &'a str,
    /// The repository, for the credentials.
    pub(super) repository: &'a str,
    /// What a token has to allow.
    pub(super) scopes: Vec<String>,
    pub(super) headers: HeaderMap,
    /// A small body.
    pub(super) body: Bytes,
}

/// Session and connections together: what an operation needs.
#[derive(Clone)]
pub(super) struct Exchange {
    pub(super) session: Arc<Session>,
    pub(super) clients: Arc<Clients>,
    /// How long it may take.
    pub(super) patience: Patience,
}

impl Session {
    pub(super) fn new(options: RegistryOptions, credentials: CredentialFiles) -> Self {
        Self {
            options,
            credentials,
            hosts: Mutex::default(),
            lost: Mutex::default(),
            rooms: Arc::new(Semaphore::new(super::ahead::ROOM)),
            decided: OnceLock::new(),
        }
    }

    /// The registry that references name `domain`.
    pub(super) fn host(&self, domain: &str) -> Arc<Host> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let host = hosts.entry(domain.to_owned()).or_insert_with(|| {
            let address = if domain == DEFAULT_DOMAIN {
                DOCKER_IO_ADDRESS
            } else {
                domain
            };
            Arc::new(Host {
                name: domain.to_owned(),
                address: address.to_owned(),
                insecure: (is_local(host_of(address)) && !self.is_pinned(address))
                    || self.named_insecure(address),
                auth: AuthState::default(),
                base: OnceCell::new(),
            })
        });
        Arc::clone(host)
    }

    /// Whether the mirror could not be reached before.
    pub(super) fn is_lost(&self, domain: &str) -> bool {
        self.lost
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(domain)
    }

    /// The mirror cannot be reached.
    pub(super) fn lose(&self, domain: &str) {
        self.lost
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(domain.to_owned());
    }

    /// Whether there are certificates for it.
    fn is_pinned(&self, address: &str) -> bool {
        certificates::are_for(&self.options.certificates, address)
    }

    /// All that is decided about registries.
    pub(super) fn decided(&self) -> Result<&Decisions, String> {
        let decide = || {
            let mut decided = match self.options.later {
                Some(read) => read()?,
                None => Decisions {
                    rules: self.options.rules.clone(),
                    ..Decisions::default()
                },
            };
            decided.insecure.extend_from_slice(&self.options.insecure);
            Ok(decided)
        };
        self.decided.get_or_init(decide).as_ref().map_err(Clone::clone)
    }

    /// Whether the user named it: with its port, or without any for all ports.
    fn named_insecure(&self, address: &str) -> bool {
        // What cannot be read is told by whoever looks for places, before.
        let Ok(decided) = self.decided() else { return false };
        decided.insecure.iter().any(|entry| {
            entry == address || entry == host_of(address) || is_in_network(host_of(address), entry)
        })
    }
}

impl Exchange {
    /// Sends `call` until it is answered, fails for good, or has failed too often. The answer is a success (2xx).
    pub(super) async fn call(&self, host: &Host, call: &Call<'_>) -> Result<Response, RegistryError> {
        let mut backoff = self.backoff();
        loop {
            match self.attempt(host, call).await {
                Ok(response) => return Ok(response),
                Err(failure) => tokio::time::sleep(backoff.pause(failure)?).await,
            }
        }
    }

    /// One attempt: follows redirects, and answers one request for authorization.
    async fn attempt(&self, host: &Host, call: &Call<'_>) -> Result<Response, Failure> {
        let base = self.base(host, call.doing).await?;
        let start = resolve_target(host, &base, call.target).map_err(|reason| refused(call.doing, reason))?;
        let mut challenged = false;
        loop {
            let mut url = start.clone();
            let mut hops = 0;
            let response = loop {
                let response = self.send(host, &base, &url, call, None).await?;
                let follow = matches!(call.method, Method::GET | Method::HEAD);
                if !(follow && response.status().is_redirection()) {
                    break response;
                }
                hops += 1;
                let reason = || format!("{} redirected more than {REDIRECTS} times", host.address);
                if hops > REDIRECTS {
                    return Err(refused(call.doing, reason()).into());
                }
                let location = response
                    .headers()
                    .get(LOCATION)
                    .and_then(|value| value.to_str().ok())
                    .unwrap_or("");
                url = follow_location(host, &base, &url, location)
                    .map_err(|reason| refused(call.doing, reason))?;
            };
            if response.status() == StatusCode::UNAUTHORIZED && !challenged && same_origin(&url, &base) {
                challenged = true;
                let challenge = Challenge::from_headers(response.headers());
                self.answer(host, &base, call, challenge).await?;
                continue;
            }
            return self.judge(host, call, response).await;
        }
    }

    /// Sends a body that exists once, to a `Location`; neither repeated nor redirected. Where another token is wanted, it is
    /// there for the next attempt.
    pub(super) async fn send_stream(
        &self,
        host: &Host,
        call: &Call<'_>,
        body: Body,
    ) -> Result<Response, Failure> {
        let base = self.base(host, call.doing).await?;
        let url = resolve_target(host, &base, call.target).map_err(|reason| refused(call.doing, reason))?;
        let response = self.send(host, &base, &url, call, Some(body)).await?;
        let challenge = Challenge::from_headers(response.headers());
        let expired = response.status() == StatusCode::UNAUTHORIZED && same_origin(&url, &base);
        let judged = self.judge(host, call, response).await;
        match judged {
            Err(failure) if expired && challenge.is_some() => {
                self.answer(host, &base, call, challenge).await?;
                let retry = Retry::After(None);
                Err(Failure { retry, ..failure })
            }
            judged => judged,
        }
    }

    async fn send(
        &self,
        host: &Host,
        base: &Url,
        url: &Url,
        call: &Call<'_>,
        stream: Option<Body>,
    ) -> Result<Response, Failure> {
        let address = origin_text(url);
        let client = self.client_for(host, url)?;
        let mut request = client
            .request(call.method.clone(), url.clone())
            .headers(call.headers.clone());
        if same_origin(url, base)
            && let Some(value) = self.authorization(host, base, call).await?
        {
            request = request.header(AUTHORIZATION, value);
        }
        match stream {
            // Its sender watches over the progress.
            Some(body) => request
                .body(body)
                .send()
                .await
                .map_err(|e| network(call.doing, &address, &e)),
            None => {
                if !call.body.is_empty() {
                    request = request.body(call.body.clone());
                } else if matches!(call.method, Method::POST | Method::PUT) {
                    // Some registries want a length on every upload request.
                    request = request.header(reqwest::header::CONTENT_LENGTH, 0);
                }
                self.in_time(call.doing, &address, request.send()).await
            }
        }
    }

    /// Lets successes pass and finds words for everything else.
    async fn judge(&self, host: &Host, call: &Call<'_>, response: Response) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry = match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Retry::After(retry_after(response.headers()))
            }
            status if status.is_server_error() => Retry::After(retry_after(response.headers())),
            _ => Retry::No,
        };
        let address = origin_text(response.url());
        let body = self
            .read_limited(response, ERROR_BODY_LIMIT, call.doing)
            .await
            .unwrap_or_default();
        let (doing, detail) = (call.doing.to_owned(), error_detail(&body));
        let is_manifest = call.method == Method::PUT && call.target.contains("/manifests/");
        if let Some(blobs) = lost_blobs(&body).filter(|_| is_manifest) {
            let error = RegistryError::LostBlobs {
                doing,
                host: address,
                blobs,
                detail,
            };
            return Err(Failure::new(error, Retry::No));
        }
        let error = match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound {
                doing,
                host: address,
                detail,
            },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let remedy = self.login_remedy(host, call.repository).await;
                RegistryError::Denied {
                    doing,
                    host: address,
                    detail,
                    remedy,
                }
            }
            status => RegistryError::Status {
                doing,
                host: address,
                status: status.as_u16(),
                detail,
            },
        };
        Err(Failure::new(error, retry))
    }

    /// The address of a registry. An insecure one is asked which scheme it speaks.
    pub(super) async fn base(&self, host: &Host, doing: &str) -> Result<Url, Failure> {
        let url = |scheme: &str| {
            Url::parse(&format!("{scheme}://{}/", host.address))
                .map_err(|e| refused(doing, format!("{:?} is no address: {e}", host.address)))
        };
        let find = async || -> Result<Url, Failure> {
            let secure = url("https")?;
            if !host.insecure || self.probe(doing, &secure).await.is_ok() {
                return Ok(secure);
            }
            let plain = url("http")?;
            self.probe(doing, &plain).await?;
            Ok(plain)
        };
        host.base.get_or_try_init(find).await.cloned()
    }

    async fn probe(&self, doing: &str, base: &Url) -> Result<(), Failure> {
        let address = origin_text(base);
        let url = base.join("v2/").map_err(|e| refused(doing, e.to_string()))?;
        let reach = if is_local(host_of(&authority(base))) {
            Reach::Local
        } else {
            Reach::Unverified
        };
        let limit = PROBE_LIMIT.min(self.stall_limit());
        match tokio::time::timeout(limit, self.clients.get(reach)?.get(url).send()).await {
            // What servers of TLS say to those that speak without: the attempt with TLS failed for another reason.
            Ok(Ok(answer)) if base.scheme() == "http" && answer.status() == StatusCode::BAD_REQUEST => {
                let reason = format!("{address} does not answer without TLS");
                Err(Failure::new(refused(doing, reason), Retry::After(None)))
            }
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(network(doing, &address, &error)),
            // Somebody is there and says nothing, neither so nor so.
            Err(_) => Err(Failure {
                retry: Retry::Connect,
                ..stalled(doing, &address, limit)
            }),
        }
    }

    /// This with as much patience as that.
    pub(super) fn with_patience(&self, patience: Patience) -> Self {
        Self {
            patience,
            ..self.clone()
        }
    }

    /// How an operation waits between its attempts.
    pub(super) fn backoff(&self) -> Backoff {
        self.patience.backoff()
    }

    /// Without a byte of progress.
    pub(super) fn stall_limit(&self) -> Duration {
        self.session.options.stall_limit
    }

    /// What `step` gives, unless it takes too long.
    pub(super) async fn in_time<T>(
        &self,
        doing: &str,
        address: &str,
        step: impl Future<Output = Result<T, reqwest::Error>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(self.stall_limit(), step).await {
            Ok(result) => result.map_err(|e| network(doing, address, &e)),
            Err(_) => Err(stalled(doing, address, self.stall_limit())),
        }
    }

    /// The body, unless it is longer than `limit`.
    pub(super) async fn read_limited(
        &self,
        mut response: Response,
        limit: u64,
        doing: &str,
    ) -> Result<Vec<u8>, Failure> {
        let address = origin_text(response.url());
        let too_long = || refused(doing, format!("{address} sent more than {limit} bytes"));
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_long().into());
        }
        let mut body = Vec::new();
        while let Some(chunk) = self.in_time(doing, &address, response.chunk()).await? {
            body.extend_from_slice(&chunk);
            if body.len() as u64 > limit {
                return Err(too_long().into());
            }
        }
        Ok(body)
    }

    /// Verifies certificates unless `url` is on an insecure host.
    pub(super) fn client_for(&self, host: &Host, url: &Url) -> Result<Client, RegistryError> {
        let address = authority(url);
        let named = (host.insecure && address == host.address) || self.session.named_insecure(&address);
        let reach = match (is_local(host_of(&address)), named) {
            (true, false) if self.session.is_pinned(&address) => Reach::VerifiedLocal,
            (true, _) => Reach::Local,
            (false, true) => Reach::Unverified,
            (false, false) => Reach::Verified,
        };
        let directories = &self.session.options.certificates;
        match self.clients.own(directories, &address, reach)? {
            Some(client) => Ok(client),
            None => self.clients.get(reach).cloned(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn session(insecure: &[&str]) -> Session {
        let options = RegistryOptions {
            insecure: insecure.iter().map(|s| (*s).to_owned()).collect(),
            ..RegistryOptions::default()
        };
        Session::new(options, CredentialFiles::default())
    }

    #[test]
    fn only_loopback_and_named_hosts_are_insecure() {
        let session = session(&["build.lan:5000", "old.lan"]);
        for (host, insecure) in [
            ("localhost:5000", true),
            ("127.8.9.1", true),
            ("[::1]:5000", true),
            ("build.lan:5000", true),
            ("build.lan", false),
            ("build.lan:5001", false),
            ("old.lan:77", true),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("docker.io", false),
        ] {
            assert_eq!(session.host(host).insecure, insecure, "{host}");
        }
        assert_eq!(session.host("docker.io").address, "registry-1.docker.io");
    }
}
