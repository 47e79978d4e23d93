//! Writes what was made into the cache, while the next step runs already.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rbuild_cache::{Key, KeyLock, Record, Store};

use crate::error::BuildError;

/// A record that is to be written.
pub(super) struct Note {
    pub(super) key: Key,
    pub(super) record: Record,
    /// Who waits for the key finds the record.
    pub(super) _lock: Option<KeyLock>,
}

/// The notes on their way, and the thread of [`Scribe::write`].
#[derive(Default)]
pub(super) struct Scribe {
    desk: Mutex<Desk>,
    changed: Condvar,
}

#[derive(Default)]
struct Desk {
    notes: VecDeque<Note>,
    /// The operation of the note that is being written.
    writing: Option<Key>,
    closed: bool,
}

impl Scribe {
    pub(super) fn take(&self, note: Note) {
        self.desk().notes.push_back(note);
        self.changed.notify_all();
    }

    /// Waits until nothing of the operation `op` is on its way.
    pub(super) fn settle(&self, op: &Key) {
        let mut desk = self.desk();
        while desk.writing == Some(*op) || desk.notes.iter().any(|note| note.record.op == *op) {
            desk = self.changed.wait(desk).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nothing more will come.
    pub(super) fn close(&self) {
        self.desk().closed = true;
        self.changed.notify_all();
    }

    /// Writes what comes until it is closed. Tells the first error; the notes after it are not written.
    pub(super) fn write(&self, store: &Store) -> Result<(), BuildError> {
        let mut result = Ok(());
        let mut desk = self.desk();
        loop {
            if let Some(note) = desk.notes.pop_front() {
                desk.writing = Some(note.record.op);
                drop(desk);
                if result.is_ok() {
                    result = store.put_record(&note.key, &note.record).map_err(BuildError::new);
                }
                drop(note);
                desk = self.desk();
                desk.writing = None;
                self.changed.notify_all();
            } else if desk.closed {
                return result;
            } else {
                desk = self.changed.wait(desk).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use rbuild_cache::{KeyBuilder, LayerId, Made};

    use super::*;

    fn note(name: &str) -> Note {
        Note {
            key: KeyBuilder::new(name).finish(),
            record: Record {
                op: KeyBuilder::new("operation").finish(),
                layer: LayerId::from_random([1; 16]),
                inputs: Vec::new(),
                created: 1,
                duration_ms: 1,
                made: Made::Step,
                description: name.to_owned(),
            },
            _lock: None,
        }
    }

    #[test]
    fn what_has_settled_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let scribe = Scribe::default();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| scribe.write(&store));
            let names: Vec<String> = (0..20).map(|n| n.to_string()).collect();
            for name in &names {
                scribe.take(note(name));
            }
            scribe.settle(&note("").record.op);
            for name in &names {
                let found = store.record(&note(name).key).unwrap().unwrap();
                assert_eq!(found.description, *name);
            }
            // Of another operation nothing is waited for.
            scribe.settle(&KeyBuilder::new("another").finish());
            scribe.take(note("last"));
            scribe.close();
            thread.join().unwrap().unwrap();
        });
        assert!(store.record(&note("last").key).unwrap().is_some());
    }

    #[test]
    fn the_first_error_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        // Nothing can be written where keys are.
        std::fs::remove_dir_all(folder.path().join("keys")).unwrap();
        let scribe = Scribe::default();
        scribe.take(note("first"));
        scribe.take(note("second"));
        scribe.close();
        assert!(scribe.write(&store).is_err());
        scribe.settle(&note("").record.op);
    }
}
