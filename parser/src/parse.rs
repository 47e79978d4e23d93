//! A file to typed instructions.
//!
//! All instructions of all stages are parsed, whichever will be built; errors are collected, in the order of the file.

use crate::check::CheckOptions;
use crate::diagnostic::{Diagnostic, Severity};
use crate::directive::{detect_check, detect_syntax};
use crate::flags::Fault;
use crate::heredoc::{Opener, strip_tabs};
use crate::instruction::{Directives, Dockerfile, Heredoc, Instruction, Spanned, Stage};
use crate::line::{LineReader, LogicalLine, trim_newline};
use crate::span::Span;
use crate::statement::Statement;
use crate::typed::Typed;

/// More errors than this help nobody: they follow from the first ones.
const MOST_ERRORS: usize = 20;

/// Nobody writes more, and what a program writes by mistake must not take all memory: an instruction takes some kilobytes.
const MOST_INSTRUCTIONS: usize = 20_000;

/// Parses a Dockerfile. The first error comes first; there is at least one.
pub fn parse(text: &[u8]) -> Result<Dockerfile, Vec<Diagnostic>> {
    if text.is_empty() {
        return Err(vec![error(
            Fault::new("empty", "the Dockerfile cannot be empty"),
            Span::default(),
        )]);
    }
    let mut parser = Parser {
        reader: LineReader::file(text),
        warnings: Vec::new(),
    };
    let mut errors = Vec::new();
    let mut global_args = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    let (mut any, mut from) = (false, false);
    let mut count = 0;
    while let Some(next) = parser.next() {
        any = true;
        count += 1;
        let statement = match next {
            Ok(statement) if count > MOST_INSTRUCTIONS => {
                let fault = Fault::new(
                    "too-long",
                    format!("a Dockerfile has at most {MOST_INSTRUCTIONS} instructions"),
                );
                errors.push(error(
                    fault.help("put commands into one RUN (a heredoc has room for many), or build one image FROM another"),
                    statement.span,
                ));
                break;
            }
            Ok(statement) => statement,
            Err(Failure { diagnostic, keyword }) => {
                from |= keyword.eq_ignore_ascii_case("FROM");
                errors.push(*diagnostic);
                if errors.len() == MOST_ERRORS {
                    break;
                }
                continue;
            }
        };
        match (statement.value.clone(), stages.last_mut()) {
            (Typed::From(value), _) => {
                from = true;
                stages.push(Stage {
                    from: statement.with(value),
                    instructions: Vec::new(),
                });
            }
            (Typed::Instruction(value), Some(stage)) => stage.instructions.push(statement.with(value)),
            (Typed::Instruction(Instruction::Arg(value)), None) => global_args.push(statement.with(value)),
            // Of a stage whose FROM is wrong.
            (Typed::Instruction(_), None) if from => {}
            (Typed::Instruction(_), None) => {
                from = true;
                let fault = Fault::new("no-stage", "no build stage in current context");
                errors.push(error(
                    fault.help("a Dockerfile begins with FROM; only ARG may come before it"),
                    statement.span,
                ));
            }
        }
    }
    let end = Span {
        start: text.len(),
        end: text.len(),
        start_line: parser.reader.line(),
        end_line: parser.reader.line(),
    };
    if !any {
        errors.push(error(Fault::new("empty", "file with no instructions"), end));
    } else if errors.is_empty() && stages.is_empty() {
        errors.push(error(
            Fault::new("no-stage", "dockerfile contains no stages to build"),
            end,
        ));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let directives = Directives {
        escape: parser.reader.escape(),
        syntax: detect_syntax(text),
        check: detect_check(text),
    };
    Ok(Dockerfile {
        directives,
        global_args,
        stages,
        warnings: parser.warnings,
    })
}

/// Parses one instruction, heredoc bodies included: the trigger of an ONBUILD.
pub fn parse_trigger(text: &str, escape: char) -> Result<Spanned<Instruction>, Diagnostic> {
    let escape = if escape == '`' { b'`' } else { b'\\' };
    let mut parser = Parser {
        reader: LineReader::trigger(text.as_bytes(), escape),
        warnings: Vec::new(),
    };
    let single = |span| {
        error(
            Fault::new("onbuild", "onbuild trigger should be a single expression"),
            span,
        )
    };
    let first = parser
        .next()
        .ok_or_else(|| single(Span::default()))?
        .map_err(|failure| *failure.diagnostic)?;
    if parser.next().is_some() {
        return Err(single(first.span));
    }
    let name = match &first.value {
        Typed::Instruction(Instruction::Onbuild(_)) => {
            let fault = Fault::new("onbuild", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed");
            return Err(error(fault, first.span));
        }
        Typed::Instruction(Instruction::Maintainer(_)) => "MAINTAINER",
        Typed::From(_) => "FROM",
        Typed::Instruction(instruction) => {
            let instruction = instruction.clone();
            return Ok(first.with(instruction));
        }
    };
    Err(error(
        Fault::new("onbuild", format!("{name} isn't allowed as an ONBUILD trigger")),
        first.span,
    ))
}

fn error(fault: Fault, span: Span) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        code: fault.code,
        message: fault.message,
        help: fault.help,
        span,
    }
}

