//! How does one blob get into a registry? A begun upload takes parts (PATCH); one that broke off is asked how far it came and
//! goes on there. What is small goes in one request.
//!
//! Registries differ: some forget an upload whose part broke off, some know no parts, some take no large requests. All of
//! that is met when it happens, and the bytes that arrived count only once.

use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use rbuild_cache::Digest;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE};
use reqwest::{Body, Method, Response, StatusCode, Url};
use tokio::sync::{mpsc, oneshot};

use super::client::{Registry, ended, pull_scope};
use super::error::RegistryError;
use super::push::{PushBlob, Transferred, push_scope};
use super::reference::Reference;
use super::retry::{Backoff, Failure, Retry};
use super::transport::{Call, Exchange};
use super::words::{refused, stalled};

/// What one read of a blob may give.
const READ: usize = 128 << 10;
/// Reads between the reader and the connection.
const QUEUE: usize = 8;
/// Up to here a blob is sent in one request, which saves two.
const SMALL: u64 = 1 << 20;
/// Parts for registries, or proxies in front of them, that find larger requests too large. The last is what nginx takes when
/// nobody has told it otherwise.
const SMALLER_PARTS: [u64; 2] = [16 << 20, 1 << 20];

const TOO_LARGE: &str =
    "; it, or a proxy in front of it, takes no requests of 1 MiB (nginx: client_max_body_size)";

/// One blob on its way up.
#[derive(Clone)]
pub(super) struct Upload {
    pub(super) to: Reference,
    pub(super) digest: Digest,
    pub(super) doing: String,
    /// The registry's word that the blob is there is not believed.
    pub(super) unasked: bool,
}

/// What beginning an upload led to.
enum Begun {
    Present,
    Mounted,
    /// Where to send the bytes.
    At(Place),
}

/// Where an upload is, and how much of it.
struct Place {
    location: String,
    received: u64,
}

/// One request of an upload.
struct Part {
    method: Method,
    location: String,
    from: u64,
    to: u64,
    /// Whether the bytes have to be told their place.
    in_parts: bool,
}

/// Reads a blob from any place of it on.
struct Source<'a, 'b> {
    blob: &'a PushBlob<'b>,
    reader: Option<(Box<dyn Read + Send>, u64)>,
}

/// How an upload goes, over all its attempts.
struct Course {
    backoff: Backoff,
    part: u64,
    /// The registry takes no parts.
    whole: bool,
    farthest: u64,
    failed: bool,
    was_damaged: bool,
}

impl Registry {
    /// Makes a blob present, with what is in `mount` tried first.
    pub(super) fn upload(
        &self,
        upload: &Upload,
        mount: Option<&str>,
        blob: &PushBlob<'_>,
        progress: &dyn Fn(u64),
    ) -> Result<Transferred, RegistryError> {
        let mut course = Course {
            backoff: Backoff::new(),
            part: self.options().upload_part.max(1),
            whole: false,
            farthest: 0,
            failed: false,
            was_damaged: false,
        };
        let mut source = Source { blob, reader: None };
        loop {
            let (task, from) = (upload.clone(), mount.map(str::to_owned));
            let begun = self.run(async move |exchange| task.begin(&exchange, from.as_deref()).await)?;
            let mut place = match begun {
                Begun::Present if course.failed => return Ok(Transferred::Sent),
                Begun::Present => return Ok(Transferred::Present),
                Begun::Mounted => return Ok(Transferred::Mounted),
                Begun::At(place) => place,
            };
            // Until it is done, or has to begin anew.
            loop {
                let part = upload.next(&place, blob.size, &course)?;
                let is_last = part.method == Method::PUT;
                let to = part.to;
                let failure = match self.send_part(upload, part, &mut source, progress) {
                    Ok(_) if is_last => return Ok(Transferred::Sent),
                    Ok(response) => {
                        place = upload.place(&response, &place, to)?;
                        if place.received > course.farthest {
                            course.farthest = place.received;
                            course.backoff.progressed();
                        }
                        continue;
                    }
                    Err(failure) => failure,
                };
                let failure = course.judge(failure, is_last);
                std::thread::sleep(course.backoff.pause(failure.midway())?);
                if course.whole || blob.size <= SMALL {
                    break;
                }
                let (task, location) = (upload.clone(), place.location);
                match self.run(async move |exchange| task.status(&exchange, &location).await)? {
                    Some(known) if known.received <= blob.size => place = known,
                    _ => break,
                }
            }
        }
    }

