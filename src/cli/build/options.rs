//! What the flags of a build mean: [`BuildArgs`] checked, with what the environment adds.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rbuild_executor::{Isolation, Resources, Rlimit};
use rbuild_parser::value::parse_bool;

use super::args::{BuildArgs, Metadata};
use super::attesting;
use super::caching::CacheArgs;
use super::call::{Call, Method};
use super::dockerfile::DockerfileSource;
use super::locked::LockedArgs;
use super::network::NetworkOptions;
use super::received::{ContextPlace, is_web};
use super::reception::ReceptionArgs;
use super::space::SpaceLimits;
use crate::attestation::Wanted;
use crate::exporter::{Annotation, Output, OutputKind};
use crate::frontend::{BuildRequest, Entitlement, NamedContext};
use crate::graph::{Confinement, MountOp, NetworkMode, Platform, Ulimit};
use crate::progress::Mode;
use crate::registry::Reference;
use crate::solver::Jobs;
use crate::source::agent::AgentSource;
use crate::source::image::PullPolicy;
use crate::source::leak::SecretScan;
use crate::source::secret::SecretSource;

/// What the flags mean.
#[derive(Debug)]
pub struct BuildOptions {
    /// `--tag`.
    pub tags: Vec<Reference>,
    /// Where the Dockerfile is.
    pub dockerfile: DockerfileSource,
    /// `--context-mode`.
    pub context_mode: Metadata,
    /// `--ignorefile`.
    pub ignore_file: Option<PathBuf>,
    /// Where the context is.
    pub context: ContextPlace,
    /// `--file`.
    pub file: Option<String>,
    /// What is received, and how long it is waited for.
    pub reception: ReceptionArgs,
    /// When registries are asked.
    pub pull: PullPolicy,
    /// `--locked` and `--lock-file`.
    pub locked: LockedArgs,
    /// Where the result goes; at least one.
    pub outputs: Vec<Output>,
    /// `--iidfile`.
    pub iidfile: Option<PathBuf>,
    /// `--metadata-file`.
    pub metadata_file: Option<PathBuf>,
    /// `--attest`, `--provenance`, `--sbom`.
    pub attestations: Wanted,
    /// `--quiet`.
    pub quiet: bool,
    /// `--progress`.
    pub progress: Mode,
    /// `--platform`; empty for that of this machine.
    pub platforms: Vec<Platform>,
    /// The result is an index even with one platform.
    pub as_index: bool,
    /// `--call`, `--check`.
    pub call: Call,
    /// `--isolation`.
    pub isolation: Isolation,
    /// Directories of `--build-context`, by the names as given.
    pub local_contexts: Vec<(String, PathBuf)>,
    contexts: Vec<(String, NamedContext)>,
    build_args: Vec<(String, Option<String>)>,
    target: Option<String>,
    labels: Vec<(String, String)>,
    /// `--no-cache`, `--cache-ttl`, `--explain` and the like.
    pub caching: CacheArgs,
    /// The flags about the network of RUN.
    pub network: NetworkOptions,
    allow: Vec<Entitlement>,
    /// `--ulimit`.
    pub ulimits: Vec<Rlimit>,
    /// `--stop-grace`.
    pub stop_grace: Duration,
    confinement: Confinement,
    /// `--secret`.
    pub secrets: Vec<SecretSource>,
    /// `--secret-scan`.
    pub secret_scan: SecretScan,
    /// `--ssh`.
    pub agents: Vec<AgentSource>,
    volumes: Vec<MountOp>,
    /// `--memory`, `--cpus`, `--resource` and the like.
    pub resources: Resources,
    /// `--store-max` and `--min-free`.
    pub space: SpaceLimits,
    /// `--jobs`.
    pub jobs: Jobs,
    source_date_epoch: Option<i64>,
}

