//! Work on layers, a few at a time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::ensure;

/// Layers that are compressed or fetched at one time. Each uses all processors by itself, so this bounds memory and is
/// there for the ends of layers and for the network.
const AT_ONCE: usize = 3;

/// `work` on each of `items`, a few at a time; results in the order of the items. After a failure nothing more is begun,
/// and the first item's error that failed is returned.
pub fn in_parallel<T: Send, R: Send>(
    items: Vec<T>,
    work: impl Fn(T) -> anyhow::Result<R> + Sync,
) -> anyhow::Result<Vec<R>> {
    let count = items.len();
    if count <= 1 {
        return items.into_iter().map(work).collect();
    }
    let items: Vec<Mutex<Option<T>>> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
    let results: Vec<Mutex<Option<anyhow::Result<R>>>> = (0..count).map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    let lock = |slot: usize| {
        items[slot]
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take()
    };
    std::thread::scope(|scope| {
        for _ in 0..count.min(AT_ONCE) {
            scope.spawn(|| {
                loop {
                    let slot = next.fetch_add(1, Ordering::Relaxed);
                    if slot >= count {
                        return;
                    }
                    let Some(item) = lock(slot) else { return };
                    let result = work(item);
                    if result.is_err() {
                        next.store(count, Ordering::Relaxed);
                    }
                    *results[slot]
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(result);
                }
            });
        }
    });
    let results = results.into_iter().map(|slot| {
        slot.into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    });
    // Items that were never begun lie behind one that failed.
    let mut done = Vec::with_capacity(count);
    let mut skipped = false;
    for result in results {
        match result {
            Some(result) => done.push(result?),
            None => skipped = true,
        }
    }
    ensure!(!skipped, "the rest was given up");
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_and_errors_come_out() {
        let squares = in_parallel((0..50).collect(), |n: u64| Ok(n * n)).unwrap();
        assert_eq!(squares, (0..50).map(|n| n * n).collect::<Vec<_>>());
        let error = in_parallel((0..50).collect(), |n: u64| {
            if n == 7 { anyhow::bail!("seven") } else { Ok(n) }
        });
        assert_eq!(error.unwrap_err().to_string(), "seven");
    }
}
