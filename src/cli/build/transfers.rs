//! Layers on their way, as steps of the progress output.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rbuild_cache::{Digest, KeyBuilder};

use crate::progress::event::Unit;
use crate::progress::{Event, Sink, VertexOutcome};
use crate::source::origins::TransferProgress;

/// Bytes between two events of one transfer.
const STEP: u64 = 1 << 20;

/// Tells `sink` about every blob that is fetched.
pub fn shown_by(sink: Arc<dyn Sink>) -> TransferProgress {
    let reported: Mutex<HashMap<Digest, u64>> = Mutex::default();
    Arc::new(move |digest, done, size| {
        let vertex = KeyBuilder::new("fetch")
            .field("digest", digest.as_bytes())
            .finish();
        let mut reported = reported.lock().unwrap_or_else(PoisonError::into_inner);
        let first = !reported.contains_key(digest);
        let last = reported.entry(*digest).or_default();
        let ended = *last >= size;
        if !first && (ended || (done < size && done < last.saturating_add(STEP))) {
            return;
        }
        *last = done;
        drop(reported);
        let at = Instant::now();
        if first {
            sink.emit(Event::Started {
                vertex,
                name: format!("fetching {digest}"),
                location: None,
                at,
            });
        }
        sink.emit(Event::Progress {
            vertex,
            id: digest.to_string(),
            current: done,
            total: size,
            unit: Unit::Bytes,
        });
        if done >= size {
            sink.emit(Event::Finished {
                vertex,
                outcome: VertexOutcome::Done,
                at,
            });
        }
    })
}
