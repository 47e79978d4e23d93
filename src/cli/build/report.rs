//! A failed build as it is shown: the end of the step's log, the lines of the Dockerfile, one error line
//! and what to do about it (spec 8.3, design D12).

use std::io::{IsTerminal, Write};

use rbuild_parser::diagnostic::excerpt;

use crate::error::BuildError;
use crate::frontend::Warning;
use crate::graph::address::masked;
use crate::progress::Tail;
use crate::progress::text::harmless;

/// A warning in one line: `Rule: message`.
pub fn line(warning: &Warning) -> String {
    match warning.rule {
        "" => warning.text(),
        rule => format!("{rule}: {}", warning.text()),
    }
}

/// Lists the warnings of a build on standard error.
pub fn summary(warnings: &[Warning]) {
    let number = match warnings.len() {
        0 => return,
        1 => "1 warning".to_owned(),
        number => format!("{number} warnings"),
    };
    let mut text = format!("\n {number} found (use --check to expand):\n");
    for warning in warnings {
        let place = warning.location.as_ref();
        let place = place.map(|location| format!(" (line {})", location.start));
        text.push_str(&format!(" - {}{}\n", line(warning), place.unwrap_or_default()));
    }
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Prints an explanation on standard error.
pub fn tell(text: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Prints `error` on standard error. `source` is the Dockerfile's text, empty when it could not be read.
pub fn print(error: &BuildError, source: &str, progress: &Tail) {
    let terminal = std::io::stderr().is_terminal();
    let mut text = String::new();
    if let Some((vertex, name)) = &error.vertex {
        let lines = progress.last_lines(vertex);
        if !lines.is_empty() {
            text.push_str(&format!("------\n > {name}:\n"));
            for line in lines {
                let line = if terminal {
                    harmless(&line)
                } else {
                    String::from_utf8_lossy(&line).into_owned()
                };
                text.push_str(&line);
                text.push('\n');
            }
            text.push_str("------\n");
        }
    }
    if let Some(location) = &error.location {
        let lines = excerpt(&location.file, source, location.start, location.end);
        text.push_str(&masked(&lines));
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    text.push_str(&format!("ERROR: failed to build: {error}\n"));
    if let Some(hint) = &error.hint {
        text.push_str(&format!("hint: {hint}\n"));
    }
    // Nobody is left to tell when standard error is closed.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
