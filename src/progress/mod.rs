//! What the user sees of a build: one stream of typed events (design D11) and its renderers.

pub mod event;

pub use event::{Event, Sink, Stream, VertexOutcome};
