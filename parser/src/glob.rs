//! Wildcards of COPY and ADD sources: Go's `filepath.Match`, on bytes.
//!
//! A star takes the first place where what follows it matches and never another one, as Go does it: time is bounded by
//! the product of the two lengths.

/// The pattern is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// Whether the text has one of `*?[\`, so that it is a pattern and not a literal path.
pub fn is_pattern(text: &[u8]) -> bool {
    text.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\'))
}

/// Whether the whole of `name` matches; `*` and `?` do not match `/`. A malformed pattern is an error whatever the
/// name.
pub fn matches(pattern: &[u8], name: &[u8]) -> Result<bool, BadPattern> {
    let (mut pattern, mut name) = (pattern, name);
    'pattern: while !pattern.is_empty() {
        let (star, chunk, rest) = next_chunk(pattern);
        if star && chunk.is_empty() {
            return Ok(!name.contains(&b'/'));
        }
        let complete = |left: &[u8]| left.is_empty() || !rest.is_empty();
        if let Some(left) = match_chunk(chunk, name)?.filter(|left| complete(left)) {
            (pattern, name) = (rest, left);
            continue;
        }
        if star {
            let mut skipped = name;
            while let [first, after @ ..] = skipped {
                if *first == b'/' {
                    break;
                }
                skipped = after;
                if let Some(left) = match_chunk(chunk, skipped)?.filter(|left| complete(left)) {
                    (pattern, name) = (rest, left);
                    continue 'pattern;
                }
            }
        }
        let mut unread = rest;
        while !unread.is_empty() {
            let (_, chunk, rest) = next_chunk(unread);
            match_chunk(chunk, b"")?;
            unread = rest;
        }
        return Ok(false);
    }
    Ok(name.is_empty())
}

/// Splits off the stars in front and what follows them up to the next star.
fn next_chunk(pattern: &[u8]) -> (bool, &[u8], &[u8]) {
    let stars = pattern.iter().take_while(|byte| **byte == b'*').count();
    let pattern = &pattern[stars..];
    let mut in_class = false;
    let mut end = 0;
    while let Some(byte) = pattern.get(end) {
        match byte {
            b'\\' if end + 1 < pattern.len() => end += 1,
            b'[' => in_class = true,
            b']' => in_class = false,
            b'*' if !in_class => break,
            _ => {}
        }
        end += 1;
    }
    let (chunk, rest) = pattern.split_at(end);
    (stars > 0, chunk, rest)
}

/// Matches a chunk, which has no star, at the start of `name`: what is left of `name`, or `None`.
fn match_chunk<'a>(mut chunk: &[u8], name: &'a [u8]) -> Result<Option<&'a [u8]>, BadPattern> {
    // `None` once it has failed; the rest of the chunk is read on for its syntax.
    let mut left = Some(name);
    while let [first, after @ ..] = chunk {
        if left.is_some_and(<[u8]>::is_empty) {
            left = None;
        }
        match first {
            b'[' => {
                let scalar = left.map(decode);
                let (hit, rest) = match_class(after, scalar.map_or('\0', |(scalar, _)| scalar))?;
                left = scalar.filter(|_| hit).and_then(|(_, length)| left?.get(length..));
                chunk = rest;
            }
            b'?' => {
                left = left
                    .filter(|left| left.first() != Some(&b'/'))
                    .and_then(|left| left.get(decode(left).1..));
                chunk = after;
            }
            _ => {
                let (literal, rest) = match (first, after) {
                    (b'\\', [escaped, rest @ ..]) => (escaped, rest),
                    (b'\\', []) => return Err(BadPattern),
                    _ => (first, after),
                };
                left = left.and_then(|left| left.strip_prefix(std::slice::from_ref(literal)));
                chunk = rest;
            }
        }
    }
    Ok(left)
}

/// Matches a class whose `[` has been read: whether `scalar` is in it, and what follows its `]`.
fn match_class(mut class: &[u8], scalar: char) -> Result<(bool, &[u8]), BadPattern> {
    let negated = class.first() == Some(&b'^');
    if negated {
        class = &class[1..];
    }
    let mut found = false;
    let mut ranges = 0;
    loop {
        if ranges > 0
            && let [b']', rest @ ..] = class
        {
            return Ok((found != negated, rest));
        }
        let (low, rest) = class_scalar(class)?;
        let (high, rest) = match rest {
            [b'-', rest @ ..] => class_scalar(rest)?,
            _ => (low, rest),
        };
        found |= (low..=high).contains(&scalar);
        class = rest;
        ranges += 1;
    }
}

