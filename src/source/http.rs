//! Files of web servers: ADD of a URL, contexts and Dockerfiles that are URLs.
//!
//! A file becomes a layer of the store with nothing but it. Two records lead there: one by address, with what the server
//! said to ask with the next time (`ETag`, `Last-Modified`), and one by content. So an unchanged file is asked for and not
//! sent, and one whose digest the user gives is not even asked for. Neither record has credentials in it.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use anyhow::Context as _;
use base64::Engine as _;
use rbuild_cache::layer::{Entry, Kind, LayerPath, Timestamp};
use rbuild_cache::{Digest, Key, KeyBuilder, LayerId, Made, Record, Store};
use sha2::Digest as _;

use super::secret::Secrets;
use crate::error::BuildError;
use crate::frontend::HttpRequest;
use crate::graph::address::decoded;
use crate::graph::{Address, HttpOp};
use crate::registry::{FetchOptions, FetchRequest, Fetched, FetchedFile, Registry, Validators};

/// How often a file is fetched from its beginning when it breaks off and cannot be continued.
const STARTS: u32 = 3;
/// What only the owner may read, as BuildKit has it (spec D5).
const MODE: u32 = 0o600;

/// Is told how many bytes of a file have come, and how many there are if that is known.
pub type FetchProgress = Arc<dyn Fn(&str, u64, Option<u64>) + Send + Sync>;

/// Files of web servers, by way of the store.
#[derive(Clone)]
pub struct HttpSource {
    store: Store,
    registry: Registry,
    options: FetchOptions,
    progress: Option<FetchProgress>,
    /// `Authorization` by address, as far as this build gave one.
    authorizations: Arc<Mutex<HashMap<String, String>>>,
    /// `Authorization` by host, with its port or for all ports.
    hosts: Arc<HashMap<String, String>>,
    /// The lock files that say what is at addresses.
    locked: Arc<Mutex<HashMap<String, PathBuf>>>,
}

/// A file that is in the store.
#[derive(Debug, Clone)]
struct Kept {
    layer: LayerId,
    digest: Digest,
    modified: i64,
}

impl HttpSource {
    /// Files are kept in `store` and fetched by `registry`.
    pub fn new(store: Store, registry: Registry, options: FetchOptions) -> Self {
        Self {
            store,
            registry,
            options,
            progress: None,
            authorizations: Arc::default(),
            hosts: Arc::default(),
            locked: Arc::default(),
        }
    }

    /// Tells `progress` about every file that is fetched.
    #[must_use]
    pub fn with_progress(self, progress: FetchProgress) -> Self {
        Self {
            progress: Some(progress),
            ..self
        }
    }

    /// Takes credentials of hosts from the build's secrets: `HTTP_AUTH_HEADER_<host>` is a whole header,
    /// `HTTP_AUTH_TOKEN_<host>` a bearer token (spec D5). What an address says itself goes first.
    #[must_use]
    pub fn with_secrets(self, secrets: &Secrets) -> Self {
        let value = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let mut hosts = HashMap::new();
        for (id, secret) in secrets.iter() {
            if let Some(host) = id.strip_prefix("HTTP_AUTH_TOKEN_") {
                let header = format!("Bearer {}", value(secret.bytes()));
                hosts.entry(host.to_ascii_lowercase()).or_insert(header);
            } else if let Some(host) = id.strip_prefix("HTTP_AUTH_HEADER_") {
                hosts.insert(host.to_ascii_lowercase(), value(secret.bytes()));
            }
        }
        Self {
            hosts: Arc::new(hosts),
            ..self
        }
    }

    /// The `Authorization` for an address.
    fn authorization(&self, url: &str) -> Option<String> {
        if let Some(own) = lock(&self.authorizations).get(url) {
            return Some(own.clone());
        }
        let host = url
            .split_once("://")?
            .1
            .split(['/', '?'])
            .next()?
            .to_ascii_lowercase();
        let bare = host.rsplit_once(':').map_or(host.as_str(), |(bare, _)| bare);
        self.hosts.get(&host).or_else(|| self.hosts.get(bare)).cloned()
    }

    /// What is at the address now. Asks the server unless the request has a digest; fetches what is new.
    pub fn resolve(&self, request: &HttpRequest) -> anyhow::Result<HttpOp> {
        let address = self.address(request)?;
        let op = |digest, modified| HttpOp {
            url: address.url.clone(),
            digest,
            filename: request.filename.clone(),
            modified,
        };
        if let Some(digest) = request.checksum {
            return Ok(op(digest, None));
        }
        let known = self.known(&address.url, &request.filename)?;
        let kept = self.fetch(&address.url, &request.filename, known, None, request.limit)?;
        Ok(op(kept.digest, Some(kept.modified)))
    }

