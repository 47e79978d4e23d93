//! `rbuild rmi`: takes names away, and with its last name the image.

use std::process::ExitCode;

use anyhow::ensure;
use rbuild_cache::Store;

use super::Context;
use super::context::{note, print};
use super::lookup::{Found, Lookup, LookupError};
use crate::registry::Reference;

/// `rbuild rmi IMAGE...`.
#[derive(Debug, clap::Args)]
pub struct RmiArgs {
    /// Remove an image with names in several repositories by its id; no error for images that do not exist
    #[arg(short, long)]
    force: bool,
    /// Accepted for docker's sake: layers stay as build cache anyway
    #[arg(long, hide = true)]
    no_prune: bool,
    /// Not possible: an image of several platforms goes as a whole
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", hide = true)]
    platform: Vec<String>,
    /// Names or ids; the layers' disk space is given back by `rbuild prune`
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

/// Runs the command.
pub fn run(args: RmiArgs, context: &Context) -> anyhow::Result<ExitCode> {
    ensure!(
        args.platform.is_empty(),
        "--platform is not supported: an image of several platforms goes as a whole; `rbuild manifest remove` takes one out of a list"
    );
    let store = context.store()?;
    let mut lookup = Lookup::new(&store);
    let mut code = ExitCode::SUCCESS;
    for image in &args.images {
        match remove(&store, &mut lookup, image, args.force) {
            Ok(lines) => print(lines)?,
            Err(error) => {
                note(&format!("error: {error:#}"));
                let missing = matches!(error.downcast_ref(), Some(LookupError::Missing(_)));
                if !(missing && args.force) {
                    code = ExitCode::FAILURE;
                }
            }
        }
    }
    Ok(code)
}

/// Removes what `text` means; the lines to print.
fn remove(store: &Store, lookup: &mut Lookup<'_>, text: &str, force: bool) -> anyhow::Result<String> {
    let Found { images, name } = match lookup.find(text) {
        Err(error) => return forget(store, text, error),
        Ok(found) => found,
    };
    let mut lines = String::new();
    for image in images {
        let id = image.image.id();
        if let Some(name) = &name
            && name.digest().is_none()
            && image.names.len() > 1
        {
            store.untag(&name.to_string())?;
            lookup.untagged(name);
            return Ok(format!("Untagged: {}\n", name.familiar()));
        }
        let mut repositories: Vec<String> = image.names.iter().map(|n| n.name()).collect();
        repositories.dedup();
        ensure!(
            force || name.is_some() || repositories.len() < 2,
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
            &id.hex()[..12]
        );
        store.remove_image(&image.descriptor.digest)?;
        lookup.removed(&image.descriptor.digest);
        for name in image.repo_tags().into_iter().chain(image.repo_digests()) {
            lines.push_str(&format!("Untagged: {name}\n"));
        }
        lines.push_str(&format!("Deleted: {id}\n"));
    }
    Ok(lines)
}

/// Takes the name away from an image that is damaged; `error` is what came of looking for it.
fn forget(store: &Store, text: &str, error: anyhow::Error) -> anyhow::Result<String> {
    let is_damaged = matches!(error.downcast_ref(), Some(LookupError::Unreadable(_)));
    match Reference::parse(text) {
        Ok(name) if is_damaged && store.untag(&name.to_string())? => {
            note(&format!("warning: {error:#}"));
            Ok(format!("Untagged: {}\n", name.familiar()))
        }
        _ => Err(error),
    }
}
