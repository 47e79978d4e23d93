//! Which stages there are, what each begins with and copies from, and which of them the target needs (spec 4).

use std::collections::BTreeSet;

use rbuild_parser::expand::{ExpandError, Expander, Expansion};
use rbuild_parser::mount::Mount;
use rbuild_parser::suggest::nearest;
use rbuild_parser::{Instruction, Spanned, Stage};

use super::args::Arguments;
use super::contexts::Contexts;
use super::lint::{FromWords, check_from};
use super::warnings::Warnings;
use super::{BuildRequest, Warning};
use crate::error::BuildError;
use crate::graph::Reference;
use crate::graph::{Location, Platform};

/// References that begin so are no image names; only the resolver understands them.
const OCI_LAYOUT: &str = "oci-layout://";

/// What FROM names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Base {
    /// No layers.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image.
    Image(String),
    /// The files of a named local directory.
    Local(String),
    /// The files of a remote source.
    Remote(String),
}

/// What `COPY --from` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CopyFrom {
    /// A stage, possibly a later one: that is an error only where it is used.
    Stage(usize),
    /// An image.
    Image(String),
    /// A named local directory.
    Local(String),
    /// A remote source.
    Remote(String),
    /// `scratch`: a tree without anything.
    Scratch,
}

/// An instruction with what its `--from` means.
#[derive(Debug, Clone)]
pub(super) struct Command {
    pub(super) instruction: Spanned<Instruction>,
    pub(super) location: Location,
    pub(super) from: Option<CopyFrom>,
    /// What `from` of each `--mount` means, in their order.
    pub(super) mounts: Vec<Option<CopyFrom>>,
    pub(super) is_trigger: bool,
}

impl Command {
    /// All that it reads beside the context.
    pub(super) fn sources(&self) -> impl Iterator<Item = &CopyFrom> {
        self.from.iter().chain(self.mounts.iter().flatten())
    }
}

/// A stage before its instructions are lowered.
#[derive(Debug, Clone)]
pub(super) struct StagePlan {
    /// Lower-cased name.
    pub(super) name: Option<String>,
    pub(super) base: Base,
    /// What FROM names, expanded.
    pub(super) image: String,
    /// `--platform`.
    pub(super) platform: Option<Platform>,
    pub(super) location: Location,
    pub(super) commands: Vec<Command>,
}

/// All stages in order.
#[derive(Debug, Default)]
pub(super) struct StageTable {
    pub(super) stages: Vec<StagePlan>,
    contexts: Contexts,
    escape: char,
}

impl StageTable {
    /// Expands and checks every FROM and every `--from`, needed or not (spec G2).
    pub(super) fn plan(
        request: &BuildRequest,
        arguments: &Arguments,
        warnings: &mut Warnings,
    ) -> Result<Self, BuildError> {
        let mut table = Self {
            stages: Vec::with_capacity(request.dockerfile.stages.len()),
            contexts: Contexts::new(&request.contexts),
            escape: request.dockerfile.directives.escape,
        };
        for stage in &request.dockerfile.stages {
            let plan = table.plan_from(stage, arguments, warnings)?;
            table.stages.push(plan);
        }
        for index in 0..table.stages.len() {
            // A context of the stage's name stands for all of the stage (spec F2).
            if let Some(base) = table.replacement(index) {
                table.stages[index].base = base;
                continue;
            }
            let mut commands = Vec::new();
            for instruction in &request.dockerfile.stages[index].instructions {
                let location = warnings.location(instruction.span);
                commands.push(table.command(index, instruction.clone(), location, false)?);
            }
            table.stages[index].commands = commands;
        }
        table.refuse_cycles()?;
        Ok(table)
    }

    /// The stage to build (spec G1, B10).
    pub(super) fn target(&self, target: Option<&str>) -> Result<usize, BuildError> {
        let last = self.stages.len().saturating_sub(1);
        let Some(target) = target.filter(|target| !target.is_empty()) else {
            return Ok(last);
        };
        if let Some(index) = self.find(target, self.stages.len()) {
            return Ok(index);
        }
        match target.parse::<usize>() {
            Ok(index) if index < self.stages.len() => Ok(index),
            _ => Err(
                BuildError::message(format!("target stage {target:?} could not be found"))
                    .hint(self.suggest(target)),
            ),
        }
    }

    /// The latest stage below `limit` of this name, whatever its case (spec B1, F4). `stage-N`, as unnamed stages
    /// are shown, is no name.
    pub(super) fn find(&self, name: &str, limit: usize) -> Option<usize> {
        let name = name.to_lowercase();
        self.stages[..limit]
            .iter()
            .rposition(|stage| stage.name.as_ref() == Some(&name))
    }

    /// What the stage `index` begins with and is when a named context has its name.
    fn replacement(&self, index: usize) -> Option<Base> {
        let name = self.stages[index].name.as_deref()?;
        self.contexts.base(name)
    }

