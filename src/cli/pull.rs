//! `rbuild pull`: from a registry into the store.

use std::process::ExitCode;

use anyhow::ensure;

use super::Context;
use super::context::print;
use crate::graph::Platform;
use crate::registry::Reference;

/// `rbuild pull NAME[:TAG|@DIGEST]`.
#[derive(Debug, clap::Args)]
pub struct PullArgs {
    /// Pull all tags of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Of an image of several platforms, which one [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Print only the name
    #[arg(short, long)]
    quiet: bool,
    /// Accepted for docker's sake, without effect
    #[arg(long, hide = true)]
    disable_content_trust: bool,
    /// Name of the image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
}

/// Runs the command.
pub fn run(args: PullArgs, context: &Context) -> anyhow::Result<ExitCode> {
    ensure!(
        !args.all_tags,
        "--all-tags is not supported yet: name one tag after the other"
    );
    let name = Reference::parse(&args.name)?;
    let platform = args.platform.unwrap_or_else(Platform::host);
    let store = context.store()?;
    let source = context.source(&store, &context.registry());
    if !args.quiet {
        if name.tag() == Some("latest") && !args.name.ends_with(":latest") && name.digest().is_none() {
            print("Using default tag: latest\n")?;
        }
        print(format!(
            "{}: Pulling from {}\n",
            name.tag().unwrap_or("digest"),
            name.repository()
        ))?;
    }
    let pulled = source.pull(&name, &platform)?;
    if !args.quiet {
        let status = if pulled.changed {
            "Downloaded newer image"
        } else {
            "Image is up to date"
        };
        print(format!(
            "Digest: {}\nStatus: {status} for {}\n",
            pulled.descriptor.digest,
            name.familiar()
        ))?;
    }
    print(format!("{name}\n"))?;
    Ok(ExitCode::SUCCESS)
}
