//! `rbuild load`: images from an archive.

use std::fs::File;
use std::io::{IsTerminal as _, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::Context;
use super::context::print;
use crate::graph::Platform;
use crate::registry::Reference;
use crate::source::archive::load;

/// `rbuild load`.
#[derive(Debug, clap::Args)]
pub struct LoadArgs {
    /// Read from a file instead of standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Accepted for docker's sake: there is no progress to leave out
    #[arg(short, long)]
    quiet: bool,
    /// Only this platform of images of several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
}

/// Runs the command.
pub fn run(args: LoadArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let input: Box<dyn Read> = match &args.input {
        Some(path) if path.as_os_str() != "-" => {
            Box::new(File::open(path).with_context(|| format!("opening {}", path.display()))?)
        }
        _ if std::io::stdin().is_terminal() => {
            bail!("requested load from stdin, but stdin is empty");
        }
        _ => Box::new(std::io::stdin().lock()),
    };
    let store = context.store()?;
    let images = load(&store, args.platform.as_ref(), input)?;
    let mut out = String::new();
    for image in &images {
        image.tag(&store)?;
        for name in &image.names {
            out.push_str(&format!("Loaded image: {}\n", Reference::familiar(name)));
        }
        if image.names.is_empty() {
            out.push_str(&format!("Loaded image ID: {}\n", image.id));
        }
    }
    print(out)?;
    Ok(ExitCode::SUCCESS)
}
