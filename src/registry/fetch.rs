//! What does a web server have at an address? One file, whatever it takes: redirects, retries, resumption.
//!
//! Invariants:
//! * TLS is verified and never given up on the way;
//! * `Authorization` goes to the origin of the address that the user wrote and nowhere else;
//! * a server that is not on this machine cannot lead to addresses that only this machine reaches, and nobody leads to
//!   link-local ones, where clouds keep the credentials of their machines, without the user's leave;
//! * a file that broke off is continued only when the server says that it is still the same file.

use std::fmt;
use std::time::Duration;

use bytes::{Buf, Bytes};
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LOCATION, RANGE,
};
use reqwest::{Response, StatusCode, Url};
use tokio::sync::mpsc;

use super::client::Registry;
use super::error::RegistryError;
use super::fetched::{Body, Broken, Facts, Fetched, FetchedFile, Validators, is_strong, text};
use super::origin::{is_link_local, is_local, origin_text, same_origin};
use super::retry::{Backoff, Failure, Retry, retry_after};
use super::transport::Exchange;
use super::words::{deepest, refused};

const REDIRECTS: u32 = 10;
/// Without progress.
const ATTEMPTS: u32 = 5;
/// Chunks that wait for their reader; a chunk is what one read gave, at most some 100 KiB.
const QUEUE: usize = 32;

/// How files are fetched.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// The longest time without a byte of progress.
    pub stall_limit: Duration,
    /// Link-local addresses may be asked.
    pub link_local: bool,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            stall_limit: Duration::from_secs(300),
            link_local: false,
        }
    }
}

/// A file to fetch.
#[derive(Clone, Default)]
pub struct FetchRequest {
    /// Its address, without user name and password.
    pub url: String,
    /// Value of the `Authorization` header.
    pub authorization: Option<String>,
    /// What is known of the file already: it is not sent again when it has not changed.
    pub known: Validators,
    /// More bytes than this are refused.
    pub limit: Option<u64>,
    /// Other headers; as `authorization`, they go to no other origin.
    pub headers: Vec<(String, String)>,
    /// What is asked, with POST.
    pub post: Option<Post>,
    /// The address whose server has named this one, which may lead no further than by a redirection.
    pub led_by: Option<String>,
}

/// A question that is sent along.
#[derive(Debug, Clone)]
pub struct Post {
    /// Media type of the question and of the answer.
    pub media_type: &'static str,
    /// The question.
    pub body: String,
}

impl Registry {
    /// Fetches a file of a web server; fails at once when the server does not have it.
    pub fn fetch(&self, request: FetchRequest, options: &FetchOptions) -> Result<Fetched, RegistryError> {
        let options = options.clone();
        self.run(async move |exchange| {
            let doing = format!("fetching {}", request.url);
            let parse = |text: &str| {
                Url::parse(text).map_err(|error| refused(&doing, format!("it is no address: {error}")))
            };
            let mut start = parse(&request.url)?;
            let mut trusted = start.clone();
            if let Some(leader) = &request.led_by {
                trusted = parse(leader)?;
                start = follow(&trusted, &trusted, start.as_str(), options.link_local)
                    .map_err(|reason| refused(&doing, reason))?;
            }
            let transfer = Transfer {
                exchange,
                start,
                trusted,
                doing,
                options,
                request,
            };
            transfer.begin().await
        })
    }
}

struct Transfer {
    exchange: Exchange,
    /// Where the file is asked for first: who we are is told there.
    start: Url,
    /// The address that the user gave, which decides where others may lead.
    trusted: Url,
    doing: String,
    options: FetchOptions,
    request: FetchRequest,
}

