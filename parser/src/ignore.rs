//! `.dockerignore` files, and `COPY --exclude` (spec 6.2, 6.3).
//!
//! The last pattern that matches a path or one of its parents decides. Patterns mean what BuildKit's matcher makes of
//! them, which turns some into plain comparisons and the others into regular expressions, with quirks; here the latter
//! are bit-parallel automata, so that a path costs one pass over its bytes whatever the pattern.

mod automaton;

use automaton::Automaton;

use crate::glob;

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

/// A pattern of an ignore file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoreLine {
    /// Where it stands, from 1.
    pub number: usize,
    /// Cleaned, `!` in front of a negated one.
    pub pattern: String,
}

/// An ignore file cannot be used because of one of its lines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {number}: {error}")]
pub struct IgnoreFileError {
    /// The line, from 1.
    pub number: usize,
    /// What is wrong with it.
    pub error: IgnoreError,
}

/// The patterns of an ignore file.
pub fn parse_ignore_file(text: &str) -> Result<Vec<IgnoreLine>, IgnoreFileError> {
    let mut lines = Vec::new();
    for (index, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
        if line.starts_with('#') {
            continue;
        }
        let number = index + 1;
        let parsed = Line::parse(line).map_err(|error| IgnoreFileError { number, error })?;
        let Some(Line { negated, pattern }) = parsed else {
            continue;
        };
        let pattern = pattern
            .strip_prefix('/')
            .filter(|rest| !rest.is_empty())
            .unwrap_or(&pattern);
        let pattern = format!("{}{pattern}", if negated { "!" } else { "" });
        lines.push(IgnoreLine { number, pattern });
    }
    Ok(lines)
}

/// A pattern without its `!` and lexically clean.
struct Line {
    negated: bool,
    pattern: String,
}

impl Line {
    fn parse(line: &str) -> Result<Option<Self>, IgnoreError> {
        let line = line.trim();
        if line.is_empty() {
            return Ok(None);
        }
        let (negated, pattern) = match line.strip_prefix('!') {
            Some(pattern) => (true, pattern.trim()),
            None => (false, line),
        };
        if pattern.is_empty() {
            return Err(IgnoreError::OnlyNegation);
        }
        let pattern = clean(pattern);
        glob::matches(pattern.as_bytes(), b".").map_err(|_| IgnoreError::Syntax(line.to_owned()))?;
        Ok(Some(Self { negated, pattern }))
    }
}

/// Go's `filepath.Clean`: no `.`, no empty component, no `..` that could be resolved, no final slash.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut kept: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if kept.last().is_some_and(|last| *last != "..") => drop(kept.pop()),
            ".." if rooted => {}
            _ => kept.push(part),
        }
    }
    match (rooted, kept.join("/")) {
        (true, rest) => format!("/{rest}"),
        (false, rest) if rest.is_empty() => ".".to_owned(),
        (false, rest) => rest,
    }
}

/// Patterns, ready to be asked about paths.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    patterns: Vec<Pattern>,
}

impl Matcher {
    /// Compiles patterns as the lines of [`parse_ignore_file`] have them, or as `--exclude` has them.
    pub fn new(patterns: &[String]) -> Result<Self, IgnoreError> {
        let mut compiled = Vec::with_capacity(patterns.len());
        for pattern in patterns {
            let Some(Line { negated, pattern }) = Line::parse(pattern)? else {
                continue;
            };
            let kind = Kind::of(&pattern).ok_or(IgnoreError::Syntax(pattern))?;
            compiled.push(Pattern { negated, kind });
        }
        Ok(Self { patterns: compiled })
    }

    /// Whether there is no pattern at all.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether one of the patterns is negated.
    pub fn has_negations(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.negated)
    }

    /// Whether the patterns leave out `path`, which is relative, `/`-separated and clean.
    pub fn excludes(&self, path: &[u8]) -> bool {
        let mut excluded = false;
        for pattern in &self.patterns {
            if pattern.negated == excluded && pattern.kind.matches(path) {
                excluded = !pattern.negated;
            }
        }
        excluded
    }

    /// Which of the patterns has the last word on `path`: the index of the last one that turned the decision. `None`
    /// when no pattern left it out.
    pub fn deciding(&self, path: &[u8]) -> Option<usize> {
        let mut decided = None;
        let mut excluded = false;
        for (index, pattern) in self.patterns.iter().enumerate() {
            if pattern.negated == excluded && pattern.kind.matches(path) {
                excluded = !pattern.negated;
                decided = Some(index);
            }
        }
        decided
    }

    /// Whether something below the excluded directory `dir` may be included again, so that it has to be walked.
    pub fn may_include_below(&self, dir: &[u8]) -> bool {
        self.patterns
            .iter()
            .any(|pattern| pattern.negated && pattern.kind.may_match_below(dir))
    }
}

#[derive(Debug, Clone)]
struct Pattern {
    negated: bool,
    kind: Kind,
}

/// How a pattern is compared.
#[derive(Debug, Clone)]
enum Kind {
    /// Equal.
    Exact(Vec<u8>),
    /// Text before a final `**`.
    Prefix(Vec<u8>),
    /// Text after a `**` at the start.
    Suffix(Vec<u8>),
    /// Anything else.
    Automaton(Automaton),
}

impl Kind {
    /// `None` for a pattern that is longer than any path.
    fn of(pattern: &str) -> Option<Self> {
        let plain = |text: &str| !text.contains(['*', '?', '[', ']', '\\']);
        let bytes = |text: &str| text.as_bytes().to_vec();
        if plain(pattern) {
            return Some(Self::Exact(bytes(pattern)));
        }
        // `**` alone is both and is a suffix: it matches everything.
        if let Some(suffix) = pattern.strip_prefix("**").filter(|suffix| plain(suffix)) {
            return Some(Self::Suffix(bytes(suffix)));
        }
        if let Some(prefix) = pattern.strip_suffix("**").filter(|prefix| plain(prefix)) {
            return Some(Self::Prefix(bytes(prefix)));
        }
        Automaton::compile(pattern).map(Self::Automaton)
    }

    /// Whether `path` or one of its parents matches.
    fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(text) => path
                .strip_prefix(text.as_slice())
                .is_some_and(|rest| matches!(rest, [] | [b'/', ..])),
            Self::Prefix(text) => path.starts_with(text),
            Self::Suffix(text) => {
                let ends = |part: &[u8]| part.ends_with(text) || text.strip_prefix(b"/") == Some(part);
                let mut slashes = (0..path.len()).filter(|index| path[*index] == b'/');
                ends(path) || slashes.any(|slash| ends(&path[..slash]))
            }
            Self::Automaton(automaton) => automaton.matches(path),
        }
    }

    /// Whether there can be a path below `dir` that matches.
    fn may_match_below(&self, dir: &[u8]) -> bool {
        match self {
            Self::Exact(text) => text.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/")),
            Self::Prefix(text) => {
                dir.starts_with(text) || text.starts_with(dir) && matches!(text[dir.len()..], [] | [b'/', ..])
            }
            Self::Suffix(_) => true,
            Self::Automaton(automaton) => automaton.may_match_below(dir),
        }
    }
}

#[cfg(test)]
mod tests;
