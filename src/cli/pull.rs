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
    /// Pull the images of all platforms, and what is attested of them
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
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
    let registry = context.registry();
    let name = registry.parse(&args.name)?;
    let platform = args.platform.unwrap_or_else(Platform::host);
    let store = context.store()?;
    let source = context.source(&store, &registry);
    let names = if args.all_tags {
        let last = args.name.rsplit('/').next().unwrap_or_default();
        ensure!(!last.contains([':', '@']), "tag can't be used with --all-tags/-a");
        let tags = registry.tags(&name)?;
        ensure!(
            !tags.is_empty(),
            "the repository {} has no tags",
            name.familiar_name()
        );
        tags.iter()
            .map(|tag| name.with_tag(tag))
            .collect::<Result<Vec<_>, _>>()?
    } else {
        vec![name]
    };
    for name in &names {
        if !args.quiet {
            if !args.all_tags && name.tag() == Some("latest") && !args.name.ends_with(":latest") {
                print("Using default tag: latest\n")?;
            }
            print(format!(
                "{}: Pulling from {}\n",
                name.tag().unwrap_or("digest"),
                name.repository()
            ))?;
        }
        let (descriptor, changed) = if args.all_platforms {
            source.pull_all(name)?
        } else {
            let pulled = source.pull(name, &platform)?;
            (pulled.descriptor, pulled.changed)
        };
        if !args.quiet {
            let status = if changed {
                "Downloaded newer image"
            } else {
                "Image is up to date"
            };
            print(format!(
                "Digest: {}\nStatus: {status} for {}\n",
                descriptor.digest,
                name.familiar()
            ))?;
        }
        if !args.all_tags {
            print(format!("{name}\n"))?;
        }
    }
    if args.all_tags {
        let repository = names.first().map(Reference::name).unwrap_or_default();
        print(format!("{repository}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
