//! From a parsed Dockerfile to the graph and the image's config (spec 2.2, 3, 4, 5).
//!
//! Nothing is run and nothing is read here: base images are asked for through [`MetaResolver`], everything else is in
//! the request. The same request with the same answers gives the same definition.

mod args;
mod base_image;
mod certain;
pub mod changes;
mod contexts;
mod dispatch;
pub mod entitlement;
mod env;
pub mod image;
mod lint;
mod onbuild;
pub mod outline;
mod remotes;
mod stage;
mod text;
mod warnings;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rbuild_parser::Dockerfile;
use rbuild_parser::check::CheckOptions;

use self::args::Arguments;
use self::base_image::BaseImages;
use self::dispatch::{Lowering, StageState};
use self::lint::IgnoredSources;
use self::remotes::Remotes;
use self::stage::StageTable;
use self::warnings::Warnings;
use crate::error::BuildError;
use crate::graph::Reference;
use crate::graph::address::masked;
use crate::graph::{
    Confinement, CopyOp, Definition, GitOp, HttpOp, ImageOp, Location, MountOp, NetworkMode, Op, Platform,
    Ulimit, VertexId,
};

pub use contexts::{ContextError, NamedContext};
pub use entitlement::Entitlement;
pub use image::{BuildTime, FinishedLayer, ImageDraft};
pub use remotes::{GitRequest, HttpRequest};

/// Name of the build context among local directories.
pub const CONTEXT: &str = "context";

/// Finds base images and remote sources.
pub trait MetaResolver: Sync {
    /// The image that `reference` names, for `platform`. `reference` is as in the Dockerfile after expansion
    /// (`busybox`, `oci-layout://dir:tag`). Called from several threads at once, never twice for one pair.
    fn resolve_image(&self, reference: &str, platform: &Platform) -> anyhow::Result<ImageMeta>;

    /// Called while answers about images are awaited: what of the context will be read whatever these say. Returns when that
    /// was looked at, or `is_over`.
    fn meanwhile(&self, _reads: &[CopyOp], _is_over: &AtomicBool) {}

    /// What a web server has. Called from several threads at once, once for each request, and only for what the target
    /// needs.
    fn resolve_http(&self, request: &HttpRequest) -> anyhow::Result<HttpOp> {
        let url = masked(&request.url);
        Err(
            BuildError::message(format!("ADD of a URL is not supported yet: {url}"))
                .hint(Some(
                    "download it in a RUN, or into the context before the build".to_owned(),
                ))
                .into(),
        )
    }

    /// Which commit a repository has. Called as [`MetaResolver::resolve_http`] is.
    fn resolve_git(&self, request: &GitRequest) -> anyhow::Result<GitOp> {
        let url = masked(&request.url);
        Err(
            BuildError::message(format!("ADD of a git repository is not supported yet: {url}"))
                .hint(Some(
                    "clone it in a RUN, or into the context before the build".to_owned(),
                ))
                .into(),
        )
    }
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
    /// `--build-context`: names, and what they stand for.
    pub contexts: Vec<(String, NamedContext)>,
    /// `--network`: what a RUN without its own gets.
    pub network: NetworkMode,
    /// `--allow`: what RUN may do beyond the usual. `--network=host` allows the machine's network as well.
    pub allow: Vec<Entitlement>,
    /// `--add-host`: name and address.
    pub add_hosts: Vec<(String, String)>,
    /// `--ulimit`.
    pub ulimits: Vec<Ulimit>,
    /// `--cap-add`, `--cap-drop`, `--security-opt`, `--shm-size`.
    pub confinement: Confinement,
    /// `--volume`: mounts of every RUN.
    pub volumes: Vec<MountOp>,
    /// Host name in RUN; `None` for `buildkitsandbox`. The build arg `BUILDKIT_SANDBOX_HOSTNAME` is looked at when this is `None`.
    pub hostname: Option<String>,
    /// `SOURCE_DATE_EPOCH` of the caller's environment; a build arg or global ARG of that name goes first.
    pub source_date_epoch: Option<i64>,
    /// Patterns of the context's ignore file, for a build check.
    pub ignored: Vec<String>,
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

impl Warning {
    /// The message as it is shown, with what may have been meant.
    pub fn text(&self) -> String {
        match &self.help {
            Some(help) if help.starts_with("did you mean") => format!("{} ({help})", self.message),
            _ => self.message.clone(),
        }
    }
}

/// What the build checks found.
#[derive(Debug)]
pub struct Checked {
    /// What is doubtful, in the order of the file.
    pub warnings: Vec<Warning>,
    /// Why it cannot be built, as far as that shows without building.
    pub error: Option<BuildError>,
}

/// The graph for one platform, and the image that its result becomes.
#[derive(Debug, Clone)]
pub struct Lowered {
    /// All that has to be done, for all platforms of the build.
    pub definition: Arc<Definition>,
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
        self.definition
            .ids()
            .any(|id| matches!(&self.definition.vertex(id).op, Op::Local(local) if local.name == name))
    }
}

