//! ONBUILD triggers fire in the stage that is built from their image or stage (spec 3.9).

use rbuild_parser::{Instruction, parse_trigger};

use super::base_image::BaseImages;
use super::stage::{Base, Command, StageTable};
use crate::error::BuildError;
use crate::graph::Platform;

/// Puts the triggers of every needed stage that `fired` does not have before its own instructions. Says whether one
/// of them names another stage or image, so that more may be needed than before.
pub(super) fn fire(
    table: &mut StageTable,
    needed: &[bool],
    fired: &mut [bool],
    images: &BaseImages,
    target_platform: &Platform,
    escape: char,
) -> Result<bool, BuildError> {
    let mut needs_more = false;
    for index in 0..table.stages.len() {
        if !needed[index] || std::mem::replace(&mut fired[index], true) {
            continue;
        }
        let stage = &table.stages[index];
        // An image was written with the usual escape character; a stage is of this file.
        let (triggers, escape): (Vec<String>, char) = match &stage.base {
            Base::Scratch | Base::Local(_) | Base::Remote(_) => continue,
            Base::Image(reference) => {
                let platform = stage.platform.as_ref().unwrap_or(target_platform);
                let image = images.get(reference, platform);
                (
                    image
                        .map(|image| image.file.config.on_build.clone())
                        .unwrap_or_default(),
                    '\\',
                )
            }
            Base::Stage(base) => {
                let commands = table.stages[*base].commands.iter();
                let triggers = commands.filter_map(|command| match &command.instruction.value {
                    Instruction::Onbuild(trigger) => Some(trigger.clone()),
                    _ => None,
                });
                (triggers.collect(), escape)
            }
        };
        let location = stage.location.clone();
        let mut commands: Vec<Command> = Vec::new();
        for trigger in triggers {
            let instruction = parse_trigger(&trigger, escape).map_err(|diagnostic| {
                BuildError::message(format!("ONBUILD trigger {trigger:?}: {}", diagnostic.message))
                    .at(Some(location.clone()))
                    .hint(diagnostic.help)
            })?;
            let command = table.command(index, instruction, location.clone(), true)?;
            needs_more |= command.sources().next().is_some();
            commands.push(command);
        }
        commands.append(&mut table.stages[index].commands);
        table.stages[index].commands = commands;
    }
    Ok(needs_more)
}
