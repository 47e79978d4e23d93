//! Variables, quotes and escapes in the words of instructions (spec section 2).

/// The variables that a word may name: `None` for unset.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Expands words of one Dockerfile.
#[derive(Debug, Clone, Copy)]
pub struct Expander {
    escape: char,
}

/// A word after expansion, and which variables it named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expansion {
    /// The result.
    pub text: String,
    /// Names that were set, in order of first use.
    pub used: Vec<String>,
    /// Names that were not set, in order of first use.
    pub undefined: Vec<String>,
}

/// Words after expansion and splitting (spec X3), and which variables they named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words {
    /// The result.
    pub words: Vec<String>,
    /// Names that were set, in order of first use.
    pub used: Vec<String>,
    /// Names that were not set, in order of first use.
    pub undefined: Vec<String>,
}

/// A word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {word:?}: {reason}")]
pub struct ExpandError {
    /// The word as written.
    pub word: String,
    /// Why, in BuildKit's words.
    pub reason: String,
}

impl Expander {
    /// `escape` is the character of the `# escape=` directive.
    pub fn new(escape: char) -> Self {
        Self { escape }
    }

    /// One word in, one string out, blanks kept.
    pub fn word(&self, word: &str, _lookup: Lookup<'_>) -> Result<Expansion, ExpandError> {
        Err(ExpandError {
            word: word.into(),
            reason: format!("cannot be expanded yet ({})", self.escape),
        })
    }

    /// One word in, the result split at blanks that are not quoted: what EXPOSE does.
    pub fn words(&self, word: &str, _lookup: Lookup<'_>) -> Result<Words, ExpandError> {
        Err(ExpandError {
            word: word.into(),
            reason: format!("cannot be expanded yet ({})", self.escape),
        })
    }

    /// The body of a heredoc of COPY or ADD whose delimiter is not quoted: quotes are literal and the escape
    /// character is always a backslash (spec L61).
    pub fn heredoc(&self, body: &str, _lookup: Lookup<'_>) -> Result<Expansion, ExpandError> {
        Err(ExpandError {
            word: body.into(),
            reason: format!("cannot be expanded yet ({})", self.escape),
        })
    }
}
