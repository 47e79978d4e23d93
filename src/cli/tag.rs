//! `rbuild tag`: one more name for an image.

use std::process::ExitCode;

use anyhow::ensure;

use super::{Context, lookup};
use crate::registry::Reference;

/// `rbuild tag SOURCE TARGET`.
#[derive(Debug, clap::Args)]
pub struct TagArgs {
    /// Name or id of the image
    #[arg(value_name = "SOURCE[:TAG]")]
    source: String,
    /// Name to give it; an image that has the name loses it
    #[arg(value_name = "TARGET[:TAG]")]
    target: String,
}

/// Runs the command.
pub fn run(args: TagArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let target = Reference::parse(&args.target)?;
    ensure!(
        target.digest().is_none(),
        "refusing to create a tag with a digest reference"
    );
    let store = context.store()?;
    let found = lookup::find(&store, &args.source)?;
    store.tag(&target.to_string(), &found.first().descriptor)?;
    Ok(ExitCode::SUCCESS)
}
