//! Why does a step run? Compares what a build is about to do with the last build of the same context and Dockerfile, and
//! keeps what the next one is compared with.
//!
//! Nothing of this is on the path of a build that is all cached, but setting the time of a file. What is kept decides
//! nothing: keys alone say what is run ([`super::keys`]), and a record that is lost costs an answer.

mod align;
pub mod cause;
mod diff;
pub mod files;
pub mod record;
pub mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rbuild_cache::{BuildName, KeptBuild, Key, KeyBuilder, Store};

use self::align::Pairs;
use self::cause::{Cause, Part};
pub use self::record::{Asked, BuildRecord, Node};
use super::plan::{age, is_fresh};
use super::{Inputs, Plan};
use crate::error::BuildError;
use crate::graph::{Op, VertexId};
use crate::progress::{Event, Sink, VertexOutcome};

/// What a build is about to do, and why.
#[derive(Debug)]
pub struct Reasons {
    asked: Asked,
    nodes: Vec<Node>,
    causes: BTreeMap<usize, Cause>,
}

/// A build that was kept.
#[derive(Debug)]
pub struct LastBuild {
    /// What is known of it.
    pub record: BuildRecord,
    /// When it ended.
    pub at: SystemTime,
    /// Whether a later one came to the same result, so that all of it was cached.
    pub repeated: bool,
}

/// One step in an explanation.
#[derive(Debug, Clone)]
pub struct Step<'a> {
    /// The vertex.
    pub node: &'a Node,
    /// Why it runs, or ran; `None` when it is cached.
    pub cause: Option<&'a Cause>,
}

impl Reasons {
    /// Why each step that `plan` misses has to run.
    pub fn new(inputs: &Inputs<'_>, plan: &Plan, asked: Asked) -> Result<Self, BuildError> {
        let nodes = record::nodes(inputs, plan);
        let mut reasons = Self {
            asked,
            nodes,
            causes: BTreeMap::new(),
        };
        if plan.missing.is_empty() {
            return Ok(reasons);
        }
        let name = reasons.name(inputs);
        let before = inputs
            .store
            .last_build(&name.lineage, &name.variant)
            .map_err(BuildError::new)?;
        let before = before.and_then(|found| read(found.build.document, found.used, found.repeated));
        let pairs = match &before {
            Some(before) => align::pairs(&before.record.nodes, &reasons.nodes, inputs.definition.stages()),
            None => Pairs::of_nothing(reasons.nodes.len()),
        };
        for selection in plan
            .missing
            .iter()
            .filter_map(|id| plan.selections[id.0].as_ref())
        {
            files::keep(inputs.store, selection)?;
        }
        let pairs = &pairs;
        let comparison = Comparison {
            plan,
            pairs,
            inputs,
            asked: &reasons.asked,
            before: before.as_ref(),
            nodes: &reasons.nodes,
        };
        let mut causes = BTreeMap::new();
        for id in &plan.missing {
            if reasons.nodes[id.0].written.is_some() {
                causes.insert(id.0, comparison.cause(*id)?);
            }
        }
        reasons.causes = causes;
        Ok(reasons)
    }

    /// All numbered steps, with the causes of those that have to run.
    pub fn steps(&self) -> Vec<Step<'_>> {
        steps(&self.nodes, |number| self.causes.get(&number))
    }

    /// Keeps the build for the next one; `ran` are the vertices that were not cached after all.
    pub fn keep(
        self,
        inputs: &Inputs<'_>,
        plan: &Plan,
        ran: &Ran<'_>,
        succeeded: bool,
    ) -> Result<BuildRecord, BuildError> {
        let name = self.name(inputs);
        let ran = ran.ids(inputs);
        let mut lists = Vec::new();
        for selection in plan.selections.iter().flatten() {
            files::keep(inputs.store, selection)?;
            lists.push(selection.key());
        }
        let mut causes = self.causes;
        causes.retain(|number, _| ran.contains(number));
        let record = BuildRecord {
            asked: self.asked,
            succeeded,
            epoch: inputs.epoch,
            clamp: inputs.clamp,
            nodes: self.nodes,
            ran: causes,
        };
        let text = serde_json::to_vec(&record).map_err(BuildError::new)?;
        // Values of secrets that got into a Dockerfile are in no record.
        let mut mask = inputs.leaks.mask();
        let mut masked = mask.push(text);
        masked.extend(mask.finish());
        if let Ok(document) = String::from_utf8(masked) {
            inputs
                .store
                .put_build(&name, &KeptBuild { lists, document })
                .map_err(BuildError::new)?;
        }
        Ok(record)
    }

    fn name(&self, inputs: &Inputs<'_>) -> BuildName {
        let keys = inputs.results.iter().map(|id| self.nodes[id.0].root.0);
        name(&self.asked, keys)
    }
}

