//! Fetching sources that lie elsewhere, before the sandbox is entered: what fetches them may want the user's own identity
//! (keys, agents, helpers), and threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use rbuild_cache::{Made, Record};

use super::plan::{recorded, seconds};
use super::{Inputs, Plan, StepResult};
use crate::error::BuildError;
use crate::graph::{Op, VertexId};
use crate::progress::{Event, VertexOutcome};

/// Sources on their way at once.
const PARALLEL: usize = 8;

impl Plan {
    /// Fetches the sources that missing steps read and the store does not have, several at once. Starts threads and
    /// joins them.
    pub fn fetch(&mut self, inputs: &Inputs<'_>) -> Result<(), BuildError> {
        let is_remote = |id: &VertexId| matches!(inputs.definition.vertex(*id).op, Op::Http(_) | Op::Git(_));
        let wanted: Vec<VertexId> = self.missing.iter().copied().filter(is_remote).collect();
        let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let plan = &*self;
        let work = || {
            while let Some(id) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                let result = plan.fetch_one(inputs, *id);
                if result.is_err() {
                    // The others end with what they are at.
                    next.store(wanted.len(), Ordering::Relaxed);
                }
                found
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push((*id, result));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..PARALLEL.min(wanted.len()) {
                scope.spawn(work);
            }
            work();
        });
        for (id, result) in found.into_inner().unwrap_or_else(PoisonError::into_inner) {
            self.cached[id.0] = Some(result?);
            self.fetched.push(id);
            self.missing.retain(|missing| *missing != id);
        }
        Ok(())
    }

    fn fetch_one(&self, inputs: &Inputs<'_>, id: VertexId) -> Result<StepResult, BuildError> {
        let vertex = inputs.definition.vertex(id);
        let digest = inputs.definition.digest(id);
        inputs.sink.emit(Event::Started {
            vertex: digest,
            name: vertex.name.clone(),
            location: vertex.location.clone(),
            at: Instant::now(),
        });
        let result = self.make(inputs, id);
        let outcome = match &result {
            Ok(_) => VertexOutcome::Done,
            Err(error) => VertexOutcome::Failed(error.to_string()),
        };
        inputs.sink.emit(Event::Finished {
            vertex: digest,
            outcome,
            at: Instant::now(),
        });
        result.map_err(|error| error.at(vertex.location.clone()).of_vertex(digest, &vertex.name))
    }

    fn make(&self, inputs: &Inputs<'_>, id: VertexId) -> Result<StepResult, BuildError> {
        let key = &self.definitions[id.0];
        // Another build on this store may fetch the same.
        let _lock = inputs.store.lock_key(key).map_err(BuildError::new)?;
        if let Some(found) = recorded(inputs, &inputs.definition.vertex(id).op, key)? {
            return Ok(found.result);
        }
        let began = Instant::now();
        let layer = inputs.remotes.fetch(&inputs.definition.vertex(id).op)?;
        let created = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let record = Record {
            op: self.operations[id.0],
            layer: layer.clone(),
            inputs: Vec::new(),
            created,
            duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            made: match inputs.definition.vertex(id).op {
                Op::Git(_) => Made::Git,
                _ => Made::Http,
            },
            description: inputs.definition.vertex(id).name.clone(),
        };
        inputs.store.put_record(key, &record).map_err(BuildError::new)?;
        Ok(StepResult {
            layer,
            created: seconds(created),
        })
    }
}
