//! `rbuild save`: images as an archive that docker, podman, skopeo and containerd load.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{bail, ensure};
use rbuild_cache::{Descriptor, Store};

use super::Context;
use super::lookup::{Listed, Lookup, LookupError, list_named};
use crate::exporter::Destination;
use crate::exporter::archive::{Archived, Format, write_tar};
use crate::exporter::stored::StoredManifest;
use crate::exporter::whole::Whole;
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

/// Where an archive goes: a file, or standard output when there is none and it is no terminal.
pub(super) fn archive_destination(output: Option<PathBuf>) -> anyhow::Result<Destination> {
    let dest = match output {
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
    Ok(dest)
}

/// Runs the command.
pub fn run(args: SaveArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let dest = archive_destination(args.output)?;
    let store = context.store()?;
    // Layers that were never needed come from their registry.
    context.source(&store, &context.registry());
    let mut wanted: Vec<(Descriptor, Option<StoredManifest>, Vec<Reference>)> = Vec::new();
    let lookup = Lookup::new(&store);
    for text in &args.images {
        for (listed, names) in meant(&store, &lookup, text)? {
            let only = match &args.platform {
                None => None,
                platform => Some(StoredManifest::read(
                    &store,
                    &listed.descriptor,
                    platform.as_ref(),
                )?),
            };
            let descriptor = only.as_ref().map_or(&listed.descriptor, |only| &only.descriptor);
            match wanted.iter_mut().find(|(known, ..)| known == descriptor) {
                Some((.., known)) => {
                    known.extend(names);
                    known.sort();
                    known.dedup();
                }
                None => wanted.push((descriptor.clone(), only.or(Some(listed.image)), names)),
            }
        }
    }
    let mut images: Vec<Archived> = Vec::new();
    for (descriptor, one, names) in wanted {
        let whole = match (Whole::read(&store, &descriptor)?, one) {
            // Only some platforms are here: an index would name what the archive does not have.
            (Whole::Index(index), Some(one)) if index.partial => Whole::Image(Box::new(one)),
            (whole, _) => whole,
        };
        let attached = whole.attached(&store)?;
        images.push(whole.into_archive(&store, names)?);
        images.extend(attached.into_iter().map(Archived::Attached));
    }
    write_tar(&store, &images, Format::Docker, &dest, None)?;
    Ok(ExitCode::SUCCESS)
}

/// The images that an argument means and the names that they are saved under.
fn meant(store: &Store, lookup: &Lookup<'_>, text: &str) -> anyhow::Result<Vec<(Listed, Vec<Reference>)>> {
    let last = text.rsplit('/').next().unwrap_or_default();
    if !last.contains([':', '@'])
        && let Ok(repository) = Reference::parse(text)
    {
        let is_meant = |name: &Reference| name.name() == repository.name() && name.tag().is_some();
        let tags = |listed: Listed| {
            let names = listed.names.iter().filter(|name| is_meant(name));
            let names: Vec<Reference> = names.cloned().collect();
            (listed, names)
        };
        let images = list_named(store, |name, _| is_meant(name))?;
        let images: Vec<_> = images.into_iter().map(tags).collect();
        if !images.is_empty() {
            return Ok(images);
        }
    }
    let found = lookup.find(text)?;
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
