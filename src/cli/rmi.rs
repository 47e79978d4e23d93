//! `rbuild rmi`: x

use std::process::ExitCode;

use super::Context;

/// x
#[derive(Debug, clap::Args)]
pub struct RmiArgs {}

/// Runs the command.
pub fn run(args: RmiArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let _ = (args, context);
    anyhow::bail!("not possible yet")
}
