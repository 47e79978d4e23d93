//! `rbuild save`: images as an archive that docker, podman, skopeo and containerd load.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{bail, ensure};
use rbuild_cache::Store;

use super::lookup::{Listed, LookupError};
use super::{Context, lookup};
use crate::exporter::Destination;
use crate::exporter::archive::{ArchiveImage, Archived, Format, write_tar};
use crate::exporter::stored::StoredManifest;
use crate::graph::Platform;
use crate::registry::Reference;

/// `rbuild save IMAGE...`.
#[derive(Debug, clap::Args)]
pub struct SaveArgs {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Of images of several platforms, which one
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Names or ids; a repository without a tag means all of its tags
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

/// Runs the command.
pub fn run(args: SaveArgs, context: &Context) -> anyhow::Result<ExitCode> {
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
    // Layers that were never needed come from their registry.
    context.source(&store, &context.registry());
    let mut images: Vec<ArchiveImage> = Vec::new();
    for text in &args.images {
        for (listed, names) in meant(&store, text)? {
            let image = match &args.platform {
                None => listed.image,
                platform => StoredManifest::read(&store, &listed.descriptor, platform.as_ref())?,
            };
            match images
                .iter_mut()
                .find(|known| known.manifest.digest == image.descriptor.digest)
            {
                Some(known) => {
                    known.names.extend(names);
                    known.names.sort();
                    known.names.dedup();
                }
                None => {
                    image.ensure_layers(&store)?;
                    images.push(ArchiveImage::stored(image, names));
                }
            }
        }
    }
    let images: Vec<Archived> = images.into_iter().map(Archived::Image).collect();
    write_tar(&store, &images, Format::Docker, &dest, None)?;
    Ok(ExitCode::SUCCESS)
}

/// The images that an argument means and the names that they are saved under.
fn meant(store: &Store, text: &str) -> anyhow::Result<Vec<(Listed, Vec<Reference>)>> {
    let last = text.rsplit('/').next().unwrap_or_default();
    if !last.contains([':', '@'])
        && let Ok(repository) = Reference::parse(text)
    {
        let tags = |listed: Listed| {
            let names = listed
                .names
                .iter()
                .filter(|n| n.name() == repository.name() && n.tag().is_some());
            let names: Vec<Reference> = names.cloned().collect();
            (!names.is_empty()).then_some((listed, names))
        };
        let images: Vec<_> = lookup::list(store)?.into_iter().filter_map(tags).collect();
        if !images.is_empty() {
            return Ok(images);
        }
    }
    let found = lookup::find(store, text)?;
    let names = found
        .name
        .iter()
        .filter(|name| name.digest().is_none())
        .cloned()
        .collect();
    let image = found
        .images
        .into_iter()
        .next()
        .ok_or_else(|| LookupError::Missing(text.to_owned()))?;
    Ok(vec![(image, names)])
}
