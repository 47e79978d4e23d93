//! `rbuild merge`: one index of images that were built apart, each for its platform.

use std::process::ExitCode;

use anyhow::ensure;

use super::Context;
use super::context::print;
use super::members::{Members, annotation};
use crate::exporter::image;
use crate::exporter::list::List;
use crate::registry::Reference;

/// `rbuild merge -t NAME IMAGE...`.
#[derive(Debug, clap::Args)]
pub struct MergeArgs {
    /// Name of the index, may be repeated; `rbuild push` sends it
    #[arg(short, long = "tag", value_name = "NAME[:TAG]", required = true)]
    tags: Vec<String>,
    /// Annotation of the index
    #[arg(long, value_name = "KEY=VALUE", value_parser = annotation)]
    annotation: Vec<(String, String)>,
    /// OCI layouts (directories, `DIR:TAG`, oci-layout://DIR), archives, names, ids or digests
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

/// Runs the command.
pub fn run(args: MergeArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let names = args.tags.iter().map(|tag| Reference::parse(tag));
    let names = names.collect::<Result<Vec<_>, _>>()?;
    ensure!(
        names.iter().all(|name| name.digest().is_none()),
        "an index is named by a tag, not by a digest"
    );
    let store = context.store()?;
    let members = Members::of(context, &store, false, &[])?;
    let mut list = List::default();
    for image in &args.images {
        members
            .anywhere(image)?
            .into_iter()
            .for_each(|entry| list.add(entry));
    }
    for (number, entry) in list.entries().iter().enumerate() {
        let platform = &entry["platform"];
        let twin = list.entries()[..number]
            .iter()
            .any(|other| other["platform"] == *platform && platform["os"] != "unknown");
        ensure!(
            !twin,
            "two images are for the platform {platform}: an index has one for each"
        );
    }
    list.annotate_index(&args.annotation);
    let descriptor = list.put(&store)?;
    image::tag(&store, &descriptor, &names)?;
    print(format!("{}\n", descriptor.digest))?;
    Ok(ExitCode::SUCCESS)
}
