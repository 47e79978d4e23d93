//! What does a web server say of a file, and how do its bytes reach their reader?

use std::fmt;
use std::io::{self, Read};

use bytes::{Buf, Bytes};
use reqwest::Response;
use reqwest::header::{DATE, ETAG, HeaderName, LAST_MODIFIED};
use tokio::sync::mpsc;

use super::client::ended;
use super::error::RegistryError;
use super::retry::seconds;

/// A time of modification tells two states of a file apart when the file was that old (RFC 9110, 8.8.2.2).
const SETTLED: i64 = 60;

/// What tells one state of a file from another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validators {
    /// `ETag`.
    pub etag: Option<String>,
    /// `Last-Modified`, when it is old enough to tell.
    pub modified: Option<String>,
}

/// The answer of a server.
#[derive(Debug)]
pub enum Fetched {
    /// It is as [`known`](super::FetchRequest::known) says.
    NotModified,
    /// The file.
    File(FetchedFile),
}

/// A file on its way.
#[derive(Debug)]
pub struct FetchedFile {
    /// What to ask with the next time.
    pub validators: Validators,
    /// `Last-Modified` as it is, in seconds since 1970.
    pub modified: Option<i64>,
    /// How many bytes come, if the server says.
    pub size: Option<u64>,
    /// The bytes.
    pub body: Body,
}

/// Bytes as they arrive. A transfer that breaks off is continued where that is safe.
pub struct Body {
    chunks: mpsc::Receiver<Result<Bytes, Broken>>,
    current: Bytes,
    ended: bool,
    must_restart: bool,
}

/// Why a body ends early.
pub(super) struct Broken {
    pub(super) error: RegistryError,
    /// The file may have changed meanwhile: it has to be fetched from its beginning.
    pub(super) restart: bool,
}

/// What an answer says of the file.
pub(super) struct Facts {
    pub(super) validators: Validators,
    pub(super) modified: Option<i64>,
    pub(super) size: Option<u64>,
}

impl Facts {
    pub(super) fn of(response: &Response) -> Self {
        let modified_text = text(response, LAST_MODIFIED);
        let modified = modified_text.as_deref().and_then(seconds);
        let now = text(response, DATE).as_deref().and_then(seconds);
        let settled = matches!((modified, now), (Some(then), Some(now)) if now - then >= SETTLED);
        Self {
            validators: Validators {
                etag: text(response, ETAG),
                modified: modified_text.filter(|_| settled),
            },
            modified,
            size: response.content_length(),
        }
    }

    /// With what the rest of the file is asked for.
    pub(super) fn range_validator(&self) -> Option<&str> {
        let etag = self.validators.etag.as_deref();
        etag.filter(|etag| is_strong(etag))
            .or(self.validators.modified.as_deref())
    }
}

/// Whether equal tags mean equal bytes.
pub(super) fn is_strong(etag: &str) -> bool {
    !etag.starts_with("W/")
}

pub(super) fn text(response: &Response, name: HeaderName) -> Option<String> {
    Some(response.headers().get(name)?.to_str().ok()?.to_owned())
}

impl From<RegistryError> for Broken {
    fn from(error: RegistryError) -> Self {
        let restart = false;
        Self { error, restart }
    }
}

impl Body {
    /// What comes through `chunks`; an empty one is the end.
    pub(super) fn new(chunks: mpsc::Receiver<Result<Bytes, Broken>>) -> Self {
        Self {
            chunks,
            current: Bytes::new(),
            ended: false,
            must_restart: false,
        }
    }

    /// Whether it broke off in a way that another attempt, from the beginning, may cure.
    pub fn must_restart(&self) -> bool {
        self.must_restart
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        if self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(Ok(chunk)) if chunk.is_empty() => {
                    self.ended = true;
                    return Ok(0);
                }
                Some(Ok(chunk)) => self.current = chunk,
                Some(Err(broken)) => {
                    self.must_restart = broken.restart;
                    return Err(io::Error::other(broken.error));
                }
                None => return Err(io::Error::other(ended())),
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
