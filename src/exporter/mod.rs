//! Where does a result go? The local store, a registry, an OCI layout, a docker archive, a root file
//! system. Only this room knows the formats that other tools read.

pub mod annotation;
pub mod output;

use rbuild_cache::LayerId;

use crate::graph::Platform;

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
