//! `rbuild pull`: x

use std::process::ExitCode;

use super::Context;

/// x
#[derive(Debug, clap::Args)]
pub struct PullArgs {}

/// Runs the command.
pub fn run(args: PullArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let _ = (args, context);
    anyhow::bail!("not possible yet")
}
