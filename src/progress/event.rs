//! The events of a build.

use std::time::Instant;

use rbuild_cache::Key;

use crate::graph::Location;

/// Which output of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a vertex ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VertexOutcome {
    /// It was done.
    Done,
    /// Its result was in the store.
    Cached,
    /// It was given up because another vertex failed or the build was interrupted.
    Canceled,
    /// It failed, with this message.
    Failed(String),
}

/// Something that happened. `vertex` is the digest of a vertex of the definition, or of its name
/// for what is no vertex (`[internal] load build definition`, `exporting to image`).
#[derive(Debug, Clone)]
pub enum Event {
    /// Work began.
    Started {
        /// Which.
        vertex: Key,
        /// Shown name.
        name: String,
        /// Where in the Dockerfile.
        location: Option<Location>,
        /// When.
        at: Instant,
    },
    /// A part of the work went on: bytes of a transfer, files of a walk.
    Progress {
        /// Which.
        vertex: Key,
        /// Part, for example a layer's short digest.
        id: String,
        /// So far.
        current: u64,
        /// In the end, 0 when unknown.
        total: u64,
        /// What is counted.
        unit: Unit,
    },
    /// Bytes that a process wrote, as they came: not always whole lines, not always UTF-8.
    Log {
        /// Which.
        vertex: Key,
        /// Output.
        stream: Stream,
        /// Bytes.
        data: Vec<u8>,
        /// When.
        at: Instant,
    },
    /// Something to know about.
    Warning {
        /// Text, one line.
        message: String,
        /// Where in the Dockerfile.
        location: Option<Location>,
    },
    /// One line for the user that belongs to no vertex (which isolation was chosen).
    Note(String),
    /// Work ended.
    Finished {
        /// Which.
        vertex: Key,
        /// How.
        outcome: VertexOutcome,
        /// When.
        at: Instant,
    },
}

/// What [`Event::Progress`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things.
    Items,
}

/// Takes events, from any thread.
pub trait Sink: Send + Sync {
    /// Called for each event in the order of its thread. Must not block for long.
    fn emit(&self, event: Event);
}
