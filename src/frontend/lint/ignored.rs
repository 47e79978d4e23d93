//! CopyIgnoredFile: sources of COPY and ADD that the ignore file leaves out of the context.

use rbuild_parser::ignore::Matcher;

/// Patterns that leave everything out.
const EVERYTHING: [&str; 3] = ["*", "**", "**/*"];

/// The ignore file, as far as it can be said of a path that it is left out with all that is below.
#[derive(Debug, Default)]
pub(in crate::frontend) struct IgnoredSources {
    matcher: Matcher,
    everything: bool,
}

impl IgnoredSources {
    /// With a negated pattern nothing can be said: what lies below a directory may be there again. A pattern that is
    /// none is told when the context is read.
    pub(in crate::frontend) fn new(patterns: &[String]) -> Self {
        match Matcher::new(patterns) {
            Ok(matcher) if !matcher.has_negations() => Self {
                matcher,
                everything: patterns.iter().any(|it| EVERYTHING.contains(&it.as_str())),
            },
            _ => Self::default(),
        }
    }

    /// What to warn of when `keyword` (COPY or ADD) has the operand `source`.
    pub(in crate::frontend) fn warning(&self, keyword: &str, source: &str) -> Option<String> {
        if self.matcher.is_empty() {
            return None;
        }
        let mut parts: Vec<&str> = Vec::new();
        for part in source.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let path = parts.join("/");
        let ignored = if path.is_empty() {
            self.everything
        } else {
            self.matcher.excludes(path.as_bytes())
        };
        let shown = match (source.starts_with('/'), path.as_str()) {
            (true, path) => format!("/{path}"),
            (false, "") => ".".to_owned(),
            (false, path) => path.to_owned(),
        };
        let verb = if keyword == "ADD" { "Add" } else { "Copy" };
        ignored.then(|| format!("Attempting to {verb} file {shown:?} that is excluded by .dockerignore"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_looked_up() {
        for (patterns, source, shown) in [
            (&["a", "*.txt"][..], "a", Some("a")),
            (&["a"], "./a/b/", Some("a/b")),
            (&["a"], "/x/../a", Some("/a")),
            (&["*.txt"], "*.txt", Some("*.txt")),
            (&["a"], "b", None),
            (&["a"], ".", None),
            (&["*"], ".", Some(".")),
            (&["**/*"], "/", Some("/")),
            (&["*", "!a/b"], "a", None),
            (&[], "a", None),
        ] {
            let patterns: Vec<String> = patterns.iter().map(|it| (*it).to_owned()).collect();
            let expected = shown.map(|shown| {
                format!("Attempting to Copy file \"{shown}\" that is excluded by .dockerignore")
            });
            let found = IgnoredSources::new(&patterns).warning("COPY", source);
            assert_eq!(found, expected, "{patterns:?} {source}");
        }
    }
}
