//! What files hold, as far as it is not known yet.

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rbuild_cache::ContentDigest;
use rbuild_cache::layer::{Entry, Kind};
use rbuild_cache::tree::{Tree, TreeError};

use super::{Item, Match};
use crate::solver::ops::Sources;

/// Finds the digests and hard links of the regular files of which they are not known, on as many threads as there are processors.
pub(super) fn digest_all(sources: Sources<'_>, matches: &mut [Match]) -> anyhow::Result<()> {
    /// Files that a thread takes at once.
    const BATCH: usize = 32;
    type Facts = (usize, ContentDigest, Option<u64>);

    let is_open = |item: &&mut Item| matches!(item.entry.kind, Kind::File { .. }) && item.digest.is_none();
    let mut files: Vec<&mut Item> = Vec::new();
    let mut trees: Vec<&dyn Tree> = Vec::new();
    for matched in matches {
        let before = files.len();
        files.extend(matched.found.items_mut().iter_mut().filter(is_open));
        if files.len() > before {
            trees.resize(files.len(), sources.get(matched.source)?);
        }
    }
    let threads = std::thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(files.len().div_ceil(BATCH));
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Result<Vec<Facts>, TreeError>>> = Mutex::default();
    {
        let entries: Vec<&Entry> = files.iter().map(|item| &item.entry).collect();
        let work = || {
            let digest = || {
                let mut done = Vec::new();
                loop {
                    let start = next.fetch_add(BATCH, Ordering::Relaxed);
                    let batch = entries.iter().enumerate().skip(start).take(BATCH);
                    if batch.len() == 0 {
                        return Ok(done);
                    }
                    for (index, entry) in batch {
                        let source = trees[index];
                        done.push((index, source.content_digest(entry)?, source.link_group(entry)?));
                    }
                }
            };
            let done = digest();
            if done.is_err() {
                next.store(entries.len(), Ordering::Relaxed);
            }
            results
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .push(done);
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
    }
    for result in results
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
    {
        for (index, digest, link) in result? {
            files[index].digest = Some(digest);
            files[index].link = link;
        }
    }
    Ok(())
}
