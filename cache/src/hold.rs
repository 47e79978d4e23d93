//! Layers that something outside of this program stands on: trees that are mounted. No prune takes them while their hold is there.
//!
//! A hold is a directory in `holds/`, with what it is about in `hold.json`, and with room for whoever made it.

use std::collections::HashSet;
use std::path::PathBuf;

use rustix::fd::AsFd as _;
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};

use crate::digest::LayerId;
use crate::directory::{Directory, c_name, remove_tree};
use crate::error::StoreError;
use crate::store::Store;

const DOCUMENT: &str = "hold.json";
/// More than anybody mounts.
const MOST: u32 = 100_000;

/// Keeps layers.
#[derive(Debug, Clone)]
pub struct Hold {
    /// What it is called.
    pub name: String,
    /// A directory for whoever made it; it goes with the hold.
    pub room: PathBuf,
    /// The layers, with their trees.
    pub layers: Vec<LayerId>,
    /// What for, in the words of who made it.
    pub purpose: String,
}

#[derive(Serialize, Deserialize)]
struct Document {
    layers: Vec<LayerId>,
    purpose: String,
}

impl Store {
    /// Keeps `layers` until [`Store::release`].
    pub fn hold(&self, layers: Vec<LayerId>, purpose: &str) -> Result<Hold, StoreError> {
        let holds = self.holds_directory()?;
        for number in 1..MOST {
            let name = number.to_string();
            match rustix::fs::mkdirat(&holds, &name, Mode::from_raw_mode(0o755)) {
                Ok(()) => {}
                Err(rustix::io::Errno::EXIST) => continue,
                Err(errno) => return Err(StoreError::io("creating", holds.path_of(&name), errno)),
            }
            let child = holds.ensure_child(&name)?;
            let document = Document {
                layers,
                purpose: purpose.to_owned(),
            };
            let bytes = serde_json::to_vec(&document)
                .map_err(|error| StoreError::io("writing", child.path_of(DOCUMENT), error))?;
            self.replace_file(&child, DOCUMENT, &bytes, false)?;
            return Ok(Hold {
                name,
                room: child.path().to_owned(),
                layers: document.layers,
                purpose: document.purpose,
            });
        }
        Err(StoreError::Refused {
            path: holds.path().to_owned(),
            reason: format!("{MOST} holds are there"),
        })
    }

    /// All holds. One that is being made or that cannot be understood is left out.
    pub fn holds(&self) -> Result<Vec<Hold>, StoreError> {
        let directory = self.holds_directory()?;
        let mut holds = Vec::new();
        for name in directory.text_names()? {
            let Ok(child) = directory.child(&name) else {
                continue;
            };
            let Ok(bytes) = std::fs::read(child.path_of(DOCUMENT)) else {
                continue;
            };
            if let Ok(Document { layers, purpose }) = serde_json::from_slice(&bytes) {
                holds.push(Hold {
                    name,
                    room: child.path().to_owned(),
                    layers,
                    purpose,
                });
            }
        }
        holds.sort_by_key(|hold| hold.name.parse::<u32>().unwrap_or(u32::MAX));
        Ok(holds)
    }

    /// Lets go of what the hold keeps. Nothing may be mounted in its room.
    pub fn release(&self, hold: &Hold) -> Result<(), StoreError> {
        let directory = self.holds_directory()?;
        let path = directory.path_of(&hold.name);
        c_name(&path)
            .and_then(|name| remove_tree(directory.as_fd(), &name))
            .map_err(|error| StoreError::io("removing", path, error))?;
        Ok(())
    }

    pub(crate) fn held_layers(&self) -> Result<HashSet<LayerId>, StoreError> {
        Ok(self.holds()?.into_iter().flat_map(|hold| hold.layers).collect())
    }

    fn holds_directory(&self) -> Result<Directory, StoreError> {
        self.0.root.ensure_child("holds")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PruneOptions, layer::Entry};

    #[test]
    fn a_prune_leaves_what_is_held() {
        let here = tempfile::tempdir().unwrap();
        let open = || Store::open(&here.path().join("store")).unwrap();
        let layer = {
            let store = open();
            let mut builder = store.layer_builder().unwrap();
            let path = crate::layer::LayerPath::clean(b"d");
            builder
                .append(
                    &Entry {
                        path,
                        ..Entry::root()
                    },
                    None,
                )
                .unwrap();
            builder.commit().unwrap()
        };
        let hold = open().hold(vec![layer.clone()], "to be seen").unwrap();
        let all = PruneOptions {
            all: true,
            ..PruneOptions::default()
        };
        let usage = open().usage().unwrap();
        assert!(
            usage
                .items
                .iter()
                .all(|item| item.in_use && item.reclaimable == 0)
        );
        open().prune(&all).unwrap();
        let store = open();
        assert!(store.layer_exists(&layer));
        let holds = store.holds().unwrap();
        assert_eq!((holds.len(), holds[0].purpose.as_str()), (1, "to be seen"));
        store.release(&hold).unwrap();
        assert!(store.holds().unwrap().is_empty() && !hold.room.exists());
        drop(store);
        open().prune(&all).unwrap();
        assert!(!open().layer_exists(&layer));
    }
}
