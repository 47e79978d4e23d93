//! Contexts and Dockerfiles that are no files of this machine (spec 7.1): archives and Dockerfiles from standard input and
//! from web servers, Git repositories.
//!
//! An archive is extracted by the rules of ADD into a layer of the store, and the context is that layer: what comes from
//! elsewhere is never a directory of this machine. One from a web server is extracted once and known by its digest.

use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, bail, ensure};
use rbuild_cache::layer::{Kind, LayerPath};
use rbuild_cache::tree::{self, Tree};
use rbuild_cache::{Digest, Key, KeyBuilder, LayerId, Made, Record, Store, View};
use rbuild_parser::git_url::GitUrl;

use super::dockerfile::{DOCKERFILE_LIMIT, DockerfileSource};
use super::options::BuildOptions;
use crate::cli::human;
use crate::frontend::{CONTEXT, GitRequest, HttpRequest, MetaResolver};
use crate::graph::Op;
use crate::graph::address::masked;
use crate::solver::keys;
use crate::solver::ops::extract::{begins_as_archive, extract};
use crate::source::context::LoneFile;
use crate::source::remote::Remotes;

/// Where the files of the build context are.
#[derive(Debug, Clone)]
pub enum ContextPlace {
    /// In a directory.
    Directory(PathBuf),
    /// On standard input.
    Stdin,
    /// At an address.
    Remote(String),
}

impl ContextPlace {
    /// What the argument of a build means.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        if text == "-" {
            return Ok(Self::Stdin);
        }
        let is_directory = std::path::Path::new(text).is_dir();
        if !is_directory {
            let git = GitUrl::of_context(text);
            let git = git.with_context(|| format!("unable to prepare context: {:?}", masked(text)))?;
            if is_web(text) || git.is_some() {
                return Ok(Self::Remote(text.to_owned()));
            }
            if text.contains("://") {
                bail!(
                    "unable to prepare context: {:?} is not supported: give a directory, a git URL or the address of an archive",
                    masked(text)
                );
            }
        }
        let path = PathBuf::from(text);
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => Ok(Self::Directory(path)),
            Ok(_) => bail!("unable to prepare context: path {text:?} is not a directory"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("unable to prepare context: path {text:?} not found")
            }
            Err(error) => Err(error).with_context(|| format!("unable to prepare context: path {text:?}")),
        }
    }

    /// The directory, if it is one.
    pub fn directory(&self) -> Option<&std::path::Path> {
        match self {
            Self::Directory(path) => Some(path),
            Self::Stdin | Self::Remote(_) => None,
        }
    }
}

/// Whether it is an address of a web server.
pub fn is_web(text: &str) -> bool {
    let scheme = text
        .split_once("://")
        .map(|(scheme, _)| scheme.to_ascii_lowercase());
    matches!(scheme.as_deref(), Some("http" | "https"))
}

/// A context that was received.
pub struct Received {
    /// Its files; `None` for an empty one.
    layer: Option<LayerId>,
    /// What it was found to be when that is no archive.
    dockerfile: Option<Arc<[u8]>>,
    /// Where it came from, if that is an address.
    pub(super) origin: Option<Op>,
}

impl Received {
    /// The files.
    pub fn view(&self, store: &Store) -> anyhow::Result<View> {
        let layers = self.layer.iter().map(|id| store.layer(id));
        Ok(View::new(layers.collect::<Result<_, _>>()?))
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received")
            .field("layer", &self.layer)
            .finish_non_exhaustive()
    }
}

/// What came from elsewhere.
#[derive(Debug, Default)]
pub(super) struct Arrival {
    /// The context, when it is no directory.
    pub(super) context: Option<Received>,
    /// The Dockerfile, when it is not where the options say.
    pub(super) dockerfile: Option<DockerfileSource>,
}

/// What receives them.
pub(super) struct Receiver<'a> {
    pub(super) store: &'a Store,
    pub(super) remotes: &'a Remotes,
    /// Asks and shows what is asked.
    pub(super) resolver: &'a dyn MetaResolver,
    /// `.git` of a repository stays (`BUILDKIT_CONTEXT_KEEP_GIT_DIR`).
    pub(super) keep_git_dir: bool,
}