impl Transfer {
    async fn begin(self) -> Result<Fetched, RegistryError> {
        let mut headers = HeaderMap::new();
        let known = &self.request.known;
        insert(&mut headers, IF_NONE_MATCH, known.etag.as_deref());
        if known.etag.is_none() {
            insert(&mut headers, IF_MODIFIED_SINCE, known.modified.as_deref());
        }
        let response = self.ask(&headers).await?;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(Fetched::NotModified);
        }
        let file = Facts::of(&response);
        // Some servers do not look at conditions; the file need not come for that.
        if file.validators.etag.as_deref().is_some_and(is_strong) && file.validators.etag == known.etag {
            return Ok(Fetched::NotModified);
        }
        if let (Some(size), Some(limit)) = (file.size, self.request.limit)
            && size > limit
        {
            return Err(self.too_large(limit));
        }
        let (sender, chunks) = mpsc::channel(QUEUE);
        let fetched = FetchedFile {
            validators: file.validators.clone(),
            modified: file.modified,
            size: file.size,
            body: Body::new(chunks),
        };
        tokio::spawn(async move {
            let ended = self.send(response, &file, &sender).await;
            // Nothing more, or why; a reader that went away is no error.
            let _ = sender.send(ended.map(|()| Bytes::new())).await;
        });
        Ok(Fetched::File(fetched))
    }

    /// Feeds the reader; asks for the rest when the connection breaks.
    async fn send(
        &self,
        first: Response,
        file: &Facts,
        chunks: &mpsc::Sender<Result<Bytes, Broken>>,
    ) -> Result<(), Broken> {
        let (mut response, mut offset, mut skip) = (first, 0, 0);
        let mut backoff = Backoff::with_attempts(ATTEMPTS);
        loop {
            let before = offset;
            let failure = match self.copy(response, file, &mut offset, skip, chunks).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            if offset > before {
                backoff.progressed();
            }
            let validator = file.range_validator().filter(|_| self.request.post.is_none());
            let Some(validator) = validator else {
                let restart = failure.retry != Retry::No;
                let error = *failure.error;
                return Err(Broken { error, restart });
            };
            tokio::time::sleep(backoff.pause(failure)?).await;
            let mut headers = HeaderMap::new();
            insert(&mut headers, RANGE, Some(&format!("bytes={offset}-")));
            insert(&mut headers, IF_RANGE, Some(validator));
            response = self.ask(&headers).await?;
            let now = Facts::of(&response);
            skip = if response.status() == StatusCode::PARTIAL_CONTENT {
                self.check_range(&response, offset)?;
                0
            } else if now.validators.etag.as_deref().is_some_and(is_strong)
                && now.validators == file.validators
            {
                // A server without ranges sends everything again.
                offset
            } else {
                return Err(Broken {
                    error: refused(&self.doing, "it changed while it was being fetched".to_owned()),
                    restart: true,
                });
            };
        }
    }

    async fn copy(
        &self,
        mut response: Response,
        file: &Facts,
        offset: &mut u64,
        mut skip: u64,
        chunks: &mpsc::Sender<Result<Bytes, Broken>>,
    ) -> Result<(), Failure> {
        let address = origin_text(response.url());
        loop {
            let mut chunk = match tokio::time::timeout(self.options.stall_limit, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => match file.size {
                    Some(size) if *offset < size => {
                        let reason = format!("{address} sent {offset} of {size} bytes");
                        return Err(Failure::new(refused(&self.doing, reason), Retry::After(None)));
                    }
                    _ => return Ok(()),
                },
                Ok(Err(error)) => return Err(self.network(&address, &error)),
                Err(_) => return Err(self.stalled(&address)),
            };
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            chunk.advance(usize::try_from(skipped).unwrap_or(chunk.len()));
            *offset += chunk.len() as u64;
            if let Some(size) = file.size
                && *offset > size
            {
                let reason = format!("{address} sent more than the {size} bytes that it announced");
                return Err(refused(&self.doing, reason).into());
            }
            if let Some(limit) = self.request.limit
                && *offset > limit
            {
                return Err(self.too_large(limit).into());
            }
            if !chunk.is_empty() && chunks.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
        }
    }

    /// A part that starts elsewhere would be spliced wrongly.
    fn check_range(&self, response: &Response, offset: u64) -> Result<(), RegistryError> {
        let range = text(response, CONTENT_RANGE).unwrap_or_default();
        if range.starts_with(&format!("bytes {offset}-")) {
            return Ok(());
        }
        let address = origin_text(response.url());
        let reason = format!("{address} answered with the range {range:?}");
        Err(refused(&self.doing, reason))
    }

    /// Asks until there is an answer, it fails for good, or has failed too often. The answer is a success, or says that
    /// the file has not changed.
    async fn ask(&self, headers: &HeaderMap) -> Result<Response, RegistryError> {
        let mut backoff = Backoff::with_attempts(ATTEMPTS);
        loop {
            match self.attempt(headers).await {
                Ok(response) => return Ok(response),
                Err(failure) => tokio::time::sleep(backoff.pause(failure)?).await,
            }
        }
    }

    async fn attempt(&self, headers: &HeaderMap) -> Result<Response, Failure> {
        let refuse = |reason| refused(&self.doing, reason);
        if !self.options.link_local && self.trusted.host_str().is_some_and(is_link_local) {
            return Err(refuse(format!("{}{LINK_LOCAL}", origin_text(&self.trusted))).into());
        }
        let mut url = self.start.clone();
        let mut hops = 0;
        loop {
            let response = self.request(&url, headers).await?;
            let status = response.status();
            let location = text(&response, LOCATION);
            let is_redirect = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
            let Some(location) = location.filter(|_| is_redirect) else {
                return self.judge(response, headers);
            };
            hops += 1;
            if hops > REDIRECTS {
                let from = origin_text(&self.start);
                return Err(refuse(format!("{from} redirected more than {REDIRECTS} times")).into());
            }
            if self.request.post.is_some() && !matches!(status.as_u16(), 307 | 308) {
                let from = origin_text(&url);
                return Err(refuse(format!("{from} redirects what it is asked with {status}")).into());
            }
            url = follow(&self.trusted, &url, &location, self.options.link_local).map_err(refuse)?;
        }
    }

    async fn request(&self, url: &Url, headers: &HeaderMap) -> Result<Response, Failure> {
        let local = url.host_str().is_some_and(is_local);
        let trusted = self.trusted.host_str();
        let away = url.host_str() != trusted && !trusted.is_some_and(is_local);
        let client = self.exchange.clients.web(local, self.options.link_local, away)?;
        let mut request = match &self.request.post {
            None => client.get(url.clone()),
            Some(post) => client
                .post(url.clone())
                .header(ACCEPT, post.media_type)
                .header(CONTENT_TYPE, post.media_type)
                .body(post.body.clone()),
        };
        request = request.headers(headers.clone());
        // What is fetched is the file, not how it is sent.
        request = request.header(ACCEPT_ENCODING, "identity");
        if same_origin(url, &self.start) {
            let authorization = self.request.authorization.iter();
            let authorization = authorization.map(|value| (AUTHORIZATION.as_str(), value));
            let others = self
                .request
                .headers
                .iter()
                .map(|(name, value)| (name.as_str(), value));
            for (name, value) in authorization.chain(others) {
                let mut value = HeaderValue::from_str(value).map_err(|_| {
                    refused(&self.doing, "its credentials do not fit into a header".to_owned())
                })?;
                value.set_sensitive(true);
                request = request.header(name, value);
            }
        }
        let address = origin_text(url);
        match tokio::time::timeout(self.options.stall_limit, request.send()).await {
            Ok(result) => result.map_err(|error| self.network(&address, &error)),
            Err(_) => Err(self.stalled(&address)),
        }
    }

    fn judge(&self, response: Response, asked: &HeaderMap) -> Result<Response, Failure> {
        let status = response.status();
        let conditional = asked.contains_key(IF_NONE_MATCH) || asked.contains_key(IF_MODIFIED_SINCE);
        if status.is_success() || (status == StatusCode::NOT_MODIFIED && conditional) {
            return Ok(response);
        }
        let retry = match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Retry::After(retry_after(response.headers()))
            }
            status if status.is_server_error() => Retry::After(retry_after(response.headers())),
            _ => Retry::No,
        };
        let reason = match status {
            StatusCode::UNAUTHORIZED
                if self.request.authorization.is_none() && self.request.post.is_none() =>
            {
                let host = super::origin::authority(&self.start);
                format!(
                    "invalid response status 401: it wants credentials, as the secret HTTP_AUTH_HEADER_{host} or HTTP_AUTH_TOKEN_{host}"
                )
            }
            status => format!("invalid response status {}", status.as_u16()),
        };
        Err(Failure::new(refused(&self.doing, reason), retry))
    }

    fn network(&self, address: &str, error: &reqwest::Error) -> Failure {
        let cause = deepest(error);
        let certificate = cause.contains("certificate");
        let remedy = if certificate {
            "; trust its certificate on this machine"
        } else if error.is_connect() {
            "; check the name, the network and the proxy variables"
        } else {
            ""
        };
        let retry = match (certificate || cause.contains(REFUSED_ADDRESS), error.is_connect()) {
            (true, _) => Retry::No,
            (false, true) => Retry::Connect,
            (false, false) => Retry::After(None),
        };
        let reason = format!("cannot reach {address}: {cause}{remedy}");
        Failure::new(refused(&self.doing, reason), retry)
    }

    fn stalled(&self, address: &str) -> Failure {
        let seconds = self.options.stall_limit.as_secs_f32();
        let reason = format!("{address} sent nothing for {seconds} s");
        Failure::new(refused(&self.doing, reason), Retry::No)
    }

    fn too_large(&self, limit: u64) -> RegistryError {
        refused(&self.doing, format!("it has more than the {limit} bytes allowed"))
    }
}