    /// What is at the address by the lock file `by`: nobody is asked, and other bytes will be refused.
    pub fn locked(
        &self,
        request: &HttpRequest,
        digest: Digest,
        modified: i64,
        by: &Path,
    ) -> anyhow::Result<HttpOp> {
        let address = self.address(request)?;
        lock(&self.locked).insert(address.url.clone(), by.to_owned());
        Ok(HttpOp {
            url: address.url,
            digest,
            filename: request.filename.clone(),
            modified: Some(modified),
        })
    }

    /// The address of a request; its credentials are for this build.
    fn address(&self, request: &HttpRequest) -> anyhow::Result<Address> {
        let address = Address::parse(&request.url)?;
        if let Some(user) = &address.user_info {
            let value = basic(user);
            lock(&self.authorizations).insert(address.url.clone(), value);
        }
        Ok(address)
    }

    /// The file as a layer. It has the digest and the time that `op` says.
    pub fn layer(&self, op: &HttpOp) -> Result<LayerId, BuildError> {
        if let Some(record) = self.store.record(&by_content(op)).map_err(BuildError::new)?
            && self.store.layer_exists(&record.layer)
        {
            return Ok(record.layer);
        }
        let kept = self.fetch(&op.url, &op.filename, None, Some(op), None)?;
        Ok(kept.layer)
    }

