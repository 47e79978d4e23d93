//! `rbuild pull`: from a registry into the store.

use std::process::ExitCode;

use anyhow::ensure;

use super::Context;
use super::context::print;
use crate::exporter::stored::StoredManifest;
use crate::graph::Platform;
use crate::registry::Reference;
use crate::source::image::PullPolicy;

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
    let canonical = name.to_string();
    let before = store.image(&canonical)?;
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
    source.resolve(&name, &platform, PullPolicy::Always)?;
    let after = store.image(&canonical)?;
    let Some(descriptor) = after else {
        anyhow::bail!("pulling {} gave no image", name.familiar())
    };
    // A build fetches layers when they are needed; who says pull wants them now.
    StoredManifest::read(&store, &descriptor, Some(&platform))?.ensure_layers(&store)?;
    if !args.quiet {
        print(format!("Digest: {}\n", descriptor.digest))?;
        let status = match before {
            Some(before) if before.digest == descriptor.digest => "Image is up to date",
            _ => "Downloaded newer image",
        };
        print(format!("Status: {status} for {}\n", name.familiar()))?;
    }
    print(format!("{name}\n"))?;
    Ok(ExitCode::SUCCESS)
}
