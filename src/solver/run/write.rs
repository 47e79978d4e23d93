//! Writing the layer of a copy.

use rbuild_cache::LayerId;
use rbuild_cache::layer::Reuse;

use super::work::{CANDIDATES, Work};
use crate::error::BuildError;
use crate::solver::leaks::{self, Guarded};
use crate::solver::ops::Sources;
use crate::solver::ops::plan::LayerPlan;

impl Work<'_, '_> {
    /// The layer of `plan`. What an earlier layer of the same operation has in common with it comes out of that one's tar;
    /// should the tar turn out damaged, everything comes from `sources`.
    pub(super) fn write(&self, plan: &LayerPlan<'_>, sources: Sources<'_>) -> Result<LayerId, BuildError> {
        let reuse = self.reuse(plan)?;
        match self.write_from(plan, sources, reuse.as_ref()) {
            Err(_) if reuse.as_ref().is_some_and(Reuse::is_spoiled) => self.write_from(plan, sources, None),
            written => written,
        }
    }

    fn write_from(
        &self,
        plan: &LayerPlan<'_>,
        sources: Sources<'_>,
        reuse: Option<&Reuse>,
    ) -> Result<LayerId, BuildError> {
        let inputs = self.run.inputs;
        let mut builder = self.builder()?;
        if inputs.leaks.are_sought() && !self.is_only_mounted() {
            let mut guarded = Guarded {
                sink: &mut builder,
                leaks: inputs.leaks,
                found: None,
            };
            plan.write(sources, reuse, &mut guarded, self.time())?;
            if let Some((path, leak)) = guarded.found {
                let place = format!("the layer of the step: /{path}");
                leaks::report(inputs, leak, &place, self.vertex.location.as_ref())?;
            }
        } else {
            plan.write(sources, reuse, &mut builder, self.time())?;
        }
        builder.commit().map_err(BuildError::new)
    }

    /// The newest layer of the same operation that has files of `plan`.
    fn reuse(&self, plan: &LayerPlan<'_>) -> Result<Option<Reuse>, BuildError> {
        // With --no-cache every build does its own work.
        if self.vertex.no_cache {
            return Ok(None);
        }
        let store = self.run.inputs.store;
        let operation = &self.run.plan.operations[self.id.0];
        for key in store
            .keys_of_op(operation)
            .map_err(BuildError::new)?
            .iter()
            .take(CANDIDATES)
        {
            let Some(record) = store.record(key).map_err(BuildError::new)? else {
                continue;
            };
            if store.layer_exists(&record.layer) {
                let layer = store.layer(&record.layer).map_err(BuildError::new)?;
                if let Some(reuse) = plan.reuse(&layer).map_err(BuildError::new)? {
                    return Ok(Some(reuse));
                }
            }
        }
        Ok(None)
    }
}
