//! Lowers the instructions of one stage after the other: each changes the stage's state, and may add a vertex.

mod arg;
mod command;
pub(super) mod copy;
mod env;
mod expose;
mod healthcheck;
mod metadata;
mod mount;
mod run;
mod sources;
mod state;
mod steps;
mod workdir;

use rbuild_parser::expand::Expander;
use rbuild_parser::suggest::nearest;
use rbuild_parser::{Instruction, Spanned};

use self::sources::pinned;
use self::state::Earlier;
use self::steps::{StepName, Steps};
use super::args::Arguments;
use super::base_image::BaseImages;
use super::image::ImageDraft;
use super::lint::IgnoredSources;
use super::remotes::Remotes;
use super::stage::{Base, Command, StageTable};
use super::text::{mentions, shown_with, with_heredocs};
use super::warnings::Warnings;
use super::{BuildRequest, Warning};
use crate::error::BuildError;
use crate::graph::address::masked;
use crate::graph::{CopyOp, Definition, Location, Op, Platform, Variable, Vertex, VertexId};

pub(super) use self::state::StageState;

/// What all stages share.
#[derive(Debug)]
pub(super) struct Lowering<'a> {
    pub(super) request: &'a BuildRequest,
    pub(super) arguments: &'a Arguments,
    pub(super) table: &'a StageTable,
    pub(super) images: &'a BaseImages,
    pub(super) remotes: &'a mut Remotes,
    pub(super) target_platform: &'a Platform,
    /// Other platforms are built in the same run.
    pub(super) is_one_of_many: bool,
    pub(super) definition: &'a mut Definition,
    pub(super) warnings: &'a mut Warnings,
    pub(super) ignored: &'a IgnoredSources,
}

impl<'a> Lowering<'a> {
    /// Lowers the needed stages in order and gives the state of each at its end.
    pub(super) fn stages(&mut self, needed: &[bool]) -> Result<Vec<Option<StageState>>, BuildError> {
        let mut states: Vec<Option<StageState>> = Vec::with_capacity(needed.len());
        for (index, needed) in needed.iter().enumerate() {
            let state = if *needed {
                Some(self.stage(index, &states)?)
            } else {
                None
            };
            states.push(state);
        }
        Ok(states)
    }

    fn stage(&mut self, index: usize, states: &[Option<StageState>]) -> Result<StageState, BuildError> {
        let table = self.table;
        let stage = &table.stages[index];
        let mut steps = Steps::new(table, index, self.is_one_of_many.then_some(self.target_platform));
        let state = match &stage.base {
            Base::Scratch => {
                let platform = self.target_platform.clone();
                StageState::new(ImageDraft::scratch(&platform), platform, None)
            }
            Base::Local(name) | Base::Remote(name) => {
                let platform = self.target_platform.clone();
                let source = match &stage.base {
                    Base::Remote(_) => self.remote_context(name, &stage.location)?,
                    _ => self.local_vertex(name),
                };
                let name = masked(name);
                let mut state = StageState::new(ImageDraft::scratch(&platform), platform, None);
                let text = format!("FROM {name}");
                let shown = steps.next(false, &text);
                let id = self.definition.add(Vertex {
                    op: Op::Copy(Box::new(CopyOp::of_all())),
                    base: None,
                    source: Some(source),
                    remotes: Vec::new(),
                    mounts: Vec::new(),
                    name: shown,
                    location: Some(stage.location.clone()),
                    written: Some(steps.written(text, Vec::new())),
                    no_cache: false,
                    platform: state.platform.clone(),
                });
                state.root = Some(id);
                state
                    .image
                    .record(format!("FROM {name} # build context"), Some(id));
                state
            }
            Base::Stage(base) => match states.get(*base) {
                Some(Some(state)) => state.child(),
                _ => {
                    return Err(BuildError::message(format!(
                        "stage {:?} was not lowered",
                        stage.image
                    )));
                }
            },
            Base::Image(reference) => {
                let platform = stage.platform.as_ref().unwrap_or(self.target_platform).clone();
                let image = self.image(reference, &platform)?;
                let offered = image.file.platform();
                if !image.file.os.is_empty() && !platform.accepts(&offered) {
                    let message = format!(
                        "Base image {reference} was pulled with platform \"{offered}\", expected \"{platform}\" for current build"
                    );
                    self.warnings
                        .rule("InvalidBaseImagePlatform", &stage.location, message);
                }
                let draft = ImageDraft::from_base(image.file.clone(), &image.meta.op);
                let name = steps.next(false, &format!("FROM {}", pinned(&image.meta.op)));
                let root = self.image_vertex(&image.meta.op, name, &stage.location, &platform);
                StageState::new(draft, platform, root)
            }
        };
        let no_cache = self.request.no_cache || self.is_filtered(index);
        let mut lowering = StageLowering {
            shared: self,
            index,
            state,
            steps,
            no_cache,
            states,
        };
        for command in &stage.commands {
            lowering
                .dispatch(command)
                .map_err(|error| error.at(Some(command.location.clone())))?;
        }
        Ok(lowering.state)
    }

