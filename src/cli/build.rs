//! `rbuild [build]`: the one flow from argv to an image.

mod announced;
mod attesting;
mod caching;
mod call;
mod commit;
mod confinement;
pub mod dockerfile;
mod engine;
pub mod explain;
pub mod handed;
mod interrupt;
mod leaks;
pub mod lock;
mod locked;
mod metadata;
pub mod network;
pub mod options;
mod proxies;
mod received;
mod reception;
pub mod report;
mod request;
pub mod resources;
mod space;
mod transfers;

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, ensure};
use rbuild_cache::layer::Ownership;
use rbuild_cache::{KeyBuilder, Store, TempDir};
use rbuild_executor::{Executor, NetworkPlan};
use rbuild_parser::git_url::GitUrl;

use super::Context;
use crate::error::BuildError;
use crate::exporter::engine::Engine;
use crate::exporter::{self, BuiltImage, ExportContext, Exported, Output, OutputKind};
use crate::frontend::{self, Lowered, MetaResolver, Warning};
use crate::graph::{NetworkMode, VertexId};
use crate::progress::{Event, Mode, Renderer, Sink, Stream, Tail, VertexOutcome, renderer};
use crate::registry::{FetchOptions, Registry};
use crate::solver::why::Ran;
use crate::solver::{self, Inputs, Plan, run::Solved};
use crate::source::agent::Agents;
use crate::source::context::{BuildContext, StoredContext};
use crate::source::git::{GitAuth, GitSource};
use crate::source::http::HttpSource;
use crate::source::ignore_file::IgnoreFile;
use crate::source::image::ImageSource;
use crate::source::leak::Leaks;
use crate::source::local::{ContextMode, LocalContext};
use crate::source::remote::Remotes;
use crate::source::secret::Secrets;

use announced::Announced;
use commit::Committed;
use interrupt::Interrupts;
use locked::Locked;
pub use options::BuildArgs;
use options::{BuildOptions, Metadata};
use received::{Arrival, ContextPlace};

/// How often clocks in the progress output tick.
const TICK: Duration = Duration::from_millis(100);

