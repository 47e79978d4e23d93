//! From the parsed Dockerfile to the graph: who says what the names in it mean, and what the user hears about it.

use std::sync::{Arc, Mutex};

use rbuild_cache::Store;
use rbuild_parser::Dockerfile;
use rbuild_parser::git_url::GitUrl;

use super::announced::Announced;
use super::early::EarlyContext;
use super::locked::Locked;
use super::received::ContextPlace;
use super::{Build, attesting, report, transfers};
use crate::error::BuildError;
use crate::frontend::{self, Lowered, MetaResolver};
use crate::progress::{Event, Sink as _};
use crate::registry::{FetchOptions, Registry};
use crate::source::git::{GitAuth, GitSource};
use crate::source::http::HttpSource;
use crate::source::ignore_file::IgnoreFile;
use crate::source::image::ImageSource;
use crate::source::remote::Remotes;

impl Build<'_> {
    /// What finds base images; from now on the store fetches layers that it knows and does not have.
    pub(super) fn images(&self, store: &Store, registry: &Registry) -> ImageSource {
        let images = ImageSource::new(store.clone(), registry.clone(), self.options.pull)
            .with_progress(transfers::shown_by(self.progress.clone()));
        store.set_provider(Arc::new(images.origins().clone()));
        images
    }

    pub(super) fn lower(
        &self,
        dockerfile: Dockerfile,
        images: &ImageSource,
        remotes: &Remotes,
        early: Option<&EarlyContext>,
    ) -> Result<Vec<Lowered>, BuildError> {
        let mut announced = self.announced(images, Some(remotes));
        announced.early = early;
        match &self.pins()? {
            None => self.lower_by(dockerfile, &announced),
            Some(pins) => self.lower_by(dockerfile, &Locked { pins, announced }),
        }
    }

    /// The graph of what is asked for, by what `resolver` says of the names in it.
    pub(super) fn lower_by(
        &self,
        dockerfile: Dockerfile,
        resolver: &dyn MetaResolver,
    ) -> Result<Vec<Lowered>, BuildError> {
        let request = self.request(dockerfile)?;
        if self.options.attestations.is_any() {
            let _ = self.parameters.set(attesting::parameters(&request));
        }
        let lowered = match self.options.platforms.as_slice() {
            [] => vec![frontend::lower(&request, resolver)?],
            platforms => frontend::lower_platforms(&request, platforms, resolver)?,
        };
        let mut warnings = self.warnings.borrow_mut();
        for warning in lowered.iter().flat_map(|lowered| &lowered.warnings) {
            // What is doubtful for one platform mostly is for all.
            if warnings.contains(warning) {
                continue;
            }
            warnings.push(warning.clone());
            self.progress.emit(Event::Warning {
                message: report::line(warning),
                location: warning.location.clone(),
            });
        }
        let rewrites = self.options.outputs.iter().any(|output| output.rewrite_timestamp);
        if rewrites && lowered.iter().any(|lowered| lowered.source_date_epoch.is_none()) {
            self.progress.emit(Event::Warning {
                message: "rewrite-timestamp=true does nothing without SOURCE_DATE_EPOCH".to_owned(),
                location: None,
            });
        }
        for limit in &self.options.ulimits {
            if let Some(most) = limit.out_of_reach() {
                let name = &limit.name;
                self.progress.emit(Event::Warning {
                    message: format!("--ulimit {name}: an ordinary user may not raise it above {most}"),
                    location: None,
                });
            }
        }
        Ok(lowered)
    }

    /// The context, if it is a directory, to be read while others are asked.
    pub(super) fn early(&self, store: &Store) -> Result<Option<EarlyContext>, BuildError> {
        let Some(path) = self.options.context.directory() else {
            return Ok(None);
        };
        let ignore = self.ignore()?.as_ref().map(IgnoreFile::matcher).transpose()?;
        Ok(Some(EarlyContext::new(path.to_owned(), ignore, store.clone())))
    }

    /// What finds base images and remote sources; without `remotes` nothing is built and no source asked for.
    pub(super) fn announced<'b>(
        &'b self,
        images: &'b ImageSource,
        remotes: Option<&'b Remotes>,
    ) -> Announced<'b> {
        Announced {
            images,
            remotes,
            trusts_dockerfile: !matches!(self.options.context, ContextPlace::Remote(_)),
            early: None,
            sink: self.progress.as_ref(),
            told: Mutex::default(),
        }
    }

    /// What fetches remote sources.
    pub(super) fn remotes(&self, store: &Store, registry: &Registry) -> anyhow::Result<Remotes> {
        let options = FetchOptions {
            link_local: self.options.allows_host_network(),
            stall_limit: self.options.reception.stall_timeout,
        };
        let http = HttpSource::new(store.clone(), registry.clone(), options.clone())
            .with_secrets(&self.secrets)
            .with_progress(transfers::files_shown_by(self.progress.clone()));
        let secrets = self
            .secrets
            .iter()
            .map(|(id, value)| (id, value.bytes().as_ref()));
        let git = GitSource::new(store.clone(), GitAuth::new(secrets)?, registry.clone(), options)
            .with_agents(Arc::clone(&self.agents));
        for url in self.options.typed_addresses() {
            if let Some(url) = GitUrl::of_context(url)? {
                git.trust(&url.remote);
            }
        }
        Ok(Remotes { http, git })
    }
}
