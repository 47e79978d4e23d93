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

/// Lines of an instruction that are shown; a long script is not repeated as a whole.
const MOST_LINES: usize = 24;

/// The lines of `source` around `start_line..=end_line`, in BuildKit's frame, without a line end after it:
///
/// ```text
/// Dockerfile:3
/// --------------------
///    1 |     FROM busybox
///    2 |     
///    3 | >>> RUN false
/// --------------------
/// ```
///
/// Control characters are not passed on: the text may come from somebody else and goes to a terminal.
pub fn excerpt(file: &str, source: &str, start_line: usize, end_line: usize) -> String {
    use std::fmt::Write;

    const RULE: &str = "--------------------";
    let lines: Vec<&str> = source.split('\n').collect();
    if start_line == 0 || start_line > lines.len() {
        return format!("{file}:{start_line}");
    }
    let marked = start_line..=end_line.clamp(start_line, lines.len());
    let (mut first, mut last) = (*marked.start(), *marked.end());
    let wanted = if first == last { 4 } else { 2 };
    let mut added = 0;
    while added < wanted {
        if first > 1 {
            first -= 1;
            added += 1;
        }
        if last < lines.len() {
            last += 1;
            added += 1;
        }
        added += 1;
    }
    let mut text = format!("{file}:{start_line}\n{RULE}\n");
    for number in first..=last {
        if number >= start_line + MOST_LINES && number < *marked.end() {
            if number == start_line + MOST_LINES {
                let _ = writeln!(text, " ... | >>> ({} more lines)", marked.end() - number);
            }
            continue;
        }
        let mark = if marked.contains(&number) { ">>>" } else { "   " };
        let line = lines[number - 1].trim_end_matches('\r');
        let shown = line.replace(|scalar: char| scalar.is_control() && scalar != '\t', "\u{fffd}");
        let _ = writeln!(text, " {number:>3} | {mark} {shown}");
    }
    text.push_str(RULE);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "FROM busybox\r\n\nRUN false\nRUN \x1b[2J \\\n  two\nCMD x\n";

    #[test]
    fn one_line() {
        assert_eq!(
            excerpt("Dockerfile", SOURCE, 3, 3),
            "Dockerfile:3\n--------------------\n   1 |     FROM busybox\n   2 |     \n   3 | >>> RUN false\n   4 |     RUN \u{fffd}[2J \\\n   5 |       two\n--------------------"
        );
    }

    #[test]
    fn several_lines_and_none() {
        assert_eq!(
            excerpt("d/f", SOURCE, 4, 5),
            "d/f:4\n--------------------\n   3 |     RUN false\n   4 | >>> RUN \u{fffd}[2J \\\n   5 | >>>   two\n   6 |     CMD x\n--------------------"
        );
        assert_eq!(excerpt("f", SOURCE, 0, 0), "f:0");
        assert_eq!(excerpt("f", "", 9, 9), "f:9");
        assert!(excerpt("f", "x", 1, usize::MAX).contains(">>> x"));
    }

    #[test]
    fn a_long_script_is_cut() {
        let source = "RUN <<E\n".to_owned() + &"x\n".repeat(1000) + "E\n";
        let shown = excerpt("f", &source, 1, 1002);
        assert!(
            shown.lines().count() < 32 && shown.contains("(977 more lines)") && shown.contains(">>> E"),
            "{shown}"
        );
    }
}
