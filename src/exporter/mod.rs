//! Where does a result go? The local store, a registry, an OCI layout, a docker archive, a root file
//! system. Only this room knows the formats that other tools read.

pub mod annotation;
pub mod archive;
pub mod image;
pub mod output;
pub mod push;
pub mod rootfs;
pub mod stored;

use anyhow::{Context as _, ensure};
use rbuild_cache::View;

use rbuild_cache::{Descriptor, Digest, LayerId, Store};

use crate::graph::Platform;
use crate::registry::{Reference, Registry};

pub use annotation::{Annotation, AnnotationTarget};
pub use output::{Codec, Destination, Encoding, Output, OutputError, OutputKind};

/// What a build made: an image config and the layers that it names, lowest first.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// The config's JSON; its digest is the image id.
    pub config: Vec<u8>,
    /// Layers in the order of `rootfs.diff_ids`.
    pub layers: Vec<LayerId>,
    /// Platform of the image.
    pub platform: Platform,
}

/// What exporting needs beside the image.
#[derive(Debug, Clone, Copy)]
pub struct ExportContext<'a> {
    /// Holds the layers, and takes manifest and tags.
    pub store: &'a Store,
    /// Where pushes go.
    pub registry: &'a Registry,
    /// SOURCE_DATE_EPOCH: the time of members of archives, 0 without it.
    pub epoch: Option<i64>,
}

/// What was exported.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The image id: digest of the config.
    pub image_id: Digest,
    /// The manifest that names and archives lead to; `None` for outputs that write none.
    pub manifest: Option<Descriptor>,
    /// Devices that a local export left out: only root could make them.
    pub devices: u64,
}

/// Exports `image` to `output`. `names` are those of `--tag`; those in the output win. Nothing is tagged,
/// and no file has its final name, before all of its bytes are there.
pub fn export(
    context: &ExportContext<'_>,
    image: &BuiltImage,
    names: &[Reference],
    output: &Output,
) -> anyhow::Result<Exported> {
    let ExportContext {
        store,
        registry,
        epoch,
    } = *context;
    let named = output
        .names
        .iter()
        .map(|n| Reference::parse(n))
        .collect::<Result<Vec<_>, _>>()?;
    let names = if named.is_empty() { names } else { &named };
    let mut exported = Exported {
        image_id: Digest::of(&image.config),
        manifest: None,
        devices: 0,
    };
    match &output.kind {
        OutputKind::CacheOnly => {}
        OutputKind::Tar { dest } => rootfs::write_tar(&view(store, image)?, dest, epoch)?,
        OutputKind::Local { dest } => {
            exported.devices = rootfs::write_directory(&view(store, image)?, dest, epoch)?;
        }
        OutputKind::Image { store: keep, push } => {
            ensure!(
                !push || !names.is_empty(),
                "tag is needed when pushing to registry"
            );
            archive::check_names(names)?;
            // Compressed bytes are only for those who get them over a network.
            let default = push.then_some(Codec::Gzip);
            let assembled = image::assemble(store, image, &output.encoding, default)?;
            image::put(store, image, &assembled)?;
            if *push {
                let layers = image
                    .layers
                    .iter()
                    .map(|id| store.layer(id))
                    .collect::<Result<Vec<_>, _>>()?;
                for name in names {
                    push::push(registry, store, name, &assembled.to_push(&layers), &|_, _, _| {})?;
                }
            }
            if *keep {
                image::tag(store, &assembled.descriptor, names)?;
            }
            exported.manifest = Some(assembled.descriptor);
        }
        OutputKind::Oci { dest, tar } | OutputKind::Docker { dest, tar } => {
            archive::check_names(names)?;
            let assembled = image::assemble(store, image, &output.encoding, Some(Codec::Gzip))?;
            image::ensure_blobs(store, image, &assembled)?;
            let format = match &output.kind {
                OutputKind::Docker { .. } => archive::Format::Docker,
                _ => archive::Format::Oci,
            };
            let descriptor = assembled.descriptor.clone();
            let images = [assembled.into_archive(image, names)];
            match dest {
                Destination::Path(path) if !tar => {
                    archive::write_directory(store, &images, format, path, epoch)?
                }
                dest => archive::write_tar(store, &images, format, dest, epoch)?,
            }
            exported.manifest = Some(descriptor);
        }
    }
    Ok(exported)
}

/// The image's root file system.
fn view(store: &Store, image: &BuiltImage) -> anyhow::Result<View> {
    let layers = image
        .layers
        .iter()
        .map(|id| store.layer(id))
        .collect::<Result<Vec<_>, _>>();
    Ok(View::new(layers.context("reading the layers of the image")?))
}
