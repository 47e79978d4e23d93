//! `rbuild save`: x

use std::process::ExitCode;

use super::Context;

/// x
#[derive(Debug, clap::Args)]
pub struct SaveArgs {}

/// Runs the command.
pub fn run(args: SaveArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let _ = (args, context);
    anyhow::bail!("not possible yet")
}
