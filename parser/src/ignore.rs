//! `.dockerignore` files, and `COPY --exclude` (spec 6.2, 6.3).

/// An ignore file or pattern cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    /// A pattern that is only `!`.
    #[error("illegal exclusion pattern: \"!\"")]
    OnlyNegation,
    /// Not a well-formed pattern.
    #[error("syntax error in pattern: {0:?}")]
    Syntax(String),
}

/// The patterns of an ignore file, cleaned, `!` in front of the negated ones.
pub fn parse_ignore_file(_text: &str) -> Result<Vec<String>, IgnoreError> {
    Err(IgnoreError::OnlyNegation)
}

/// Patterns, ready to be asked about paths.
#[derive(Debug, Clone, Default)]
pub struct Matcher {}

impl Matcher {
    /// Compiles patterns as [`parse_ignore_file`] gives them, or as `--exclude` has them.
    pub fn new(_patterns: &[String]) -> Result<Self, IgnoreError> {
        Ok(Self {})
    }

    /// Whether there is no pattern at all.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Whether one of the patterns is negated.
    pub fn has_negations(&self) -> bool {
        false
    }

    /// Whether the patterns leave out `path`, which is relative, `/`-separated and clean.
    pub fn excludes(&self, _path: &[u8]) -> bool {
        false
    }

    /// Whether something below the excluded directory `dir` may be included again, so that it has to be walked.
    pub fn may_include_below(&self, _dir: &[u8]) -> bool {
        true
    }
}
