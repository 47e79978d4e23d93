//! Variables, quotes and escapes in the words of instructions (spec section 2).
//!
//! One pass over the text, with the quirks of BuildKit's shell lexer; what a word means depends on four switches that
//! the three public modes and the heredoc detection set differently. Depth and growth are limited: no input can
//! overflow the stack or fill the memory.

mod pattern;

use std::collections::HashSet;

use pattern::{Pattern, PatternError};

/// The variables that a word may name: `None` for unset.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// How deep `${a:-${b:-...}}` may nest.
const DEPTH_LIMIT: usize = 100;

/// How many bytes a result may have beyond those of the word: `ENV A=$A$A` in forty lines is no image.
const GROWTH_LIMIT: usize = 64 << 20;

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
    pub fn word(&self, word: &str, lookup: Lookup<'_>) -> Result<Expansion, ExpandError> {
        self.expand(word, lookup, true)
    }

    /// One word in, the result split at blanks that are not quoted: what EXPOSE does.
    pub fn words(&self, word: &str, lookup: Lookup<'_>) -> Result<Words, ExpandError> {
        let mut scanner = Scanner::new(word, self.escape, lookup);
        let mut splitter = Splitter::default();
        scanner.run(Some(&mut splitter))?;
        Ok(Words {
            words: splitter.finish(),
            used: scanner.used.names,
            undefined: scanner.undefined.names,
        })
    }

    /// The body of a heredoc of COPY or ADD whose delimiter is not quoted: quotes are literal and the escape
    /// character is always a backslash (spec L61).
    pub fn heredoc(&self, body: &str, lookup: Lookup<'_>) -> Result<Expansion, ExpandError> {
        Self::new('\\').expand(body, lookup, false)
    }

    fn expand(&self, word: &str, lookup: Lookup<'_>, quotes: bool) -> Result<Expansion, ExpandError> {
        let mut scanner = Scanner::new(word, self.escape, lookup);
        scanner.quotes = quotes;
        let text = scanner.run(None)?;
        Ok(Expansion {
            text,
            used: scanner.used.names,
            undefined: scanner.undefined.names,
        })
    }
}

/// The words of a command line, as far as finding heredocs in it asks for them: variables stay as they are, and so do
/// quotes and escapes when `raw`. `None` when it is no proper shell text.
pub(crate) fn shell_words(line: &str, raw_quotes: bool, raw_escapes: bool) -> Option<Vec<String>> {
    let mut scanner = Scanner::new(line, '\\', &|_| None);
    scanner.raw_quotes = raw_quotes;
    scanner.raw_escapes = raw_escapes;
    scanner.keep_unset = true;
    let mut splitter = Splitter::default();
    scanner.run(Some(&mut splitter)).ok()?;
    Some(splitter.finish())
}

/// Names in order of first appearance.
#[derive(Default)]
struct Names {
    names: Vec<String>,
    seen: HashSet<String>,
}

impl Names {
    fn add(&mut self, name: &str) {
        if !self.seen.contains(name) {
            self.seen.insert(name.to_owned());
            self.names.push(name.to_owned());
        }
    }
}

/// Collects words in multi-word mode.
#[derive(Default)]
struct Splitter {
    words: Vec<String>,
    word: String,
}

impl Splitter {
    /// A character outside quotes: blanks end a word that is not empty.
    fn add(&mut self, scalar: char) {
        if !scalar.is_whitespace() {
            self.word.push(scalar);
        } else if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        self.words
    }
}

struct Scanner<'a> {
    word: &'a str,
    position: usize,
    escape: char,
    lookup: Lookup<'a>,
    /// Quotes mean something.
    quotes: bool,
    /// Quotes stay in the result.
    raw_quotes: bool,
    /// Escape characters stay in the result; inside patterns they always do.
    raw_escapes: bool,
    /// Unset variables stay as they were written.
    keep_unset: bool,
    depth: usize,
    used: Names,
    undefined: Names,
}

type Step<T> = Result<T, String>;

impl<'a> Scanner<'a> {
    fn new(word: &'a str, escape: char, lookup: Lookup<'a>) -> Self {
        Self {
            word,
            position: 0,
            escape,
            lookup,
            quotes: true,
            raw_quotes: false,
            raw_escapes: false,
            keep_unset: false,
            depth: 0,
            used: Names::default(),
            undefined: Names::default(),
        }
    }

    fn run(&mut self, splitter: Option<&mut Splitter>) -> Result<String, ExpandError> {
        let raw = self.raw_escapes;
        self.until(None, raw, splitter).map_err(|reason| ExpandError {
            word: self.word.to_owned(),
            reason,
        })
    }