    fn is_filtered(&self, index: usize) -> bool {
        let names = &self.request.no_cache_filter;
        names
            .iter()
            .any(|name| name.eq_ignore_ascii_case(&self.table.display_name(index)))
    }
}

/// One stage while it is lowered.
#[derive(Debug)]
pub(super) struct StageLowering<'s, 'a> {
    shared: &'s mut Lowering<'a>,
    index: usize,
    state: StageState,
    steps: Steps,
    no_cache: bool,
    states: &'s [Option<StageState>],
}

/// The rule about them.
const REPEATED: &str = "MultipleInstructionsDisallowed";

impl<'s, 'a> StageLowering<'s, 'a> {
    /// A stage outside of a Dockerfile, for changes to a config.
    pub(super) fn detached(shared: &'s mut Lowering<'a>, state: StageState) -> Self {
        Self {
            shared,
            index: 0,
            state,
            steps: Steps::none(),
            no_cache: false,
            states: &[],
        }
    }

    /// Applies an instruction that only changes the config; the others are not allowed here.
    pub(super) fn apply_metadata(
        mut self,
        instruction: &Spanned<Instruction>,
        location: &Location,
    ) -> Result<StageState, BuildError> {
        if let Instruction::Workdir(path) = &instruction.value {
            workdir::enter(&mut self, path, location)?;
        } else if !self.metadata(&instruction.value, location)? {
            let keyword = instruction.value.keyword();
            return Err(BuildError::message(format!(
                "{keyword} is not a valid change command"
            )));
        }
        Ok(self.state)
    }

    fn dispatch(&mut self, command: &Command) -> Result<(), BuildError> {
        self.shared.warnings.enter(&command.instruction.comments);
        match &command.instruction.value {
            Instruction::Add(add) => copy::add(self, command, add),
            Instruction::Arg(arg) => arg::arg(self, arg, &command.location),
            Instruction::Copy(copy) => copy::copy(self, command, copy),
            Instruction::Run(run) => run::run(self, command, run),
            Instruction::Workdir(path) => workdir::workdir(self, command, path),
            instruction => self.metadata(instruction, &command.location).map(|_| ()),
        }
    }

    /// Lowers an instruction that changes nothing but the config; `false` for the others.
    fn metadata(&mut self, instruction: &Instruction, location: &Location) -> Result<bool, BuildError> {
        match instruction {
            Instruction::Cmd(cmd) => command::cmd(self, cmd, location),
            Instruction::Entrypoint(entrypoint) => command::entrypoint(self, entrypoint, location),
            Instruction::Env(pairs) => env::env(self, pairs, location)?,
            Instruction::Expose(ports) => expose::expose(self, ports, location)?,
            Instruction::Healthcheck(check) => healthcheck::healthcheck(self, check, location),
            Instruction::Label(pairs) => env::label(self, pairs, location)?,
            Instruction::Maintainer(name) => metadata::maintainer(self, name),
            Instruction::Onbuild(trigger) => metadata::onbuild(self, trigger),
            Instruction::Shell(shell) => command::shell(self, shell),
            Instruction::Stopsignal(signal) => metadata::stopsignal(self, signal, location)?,
            Instruction::User(user) => metadata::user(self, user, location)?,
            Instruction::Volume(paths) => metadata::volume(self, paths, location)?,
            Instruction::Add(_)
            | Instruction::Arg(_)
            | Instruction::Copy(_)
            | Instruction::Run(_)
            | Instruction::Workdir(_) => return Ok(false),
        }
        Ok(true)
    }

    fn expander(&self) -> Expander {
        Expander::new(self.shared.request.dockerfile.directives.escape)
    }

