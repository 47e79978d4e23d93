//! How does an image get into a registry? Blobs first, in parallel: what is there is not sent, what
//! lies in another repository of the same registry is mounted, the rest is streamed. Then the
//! manifest, byte for byte: an interrupted push leaves no tag behind.

use std::fmt;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use rbuild_cache::Digest;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Body, Method, StatusCode, Url};
use tokio::sync::{mpsc, oneshot};

use super::client::{Registry, ended, pull_scope};
use super::error::RegistryError;
use super::reference::Reference;
use super::transport::{Call, Exchange, Failure, Retry, STALL_LIMIT, pause, refused, stalled};

const CHUNK: usize = 128 << 10;
/// Chunks between the reader and the connection.
const UPLOAD_QUEUE: usize = 8;
/// Blobs on their way at once.
const PARALLEL: usize = 4;
/// A registry may move a large blob to its place before it answers.
const COMMIT_LIMIT: Duration = Duration::from_secs(300);

/// Opens a blob to be sent; called again after a network error.
pub type OpenBlob<'a> = Box<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync + 'a>;

/// A blob that a manifest names.
pub struct PushBlob<'a> {
    /// Digest.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Its bytes.
    pub open: OpenBlob<'a>,
    /// Where it may be already, `host/repository`; those on other hosts are ignored.
    pub mount_from: Vec<String>,
}

/// What became of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transferred {
    /// It was there.
    Present,
    /// It was mounted from another repository.
    Mounted,
    /// It was sent.
    Sent,
}

impl fmt::Debug for PushBlob<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushBlob")
            .field("digest", &self.digest)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// What beginning an upload led to.
enum Begun {
    Present,
    Mounted,
    /// Where to send the bytes.
    Location(String),
}

impl Registry {
    /// Makes a blob present in the repository of `to`. `progress` is told bytes sent so far.
    pub fn push_blob(
        &self,
        to: &Reference,
        blob: &PushBlob<'_>,
        progress: &dyn Fn(u64),
    ) -> Result<Transferred, RegistryError> {
        let doing = format!("pushing {} to {}", blob.digest, to.name());
        // On the same registry and not the target itself.
        let from = blob.mount_from.iter().find_map(|origin| {
            let repository = origin.strip_prefix(to.domain())?.strip_prefix('/')?;
            (repository != to.repository()).then(|| repository.to_owned())
        });
        let mut attempt = 1;
        loop {
            let upload = Upload {
                to: to.clone(),
                digest: blob.digest,
                doing: doing.clone(),
            };
            let mount = from.clone();
            let begun = self.run(async move |exchange| upload.begin(&exchange, mount.as_deref()).await)?;
            let location = match begun {
                Begun::Present => return Ok(Transferred::Present),
                Begun::Mounted => return Ok(Transferred::Mounted),
                Begun::Location(location) => location,
            };
            let upload = Upload {
                to: to.clone(),
                digest: blob.digest,
                doing: doing.clone(),
            };
            let failure = match self.stream(upload, location, blob, progress) {
                Ok(()) => return Ok(Transferred::Sent),
                Err(failure) => failure,
            };
            let retry = if failure.retry == Retry::Connect {
                Retry::After(None)
            } else {
                failure.retry
            };
            match pause(retry, attempt) {
                Some(pause) => std::thread::sleep(pause),
                None => return Err(*failure.error),
            }
            attempt += 1;
        }
    }

