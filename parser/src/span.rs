//! Places in the text.

use serde::Serialize;

/// A range of the Dockerfile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// Byte after the last.
    pub end: usize,
    /// First physical line, from 1.
    pub start_line: usize,
    /// Last physical line, inclusive.
    pub end_line: usize,
}