    fn peek(&self) -> Option<char> {
        self.word[self.position..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let scalar = self.peek()?;
        self.position += scalar.len_utf8();
        Some(scalar)
    }

    /// Everything up to `stop`, which is consumed, or to the end.
    fn until(&mut self, stop: Option<char>, raw: bool, mut splitter: Option<&mut Splitter>) -> Step<String> {
        if self.depth == DEPTH_LIMIT {
            return Err("substitutions are nested too deeply".into());
        }
        self.depth += 1;
        let raw_before = std::mem::replace(&mut self.raw_escapes, raw);
        let mut result = String::new();
        while let Some(scalar) = self.peek() {
            if Some(scalar) == stop {
                self.next();
                self.raw_escapes = raw_before;
                self.depth -= 1;
                return Ok(result);
            }
            match scalar {
                '$' => {
                    let value = self.dollar()?;
                    if let Some(splitter) = splitter.as_deref_mut() {
                        value.chars().for_each(|scalar| splitter.add(scalar));
                    }
                    self.append(&mut result, &value)?;
                }
                '\'' | '"' if self.quotes => {
                    let value = if scalar == '"' {
                        self.double_quotes()?
                    } else {
                        self.single_quotes()?
                    };
                    if let Some(splitter) = splitter.as_deref_mut() {
                        splitter.word.push_str(&value);
                    }
                    self.append(&mut result, &value)?;
                }
                // The blanks after `<<` belong to the opener of a heredoc.
                '<' if self.quotes && self.word[self.position..].starts_with("<<") => {
                    let start = self.position;
                    self.position += 2;
                    while self
                        .peek()
                        .is_some_and(|scalar| matches!(scalar, ' ' | '\t' | '\r' | '\n'))
                    {
                        self.next();
                    }
                    let opener = &self.word[start..self.position];
                    result.push_str(opener);
                    if let Some(splitter) = splitter.as_deref_mut() {
                        splitter.word.push_str(opener);
                    }
                }
                _ => {
                    self.next();
                    let mut scalar = scalar;
                    let escaped = scalar == self.escape;
                    if escaped {
                        if self.raw_escapes {
                            result.push(scalar);
                            if let Some(splitter) = splitter.as_deref_mut() {
                                splitter.word.push(scalar);
                            }
                        }
                        let Some(next) = self.next() else { break };
                        scalar = next;
                    }
                    result.push(scalar);
                    match splitter.as_deref_mut() {
                        Some(splitter) if escaped => splitter.word.push(scalar),
                        Some(splitter) => splitter.add(scalar),
                        None => {}
                    }
                }
            }
        }
        match stop {
            None => Ok(result),
            Some(stop) => Err(format!(
                "unexpected end of statement while looking for matching {stop}"
            )),
        }
    }

    fn append(&self, result: &mut String, value: &str) -> Step<()> {
        if result.len() + value.len() > self.word.len() + GROWTH_LIMIT {
            return Err(format!("the result is larger than {} MiB", GROWTH_LIMIT >> 20));
        }
        result.push_str(value);
        Ok(())
    }

    fn single_quotes(&mut self) -> Step<String> {
        let start = self.position;
        self.next();
        let Some(length) = self.word[self.position..].find('\'') else {
            self.position = self.word.len();
            return Err("unexpected end of statement while looking for matching single-quote".into());
        };
        let inner = self.position..self.position + length;
        self.position = inner.end + 1;
        Ok(self.word[if self.raw_quotes {
            start..self.position
        } else {
            inner
        }]
        .to_owned())
    }

    fn double_quotes(&mut self) -> Step<String> {
        let mut result = String::new();
        self.next();
        if self.raw_quotes {
            result.push('"');
        }
        loop {
            match self.peek() {
                None => {
                    return Err("unexpected end of statement while looking for matching double-quote".into());
                }
                Some('"') => {
                    self.next();
                    if self.raw_quotes {
                        result.push('"');
                    }
                    return Ok(result);
                }
                Some('$') => {
                    let value = self.dollar()?;
                    self.append(&mut result, &value)?;
                }
                Some(scalar) => {
                    self.next();
                    if scalar != self.escape {
                        result.push(scalar);
                        continue;
                    }
                    if self.raw_escapes {
                        result.push(scalar);
                    }
                    match self.peek() {
                        None => {}
                        Some(escaped) if escaped == '"' || escaped == '$' || escaped == self.escape => {
                            self.next();
                            result.push(escaped);
                        }
                        // Any other escape stays as it is.
                        Some(_) => result.push(scalar),
                    }
                }
            }
        }
    }

    /// `$NAME` or `${...}`, `$` included.
    fn dollar(&mut self) -> Step<String> {
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            return Ok(match self.variable(name) {
                Some(value) => value,
                None if self.keep_unset => format!("${name}"),
                None => String::new(),
            });
        }
        self.next();
        match self.peek() {
            None => return Err("syntax error: missing '}'".into()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".into()),
            _ => {}
        }
        let name = self.name();
        let Some(operator) = self.next() else {
            return Err("syntax error: missing '}'".into());
        };
        match operator {
            '}' => Ok(match self.variable(name) {
                Some(value) => value,
                None if self.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            ':' => {
                let Some(operator) = self.next() else {
                    return Err("syntax error: missing '}'".into());
                };
                self.modifier(name, operator, true)
            }
            '+' | '-' | '?' | '#' | '%' => self.modifier(name, operator, false),
            '/' => self.replacement(name),
            _ => Err(format!("unsupported modifier ({operator}) in substitution")),
        }
    }

    /// What follows `${name-`, and with `colon` what follows `${name:-`.
    fn modifier(&mut self, name: &str, operator: char, colon: bool) -> Step<String> {
        let trims = matches!(operator, '#' | '%');
        let word = self.operand('}', trims, "syntax error: missing '}'")?;
        let colon_text = if colon { ":" } else { "" };
        let value = self.variable(name);
        if value.is_none() && self.keep_unset {
            return Ok(format!("${{{name}{colon_text}{operator}{word}}}"));
        }
        let given = value.as_ref().is_some_and(|value| !(colon && value.is_empty()));
        match operator {
            '-' => Ok(if given { value.unwrap_or_default() } else { word }),
            '+' => Ok(if given { word } else { String::new() }),
            '?' if given => Ok(value.unwrap_or_default()),
            '?' if !word.is_empty() => Err(format!("{name}: {word}")),
            '?' => Err(format!(
                "{name}: is not allowed to be {}",
                if value.is_none() { "unset" } else { "empty" }
            )),
            '#' | '%' => {
                let (pattern, longest) = match word.strip_prefix(operator) {
                    Some(pattern) => (pattern, true),
                    None => (word.as_str(), false),
                };
                let value = value.unwrap_or_default();
                let parsed = Pattern::parse(pattern).map_err(|error| invalid_pattern(pattern, error))?;
                Ok(if operator == '#' {
                    parsed.trim_prefix(&value, longest)
                } else {
                    parsed.trim_suffix(&value, longest)
                })
            }
            _ => Err(format!(
                "unsupported modifier ({colon_text}{operator}) in substitution"
            )),
        }
    }

    /// What follows `${name/`.
    fn replacement(&mut self, name: &str) -> Step<String> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self.operand('/', true, "syntax error: missing '/' in ${}")?;
        let replacement = self.operand('}', true, "syntax error: missing '}'")?;
        let value = self.variable(name);
        if value.is_none() && self.keep_unset {
            return Ok(format!("${{{name}/{pattern}/{replacement}}}"));
        }
        let value = value.unwrap_or_default();
        let parsed = Pattern::parse(&pattern).map_err(|error| invalid_pattern(&pattern, error))?;
        parsed.replace(&value, &replacement, all, self.word.len() + GROWTH_LIMIT)
    }

    /// The text up to `stop`; running into the end is `missing`.
    fn operand(&mut self, stop: char, raw: bool, missing: &str) -> Step<String> {
        self.until(Some(stop), raw, None).map_err(|reason| {
            if self.peek().is_none() {
                missing.to_owned()
            } else {
                reason
            }
        })
    }

    /// A name, or a positional or special parameter; empty where there is none.
    fn name(&mut self) -> &'a str {
        let rest = &self.word[self.position..];
        let length = match rest.chars().next() {
            Some('0'..='9') => rest.bytes().take_while(u8::is_ascii_digit).count(),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => rest.find(|scalar: char| !in_name(scalar)).unwrap_or(rest.len()),
        };
        self.position += length;
        &rest[..length]
    }

    fn variable(&mut self, name: &str) -> Option<String> {
        let value = (self.lookup)(name);
        if value.is_some() {
            self.used.add(name)
        } else {
            self.undefined.add(name)
        }
        value
    }
}

/// Letters in Go's sense, digits and the underscore.
fn in_name(scalar: char) -> bool {
    scalar == '_' || scalar.is_ascii_digit() || scalar.is_alphabetic()
}

fn invalid_pattern(pattern: &str, error: PatternError) -> String {
    format!("invalid pattern ({pattern}) in substitution: {error}")
}

#[cfg(test)]
mod tests;
