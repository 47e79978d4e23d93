//! CMD, ENTRYPOINT and SHELL (spec 3.4, E7).

use rbuild_parser::Command;

use super::StageLowering;
use crate::frontend::text::{plain_list, quoted_list};
use crate::graph::Location;

/// What a container runs, or the arguments of its entrypoint.
pub(super) fn cmd(stage: &mut StageLowering, command: &Command, location: &Location) {
    let this = stage.earlier(location);
    let earlier = stage.state.cmd.replace(this);
    stage.warn_repeated("CMD", earlier);
    let args = arguments(stage, "CMD", command, location);
    stage.record(format!("CMD {}", quoted_list(&args)));
    let config = stage.state.image.config_mut();
    config.cmd = args;
    config.args_escaped = true;
}

/// What a container runs. A CMD that comes from the base was meant for the base's entrypoint, so it goes (spec C3).
pub(super) fn entrypoint(stage: &mut StageLowering, command: &Command, location: &Location) {
    let this = stage.earlier(location);
    let earlier = stage.state.entrypoint.replace(this);
    stage.warn_repeated("ENTRYPOINT", earlier);
    let args = arguments(stage, "ENTRYPOINT", command, location);
    stage.record(format!("ENTRYPOINT {}", quoted_list(&args)));
    let inherited = stage.state.cmd.is_none();
    let config = stage.state.image.config_mut();
    config.entrypoint = args;
    if inherited {
        config.cmd.clear();
    }
}

/// The shell of the shell forms that follow.
pub(super) fn shell(stage: &mut StageLowering, shell: &[String]) {
    stage.state.image.config_mut().shell = shell.to_vec();
    stage.record(format!("SHELL {}", plain_list(shell)));
}

/// A command line as it is run: the shell form with its shell (spec C1).
fn arguments(
    stage: &mut StageLowering,
    keyword: &str,
    command: &Command,
    location: &Location,
) -> Vec<String> {
    match command {
        Command::Exec(args) => args.clone(),
        Command::Shell(text) => {
            if stage.state.image.config().shell.is_empty() {
                let message = format!(
                    "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
                );
                stage
                    .shared
                    .warnings
                    .rule("JSONArgsRecommended", location, message);
            }
            let mut args = stage.state.image.config().shell_or_default();
            args.push(text.clone());
            args
        }
    }
}