impl BuildOptions {
    /// Checks what was typed.
    pub fn new(args: BuildArgs) -> anyhow::Result<Self> {
        let tags = args.tags.iter().map(|tag| {
            let reference = Reference::parse(tag).with_context(|| format!("invalid tag {tag:?}"))?;
            if reference.digest().is_some() {
                bail!("invalid tag {tag:?}: a tag cannot be a digest");
            }
            Ok(reference)
        });
        let tags: Vec<Reference> = tags.collect::<anyhow::Result<_>>()?;
        let file = args.file.as_deref();
        if args.context == "-" && file == Some("-") {
            bail!("invalid argument: can't use stdin for both build context and dockerfile");
        }
        let context = ContextPlace::parse(&args.context)?;
        let dockerfile = match context.directory() {
            Some(directory) => dockerfile(file, directory),
            None => DockerfileSource::Pending,
        };
        let mut contexts = Vec::new();
        let mut local_contexts = Vec::new();
        for text in &args.build_contexts {
            let (name, context, path) = named_context(text)?;
            local_contexts.extend(path.map(|path| (name.clone(), path)));
            contexts.push((name, context));
        }
        let platforms = platforms(&args.platform)?;
        let build_args: Vec<_> = args
            .build_args
            .iter()
            .map(|text| with_environment(text))
            .collect();
        let quiet_mode = if args.quiet {
            Mode::Quiet
        } else {
            args.progress.unwrap_or_default()
        };
        let outputs = outputs(&args, &tags)?;
        let attestations = args.attesting.wanted()?;
        attesting::refuse_in_docker_archive(&attestations, &outputs)?;
        Ok(Self {
            dockerfile,
            context_mode: args.context_mode,
            ignore_file: args.ignorefile.clone(),
            context,
            file: args.file.clone(),
            reception: args.reception,
            pull: if args.pull {
                PullPolicy::Always
            } else {
                PullPolicy::Missing
            },
            outputs,
            locked: args.locked,
            tags,
            iidfile: args.iidfile,
            metadata_file: args.attesting.metadata_file,
            attestations,
            quiet: args.quiet,
            progress: quiet_mode,
            call: if args.check {
                Call {
                    method: Method::Check,
                    ..Call::default()
                }
            } else {
                args.call
            },
            isolation: args.isolation,
            contexts,
            local_contexts,
            network: NetworkOptions::new(args.network, &build_args)?,
            build_args,
            target: args.target,
            as_index: platforms.len() > 1 || wants_index(&args.build_args),
            platforms,
            labels: args
                .labels
                .iter()
                .map(|text| {
                    let (key, value) = text.split_once('=').unwrap_or((text, ""));
                    (key.to_owned(), value.to_owned())
                })
                .collect(),
            caching: args.caching,
            allow: args.allow,
            ulimits: args.ulimits,
            confinement: args.confinement.confinement()?,
            resources: args.resources.resources()?,
            space: SpaceLimits {
                most: args.store_max,
                free: args.min_free,
            },
            jobs: Jobs::new(args.jobs),
            stop_grace: args.confinement.stop_grace,
            volumes: args.handed.volumes()?,
            secret_scan: args.handed.secret_scan,
            secrets: args.handed.secrets,
            agents: args.handed.agents,
            source_date_epoch: source_date_epoch()?,
        })
    }

    /// What the frontend is asked for.
    pub fn request(&self, dockerfile: rbuild_parser::Dockerfile) -> BuildRequest {
        BuildRequest {
            dockerfile,
            file: self.dockerfile.shown(),
            build_args: [self.network.proxies.as_slice(), &self.build_args].concat(),
            target: self.target.clone(),
            platform: None,
            labels: self.labels.clone(),
            no_cache: self.caching.no_cache,
            no_cache_filter: self.caching.no_cache_filter.clone(),
            contexts: self.contexts.clone(),
            network: self.network.mode,
            allow: self.allow.clone(),
            add_hosts: self.network.add_hosts.clone(),
            ulimits: self.ulimits.iter().map(ulimit).collect(),
            confinement: self.confinement.clone(),
            volumes: self.volumes.clone(),
            hostname: None,
            source_date_epoch: self.source_date_epoch,
            ignored: Vec::new(),
        }
    }

    /// `--target`.
    pub fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    /// Whether context or Dockerfile have to be received first.
    pub fn needs_receiving(&self) -> bool {
        self.is_received() || matches!(self.dockerfile, DockerfileSource::Pending)
    }

    /// Whether the context is no directory of this machine: it has no ignore file.
    pub fn is_received(&self) -> bool {
        self.context.directory().is_none()
    }

    /// Whether `.git` of a context that is a repository stays: it does if a build argument says so.
    pub fn keeps_git_dir(&self) -> bool {
        let last = self
            .build_args
            .iter()
            .rfind(|(name, _)| name == "BUILDKIT_CONTEXT_KEEP_GIT_DIR");
        let value = last.and_then(|(_, value)| value.as_deref());
        value.and_then(parse_bool) == Some(true)
    }

    /// The addresses that were typed: of the context and of named ones.
    pub fn typed_addresses(&self) -> impl Iterator<Item = &str> {
        let main = match &self.context {
            ContextPlace::Remote(url) => Some(url.as_str()),
            _ => None,
        };
        let named = self.contexts.iter().filter_map(|(_, context)| match context {
            NamedContext::Remote(url) => Some(url.as_str()),
            _ => None,
        });
        main.into_iter().chain(named)
    }

    /// Whether the build may use all of the machine's network.
    pub fn allows_host_network(&self) -> bool {
        self.network.mode == NetworkMode::Host || self.allow.contains(&Entitlement::NetworkHost)
    }

    /// Whether standard output is free for the image id.
    pub fn shows_id(&self) -> bool {
        !self.outputs.iter().any(Output::writes_to_stdout)
    }
}

fn ulimit(limit: &Rlimit) -> Ulimit {
    Ulimit {
        name: limit.name.clone(),
        soft: limit.soft,
        hard: limit.hard,
    }
}

