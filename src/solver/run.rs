//! Runs what the plan found missing: a vertex starts once its inputs are there, and a thread goes from one to the next.

mod write;

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use rbuild_cache::layer::{LayerBuilder, Timestamp};
use rbuild_cache::tree::Tree;
use rbuild_cache::{Key, LayerId, Made, Record, Store, View};
use rbuild_executor::{Cancel, Executor};

use super::mounts::{Asking, MountInput, same_files};
use super::ops::select::{self, Selection};
use super::ops::{Sources, copy, mkdir};
use super::order::{self, Running};
use super::plan::{self, recorded};
use super::{Inputs, Plan, StepResult, exec, interrupted, keys};
use crate::error::BuildError;
use crate::graph::{CopyOp, ExecOp, MkdirOp, Op, Vertex, VertexId};
use crate::progress::{Event, VertexOutcome};

/// Records of the same operation whose inputs are compared by content before a RUN is run.
const CANDIDATES: usize = 8;

/// The layers of a finished build.
#[derive(Debug)]
pub struct Solved {
    results: Vec<Option<StepResult>>,
    layers: BTreeMap<VertexId, Vec<LayerId>>,
}

impl Solved {
    /// The layers of the root file system of one of the wanted vertices, lowest first, those of its base image included.
    pub fn layers(&self, id: VertexId) -> &[LayerId] {
        self.layers.get(&id).map(Vec::as_slice).unwrap_or_default()
    }

    /// Makes sure that what was made can still be used after the machine was started again. Call it inside the
    /// executor's namespace, after the result is out.
    pub fn seal(&self, store: &Store) -> Result<(), BuildError> {
        for result in self.results.iter().flatten() {
            store
                .layer(&result.layer)
                .and_then(|layer| layer.seal())
                .map_err(BuildError::new)?;
        }
        Ok(())
    }

    /// What a vertex made; `None` for sources and for what was not needed.
    pub fn result(&self, id: VertexId) -> Option<&StepResult> {
        self.results[id.0].as_ref()
    }
}

/// Runs all that `plan` misses. `executor` may be `None` when the plan has no process to run.
pub fn run(
    inputs: &Inputs<'_>,
    plan: &Plan,
    executor: Option<&Executor>,
    cancel: &Cancel,
) -> Result<Solved, BuildError> {
    let count = plan.cached.len();
    let run = Run {
        inputs,
        plan,
        executor,
        cancel,
        results: (0..count).map(|_| OnceLock::new()).collect(),
        queue: Mutex::new(Queue {
            waiting: order::critical_first(inputs, plan)?,
            running: Running::default(),
            failure: None,
        }),
        changed: Condvar::new(),
    };
    run.report_known();
    run.all()?;
    let layers = |id: &VertexId| Ok((*id, inputs.stack(*id, |id| run.results[id.0].get())?));
    let layers = inputs
        .results
        .iter()
        .map(layers)
        .collect::<Result<_, BuildError>>()?;
    let results = run.results.into_iter().map(OnceLock::into_inner).collect();
    Ok(Solved { results, layers })
}

struct Run<'a> {
    inputs: &'a Inputs<'a>,
    plan: &'a Plan,
    executor: Option<&'a Executor>,
    cancel: &'a Cancel,
    results: Vec<OnceLock<StepResult>>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

struct Queue {
    /// Not yet started, in the order of their urgency.
    waiting: Vec<VertexId>,
    running: Running,
    failure: Option<BuildError>,
}

/// How a step came to its result.
enum Found {
    Cached(StepResult),
    Made(StepResult),
}