    /// The bytes of a small file.
    pub fn read(&self, op: &HttpOp, limit: u64) -> anyhow::Result<Vec<u8>> {
        let layer = self.store.layer(&self.layer(op)?)?;
        let view = rbuild_cache::View::new(vec![layer]);
        let path = LayerPath::clean(op.filename.as_bytes());
        let mut bytes = Vec::new();
        rbuild_cache::tree::Tree::open(&view, &path)?
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("reading {}", op.url))?;
        anyhow::ensure!(
            bytes.len() as u64 <= limit,
            "{} has more than {limit} bytes",
            op.url
        );
        Ok(bytes)
    }

    /// What the store has of the address, and what to ask with.
    fn known(&self, url: &str, filename: &str) -> anyhow::Result<Option<(Kept, Validators)>> {
        let Some(record) = self.store.record(&by_address(url, filename))? else {
            return Ok(None);
        };
        if !self.store.layer_exists(&record.layer) {
            return Ok(None);
        }
        let field = |wanted: &str| {
            let found = record.inputs.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.clone())
        };
        let kept = || {
            Some(Kept {
                layer: record.layer.clone(),
                digest: field("digest")?.parse().ok()?,
                modified: field("modified")?.parse().ok()?,
            })
        };
        let validators = Validators {
            etag: field("etag"),
            modified: field("last-modified"),
        };
        Ok(kept().map(|kept| (kept, validators)))
    }

    fn fetch(
        &self,
        url: &str,
        filename: &str,
        known: Option<(Kept, Validators)>,
        expected: Option<&HttpOp>,
        limit: Option<u64>,
    ) -> anyhow::Result<Kept> {
        let began = Instant::now();
        let mut attempt = 1;
        loop {
            let request = FetchRequest {
                url: url.to_owned(),
                authorization: self.authorization(url),
                known: known
                    .as_ref()
                    .map(|(_, validators)| validators.clone())
                    .unwrap_or_default(),
                limit,
                ..FetchRequest::default()
            };
            let mut file = match (self.registry.fetch(request, &self.options)?, &known) {
                (Fetched::File(file), _) => file,
                (Fetched::NotModified, Some((kept, _))) => return Ok(kept.clone()),
                (Fetched::NotModified, None) => {
                    anyhow::bail!(
                        "fetching {url}: the server says that nothing changed, but nothing was there"
                    )
                }
            };
            match self.receive(url, filename, &mut file, expected) {
                Ok(kept) => {
                    // What bears another time than the server says is not what this server would answer another build.
                    let is_as_sent = kept.modified == file.modified.unwrap_or_default();
                    let validators = if is_as_sent {
                        file.validators
                    } else {
                        Validators::default()
                    };
                    self.remember(url, filename, &kept, &validators, began)?;
                    return Ok(kept);
                }
                Err(_) if file.body.must_restart() && attempt < STARTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes a layer of a file that is on its way. Nothing is left of one that does not come whole, or is another.
    fn receive(
        &self,
        url: &str,
        filename: &str,
        file: &mut FetchedFile,
        expected: Option<&HttpOp>,
    ) -> anyhow::Result<Kept> {
        // A time that was said before is in keys. The same bytes that came later are the same file.
        let modified = expected.and_then(|op| op.modified);
        let modified = modified.or(file.modified).unwrap_or_default();
        let size = file.size;
        let mut body = Received {
            body: &mut file.body,
            hasher: sha2::Sha256::new(),
            count: 0,
            report: |count| {
                if let Some(progress) = &self.progress {
                    progress(url, count, size);
                }
            },
        };
        let entry = |size| Entry {
            path: LayerPath::clean(filename.as_bytes()),
            kind: Kind::File { size },
            mode: MODE,
            uid: 0,
            gid: 0,
            mtime: Timestamp {
                seconds: modified,
                nanoseconds: 0,
            },
            xattrs: Vec::new(),
        };
        let mut builder = self.store.layer_builder()?;
        if let Some(size) = size {
            builder.append(&entry(size), Some(&mut body))?;
        } else {
            // A tar wants to know before.
            let scratch = self.store.temp_dir()?;
            let path = scratch.path().join("file");
            let mut spool = std::fs::File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
                .with_context(|| format!("creating {}", path.display()))?;
            let size = io::copy(&mut body, &mut spool)?;
            spool.rewind()?;
            builder.append(&entry(size), Some(&mut spool))?;
        }
        let digest = Digest::from_bytes(body.hasher.finalize().into());
        if let Some(HttpOp { digest: expected, .. }) = expected
            && digest != *expected
        {
            let error = BuildError::message(format!("{url}: digest mismatch {digest}: {expected}"));
            let hint = match lock(&self.locked).get(url) {
                Some(by) => format!(
                    "what the server sends is not what {} has: `rbuild lock --update={url}` takes what it is now",
                    by.display()
                ),
                None => "what the server sends is not what --checksum demands".to_owned(),
            };
            return Err(error.hint(Some(hint)).into());
        }
        Ok(Kept {
            layer: builder.commit()?,
            digest,
            modified,
        })
    }

    fn remember(
        &self,
        url: &str,
        filename: &str,
        kept: &Kept,
        validators: &Validators,
        began: Instant,
    ) -> anyhow::Result<()> {
        let created = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let mut record = Record {
            op: by_address(url, filename),
            layer: kept.layer.clone(),
            inputs: vec![
                ("digest".to_owned(), kept.digest.to_string()),
                ("modified".to_owned(), kept.modified.to_string()),
            ],
            created,
            duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            made: Made::Http,
            description: url.to_owned(),
        };
        let mut op = HttpOp {
            url: url.to_owned(),
            digest: kept.digest,
            filename: filename.to_owned(),
            modified: Some(kept.modified),
        };
        self.store.put_record(&by_content(&op), &record)?;
        op.modified = None;
        self.store.put_record(&by_content(&op), &record)?;
        let named = [
            ("etag", &validators.etag),
            ("last-modified", &validators.modified),
        ];
        for (name, value) in named {
            let value = value.iter().map(|value| (name.to_owned(), value.clone()));
            record.inputs.extend(value);
        }
        // Without a way to ask the record would serve nobody.
        if validators != &Validators::default() {
            self.store.put_record(&by_address(url, filename), &record)?;
        }
        Ok(())
    }
}

impl fmt::Debug for HttpSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSource")
            .field("store", &self.store)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Hashes and counts what is read.
struct Received<'a, R, F> {
    body: &'a mut R,
    hasher: sha2::Sha256,
    count: u64,
    report: F,
}

impl<R: Read, F: Fn(u64)> Read for Received<'_, R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.body.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.count += count as u64;
        (self.report)(self.count);
        Ok(count)
    }
}

fn by_address(url: &str, filename: &str) -> Key {
    KeyBuilder::new("http address/1")
        .field("url", url.as_bytes())
        .field("filename", filename.as_bytes())
        .finish()
}

/// Without a time: the file with whatever time it came.
fn by_content(op: &HttpOp) -> Key {
    let mut key = KeyBuilder::new("http content/1");
    key.field("digest", op.digest.as_bytes())
        .field("filename", op.filename.as_bytes());
    if let Some(modified) = op.modified {
        key.field("modified", &modified.to_le_bytes());
    }
    key.finish()
}

/// `user:password` as it stands in an address, as a header.
pub fn basic(user: &str) -> String {
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let plain = |text: &str| decoded(text).unwrap_or_else(|| text.to_owned());
    let text = format!("{}:{}", plain(name), plain(password));
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_an_address() {
        assert_eq!(basic("u:p%40"), "Basic dTpwQA==");
        assert_eq!(basic("token"), "Basic dG9rZW46");
    }
}
