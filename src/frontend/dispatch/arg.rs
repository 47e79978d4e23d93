//! ARG (spec 3.2).

use rbuild_parser::Arg;

use super::StageLowering;
use crate::error::BuildError;
use crate::frontend::args::is_variable;
use crate::graph::Location;

/// Declares arguments one after another (spec A5): the caller's value, else the default, else the global value, else unset.
pub(super) fn arg(stage: &mut StageLowering, arg: &Arg, location: &Location) -> Result<(), BuildError> {
    let mut texts = Vec::with_capacity(arg.args.len());
    for item in &arg.args {
        let key = stage.expand(&item.key, location)?;
        super::env::warn_secret(stage, "ARG", &key, location);
        let value = match (stage.shared.arguments.given(&key), &item.default) {
            (Some(value), _) => Some(value.to_owned()),
            (None, Some(default)) => Some(stage.expand(default, location)?),
            (None, None) => stage.shared.arguments.global().get(&key).map(str::to_owned),
        };
        if let Some(value) = value.as_deref().filter(|_| is_variable(&key)) {
            stage.state.env.set(&key, value);
        }
        texts.push(match &value {
            Some(value) => format!("{key}={value}"),
            None => key.clone(),
        });
        stage.state.declared.push((key, value));
    }
    stage.record(format!("ARG {}", texts.join(" ")));
    Ok(())
}
