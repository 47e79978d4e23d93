//! ENV and LABEL: keys and values (spec E1, E2, X11, X16, X17).

use rbuild_parser::KeyValue;

use super::StageLowering;
use crate::error::BuildError;
use crate::graph::Location;
use crate::graph::written::is_sensitive;

/// Sets variables in the stage and in the image.
pub(super) fn env(
    stage: &mut StageLowering,
    pairs: &[KeyValue],
    location: &Location,
) -> Result<(), BuildError> {
    let pairs = expanded(stage, "ENV", pairs, location)?;
    for (key, value) in &pairs {
        warn_secret(stage, "ENV", key, location);
        stage.state.env.set(key, value);
        stage.state.image.config_mut().set_env(key, value);
    }
    stage.record(format!("ENV{}", shown(&pairs)));
    Ok(())
}

/// Sets labels of the image.
pub(super) fn label(
    stage: &mut StageLowering,
    pairs: &[KeyValue],
    location: &Location,
) -> Result<(), BuildError> {
    let pairs = expanded(stage, "LABEL", pairs, location)?;
    stage
        .state
        .image
        .config_mut()
        .labels
        .extend(pairs.iter().cloned());
    stage.record(format!("LABEL{}", shown(&pairs)));
    Ok(())
}

/// Warns of names that look as if their value should not be in an image.
pub(super) fn warn_secret(stage: &mut StageLowering, keyword: &str, key: &str, location: &Location) {
    if is_sensitive(key) {
        let message = format!("Do not use ARG or ENV instructions for sensitive data ({keyword} \"{key}\")");
        stage
            .shared
            .warnings
            .rule("SecretsUsedInArgOrEnv", location, message);
    }
}

/// All pairs with the variables as they were before the instruction (spec X11).
fn expanded(
    stage: &mut StageLowering,
    keyword: &str,
    pairs: &[KeyValue],
    location: &Location,
) -> Result<Vec<(String, String)>, BuildError> {
    let mut out = Vec::with_capacity(pairs.len());
    for pair in pairs {
        if pair.legacy {
            let message = format!(
                "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
            );
            stage
                .shared
                .warnings
                .rule("LegacyKeyValueFormat", location, message);
        }
        let key = stage.expand(&pair.key, location)?;
        if key.is_empty() {
            return Err(BuildError::message(format!("{keyword} names can not be blank")));
        }
        out.push((key, stage.expand(&pair.value, location)?));
    }
    Ok(out)
}

fn shown(pairs: &[(String, String)]) -> String {
    pairs
        .iter()
        .map(|(key, value)| format!(" {key}={value}"))
        .collect()
}
