//! Physical lines to logical ones: continuations, comments, blank lines, directives (spec 1.1 to 1.3).

use crate::directive::DirectiveReader;
use crate::span::Span;

/// An instruction's line with its continuations joined.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogicalLine {
    /// The text, not trimmed at the end.
    pub text: Vec<u8>,
    /// Where it is; heredoc bodies are not known yet.
    pub span: Span,
    /// Comment lines directly above.
    pub comments: Vec<String>,
    /// Whether a blank line was skipped inside (rule NoEmptyContinuation).
    pub empty_continuation: bool,
}

/// Goes through a file line by line.
#[derive(Debug)]
pub(crate) struct LineReader<'a> {
    text: &'a [u8],
    position: usize,
    /// Number of the line read last.
    line: usize,
    escape: u8,
    /// While directives may still come.
    directives: Option<DirectiveReader>,
}

/// What cannot be a directive.
#[derive(Debug)]
pub(crate) struct LineError {
    pub message: String,
    pub span: Span,
}

/// A physical line with its line end, and where it starts.
pub(crate) struct PhysicalLine<'a> {
    pub bytes: &'a [u8],
    pub start: usize,
}

impl<'a> LineReader<'a> {
    /// Reads a whole file: directives may come first, and a byte order mark is skipped (L1).
    pub(crate) fn file(text: &'a [u8]) -> Self {
        let position = if text.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        Self {
            text,
            position,
            line: 0,
            escape: b'\\',
            directives: Some(DirectiveReader::default()),
        }
    }

    /// Reads the text of a trigger: what its escape character is was said elsewhere.
    pub(crate) fn trigger(text: &'a [u8], escape: u8) -> Self {
        Self {
            text,
            position: 0,
            line: 0,
            escape,
            directives: None,
        }
    }

    /// The escape character, final once an instruction has been read.
    pub(crate) fn escape(&self) -> char {
        char::from(self.escape)
    }

    /// Number of the line read last.
    pub(crate) fn line(&self) -> usize {
        self.line
    }

    /// The next line as it is, heredoc bodies are made of these.
    pub(crate) fn physical(&mut self) -> Option<PhysicalLine<'a>> {
        let rest = self.text.get(self.position..).filter(|rest| !rest.is_empty())?;
        let length = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(rest.len(), |end| end + 1);
        let start = self.position;
        self.position += length;
        self.line += 1;
        Some(PhysicalLine {
            bytes: &rest[..length],
            start,
        })
    }

    /// The next instruction's line.
    pub(crate) fn logical(&mut self) -> Option<Result<LogicalLine, LineError>> {
        let mut comments = Vec::new();
        while let Some(line) = self.physical() {
            let bytes = trim_start(trim_newline(line.bytes));
            let start = line.start + (trim_newline(line.bytes).len() - bytes.len());
            let span = Span {
                start,
                end: start + bytes.len(),
                start_line: self.line,
                end_line: self.line,
            };
            match self.directive(bytes) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(message) => return Some(Err(LineError { message, span })),
            }
            if let [b'#', comment @ ..] = bytes {
                let comment = String::from_utf8_lossy(comment);
                match comment.trim() {
                    "" => comments.clear(),
                    comment => comments.push(comment.to_owned()),
                }
                continue;
            }
            let (part, mut continued) = self.without_continuation(bytes);
            if part.is_empty() && !continued {
                continue;
            }
            let mut logical = LogicalLine {
                text: part.to_vec(),
                span,
                comments,
                empty_continuation: false,
            };
            while continued {
                let Some(line) = self.physical() else { break };
                let bytes = trim_newline(line.bytes);
                logical.span.end = line.start + bytes.len();
                logical.span.end_line = self.line;
                match trim_start(bytes) {
                    [b'#', ..] => {}
                    [] => logical.empty_continuation = true,
                    _ => {
                        let part;
                        (part, continued) = self.without_continuation(bytes);
                        logical.text.extend_from_slice(part);
                    }
                }
            }
            return Some(Ok(logical));
        }
        None
    }

    /// Whether the line is a directive. The first one that is not ends them (L11).
    fn directive(&mut self, line: &[u8]) -> Result<bool, String> {
        let Some(reader) = &mut self.directives else {
            return Ok(false);
        };
        let Some((name, value)) = reader.read(line)? else {
            self.directives = None;
            return Ok(false);
        };
        if name == "escape" {
            match value.as_bytes() {
                [escape @ (b'\\' | b'`')] => self.escape = *escape,
                _ => return Err(format!("invalid escape token '{value}' does not match ` or \\")),
            }
        }
        Ok(true)
    }

    /// The line without its continuation character, if it has one (L21): the last character but blanks, with none of its
    /// kind before it.
    fn without_continuation<'b>(&self, line: &'b [u8]) -> (&'b [u8], bool) {
        let end = line.iter().rposition(|byte| !matches!(byte, b' ' | b'\t'));
        match end {
            Some(end) if line[end] == self.escape && (end == 0 || line[end - 1] != self.escape) => {
                (&line[..end], true)
            }
            _ => (line, false),
        }
    }
}

/// Without line ends.
pub(crate) fn trim_newline(line: &[u8]) -> &[u8] {
    let end = line
        .iter()
        .rposition(|byte| !matches!(byte, b'\r' | b'\n'))
        .map_or(0, |last| last + 1);
    &line[..end]
}

/// Without white space of any kind at the start (L6).
pub(crate) fn trim_start(line: &[u8]) -> &[u8] {
    let mut rest = line;
    while let Some(first) = rest.first() {
        let (scalar, length) = if first.is_ascii() {
            (char::from(*first), 1)
        } else {
            crate::glob::decode(rest)
        };
        if !scalar.is_whitespace() {
            break;
        }
        rest = &rest[length..];
    }
    rest
}
