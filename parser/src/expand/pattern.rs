//! Patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*` and `?`, and no brackets.
//!
//! As in Go's regular expressions, neither matches a newline. Segments between stars are looked for one after the
//! other and never looked for again, so that there is no backtracking.

/// A pattern is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid escape '\\{0}'")]
pub(super) struct PatternError(char);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Scalar(char),
    Any,
}

/// A parsed pattern: segments with a star between each two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    /// Never empty; a star at the start or the end leaves an empty segment there.
    segments: Vec<Vec<Unit>>,
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, PatternError> {
        let mut segments = Vec::new();
        let mut segment = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(scalar) = rest.next() {
            match scalar {
                '*' => segments.push(std::mem::take(&mut segment)),
                '?' => segment.push(Unit::Any),
                '\\' => match rest.peek().copied() {
                    // Only to get past the end of the substitution: the backslash is not of the pattern.
                    Some('}' | '/') => {}
                    Some(escaped @ ('*' | '?' | '\\')) => {
                        rest.next();
                        segment.push(Unit::Scalar(escaped));
                    }
                    other => return Err(PatternError(other.unwrap_or(char::REPLACEMENT_CHARACTER))),
                },
                _ => segment.push(Unit::Scalar(scalar)),
            }
        }
        segments.push(segment);
        Ok(Self { segments })
    }

    /// `value` without the shortest or longest start that matches.
    pub(super) fn trim_prefix(&self, value: &str, longest: bool) -> String {
        let scalars: Vec<char> = value.chars().collect();
        let end = self.match_at(&scalars, 0, longest).ok().unwrap_or(0);
        scalars[end..].iter().collect()
    }

    /// `value` without the shortest or longest end that matches: the mirrored pattern on the mirrored value.
    pub(super) fn trim_suffix(&self, value: &str, longest: bool) -> String {
        let mirrored = Self {
            segments: self
                .segments
                .iter()
                .rev()
                .map(|segment| segment.iter().rev().copied().collect())
                .collect(),
        };
        let scalars: Vec<char> = value.chars().rev().collect();
        let end = mirrored.match_at(&scalars, 0, longest).ok().unwrap_or(0);
        scalars[end..].iter().rev().collect()
    }

    /// `value` with the first or all of the longest matches replaced. With `all` the replacement is a template of Go's
    /// regular expressions: `$0` is the match, `$1` and `$name` are empty.
    pub(super) fn replace(
        &self,
        value: &str,
        replacement: &str,
        all: bool,
        limit: usize,
    ) -> Result<String, String> {
        let scalars: Vec<char> = value.chars().collect();
        let mut result = String::new();
        let mut copied = 0;
        let mut position = 0;
        while let Some((start, end)) = self.find(&scalars, position) {
            result.extend(&scalars[copied..start]);
            if !all {
                result.push_str(replacement);
            } else if end > copied || start == 0 {
                // An empty match right after another one does not count.
                let matched: String = scalars[start..end].iter().collect();
                fill_template(&mut result, replacement, &matched);
            }
            copied = end;
            if result.len() > limit {
                return Err(format!("the result is larger than {} MiB", limit >> 20));
            }
            if !all || position == scalars.len() {
                break;
            }
            position = end.max(position + 1);
        }
        result.extend(&scalars[copied..]);
        Ok(result)
    }

    /// The leftmost match that starts at `from` or later.
    fn find(&self, value: &[char], from: usize) -> Option<(usize, usize)> {
        let first = self.segments.first()?;
        let mut start = from;
        while start <= value.len() {
            if !matches_at(first, value, start) {
                start += 1;
                continue;
            }
            match self.match_at(value, start, true) {
                Ok(end) => return Some((start, end)),
                // What failed from here on this line fails from everywhere on it.
                Err(line_end) => start = (start + 1).max((line_end + 1).saturating_sub(first.len())),
            }
        }
        None
    }

    /// Where the match that begins at `start` ends; otherwise how far was searched.
    fn match_at(&self, value: &[char], start: usize, longest: bool) -> Result<usize, usize> {
        let Some((first, others)) = self.segments.split_first() else {
            return Ok(start);
        };
        if !matches_at(first, value, start) {
            return Err(start);
        }
        let mut end = start + first.len();
        for (index, segment) in others.iter().enumerate() {
            let line_end = value[end..]
                .iter()
                .position(|scalar| *scalar == '\n')
                .map_or(value.len(), |found| end + found);
            let last = longest && index + 1 == others.len();
            let mut places = end..=line_end;
            let found = if last {
                places.rfind(|place| matches_at(segment, value, *place))
            } else {
                places.find(|place| matches_at(segment, value, *place))
            };
            end = found.ok_or(line_end)? + segment.len();
        }
        Ok(end)
    }
}

fn matches_at(segment: &[Unit], value: &[char], place: usize) -> bool {
    value.get(place..place + segment.len()).is_some_and(|part| {
        segment.iter().zip(part).all(|(unit, scalar)| match unit {
            Unit::Scalar(expected) => expected == scalar,
            Unit::Any => *scalar != '\n',
        })
    })
}

/// Go's `Regexp.Expand` for an expression without groups.
fn fill_template(result: &mut String, template: &str, matched: &str) {
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        rest = after;
        if let Some(after) = after.strip_prefix('$') {
            result.push('$');
            rest = after;
            continue;
        }
        let name_end = |text: &str| {
            text.find(|scalar: char| scalar != '_' && !scalar.is_alphanumeric())
                .unwrap_or(text.len())
        };
        let (name, after) = match after.strip_prefix('{') {
            Some(inner) => match inner.split_at(name_end(inner)) {
                (name, after) if after.starts_with('}') => (name, &after[1..]),
                _ => ("", after),
            },
            None => after.split_at(name_end(after)),
        };
        match name {
            "" => result.push('$'),
            "0" => {
                result.push_str(matched);
                rest = after;
            }
            _ => rest = after,
        }
    }
    result.push_str(rest);
}