/// Behind an address that is refused.
const LINK_LOCAL: &str = " is a link-local address, where clouds keep the credentials of machines: allow it with --allow=network.host";
/// In the error of a name that leads to such an address.
pub(super) const REFUSED_ADDRESS: &str = "leads to an address that is not asked";

/// Where a redirection leads.
fn follow(start: &Url, current: &Url, location: &str, link_local: bool) -> Result<Url, String> {
    let from = origin_text(current);
    let mut url = current
        .join(location)
        .map_err(|error| format!("{from} redirects to no address: {error}"))?;
    // A user name in an address would become an `Authorization` that nobody asked for.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    let to = origin_text(&url);
    match url.scheme() {
        "https" => {}
        "http" if current.scheme() == "http" => {}
        "http" => return Err(format!("{from} redirects from https to {to}, which is refused")),
        other => {
            return Err(format!(
                "{from} redirects to an address with the scheme {other:?}, which is refused"
            ));
        }
    }
    let host = url.host_str().unwrap_or_default();
    if is_link_local(host) && !link_local {
        return Err(format!("{from} redirects to {to}, which{LINK_LOCAL}"));
    }
    if is_local(host) && !start.host_str().is_some_and(is_local) {
        return Err(format!(
            "{from} redirects to {to}, an address of this machine, which is refused"
        ));
    }
    Ok(url)
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: Option<&str>) {
    if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
        headers.insert(name, value);
    }
}

