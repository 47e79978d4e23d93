//! Where does a result go? The local store, a registry, an OCI layout, a docker archive, a root file
//! system. Only this room knows the formats that other tools read.

pub mod annotation;
pub mod archive;
pub mod attached;
mod beside;
pub mod engine;
mod full_disk;
pub mod image;
pub mod index;
pub mod list;
pub mod output;
pub mod part;
pub mod push;
mod replacement;
pub mod rootfs;
pub mod stored;
pub mod unfinished;
pub mod whole;

use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use rbuild_cache::View;
use rbuild_cache::layer::Layer;

use rbuild_cache::{Descriptor, Digest, LayerId, Store};

use crate::attestation::Attested;
use crate::graph::Platform;
use crate::registry::{Reference, Registry};

use archive::Archived;
use beside::Beside;
use engine::Engine;

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
    /// What is said of it.
    pub attested: Arc<[Attested]>,
}

impl BuiltImage {
    /// The same with all that is said of it in its index.
    fn attested_in_index(&self) -> Self {
        let mut image = self.clone();
        for attested in Arc::make_mut(&mut image.attested) {
            attested.place.in_index = true;
        }
        image
    }
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
    /// Where [`OutputKind::Load`] goes.
    pub engine: Option<&'a Engine>,
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
    /// What the program said that the image was loaded into.
    pub said: String,
}

/// Exports `images`, one for each platform, to `output`: as one image, or with `as_index` as an index. `names` are
/// those of `--tag`; those in the output win. Nothing is tagged, and no file has its final name, before all of its bytes
/// are there.
pub fn export(
    context: &ExportContext<'_>,
    images: &[BuiltImage],
    as_index: bool,
    names: &[Reference],
    output: &Output,
) -> anyhow::Result<Exported> {
    let named = output
        .names
        .iter()
        .map(|n| Reference::parse(n))
        .collect::<Result<Vec<_>, _>>()?;
    let names = if named.is_empty() { names } else { &named };
    if let OutputKind::Image { push: true, .. } = &output.kind {
        ensure!(!names.is_empty(), "tag is needed when pushing to registry");
    }
    if output.has_manifest() {
        archive::check_names(names)?;
    }
    let moved;
    let images = if output.attestation_inline {
        moved = images
            .iter()
            .map(BuiltImage::attested_in_index)
            .collect::<Vec<_>>();
        &moved
    } else {
        images
    };
    let in_index = |image: &BuiltImage| image.attested.iter().any(|attested| attested.place.in_index);
    // What is loaded elsewhere goes without what is said of it: that is in the store.
    let has_place = output.has_manifest() && output.kind != OutputKind::Load;
    match images {
        [image] if !(as_index || has_place && in_index(image)) => one(context, image, names, output),
        [image] if !as_index => {
            // The index is there for what is said of the image: its id is the image's own.
            image::refuse_index_annotations(&output.encoding, image)?;
            let mut exported = several(context, images, names, output)?;
            exported.image_id = Digest::of(&image.config);
            Ok(exported)
        }
        _ => several(context, images, names, output),
    }
}

fn one(
    context: &ExportContext<'_>,
    image: &BuiltImage,
    names: &[Reference],
    output: &Output,
) -> anyhow::Result<Exported> {
    let ExportContext {
        store,
        registry,
        epoch,
        ..
    } = *context;
    let mut exported = Exported {
        image_id: Digest::of(&image.config),
        manifest: None,
        devices: 0,
        said: String::new(),
    };
    match &output.kind {
        OutputKind::CacheOnly => {}
        OutputKind::Tar { dest } => {
            let view = view(store, image)?;
            let files = attached::files(&view, image, &output.attestation_prefix)?;
            rootfs::write_tar(&Beside::new(&view, files, epoch), dest, epoch)?;
        }
        OutputKind::Local { dest } => {
            exported.devices = write_directory(context, image, dest, output)?;
        }
        OutputKind::Image { store: keep, push } => {
            let default = output.kind.default_codec();
            image::refuse_index_annotations(&output.encoding, image)?;
            let assembled = image::assemble(store, image, &output.encoding, default)?;
            image::put(store, image, &assembled)?;
            let attached = attached::beside(store, image, &assembled.descriptor, names)?;
            if *push {
                let layers = layers(store, image)?;
                for name in names {
                    push::push(registry, store, name, &assembled.to_push(&layers), &|_, _, _| {})?;
                    attached::push(registry, store, name, &assembled.descriptor.digest, &attached)?;
                }
            }
            if *keep {
                attached::keep(store, &assembled.descriptor.digest, &attached)?;
                image::tag(store, &assembled.descriptor, names)?;
            }
            exported.manifest = Some(assembled.descriptor);
        }
        OutputKind::Load => {
            // It stays in the store, which is said before the build.
            let Some(engine) = context.engine else {
                return Ok(exported);
            };
            image::refuse_index_annotations(&output.encoding, image)?;
            // As they are: nothing is sent over a network.
            let assembled = image::assemble(store, image, &output.encoding, output.kind.default_codec())?;
            image::ensure_blobs(store, image, &assembled)?;
            exported.manifest = Some(assembled.descriptor.clone());
            let archived = [Archived::Image(assembled.into_archive(image, names))];
            let write = |out: &mut dyn std::io::Write| {
                archive::stream_tar(store, &archived, archive::Format::Docker, epoch, out)
            };
            exported.said = engine
                .load(registry, write)
                .with_context(|| format!("loading the image into {}", engine.describe()))?;
        }
        OutputKind::Oci { .. } | OutputKind::Docker { .. } => {
            image::refuse_index_annotations(&output.encoding, image)?;
            let assembled = image::assemble(store, image, &output.encoding, output.kind.default_codec())?;
            image::ensure_blobs(store, image, &assembled)?;
            exported.manifest = Some(assembled.descriptor.clone());
            let attached = attached::beside(store, image, &assembled.descriptor, names)?;
            let mut archived = vec![Archived::Image(assembled.into_archive(image, names))];
            archived.extend(attached.into_iter().map(Archived::Attached));
            write_archive(context, &archived, output)?;
        }
    }
    Ok(exported)
}