/// Builds. Errors are printed here, because they belong to a Dockerfile that is at hand here.
pub fn run(args: BuildArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let mut options = BuildOptions::new(args)?;
    for output in options.outputs.iter_mut().filter(|output| output.leaves_store()) {
        context.config.complete(&mut output.encoding);
    }
    if options.call.method != call::Method::Build {
        return call::run(&options, context);
    }
    if let Some(file) = &options.iidfile {
        // A build that fails must not leave an older id behind.
        remove_if_there(file)?;
    }
    if let Some(file) = &options.metadata_file {
        remove_if_there(file)?;
    }
    let progress = progress(&options);
    let mut source = String::new();
    let build = Build::new(&options, context, &progress)?;
    let built = build.run(&mut source);
    // Who has come so far tells himself how it ended.
    build.interrupts.borrow_mut().pause();
    progress.finish();
    if options.progress != Mode::Quiet {
        report::summary(&build.warnings.borrow());
    }
    report::tell(&build.explanation.borrow());
    options.space.after(context);
    match built {
        Ok(exported) => {
            if let Some(file) = &options.iidfile {
                write_atomically(file, exported.image_id.to_string().as_bytes())?;
            }
            if let Some(file) = &options.metadata_file {
                write_atomically(file, &build.metadata(&exported)?)?;
            }
            if options.quiet && options.shows_id() {
                super::context::print(format!("{}\n", exported.image_id))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        // Whoever read the archive from standard output has seen enough.
        Err(error) if error.cause.is::<super::context::Closed>() => Ok(ExitCode::SUCCESS),
        Err(error) => {
            report::print(&error, &source, &progress);
            Ok(match interrupt::signal() {
                None => ExitCode::FAILURE,
                Some(signal) => ExitCode::from(u8::try_from(128 + signal).unwrap_or(1)),
            })
        }
    }
}

fn progress(options: &BuildOptions) -> Arc<Tail> {
    Arc::new(Tail::new(renderer(options.progress)))
}

struct Build<'a> {
    options: &'a BuildOptions,
    context: &'a Context,
    progress: &'a Arc<Tail>,
    /// What the frontend found doubtful, for the end.
    warnings: RefCell<Vec<Warning>>,
    interrupts: RefCell<Interrupts>,
    secrets: Secrets,
    agents: Arc<Agents>,
    leaks: Leaks,
    /// The context's ignore file, once somebody asked.
    ignore: OnceCell<Option<IgnoreFile>>,
    /// Context and Dockerfile from elsewhere, once somebody asked.
    arrival: OnceCell<Arrival>,
    /// What `--explain` has to say, for the end.
    explanation: RefCell<String>,
    /// What the caller asked for, for provenance.
    parameters: OnceCell<BTreeMap<String, String>>,
    /// The images, for the file that tells of them.
    made: RefCell<Vec<BuiltImage>>,
    started: SystemTime,
}

impl<'a> Build<'a> {
    fn new(options: &'a BuildOptions, context: &'a Context, progress: &'a Arc<Tail>) -> anyhow::Result<Self> {
        let mut interrupts = Interrupts::catch(progress, options.stop_grace).context("catching signals")?;
        interrupts.watch().context("catching signals")?;
        let secrets = Secrets::read(&options.secrets)?;
        let agents = Arc::new(Agents::find(&options.agents)?);
        Ok(Self {
            options,
            context,
            progress,
            warnings: RefCell::default(),
            interrupts: RefCell::new(interrupts),
            leaks: leaks::of(options.secret_scan, &secrets, &agents)?,
            secrets,
            agents,
            ignore: OnceCell::new(),
            arrival: OnceCell::new(),
            explanation: RefCell::default(),
            parameters: OnceCell::new(),
            made: RefCell::default(),
            started: SystemTime::now(),
        })
    }

    /// parse, lower, solve, commit, export. `source` receives the Dockerfile's text, for excerpts.
    fn run(&self, source: &mut String) -> Result<Exported, BuildError> {
        let dockerfile = self.parse(source)?;
        self.announce();
        let store = self.context.store()?;
        let progress = self.progress.clone();
        store.set_waiting(move |line| progress.emit(Event::Note(line.to_owned())));
        let registry = self.context.registry();
        let engine = self.engine(&registry)?;
        let images = self.images(&store, &registry);
        let remotes = self.remotes(&store, &registry)?;
        let lowered = self.lower(dockerfile, &images, &remotes)?;
        let locals = self.locals(&lowered, &store)?;
        let (solved, sandbox) = self.solve(&lowered, &store, &registry, &locals, &remotes)?;
        let committed = lowered
            .iter()
            .map(|lowered| commit::commit(lowered, solved.as_ref(), &store, self.clamp(lowered)))
            .collect::<Result<Vec<Committed>, BuildError>>()?;
        let epoch = lowered.first().and_then(|lowered| lowered.source_date_epoch);
        for Committed { image, .. } in &committed {
            leaks::refuse_in_config(&self.leaks, &image.config, self.progress.as_ref())?;
        }
        let images = self.attest(&store, &lowered, committed, source)?;
        let exported = self.export(
            &images,
            ExportContext {
                store: &store,
                registry: &registry,
                epoch,
                engine: engine.as_ref(),
            },
        )?;
        if let (Some(solved), Some(_)) = (&solved, &sandbox) {
            solved.seal(&store)?;
        }
        self.made.replace(images);
        locals.into_values().for_each(BuildContext::abandon);
        Ok(exported)
    }

    /// Who takes what `--load` gives; looked for before the work is done. Where there is nobody, the images of the machine
    /// are those of our store.
    fn engine(&self, registry: &Registry) -> anyhow::Result<Option<Engine>> {
        let outputs = &self.options.outputs;
        let for_docker =
            |output: &Output| matches!(output.kind, OutputKind::Load | OutputKind::Docker { .. });
        ensure!(
            self.options.platforms.len() < 2 && !self.options.as_index || !outputs.iter().any(for_docker),
            "docker exporter does not currently support exporting manifest lists: use type=oci, or give one --platform"
        );
        if !outputs.iter().any(|output| output.kind == OutputKind::Load) {
            return Ok(None);
        }
        match engine::find(registry)? {
            engine::Found::Engine(engine) => Ok(Some(engine)),
            engine::Found::Nobody(looked) => {
                let message = format!(
                    "--load: there is no docker daemon, podman or containerd to load the image into, so it is in the store of \
                     rbuild only (looked for {looked}); -o type=docker,dest=FILE writes an archive"
                );
                self.progress.emit(Event::Warning {
                    message,
                    location: None,
                });
                Ok(None)
            }
        }
    }

    /// What finds base images; from now on the store fetches layers that it knows and does not have.
    fn images(&self, store: &Store, registry: &Registry) -> ImageSource {
        let images = ImageSource::new(store.clone(), registry.clone(), self.options.pull)
            .with_progress(transfers::shown_by(self.progress.clone()));
        store.set_provider(Arc::new(images.origins().clone()));
        images
    }

    fn lower(
        &self,
        dockerfile: rbuild_parser::Dockerfile,
        images: &ImageSource,
        remotes: &Remotes,
    ) -> Result<Vec<Lowered>, BuildError> {
        let announced = self.announced(images, Some(remotes));
        match &self.pins()? {
            None => self.lower_by(dockerfile, &announced),
            Some(pins) => self.lower_by(dockerfile, &Locked { pins, announced }),
        }
    }

    /// The graph of what is asked for, by what `resolver` says of the names in it.
    fn lower_by(
        &self,
        dockerfile: rbuild_parser::Dockerfile,
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

    /// What finds base images and remote sources; without `remotes` nothing is built and no source asked for.
    fn announced<'b>(&'b self, images: &'b ImageSource, remotes: Option<&'b Remotes>) -> Announced<'b> {
        Announced {
            images,
            remotes,
            trusts_dockerfile: !matches!(self.options.context, ContextPlace::Remote(_)),
            sink: self.progress.as_ref(),
            told: Mutex::default(),
        }
    }

    /// What fetches remote sources.
    fn remotes(&self, store: &Store, registry: &Registry) -> anyhow::Result<Remotes> {
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

    /// Opens the contexts that steps read.
    fn locals(
        &self,
        lowered: &[Lowered],
        store: &Store,
    ) -> Result<BTreeMap<String, BuildContext>, BuildError> {
        let dockerfile = self.dockerfile()?.path();
        let main = (frontend::CONTEXT, self.options.context.directory(), dockerfile);
        // Each has its own .dockerignore; only the main one may have it beside the Dockerfile. A later name wins.
        let named = self.options.local_contexts.iter();
        let named = named.map(|(name, path)| (name.as_str(), Some(path.as_path()), None));
        let mut locals = BTreeMap::new();
        for (name, path, dockerfile) in named.chain([main]) {
            if !lowered.iter().any(|lowered| lowered.reads_local(name)) {
                continue;
            }
            let mode = match self.options.context_mode {
                Metadata::Raw => ContextMode::Raw,
                Metadata::Git => ContextMode::Git {
                    time: lowered.first().and_then(|it| it.source_date_epoch).unwrap_or(0),
                },
            };
            let read;
            let found = match path {
                Some(path) if name != frontend::CONTEXT => {
                    read = IgnoreFile::find(Some(path), dockerfile, None)?;
                    &read
                }
                _ => self.ignore()?,
            };
            let ignore = found.as_ref().map(IgnoreFile::matcher).transpose()?;
            let context = match (path, &self.arrival()?.context) {
                (Some(path), _) => {
                    let memory = store.file_memory(path).map_err(BuildError::new)?;
                    let local = LocalContext::open(path, ignore, Some(memory))?.with_mode(mode);
                    BuildContext::Directory(Box::new(local))
                }
                (None, Some(received)) => {
                    BuildContext::Stored(StoredContext::new(received.view(store)?, ignore, mode))
                }
                (None, None) => return Err(BuildError::message("the context was not received")),
            };
            locals.insert(name.to_owned(), context);
        }
        Ok(locals)
    }

    /// Plans with what is at hand, enters the sandbox if a step has to run, and runs. The scratch directory of the
    /// sandbox has to live as long as layers are read.
    fn solve(
        &self,
        lowered: &[Lowered],
        store: &Store,
        registry: &Registry,
        locals: &BTreeMap<String, BuildContext>,
        remotes: &Remotes,
    ) -> Result<(Option<Solved>, Option<TempDir>), BuildError> {
        let results: Vec<VertexId> = lowered.iter().filter_map(|lowered| lowered.result).collect();
        let first = match lowered.first() {
            Some(first) if !results.is_empty() => first,
            _ => return Ok((None, None)),
        };
        let watch = self.options.space.watch(store, self.progress.as_ref());
        let ran = Ran::new(watch.as_ref().map_or(self.progress.as_ref(), |watch| watch));
        let inputs = self.inputs(first, &results, store, locals, remotes, &ran);
        let mut plan = Plan::new(&inputs)?;
        plan.fetch(&inputs)?;
        for local in locals.values() {
            local.save().map_err(BuildError::new)?;
            for message in local.take_warnings() {
                self.progress.emit(Event::Warning {
                    message,
                    location: None,
                });
            }
        }
        let exports_files =
            |output: &Output| matches!(output.kind, OutputKind::Local { .. } | OutputKind::Tar { .. });
        solver::foreign::check(&inputs, &plan)?;
        let reads_files =
            self.options.attestations.sbom.is_some() || self.options.outputs.iter().any(exports_files);
        let entered = if plan.needs_namespace(&inputs, reads_files)? {
            registry.quiesce();
            let entered = self.enter(store)?;
            if plan.runs_with(&inputs, NetworkMode::Default) {
                // Steps wait for it, so it starts beside what they need first.
                let wanted = NetworkPlan {
                    reach_machine: self.options.network.reach_machine(),
                };
                entered.0.start_network(wanted).map_err(BuildError::new)?;
            }
            if plan.is_stale(&inputs) {
                plan = Plan::new(&inputs)?;
                solver::foreign::check(&inputs, &plan)?;
            }
            Some(entered)
        } else {
            None
        };
        let cancel = self.interrupts.borrow().cancel().clone();
        let (executor, scratch) = entered.unzip();
        let ended = Arc::new(Ended::default());
        let solved = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.wait(TICK) {
                    self.progress.tick();
                }
            });
            let run = || solver::run::run(&inputs, &plan, executor.as_ref(), &cancel);
            let solved = self.explained(&inputs, &plan, &ran, run);
            ended.set();
            solved
        })?;
        plan.abandon();
        Ok((Some(solved), scratch))
    }

    /// What the solver works with.
    fn inputs<'b>(
        &'b self,
        first: &'b Lowered,
        results: &'b [VertexId],
        store: &'b Store,
        locals: &'b BTreeMap<String, BuildContext>,
        remotes: &'b Remotes,
        sink: &'b dyn Sink,
    ) -> Inputs<'b> {
        Inputs {
            definition: &first.definition,
            results,
            store,
            locals,
            remotes,
            secrets: &self.secrets,
            agents: &self.agents,
            leaks: &self.leaks,
            sink,
            epoch: first.source_date_epoch,
            clamp: self.clamp(first),
            dns: &self.options.network.dns,
            jobs: self.options.jobs,
            certificates: self.options.network.certificates.as_ref(),
            max_age: self.options.caching.cache_ttl,
        }
    }

    /// The time that no file of a new layer may be later than.
    fn clamp(&self, lowered: &Lowered) -> Option<i64> {
        let wanted = self.options.outputs.iter().any(|output| output.rewrite_timestamp);
        lowered.source_date_epoch.filter(|_| wanted)
    }

    fn enter(&self, store: &Store) -> Result<(Executor, TempDir), BuildError> {
        let scratch = store.temp_dir().map_err(BuildError::new)?;
        // The sandbox is entered by a process of one thread.
        let mut interrupts = self.interrupts.borrow_mut();
        interrupts.pause();
        let executor = Executor::enter_with(self.options.isolation, scratch.path(), &self.options.resources)
            .map_err(BuildError::new)?;
        interrupts.watch().map_err(BuildError::new)?;
        store.set_ownership(match executor.ownership() {
            rbuild_executor::Ownership::Real => Ownership::Real,
            rbuild_executor::Ownership::Emulated => Ownership::Emulated,
        });
        self.progress.emit(Event::Note(executor.describe()));
        for message in executor.warnings() {
            self.progress.emit(Event::Warning {
                message: message.clone(),
                location: None,
            });
        }
        store.sweep_temporary().map_err(BuildError::new)?;
        self.options.space.before(store).map_err(BuildError::new)?;
        Ok((executor, scratch))
    }

    /// What was made and what it is called now, in BuildKit's words.
    fn announcement(&self, exported: &Exported, output: &Output) -> String {
        let Some(manifest) = &exported.manifest else {
            return String::new();
        };
        let mut text = format!(
            "writing manifest {}\nwriting image {}\n",
            manifest.digest, exported.image_id
        );
        let names: Vec<String> = if output.names.is_empty() {
            self.options.tags.iter().map(ToString::to_string).collect()
        } else {
            output.names.clone()
        };
        for name in names {
            text.push_str(&format!("naming to {name}\n"));
        }
        text.push_str(&exported.said);
        text
    }

    fn export(&self, images: &[BuiltImage], context: ExportContext<'_>) -> Result<Exported, BuildError> {
        let mut exported = None;
        for output in &self.options.outputs {
            let name = format!("exporting to {}", output.type_name());
            let vertex = KeyBuilder::new("export")
                .field("output", format!("{output:?}").as_bytes())
                .finish();
            self.progress.emit(Event::Started {
                vertex,
                name,
                location: None,
                at: Instant::now(),
            });
            let result = exporter::export(
                &context,
                images,
                self.options.as_index,
                &self.options.tags,
                output,
            );
            let outcome = match &result {
                Ok(exported) => {
                    let data = self.announcement(exported, output).into_bytes();
                    let stream = Stream::Stdout;
                    self.progress.emit(Event::Log {
                        vertex,
                        stream,
                        data,
                        at: Instant::now(),
                    });
                    VertexOutcome::Done
                }
                Err(error) => VertexOutcome::Failed(format!("{error:#}")),
            };
            self.progress.emit(Event::Finished {
                vertex,
                outcome,
                at: Instant::now(),
            });
            let result = result.with_context(|| format!("exporting to {}", output.type_name()))?;
            if result.devices > 0 {
                let message = format!(
                    "{} device files were left out: only root can make them",
                    result.devices
                );
                self.progress.emit(Event::Warning {
                    message,
                    location: None,
                });
            }
            exported.get_or_insert(result);
        }
        exported.ok_or_else(|| BuildError::message("there is no output"))
    }
}

/// Set once, waited for with a timeout.
#[derive(Debug, Default)]
struct Ended {
    set: std::sync::Mutex<bool>,
    changed: std::sync::Condvar,
}

impl Ended {
    fn set(&self) {
        *self.set.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Whether it was set before `timeout` passed.
    fn wait(&self, timeout: Duration) -> bool {
        let set = self.set.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (set, _) = self
            .changed
            .wait_timeout_while(set, timeout, |set| !*set)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *set
    }
}

fn remove_if_there(file: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// Readers see the whole of it or nothing.
fn write_atomically(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let writing = || format!("writing {}", file.display());
    let mut temporary = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(directory)
        .with_context(writing)?;
    temporary.write_all(bytes).with_context(writing)?;
    temporary
        .persist(file)
        .map_err(|error| error.error)
        .with_context(writing)?;
    Ok(())
}
