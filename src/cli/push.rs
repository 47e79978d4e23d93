//! `rbuild push`: from the store to a registry.

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use rbuild_cache::Descriptor;
use rbuild_cache::layer::Layer;

use super::context::{note, print};
use super::lookup::{Listed, LookupError};
use super::{Context, lookup};
use crate::exporter::push::{Push, push};
use crate::exporter::stored::StoredManifest;
use crate::exporter::{BuiltImage, Codec, Encoding, image};
use crate::graph::Platform;
use crate::registry::Reference;
use crate::registry::document::OCI_MANIFEST;

/// `rbuild push NAME[:TAG]`.
#[derive(Debug, clap::Args)]
pub struct PushArgs {
    /// Push all tags of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Of an image of several platforms, which one
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
    ensure!(
        !args.all_tags,
        "--all-tags is not supported yet: name one tag after the other"
    );
    let name = Reference::parse(&args.name)?;
    ensure!(name.digest().is_none(), "cannot push a digest reference");
    let store = context.store()?;
    let registry = context.registry();
    context.source(&store, &registry);
    let listed = lookup::list(&store)?
        .into_iter()
        .find(|image| image.names.contains(&name));
    let Listed {
        descriptor,
        image: found,
        ..
    } = listed.ok_or_else(|| LookupError::Missing(name.familiar()))?;
    let found = match &args.platform {
        None => found,
        platform => StoredManifest::read(&store, &descriptor, platform.as_ref())?,
    };
    if !args.quiet {
        print(format!("The push refers to repository [{}]\n", name.name()))?;
    }
    let layers = found.layers(&store)?;
    // A layer made here is a plain tar in the store and goes out compressed. One that was pulled goes out as it came, and then
    // the manifest is the one that was pulled, too.
    let built = BuiltImage {
        config: found.config.clone(),
        layers: layers.iter().map(Layer::id).cloned().collect(),
        platform: found.facts.platform.clone(),
    };
    let oci_media_types = found.descriptor.media_type == OCI_MANIFEST;
    let encoding = Encoding {
        oci_media_types,
        ..Encoding::default()
    };
    let assembled = image::assemble(&store, &built, &encoding, Some(Codec::Gzip))?;
    let same = assembled
        .layers
        .iter()
        .map(|l| l.digest)
        .eq(found.manifest.layers.iter().map(|l| l.digest));
    let (manifest, blobs) = if same {
        (found.bytes.clone(), &found.manifest.layers)
    } else {
        (with_layers(&found.bytes, &assembled.layers)?, &assembled.layers)
    };
    let pushed = Push {
        media_type: &found.descriptor.media_type,
        manifest: &manifest,
        config: &found.manifest.config,
        layers: &layers,
        blobs,
    };
    let digest = push(&registry, &store, &name, &pushed, &|_, _, _| {})?;
    let tag = name.tag().context("the name has no tag")?;
    if args.quiet {
        print(format!("{name}\n"))?;
    } else {
        for layer in blobs {
            note(&format!("{}: Pushed", &layer.digest.hex()[..12]));
        }
        print(format!("{tag}: digest: {digest} size: {}\n", manifest.len()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The manifest with other blobs of the same layers; all else, annotations too, stays.
fn with_layers(manifest: &[u8], layers: &[Descriptor]) -> anyhow::Result<Vec<u8>> {
    let mut document: serde_json::Value = serde_json::from_slice(manifest)?;
    document["layers"] = serde_json::to_value(layers)?;
    Ok(serde_json::to_vec(&document)?)
}
