//! Bytes of a process made fit to be shown: split into lines, harmless for a terminal.

/// A line that does not end is cut here, so that a process cannot make rbuild hold it.
const LINE_LIMIT: usize = 16 * 1024;

/// Collects bytes into lines.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Adds bytes and gives every line that they complete, without its newline.
    pub fn push(&mut self, data: &[u8], mut line: impl FnMut(&[u8])) {
        for piece in data.split_inclusive(|b| *b == b'\n') {
            for part in piece.chunks(LINE_LIMIT) {
                self.partial.extend_from_slice(part);
                if self.partial.ends_with(b"\n") {
                    self.partial.pop();
                    if self.partial.ends_with(b"\r") {
                        self.partial.pop();
                    }
                } else if self.partial.len() < LINE_LIMIT {
                    continue;
                }
                line(&self.partial);
                self.partial.clear();
            }
        }
    }

    /// Gives the last line when it had no newline.
    pub fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            line(&self.partial);
            self.partial.clear();
        }
    }
}

/// `line` without what moves a terminal's cursor, sets its title or its clipboard: escape sequences
/// other than colours go, control characters but the tab too; after a carriage return only what
/// would be visible is kept.
pub fn harmless(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.rsplit('\r').find(|part| !part.is_empty()).unwrap_or("");
    let mut shown = String::with_capacity(text.len());
    let mut coloured = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                if let Some(colour) = escape_sequence(&mut chars) {
                    shown.push_str(&colour);
                    coloured = true;
                }
            }
            '\t' => shown.push('\t'),
            c if c.is_control() => {}
            c => shown.push(c),
        }
    }
    if coloured {
        shown.push_str("\u{1b}[0m");
    }
    shown
}

/// Takes the rest of an escape sequence; gives it back when it only sets colours (CSI ... m).
fn escape_sequence(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    match chars.peek() {
        Some('[') => {
            chars.next();
            let mut parameters = String::new();
            for c in chars.by_ref() {
                match c {
                    '0'..='9' | ';' | ':' => parameters.push(c),
                    'm' => return Some(format!("\u{1b}[{parameters}m")),
                    ' '..='?' => parameters.clear(),
                    _ => return None,
                }
            }
            None
        }
        // OSC, DCS, PM, APC: up to BEL or ST.
        Some(']' | 'P' | '^' | '_' | 'X') => {
            while let Some(c) = chars.next() {
                if c == '\u{7}' {
                    break;
                }
                if c == '\u{1b}' {
                    chars.next_if_eq(&'\\');
                    break;
                }
            }
            None
        }
        _ => {
            chars.next();
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_and_bounded() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        lines.push(b"a\r\nb", |l| seen.push(l.to_vec()));
        lines.push(b"c\n\n", |l| seen.push(l.to_vec()));
        lines.push(&vec![b'x'; LINE_LIMIT * 2 + 1], |l| seen.push(l.to_vec()));
        lines.finish(|l| seen.push(l.to_vec()));
        let lengths: Vec<usize> = seen.iter().map(Vec::len).collect();
        assert_eq!(seen[..3], [b"a".to_vec(), b"bc".to_vec(), b"".to_vec()]);
        assert_eq!(lengths[3..], [LINE_LIMIT, LINE_LIMIT, 1]);
    }

    #[test]
    fn terminal_control_is_taken_out() {
        for (given, shown) in [
            ("plain\ttext", "plain\ttext"),
            ("\u{1b}[31mred", "\u{1b}[31mred\u{1b}[0m"),
            ("a\u{1b}[2Jb\u{1b}[10;10Hc", "abc"),
            ("\u{1b}]52;c;ZXZpbA==\u{7}x", "x"),
            ("\u{1b}]0;title\u{1b}\\x", "x"),
            ("10%\r20%", "20%"),
            ("\u{8}\u{0}z", "z"),
            ("end\u{1b}", "end"),
        ] {
            assert_eq!(harmless(given.as_bytes()), shown, "{given:?}");
        }
    }
}