/// Notes that all of a build was cached. The first build that comes to its result is kept.
pub fn all_cached(inputs: &Inputs<'_>, plan: &Plan, asked: &Asked) -> Result<(), BuildError> {
    let keys = inputs.results.iter().map(|id| plan.roots[id.0].0);
    let touched = inputs.store.touch_build(&name(asked, keys));
    if touched.map_err(BuildError::new)? {
        return Ok(());
    }
    let reasons = Reasons::new(inputs, plan, asked.clone())?;
    reasons
        .keep(inputs, plan, &Ran::new(inputs.sink), true)
        .map(|_| ())
}

/// The last build of all on this store.
pub fn last(store: &Store) -> Result<Option<LastBuild>, BuildError> {
    let found = store.latest_build().map_err(BuildError::new)?;
    Ok(found.and_then(|found| read(found.build.document, found.used, found.repeated)))
}

impl BuildRecord {
    /// All numbered steps, with the causes of those that ran.
    pub fn steps(&self) -> Vec<Step<'_>> {
        steps(&self.nodes, |number| self.ran.get(&number))
    }
}

fn steps<'a>(nodes: &'a [Node], cause: impl Fn(usize) -> Option<&'a Cause>) -> Vec<Step<'a>> {
    let numbered = nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| node.written.is_some());
    numbered
        .map(|(number, node)| Step {
            node,
            cause: cause(number),
        })
        .collect()
}

fn read(document: String, at: SystemTime, repeated: bool) -> Option<LastBuild> {
    // One of another version says nothing.
    let record: BuildRecord = serde_json::from_str(&document).ok()?;
    let inside = |number: &usize| *number < record.nodes.len();
    let sound = record.nodes.iter().all(|node| {
        let mut inputs = node.base.iter().chain(&node.source);
        inputs.all(inside) && node.remotes.iter().chain(&node.mounts).all(inside)
    });
    sound.then_some(LastBuild { record, at, repeated })
}

fn name(asked: &Asked, results: impl Iterator<Item = [u8; 32]>) -> BuildName {
    let lineage = KeyBuilder::new("lineage/1")
        .field("context", asked.context.as_bytes())
        .field("dockerfile", asked.dockerfile.as_bytes())
        .finish();
    let variant = KeyBuilder::new("variant/1")
        .list("target", asked.target.iter().map(String::as_bytes))
        .list("platforms", &asked.platforms)
        .finish();
    BuildName {
        lineage,
        variant,
        result: KeyBuilder::new("result/1").list("keys", results).finish(),
    }
}

/// Which vertices really ran, told by their events: a step that the plan misses may turn out to be cached, because its
/// inputs came out the same or another process was quicker.
pub struct Ran<'a> {
    sink: &'a dyn Sink,
    seen: Mutex<BTreeSet<Key>>,
}

impl std::fmt::Debug for Ran<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ran")
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

impl<'a> Ran<'a> {
    /// Passes events on to `sink`.
    pub fn new(sink: &'a dyn Sink) -> Self {
        Self {
            sink,
            seen: Mutex::default(),
        }
    }

    fn ids(&self, inputs: &Inputs<'_>) -> BTreeSet<usize> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let ids = inputs.definition.ids();
        ids.filter(|id| seen.contains(&inputs.definition.digest(*id)))
            .map(|id| id.0)
            .collect()
    }
}

impl Sink for Ran<'_> {
    fn emit(&self, event: Event) {
        if let Event::Finished {
            vertex,
            outcome: VertexOutcome::Done | VertexOutcome::Failed(_),
            ..
        } = &event
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.insert(*vertex);
        }
        self.sink.emit(event);
    }
}

struct Comparison<'a> {
    plan: &'a Plan,
    inputs: &'a Inputs<'a>,
    asked: &'a Asked,
    before: Option<&'a LastBuild>,
    nodes: &'a [Node],
    /// Which node of the last build each was.
    pairs: &'a Pairs,
}

