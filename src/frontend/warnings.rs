//! Collects what is doubtful, and knows how lines of the Dockerfile become places.

use std::sync::Arc;

use rbuild_parser::Span;
use rbuild_parser::check::CheckOptions;
use rbuild_parser::lint;

use super::Warning;
use crate::error::BuildError;
use crate::graph::Location;

/// The warnings of one lowering.
#[derive(Debug)]
pub(super) struct Warnings {
    file: Arc<str>,
    options: CheckOptions,
    /// What `# check=` above the instruction that is being lowered says.
    instruction: CheckOptions,
    list: Vec<Warning>,
}

impl Warnings {
    pub(super) fn new(file: Arc<str>, options: CheckOptions) -> Self {
        Self {
            file,
            options,
            instruction: CheckOptions::default(),
            list: Vec::new(),
        }
    }

    /// The instruction that is lowered next has these comments above it; one may say which rules to skip for it.
    pub(super) fn enter(&mut self, comments: &[String]) {
        self.instruction = CheckOptions::of_comments(comments);
    }

    /// Whether the instruction that is lowered now is to be spared by `rule`.
    pub(super) fn skips_here(&self, rule: &str) -> bool {
        self.instruction.skip.contains(rule)
    }

    /// The lines of `span` as a place in the file.
    pub(super) fn location(&self, span: Span) -> Location {
        Location {
            file: Arc::clone(&self.file),
            start: span.start_line,
            end: span.end_line,
        }
    }

    /// Adds a warning unless its rule is skipped, or experimental and not asked for, or it was given before (an instruction that is lowered once per use).
    pub(super) fn push(&mut self, warning: Warning) {
        let skips = [&self.options.skip, &self.instruction.skip];
        let unasked = lint::find(warning.rule).is_some_and(|rule| rule.experimental)
            && !self.options.experimental.contains(warning.rule);
        let skipped = !warning.rule.is_empty() && skips.iter().any(|rules| rules.contains(warning.rule));
        if !skipped && !unasked && !self.list.contains(&warning) {
            self.list.push(warning);
        }
    }

    /// Adds the warning of a rule.
    pub(super) fn rule(&mut self, rule: &'static str, location: &Location, message: String) {
        self.push(Warning {
            rule,
            message,
            help: None,
            location: Some(location.clone()),
        });
    }

    /// Those of rules, in the order of the file, whatever `# check=error` says.
    pub(super) fn of_rules(self) -> Vec<Warning> {
        let mut list = self.list;
        list.retain(|warning| !warning.rule.is_empty());
        list.sort_by_key(|warning| warning.location.as_ref().map(|location| location.start));
        list
    }

    /// All of them, or the failure that `# check=error=true` makes of them.
    pub(super) fn finish(self) -> Result<Vec<Warning>, BuildError> {
        let mut rules: Vec<&str> = self
            .list
            .iter()
            .map(|warning| warning.rule)
            .filter(|rule| !rule.is_empty())
            .collect();
        rules.sort_unstable();
        rules.dedup();
        if self.options.error && !rules.is_empty() {
            let rules = rules.join(", ");
            let list = self.of_rules();
            let line = |warning: &Warning| match &warning.location {
                Some(location) => format!("line {}: {}", location.start, warning.message),
                None => warning.message.clone(),
            };
            let all = list.iter().map(line).collect::<Vec<_>>().join("; ");
            let first = list.into_iter().next().and_then(|warning| warning.location);
            return Err(
                BuildError::message(format!("lint violation found for rules: {rules}"))
                    .at(first)
                    .hint(Some(all)),
            );
        }
        Ok(self.list)
    }
}
