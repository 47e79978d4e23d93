//! `rbuild image prune`: images that have no name any more, or all.

use std::process::ExitCode;

use rbuild_cache::{PruneKind, PruneOptions, Store};

use super::confirm::Confirmation;
use super::context::print;
use super::filter::Filters;
use super::{Context, human, lookup, trees};

/// `rbuild image prune`.
#[derive(Debug, clap::Args)]
pub struct ImagePruneArgs {
    /// Remove all images, not only those without a name
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    confirmation: Confirmation,
    /// Only images for which this is true: until=, label=, label!=, dangling=
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

/// Runs the command.
pub fn run(args: ImagePruneArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let what = match args.all {
        true => "all images",
        false => "all dangling images",
    };
    if !args.confirmation.given(what)? {
        return Ok(ExitCode::SUCCESS);
    }
    let store = context.store()?;
    let _inside = trees::enter(&store)?;
    let removed = remove(&store, args.all, &args.filter)?;
    // What builds can use again stays as build cache.
    let report = store.prune(&PruneOptions {
        kind: Some(PruneKind::Unused),
        rule: "image prune".to_owned(),
        ..PruneOptions::default()
    })?;
    print(format!(
        "{removed}Total reclaimed space: {}\n",
        human::size(report.freed)
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Takes images out of the store's list; what to tell of it, in docker's words.
pub fn remove(store: &Store, all: bool, filters: &[String]) -> anyhow::Result<String> {
    let images = lookup::list(store)?;
    // As docker: who asks for images with names means all.
    let all = all
        || filters
            .iter()
            .any(|filter| matches!(filter.as_str(), "dangling=false" | "dangling=0"));
    let filters: Vec<String> = filters
        .iter()
        .filter(|filter| !filter.starts_with("dangling="))
        .cloned()
        .collect();
    let filters = Filters::parse(&filters, &images)?;
    let mut out = String::new();
    for image in &images {
        if !(all || image.names.is_empty()) || !filters.admit(image)? {
            continue;
        }
        store.remove_image(&image.descriptor.digest)?;
        for name in image.repo_tags() {
            out.push_str(&format!("untagged: {name}\n"));
        }
        out.push_str(&format!("deleted: {}\n", image.image.id()));
    }
    if !out.is_empty() {
        out = format!("Deleted Images:\n{out}\n");
    }
    Ok(out)
}
