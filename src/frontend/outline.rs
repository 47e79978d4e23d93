//! What a Dockerfile offers without being built: its targets, and the arguments, secrets, agents and caches that one of
//! them takes (spec 8.4).

use rbuild_parser::mount::{Mount, MountType};
use rbuild_parser::{Instruction, lint};

use super::base_image::BaseImages;
use super::dispatch::StageState;
use super::remotes::Remotes;
use super::stage::StageTable;
use super::warnings::Warnings;
use super::{BuildRequest, LoweredStages, MetaResolver, Scope, lower_stages};
use crate::error::BuildError;
use crate::graph::{Definition, Location};

/// A stage that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name, lower-cased; empty for none.
    pub name: String,
    /// Whether it is built when no target is named.
    pub default: bool,
    /// What the comment above its FROM says of it.
    pub description: String,
    /// What FROM names, not expanded.
    pub base: String,
    /// `--platform`, not expanded.
    pub platform: String,
    /// The FROM.
    pub location: Location,
}

/// What a target takes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outline {
    /// Name of the target's stage; empty for none.
    pub name: String,
    /// What the comment above its FROM says of it.
    pub description: String,
    /// Arguments of all stages that it needs, in the order of the file.
    pub args: Vec<OutlineArg>,
    /// Secrets by id: whether the build fails without them.
    pub secrets: Vec<Needed>,
    /// Ssh agents by id.
    pub ssh: Vec<Needed>,
    /// Caches by id.
    pub caches: Vec<Needed>,
}

/// An argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// The value that it has; empty when it is not set.
    pub value: String,
    /// What the comment above its ARG says of it.
    pub description: String,
    /// The ARG.
    pub location: Location,
}

/// Something that a RUN has mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// Its id.
    pub id: String,
    /// `required`.
    pub required: bool,
    /// The RUN.
    pub location: Location,
}

/// The stages of the request's Dockerfile.
pub fn targets(request: &BuildRequest) -> Vec<Target> {
    let stages = &request.dockerfile.stages;
    let locations = Warnings::new(request.file.clone(), Default::default());
    let target = |(index, stage): (usize, &rbuild_parser::Stage)| {
        let from = &stage.from.value;
        let name = from.name.clone().unwrap_or_default();
        Target {
            default: index + 1 == stages.len(),
            description: describe(&stage.from.comments, &name),
            name,
            base: from.image.clone(),
            platform: from.platform.clone().unwrap_or_default(),
            location: locations.location(stage.from.span),
        }
    };
    stages.iter().enumerate().map(target).collect()
}

/// What the request's target takes. Bases are resolved, for arguments may be made of their variables.
pub fn outline(request: &BuildRequest, resolver: &dyn MetaResolver) -> Result<Outline, BuildError> {
    let mut warnings = Warnings::new(request.file.clone(), request.check_options()?);
    let (mut images, mut definition) = (BaseImages::default(), Definition::default());
    let scope = Scope {
        stays_here: true,
        ..Scope::default()
    };
    let lowered = lower_stages(
        request,
        resolver,
        scope,
        &mut warnings,
        &mut images,
        &mut Remotes::default(),
        &mut definition,
    )?;
    let stage = &request.dockerfile.stages[lowered.target].from;
    let name = stage.value.name.clone().unwrap_or_default();
    let mut outline = Outline {
        description: describe(&stage.comments, &name),
        name,
        ..Outline::default()
    };
    outline.add_global_args(request, &lowered, &warnings);
    for (index, needed) in lowered.needed.iter().enumerate() {
        if let (true, Some(Some(state))) = (*needed, lowered.states.get(index)) {
            outline.add_stage(&lowered.table, index, state);
        }
    }
    outline.args.sort_by_key(|arg| arg.location.start);
    Ok(outline)
}