    /// Reads the part on this thread while the engine sends it.
    fn send_part(
        &self,
        upload: &Upload,
        part: Part,
        source: &mut Source<'_, '_>,
        progress: &dyn Fn(u64),
    ) -> Result<Response, Failure> {
        let (handle, exchange) = self.engine()?;
        let (chunks, receiver) = mpsc::channel(QUEUE);
        let (sender, outcome) = oneshot::channel();
        let (mut at, to) = (part.from, part.to);
        let body = Body::wrap(ChannelBody {
            chunks: receiver,
            remaining: to - at,
        });
        // The watch ends the upload when the connection takes nothing any more.
        let (beat, watch) = mpsc::channel(1);
        let task = upload.clone();
        handle.spawn(async move {
            let _ = sender.send(task.send(&exchange, &part, body, watch).await);
        });
        while at < to {
            let wanted = (to - at).min(READ as u64);
            let chunk = source.read(at, wanted).map_err(RegistryError::Source)?;
            let length = chunk.len() as u64;
            // Refused when the registry has answered already; why, it says below.
            if length == 0 || chunks.blocking_send(Bytes::from(chunk)).is_err() {
                break;
            }
            let _ = beat.try_send(());
            at += length;
            progress(at);
        }
        if at == source.blob.size && source.has_more(at).map_err(RegistryError::Source)? {
            return Err(RegistryError::Source(wrong_size()).into());
        }
        drop(chunks);
        drop(beat);
        outcome.blocking_recv().unwrap_or_else(|_| Err(ended().into()))
    }
}

impl Course {
    /// What a failed part means for the upload: some answers only say that it has to go another way.
    fn judge(&mut self, mut failure: Failure, is_last: bool) -> Failure {
        let again = match &mut *failure.error {
            // Forgotten, or elsewhere than we think: after a failure that is to be expected.
            RegistryError::NotFound { .. } => self.failed,
            RegistryError::Status { status, detail, .. } => match status {
                409 | 416 => self.failed,
                400 if is_last => !std::mem::replace(&mut self.was_damaged, true),
                413 => {
                    let smaller = SMALLER_PARTS.into_iter().find(|part| *part < self.part);
                    self.part = smaller.unwrap_or(self.part);
                    if smaller.is_none() {
                        detail.push_str(TOO_LARGE);
                    }
                    smaller.is_some()
                }
                405 | 501 if !is_last => !std::mem::replace(&mut self.whole, true),
                _ => false,
            },
            _ => false,
        };
        self.failed = true;
        let retry = if again { Retry::After(None) } else { failure.retry };
        Failure { retry, ..failure }
    }
}

impl Source<'_, '_> {
    /// Some bytes from `at` on; none at the end.
    fn read(&mut self, at: u64, wanted: u64) -> io::Result<Vec<u8>> {
        let (mut reader, place) = match self.reader.take() {
            Some((reader, place)) if place <= at => (reader, place),
            _ => ((self.blob.open)()?, 0),
        };
        if place < at {
            let skipped = io::copy(&mut (&mut reader).take(at - place), &mut io::sink())?;
            if place + skipped < at {
                return Err(wrong_size());
            }
        }
        let mut bytes = Vec::with_capacity(usize::try_from(wanted).unwrap_or(READ));
        (&mut reader).take(wanted).read_to_end(&mut bytes)?;
        self.reader = Some((reader, at + bytes.len() as u64));
        Ok(bytes)
    }

