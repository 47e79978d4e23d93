//! How many steps run at the same time, and which of those that could start does: the one with the longest way
//! to the result.

use std::num::NonZero;

use rbuild_cache::Store;

use super::{Inputs, Plan};
use crate::error::BuildError;
use crate::graph::{Op, Vertex, VertexId};

/// Processes that run at the same time, at most, when nobody has said how many. They mostly wait, for servers and
/// disks, so it is not the number of processors; the kernel shares these among them.
const PROCESSES: usize = 32;

/// Milliseconds that a process is thought to take of which nothing is known.
const UNKNOWN_PROCESS: u64 = 1000;

/// The same of a copy.
const UNKNOWN_COPY: u64 = 10;

/// How many steps may run at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jobs {
    all: usize,
    /// What rbuild does itself keeps a processor busy.
    own: usize,
}

impl Jobs {
    /// `--jobs`: `None` for as many as make sense here, 0 for no limit.
    pub fn new(wanted: Option<usize>) -> Self {
        match wanted {
            None => Self {
                all: PROCESSES,
                own: std::thread::available_parallelism().map_or(1, NonZero::get),
            },
            Some(0) => Self {
                all: usize::MAX,
                own: usize::MAX,
            },
            Some(count) => Self {
                all: count,
                own: count,
            },
        }
    }
}

/// What runs now.
#[derive(Debug, Default)]
pub(super) struct Running {
    processes: usize,
    own: usize,
}

impl Running {
    pub fn is_none(&self) -> bool {
        self.processes + self.own == 0
    }

    pub fn admits(&self, jobs: Jobs, vertex: &Vertex) -> bool {
        self.processes + self.own < jobs.all && (is_process(vertex) || self.own < jobs.own)
    }

    pub fn add(&mut self, vertex: &Vertex) {
        *self.count(vertex) += 1;
    }

    pub fn remove(&mut self, vertex: &Vertex) {
        *self.count(vertex) -= 1;
    }

    fn count(&mut self, vertex: &Vertex) -> &mut usize {
        if is_process(vertex) {
            &mut self.processes
        } else {
            &mut self.own
        }
    }
}

fn is_process(vertex: &Vertex) -> bool {
    matches!(vertex.op, Op::Exec(_))
}

/// The missing vertices, those with the longest way to a result first: what they take themselves and what has to come
/// after them, as long as it took when it was last run, else as if all took the same. Inputs stay before what uses them.
pub(super) fn critical_first(inputs: &Inputs<'_>, plan: &Plan) -> Result<Vec<VertexId>, BuildError> {
    let mut order = plan.missing.clone();
    if order.len() <= inputs.jobs.all.min(inputs.jobs.own) {
        // All that can start does.
        return Ok(order);
    }
    let mut ways = vec![0; plan.cached.len()];
    for id in plan.missing.iter().rev() {
        let vertex = inputs.definition.vertex(*id);
        let known = last_duration(inputs.store, plan, *id)?;
        let takes = known.unwrap_or(if is_process(vertex) {
            UNKNOWN_PROCESS
        } else {
            UNKNOWN_COPY
        });
        // At least something, so that inputs come first.
        let way: u64 = ways[id.0] + takes.max(1);
        ways[id.0] = way;
        for input in inputs.definition.inputs(*id) {
            ways[input.0] = way.max(ways[input.0]);
        }
    }
    order.sort_by_key(|id| std::cmp::Reverse(ways[id.0]));
    Ok(order)
}

/// How long the same operation took when it was last done, on whatever input.
fn last_duration(store: &Store, plan: &Plan, id: VertexId) -> Result<Option<u64>, BuildError> {
    let keys = store
        .keys_of_op(&plan.operations[id.0])
        .map_err(BuildError::new)?;
    let Some(last) = keys.first() else {
        return Ok(None);
    };
    let record = store.record(last).map_err(BuildError::new)?;
    Ok(record.map(|record| record.duration_ms))
}
