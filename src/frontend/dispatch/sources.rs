//! The vertices that a stage reads: images, local directories, remote sources, other stages.

use rbuild_parser::git_url::GitUrl;

use super::{Lowering, StageLowering};
use crate::error::BuildError;
use crate::frontend::base_image::BaseImage;
use crate::frontend::remotes::RemoteRequest;
use crate::frontend::stage::{Command, CopyFrom};
use crate::frontend::{CONTEXT, GitRequest, HttpRequest};
use crate::graph::{Address, ImageOp, LocalOp, Location, Op, Platform, Vertex, VertexId};

impl<'a> Lowering<'a> {
    pub(super) fn image(&self, reference: &str, platform: &Platform) -> Result<&'a BaseImage, BuildError> {
        let images = self.images;
        images.get(reference, platform).ok_or_else(|| {
            BuildError::message(format!("{reference}: the image was not resolved for {platform}"))
        })
    }

    /// The layers of an image; `None` when it has none (spec F10).
    pub(super) fn image_vertex(
        &mut self,
        op: &ImageOp,
        name: String,
        location: &Location,
        platform: &Platform,
    ) -> Option<VertexId> {
        if op.layers.is_empty() {
            return None;
        }
        Some(self.definition.add(Vertex {
            op: Op::Image(op.clone()),
            base: None,
            source: None,
            remotes: Vec::new(),
            mounts: Vec::new(),
            name,
            location: Some(location.clone()),
            written: None,
            no_cache: false,
            platform: platform.clone(),
        }))
    }

    /// A local directory as a source.
    pub(super) fn local_vertex(&mut self, name: &str) -> VertexId {
        let shown = match name {
            CONTEXT => "[internal] load build context".to_owned(),
            name => format!("[context {name}] load from client"),
        };
        self.definition.add(Vertex {
            op: Op::Local(LocalOp {
                name: name.to_owned(),
            }),
            base: None,
            source: None,
            remotes: Vec::new(),
            mounts: Vec::new(),
            name: shown,
            location: None,
            written: None,
            no_cache: false,
            platform: self.target_platform.clone(),
        })
    }

    /// A named context that lies elsewhere: a repository, or a file called `context` (spec 7.3).
    pub(super) fn remote_context(&mut self, url: &str, location: &Location) -> Result<VertexId, BuildError> {
        let request = if GitUrl::of_context(url).map_err(BuildError::new)?.is_some() {
            RemoteRequest::Git(GitRequest {
                url: url.to_owned(),
                keep_git_dir: None,
                checksum: None,
            })
        } else {
            Address::parse(url).map_err(BuildError::new)?;
            RemoteRequest::Http(HttpRequest {
                url: url.to_owned(),
                filename: CONTEXT.to_owned(),
                checksum: None,
                limit: None,
            })
        };
        Ok(self.remote_vertex(request, location))
    }

    /// A remote source; `location` is that of the instruction that reads it.
    pub(super) fn remote_vertex(&mut self, request: RemoteRequest, location: &Location) -> VertexId {
        let op = self.remotes.get(request, location);
        let name = match &op {
            Op::Http(op) => op.url.clone(),
            Op::Git(op) if op.reference.is_empty() => op.remote.clone(),
            Op::Git(op) => format!("{}#{}", op.remote, op.reference),
            _ => String::new(),
        };
        self.definition.add(Vertex {
            op,
            base: None,
            source: None,
            remotes: Vec::new(),
            mounts: Vec::new(),
            name,
            location: Some(location.clone()),
            written: None,
            no_cache: false,
            platform: self.target_platform.clone(),
        })
    }
}

impl StageLowering<'_, '_> {
    /// What a COPY reads: `None` for nothing at all.
    pub(super) fn copy_source(&mut self, command: &Command) -> Result<Option<VertexId>, BuildError> {
        self.tree_of(command.from.as_ref(), &command.location, |other, this| {
            format!("cannot copy from stage {other:?}, it needs to be defined before current stage {this:?}")
        })
    }

    /// The files of the context, or of what is named. `too_early` says that a stage comes later: its name, the name of
    /// this one.
    pub(super) fn tree_of(
        &mut self,
        from: Option<&CopyFrom>,
        location: &Location,
        too_early: impl Fn(String, String) -> String,
    ) -> Result<Option<VertexId>, BuildError> {
        match from {
            None => Ok(Some(self.shared.local_vertex(CONTEXT))),
            Some(CopyFrom::Local(name)) => Ok(Some(self.shared.local_vertex(name))),
            Some(CopyFrom::Remote(url)) => self.shared.remote_context(url, location).map(Some),
            Some(CopyFrom::Scratch) => Ok(None),
            Some(CopyFrom::Stage(stage)) => match self.states.get(*stage) {
                Some(Some(state)) => Ok(state.root),
                _ => {
                    let (other, this) = (
                        self.shared.table.display_name(*stage),
                        self.shared.table.display_name(self.index),
                    );
                    Err(BuildError::message(too_early(other, this)))
                }
            },
            Some(CopyFrom::Image(reference)) => {
                let platform = self.shared.target_platform.clone();
                let op = self.shared.image(reference, &platform)?.meta.op.clone();
                let name = format!("FROM {}", pinned(&op));
                Ok(self.shared.image_vertex(&op, name, location, &platform))
            }
        }
    }
}

/// The reference with the digest that it was resolved to.
pub(super) fn pinned(op: &ImageOp) -> String {
    if op.reference.contains('@') {
        op.reference.clone()
    } else {
        format!("{}@{}", op.reference, op.manifest)
    }
}
