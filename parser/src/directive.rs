//! `# escape=`, `# syntax=`, `# check=` at the head of a file (spec 1.2).
//!
//! There are two readers, as in BuildKit: the lines that give the escape character are trimmed first and know no
//! shebang; `syntax` and `check` are looked for in the lines as they are, after a shebang.

use crate::json;

const NAMES: [&str; 3] = ["escape", "syntax", "check"];

/// Reads directives one after the other and refuses a second one of the same name (L12).
#[derive(Debug, Default)]
pub(crate) struct DirectiveReader {
    seen: Vec<&'static str>,
}

impl DirectiveReader {
    /// Name and value; `None` for a line that is not a known directive.
    pub(crate) fn read(&mut self, line: &[u8]) -> Result<Option<(&'static str, String)>, String> {
        let Some((name, value)) = split(line, "#") else {
            return Ok(None);
        };
        if self.seen.contains(&name) {
            return Err(format!("only one {name} parser directive can be used"));
        }
        self.seen.push(name);
        Ok(Some((name, value)))
    }
}

/// The whole value of `# syntax=`: an image reference up to the first blank, then what the frontend gets as its command
/// line (L16). Also found as `//syntax=` and as the member of a JSON object.
pub fn detect_syntax(text: &[u8]) -> Option<String> {
    find(text, "syntax", "#")
        .or_else(|| find(text, "syntax", "//"))
        .or_else(|| {
            let text = std::str::from_utf8(after_mark(text)).ok()?;
            json::string_member(text, "syntax")
        })
}

/// The value of `# check=` up to its first blank, for [`crate::check::CheckOptions`].
pub fn detect_check(text: &[u8]) -> Option<String> {
    find(text, "check", "#").and_then(|value| value.split(' ').next().map(str::to_owned))
}

fn after_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

fn find(text: &[u8], wanted: &str, comment: &str) -> Option<String> {
    let text = after_mark(text);
    let shebang = usize::from(text.starts_with(b"#!"));
    for line in text.split(|byte| *byte == b'\n').skip(shebang) {
        let (name, value) = split(line.strip_suffix(b"\r").unwrap_or(line), comment)?;
        if name == wanted {
            return Some(value);
        }
    }
    None
}

/// `#`, blanks, name, blanks, `=`, blanks, value (L10).
fn split(line: &[u8], comment: &str) -> Option<(&'static str, String)> {
    let line = std::str::from_utf8(line.strip_prefix(comment.as_bytes())?).ok()?;
    let (name, value) = line.split_once('=')?;
    let value = value.trim();
    let name = NAMES
        .into_iter()
        .find(|known| known.eq_ignore_ascii_case(name.trim()))?;
    (!value.is_empty()).then(|| (name, value.to_owned()))
}
