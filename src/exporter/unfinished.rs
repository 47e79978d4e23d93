//! Directories that are being written. One that was made for it does not survive when that is interrupted or fails; in one
//! that was there before, what was written so far stays, and that is said.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

static UNFINISHED: Mutex<Vec<Unfinished>> = Mutex::new(Vec::new());

/// A directory that is being written until the value is dropped.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
    /// The topmost directory that was made for it.
    made: Option<PathBuf>,
}

/// Makes `path` if it is missing, and keeps in mind that it is not finished.
pub fn begin(path: &Path) -> io::Result<Writing> {
    let missing = path
        .ancestors()
        .take_while(|one| !one.as_os_str().is_empty() && !one.exists());
    let made = missing.last().map(Path::to_owned);
    std::fs::create_dir_all(path)?;
    let path = path.to_owned();
    list().push(Unfinished {
        path: path.clone(),
        made,
    });
    Ok(Writing { path })
}

/// A write to a directory; dropping it is giving up.
#[derive(Debug)]
pub struct Writing {
    path: PathBuf,
}

impl Writing {
    /// All is written.
    pub fn finish(self) {
        list().retain(|one| one.path != self.path);
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let place = list().iter().position(|one| one.path == self.path);
        if let Some(place) = place {
            let one = list().swap_remove(place);
            one.abandon();
        }
    }
}

/// Gives up all writes, although threads are still at it: for a program that ends before they do. What cannot be undone
/// is said, one line each.
pub fn abandon_all() -> Vec<String> {
    let all = std::mem::take(&mut *list());
    all.into_iter().filter_map(Unfinished::abandon).collect()
}

fn list() -> std::sync::MutexGuard<'static, Vec<Unfinished>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Unfinished {
    fn abandon(self) -> Option<String> {
        if let Some(made) = &self.made {
            // A thread that still writes may put a file into a directory that has just been emptied.
            for _ in 0..100 {
                match std::fs::remove_dir_all(made) {
                    Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                    _ => break,
                }
            }
        }
        let stays = self.path.exists();
        stays.then(|| format!("{} is only partly written", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_goes_and_what_was_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("there");
        std::fs::create_dir(&there).unwrap();
        std::fs::write(there.join("kept"), "").unwrap();
        let made = folder.path().join("made/for/it");
        for (path, finish) in [(&made, false), (&there, false), (&there, true), (&made, true)] {
            let writing = begin(path).unwrap();
            std::fs::write(path.join("file"), "").unwrap();
            if finish {
                writing.finish();
                assert!(path.join("file").exists());
            } else {
                drop(writing);
            }
            assert!(there.join("kept").exists());
            assert_eq!(
                folder.path().join("made").exists(),
                path == &made && finish,
                "{finish}"
            );
        }
    }
}