impl fmt::Debug for FetchRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchRequest")
            .field("url", &self.url)
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a3_9_a_redirection_leads_not_everywhere() {
        let refuse = |start: &str, location: &str, link_local| {
            let start = Url::parse(start).unwrap();
            follow(&start, &start, location, link_local).err()
        };
        for (start, location) in [
            ("https://h/", "http://h/"),
            ("http://h/", "file:///etc/passwd"),
            ("http://h/", "gopher://h/"),
            ("http://h/", "ftp://h/"),
            ("http://h/", "http://169.254.169.254/latest/meta-data/"),
            ("http://h/", "http://[fe80::1]/"),
            ("http://h/", "http://[fd00:ec2::254]/"),
            ("http://h/", "http://[::ffff:169.254.169.254]/"),
            ("http://h/", "http://0xa9fea9fe/"),
            ("http://h/", "http://127.0.0.1/"),
            ("http://h/", "http://localhost:80/"),
            ("http://127.0.0.1/", "http://169.254.169.254/"),
        ] {
            assert!(refuse(start, location, false).is_some(), "{location}");
        }
        for (start, location) in [
            ("http://h/", "https://g/"),
            ("http://h/", "/x"),
            ("http://h/", "//g/x"),
            ("http://127.0.0.1:1/", "http://localhost:2/"),
        ] {
            assert_eq!(refuse(start, location, false), None, "{location}");
        }
        assert_eq!(refuse("http://h/", "http://169.254.169.254/", true), None);
        let url = Url::parse("https://h/a").unwrap();
        let to = follow(&url, &url, "https://u:p@g/b#c", false).unwrap();
        assert_eq!(to.as_str(), "https://g/b");
    }
}