impl<T> Spanned<T> {
    /// Another thing in the same place.
    fn with<U>(self, value: U) -> Spanned<U> {
        Spanned {
            value,
            span: self.span,
            keyword: self.keyword,
            text: self.text,
            comments: self.comments,
        }
    }
}

struct Parser<'a> {
    reader: LineReader<'a>,
    warnings: Vec<Diagnostic>,
}

/// What is wrong with a statement, and its keyword as far as it is known.
struct Failure {
    diagnostic: Box<Diagnostic>,
    keyword: String,
}

impl Parser<'_> {
    /// The next statement, typed.
    fn next(&mut self) -> Option<Result<Spanned<Typed>, Failure>> {
        let line = match self.reader.logical()? {
            Ok(line) => line,
            Err(wrong) => {
                let diagnostic = Box::new(error(Fault::new("directive", wrong.message), wrong.span));
                return Some(Err(Failure {
                    diagnostic,
                    keyword: String::new(),
                }));
            }
        };
        Some(self.statement(line))
    }

    fn statement(&mut self, line: LogicalLine) -> Result<Spanned<Typed>, Failure> {
        let LogicalLine {
            text,
            mut span,
            comments,
            empty_continuation,
        } = line;
        let text = match String::from_utf8(text) {
            Ok(text) => text,
            Err(_) => {
                let fault = Fault::new("encoding", "the instruction is not valid UTF-8");
                return Err(Failure {
                    diagnostic: Box::new(error(fault, span)),
                    keyword: String::new(),
                });
            }
        };
        let keyword = || {
            text.trim()
                .split(char::is_whitespace)
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        let fail = |fault, span| Failure {
            diagnostic: Box::new(error(fault, span)),
            keyword: keyword(),
        };
        let mut statement = Statement::lex(&text, self.reader.escape()).map_err(|fault| fail(fault, span))?;
        for opener in statement.openers(&text) {
            let heredoc = self
                .heredoc(opener, &mut span)
                .map_err(|fault| fail(fault, span))?;
            statement.heredocs.push(heredoc);
        }
        let skipped = || {
            CheckOptions::of_comments(&comments)
                .skip
                .contains("NoEmptyContinuation")
        };
        if empty_continuation && !skipped() {
            self.warnings.push(Diagnostic {
                severity: Severity::Warning,
                code: "NoEmptyContinuation",
                message: "Empty continuation line".into(),
                help: Some("empty continuation lines will become errors in a future release".into()),
                span,
            });
        }
        let value = Typed::of(&statement).map_err(|fault| fail(fault, span))?;
        Ok(Spanned {
            value,
            span,
            keyword: statement.keyword,
            text: text.trim().to_owned(),
            comments,
        })
    }

    /// Reads a body up to its terminator (L54) and widens `span` over it. Gives it as it is to be used and as it is.
    fn heredoc(&mut self, opener: Opener, span: &mut Span) -> Result<(Heredoc, String), Fault> {
        let mut raw = Vec::new();
        let mut body_span: Option<Span> = None;
        while let Some(line) = self.reader.physical() {
            let bytes = trim_newline(line.bytes);
            let end = line.start + bytes.len();
            let number = self.reader.line();
            let body = body_span.get_or_insert(Span {
                start: line.start,
                end,
                start_line: number,
                end_line: number,
            });
            (body.end, body.end_line) = (end, number);
            let mut candidate = bytes;
            while let (true, [b'\t', rest @ ..]) = (opener.strip_tabs, candidate) {
                candidate = rest;
            }
            if candidate == opener.name.as_bytes() {
                (span.end, span.end_line) = (end, number);
                let raw = String::from_utf8(raw).map_err(|_| {
                    Fault::new("encoding", format!("heredoc {} is not valid UTF-8", opener.name))
                })?;
                let body = if opener.strip_tabs {
                    strip_tabs(&raw)
                } else {
                    raw.clone()
                };
                let heredoc = Heredoc {
                    name: opener.name,
                    fd: opener.fd,
                    body,
                    expand: opener.expand,
                    strip_tabs: opener.strip_tabs,
                    opener: opener.text,
                    span: body_span.unwrap_or_default(),
                };
                return Ok((heredoc, raw));
            }
            raw.extend_from_slice(line.bytes);
        }
        let help = format!("no line is exactly {:?}, blanks included", opener.name);
        Err(Fault::new("heredoc", "unterminated heredoc").help(help))
    }
}

#[cfg(test)]
mod tests;
