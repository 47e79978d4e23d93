//! Layers on their way, as steps of the progress output.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rbuild_cache::{Digest, Key, KeyBuilder};

use crate::graph::Address;
use crate::progress::event::Unit;
use crate::progress::{Event, Sink, VertexOutcome};
use crate::source::http::FetchProgress;
use crate::source::origins::TransferProgress;

/// The step that fetches a file of a web server, by its address as it was written.
pub fn of_file(url: &str) -> Key {
    let url = Address::parse(url).map_or_else(|_| url.to_owned(), |address| address.url);
    KeyBuilder::new("file").field("url", url.as_bytes()).finish()
}

/// Tells `sink` about every file that is fetched.
pub fn files_shown_by(sink: Arc<dyn Sink>) -> FetchProgress {
    let reported: Mutex<HashMap<String, u64>> = Mutex::default();
    Arc::new(move |url, done, size| {
        let mut reported = reported.lock().unwrap_or_else(PoisonError::into_inner);
        let last = reported.entry(url.to_owned()).or_default();
        if done < last.saturating_add(STEP) && size != Some(done) {
            return;
        }
        *last = done;
        drop(reported);
        sink.emit(Event::Progress {
            vertex: of_file(url),
            id: url.to_owned(),
            current: done,
            total: size.unwrap_or_default(),
            unit: Unit::Bytes,
        });
    })
}

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
