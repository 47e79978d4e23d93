//! One vertex being solved: looked for by content, and else made and recorded.

use std::cell::Cell;
use std::time::{Instant, SystemTime};

use rbuild_cache::layer::{LayerBuilder, Timestamp};
use rbuild_cache::tree::Tree;
use rbuild_cache::{Key, KeyLock, LayerId, Made, Record, View};

use super::scribe::Note;
use super::{Found, Run};
use crate::error::BuildError;
use crate::graph::{CopyOp, ExecOp, MkdirOp, Op, Vertex, VertexId};
use crate::solver::exec::Next;
use crate::solver::mounts::{Asking, MountInput, same_files};
use crate::solver::ops::select::{self, Selection};
use crate::solver::ops::{Sources, copy, mkdir};
use crate::solver::plan::{self, Recorded, recorded};
use crate::solver::{StepResult, exec, keys};

/// Records of the same operation whose inputs are compared by content before a RUN is run.
pub(super) const CANDIDATES: usize = 8;

/// One vertex being solved.
pub(super) struct Work<'r, 'a> {
    pub(super) run: &'r Run<'a>,
    pub(super) id: VertexId,
    pub(super) vertex: &'a Vertex,
    pub(super) key: &'r Key,
    pub(super) base: Vec<LayerId>,
    pub(super) began: Instant,
    /// Of `key`, held until the result is recorded.
    pub(super) lock: Cell<Option<KeyLock>>,
}

impl Work<'_, '_> {
    pub(super) fn exec(&self, op: &ExecOp) -> Result<Found, BuildError> {
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
        let next = Next {
            successors: self.run.successors[self.id.0],
            followed: self.run.has_waiting_process(),
            spare: &self.run.spare,
        };
        let layer = exec::run(&asking, executor, op, &self.base, &read, &next)?;
        let (result, record) = self.result(layer, self.seen(&read));
        let note = Note {
            key: *self.key,
            record,
            _lock: self.lock.take(),
        };
        self.run.scribe.take(note);
        Ok(Found::Made(result))
    }

    /// What the step is made on, for its record: a linked layer is the same on whatever it lies.
    fn seen(&self, mounted: &[MountInput]) -> Vec<(String, String)> {
        let linked = matches!(&self.vertex.op, Op::Copy(op) if op.link);
        let base = (self.vertex.base.is_some() && !linked)
            .then(|| (keys::BASE.to_owned(), keys::layer_list(&self.base)));
        let mounted = mounted
            .iter()
            .enumerate()
            .map(|(number, input)| (format!("mount {number}"), keys::layer_list(&input.layers)));
        base.into_iter().chain(mounted).collect()
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
    /// key, or by the same one before its base was made again: the early cut-off of design D4. Content is compared only when there is such a record.
    fn same_input(&self, op: &ExecOp) -> Result<Option<StepResult>, BuildError> {
        let store = self.run.inputs.store;
        let operation = &self.run.plan.operations[self.id.0];
        self.run.scribe.settle(operation);
        let known = store.keys_of_op(operation).map_err(BuildError::new)?;
        let mut content = None;
        let mounted = self.mount_inputs()?;
        for key in known.iter().take(CANDIDATES) {
            let Some(mut record) = store.record(key).map_err(BuildError::new)? else {
                continue;
            };
            let seen = record
                .inputs
                .iter()
                .find(|(name, _)| name == keys::BASE)
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
                record.inputs = self.seen(&mounted);
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

    pub(super) fn copy(&self, op: &CopyOp) -> Result<Found, BuildError> {
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
        self.record(layer, &[content], self.seen(&[])).map(Found::Made)
    }

    /// A source that was not fetched before: what was recorded of it is gone.
    pub(super) fn fetch(&self) -> Result<Found, BuildError> {
        let layer = self.run.inputs.remotes.fetch(&self.vertex.op)?;
        self.record(layer, &[], Vec::new()).map(Found::Made)
    }

    pub(super) fn mkdir(&self, op: &MkdirOp) -> Result<Found, BuildError> {
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
        self.record(layer, &[content], self.seen(&[])).map(Found::Made)
    }

    /// Whether the layer gets into no image, because it is only read by mounts.
    pub(super) fn is_only_mounted(&self) -> bool {
        let definition = self.run.inputs.definition;
        let has = |inputs: &[VertexId]| inputs.contains(&self.id);
        let mounted = definition.ids().any(|id| has(&definition.vertex(id).mounts));
        mounted
            && definition
                .ids()
                .all(|id| definition.vertex(id).base != Some(self.id))
    }

    pub(super) fn builder(&self) -> Result<LayerBuilder, BuildError> {
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
        let Some(Recorded { result, .. }) = recorded(self.run.inputs, &self.vertex.op, content)? else {
            return Ok(None);
        };
        if let Some(mut record) = store.record(content).map_err(BuildError::new)? {
            record.inputs = self.seen(&[]);
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
        let (result, record) = self.result(layer, seen);
        let store = self.run.inputs.store;
        for key in more.iter().chain([self.key]) {
            store.put_record(key, &record).map_err(BuildError::new)?;
        }
        Ok(result)
    }

    fn result(&self, layer: LayerId, seen: Vec<(String, String)>) -> (StepResult, Record) {
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
        let created = plan::seconds(created);
        (StepResult { layer, created }, record)
    }

    /// The time that created directories bear.
    pub(super) fn time(&self) -> Timestamp {
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
