//! Runs what the plan found missing: a vertex starts once its inputs are there, and a thread goes from one to the next.

mod scribe;
mod work;
mod write;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use rbuild_cache::layer::Snapshot;
use rbuild_cache::{Key, LayerId, Store};
use rbuild_executor::{Cancel, Executor};

use super::beside::{Beside, ImageForms};
use super::order::{self, Running};
use super::plan::recorded;
use super::{Inputs, Plan, StepResult, interrupted};
use crate::error::BuildError;
use crate::graph::{Op, Vertex, VertexId};
use crate::progress::{Event, VertexOutcome};
use scribe::Scribe;
use work::Work;

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

/// Runs all that `plan` misses. `executor` may be `None` when the plan has no process to run. What `exported` wants of
/// layers that are there is made beside that.
pub fn run(
    inputs: &Inputs<'_>,
    plan: &Plan,
    executor: Option<&Executor>,
    cancel: &Cancel,
    exported: &ImageForms,
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
        successors: plan.successors(inputs),
        beside: Beside::new(inputs.store, exported, inputs.clamp),
        scribe: Scribe::default(),
        spare: Mutex::default(),
    };
    run.report_known();
    if plan.is_complete() {
        run.all()?;
    } else {
        run.beside.while_running(|| run.all())?;
    }
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
    /// By index: see [`Plan::successors`].
    successors: Vec<usize>,
    beside: Beside<'a>,
    scribe: Scribe,
    /// For the next process.
    spare: Mutex<Option<Snapshot>>,
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
                self.keep(id, result.clone());
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
            let scribe = self
                .executor
                .map(|_| scope.spawn(|| self.scribe.write(self.inputs.store)));
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
            let failure = queue.failure.take();
            drop(queue);
            self.scribe.close();
            let lost = || Err(BuildError::message("writing what was made: internal error"));
            let written = scribe.map_or(Ok(()), |scribe| scribe.join().unwrap_or_else(|_| lost()));
            match failure {
                Some(failure) => Err(failure),
                None => written,
            }
        })
    }

    fn keep(&self, id: VertexId, result: StepResult) {
        self.beside.has_layer(id, &result.layer);
        let _ = self.results[id.0].set(result);
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
                self.keep(id, result);
                VertexOutcome::Cached
            }
            Ok(Found::Made(result)) => {
                self.keep(id, result);
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
        let base = match vertex.base {
            Some(base) => self.inputs.stack(base, |id| self.results[id.0].get())?,
            None => Vec::new(),
        };
        // With --no-cache every build does its own work.
        let lock = if vertex.no_cache {
            None
        } else {
            let lock = self.wait_for_lock(key)?;
            if !self.plan.doubtful[id.0]
                && let Some(found) = recorded(self.inputs, &vertex.op, key)?
                && found.was_made_on(&base)
            {
                return Ok(Found::Cached(found.result));
            }
            Some(lock)
        };
        let work = Work {
            run: self,
            id,
            vertex,
            key,
            base,
            began: Instant::now(),
            lock: Cell::new(lock),
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

    /// Whether a process is still to be started.
    fn has_waiting_process(&self) -> bool {
        let queue = self.lock();
        let mut waiting = queue.waiting.iter();
        waiting.any(|id| matches!(self.inputs.definition.vertex(*id).op, Op::Exec(_)))
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