/// `NAME=VALUE` of `--build-context`, with the directory if it is one.
fn named_context(text: &str) -> anyhow::Result<(String, NamedContext, Option<PathBuf>)> {
    let Some((name, value)) = text
        .split_once('=')
        .filter(|(name, value)| !name.is_empty() && !value.is_empty())
    else {
        bail!("invalid context {text:?}: expected NAME=VALUE");
    };
    let context: NamedContext = value.parse()?;
    let mut path = None;
    if context == NamedContext::Local {
        let directory = PathBuf::from(value);
        let metadata = std::fs::metadata(&directory)
            .with_context(|| format!("unable to prepare the context {name}: {value:?}"))?;
        if !metadata.is_dir() {
            bail!("unable to prepare the context {name}: {value:?} is not a directory");
        }
        path = Some(directory);
    }
    Ok((name.to_owned(), context, path))
}

/// `-f` is relative to the current directory; without it `Dockerfile`, then `dockerfile`, in the context.
fn dockerfile(file: Option<&str>, context: &std::path::Path) -> DockerfileSource {
    match file {
        Some("-") => DockerfileSource::Stdin,
        Some(url) if is_web(url) => DockerfileSource::Pending,
        Some(file) => DockerfileSource::of_path(PathBuf::from(file)),
        None => {
            let usual = context.join("Dockerfile");
            let lower = context.join("dockerfile");
            let name = if !usual.exists() && lower.exists() {
                "dockerfile"
            } else {
                "Dockerfile"
            };
            DockerfileSource::of_context(context, name)
        }
    }
}

fn outputs(args: &BuildArgs, tags: &[Reference]) -> anyhow::Result<Vec<Output>> {
    let BuildArgs { push, load, .. } = *args;
    let mut outputs = args
        .outputs
        .iter()
        .map(|text| Output::parse(text))
        .collect::<Result<Vec<_>, _>>()?;
    if push {
        match outputs.iter_mut().find_map(|output| match &mut output.kind {
            OutputKind::Image { push, .. } => Some(push),
            _ => None,
        }) {
            Some(push) => *push = true,
            None => outputs.push(Output::push()),
        }
    }
    if load && !outputs.iter().any(|output| output.kind == OutputKind::Load) {
        outputs.push(Output::load());
    }
    // What is loaded elsewhere is an image of rbuild's as well.
    let keeps = |output: &Output| matches!(output.kind, OutputKind::Image { store: true, .. });
    let loads = outputs.iter().any(|output| output.kind == OutputKind::Load);
    if outputs.is_empty() || (loads && !outputs.iter().any(keeps)) {
        outputs.insert(0, Output::store());
    }
    let annotations = args.annotations.iter().map(|text| Annotation::parse(text));
    let annotations = annotations.collect::<Result<Vec<_>, _>>()?.concat();
    for output in outputs.iter_mut().filter(|output| output.has_manifest()) {
        // What an output says of its own comes later and wins.
        let own = std::mem::take(&mut output.encoding.annotations);
        output.encoding.annotations = [annotations.clone(), own].concat();
    }
    for output in &outputs {
        if matches!(output.kind, OutputKind::Image { push: true, .. })
            && output.names.is_empty()
            && tags.is_empty()
        {
            bail!("tag is needed when pushing to registry: give --tag NAME");
        }
    }
    let mut images = outputs.iter().filter(|output| output.has_manifest());
    if let Some(first) = images.next()
        && images.any(|other| other.rewrite_timestamp != first.rewrite_timestamp)
    {
        bail!("rewrite-timestamp must be the same for all outputs of one build");
    }
    Output::check(&outputs, std::io::stdout().is_terminal())?;
    Ok(outputs)
}

/// Each platform once, in order.
fn platforms(texts: &[String]) -> anyhow::Result<Vec<Platform>> {
    let mut platforms: Vec<Platform> = Vec::new();
    for text in texts.iter().flat_map(|text| text.split(',')) {
        let text = text.trim();
        if text.is_empty() {
            continue;
        }
        let platform = text.parse()?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

/// `--build-arg BUILDKIT_MULTI_PLATFORM=1` (spec 5.4).
fn wants_index(build_args: &[String]) -> bool {
    let given = build_args
        .iter()
        .rev()
        .find_map(|arg| arg.strip_prefix("BUILDKIT_MULTI_PLATFORM="));
    given.is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "1" | "t" | "true"))
}

fn with_environment(text: &str) -> (String, Option<String>) {
    match text.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (text.to_owned(), std::env::var(text).ok()),
    }
}

fn source_date_epoch() -> anyhow::Result<Option<i64>> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) if !text.is_empty() => {
            let seconds = text
                .parse()
                .with_context(|| format!("invalid SOURCE_DATE_EPOCH: {text:?}"))?;
            Ok(Some(seconds))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_listed_once() {
        let given = [
            "linux/amd64, linux/arm64".to_owned(),
            "arm64".to_owned(),
            String::new(),
        ];
        let found = platforms(&given).unwrap();
        let shown: Vec<String> = found.iter().map(Platform::to_string).collect();
        assert_eq!(shown, ["linux/amd64", "linux/arm64"]);
        assert!(platforms(&[]).unwrap().is_empty());
        assert!(platforms(&["no/such/platform/at/all".to_owned()]).is_err());
    }
}