    /// Whether the blob is longer than it says. Reading to the end also lets the store check what was read.
    fn has_more(&mut self, at: u64) -> io::Result<bool> {
        Ok(self.blob.size > 0 && !self.read(at, 1)?.is_empty())
    }
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
        let blob = format!("/v2/{repository}/blobs/{}", self.digest);
        let asks = !self.unasked;
        if asks {
            match exchange.call(&host, &self.call(Method::HEAD, &blob, None)).await {
                Ok(_) => return Ok(Begun::Present),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let uploads = format!("/v2/{repository}/blobs/uploads/");
        if let Some(from) = from.filter(|_| asks) {
            let target = format!("{uploads}?mount={}&from={from}", self.digest);
            // A registry that does not let us read there begins an upload or denies: neither is an error.
            match exchange
                .call(&host, &self.call(Method::POST, &target, Some(from)))
                .await
            {
                Ok(response) if response.status() == StatusCode::CREATED => return Ok(Begun::Mounted),
                Ok(response) => return self.begun(&response),
                Err(error @ (RegistryError::Network { .. } | RegistryError::Credentials(_))) => {
                    return Err(error);
                }
                Err(_) => {}
            }
        }
        let response = exchange
            .call(&host, &self.call(Method::POST, &uploads, None))
            .await?;
        self.begun(&response)
    }

    fn begun(&self, response: &Response) -> Result<Begun, RegistryError> {
        let location = location(response)
            .ok_or_else(|| refused(&self.doing, "the registry did not say where to".to_owned()))?;
        Ok(Begun::At(Place {
            location,
            received: 0,
        }))
    }

    /// How much of a begun upload has arrived; `None` when the registry does not know it.
    async fn status(&self, exchange: &Exchange, at: &str) -> Result<Option<Place>, RegistryError> {
        let host = exchange.session.host(self.to.domain());
        match exchange.call(&host, &self.call(Method::GET, at, None)).await {
            Ok(response) => Ok(Some(Place {
                location: location(&response).unwrap_or_else(|| at.to_owned()),
                received: received(&response).unwrap_or(0),
            })),
            Err(error @ (RegistryError::Network { .. } | RegistryError::Denied { .. })) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Where the upload is after a part up to `to`.
    fn place(&self, response: &Response, before: &Place, to: u64) -> Result<Place, RegistryError> {
        let received = received(response).unwrap_or(to);
        if received > to || received < before.received {
            let reason = format!("the registry says that it has {received} bytes, of {to} that were sent");
            return Err(refused(&self.doing, reason));
        }
        Ok(Place {
            location: location(response).unwrap_or_else(|| before.location.clone()),
            received,
        })
    }

    /// The next request of an upload.
    fn next(&self, place: &Place, size: u64, course: &Course) -> Result<Part, RegistryError> {
        let whole = size <= SMALL || course.whole;
        let at = place.received;
        if !whole && at < size {
            let to = size.min(at.saturating_add(course.part));
            return Ok(Part {
                method: Method::PATCH,
                location: place.location.clone(),
                from: at,
                to,
                in_parts: at > 0 || to < size,
            });
        }
        let mut url = Url::parse(&place.location).map_err(|e| refused(&self.doing, e.to_string()))?;
        add_digest(&mut url, &self.digest);
        Ok(Part {
            method: Method::PUT,
            location: url.into(),
            from: if whole { 0 } else { at },
            to: size,
            in_parts: false,
        })
    }

    async fn send(
        &self,
        exchange: &Exchange,
        part: &Part,
        body: Body,
        mut beats: mpsc::Receiver<()>,
    ) -> Result<Response, Failure> {
        let host = exchange.session.host(self.to.domain());
        let mut call = self.call(part.method.clone(), &part.location, None);
        call.headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let range = format!("{}-{}", part.from, part.to.saturating_sub(1));
        if let (true, Ok(range)) = (part.in_parts, HeaderValue::from_str(&range)) {
            call.headers.insert(CONTENT_RANGE, range);
        }
        let limit = exchange.stall_limit();
        let watch = async {
            loop {
                match tokio::time::timeout(limit, beats.recv()).await {
                    Ok(Some(())) => {}
                    Ok(None) => {
                        // A registry may move a large blob to its place before it answers.
                        tokio::time::sleep(limit * 5).await;
                        return;
                    }
                    Err(_) => return,
                }
            }
        };
        let response = tokio::select! {
            response = exchange.send_stream(&host, &call, body) => response?,
            () = watch => return Err(stalled(&self.doing, &host.address, limit)),
        };
        match response.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT | StatusCode::ACCEPTED => {
                Ok(response)
            }
            status => Err(refused(
                &self.doing,
                format!("{} answered {status} at its end", host.address),
            )
            .into()),
        }
    }
}

fn wrong_size() -> io::Error {
    io::Error::other("the blob does not have its announced size")
}

/// `Location`, as a whole address.
fn location(response: &Response) -> Option<String> {
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    response.url().join(location).ok().map(String::from)
}

/// `Range: 0-N`. Registries say `0-0` when they have nothing.
fn received(response: &Response) -> Option<u64> {
    let range = response.headers().get(RANGE)?.to_str().ok()?;
    let last: u64 = range
        .trim_start_matches("bytes=")
        .strip_prefix("0-")?
        .parse()
        .ok()?;
    Some(if last == 0 { 0 } else { last + 1 })
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
/// breaks the request off: the registry never takes half a part for a whole one.
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
            Poll::Ready(_) => Poll::Ready(Some(Err(wrong_size()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}