impl Outline {
    /// The ARGs before the first FROM that a needed FROM uses or a needed stage declares again.
    fn add_global_args(&mut self, request: &BuildRequest, lowered: &LoweredStages, warnings: &Warnings) {
        let mut used: Vec<String> = Vec::new();
        let expander = rbuild_parser::expand::Expander::new(request.dockerfile.directives.escape);
        let mut names_in = |text: &str| {
            if let Ok(word) = expander.word(text, &|name| Some(format!("v{name}"))) {
                used.extend(word.used);
            }
        };
        let needed = || lowered.needed.iter().enumerate().filter(|(_, needed)| **needed);
        for (index, _) in needed() {
            let from = &request.dockerfile.stages[index].from.value;
            names_in(&from.image);
            from.platform.iter().for_each(|platform| names_in(platform));
        }
        // A default that is made of earlier ones uses them.
        for arg in request.dockerfile.global_args.iter().rev() {
            for item in arg.value.args.iter().rev() {
                if used.contains(&item.key)
                    && let Some(default) = &item.default
                    && let Ok(word) = expander.word(default, &|name| Some(format!("v{name}")))
                {
                    used.extend(word.used);
                }
            }
        }
        let redeclared = |key: &str| {
            let mut states = needed().filter_map(|(index, _)| lowered.states.get(index)?.as_ref());
            states.any(|state| state.declared().iter().any(|(name, _)| name == key))
        };
        for arg in &request.dockerfile.global_args {
            for item in &arg.value.args {
                if used.contains(&item.key) || redeclared(&item.key) {
                    let value = lowered.arguments.global().get(&item.key);
                    self.add_arg(&item.key, value, &arg.comments, warnings.location(arg.span));
                }
            }
        }
    }

    fn add_stage(&mut self, table: &StageTable, index: usize, state: &StageState) {
        for command in &table.stages[index].commands {
            let location = || command.location.clone();
            match &command.instruction.value {
                Instruction::Arg(arg) => {
                    for item in &arg.args {
                        let mut declared = state.declared().iter().rev();
                        let value = declared
                            .find(|(name, _)| *name == item.key)
                            .and_then(|(_, value)| value.as_deref());
                        self.add_arg(&item.key, value, &command.instruction.comments, location());
                    }
                }
                Instruction::Run(run) => {
                    for csv in &run.mounts {
                        if let Ok(mount) = Mount::parse(csv, &mut |value| Ok(value.to_owned())) {
                            self.add_mount(&mount, location());
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// Adds an argument, or what a second ARG of its name knows better.
    fn add_arg(&mut self, name: &str, value: Option<&str>, comments: &[String], location: Location) {
        let description = describe(comments, name);
        let value = value.unwrap_or_default().to_owned();
        match self.args.iter_mut().find(|arg| arg.name == name) {
            Some(known) => {
                if known.description.is_empty() {
                    known.description = description;
                }
                if !value.is_empty() {
                    known.value = value;
                }
            }
            None => self.args.push(OutlineArg {
                name: name.to_owned(),
                value,
                description,
                location,
            }),
        }
    }

    fn add_mount(&mut self, mount: &Mount, location: Location) {
        let (list, default) = match mount.kind {
            MountType::Secret => {
                let source = mount.source.as_deref().or(mount.target.as_deref());
                let name = source.and_then(|path| path.rsplit('/').next());
                (&mut self.secrets, name.unwrap_or_default())
            }
            MountType::Ssh => (&mut self.ssh, "default"),
            MountType::Cache => (&mut self.caches, mount.target.as_deref().unwrap_or_default()),
            MountType::Bind | MountType::Tmpfs => return,
        };
        let id = mount.id.as_deref().unwrap_or(default);
        match list.iter_mut().find(|known| known.id == id) {
            Some(known) => known.required |= mount.required,
            None => list.push(Needed {
                id: id.to_owned(),
                required: mount.required,
                location,
            }),
        }
    }
}

fn describe(comments: &[String], name: &str) -> String {
    lint::description(comments, name).unwrap_or_default().to_owned()
}
