//! What should happen, in which order? Finds out which vertices of a definition the cache already
//! has ([`plan`]), runs the others in parallel ([`run`]) and gives a layer for each.
//!
//! A vertex runs only after its inputs; equal steps of other processes on the same store run once
//! (the lock of the step's key); the first failure cancels the rest. Only this room calls the executor.

pub mod beside;
pub mod exec;
pub mod foreign;
pub mod keys;
mod leaks;
mod mounts;
mod network;
pub mod ops;
mod order;
pub mod plan;
mod remote;
mod root;
pub mod run;
pub mod trial;
pub mod why;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rbuild_cache::layer::{Layer, Timestamp};
use rbuild_cache::{LayerId, Store, View};
use rbuild_executor::{Certificates, Dns};

use crate::error::BuildError;
use crate::graph::{Definition, Op, VertexId};
use crate::progress::Sink;
use crate::source::agent::Agents;
use crate::source::context::BuildContext;
use crate::source::leak::Leaks;
use crate::source::remote::RemoteSource;
use crate::source::secret::Secrets;

pub use order::Jobs;
pub use plan::Plan;

/// What a build gives its solver beside the graph.
pub struct Inputs<'a> {
    /// The graph.
    pub definition: &'a Definition,
    /// The vertices that are wanted.
    pub results: &'a [VertexId],
    /// Where layers and records are.
    pub store: &'a Store,
    /// Build contexts by name (`context`).
    pub locals: &'a BTreeMap<String, BuildContext>,
    /// Fetches what lies elsewhere.
    pub remotes: &'a dyn RemoteSource,
    /// What the caller hands to steps that ask for it.
    pub secrets: &'a Secrets,
    /// What must not get into a layer, and is not shown.
    pub leaks: &'a Leaks,
    /// Ssh agents that he forwards.
    pub agents: &'a Agents,
    /// Where events go.
    pub sink: &'a dyn Sink,
    /// `SOURCE_DATE_EPOCH`: the time of directories that steps create; `None` for the time of the build.
    pub epoch: Option<i64>,
    /// `rewrite-timestamp=true`: layers made from entries are written without times later than this.
    pub clamp: Option<i64>,
    /// Settings of the resolver of steps, where they are not the machine's. In no key: names are the same everywhere.
    pub dns: &'a Dns,
    /// How many steps run at the same time.
    pub jobs: Jobs,
    /// What steps trust beside their image. In no key and in no layer.
    pub certificates: Option<&'a Certificates>,
    /// Older results of steps are not used (`--cache-ttl`); what is fetched has its own rules.
    pub max_age: Option<Duration>,
}

impl fmt::Debug for Inputs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inputs")
            .field("results", &self.results)
            .finish_non_exhaustive()
    }
}

/// The layer that a vertex made, now or earlier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepResult {
    /// Its layer.
    pub layer: LayerId,
    /// When it was made.
    pub created: Timestamp,
}

fn interrupted() -> BuildError {
    BuildError::message("the build was interrupted")
}

impl Inputs<'_> {
    /// The layers of a vertex' root file system, lowest first. `result` tells the layer of each vertex on the
    /// way; `None` from it means that the order of work was wrong.
    fn stack<'r>(
        &self,
        id: VertexId,
        result: impl Fn(VertexId) -> Option<&'r StepResult>,
    ) -> Result<Vec<LayerId>, BuildError> {
        let mut layers = Vec::new();
        let mut next = Some(id);
        while let Some(id) = next {
            let vertex = self.definition.vertex(id);
            match &vertex.op {
                Op::Image(op) => layers.extend(
                    op.layers
                        .iter()
                        .rev()
                        .map(|layer| LayerId::of_diff_id(&layer.diff_id)),
                ),
                Op::Local(_) => {}
                _ => {
                    let result = result(id).ok_or_else(|| {
                        BuildError::message(format!("{}: it was wanted before it was done", vertex.name))
                    })?;
                    layers.push(result.layer.clone());
                }
            }
            next = vertex.base;
        }
        layers.reverse();
        Ok(layers)
    }

    /// The layers as one tree.
    fn view(&self, layers: &[LayerId]) -> Result<View, BuildError> {
        let layers = layers
            .iter()
            .map(|id| self.store.layer(id))
            .collect::<Result<Vec<Layer>, _>>();
        Ok(View::new(layers.map_err(BuildError::new)?))
    }
}
