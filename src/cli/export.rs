//! `rbuild export`: the root file system of an image as a tar.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{bail, ensure};

use super::{Context, lookup, opened};
use crate::exporter::{Destination, rootfs};
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
    let dest = match args.output {
        Some(path) if path.as_os_str() != "-" => Destination::Path(path),
        _ => Destination::Stdout,
    };
    if let Destination::Path(path) = &dest {
        ensure!(
            !path.is_dir(),
            "invalid output path: {} is a directory",
            path.display()
        );
    } else if std::io::stdout().is_terminal() {
        bail!("cowardly refusing to save to a terminal: use the -o flag or redirect");
    }
    let store = context.store()?;
    let listed = lookup::find_for(&store, &args.image, args.platform.as_ref())?;
    let opened = opened::open(context, &store, &[&listed.image])?;
    rootfs::write_tar(&opened.views[0], &dest, None)?;
    Ok(ExitCode::SUCCESS)
}
