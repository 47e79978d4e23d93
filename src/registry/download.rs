//! How does a blob come? As a stream that goes on where it broke off, and that is believed only at its end.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, Bytes};
use rbuild_cache::{Descriptor, Digest};
use reqwest::header::{HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};
use sha2::Digest as _;
use tokio::sync::mpsc;

use super::ahead::Ahead;
use super::client::{Registry, again, ended, pull_scope};
use super::error::RegistryError;
use super::mirror::Place;
use super::origin::origin_text;
use super::reference::Reference;
use super::retry::{Backoff, Failure, Patience, Retry};
use super::transport::{Call, Exchange, Host};
use super::words::refused;

/// Chunks of a download that wait for their reader; a chunk is what one read gave, at most some 100 KiB.
const DOWNLOAD_QUEUE: usize = 32;

/// One blob on its way into a channel.
pub(super) struct Download {
    pub(super) exchange: Exchange,
    pub(super) host: Arc<Host>,
    pub(super) reference: Reference,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) doing: String,
}

impl Registry {
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
}

impl Download {
    /// Feeds the reader; asks for the rest when the connection breaks.
    pub(super) async fn run(
        self,
        first: Response,
        chunks: &mpsc::Sender<io::Result<Bytes>>,
    ) -> Result<(), RegistryError> {
        let download = Arc::new(self);
        let mut ahead = Ahead::new(Arc::clone(&download), &first);
        let mut response = first;
        let mut offset = 0;
        let mut backoff = Backoff::new();
        loop {
            let before = offset;
            let copied = download.copy(response, &mut offset, &mut ahead, chunks).await;
            if let Ok(Copied::All) = copied {
                return Ok(());
            }
            // Others have fetched what comes next.
            if let Ok(Copied::UpToOthers) = copied
                && (!ahead.forward(&mut offset, chunks).await || offset == download.size)
            {
                return Ok(());
            }
            if offset > before {
                backoff.progressed();
            }
            if let Err(failure) = copied {
                // A connection that broke is there again at once more often than not.
                tokio::time::sleep(backoff.pause(failure.midway())?).await;
            }
            response = blob_response(
                &download.exchange,
                &download.host,
                &download.reference,
                &download.digest,
                (offset, None),
                &download.doing,
            )
            .await?;
        }
    }

    async fn copy(
        &self,
        mut response: Response,
        offset: &mut u64,
        ahead: &mut Ahead,
        chunks: &mpsc::Sender<io::Result<Bytes>>,
    ) -> Result<Copied, Failure> {
        let address = origin_text(response.url());
        let is_part = response.status() == StatusCode::PARTIAL_CONTENT;
        let due = if is_part { self.size - *offset } else { self.size };
        if let Some(length) = response.content_length().filter(|length| *length < due) {
            // It does not break off: it says so itself.
            let reason = format!("{address} has {length} bytes, not the {due} that were announced");
            return Err(refused(&self.doing, reason).into());
        }
        // A registry without ranges sends everything again.
        let mut skip = if is_part {
            self.check_range(&response, *offset)?;
            0
        } else {
            *offset
        };
        loop {
            let asked = Instant::now();
            let next = self.exchange.in_time(&self.doing, &address, response.chunk());
            let mut chunk = match next.await? {
                Some(chunk) => chunk,
                None if *offset < self.size => {
                    let reason = format!("{address} sent {offset} of {} bytes", self.size);
                    return Err(Failure::new(refused(&self.doing, reason), Retry::After(None)));
                }
                None => return Ok(Copied::All),
            };
            let waited = asked.elapsed();
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            chunk.advance(usize::try_from(skipped).unwrap_or(chunk.len()));
            if *offset + chunk.len() as u64 > self.size {
                let reason = format!(
                    "{address} sent more than the {} bytes that were announced",
                    self.size
                );
                return Err(refused(&self.doing, reason).into());
            }
            if let Some(others) = ahead.begin()
                && others < *offset + chunk.len() as u64
            {
                let ours = usize::try_from(others - *offset).unwrap_or(chunk.len());
                if ours > 0 && !send(chunk.split_to(ours), offset, chunks).await {
                    return Ok(Copied::All);
                }
                if ahead.has_come().await {
                    return Ok(Copied::UpToOthers);
                }
            }
            if !chunk.is_empty() && !send(chunk, offset, chunks).await {
                return Ok(Copied::All);
            }
            ahead.observe(waited, *offset);
        }
    }

    /// A part that starts elsewhere would be spliced wrongly.
    pub(super) fn check_range(&self, response: &Response, offset: u64) -> Result<(), RegistryError> {
        let range = response
            .headers()
            .get("content-range")
            .and_then(|value| value.to_str().ok())
            .unwrap_or("");
        if range.starts_with(&format!("bytes {offset}-")) {
            return Ok(());
        }
        Err(refused(
            &self.doing,
            format!(
                "{} answered with the range {range:?}",
                origin_text(response.url())
            ),
        ))
    }
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

/// How far one connection was the source.
enum Copied {
    /// To the end, or the reader went away.
    All,
    /// To where others have begun.
    UpToOthers,
}

/// Whether the reader still reads.
async fn send(chunk: Bytes, offset: &mut u64, chunks: &mpsc::Sender<io::Result<Bytes>>) -> bool {
    *offset += chunk.len() as u64;
    chunks.send(Ok(chunk)).await.is_ok()
}

/// Bytes of a blob as they arrive; resumed after network errors. At its end size and digest are
/// checked: `InvalidData` when they are wrong.
pub struct BlobReader {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
    hasher: sha2::Sha256,
    remaining: u64,
    expected: Digest,
    doing: String,
    done: bool,
}

impl BlobReader {
    /// What comes through `chunks`, of `size` bytes in all.
    pub(super) fn new(
        chunks: mpsc::Receiver<io::Result<Bytes>>,
        size: u64,
        expected: Digest,
        doing: String,
    ) -> Self {
        Self {
            chunks,
            current: Bytes::new(),
            hasher: sha2::Sha256::new(),
            remaining: size,
            expected,
            doing,
            done: false,
        }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.done || buffer.is_empty() {
            return Ok(0);
        }
        if self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None if self.remaining > 0 => return Err(io::Error::other(ended())),
                None => {
                    let actual = Digest::from_bytes(std::mem::take(&mut self.hasher).finalize().into());
                    if actual != self.expected {
                        let text = format!("{}: the bytes that came have the digest {actual}", self.doing);
                        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                    }
                    self.done = true;
                    return Ok(0);
                }
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        self.hasher.update(&buffer[..count]);
        self.remaining = self.remaining.saturating_sub(count as u64);
        Ok(count)
    }
}

impl fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobReader")
            .field("digest", &self.expected)
            .field("remaining", &self.remaining)
            .finish_non_exhaustive()
    }
}