    /// Expands one word with the variables as they are now.
    fn expand(&mut self, word: &str, location: &Location) -> Result<String, BuildError> {
        let expansion = self
            .expander()
            .word(word, &|name| self.state.env.get(name).map(str::to_owned))
            .map_err(BuildError::new)?;
        self.warn_undefined(&expansion.undefined, location);
        Ok(expansion.text)
    }

    /// Warns of variables that are neither set nor declared (spec X15).
    fn warn_undefined(&mut self, names: &[String], location: &Location) {
        for name in names {
            if self.state.declared.iter().any(|(declared, _)| declared == name) {
                continue;
            }
            let help = nearest(name, self.state.env.keys()).map(|near| format!("did you mean ${near}?"));
            self.shared.warnings.push(Warning {
                rule: "UndefinedVar",
                message: format!("Usage of undefined variable '${name}'"),
                help,
                location: Some(location.clone()),
            });
        }
    }

    /// The instruction that is lowered now, for when it is there again.
    fn earlier(&self, location: &Location) -> Earlier {
        Earlier {
            location: location.clone(),
            skips: self.shared.warnings.skips_here(REPEATED),
        }
    }

    /// Warns when an instruction of which only the last counts is there again; the place is that of the earlier one.
    fn warn_repeated(&mut self, keyword: &str, earlier: Option<Earlier>) {
        if let Some(earlier) = earlier.filter(|earlier| !earlier.skips) {
            let message = format!(
                "Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
            );
            self.shared.warnings.rule(REPEATED, &earlier.location, message);
        }
    }

    /// Adds an entry for an instruction without a layer.
    fn record(&mut self, created_by: String) {
        self.state.image.record(created_by, None);
    }

    /// Adds the vertex of a layer on the stage's root, and its entry in the history.
    fn add_layer(
        &mut self,
        op: Op,
        inputs: impl Into<LayerInputs>,
        step: StepName,
        location: &Location,
        created_by: String,
    ) {
        let inputs = inputs.into();
        let id = self.shared.definition.add(Vertex {
            op,
            base: self.state.root,
            source: inputs.source,
            remotes: inputs.remotes,
            mounts: inputs.mounts,
            name: step.name,
            location: Some(location.clone()),
            written: Some(step.written),
            no_cache: self.no_cache,
            platform: self.state.platform.clone(),
        });
        self.state.root = Some(id);
        self.state.image.record(created_by, Some(id));
    }

    /// The name of the next step: the instruction's text with variables shown by their values.
    fn step_name(&mut self, command: &Command, suffix: &str) -> StepName {
        let text = shown_with(&self.state.env, &command.instruction.text);
        let text = match text.split_once(|c: char| c.is_ascii_whitespace()) {
            Some((keyword, rest)) => format!("{} {}", keyword.to_ascii_uppercase(), rest.trim_start()),
            None => text.to_ascii_uppercase(),
        };
        let name = self
            .steps
            .next(command.is_trigger, &masked(&format!("{text}{suffix}")));
        let text = with_heredocs(&command.instruction);
        let variables = self.variables(&command.instruction.value, &text);
        let written = self.steps.written(masked(&text).into_owned(), variables);
        StepName { name, written }
    }

    /// The variables that reach an instruction, for the record of the build.
    fn variables(&self, instruction: &Instruction, text: &str) -> Vec<Variable> {
        let runs = matches!(instruction, Instruction::Run(_));
        let set = self.state.image.config().env.iter();
        let set: Vec<&str> = set.map(String::as_str).collect();
        let variable = |(name, value): &(String, String)| {
            let declared = self.state.declared.iter().any(|(declared, _)| declared == name);
            let is_argument = declared && !set.contains(&format!("{name}={value}").as_str());
            let counts = if runs { is_argument } else { mentions(text, name) };
            counts.then(|| Variable {
                name: name.clone(),
                value: value.clone(),
                is_argument,
            })
        };
        self.state.env.0.iter().filter_map(variable).collect()
    }
}

/// What the vertex of a layer reads beside its base.
#[derive(Debug, Default)]
struct LayerInputs {
    source: Option<VertexId>,
    remotes: Vec<VertexId>,
    mounts: Vec<VertexId>,
}

impl From<Option<VertexId>> for LayerInputs {
    fn from(source: Option<VertexId>) -> Self {
        Self {
            source,
            ..Self::default()
        }
    }
}
