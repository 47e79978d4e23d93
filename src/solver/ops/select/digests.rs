//! What files hold, as far as it is not known yet.

use std::num::NonZero;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rbuild_cache::layer::Kind;
use rbuild_cache::tree::TreeError;

use super::{Item, Match};
use crate::solver::ops::Sources;

/// Finds the digests and hard links of the regular files of which they are not known, on as many threads as there are processors.
pub(super) fn digest_all(sources: Sources<'_>, matches: &mut [Match]) -> anyhow::Result<()> {
    /// Items that a thread takes at once.
    const BATCH: usize = 32;

    // In this order: of a million files, to look at each entry takes longer than all else here.
    let is_open = |item: &Item| item.digest.is_none() && matches!(item.entry.kind, Kind::File { .. });
    let mut batches = Vec::new();
    for matched in matches {
        let items = matched.found.items_mut();
        if items.iter().any(is_open) {
            let tree = sources.get(matched.source)?;
            batches.push(items.chunks_mut(BATCH).map(move |batch| (tree, batch)));
        }
    }
    let count: usize = batches.iter().map(ExactSizeIterator::len).sum();
    let threads = std::thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(count);
    // What is found goes to where it belongs: of a million files, a list of it would be as large as the files' entries.
    let batches = Mutex::new(batches.into_iter().flatten());
    let failure: Mutex<Option<TreeError>> = Mutex::default();
    let work = || {
        let digest = || {
            while lock(&failure).is_none() {
                let Some((tree, batch)) = lock(&batches).next() else {
                    break;
                };
                for item in batch.iter_mut().filter(|item| is_open(item)) {
                    item.digest = Some(tree.content_digest(&item.entry)?);
                    item.link = tree.link_group(&item.entry)?;
                }
            }
            Ok(())
        };
        if let Err(error) = digest() {
            lock(&failure).get_or_insert(error);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(failure) => Err(failure.into()),
        None => Ok(()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
