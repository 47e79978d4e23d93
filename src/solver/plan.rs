//! Which vertices have to run: keys for all, then a walk from the result towards the sources that
//! stops where the cache has an answer. A stage of which only cached files are used is not looked at.

use std::time::{Duration, SystemTime};

use rbuild_cache::layer::Timestamp;
use rbuild_cache::{Key, LayerId, Record};

use super::ops::Sources;
use super::ops::select::{self, Selection};
use super::{Inputs, StepResult, keys};
use crate::error::BuildError;
use crate::graph::{NetworkMode, Op, VertexId};

/// Keys and cached results of all vertices, by index.
#[derive(Debug)]
pub struct Plan {
    /// What each vertex does.
    pub(super) operations: Vec<Key>,
    /// Definition keys: under these results are recorded.
    pub(super) definitions: Vec<Key>,
    /// The keys of the root file systems that vertices leave, for what reads these. A linked layer is the same on
    /// every base, the files that are seen through it are not.
    pub(super) roots: Vec<Key>,
    /// What copies read of local directories.
    pub(super) selections: Vec<Option<Selection>>,
    /// Results that the cache has.
    pub(super) cached: Vec<Option<StepResult>>,
    /// Vertices that have to run, inputs first.
    pub(super) missing: Vec<VertexId>,
    /// Sources that [`Plan::fetch`] has fetched.
    pub(super) fetched: Vec<VertexId>,
    /// Vertices that something needs.
    pub(super) needed: Vec<bool>,
    /// Vertices whose definition key says too little: what they build upon or read is made again, or was since they
    /// were. They are looked for by content alone.
    pub(super) doubtful: Vec<bool>,
    /// Vertices that the result hangs on, needed or hidden behind a cached one.
    reachable: Vec<bool>,
}

impl Plan {
    /// Looks at local directories as far as steps read them, and at the records of the cache. Starts
    /// threads and joins them.
    pub fn new(inputs: &Inputs<'_>) -> Result<Self, BuildError> {
        let count = inputs.definition.ids().count();
        let mut plan = Self {
            operations: Vec::with_capacity(count),
            definitions: Vec::with_capacity(count),
            roots: Vec::with_capacity(count),
            selections: Vec::with_capacity(count),
            cached: vec![None; count],
            missing: Vec::new(),
            fetched: Vec::new(),
            needed: vec![false; count],
            doubtful: vec![false; count],
            reachable: inputs.definition.reachable(inputs.results),
        };
        for id in inputs.definition.ids() {
            plan.add_keys(inputs, id)?;
        }
        plan.look_up(inputs)?;
        Ok(plan)
    }