fn several(
    context: &ExportContext<'_>,
    images: &[BuiltImage],
    names: &[Reference],
    output: &Output,
) -> anyhow::Result<Exported> {
    let ExportContext { store, registry, .. } = *context;
    let mut exported = Exported {
        image_id: Digest::of(b""),
        manifest: None,
        devices: 0,
        said: String::new(),
    };
    match &output.kind {
        OutputKind::CacheOnly => {}
        OutputKind::Tar { .. } => bail!("a tar of several platforms is not supported: use type=local"),
        OutputKind::Local { dest } => {
            for image in images {
                let dest = dest.join(image.platform.to_string().replace('/', "_"));
                exported.devices += write_directory(context, image, &dest, output)?;
            }
        }
        OutputKind::Image { store: keep, push } => {
            let default = output.kind.default_codec();
            let assembled = index::assemble(store, images, names, &output.encoding, default)?;
            let mut attached = Vec::with_capacity(images.len());
            for (image, assembled) in images.iter().zip(&assembled.images) {
                image::put(store, image, assembled)?;
                attached.push(attached::beside(store, image, &assembled.descriptor, names)?);
            }
            store.put_blob(&assembled.bytes)?;
            if *push {
                for name in names {
                    // The index comes last: it may name only what is there.
                    for ((image, assembled), attached) in images.iter().zip(&assembled.images).zip(&attached)
                    {
                        let digest = assembled.descriptor.digest;
                        let layers = layers(store, image)?;
                        let image = assembled.to_push(&layers);
                        push::push(registry, store, &name.with_digest(digest), &image, &|_, _, _| {})?;
                        attached::push(registry, store, name, &digest, attached)?;
                    }
                    for inside in &assembled.inside {
                        inside.push(
                            registry,
                            store,
                            &name.with_digest(inside.referrer.descriptor.digest),
                        )?;
                    }
                    let media_type = &assembled.descriptor.media_type;
                    registry
                        .push_image(name, media_type, &assembled.bytes, &[], &|_, _, _| {})
                        .with_context(|| format!("pushing {}", name.familiar()))?;
                }
            }
            if *keep {
                for (assembled, attached) in assembled.images.iter().zip(&attached) {
                    attached::keep(store, &assembled.descriptor.digest, attached)?;
                }
                image::tag(store, &assembled.descriptor, names)?;
            }
            exported.manifest = Some(assembled.descriptor);
        }
        OutputKind::Docker { .. } | OutputKind::Load => {
            bail!("docker exporter does not currently support exporting manifest lists: use type=oci")
        }
        OutputKind::Oci { .. } => {
            let assembled = index::assemble(
                store,
                images,
                names,
                &output.encoding,
                output.kind.default_codec(),
            )?;
            let mut attached = Vec::new();
            for (image, assembled) in images.iter().zip(&assembled.images) {
                image::ensure_blobs(store, image, assembled)?;
                attached.extend(attached::beside(store, image, &assembled.descriptor, names)?);
            }
            exported.manifest = Some(assembled.descriptor.clone());
            let mut archived = vec![assembled.into_archive(images, names)];
            archived.extend(attached.into_iter().map(Archived::Attached));
            write_archive(context, &archived, output)?;
        }
    }
    // The id of what has several configs is that of its index.
    exported.image_id = match &exported.manifest {
        Some(index) => index.digest,
        None => {
            index::assemble(store, images, names, &output.encoding, None)?
                .descriptor
                .digest
        }
    };
    Ok(exported)
}

/// The image's root file system as files, and what is said of it as files beside them.
fn write_directory(
    context: &ExportContext<'_>,
    image: &BuiltImage,
    dest: &std::path::Path,
    output: &Output,
) -> anyhow::Result<u64> {
    let ExportContext { store, epoch, .. } = *context;
    let view = view(store, image)?;
    let files = attached::files(&view, image, &output.attestation_prefix)?;
    rootfs::write_directory(&Beside::new(&view, files, epoch), dest, epoch)
}

fn write_archive(context: &ExportContext<'_>, archived: &[Archived], output: &Output) -> anyhow::Result<()> {
    let ExportContext { store, epoch, .. } = *context;
    let (format, dest, tar) = match &output.kind {
        OutputKind::Oci { dest, tar } => (archive::Format::Oci, dest, *tar),
        OutputKind::Docker { dest, tar } => (archive::Format::Docker, dest, *tar),
        _ => bail!("type={} is no archive", output.type_name()),
    };
    match dest {
        Destination::Path(path) if !tar => archive::write_directory(store, archived, format, path, epoch),
        dest => archive::write_tar(store, archived, format, dest, epoch),
    }
}

/// The image's root file system.
fn view(store: &Store, image: &BuiltImage) -> anyhow::Result<View> {
    Ok(View::new(layers(store, image)?))
}

fn layers(store: &Store, image: &BuiltImage) -> anyhow::Result<Vec<Layer>> {
    let layers = image.layers.iter().map(|id| store.layer(id));
    layers
        .collect::<Result<_, _>>()
        .context("reading the layers of the image")
}