    /// What `--from` reads that names the stage `index`.
    fn copy_stage(&self, index: usize) -> CopyFrom {
        let name = self.stages[index].name.as_deref();
        name.and_then(|name| self.contexts.copy_from(name))
            .unwrap_or(CopyFrom::Stage(index))
    }

    /// The names that stages were given.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().filter_map(|stage| stage.name.as_deref())
    }

    /// How a stage is called in messages.
    pub(super) fn display_name(&self, index: usize) -> String {
        match &self.stages[index].name {
            Some(name) => name.clone(),
            None => format!("stage-{index}"),
        }
    }

    /// Which stages `target` needs, by index.
    pub(super) fn reachable(&self, target: usize) -> Vec<bool> {
        let mut needed = vec![false; self.stages.len()];
        let mut open = vec![target];
        while let Some(index) = open.pop() {
            if !std::mem::replace(&mut needed[index], true) {
                if let Base::Stage(base) = self.stages[index].base {
                    open.push(base);
                }
                open.extend(self.copied_stages(index).map(|(stage, _)| stage));
            }
        }
        needed
    }

    /// An instruction of stage `index`, its `--from` resolved (spec G4, G5).
    pub(super) fn command(
        &self,
        index: usize,
        instruction: Spanned<Instruction>,
        location: Location,
        is_trigger: bool,
    ) -> Result<Command, BuildError> {
        let from = match &instruction.value {
            Instruction::Copy(copy) => copy.from.as_deref().filter(|from| !from.is_empty()),
            _ => None,
        };
        let from = from
            .map(|from| self.resolve_from(index, from))
            .transpose()
            .map_err(|error| error.at(Some(location.clone())))?;
        let mounts = match &instruction.value {
            Instruction::Run(run) => self
                .mounts(index, &run.mounts)
                .map_err(|error| error.at(Some(location.clone())))?,
            _ => Vec::new(),
        };
        Ok(Command {
            instruction,
            location,
            from,
            mounts,
            is_trigger,
        })
    }

    /// The names that ARGs of stages declare, as far as they are plain: those that are expanded come out as written.
    pub(super) fn argument_names(&self) -> BTreeSet<String> {
        let commands = self.stages.iter().flat_map(|stage| &stage.commands);
        let args = commands.filter_map(|command| match &command.instruction.value {
            Instruction::Arg(arg) => Some(&arg.args),
            _ => None,
        });
        args.flatten().map(|item| item.key.clone()).collect()
    }

    /// Warns of `--no-cache-filter` values that are no stage.
    pub(super) fn check_filters(&self, filters: &[String], warnings: &mut Warnings) {
        let exists = |name: &str| {
            (0..self.stages.len()).any(|index| self.display_name(index).eq_ignore_ascii_case(name))
        };
        for name in filters.iter().filter(|name| !exists(name)) {
            warnings.push(Warning {
                rule: "",
                message: format!("--no-cache-filter {name}: there is no stage of that name"),
                help: self.suggest(name),
                location: None,
            });
        }
    }

    /// What may have been meant by `name`: the nearest stage.
    pub(super) fn suggest(&self, name: &str) -> Option<String> {
        nearest(&name.to_lowercase(), self.names()).map(|near| format!("did you mean {near}?"))
    }

    fn plan_from(
        &self,
        stage: &Stage,
        arguments: &Arguments,
        warnings: &mut Warnings,
    ) -> Result<StagePlan, BuildError> {
        let from = &stage.from.value;
        warnings.enter(&stage.from.comments);
        let location = warnings.location(stage.from.span);
        let expander = Expander::new(self.escape);
        let mut expand = |text: &str| -> Result<Expansion, ExpandError> {
            let expansion = expander.word(text, &|name| arguments.global().get(name).map(str::to_owned))?;
            for name in expansion
                .undefined
                .iter()
                .filter(|name| !arguments.is_declared(name))
            {
                let near = nearest(name, arguments.declared());
                warnings.push(Warning {
                    rule: "UndefinedArgInFrom",
                    message: format!("FROM argument '{name}' is not declared"),
                    help: near.map(|near| format!("did you mean {near}?")),
                    location: Some(location.clone()),
                });
            }
            Ok(expansion)
        };
        let fail = |error: BuildError| error.at(Some(location.clone()));
        let image = expand(&from.image).map_err(|error| fail(BuildError::new(error)))?;
        if image.text.is_empty() {
            let hint = image
                .undefined
                .first()
                .map(|name| missing_argument(name, arguments));
            return Err(fail(
                BuildError::message(format!("base name ({}) should not be blank", from.image)).hint(hint),
            ));
        }
        let mut platform = None;
        let mut platform_word = None;
        if let Some(text) = &from.platform {
            let value = expand(text).map_err(|error| fail(BuildError::new(error)))?;
            let hint = value
                .undefined
                .first()
                .map(|name| missing_argument(name, arguments));
            if value.text.is_empty() {
                let error = BuildError::message(format!("empty platform value from expression {text}"));
                return Err(fail(error.hint(hint)));
            }
            let parsed = value.text.parse::<Platform>().map_err(|error| {
                fail(
                    BuildError::new(
                        anyhow::Error::new(error).context(format!("failed to parse platform {text}")),
                    )
                    .hint(hint),
                )
            })?;
            platform = Some(parsed);
            platform_word = Some(value);
        }
        let words = FromWords {
            from,
            image: &image,
            platform: platform_word.as_ref(),
        };
        check_from(&words, arguments, &expander, &location, warnings);
        let base = if let Some(context) = self.contexts.base(&image.text) {
            context
        } else if image.text == "scratch" {
            Base::Scratch
        } else if let Some(index) = self.find(&image.text, self.stages.len()) {
            Base::Stage(index)
        } else {
            check_reference(&image.text).map_err(|error| fail(error.hint(self.suggest(&image.text))))?;
            Base::Image(image.text.clone())
        };
        Ok(StagePlan {
            name: from.name.clone(),
            base,
            image: image.text,
            platform,
            location,
            commands: Vec::new(),
        })
    }

    fn resolve_from(&self, index: usize, from: &str) -> Result<CopyFrom, BuildError> {
        let expanded = Expander::new(self.escape)
            .word(from, &|_| None)
            .map_err(BuildError::new)?;
        if expanded.text != from {
            return Err(BuildError::message(
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround",
            ));
        }
        if let Ok(number) = from.parse::<i64>() {
            return match usize::try_from(number) {
                Ok(number) if number < self.stages.len() => Ok(self.copy_stage(number)),
                _ => Err(
                    BuildError::message(format!("invalid stage index {number}")).hint(Some(format!(
                        "stages are numbered from 0 to {}",
                        self.stages.len() - 1
                    ))),
                ),
            };
        }
        if let Some(stage) = self
            .find(from, index)
            .or_else(|| self.find(from, self.stages.len()))
        {
            return Ok(self.copy_stage(stage));
        }
        if let Some(context) = self.contexts.copy_from(from) {
            return Ok(context);
        }
        if from == "scratch" {
            return Ok(CopyFrom::Scratch);
        }
        check_reference(from).map_err(|error| error.hint(self.suggest(from)))?;
        Ok(CopyFrom::Image(from.to_owned()))
    }

    /// What the `--mount` values of a RUN read.
    fn mounts(&self, index: usize, values: &[String]) -> Result<Vec<Option<CopyFrom>>, BuildError> {
        let resolve = |from: String| self.resolve_from(index, &from);
        values
            .iter()
            .map(|csv| Mount::from_of(csv).map(resolve).transpose())
            .collect()
    }

    fn copied_stages(&self, index: usize) -> impl Iterator<Item = (usize, &Location)> {
        self.stages[index].commands.iter().flat_map(|command| {
            command.sources().filter_map(|from| match from {
                CopyFrom::Stage(stage) => Some((*stage, &command.location)),
                _ => None,
            })
        })
    }

    /// Fails when stages copy from each other in a circle, needed or not (spec G6).
    fn refuse_cycles(&self) -> Result<(), BuildError> {
        let mut visited = vec![false; self.stages.len()];
        for start in 0..self.stages.len() {
            // Depth first with an explicit stack: a Dockerfile may have as many stages as it likes.
            let mut path: Vec<(usize, Vec<(usize, &Location)>)> = Vec::new();
            if !std::mem::replace(&mut visited[start], true) {
                path.push((start, self.copied_stages(start).collect()));
            }
            while let Some((_, open)) = path.last_mut() {
                let Some((next, location)) = open.pop() else {
                    path.pop();
                    continue;
                };
                if path.iter().any(|(stage, _)| *stage == next) {
                    let name = self.display_name(start);
                    return Err(BuildError::message(format!(
                        "circular dependency detected on stage: {name}"
                    ))
                    .at(Some(location.clone())));
                }
                if !std::mem::replace(&mut visited[next], true) {
                    path.push((next, self.copied_stages(next).collect()));
                }
            }
        }
        Ok(())
    }
}

fn missing_argument(name: &str, arguments: &Arguments) -> String {
    match nearest(name, arguments.declared()) {
        Some(near) => format!("${name} is not set, did you mean ${near}?"),
        None => format!(
            "${name} is not set: declare it with ARG before the first FROM, or give --build-arg {name}=..."
        ),
    }
}

fn check_reference(text: &str) -> Result<(), BuildError> {
    if text.starts_with(OCI_LAYOUT) {
        return Ok(());
    }
    Reference::parse(text).map(|_| ()).map_err(|error| {
        BuildError::new(anyhow::Error::new(error).context(format!("failed to parse stage name {text:?}")))
    })
}
