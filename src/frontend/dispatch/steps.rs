//! Numbers and names of steps, as the progress output shows them and as they are recorded.

use rbuild_parser::Instruction;

use crate::frontend::stage::{Base, StageTable};
use crate::graph::{Platform, Variable, Written};

/// Numbers the steps of a stage as the progress output shows them.
#[derive(Debug)]
pub(super) struct Steps {
    stage: String,
    /// The stage's name.
    of: String,
    index: usize,
    total: usize,
}

impl Steps {
    pub(super) fn new(table: &StageTable, index: usize, platform: Option<&Platform>) -> Self {
        let stage = &table.stages[index];
        let steps = stage.commands.iter().filter(|command| {
            use Instruction::{Add, Copy, Run, Workdir};
            matches!(command.instruction.value, Add(_) | Copy(_) | Run(_) | Workdir(_))
        });
        Self {
            stage: [
                platform.map(Platform::to_string),
                (table.stages.len() > 1).then(|| table.display_name(index)),
            ]
            .into_iter()
            .flatten()
            .map(|part| part + " ")
            .collect(),
            of: table.display_name(index),
            index: 0,
            total: steps.count()
                + usize::from(matches!(
                    stage.base,
                    Base::Image(_) | Base::Local(_) | Base::Remote(_)
                )),
        }
    }

    /// For instructions outside of a Dockerfile, which make no step.
    pub(super) fn none() -> Self {
        Self {
            stage: String::new(),
            of: String::new(),
            index: 0,
            total: 0,
        }
    }

    /// `[stage 2/5] RUN make`
    pub(super) fn next(&mut self, is_trigger: bool, text: &str) -> String {
        self.index += 1;
        let width = self.total.to_string().len();
        let trigger = if is_trigger { "ONBUILD " } else { "" };
        format!(
            "[{}{:width$}/{}] {trigger}{text}",
            self.stage, self.index, self.total
        )
    }

    /// What was written for the step that [`Steps::next`] has named.
    pub(super) fn written(&self, text: String, variables: Vec<Variable>) -> Written {
        Written {
            stage: self.of.clone(),
            step: self.index,
            text,
            variables,
        }
    }
}

/// A numbered step: how it is shown, and what was written.
#[derive(Debug)]
pub(super) struct StepName {
    pub(super) name: String,
    pub(super) written: Written,
}