    /// Whether nothing has to run.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// The sources that [`Plan::fetch`] would fetch, by their names.
    pub fn fetches<'a>(&self, inputs: &Inputs<'a>) -> Vec<&'a str> {
        let definition = inputs.definition;
        let missing = self.missing.iter().map(|id| definition.vertex(*id));
        missing
            .filter(|vertex| matches!(vertex.op, Op::Http(_) | Op::Git(_)))
            .map(|vertex| vertex.name.as_str())
            .collect()
    }

    /// Whether a process with this network has to run.
    pub fn runs_with(&self, inputs: &Inputs<'_>, network: NetworkMode) -> bool {
        let mut missing = self.missing.iter().map(|id| &inputs.definition.vertex(*id).op);
        missing.any(|op| matches!(op, Op::Exec(op) if op.network == network))
    }

    /// Whether a process has to run, or bytes be read that only the executor's namespace may read: files of
    /// subordinate ids lie in trees. `exports_files` says that the files of the result are read as well.
    pub fn needs_namespace(&self, inputs: &Inputs<'_>, exports_files: bool) -> Result<bool, BuildError> {
        let definition = inputs.definition;
        let mut read: Vec<VertexId> = if exports_files {
            inputs.results.to_vec()
        } else {
            Vec::new()
        };
        for vertex in self.missing.iter().map(|id| definition.vertex(*id)) {
            match vertex.op {
                Op::Exec(_) => return Ok(true),
                Op::Copy(_) => read.extend(vertex.source.iter().chain(&vertex.remotes)),
                _ => {}
            }
        }
        for id in read {
            for layer in self.known_layers(inputs, id) {
                if inputs.store.layer(&layer).map_err(BuildError::new)?.has_tree() {
                    return Ok(true);
                }
            }
        }
        // The image wants the tars of its layers, and copies the indexes of what they are put into. A lone tree
        // has them when no build was ended between making it and making an image.
        let involved = |id: &VertexId| !self.missing.is_empty() && self.needed[id.0];
        let images = inputs
            .results
            .iter()
            .flat_map(|id| self.known_layers(inputs, *id));
        let others = definition
            .ids()
            .filter(involved)
            .filter_map(|id| self.cached[id.0].as_ref());
        for layer in images {
            if !readable(inputs, &layer, inputs.clamp)? {
                return Ok(true);
            }
        }
        for result in others {
            if !readable(inputs, &result.layer, None)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// For the end of a build, and so of the process: as of a context ([`crate::source::local::LocalContext::abandon`]), giving
    /// back what copies read takes longer than it is worth.
    pub fn abandon(self) {
        std::mem::forget(self.selections);
    }

    /// Whether a result that the cache had is gone: seen from inside the namespace, its tree was not whole.
    pub fn is_stale(&self, inputs: &Inputs<'_>) -> bool {
        self.cached
            .iter()
            .flatten()
            .any(|result| !inputs.store.layer_exists(&result.layer))
    }

    /// How many processes have to run on what each process leaves, with no other process between; by index.
    pub(super) fn successors(&self, inputs: &Inputs<'_>) -> Vec<usize> {
        let definition = inputs.definition;
        let mut runs = vec![false; self.cached.len()];
        for id in &self.missing {
            runs[id.0] = matches!(definition.vertex(*id).op, Op::Exec(_));
        }
        let mut successors = vec![0; self.cached.len()];
        // The nearest process at or below each vertex.
        let mut nearest: Vec<Option<VertexId>> = vec![None; self.cached.len()];
        for id in definition.ids() {
            let below = definition.vertex(id).base.and_then(|base| nearest[base.0]);
            if let Some(below) = below.filter(|_| runs[id.0]) {
                successors[below.0] += 1;
            }
            nearest[id.0] = if runs[id.0] { Some(id) } else { below };
        }
        successors
    }

    /// The layers of a vertex' root file system, as far as they are there before anything runs.
    fn known_layers(&self, inputs: &Inputs<'_>, id: VertexId) -> Vec<LayerId> {
        let mut layers = Vec::new();
        let mut next = Some(id);
        while let Some(id) = next {
            let vertex = inputs.definition.vertex(id);
            match &vertex.op {
                Op::Image(op) => {
                    layers.extend(op.layers.iter().map(|layer| LayerId::of_diff_id(&layer.diff_id)))
                }
                _ => layers.extend(self.cached[id.0].as_ref().map(|result| result.layer.clone())),
            }
            next = vertex.base;
        }
        layers
    }

    /// Whether the result hangs on `id`.
    pub(super) fn is_reachable(&self, id: VertexId) -> bool {
        self.reachable[id.0]
    }

    fn add_keys(&mut self, inputs: &Inputs<'_>, id: VertexId) -> Result<(), BuildError> {
        let vertex = inputs.definition.vertex(id);
        let (mut selection, mut selected_key) = (None, None);
        if let (Op::Copy(op), Some(source), true) = (&vertex.op, vertex.source, self.reachable[id.0])
            && let Op::Local(local) = &inputs.definition.vertex(source).op
        {
            let tree = inputs.locals.get(&local.name).ok_or_else(|| {
                BuildError::message(format!("there is no build context named {:?}", local.name))
            })?;
            // What lies elsewhere has keys of its own, and may not be here yet.
            let local;
            let op = if vertex.remotes.is_empty() {
                op
            } else {
                local = op.without_remotes();
                &local
            };
            let selected = select::selection(op, Sources::of(tree))
                .map_err(|error| unreadable(error).at(vertex.location.clone()))?;
            selected_key = Some(selected.key());
            selection = Some(selected).filter(|_| vertex.remotes.is_empty());
        }
        let operation = keys::operation(vertex, inputs.epoch, inputs.clamp);
        let root = |id: VertexId| self.roots[id.0];
        let base = vertex.base.map(root);
        // A linked layer never looks at what lies under it.
        let linked = matches!(&vertex.op, Op::Copy(op) if op.link);
        let remotes: Vec<Key> = vertex.remotes.iter().copied().map(root).collect();
        let mounts: Vec<Key> = vertex.mounts.iter().copied().map(root).collect();
        let key = keys::definition(
            &operation,
            base.as_ref().filter(|_| !linked),
            vertex.source.map(root).as_ref(),
            &remotes,
            selected_key.as_ref(),
            &mounts,
        );
        self.roots.push(match base {
            Some(base) if linked => keys::linked(&key, &base),
            _ => key,
        });
        self.operations.push(operation);
        self.definitions.push(key);
        self.selections.push(selection);
        Ok(())
    }

    fn look_up(&mut self, inputs: &Inputs<'_>) -> Result<(), BuildError> {
        self.doubt_what_reads_again(inputs)?;
        // Who loses its result has to read its inputs, and what is above may have been made from it.
        loop {
            let all = self.look_for_results(inputs)?;
            if !self.doubt_what_was_made_elsewhere(inputs, &all)? {
                return Ok(());
            }
        }
    }

    /// Doubts what builds upon or reads anything that is surely made again, because a flag says so.
    fn doubt_what_reads_again(&mut self, inputs: &Inputs<'_>) -> Result<(), BuildError> {
        let definition = inputs.definition;
        // Whose files may be others than they were.
        let mut changes = vec![false; self.cached.len()];
        for id in definition.ids().filter(|id| self.reachable[id.0]) {
            let vertex = definition.vertex(id);
            let linked = matches!(&vertex.op, Op::Copy(op) if op.link);
            let below = vertex.base.is_some_and(|base| changes[base.0]);
            let mut read = vertex.source.iter().chain(&vertex.remotes).chain(&vertex.mounts);
            self.doubtful[id.0] = below && !linked || read.any(|input| changes[input.0]);
            let again = vertex.no_cache || self.is_stale_record(inputs, id)?;
            changes[id.0] = again || below || self.doubtful[id.0];
        }
        Ok(())
    }

    fn is_stale_record(&self, inputs: &Inputs<'_>, id: VertexId) -> Result<bool, BuildError> {
        let ages = !matches!(
            inputs.definition.vertex(id).op,
            Op::Image(_) | Op::Local(_) | Op::Http(_) | Op::Git(_)
        );
        if inputs.max_age.is_none() || !ages {
            return Ok(false);
        }
        let record = inputs.store.record(&self.definitions[id.0]);
        Ok(record
            .map_err(BuildError::new)?
            .is_some_and(|record| !is_fresh(inputs, &record)))
    }

    /// Walks from the results to the sources.
    fn look_for_results(&mut self, inputs: &Inputs<'_>) -> Result<Vec<Option<Recorded>>, BuildError> {
        let mut all: Vec<Option<Recorded>> = self.cached.iter().map(|_| None).collect();
        self.missing.clear();
        self.needed.fill(false);
        for result in inputs.results {
            self.needed[result.0] = true;
        }
        for id in inputs.definition.ids().rev() {
            if !self.needed[id.0] {
                continue;
            }
            let vertex = inputs.definition.vertex(id);
            if let Some(base) = vertex.base {
                self.needed[base.0] = true;
            }
            if matches!(vertex.op, Op::Image(_) | Op::Local(_)) {
                continue;
            }
            let key = &self.definitions[id.0];
            let found = match vertex.no_cache || self.doubtful[id.0] {
                true => None,
                false => recorded(inputs, &vertex.op, key)?,
            };
            self.cached[id.0] = found.as_ref().map(|found| found.result.clone());
            all[id.0] = found;
            if self.cached[id.0].is_none() {
                self.missing.push(id);
                for input in vertex.source.iter().chain(&vertex.remotes).chain(&vertex.mounts) {
                    self.needed[input.0] = true;
                }
            }
        }
        self.missing.reverse();
        Ok(all)
    }

    /// Doubts results that lie on something else now than they were made on; whether there are any.
    fn doubt_what_was_made_elsewhere(
        &mut self,
        inputs: &Inputs<'_>,
        all: &[Option<Recorded>],
    ) -> Result<bool, BuildError> {
        let mut found = false;
        // Whose layers are all known.
        let mut whole = vec![true; self.cached.len()];
        for id in inputs.definition.ids().filter(|id| self.needed[id.0]) {
            let vertex = inputs.definition.vertex(id);
            let below = vertex.base.is_none_or(|base| whole[base.0]);
            let is_source = matches!(vertex.op, Op::Image(_) | Op::Local(_));
            whole[id.0] = below && (is_source || self.cached[id.0].is_some());
            let linked = matches!(&vertex.op, Op::Copy(op) if op.link);
            let (Some(base), Some(recorded), false) = (vertex.base, &all[id.0], linked) else {
                continue;
            };
            let fits = below && recorded.was_made_on(&inputs.stack(base, |id| self.cached[id.0].as_ref())?);
            if !fits {
                self.doubtful[id.0] = true;
                found = true;
            }
        }
        Ok(found)
    }
}

/// What went wrong while a local directory was read, with what helps where it was not allowed.
fn unreadable(error: anyhow::Error) -> BuildError {
    let cause = error.chain().find_map(rbuild_cache::error::io_cause);
    if cause.is_none_or(|cause| cause.kind() != std::io::ErrorKind::PermissionDenied) {
        return error.into();
    }
    let hint = "let this user read it, or leave it out with .dockerignore".to_owned();
    BuildError::new(error.context("reading the build context")).hint(Some(hint))
}

/// Whether the layer has a form other than its tree; for an image with clamped times, whether that serves to clamp it.
fn readable(inputs: &Inputs<'_>, layer: &LayerId, clamp: Option<i64>) -> Result<bool, BuildError> {
    let layer = inputs.store.layer(layer).map_err(BuildError::new)?;
    let record = layer.record().map_err(BuildError::new)?;
    match clamp {
        Some(latest) if !record.has_pulled() && record.tar.is_none() => {
            Ok(layer.known_clamped(latest).map_err(BuildError::new)?.is_some())
        }
        _ => Ok(record.tar.is_some() || !record.compressed.is_empty()),
    }
}

/// How long ago the step ran that `record` is of, by the clock of this machine; nothing for a time that is still to come.
pub(super) fn age(record: &Record) -> Duration {
    let made = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(record.created));
    made.and_then(|made| SystemTime::now().duration_since(made).ok())
        .unwrap_or_default()
}

