//! What the instructions of a stage have made so far.

use super::workdir;
use crate::frontend::env::Env;
use crate::frontend::image::ImageDraft;
use crate::graph::{Location, Platform, VertexId};

/// What the instructions of a stage have made so far; a stage that is built from it begins with a copy.
#[derive(Debug, Clone)]
pub(in crate::frontend) struct StageState {
    /// The root file system; `None` while it is empty.
    pub(in crate::frontend) root: Option<VertexId>,
    pub(in crate::frontend) image: ImageDraft,
    pub(in crate::frontend) platform: Platform,
    pub(super) env: Env,
    /// ARGs declared so far, with repetitions.
    pub(super) declared: Vec<(String, Option<String>)>,
    pub(super) workdir_set: bool,
    pub(super) cmd: Option<Earlier>,
    pub(super) entrypoint: Option<Earlier>,
    pub(super) healthcheck: Option<Earlier>,
}

/// An instruction of which only the last counts.
#[derive(Debug, Clone)]
pub(super) struct Earlier {
    pub(super) location: Location,
    /// It says itself that it may be there again.
    pub(super) skips: bool,
}

impl StageState {
    /// The state of a stage before its first instruction, `root` being its layers.
    pub(in crate::frontend) fn new(image: ImageDraft, platform: Platform, root: Option<VertexId>) -> Self {
        let mut state = Self {
            root,
            env: Env::from_entries(&image.config().env),
            image,
            platform,
            declared: Vec::new(),
            workdir_set: false,
            cmd: None,
            entrypoint: None,
            healthcheck: None,
        };
        let config = state.image.config_mut();
        if !config.working_dir.is_empty() {
            config.working_dir = workdir::joined("/", &config.working_dir);
        }
        state
    }

    /// What a stage built from this one begins with.
    pub(super) fn child(&self) -> Self {
        let mut state = self.clone();
        state.image.config_mut().on_build.clear();
        (state.cmd, state.entrypoint, state.healthcheck) = (None, None, None);
        state
    }

    /// The working directory, absolute, as it was written: a process that starts in `/a/x/../y` finds an `/a/x` as well.
    pub(super) fn written_dir(&self) -> String {
        match self.image.config().working_dir.as_str() {
            "" => "/".to_owned(),
            dir => dir.to_owned(),
        }
    }

    /// The ARGs so far, with repetitions.
    pub(in crate::frontend) fn declared(&self) -> &[(String, Option<String>)] {
        &self.declared
    }

    /// The working directory, absolute and clean.
    pub(super) fn working_dir(&self) -> String {
        workdir::resolved("/", &self.image.config().working_dir)
    }
}