impl Comparison<'_> {
    fn cause(&self, id: VertexId) -> Result<Cause, BuildError> {
        if self.inputs.definition.vertex(id).no_cache {
            return Ok(if self.asked.no_cache {
                Cause::NoCache
            } else {
                Cause::NoCacheFilter
            });
        }
        let new = &self.nodes[id.0];
        if let Some(cause) = self.lost(id, &new.key)? {
            return Ok(cause);
        }
        match (self.before, self.pairs.of(id.0)) {
            (None, _) => Ok(Cause::NeverBuilt),
            // The last build may have left its stage out, so the line need not be new.
            (_, None) if self.pairs.is_of_new_stage(id.0) => Ok(Cause::NeverBuilt),
            (_, None) => Ok(Cause::NewInstruction),
            (Some(before), Some(pair)) => self.difference(&before.record, pair, new),
        }
    }

    /// What happened to a result that was there.
    fn lost(&self, id: VertexId, key: &Key) -> Result<Option<Cause>, BuildError> {
        let store = self.inputs.store;
        if let Some(record) = store.record(key).map_err(BuildError::new)? {
            if !store.layer_exists(&record.layer) {
                return Ok(Some(Cause::Damaged { what: Part::Layer }));
            }
            let limit = self.inputs.max_age.filter(|_| !is_fresh(self.inputs, &record));
            let too_old = limit.map(|ttl| Cause::CacheTtl {
                age: age(&record).as_secs(),
                ttl: ttl.as_secs(),
            });
            return Ok(too_old.or_else(|| self.made_again(id)));
        }
        if store.has_unreadable_record(key).map_err(BuildError::new)? {
            return Ok(Some(Cause::Damaged { what: Part::Record }));
        }
        let Some(eviction) = store.eviction(key).map_err(BuildError::new)? else {
            return Ok(None);
        };
        // A later build that wanted it was ended before it had it.
        let wanted_since = self.before.is_some_and(|before| {
            before.at > eviction.at && before.record.nodes.iter().any(|node| node.key == *key)
        });
        Ok((!wanted_since).then_some(Cause::Evicted {
            rule: eviction.rule,
            at: eviction
                .at
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
        }))
    }

    /// What is made again, or was, and by that takes its result from a step whose key is the same.
    fn made_again(&self, id: VertexId) -> Option<Cause> {
        if !self.plan.doubtful[id.0] {
            return None;
        }
        let vertex = self.inputs.definition.vertex(id);
        let step = |id: VertexId| {
            let node = &self.nodes[id.0];
            node.written.as_ref().map(|written| Cause::Step {
                stage: written.stage.clone(),
                step: written.step,
                name: node.name.clone(),
            })
        };
        let below = |id: &VertexId| self.inputs.definition.vertex(*id).base;
        let mut inputs = self.inputs.definition.inputs(id);
        let missing = inputs.find_map(|input| {
            let mut chain = std::iter::successors(Some(input), below);
            chain.find_map(|id| step(id).filter(|_| self.plan.cached[id.0].is_none()))
        });
        missing.or_else(|| vertex.base.and_then(step))
    }

    /// The nearest difference between a step and what it was.
    fn difference(&self, before: &BuildRecord, old: usize, new: &Node) -> Result<Cause, BuildError> {
        let old = &before.nodes[old];
        if old.key == new.key {
            return Ok(if before.succeeded {
                Cause::Gone
            } else {
                Cause::Unfinished
            });
        }
        let time = || {
            if matches!(new.op, Op::Exec(_)) {
                return None;
            }
            diff::optional("SOURCE_DATE_EPOCH", &before.epoch, &self.inputs.epoch)
                .or_else(|| diff::optional("rewrite-timestamp", &before.clamp, &self.inputs.clamp))
        };
        if let Some(cause) = diff::operation(old, new).or_else(time) {
            return Ok(cause);
        }
        if let (Some(from), Some(to)) = (&old.selection, &new.selection)
            && from != to
        {
            return files::compare(self.inputs.store, from, to);
        }
        let linked = matches!(&new.op, Op::Copy(op) if op.link);
        let pairs = [(old.source, new.source)]
            .into_iter()
            .chain(zipped(&old.remotes, &new.remotes))
            .chain(zipped(&old.mounts, &new.mounts));
        for (from, to) in pairs {
            if let Some(cause) = self.input(before, from, to, false)? {
                // Who wrote another source has changed this line, and not what is read.
                let is_of_text = matches!(cause, Cause::Instruction { .. }) || self.reads_elsewhere(from, to);
                let written = diff::written(old, new).filter(|_| is_of_text);
                return Ok(written.unwrap_or(cause));
            }
        }
        if linked {
            return Ok(Cause::Version);
        }
        if let Some(cause) = self.order(before, old, new) {
            return Ok(cause);
        }
        let base = self.input(before, old.base, new.base, true)?;
        Ok(base.unwrap_or(Cause::Version))
    }

    /// Whether what is read is a step, and not that which was read before.
    fn reads_elsewhere(&self, from: Option<usize>, to: Option<usize>) -> bool {
        to.is_some_and(|to| self.nodes[to].written.is_some() && self.pairs.of(to) != from)
    }

    /// Whether it followed a step that it does not follow any more, because that is gone or elsewhere.
    fn order(&self, before: &BuildRecord, old: &Node, new: &Node) -> Option<Cause> {
        let was = old.base?;
        let written = before.nodes[was].written.as_ref()?;
        let is = new.base.map(|base| (&self.nodes[base], self.pairs.of(base)));
        let to = match is {
            // The same place, or a line that came in between.
            Some((node, pair)) if node.written.is_some() && pair.is_none_or(|pair| pair == was) => {
                return None;
            }
            Some((node, _)) => node.written.as_ref().map_or(&node.name, |it| &it.text).clone(),
            None => String::new(),
        };
        Some(Cause::Order {
            from: written.text.clone(),
            to,
        })
    }

    /// What an input has to do with it; `None` when it is what it was.
    fn input(
        &self,
        before: &BuildRecord,
        from: Option<usize>,
        to: Option<usize>,
        is_base: bool,
    ) -> Result<Option<Cause>, BuildError> {
        let mut from = from;
        let mut old = from.map(|number| &before.nodes[number]);
        let mut new = to.map(|number| &self.nodes[number]);
        // A linked layer is the same on whatever it lies: what changed is below.
        while let (Some(above), Some(above_now)) = (old, new)
            && above.key == above_now.key
            && above.root != above_now.root
        {
            from = above.base;
            old = from.map(|number| &before.nodes[number]);
            new = above_now.base.map(|number| &self.nodes[number]);
        }
        if old.map(|node| node.root) == new.map(|node| node.root) {
            return Ok(None);
        }
        let image = |node: Option<&Node>| match node.map(|node| &node.op) {
            Some(Op::Image(op)) => Some(format!("{}@{}", op.reference, op.manifest)),
            _ => None,
        };
        let other_image = || {
            let (from, to) = (image(old), image(new));
            if is_base {
                Cause::BaseImage { from, to }
            } else {
                Cause::SourceImage { from, to }
            }
        };
        let Some(new) = new else {
            return Ok(Some(other_image()));
        };
        Ok(Some(match (&new.op, old) {
            (Op::Image(_), Some(old)) => {
                let of_image = matches!(old.op, Op::Image(_));
                let platform = diff::platform(old, new).filter(|_| of_image);
                platform.unwrap_or_else(other_image)
            }
            (Op::Image(_), None) => other_image(),
            (Op::Http(op), _) => Cause::Remote {
                address: op.url.clone(),
                from: old.and_then(|old| match &old.op {
                    Op::Http(op) => Some(op.digest.to_string()),
                    _ => None,
                }),
                to: op.digest.to_string(),
            },
            (Op::Git(op), _) => Cause::Remote {
                address: op.remote.clone(),
                from: old.and_then(|old| match &old.op {
                    Op::Git(op) => Some(op.commit.clone()),
                    _ => None,
                }),
                to: op.commit.clone(),
            },
            (Op::Local(op), old) => {
                let name = |node: &Node| match &node.op {
                    Op::Local(op) => op.name.clone(),
                    _ => node.name.clone(),
                };
                Cause::Setting {
                    name: "context".to_owned(),
                    from: old.map(name),
                    to: Some(op.name.clone()),
                }
            }
            _ => match (&new.written, from, old) {
                (Some(written), ..) => Cause::Step {
                    stage: written.stage.clone(),
                    step: written.step,
                    name: new.name.clone(),
                },
                // What is taken for a mount is no step of its own.
                (None, Some(from), Some(old)) if old.written.is_none() => {
                    self.difference(before, from, new)?
                }
                (None, _, old) => Cause::Mount {
                    from: old.map(|old| old.name.clone()),
                    to: Some(new.name.clone()),
                },
            },
        }))
    }
}

/// Places of two lists, the longer one against nothing.
fn zipped<'a>(
    old: &'a [usize],
    new: &'a [usize],
) -> impl Iterator<Item = (Option<usize>, Option<usize>)> + 'a {
    (0..old.len().max(new.len())).map(|place| (old.get(place).copied(), new.get(place).copied()))
}
