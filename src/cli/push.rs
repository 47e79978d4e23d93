//! `rbuild push`: x

use std::process::ExitCode;

use super::Context;

/// x
#[derive(Debug, clap::Args)]
pub struct PushArgs {}

/// Runs the command.
pub fn run(args: PushArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let _ = (args, context);
    anyhow::bail!("not possible yet")
}
