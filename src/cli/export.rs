//! `rbuild export`: the root file system of an image as a tar.

use std::path::PathBuf;
use std::process::ExitCode;

use super::save::archive_destination;
use super::{Context, lookup, opened};
use crate::exporter::rootfs;
use crate::graph::Platform;

/// `rbuild export IMAGE`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Of an image of several platforms, which one
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Name or id
    #[arg(value_name = "IMAGE")]
    image: String,
}

/// Runs the command.
pub fn run(args: ExportArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let dest = archive_destination(args.output)?;
    let store = context.store()?;
    let listed = lookup::find_for(&store, &args.image, args.platform.as_ref())?;
    let opened = opened::open(context, &store, &[&listed.image])?;
    rootfs::write_tar(&opened.views[0], &dest, None)?;
    Ok(ExitCode::SUCCESS)
}
