//! The instructions that set one thing of the config: MAINTAINER, ONBUILD, STOPSIGNAL, USER, VOLUME (spec 3.5, O2).

use rbuild_parser::signal::check_signal;

use super::StageLowering;
use crate::error::BuildError;
use crate::frontend::image::Empty;
use crate::frontend::text::plain_list;
use crate::graph::Location;

pub(super) fn maintainer(stage: &mut StageLowering, name: &str) {
    stage.state.image.set_author(name);
    stage.record(format!("MAINTAINER {name}"));
}

/// A trigger has no entry in the history.
pub(super) fn onbuild(stage: &mut StageLowering, trigger: &str) {
    stage.state.image.config_mut().on_build.push(trigger.to_owned());
}

pub(super) fn stopsignal(
    stage: &mut StageLowering,
    signal: &str,
    location: &Location,
) -> Result<(), BuildError> {
    let signal = stage.expand(signal, location)?;
    check_signal(&signal).map_err(BuildError::new)?;
    stage.record(format!("STOPSIGNAL {signal}"));
    stage.state.image.config_mut().stop_signal = signal;
    Ok(())
}

/// The text is looked up in the image only by those who need an id (spec E4).
pub(super) fn user(stage: &mut StageLowering, user: &str, location: &Location) -> Result<(), BuildError> {
    let user = stage.expand(user, location)?;
    stage.record(format!("USER {user}"));
    stage.state.image.config_mut().user = user;
    Ok(())
}

pub(super) fn volume(
    stage: &mut StageLowering,
    paths: &[String],
    location: &Location,
) -> Result<(), BuildError> {
    let mut volumes = Vec::with_capacity(paths.len());
    for path in paths {
        let path = stage.expand(path, location)?;
        if path.is_empty() {
            return Err(BuildError::message("VOLUME specified can not be an empty string"));
        }
        volumes.push(path);
    }
    stage.record(format!("VOLUME {}", plain_list(&volumes)));
    let known = &mut stage.state.image.config_mut().volumes;
    known.extend(volumes.into_iter().map(|path| (path, Empty {})));
    Ok(())
}