/// Whether `--cache-ttl` lets a result be used; with 0 none is.
pub(super) fn is_fresh(inputs: &Inputs<'_>, record: &Record) -> bool {
    let fits = |ttl: Duration| !ttl.is_zero() && age(record).as_secs() <= ttl.as_secs();
    inputs.max_age.is_none_or(fits)
}

/// A result of the cache.
pub(super) struct Recorded {
    pub(super) result: StepResult,
    /// The layers that it was made on, where that was written down.
    base: Option<String>,
}

impl Recorded {
    /// Whether the step would be made on the same today. Its key only says by what its base is made.
    pub(super) fn was_made_on(&self, base: &[LayerId]) -> bool {
        self.base.as_ref().is_none_or(|on| *on == keys::layer_list(base))
    }
}

/// The result that the cache has for a key, if its layer is still there and it is not too old for a step. What was
/// fetched is named by its content, and so does not age.
pub(super) fn recorded(inputs: &Inputs<'_>, op: &Op, key: &Key) -> Result<Option<Recorded>, BuildError> {
    let Some(record) = inputs.store.record(key).map_err(BuildError::new)? else {
        return Ok(None);
    };
    let fetched = matches!(op, Op::Http(_) | Op::Git(_));
    if !inputs.store.layer_exists(&record.layer) || !(fetched || is_fresh(inputs, &record)) {
        return Ok(None);
    }
    let base = record.inputs.into_iter().find(|(name, _)| name == keys::BASE);
    Ok(Some(Recorded {
        result: StepResult {
            layer: record.layer,
            created: seconds(record.created),
        },
        base: base.map(|(_, layers)| layers),
    }))
}

/// A time of a record.
pub(super) fn seconds(seconds: u64) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
        nanoseconds: 0,
    }
}
