//! Wildcards of COPY and ADD sources: Go's `filepath.Match`, on bytes.

/// The pattern is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// Whether the text has one of `*?[\`, so that it is a pattern and not a literal path.
pub fn is_pattern(text: &[u8]) -> bool {
    text.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\'))
}

/// Whether the whole of `name` matches; `*` and `?` do not match `/`.
pub fn matches(_pattern: &[u8], _name: &[u8]) -> Result<bool, BadPattern> {
    Err(BadPattern)
}

/// Whether the whole of `name` matches a `--parents` pattern: as [`matches`], component by component, and a component
/// `**` stands for any number of components, zero included (spec P31).
pub fn matches_path(_pattern: &[u8], _name: &[u8]) -> Result<bool, BadPattern> {
    Err(BadPattern)
}
