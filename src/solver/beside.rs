//! What an export will want of the layers of an image, made while later steps run.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use rbuild_cache::layer::{Compression, Pace};
use rbuild_cache::{LayerId, Store};

use crate::error::BuildError;
use crate::graph::VertexId;

/// The layers that get into images, and the forms in which these are exported.
#[derive(Debug, Default)]
pub struct ImageForms {
    /// The vertices that make them.
    pub layers: BTreeSet<VertexId>,
    /// A compression, and whether it is to be exactly that one.
    pub forms: Vec<(Compression, bool)>,
}

/// Compresses layers one after the other, in the time that steps leave.
pub(super) struct Beside<'a> {
    store: &'a Store,
    wanted: &'a ImageForms,
    clamp: Option<i64>,
    pace: Arc<Pace>,
    sender: Mutex<Option<Sender<LayerId>>>,
    layers: Mutex<Option<Receiver<LayerId>>>,
}

impl<'a> Beside<'a> {
    pub fn new(store: &'a Store, wanted: &'a ImageForms, clamp: Option<i64>) -> Self {
        let (sender, layers) = channel();
        Self {
            store,
            wanted,
            clamp,
            pace: Arc::default(),
            sender: Mutex::new(Some(sender)),
            layers: Mutex::new(Some(layers)),
        }
    }

    /// The layer of `id` is there.
    pub fn has_layer(&self, id: VertexId, layer: &LayerId) {
        if self.wanted.layers.contains(&id)
            && let Some(sender) = &*self.sender.lock().unwrap_or_else(PoisonError::into_inner)
        {
            // Who would take it has ended when nobody wants it.
            let _ = sender.send(layer.clone());
        }
    }

    /// Works while `run` does, and when that has ended well, until the layer is done that was begun.
    pub fn while_running(&self, run: impl FnOnce() -> Result<(), BuildError>) -> Result<(), BuildError> {
        if self.wanted.forms.is_empty() {
            return run();
        }
        std::thread::scope(|scope| {
            let work = std::thread::Builder::new().name("compress beside".to_owned());
            let work = work.spawn_scoped(scope, || self.work());
            let result = run();
            match &result {
                Ok(()) => self.pace.hurry(),
                Err(_) => self.pace.give_up(),
            }
            drop(self.sender.lock().unwrap_or_else(PoisonError::into_inner).take());
            if let Ok(thread) = work {
                // What broke off is made by the export.
                let _ = thread.join();
            }
            result
        })
    }

    fn work(&self) {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner).take();
        for id in layers.iter().flatten() {
            for (compression, force) in &self.wanted.forms {
                if !self.pace.is_beside() {
                    return;
                }
                // The export tries again, and says what is wrong.
                let _ = self.compress(&id, compression, *force);
            }
        }
    }

    fn compress(
        &self,
        id: &LayerId,
        compression: &Compression,
        force: bool,
    ) -> Result<(), rbuild_cache::StoreError> {
        let mut layer = self.store.layer(id)?;
        if let Some(latest) = self.clamp {
            layer = self.store.layer(&layer.clamped(latest)?)?;
        }
        layer.compressed_beside(compression, force, &self.pace).map(drop)
    }
}
