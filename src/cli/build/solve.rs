//! From the graph to layers: the contexts that steps read, the plan, the sandbox if a process has to run, and the run.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rbuild_cache::layer::Ownership;
use rbuild_cache::{Store, TempDir};
use rbuild_executor::{Executor, NetworkPlan};

use super::args::Metadata;
use super::early::EarlyContext;
use super::{Build, commit};
use crate::error::BuildError;
use crate::exporter::{Output, OutputKind};
use crate::frontend::{self, Lowered};
use crate::graph::{NetworkMode, VertexId};
use crate::progress::{Event, Renderer as _, Sink};
use crate::registry::Registry;
use crate::solver::why::Ran;
use crate::solver::{self, Inputs, Plan, run::Solved};
use crate::source::context::{BuildContext, StoredContext};
use crate::source::ignore_file::IgnoreFile;
use crate::source::local::{ContextMode, LocalContext};
use crate::source::remote::Remotes;

/// How often clocks in the progress output tick.
const TICK: Duration = Duration::from_millis(100);

impl Build<'_> {
    /// Opens the contexts that steps read.
    pub(super) fn locals(
        &self,
        lowered: &[Lowered],
        store: &Store,
        early: Option<&EarlyContext>,
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
                    let early = early.filter(|_| name == frontend::CONTEXT);
                    let local = match early.and_then(EarlyContext::take) {
                        Some(local) => local,
                        None => {
                            let memory = store.file_memory(path).map_err(BuildError::new)?;
                            LocalContext::open(path, ignore, Some(memory))?
                        }
                    };
                    BuildContext::Directory(Box::new(local.with_mode(mode)))
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
    pub(super) fn solve(
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
            let exported = commit::image_forms(lowered, &self.options.outputs);
            let run = || solver::run::run(&inputs, &plan, executor.as_ref(), &cancel, &exported);
            let solved = self.explained(&inputs, &plan, &ran, run);
            ended.set();
            solved
        })?;
        plan.abandon();
        Ok((Some(solved), scratch))
    }

    /// What the solver works with.
    pub(super) fn inputs<'b>(
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
    pub(super) fn clamp(&self, lowered: &Lowered) -> Option<i64> {
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
}

/// Set once, waited for with a timeout.
#[derive(Debug, Default)]
struct Ended {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Ended {
    fn set(&self) {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Whether it was set before `timeout` passed.
    fn wait(&self, timeout: Duration) -> bool {
        let set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        let (set, _) = self
            .changed
            .wait_timeout_while(set, timeout, |set| !*set)
            .unwrap_or_else(PoisonError::into_inner);
        *set
    }
}
