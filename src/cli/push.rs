//! `rbuild push`: from the store to a registry.

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use rbuild_cache::Store;

use super::context::{note, print};
use super::lookup::{Listed, LookupError};
use super::{Context, lookup};
use crate::exporter::Encoding;
use crate::exporter::stored::StoredManifest;
use crate::exporter::whole::Whole;
use crate::graph::Platform;
use crate::registry::{Reference, Registry};

/// `rbuild push NAME[:TAG]`.
#[derive(Debug, clap::Args)]
pub struct PushArgs {
    /// Push all tags of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Of an image of several platforms, only this one
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Print only the name
    #[arg(short, long)]
    quiet: bool,
    /// Accepted for docker's sake, without effect
    #[arg(long, hide = true)]
    disable_content_trust: bool,
    /// Name of the image, which also says where it goes
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
}

/// Runs the command.
pub fn run(args: PushArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let name = Reference::parse(&args.name)?;
    ensure!(name.digest().is_none(), "cannot push a digest reference");
    let store = context.store()?;
    let registry = context.registry();
    context.source(&store, &registry);
    let is_meant = |found: &Reference| match args.all_tags {
        true => found.name() == name.name() && found.tag().is_some(),
        false => *found == name,
    };
    let listed = lookup::list_named(&store, |found, _| is_meant(found))?;
    let mut wanted: Vec<(&Listed, &Reference)> = Vec::new();
    if args.all_tags {
        let last = args.name.rsplit('/').next().unwrap_or_default();
        ensure!(!last.contains(':'), "tag can't be used with --all-tags/-a");
    }
    for image in &listed {
        let names = image.names.iter().filter(|found| is_meant(found));
        wanted.extend(names.map(|name| (image, name)));
    }
    wanted.sort_by_key(|(_, name)| name.tag());
    if wanted.is_empty() {
        return Err(match args.all_tags {
            true => anyhow::anyhow!(
                "An image does not exist locally with the tag: {}",
                name.familiar_name()
            ),
            false => LookupError::Missing(name.familiar()).into(),
        });
    }
    if !args.quiet {
        print(format!("The push refers to repository [{}]\n", name.name()))?;
    }
    for (image, name) in wanted {
        push(&args, &store, &registry, &context.config.encoding(), image, name)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn push(
    args: &PushArgs,
    store: &Store,
    registry: &Registry,
    encoding: &Encoding,
    image: &Listed,
    name: &Reference,
) -> anyhow::Result<()> {
    let only = |image: StoredManifest| Whole::Image(Box::new(image));
    let whole = match &args.platform {
        None => Whole::read(store, &image.descriptor)?,
        platform => only(StoredManifest::read(store, &image.descriptor, platform.as_ref())?),
    };
    // As docker: an index that names what is not there is of no use to anybody.
    let whole = match whole {
        Whole::Index(index) if index.partial => {
            note(&format!(
                "note: only {} of {} is here, so only that is pushed: `rbuild pull --all-platforms` gets the others",
                image.image.facts.platform,
                name.familiar()
            ));
            only(image.image.clone())
        }
        whole => whole,
    };
    let pushed = |layer: &rbuild_cache::Digest| {
        if !args.quiet {
            note(&format!("{}: Pushed", &layer.hex()[..12]));
        }
    };
    let sent = whole.push(registry, store, name, encoding, &pushed)?;
    if args.quiet {
        return print(format!("{name}\n"));
    }
    let tag = name.tag().context("the name has no tag")?;
    print(format!("{tag}: digest: {} size: {}\n", sent.digest, sent.size))
}