impl Receiver<'_> {
    /// Receives what `options` name.
    pub(super) fn receive(&self, options: &BuildOptions) -> anyhow::Result<Arrival> {
        let limit = options.reception.max_context_size;
        let context = match &options.context {
            ContextPlace::Directory(_) => None,
            ContextPlace::Stdin => Some(self.stdin(io::stdin().lock(), limit)?),
            ContextPlace::Remote(url) => Some(self.remote(url, limit)?),
        };
        let dockerfile = match (options.file.as_deref(), &context) {
            (Some(url), _) if is_web(url) => Some(DockerfileSource::Text(self.text(url)?)),
            (file, Some(context)) => {
                let place = match options.context {
                    ContextPlace::Stdin => "stdin",
                    _ => "the context",
                };
                Some(self.dockerfile(context, file, place)?)
            }
            _ => None,
        };
        Ok(Arrival { context, dockerfile })
    }

    /// Standard input to its end.
    fn stdin(&self, mut input: impl Read, limit: Option<u64>) -> anyhow::Result<Received> {
        let receiving = || "reading the context from standard input";
        let scratch = self.store.temp_dir()?;
        let path = scratch.path().join("context");
        let mut file = std::fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .with_context(|| format!("creating {}", path.display()))?;
        let most = limit.unwrap_or(u64::MAX - 1);
        let size = io::copy(&mut input.by_ref().take(most + 1), &mut file).with_context(receiving)?;
        ensure!(size <= most, "{}: {}", receiving(), too_large(most));
        let file = LoneFile::new(file, CONTEXT).with_context(receiving)?;
        let context = LayerPath::clean(CONTEXT.as_bytes());
        if begins_as_archive(file.open(&context)?).with_context(receiving)? {
            let layer = extract(self.store, &file, &context, limit);
            return Ok(Received {
                layer: Some(layer.with_context(receiving)?),
                dockerfile: None,
                origin: None,
            });
        }
        let mut bytes = Vec::new();
        file.open(&context)?
            .take(DOCKERFILE_LIMIT + 1)
            .read_to_end(&mut bytes)
            .with_context(receiving)?;
        ensure!(
            bytes.len() as u64 <= DOCKERFILE_LIMIT,
            "the Dockerfile from standard input has more than {DOCKERFILE_LIMIT} bytes"
        );
        Ok(Received {
            layer: None,
            dockerfile: Some(bytes.into()),
            origin: None,
        })
    }

    /// What is at an address: an archive, or a Dockerfile.
    fn remote(&self, url: &str, limit: Option<u64>) -> anyhow::Result<Received> {
        if GitUrl::of_context(url)?.is_some() {
            return self.git(url);
        }
        let op = self.resolver.resolve_http(&HttpRequest {
            url: url.to_owned(),
            filename: CONTEXT.to_owned(),
            checksum: None,
            limit,
        })?;
        let layer = self.remotes.http.layer(&op)?;
        let view = View::new(vec![self.store.layer(&layer)?]);
        let context = LayerPath::clean(CONTEXT.as_bytes());
        if !begins_as_archive(view.open(&context)?)? {
            let bytes = self.remotes.http.read(&op, DOCKERFILE_LIMIT)?;
            return Ok(Received {
                layer: Some(layer),
                dockerfile: Some(bytes.into()),
                origin: Some(Op::Http(op)),
            });
        }
        let layer = self
            .extracted(&view, &context, &op.digest, limit)
            .with_context(|| format!("reading the context {}", op.url))?;
        Ok(Received {
            layer: Some(layer),
            dockerfile: None,
            origin: Some(Op::Http(op)),
        })
    }

    /// The files of a repository. The commit is asked for; what is here of it is not fetched.
    fn git(&self, url: &str) -> anyhow::Result<Received> {
        let op = self.resolver.resolve_git(&GitRequest {
            url: url.to_owned(),
            keep_git_dir: self.keep_git_dir.then_some(true),
            checksum: None,
        })?;
        let layer = self.recorded(&keys::git(&op), || Ok(self.remotes.git.fetch(&op)?))?;
        Ok(Received {
            layer: Some(layer),
            dockerfile: None,
            origin: Some(Op::Git(op)),
        })
    }

    /// An archive with this digest as a layer; extracted when it was not before.
    fn extracted(
        &self,
        view: &View,
        path: &LayerPath,
        digest: &Digest,
        limit: Option<u64>,
    ) -> anyhow::Result<LayerId> {
        let key = KeyBuilder::new("context archive/1")
            .field("digest", digest.as_bytes())
            .finish();
        self.recorded(&key, || extract(self.store, view, path, limit))
    }

    /// The layer that the store has for this key, or one that is made.
    fn recorded(&self, key: &Key, make: impl FnOnce() -> anyhow::Result<LayerId>) -> anyhow::Result<LayerId> {
        if let Some(record) = self.store.record(key)?
            && self.store.layer_exists(&record.layer)
        {
            return Ok(record.layer);
        }
        let layer = make()?;
        let created = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let record = Record {
            op: *key,
            layer: layer.clone(),
            inputs: Vec::new(),
            created,
            duration_ms: 0,
            made: Made::Context,
            description: "build context".to_owned(),
        };
        self.store.put_record(key, &record)?;
        Ok(layer)
    }

    /// A Dockerfile at an address.
    fn text(&self, url: &str) -> anyhow::Result<Arc<[u8]>> {
        let op = self.resolver.resolve_http(&HttpRequest {
            url: url.to_owned(),
            filename: "Dockerfile".to_owned(),
            checksum: None,
            limit: Some(DOCKERFILE_LIMIT),
        })?;
        Ok(self.remotes.http.read(&op, DOCKERFILE_LIMIT)?.into())
    }

    /// The Dockerfile of a context that was received: `file` is a path in it, or an absolute one of this machine.
    fn dockerfile(
        &self,
        received: &Received,
        file: Option<&str>,
        place: &str,
    ) -> anyhow::Result<DockerfileSource> {
        if file == Some("-") {
            return Ok(DockerfileSource::Stdin);
        }
        if let Some(text) = &received.dockerfile {
            if file.is_some() {
                bail!("ambiguous Dockerfile source: both {place} and flag correspond to Dockerfiles");
            }
            return Ok(DockerfileSource::Text(Arc::clone(text)));
        }
        if let Some(path) = file.filter(|file| file.starts_with('/')) {
            return Ok(DockerfileSource::of_path(PathBuf::from(path)));
        }
        let view = received.view(self.store)?;
        let name = match file {
            Some(name) => name,
            None if !is_file(&view, "Dockerfile")? && is_file(&view, "dockerfile")? => "dockerfile",
            None => "Dockerfile",
        };
        ensure!(
            !name.split('/').any(|part| part == ".."),
            "the Dockerfile {name:?} is not in the context"
        );
        // A link leads to another file of the context, not out of it.
        let found = tree::resolve(&view, &LayerPath::clean(name.as_bytes()))?;
        let is_file = |kind: &Kind| matches!(kind, Kind::File { .. });
        ensure!(
            found.entry.is_some_and(|entry| is_file(&entry.kind)),
            "failed to read dockerfile: there is no file {name:?} in the context"
        );
        let mut bytes = Vec::new();
        view.open(&found.path)?
            .take(DOCKERFILE_LIMIT + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("failed to read dockerfile: {name:?} of the context"))?;
        ensure!(
            bytes.len() as u64 <= DOCKERFILE_LIMIT,
            "the Dockerfile {name:?} of the context has more than {DOCKERFILE_LIMIT} bytes"
        );
        Ok(DockerfileSource::Named {
            bytes: bytes.into(),
            shown: Arc::from(name.rsplit('/').next().unwrap_or(name)),
        })
    }
}

fn is_file(view: &View, name: &str) -> anyhow::Result<bool> {
    let found = tree::resolve(view, &LayerPath::clean(name.as_bytes()))?;
    Ok(found.entry.is_some())
}

fn too_large(limit: u64) -> String {
    format!(
        "it has more than {}: raise --max-context-size",
        human::size(limit)
    )
}