impl<'a> Run<'a> {
    /// Takes over what the cache has and says so.
    fn report_known(&self) {
        for id in self.inputs.definition.ids() {
            if let Some(result) = &self.plan.cached[id.0] {
                let _ = self.results[id.0].set(result.clone());
            }
            let vertex = self.inputs.definition.vertex(id);
            let local = matches!(vertex.op, Op::Local(_));
            let shown = local || self.plan.fetched.contains(&id);
            if !shown && !self.plan.missing.contains(&id) && self.plan.is_reachable(id) {
                self.started(id, vertex);
                let source = matches!(vertex.op, Op::Image(_));
                let outcome = if source {
                    VertexOutcome::Done
                } else {
                    VertexOutcome::Cached
                };
                self.finished(id, outcome);
            }
        }
    }

    fn all(&self) -> Result<(), BuildError> {
        std::thread::scope(|scope| {
            let mut queue = self.lock();
            loop {
                if queue.failure.is_none() && self.cancel.is_cancelled() {
                    queue.failure = Some(interrupted());
                }
                if queue.failure.is_some() {
                    queue.waiting.clear();
                } else {
                    while let Some(id) = self.take_ready(&mut queue) {
                        scope.spawn(move || {
                            let mut next = Some(id);
                            while let Some(id) = next {
                                next = self.step(id);
                            }
                        });
                    }
                }
                if queue.running.is_none() {
                    break;
                }
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            match queue.failure.take() {
                Some(failure) => Err(failure),
                None => Ok(()),
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all layers of the inputs' root file systems are there. An input may be cached while something below it
    /// has to be made again, because its layer was pruned.
    fn is_ready(&self, id: VertexId) -> bool {
        self.inputs.definition.inputs(id).all(|input| {
            let mut below = Some(input);
            while let Some(id) = below {
                let vertex = self.inputs.definition.vertex(id);
                let is_source = matches!(vertex.op, Op::Image(_) | Op::Local(_));
                if !is_source && self.results[id.0].get().is_none() {
                    return false;
                }
                below = vertex.base;
            }
            true
        })
    }

    /// The most urgent vertex that may start, which then counts as running.
    fn take_ready(&self, queue: &mut Queue) -> Option<VertexId> {
        let Queue { waiting, running, .. } = queue;
        let position = waiting.iter().position(|id| self.may_start(running, *id))?;
        let id = waiting.remove(position);
        running.add(self.inputs.definition.vertex(id));
        Some(id)
    }

    fn may_start(&self, running: &Running, id: VertexId) -> bool {
        running.admits(self.inputs.jobs, self.inputs.definition.vertex(id)) && self.is_ready(id)
    }

    /// Solves one vertex; gives another one for the same thread, which most often is what waited for this one.
    fn step(&self, id: VertexId) -> Option<VertexId> {
        let vertex = self.inputs.definition.vertex(id);
        self.started(id, vertex);
        // A panic here must end the build and not leave it waiting.
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.solve(id, vertex)))
            .unwrap_or_else(|_| Err(BuildError::message(format!("{}: internal error", vertex.name))))
            .map_err(|error| error.at(vertex.location.clone()));
        let mut queue = self.lock();
        let outcome = match found {
            Ok(Found::Cached(result)) => {
                let _ = self.results[id.0].set(result);
                VertexOutcome::Cached
            }
            Ok(Found::Made(result)) => {
                let _ = self.results[id.0].set(result);
                VertexOutcome::Done
            }
            Err(_) if queue.failure.is_some() || self.cancel.is_cancelled() => VertexOutcome::Canceled,
            Err(error) => {
                let message = error.to_string();
                queue.failure = Some(error.of_vertex(self.inputs.definition.digest(id), &vertex.name));
                // Twice: what else runs is of no use any more and gets no time to end.
                self.cancel.cancel();
                self.cancel.cancel();
                VertexOutcome::Failed(message)
            }
        };
        self.finished(id, outcome);
        queue.running.remove(vertex);
        let goes_on = queue.failure.is_none() && !self.cancel.is_cancelled();
        let next = if goes_on {
            self.take_ready(&mut queue)
        } else {
            None
        };
        let mut others = queue.waiting.iter();
        let wakes = next.is_none() || others.any(|id| self.may_start(&queue.running, *id));
        drop(queue);
        if wakes {
            self.changed.notify_all();
        }
        next
    }

    fn solve(&self, id: VertexId, vertex: &'a Vertex) -> Result<Found, BuildError> {
        let key = &self.plan.definitions[id.0];
        // With --no-cache every build does its own work.
        let _lock = if vertex.no_cache {
            None
        } else {
            let lock = self.wait_for_lock(key)?;
            if let Some(result) = recorded(self.inputs, &vertex.op, key)? {
                return Ok(Found::Cached(result));
            }
            Some(lock)
        };
        let base = match vertex.base {
            Some(base) => self.inputs.stack(base, |id| self.results[id.0].get())?,
            None => Vec::new(),
        };
        let work = Work {
            run: self,
            id,
            vertex,
            key,
            base,
            began: Instant::now(),
        };
        match &vertex.op {
            Op::Exec(op) => work.exec(op),
            Op::Copy(op) => work.copy(op),
            Op::Mkdir(op) => work.mkdir(op),
            Op::Http(_) | Op::Git(_) => work.fetch(),
            Op::Image(_) | Op::Local(_) => Err(BuildError::message(format!(
                "{}: a source is not run",
                vertex.name
            ))),
        }
    }

    fn wait_for_lock(&self, key: &Key) -> Result<rbuild_cache::KeyLock, BuildError> {
        let is_over = || self.cancel.is_cancelled();
        let lock = self.inputs.store.lock_key_unless(key, &is_over);
        lock.map_err(BuildError::new)?.ok_or_else(interrupted)
    }

    fn started(&self, id: VertexId, vertex: &Vertex) {
        self.inputs.sink.emit(Event::Started {
            vertex: self.inputs.definition.digest(id),
            name: vertex.name.clone(),
            location: vertex.location.clone(),
            at: Instant::now(),
        });
    }

    fn finished(&self, id: VertexId, outcome: VertexOutcome) {
        self.inputs.sink.emit(Event::Finished {
            vertex: self.inputs.definition.digest(id),
            outcome,
            at: Instant::now(),
        });
    }
}

/// One vertex being solved.
struct Work<'r, 'a> {
    run: &'r Run<'a>,
    id: VertexId,
    vertex: &'a Vertex,
    key: &'r Key,
    base: Vec<LayerId>,
    began: Instant,
}

impl Work<'_, '_> {
    fn exec(&self, op: &ExecOp) -> Result<Found, BuildError> {
        if !self.vertex.no_cache
            && let Some(result) = self.same_input(op)?
        {
            return Ok(Found::Cached(result));
        }
        let executor = self
            .run
            .executor
            .ok_or_else(|| BuildError::message("no sandbox was entered for RUN"))?;
        let inputs = self.run.inputs;
        let vertex = inputs.definition.digest(self.id);
        let asking = Asking {
            inputs,
            cancel: self.run.cancel,
            vertex: &vertex,
            name: &self.vertex.name,
            location: self.vertex.location.as_ref(),
            executor,
        };
        let read = self.mount_inputs()?;
        let successors = self.run.plan.successors(inputs, self.id);
        let layer = exec::run(&asking, executor, op, &self.base, &read, successors)?;
        let mut seen = vec![("base".to_owned(), keys::layer_list(&self.base))];
        let mounted = |(number, input): (usize, &MountInput)| {
            (format!("mount {number}"), keys::layer_list(&input.layers))
        };
        seen.extend(read.iter().enumerate().map(mounted));
        self.record(layer, &[], seen).map(Found::Made)
    }

    /// What the mounts of a process read.
    fn mount_inputs(&self) -> Result<Vec<MountInput>, BuildError> {
        let input = |id: &VertexId| {
            let layers = self.run.inputs.stack(*id, |id| self.run.results[id.0].get())?;
            let key = self.run.plan.roots[id.0];
            Ok(MountInput { layers, key })
        };
        self.vertex.mounts.iter().map(input).collect()
    }

    /// A result of the same operation on a base and mounts with the same content, found by another definition
    /// key: the early cut-off of design D4. Content is compared only when there is such a record.
    fn same_input(&self, op: &ExecOp) -> Result<Option<StepResult>, BuildError> {
        let store = self.run.inputs.store;
        let operation = &self.run.plan.operations[self.id.0];
        let known = store.keys_of_op(operation).map_err(BuildError::new)?;
        let mut content = None;
        let mounted = self.mount_inputs()?;
        for key in known.iter().filter(|key| *key != self.key).take(CANDIDATES) {
            let Some(record) = store.record(key).map_err(BuildError::new)? else {
                continue;
            };
            let seen = record
                .inputs
                .iter()
                .find(|(name, _)| name == "base")
                .and_then(|(_, list)| keys::parse_layer_list(list));
            let Some(seen) = seen.filter(|seen| seen.len() == self.base.len()) else {
                continue;
            };
            if !store.layer_exists(&record.layer) || !plan::is_fresh(self.run.inputs, &record) {
                continue;
            }
            let Some(theirs) = self.contents(&seen)? else {
                continue;
            };
            if content.is_none() {
                content = self.contents(&self.base)?;
            }
            if content.as_ref() == Some(&theirs) && self.same_mounts(op, &mounted, &record)? {
                let result = StepResult {
                    layer: record.layer.clone(),
                    created: plan::seconds(record.created),
                };
                store.put_record(self.key, &record).map_err(BuildError::new)?;
                return Ok(Some(result));
            }
        }
        Ok(None)
    }

    /// Whether the mounts would show the files that they showed when `record` was made.
    fn same_mounts(&self, op: &ExecOp, mounted: &[MountInput], record: &Record) -> Result<bool, BuildError> {
        for (number, input) in mounted.iter().enumerate() {
            let name = format!("mount {number}");
            let seen = record.inputs.iter().find(|(known, _)| *known == name);
            let Some(theirs) = seen.and_then(|(_, list)| keys::parse_layer_list(list)) else {
                return Ok(false);
            };
            if theirs != input.layers && !same_files(self.run.inputs, op, number, &theirs, &input.layers)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Content digests of layers; `None` when one of them is gone.
    fn contents(&self, layers: &[LayerId]) -> Result<Option<Vec<rbuild_cache::ContentDigest>>, BuildError> {
        let store = self.run.inputs.store;
        if !layers.iter().all(|id| store.layer_exists(id)) {
            return Ok(None);
        }
        let content = |id| store.layer(id).and_then(|layer| layer.content());
        layers
            .iter()
            .map(content)
            .collect::<Result<_, _>>()
            .map(Some)
            .map_err(BuildError::new)
    }

    fn copy(&self, op: &CopyOp) -> Result<Found, BuildError> {
        let inputs = self.run.inputs;
        let stage;
        let main = match self
            .vertex
            .source
            .map(|id| (id, &inputs.definition.vertex(id).op))
        {
            // All is inline, or comes from a stage that is empty.
            None => {
                stage = inputs.view(&[])?;
                Some(&stage as &dyn Tree)
            }
            Some((_, Op::Local(local))) => inputs.locals.get(&local.name).map(|tree| tree as &dyn Tree),
            Some((id, _)) => {
                let layers = inputs.stack(id, |id| self.run.results[id.0].get())?;
                stage = inputs.view(&layers)?;
                Some(&stage as &dyn Tree)
            }
        };
        let remotes = self
            .vertex
            .remotes
            .iter()
            .map(|id| inputs.view(&inputs.stack(*id, |id| self.run.results[id.0].get())?))
            .collect::<Result<Vec<View>, BuildError>>()?;
        let remotes: Vec<&dyn Tree> = remotes.iter().map(|view| view as &dyn Tree).collect();
        let sources = Sources {
            main,
            remotes: &remotes,
            growth: inputs.store.growth(),
        };
        let fresh;
        let selection: &Selection = match &self.run.plan.selections[self.id.0] {
            Some(selection) => selection,
            None => {
                fresh = select::selection(op, sources)?;
                &fresh
            }
        };
        let base = inputs.view(if op.link { &[] } else { &self.base })?;
        let plan = copy::plan(op, selection, sources, &base)?;
        let content = keys::content(
            &self.run.plan.operations[self.id.0],
            Some(&selection.key()),
            &plan.facts_key(),
        );
        if let Some(result) = self.by_content(&content)? {
            return Ok(Found::Cached(result));
        }
        let layer = self.write(&plan, sources)?;
        self.record(layer, &[content], Vec::new()).map(Found::Made)
    }

    /// A source that was not fetched before: what was recorded of it is gone.
    fn fetch(&self) -> Result<Found, BuildError> {
        let layer = self.run.inputs.remotes.fetch(&self.vertex.op)?;
        self.record(layer, &[], Vec::new()).map(Found::Made)
    }

    fn mkdir(&self, op: &MkdirOp) -> Result<Found, BuildError> {
        let inputs = self.run.inputs;
        let base = inputs.view(&self.base)?;
        let plan = mkdir::plan(op, &base)?;
        let content = keys::content(&self.run.plan.operations[self.id.0], None, &plan.facts_key());
        if let Some(result) = self.by_content(&content)? {
            return Ok(Found::Cached(result));
        }
        let mut builder = self.builder()?;
        plan.write(Sources::default(), None, &mut builder, self.time())?;
        let layer = builder.commit().map_err(BuildError::new)?;
        self.record(layer, &[content], Vec::new()).map(Found::Made)
    }

    /// Whether the layer gets into no image, because it is only read by mounts.
    fn is_only_mounted(&self) -> bool {
        let definition = self.run.inputs.definition;
        let has = |inputs: &[VertexId]| inputs.contains(&self.id);
        let mounted = definition.ids().any(|id| has(&definition.vertex(id).mounts));
        mounted
            && definition
                .ids()
                .all(|id| definition.vertex(id).base != Some(self.id))
    }

    fn builder(&self) -> Result<LayerBuilder, BuildError> {
        let mut builder = self.run.inputs.store.layer_builder().map_err(BuildError::new)?;
        if let Some(latest) = self.run.inputs.clamp {
            builder.clamp(latest);
        }
        Ok(builder)
    }

    /// A result by content key; it is then known by the definition key too.
    fn by_content(&self, content: &Key) -> Result<Option<StepResult>, BuildError> {
        if self.vertex.no_cache {
            return Ok(None);
        }
        let store = self.run.inputs.store;
        let Some(result) = recorded(self.run.inputs, &self.vertex.op, content)? else {
            return Ok(None);
        };
        if let Some(record) = store.record(content).map_err(BuildError::new)? {
            store.put_record(self.key, &record).map_err(BuildError::new)?;
        }
        Ok(Some(result))
    }

    /// Remembers a result under the definition key and under `more` keys.
    fn record(
        &self,
        layer: LayerId,
        more: &[Key],
        seen: Vec<(String, String)>,
    ) -> Result<StepResult, BuildError> {
        let created = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let record = Record {
            op: self.run.plan.operations[self.id.0],
            layer: layer.clone(),
            inputs: seen,
            created,
            duration_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            made: Made::Step,
            description: self.vertex.name.clone(),
        };
        for key in more.iter().chain([self.key]) {
            self.run
                .inputs
                .store
                .put_record(key, &record)
                .map_err(BuildError::new)?;
        }
        Ok(StepResult {
            layer,
            created: plan::seconds(created),
        })
    }

    /// The time that created directories bear.
    fn time(&self) -> Timestamp {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let now = Timestamp {
            seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: now.subsec_nanos(),
        };
        match self.run.inputs.epoch {
            Some(epoch) => now.min(Timestamp {
                seconds: epoch,
                nanoseconds: 0,
            }),
            None => now,
        }
    }
}