impl BuildRequest {
    /// Builds the last stage of `dockerfile` for this machine, with nothing else said.
    pub fn of(dockerfile: Dockerfile, file: Arc<str>) -> Self {
        Self {
            dockerfile,
            file,
            build_args: Vec::new(),
            target: None,
            platform: None,
            labels: Vec::new(),
            no_cache: false,
            no_cache_filter: Vec::new(),
            contexts: Vec::new(),
            network: NetworkMode::Default,
            allow: Vec::new(),
            add_hosts: Vec::new(),
            ulimits: Vec::new(),
            confinement: Confinement::default(),
            volumes: Vec::new(),
            hostname: None,
            source_date_epoch: None,
            ignored: Vec::new(),
        }
    }

    /// What `# check=` or the build argument that overrides it says (spec L18, A11).
    fn check_options(&self) -> Result<CheckOptions, BuildError> {
        let given = self
            .build_args
            .iter()
            .rev()
            .find(|(key, _)| key == "BUILDKIT_DOCKERFILE_CHECK");
        let text = given
            .and_then(|(_, value)| value.as_ref())
            .or(self.dockerfile.directives.check.as_ref());
        let options = text.map(|text| CheckOptions::parse(text)).transpose();
        options.map(Option::unwrap_or_default).map_err(|error| {
            BuildError::new(anyhow::Error::new(error).context("failed to parse check options"))
        })
    }

    /// Refuses frontends that this program is not (spec L17).
    fn check_syntax(&self) -> Result<(), BuildError> {
        let given = self
            .build_args
            .iter()
            .rev()
            .find(|(key, _)| key == "BUILDKIT_SYNTAX");
        let syntax =
            given
                .and_then(|(_, value)| value.as_ref())
                .or(self.dockerfile.directives.syntax.as_ref());
        let Some(syntax) = syntax else { return Ok(()) };
        let name = syntax.split_whitespace().next().unwrap_or_default();
        let repository = Reference::parse(name).map(|reference| reference.repository().to_owned());
        let known = |repository: &str| {
            let last_two: Vec<&str> = repository.rsplit('/').take(2).collect();
            matches!(
                last_two.as_slice(),
                ["dockerfile" | "dockerfile-upstream", "docker"]
            )
        };
        if name == "dockerfile.v0" || repository.is_ok_and(|repository| known(&repository)) {
            return Ok(());
        }
        Err(BuildError::message(format!(
            "the Dockerfile asks for the frontend {name:?}, which cannot be run"
        ))
        .hint(Some(
            "remove the syntax line, or use docker/dockerfile:1".to_owned(),
        )))
    }
}

/// Lowers `request.dockerfile` for one platform.
pub fn lower(request: &BuildRequest, resolver: &dyn MetaResolver) -> Result<Lowered, BuildError> {
    let mut definition = Definition::default();
    let mut lowered = lower_into(
        request,
        resolver,
        false,
        &mut BaseImages::default(),
        &mut Remotes::default(),
        &mut definition,
    )?;
    lowered.definition = Arc::new(definition);
    Ok(lowered)
}

/// Lowers `request.dockerfile` for each of `platforms` into one graph: what is the same for two of them, a stage for the
/// machine that builds for instance, is one vertex (spec G9).
pub fn lower_platforms(
    request: &BuildRequest,
    platforms: &[Platform],
    resolver: &dyn MetaResolver,
) -> Result<Vec<Lowered>, BuildError> {
    let mut definition = Definition::default();
    let (mut images, mut remotes) = (BaseImages::default(), Remotes::default());
    let mut all = Vec::with_capacity(platforms.len());
    for platform in platforms {
        let request = BuildRequest {
            platform: Some(platform.clone()),
            ..request.clone()
        };
        all.push(lower_into(
            &request,
            resolver,
            platforms.len() > 1,
            &mut images,
            &mut remotes,
            &mut definition,
        )?);
    }
    let definition = Arc::new(definition);
    for lowered in &mut all {
        lowered.definition = Arc::clone(&definition);
    }
    Ok(all)
}

/// What is lowered.
#[derive(Clone, Copy, Default)]
struct Scope {
    /// All stages, whatever the target needs.
    all: bool,
    /// The names of steps name the platform.
    is_one_of_many: bool,
    /// Remote sources are not asked for: nothing will be built.
    stays_here: bool,
}

/// The stages that were lowered, and what they were lowered with.
struct LoweredStages {
    arguments: Arguments,
    table: StageTable,
    needed: Vec<bool>,
    states: Vec<Option<StageState>>,
    target: usize,
}

