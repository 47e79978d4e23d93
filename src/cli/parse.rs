//! `rbuild parse`: x

use std::process::ExitCode;

use super::Context;

/// x
#[derive(Debug, clap::Args)]
pub struct ParseArgs {}

/// Runs the command.
pub fn run(args: ParseArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let _ = (args, context);
    anyhow::bail!("not possible yet")
}