    /// Stores a manifest or index under the tag of `to`, or under its digest when `to` has no tag.
    pub fn push_manifest(
        &self,
        to: &Reference,
        media_type: &str,
        manifest: &[u8],
    ) -> Result<Digest, RegistryError> {
        let doing = format!("pushing the manifest of {to}");
        let digest = Digest::of(manifest);
        let (to, body) = (to.clone(), Bytes::copy_from_slice(manifest));
        let media_type = HeaderValue::from_str(media_type).map_err(|e| refused(&doing, e.to_string()))?;
        self.run(async move |exchange| {
            let version = to.tag().map_or_else(|| digest.to_string(), str::to_owned);
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, media_type);
            let call = Call {
                doing: &doing,
                method: Method::PUT,
                target: &format!("/v2/{}/manifests/{version}", to.repository()),
                repository: to.repository(),
                scopes: vec![push_scope(to.repository())],
                headers,
                body,
            };
            let host = exchange.session.host(to.domain());
            let response = exchange.call(&host, &call).await?;
            let said = response
                .headers()
                .get("docker-content-digest")
                .and_then(|value| value.to_str().ok());
            match said.and_then(|text| text.parse::<Digest>().ok()) {
                Some(actual) if actual != digest => Err(RegistryError::Digest {
                    doing,
                    host: host.address.clone(),
                    expected: digest,
                    actual,
                }),
                _ => Ok(digest),
            }
        })
    }

    /// Sends `blobs` in parallel, then the manifest. `progress` is told a blob's digest, bytes done and its size.
    pub fn push_image(
        &self,
        to: &Reference,
        media_type: &str,
        manifest: &[u8],
        blobs: &[PushBlob<'_>],
        progress: &(dyn Fn(&Digest, u64, u64) + Sync),
    ) -> Result<Digest, RegistryError> {
        // One layer may be in an image more than once.
        let mut seen = std::collections::BTreeSet::new();
        let blobs: Vec<&PushBlob<'_>> = blobs.iter().filter(|blob| seen.insert(blob.digest)).collect();
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<RegistryError>> = Mutex::new(None);
        let work = || {
            while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.push_blob(to, blob, &|sent| progress(&blob.digest, sent, blob.size)) {
                    Ok(_) => progress(&blob.digest, blob.size, blob.size),
                    Err(error) => {
                        // The others end with what they are at.
                        next.store(blobs.len(), Ordering::Relaxed);
                        failed
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .get_or_insert(error);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..PARALLEL.min(blobs.len()) {
                scope.spawn(work);
            }
            work();
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => self.push_manifest(to, media_type, manifest),
        }
    }

    /// Reads the blob on this thread while the engine sends it.
    fn stream(
        &self,
        upload: Upload,
        location: String,
        blob: &PushBlob<'_>,
        progress: &dyn Fn(u64),
    ) -> Result<(), Failure> {
        let (handle, exchange) = self.engine()?;
        let (chunks, receiver) = mpsc::channel(UPLOAD_QUEUE);
        let (sender, outcome) = oneshot::channel();
        let body = Body::wrap(ChannelBody {
            chunks: receiver,
            remaining: blob.size,
        });
        // The watch ends the upload when the connection takes nothing any more.
        let (beat, watch) = mpsc::channel(1);
        handle.spawn(async move {
            let _ = sender.send(upload.send(&exchange, &location, body, watch).await);
        });
        let mut reader = (blob.open)().map_err(RegistryError::Source)?;
        let mut sent = 0;
        loop {
            let mut chunk = vec![0; CHUNK];
            let mut filled = 0;
            while filled < CHUNK {
                match reader.read(&mut chunk[filled..]) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(RegistryError::Source(e).into()),
                }
            }
            if filled == 0 {
                break;
            }
            chunk.truncate(filled);
            // Refused when the registry has answered already; why, it says below.
            if chunks.blocking_send(Bytes::from(chunk)).is_err() {
                break;
            }
            let _ = beat.try_send(());
            sent += filled as u64;
            progress(sent.min(blob.size));
        }
        drop(chunks);
        drop(beat);
        outcome.blocking_recv().unwrap_or_else(|_| Err(ended().into()))
    }
}

/// One blob on its way up.
struct Upload {
    to: Reference,
    digest: Digest,
    doing: String,
}

impl Upload {
    fn call<'a>(&'a self, method: Method, target: &'a str, from: Option<&str>) -> Call<'a> {
        let mut scopes = vec![push_scope(self.to.repository())];
        scopes.extend(from.map(pull_scope));
        let repository = self.to.repository();
        Call {
            doing: &self.doing,
            method,
            target,
            repository,
            scopes,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    /// Asks whether the blob is there, tries to mount it, begins an upload.
    async fn begin(&self, exchange: &Exchange, from: Option<&str>) -> Result<Begun, RegistryError> {
        let host = exchange.session.host(self.to.domain());
        let repository = self.to.repository();
        match exchange
            .call(
                &host,
                &self.call(
                    Method::HEAD,
                    &format!("/v2/{repository}/blobs/{}", self.digest),
                    None,
                ),
            )
            .await
        {
            Ok(_) => return Ok(Begun::Present),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        let uploads = format!("/v2/{repository}/blobs/uploads/");
        if let Some(from) = from {
            let target = format!("{uploads}?mount={}&from={from}", self.digest);
            // A registry that does not let us read there begins an upload or denies: neither is an error.
            match exchange
                .call(&host, &self.call(Method::POST, &target, Some(from)))
                .await
            {
                Ok(response) if response.status() == StatusCode::CREATED => return Ok(Begun::Mounted),
                Ok(response) => return self.location(&response),
                Err(error @ (RegistryError::Network { .. } | RegistryError::Credentials(_))) => {
                    return Err(error);
                }
                Err(_) => {}
            }
        }
        let response = exchange
            .call(&host, &self.call(Method::POST, &uploads, None))
            .await?;
        self.location(&response)
    }

    fn location(&self, response: &reqwest::Response) -> Result<Begun, RegistryError> {
        let location = response
            .headers()
            .get(LOCATION)
            .and_then(|value| value.to_str().ok());
        let location =
            location.ok_or_else(|| refused(&self.doing, "the registry did not say where to".to_owned()))?;
        let mut url = response
            .url()
            .join(location)
            .map_err(|e| refused(&self.doing, e.to_string()))?;
        add_digest(&mut url, &self.digest);
        Ok(Begun::Location(url.into()))
    }

    /// Sends the bytes in one request.
    async fn send(
        &self,
        exchange: &Exchange,
        location: &str,
        body: Body,
        mut beats: mpsc::Receiver<()>,
    ) -> Result<(), Failure> {
        let host = exchange.session.host(self.to.domain());
        let mut call = self.call(Method::PUT, location, None);
        call.headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let watch = async {
            loop {
                match tokio::time::timeout(STALL_LIMIT, beats.recv()).await {
                    Ok(Some(())) => {}
                    Ok(None) => {
                        tokio::time::sleep(COMMIT_LIMIT).await;
                        return;
                    }
                    Err(_) => return,
                }
            }
        };
        let response = tokio::select! {
            response = exchange.send_stream(&host, &call, body) => response?,
            () = watch => return Err(stalled(&self.doing, &host.address)),
        };
        match response.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
            status => Err(refused(
                &self.doing,
                format!("{} answered {status} at its end", host.address),
            )
            .into()),
        }
    }
}

fn push_scope(repository: &str) -> String {
    format!("repository:{repository}:pull,push")
}

/// A location may have a signed query, which must stay as it is.
fn add_digest(url: &mut Url, digest: &Digest) {
    let query = match url.query() {
        Some(query) if !query.is_empty() => format!("{query}&digest={digest}"),
        _ => format!("digest={digest}"),
    };
    url.set_query(Some(&query));
}

/// A body of known size whose bytes come through a channel. Ends early when its sender does, which
/// breaks the request off: the registry never takes half a blob for a whole one.
struct ChannelBody {
    chunks: mpsc::Receiver<Bytes>,
    remaining: u64,
}

impl HttpBody for ChannelBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.chunks.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(chunk)) if chunk.len() as u64 <= self.remaining => {
                self.remaining -= chunk.len() as u64;
                Poll::Ready(Some(Ok(Frame::data(chunk))))
            }
            Poll::Ready(None) if self.remaining == 0 => Poll::Ready(None),
            Poll::Ready(_) => Poll::Ready(Some(Err(io::Error::other(
                "the blob does not have its announced size",
            )))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}
