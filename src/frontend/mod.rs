//! From a parsed Dockerfile to the graph and the image's config (spec 2.2, 3, 4, 5).
//!
//! Nothing is run and nothing is read here: base images are asked for through [`MetaResolver`], everything else is in
//! the request. The same request with the same answers gives the same definition.

pub mod changes;
pub mod image;

use std::sync::Arc;

use rbuild_parser::Dockerfile;

use crate::error::BuildError;
use crate::graph::{Definition, ImageOp, Location, NetworkMode, Platform, VertexId};

pub use image::{BuildTime, FinishedLayer, ImageDraft};

/// Finds base images.
pub trait MetaResolver: Sync {
    /// The image that `reference` names, for `platform`. `reference` is as in the Dockerfile after expansion
    /// (`busybox`, `oci-layout://dir:tag`). Called from several threads at once, never twice for one pair.
    fn resolve_image(&self, reference: &str, platform: &Platform) -> anyhow::Result<ImageMeta>;
}

/// What the registry or the store says about an image; no layer is needed for that.
#[derive(Debug, Clone)]
pub struct ImageMeta {
    /// Its layers, by digest.
    pub op: ImageOp,
    /// Its config, JSON as it is stored.
    pub config: Vec<u8>,
}

/// What to build.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The parsed Dockerfile.
    pub dockerfile: Dockerfile,
    /// Its name for messages.
    pub file: Arc<str>,
    /// `--build-arg` in order; a later one of the same name wins. `None` (`--build-arg K`, and K is not set) counts as not given.
    pub build_args: Vec<(String, Option<String>)>,
    /// `--target`: name or number of a stage; `None` for the last one.
    pub target: Option<String>,
    /// `--platform`; `None` for that of this machine, and the result's platform is then that of its base image.
    pub platform: Option<Platform>,
    /// `--label`, in order.
    pub labels: Vec<(String, String)>,
    /// `--no-cache`.
    pub no_cache: bool,
    /// `--no-cache-filter`: names of stages.
    pub no_cache_filter: Vec<String>,
    /// `--network`: what a RUN without its own gets.
    pub network: NetworkMode,
    /// `--add-host`: name and address.
    pub add_hosts: Vec<(String, String)>,
    /// Host name in RUN; `None` for `buildkitsandbox`. The build arg `BUILDKIT_SANDBOX_HOSTNAME` is looked at when this is `None`.
    pub hostname: Option<String>,
    /// `SOURCE_DATE_EPOCH` of the caller's environment; a build arg or global ARG of that name goes first.
    pub source_date_epoch: Option<i64>,
}

/// Something doubtful in the Dockerfile or in how it is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Name of the rule (`UndefinedVar`), empty when it has none.
    pub rule: &'static str,
    /// One line.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Where.
    pub location: Option<Location>,
}

/// The graph for one platform, and the image that its result becomes.
#[derive(Debug, Clone)]
pub struct Lowered {
    /// All that has to be done.
    pub definition: Definition,
    /// Its result; `None` for an image without layers.
    pub result: Option<VertexId>,
    /// The image, but for what only the layers say.
    pub image: ImageDraft,
    /// Platform of the image.
    pub platform: Platform,
    /// Name of the target stage, or `stage-N`.
    pub target: String,
    /// Value to clamp times to: build arg or ARG `SOURCE_DATE_EPOCH`, else the request's.
    pub source_date_epoch: Option<i64>,
    /// In order of appearance.
    pub warnings: Vec<Warning>,
}

impl Lowered {
    /// Whether a step reads files of the local directory `name` (`context`).
    pub fn reads_local(&self, name: &str) -> bool {
        use crate::graph::Op;
        self.definition
            .ids()
            .any(|id| matches!(&self.definition.vertex(id).op, Op::Local(local) if local.name == name))
    }
}

/// Lowers `request.dockerfile` for one platform.
pub fn lower(request: &BuildRequest, resolver: &dyn MetaResolver) -> Result<Lowered, BuildError> {
    let _ = resolver;
    Err(BuildError::message(format!(
        "lowering {} is not possible yet",
        request.file
    )))
}