/// One character of a class, escaped or not; something has to follow it.
fn class_scalar(class: &[u8]) -> Result<(char, &[u8]), BadPattern> {
    let class = match class {
        [] | [b'-' | b']', ..] => return Err(BadPattern),
        [b'\\', rest @ ..] => rest,
        _ => class,
    };
    let (scalar, length) = decode(class);
    match class.get(length..) {
        None | Some([]) => Err(BadPattern),
        Some(_) if scalar == char::REPLACEMENT_CHARACTER && length == 1 => Err(BadPattern),
        Some(rest) => Ok((scalar, rest)),
    }
}

/// The first character and its length; U+FFFD of length 1 for a byte that is not UTF-8.
pub(crate) fn decode(bytes: &[u8]) -> (char, usize) {
    let head = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default(),
    };
    match valid.chars().next() {
        Some(scalar) => (scalar, scalar.len_utf8()),
        None => (char::REPLACEMENT_CHARACTER, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_filepath_match() {
        for (pattern, name, expected) in [
            ("abc", "abc", Ok(true)),
            ("*", "abc", Ok(true)),
            ("*c", "abc", Ok(true)),
            ("a*", "a", Ok(true)),
            ("a*", "abc", Ok(true)),
            ("a*", "ab/c", Ok(false)),
            ("a*/b", "abc/b", Ok(true)),
            ("a*/b", "a/c/b", Ok(false)),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", Ok(true)),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", Ok(true)),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", Ok(false)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Ok(true)),
            ("a*b?c*x", "abxbbxdbxebxczzy", Ok(false)),
            ("ab[c]", "abc", Ok(true)),
            ("ab[b-d]", "abc", Ok(true)),
            ("ab[e-g]", "abc", Ok(false)),
            ("ab[^c]", "abc", Ok(false)),
            ("ab[^b-d]", "abc", Ok(false)),
            ("ab[^e-g]", "abc", Ok(true)),
            ("a\\*b", "a*b", Ok(true)),
            ("a\\*b", "ab", Ok(false)),
            ("a?b", "a☺b", Ok(true)),
            ("a[^a]b", "a☺b", Ok(true)),
            ("a???b", "a☺b", Ok(false)),
            ("[a-ζ]*", "α", Ok(true)),
            ("*[a-ζ]", "A", Ok(false)),
            ("a?b", "a/b", Ok(false)),
            ("a*b", "a/b", Ok(false)),
            ("[\\]a]", "]", Ok(true)),
            ("[\\-]", "-", Ok(true)),
            ("[x\\-]", "z", Ok(false)),
            ("[]a]", "]", Err(BadPattern)),
            ("[-]", "-", Err(BadPattern)),
            ("[x-]", "x", Err(BadPattern)),
            ("[-x]", "x", Err(BadPattern)),
            ("\\", "a", Err(BadPattern)),
            ("[a-b-c]", "a", Err(BadPattern)),
            ("[", "a", Err(BadPattern)),
            ("[^", "a", Err(BadPattern)),
            ("[^bc", "a", Err(BadPattern)),
            ("a[", "a", Err(BadPattern)),
            ("a[", "ab", Err(BadPattern)),
            ("a[", "x", Err(BadPattern)),
            ("a/b[", "x", Err(BadPattern)),
            ("*x", "xxx", Ok(true)),
            ("**", "abc", Ok(true)),
            ("", "", Ok(true)),
            ("", "x", Ok(false)),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
        assert_eq!(matches(b"a?b", b"a\xffb"), Ok(true));
        assert_eq!(matches(b"a\xffb", b"a\xffb"), Ok(true));
    }

    #[test]
    fn stars_cost_no_exponential_time() {
        let pattern = "a*".repeat(2000) + "b";
        assert_eq!(
            matches(pattern.as_bytes(), "a".repeat(4000).as_bytes()),
            Ok(false)
        );
    }
}
