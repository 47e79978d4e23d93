//! From the layers of a finished build to an image: its config needs their diff ids.

use std::sync::Arc;
use std::time::SystemTime;

use rbuild_cache::layer::{Compression, MEDIA_TYPE_TAR};
use rbuild_cache::{Descriptor, LayerId, Store};

use crate::error::BuildError;
use crate::exporter::{BuiltImage, Output};
use crate::frontend::{BuildTime, FinishedLayer, Lowered};
use crate::graph::VertexId;
use crate::solver::StepResult;
use crate::solver::beside::ImageForms;
use crate::solver::run::Solved;

/// An image that was made, and what steps made of it.
pub(super) struct Committed {
    pub(super) image: BuiltImage,
    /// The tars of the layers that were made, by the step that made them.
    pub(super) made: Vec<(VertexId, Descriptor)>,
}

/// The image. A layer that a process made gets its tar now; with `clamp`, written without times later than that. Layers
/// of the base image stay as they are.
pub(super) fn commit(
    lowered: &Lowered,
    solved: Option<&Solved>,
    store: &Store,
    clamp: Option<i64>,
) -> Result<Committed, BuildError> {
    let mut layers = match (solved, lowered.result) {
        (Some(solved), Some(result)) => solved.layers(result).to_vec(),
        _ => Vec::new(),
    };
    let built = lowered.image.layers();
    let finished = std::thread::scope(|scope| {
        let threads: Vec<_> = built
            .iter()
            .map(|id| {
                let result = solved.and_then(|solved| solved.result(*id));
                scope.spawn(move || finish(store, result, clamp))
            })
            .collect();
        let joined = threads.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(BuildError::message("internal error")))
        });
        joined.collect::<Result<Vec<(LayerId, FinishedLayer)>, BuildError>>()
    })?;
    let base = layers.len().saturating_sub(finished.len());
    for (layer, (clamped, _)) in layers[base..].iter_mut().zip(&finished) {
        layer.clone_from(clamped);
    }
    let finished: Vec<FinishedLayer> = finished.into_iter().map(|(_, finished)| finished).collect();
    let made = built.iter().zip(&finished).map(|(id, layer)| {
        let tar = Descriptor {
            media_type: MEDIA_TYPE_TAR.to_owned(),
            digest: layer.diff_id.0,
            size: store.blob_size(&layer.diff_id.0).unwrap_or(0),
        };
        (*id, tar)
    });
    let made = made.collect();
    let config = lowered.image.finish(&finished, lowered.source_date_epoch, now());
    let image = BuiltImage {
        config,
        layers,
        platform: lowered.image.platform().clone(),
        attested: Arc::default(),
    };
    Ok(Committed { image, made })
}

/// What `outputs` want of the layers that [`commit`] will put into images.
pub(super) fn image_forms(lowered: &[Lowered], outputs: &[Output]) -> ImageForms {
    let forms = outputs
        .iter()
        .filter_map(|output| Some((output.compression()?, output.encoding.force)));
    ImageForms {
        layers: lowered.iter().flat_map(|it| it.image.layers()).copied().collect(),
        forms: forms
            .filter(|(compression, _)| *compression != Compression::Uncompressed)
            .collect(),
    }
}

fn finish(
    store: &Store,
    result: Option<&StepResult>,
    clamp: Option<i64>,
) -> Result<(LayerId, FinishedLayer), BuildError> {
    let result = result.ok_or_else(|| BuildError::message("a layer of the image was not built"))?;
    let mut layer = store.layer(&result.layer).map_err(BuildError::new)?;
    if let Some(latest) = clamp {
        let clamped = layer.clamped(latest).map_err(BuildError::new)?;
        layer = store.layer(&clamped).map_err(BuildError::new)?;
    }
    let finished = FinishedLayer {
        diff_id: layer.diff_id().map_err(BuildError::new)?,
        created: result.created,
    };
    Ok((layer.id().clone(), finished))
}

fn now() -> BuildTime {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    BuildTime {
        seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: now.subsec_nanos(),
    }
}
