//! Says what is being asked for before anything is built.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context as _;
use rbuild_cache::KeyBuilder;
use rbuild_parser::git_url::GitUrl;

use super::early::EarlyContext;
use super::transfers;
use crate::frontend::{GitRequest, HttpRequest, ImageMeta, MetaResolver};
use crate::graph::address::masked;
use crate::graph::{CopyOp, GitOp, HttpOp, Platform};
use crate::progress::{Event, Sink, VertexOutcome};
use crate::source::image::ImageSource;
use crate::source::remote::Remotes;

/// Finds base images and remote sources, and shows each as a step.
pub(super) struct Announced<'a> {
    pub(super) images: &'a ImageSource,
    pub(super) remotes: Option<&'a Remotes>,
    /// The context of what will be built, if it is a directory.
    pub(super) early: Option<&'a EarlyContext>,
    /// Servers that the Dockerfile names may be told secrets that name no server: it is the user's own.
    pub(super) trusts_dockerfile: bool,
    pub(super) sink: &'a dyn Sink,
    /// Short names that were told of.
    pub(super) told: Mutex<BTreeSet<String>>,
}

impl Announced<'_> {
    /// Says once who gave a name without a registry another meaning than docker's.
    fn tell_of_short_name(&self, reference: &str) -> anyhow::Result<()> {
        let Some(file) = self.images.renamed_by(reference)? else {
            return Ok(());
        };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(reference.to_owned()) {
            let meant = self.images.full_name(reference)?;
            let file = file.display();
            self.sink
                .emit(Event::Note(format!("{reference} is {meant}: {file} says so")));
        }
        Ok(())
    }

    /// A question about an image.
    pub(super) fn image_step<T>(
        &self,
        reference: &str,
        platform: &Platform,
        ask: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.tell_of_short_name(reference)?;
        let name = format!("[internal] load metadata for {reference}");
        let vertex = KeyBuilder::new("metadata")
            .field("name", name.as_bytes())
            .field("platform", platform.to_string().as_bytes())
            .finish();
        self.step(vertex, name, ask)
    }

    fn step<T>(
        &self,
        vertex: rbuild_cache::Key,
        name: String,
        ask: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.sink.emit(Event::Started {
            vertex,
            name,
            location: None,
            at: Instant::now(),
        });
        let result = ask();
        let outcome = match &result {
            Ok(_) => VertexOutcome::Done,
            Err(error) => VertexOutcome::Failed(format!("{error:#}")),
        };
        self.sink.emit(Event::Finished {
            vertex,
            outcome,
            at: Instant::now(),
        });
        result
    }
}

impl MetaResolver for Announced<'_> {
    fn resolve_image(&self, reference: &str, platform: &Platform) -> anyhow::Result<ImageMeta> {
        self.image_step(reference, platform, || {
            self.images.resolve_image(reference, platform)
        })
    }

    fn meanwhile(&self, reads: &[CopyOp], is_over: &AtomicBool) {
        if let Some(early) = self.early {
            early.read(reads, is_over);
        }
    }

    fn resolve_http(&self, request: &HttpRequest) -> anyhow::Result<HttpOp> {
        let Some(remotes) = self.remotes else {
            anyhow::bail!("{} is not asked for here", masked(&request.url));
        };
        if request.checksum.is_some() {
            // Nobody is asked.
            return remotes.http.resolve(request);
        }
        let name = format!("[internal] load {}", masked(&request.url));
        self.step(transfers::of_file(&request.url), name, || {
            remotes.http.resolve(request)
        })
    }

    fn resolve_git(&self, request: &GitRequest) -> anyhow::Result<GitOp> {
        let Some(remotes) = self.remotes else {
            anyhow::bail!("{} is not asked for here", masked(&request.url));
        };
        let url = GitUrl::of_context(&request.url)?
            .with_context(|| format!("{} is no git repository", masked(&request.url)))?
            .with_flags(request.checksum.as_deref(), request.keep_git_dir)?;
        if self.trusts_dockerfile {
            remotes.git.trust(&url.remote);
        }
        if !url.asks_server() {
            return Ok(remotes.git.resolve(&url)?);
        }
        let name = format!("[internal] load git source {url}");
        let vertex = KeyBuilder::new("git source")
            .field("url", request.url.as_bytes())
            .finish();
        self.step(vertex, name, || Ok(remotes.git.resolve(&url)?))
    }
}
