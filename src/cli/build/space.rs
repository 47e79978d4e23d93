//! `--store-max` and `--min-free`: what the store may take, and what of the disk has to stay free. Asked for before
//! anything runs, after each step and at the end; what is worth least goes first, and nothing that this build still uses.

use std::sync::Mutex;
use std::time::SystemTime;

use anyhow::Context as _;
use rbuild_cache::{KeyBuilder, PruneOptions, Store, StoreError};

use crate::cli::context::note;
use crate::cli::{self, human, trees};
use crate::progress::{Event, Sink, VertexOutcome};

/// The limits of the store.
#[derive(Debug, Clone, Copy, Default)]
pub struct SpaceLimits {
    /// What the store takes at most, in bytes.
    pub most: Option<u64>,
    /// What has to be free on its disk, in bytes.
    pub free: Option<u64>,
}

/// A size on the command line.
pub fn size(text: &str) -> anyhow::Result<u64> {
    human::parse_size(text).context("expected a size such as 512m or 10GB")
}

/// What came of making room.
enum Room {
    Enough,
    /// What is there is needed; by how many bytes it is too much.
    Lacks(u64),
}

impl SpaceLimits {
    fn is_unlimited(self) -> bool {
        self.most.is_none() && self.free.is_none()
    }

    /// How the journal of evictions calls these limits.
    fn rule(self) -> String {
        let part =
            |name: &str, bytes: Option<u64>| bytes.map(|bytes| format!("--{name} {}", human::size(bytes)));
        let parts: Vec<String> = part("store-max", self.most)
            .into_iter()
            .chain(part("min-free", self.free))
            .collect();
        parts.join(" ")
    }

    /// How much has to go.
    fn excess(self, store: &Store) -> Result<u64, StoreError> {
        let mut excess = 0;
        if let Some(most) = self.most {
            let total = store.usage()?.total();
            if total > most {
                // Somewhat more, so that the next step does not ask again.
                excess = total - most + most / 20;
            }
        }
        if let Some(free) = self.free {
            excess = excess.max(free.saturating_sub(store.free_bytes()?));
        }
        Ok(excess)
    }

    /// `ended`: since when what the build has made is there, if it is over.
    fn make_room(self, store: &Store, ended: Option<SystemTime>) -> Result<Room, StoreError> {
        let excess = self.excess(store)?;
        if excess == 0 {
            return Ok(Room::Enough);
        }
        store.prune(&PruneOptions {
            all: true,
            give_back: Some(excess),
            for_own_build: ended.is_none(),
            images_until: ended,
            rule: self.rule(),
            ..PruneOptions::default()
        })?;
        let margin = self.most.map_or(0, |most| most / 20);
        Ok(match self.excess(store)?.saturating_sub(margin) {
            0 => Room::Enough,
            lacking => Room::Lacks(lacking),
        })
    }

    /// Before anything runs, inside the user namespace.
    pub fn before(self, store: &Store) -> Result<(), StoreError> {
        if self.is_unlimited() {
            return Ok(());
        }
        self.make_room(store, None).map(drop)
    }

    /// When the build that `began` then is over and its store closed.
    pub fn after(self, context: &cli::Context, began: SystemTime) {
        if self.is_unlimited() {
            return;
        }
        let made = || -> anyhow::Result<Room> {
            let store = context.store()?;
            // Builds that end at once each spare what the others may still use. One after the other, the last one is alone.
            let lock = store.lock_key(&KeyBuilder::new("limits of space").finish())?;
            let inside = trees::enter(&store)?;
            let room = self.make_room(&store, Some(began));
            drop((inside, store));
            drop(lock);
            Ok(room?)
        };
        match made() {
            Ok(Room::Enough) => {}
            Ok(Room::Lacks(bytes)) => note(&format!(
                "WARNING: {}: {} more than that are needed by images and running builds; rbuild du shows by what, \
                 rbuild rmi removes images",
                self.rule(),
                human::size(bytes)
            )),
            Err(error) => note(&format!("WARNING: {}: no room was made: {error:#}", self.rule())),
        }
    }

    /// Events on their way to `sink`, watched for steps that end.
    pub fn watch<'a>(self, store: &'a Store, sink: &'a dyn Sink) -> Option<Watch<'a>> {
        (!self.is_unlimited()).then(|| Watch {
            limits: self,
            store,
            sink,
            seen: Mutex::new(None),
        })
    }
}

/// Makes room when a step has ended and it is tight.
#[allow(missing_debug_implementations, reason = "a sink has nothing to show")]
pub struct Watch<'a> {
    limits: SpaceLimits,
    store: &'a Store,
    sink: &'a dyn Sink,
    /// What was free when the store was last measured, and what it took then.
    seen: Mutex<Option<(u64, u64)>>,
}

impl Watch<'_> {
    /// Measuring the store takes a while, asking for free space does not: what has gone of it may be the store's.
    fn look(&self) -> Result<(), StoreError> {
        // Files of subordinate ids can only be removed inside the user namespace.
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        // One at a time; who comes meanwhile goes on.
        let Ok(mut seen) = self.seen.try_lock() else {
            return Ok(());
        };
        let free = self.store.free_bytes()?;
        let tight = match (self.limits.most, *seen) {
            (Some(_), None) => true,
            (Some(most), Some((free_then, taken))) => taken + free_then.saturating_sub(free) > most,
            (None, _) => false,
        };
        if tight || self.limits.free.is_some_and(|wanted| free < wanted) {
            self.limits.make_room(self.store, None)?;
            if self.limits.most.is_some() {
                *seen = Some((self.store.free_bytes()?, self.store.usage()?.total()));
            }
        }
        Ok(())
    }
}

impl Sink for Watch<'_> {
    fn emit(&self, event: Event) {
        let ended = matches!(
            event,
            Event::Finished {
                outcome: VertexOutcome::Done,
                ..
            }
        );
        self.sink.emit(event);
        if ended && let Err(error) = self.look() {
            self.sink.emit(Event::Warning {
                message: format!("{}: no room was made: {error}", self.limits.rule()),
                location: None,
            });
        }
    }
}
