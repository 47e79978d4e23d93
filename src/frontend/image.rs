//! The image's config (spec 5.1) and its history (5.2).

use rbuild_cache::DiffId;

use crate::graph::{Platform, VertexId};

/// A time as seconds and nanoseconds since 1970-01-01 UTC.
pub use rbuild_cache::layer::Timestamp as BuildTime;

/// A layer that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedLayer {
    /// Digest of its uncompressed tar.
    pub diff_id: DiffId,
    /// When it was made.
    pub created: BuildTime,
}

/// An image before its layers are known.
#[derive(Debug, Clone)]
pub struct ImageDraft {
    layers: Vec<VertexId>,
    platform: Platform,
}

impl ImageDraft {
    /// The vertices whose layers lie on the base image, lowest first: what [`ImageDraft::finish`] wants to be told about.
    pub fn layers(&self) -> &[VertexId] {
        &self.layers
    }

    /// Platform of the image.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// The config's bytes. `layers` has one entry for each of [`ImageDraft::layers`]; the base's diff ids are known already.
    /// Times of this build that are later than `source_date_epoch` become it; `now` is used where no layer says a time.
    pub fn finish(
        &self,
        layers: &[FinishedLayer],
        source_date_epoch: Option<i64>,
        now: BuildTime,
    ) -> Vec<u8> {
        let _ = (layers, source_date_epoch, now);
        Vec::new()
    }
}
