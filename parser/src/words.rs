//! One logical line to keyword, flag words and the rest; the rest to words (spec 1.4, 1.5).

/// White space between the parts of an instruction (L7, L44).
const BLANKS: [char; 5] = ['\t', '\x0b', '\x0c', '\r', ' '];

/// An instruction's line in its three parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    /// The keyword as written.
    pub keyword: &'a str,
    /// Flag words with their quotes and escapes resolved (L31).
    pub flags: Vec<String>,
    /// Everything after them, trimmed.
    pub rest: &'a str,
}

/// Splits a line.
pub(crate) fn split_line(line: &str) -> Parts<'_> {
    let line = line.trim();
    let (keyword, after) = line.split_once(BLANKS).unwrap_or((line, ""));
    let (flags, rest) = split_flags(after);
    Parts {
        keyword,
        flags,
        rest: rest.trim(),
    }
}

/// Takes the words that start with `--` off the front, up to the first other one or a bare `--` (L30). The escape
/// character is a backslash here whatever the directive says.
fn split_flags(text: &str) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let mut word = String::new();
        let mut quote = None;
        let mut end = rest.len();
        let mut scalars = rest.char_indices();
        while let Some((index, scalar)) = scalars.next() {
            match (scalar, quote) {
                (_, None) if scalar.is_whitespace() => {
                    end = index;
                    break;
                }
                ('\'' | '"', None) => quote = Some(scalar),
                (_, Some(open)) if scalar == open => quote = None,
                // A lone one at the end is dropped.
                ('\\', _) => word.extend(scalars.next().map(|(_, escaped)| escaped)),
                _ => word.push(scalar),
            }
        }
        rest = rest[end..].trim_start();
        if word == "--" {
            break;
        }
        flags.push(word);
    }
    (flags, rest)
}

/// The words between blanks; quotes mean nothing (L44).
pub(crate) fn blank_separated(rest: &str) -> Vec<String> {
    rest.split(BLANKS)
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The first word and what follows the blanks after it, if there are any.
pub(crate) fn first_blank(rest: &str) -> Option<(&str, &str)> {
    let (first, after) = rest.split_once(BLANKS)?;
    Some((first, after.trim_start_matches(BLANKS)))
}

/// The words of ENV, LABEL and ARG: quotes and escapes hold words together and stay in them (L45).
pub(crate) fn quoted_words(rest: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut scalars = rest.chars();
    while let Some(scalar) = scalars.next() {
        match quote {
            None if scalar.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if matches!(scalar, '\'' | '"') => quote = Some(scalar),
            Some(open) if scalar == open => quote = None,
            _ => {}
        }
        if scalar == escape && quote != Some('\'') {
            // A lone one at the end is dropped.
            let Some(escaped) = scalars.next() else { break };
            word.push(scalar);
            word.push(escaped);
        } else {
            word.push(scalar);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l7_l30_l31_parts() {
        for (line, keyword, flags, rest) in [
            ("RUN", "RUN", &[][..], ""),
            ("  run\t\x0b\x0c echo  a ", "run", &[], "echo  a"),
            ("COPY --from=x --link a b", "COPY", &["--from=x", "--link"], "a b"),
            ("COPY -- --x y", "COPY", &[], "--x y"),
            ("COPY a --chown=1 /x", "COPY", &[], "a --chown=1 /x"),
            (
                "COPY --chown=\"a b\":'c d' x y",
                "COPY",
                &["--chown=a b:c d"],
                "x y",
            ),
            (
                "COPY --chown=a\\ b\\\"\"\\\"'\" x y",
                "COPY",
                &["--chown=a b\"\"'"],
                "x y",
            ),
            ("RUN --mount=é --a", "RUN", &["--mount=é", "--a"], ""),
            ("RUN --x\\", "RUN", &["--x"], ""),
            ("RUN --", "RUN", &[], ""),
            ("RUN - x", "RUN", &[], "- x"),
            ("COPY --a=\"b c", "COPY", &["--a=b c"], ""),
        ] {
            let parts = split_line(line);
            assert_eq!(
                (parts.keyword, parts.flags, parts.rest),
                (
                    keyword,
                    flags.iter().map(|flag| (*flag).to_owned()).collect(),
                    rest
                ),
                "{line}"
            );
        }
    }

    #[test]
    fn l44_l45_words() {
        assert_eq!(blank_separated("a \"c\t d\""), ["a", "\"c", "d\""]);
        for (rest, expected) in [
            ("foo bar 'abc xyz'", &["foo", "bar", "'abc xyz'"][..]),
            ("foo\\ bar=x", &["foo\\ bar=x"]),
            ("a=\"b \\\" c\" d='e\\' f", &["a=\"b \\\" c\"", "d='e\\'", "f"]),
            ("àöû \"âbc xÿz\"", &["àöû", "\"âbc xÿz\""]),
            ("a=b\\", &["a=b"]),
            ("\"\" ''", &["\"\"", "''"]),
            ("a=\"open b", &["a=\"open b"]),
        ] {
            assert_eq!(quoted_words(rest, '\\'), expected, "{rest}");
        }
        assert_eq!(quoted_words("a=c:\\x` y", '`'), ["a=c:\\x` y"]);
    }
}