/// Lowers the stages that the target needs, or all of them.
fn lower_stages(
    request: &BuildRequest,
    resolver: &dyn MetaResolver,
    scope: Scope,
    warnings: &mut Warnings,
    images: &mut BaseImages,
    remotes: &mut Remotes,
    definition: &mut Definition,
) -> Result<LoweredStages, BuildError> {
    request.check_syntax()?;
    for diagnostic in rbuild_parser::lint::check(&request.dockerfile) {
        warnings.push(Warning {
            rule: diagnostic.code,
            message: diagnostic.message,
            help: diagnostic.help,
            location: Some(warnings.location(diagnostic.span)),
        });
    }
    let target_platform = request.platform.clone().unwrap_or_else(Platform::host);
    let arguments = Arguments::evaluate(request, &target_platform, warnings)?;
    let mut table = StageTable::plan(request, &arguments, warnings)?;
    let target = table.target(request.target.as_deref())?;
    table.check_filters(&request.no_cache_filter, warnings);

    // A trigger of a base image may name stages and images that were not needed before.
    let mut fired = vec![false; table.stages.len()];
    let needed = loop {
        let needed = if scope.all {
            vec![true; table.stages.len()]
        } else {
            table.reachable(target)
        };
        let reads = if scope.stays_here {
            Vec::new()
        } else {
            certain::reads(&table, &needed)
        };
        let meanwhile = |is_over: &AtomicBool| resolver.meanwhile(&reads, is_over);
        images.resolve(&table, &needed, &target_platform, resolver, &meanwhile)?;
        let escape = request.dockerfile.directives.escape;
        if !onbuild::fire(&mut table, &needed, &mut fired, images, &target_platform, escape)? {
            break needed;
        }
    };

    let ignored = IgnoredSources::new(&request.ignored);
    let states = loop {
        let mut attempt = definition.clone();
        attempt.set_stages(table.names().map(str::to_owned).collect());
        let mut lowering = Lowering {
            request,
            arguments: &arguments,
            table: &table,
            images,
            remotes,
            target_platform: &target_platform,
            is_one_of_many: scope.is_one_of_many,
            definition: &mut attempt,
            warnings,
            ignored: &ignored,
        };
        let states = lowering.stages(&needed)?;
        if scope.stays_here || !remotes.resolve(resolver)? {
            *definition = attempt;
            break states;
        }
    };
    warnings.enter(&[]);
    arguments.warn_unused(request, &table.argument_names(), warnings);
    Ok(LoweredStages {
        arguments,
        table,
        needed,
        states,
        target,
    })
}

/// Lowers for one platform into `definition`; the result's own one is empty. `is_one_of_many` says to name the platform
/// in the names of steps.
fn lower_into(
    request: &BuildRequest,
    resolver: &dyn MetaResolver,
    is_one_of_many: bool,
    images: &mut BaseImages,
    remotes: &mut Remotes,
    definition: &mut Definition,
) -> Result<Lowered, BuildError> {
    let scope = Scope {
        all: false,
        is_one_of_many,
        stays_here: false,
    };
    let mut warnings = Warnings::new(Arc::clone(&request.file), request.check_options()?);
    let mut stages = lower_stages(
        request,
        resolver,
        scope,
        &mut warnings,
        images,
        remotes,
        definition,
    )?;
    let Some(state) = stages.states.get_mut(stages.target).and_then(Option::take) else {
        return Err(BuildError::message("the target stage was not lowered"));
    };
    let mut image = state.image;
    image.config_mut().labels.extend(request.labels.iter().cloned());
    match &request.platform {
        Some(platform) => image.set_platform(platform),
        None => image.normalise_platform(),
    }
    Ok(Lowered {
        platform: image.platform(),
        definition: Arc::default(),
        result: state.root,
        image,
        target: stages.table.display_name(stages.target),
        source_date_epoch: stages.arguments.epoch,
        warnings: warnings.finish()?,
    })
}

/// Looks for what is doubtful or wrong in what the request's target needs; in all stages when it names none (spec G3).
pub fn check(request: &BuildRequest, resolver: &dyn MetaResolver) -> Checked {
    let options = match request.check_options() {
        Ok(options) => options,
        Err(error) => {
            return Checked {
                warnings: Vec::new(),
                error: Some(error),
            };
        }
    };
    let mut warnings = Warnings::new(Arc::clone(&request.file), options);
    let scope = Scope {
        all: request.target.is_none(),
        stays_here: true,
        ..Scope::default()
    };
    let (mut images, mut definition) = (BaseImages::default(), Definition::default());
    let lowered = lower_stages(
        request,
        resolver,
        scope,
        &mut warnings,
        &mut images,
        &mut Remotes::default(),
        &mut definition,
    );
    Checked {
        warnings: warnings.of_rules(),
        error: lowered.err(),
    }
}

#[cfg(test)]
mod tests;
