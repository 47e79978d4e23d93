//! The build context, read while registries are asked: what base images say decides how its files are used, not which.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rbuild_cache::layer::{Entry, LayerPath};
use rbuild_cache::tree::{Listed, Tree, TreeError};
use rbuild_cache::{ContentDigest, Store};
use rbuild_parser::ignore::Matcher;

use crate::graph::CopyOp;
use crate::solver::ops::{Sources, select};
use crate::source::local::LocalContext;

/// A directory that is opened when there is time to read it.
#[derive(Debug)]
pub(super) struct EarlyContext {
    path: PathBuf,
    store: Store,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Closed(Option<Matcher>),
    Open(Box<LocalContext>),
    /// It could not be opened, which whoever needs it will say, or is in other hands.
    Gone,
}

impl EarlyContext {
    pub fn new(path: PathBuf, ignore: Option<Matcher>, store: Store) -> Self {
        Self {
            path,
            store,
            state: Mutex::new(State::Closed(ignore)),
        }
    }

    /// Finds out what `reads` would select, until `is_over`. What is found stays known to the context. What is wrong is said
    /// when a step needs it.
    pub fn read(&self, reads: &[CopyOp], is_over: &AtomicBool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Closed(ignore) = &mut *state {
            let ignore = ignore.take();
            let memory = self.store.file_memory(&self.path).ok();
            let opened = memory.and_then(|memory| LocalContext::open(&self.path, ignore, Some(memory)).ok());
            *state = opened.map_or(State::Gone, |context| State::Open(Box::new(context)));
        }
        let State::Open(context) = &*state else { return };
        let tree = Interruptible { context, is_over };
        for read in reads {
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            let _ = select::selection(read, Sources::of(&tree));
        }
    }

    /// The directory, if it was read.
    pub fn take(&self) -> Option<LocalContext> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, State::Gone) {
            State::Open(context) => Some(*context),
            State::Closed(_) | State::Gone => None,
        }
    }
}

/// The context, as long as somebody wants to know what is in it.
struct Interruptible<'a> {
    context: &'a LocalContext,
    is_over: &'a AtomicBool,
}

impl Interruptible<'_> {
    fn go_on(&self, path: &LayerPath) -> Result<(), TreeError> {
        if self.is_over.load(Ordering::Relaxed) {
            return Err(TreeError::Io {
                path: path.clone(),
                cause: io::ErrorKind::Interrupted.into(),
            });
        }
        Ok(())
    }
}

impl Tree for Interruptible<'_> {
    fn lookup(&self, path: &LayerPath) -> Result<Option<Entry>, TreeError> {
        self.context.lookup(path)
    }

    fn read_dir(&self, path: &LayerPath) -> Result<Vec<Entry>, TreeError> {
        self.go_on(path)?;
        self.context.read_dir(path)
    }

    fn list(&self, path: &LayerPath) -> Result<Vec<Listed>, TreeError> {
        self.go_on(path)?;
        self.context.list(path)
    }

    fn open(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        self.context.open(path)
    }

    fn content_digest(&self, entry: &Entry) -> Result<ContentDigest, TreeError> {
        self.go_on(&entry.path)?;
        self.context.content_digest(entry)
    }

    fn link_group(&self, entry: &Entry) -> Result<Option<u64>, TreeError> {
        self.context.link_group(entry)
    }

    fn prefetch(
        &self,
        path: &LayerPath,
        enter: &(dyn Fn(&LayerPath) -> bool + Sync),
    ) -> Result<(), TreeError> {
        self.context
            .prefetch(path, &|path| self.go_on(path).is_ok() && enter(path))?;
        // What was left out may not be taken for all there is.
        self.go_on(path)
    }
}
