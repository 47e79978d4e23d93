//! One logical line to a statement: keyword, flags and operands, as the grammar of its keyword splits them. What the
//! operands have to be is said in [`crate::typed`].

use crate::flags::Fault;
use crate::heredoc::{self, Opener};
use crate::instruction::{Heredoc, KeyValue};
use crate::json::{self, JsonArray};
use crate::words::{blank_separated, first_blank, quoted_words, split_line};

/// A line taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statement {
    /// As written.
    pub keyword: String,
    /// In upper case.
    pub name: String,
    /// Flag words.
    pub flags: Vec<String>,
    /// Everything after the flags, trimmed.
    pub rest: String,
    pub operands: Operands,
    /// Heredocs with their bodies as they are in the file, in order.
    pub heredocs: Vec<(Heredoc, String)>,
}

/// What comes after the flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operands {
    /// Words or one text, by keyword.
    Words(Vec<String>),
    /// A JSON array.
    Json(Vec<String>),
    /// `K=V` pairs.
    Pairs(Vec<KeyValue>),
    /// HEALTHCHECK: the first word, and what follows it.
    Typed(String, Box<Operands>),
    /// ONBUILD: another statement.
    Statement(Box<Statement>),
}

impl Statement {
    /// Takes a line apart. What fails here fails before any instruction is looked at.
    pub(crate) fn lex(line: &str, escape: char) -> Result<Self, Fault> {
        let parts = split_line(line);
        let name = parts.keyword.to_ascii_uppercase();
        let rest = parts.rest;
        let operands = match name.as_str() {
            "RUN" | "CMD" | "ENTRYPOINT" | "SHELL" => text_or_json(rest)?,
            "ADD" | "COPY" | "VOLUME" => match json_array(rest)? {
                Some(strings) => Operands::Json(strings),
                None => Operands::Words(blank_separated(rest)),
            },
            "FROM" | "EXPOSE" => Operands::Words(blank_separated(rest)),
            "ENV" | "LABEL" => Operands::Pairs(pairs(rest, &name, escape)?),
            "ARG" => Operands::Words(quoted_words(rest, escape)),
            "HEALTHCHECK" => {
                let (kind, rest) = match rest.split_once(char::is_whitespace) {
                    Some((kind, rest)) => (kind, rest.trim_start()),
                    None => (rest, ""),
                };
                Operands::Typed(kind.to_owned(), Box::new(text_or_json(rest)?))
            }
            // A trigger in a trigger is refused later: one level is enough, and no input makes more of them.
            "ONBUILD" if !rest.is_empty() && !is_onbuild(rest) => {
                Operands::Statement(Box::new(Self::lex(rest, escape)?))
            }
            // MAINTAINER, STOPSIGNAL, USER, WORKDIR, and what is no instruction.
            _ => Operands::Words(text(rest)),
        };
        Ok(Self {
            keyword: parts.keyword.to_owned(),
            name,
            flags: parts.flags,
            rest: rest.to_owned(),
            operands,
            heredocs: Vec::new(),
        })
    }

    /// The heredocs that the line opens (L50).
    pub(crate) fn openers(&self, line: &str) -> Vec<Opener> {
        let inner = match &self.operands {
            Operands::Statement(inner) => inner,
            _ => self,
        };
        match (inner.name.as_str(), &inner.operands) {
            ("RUN" | "COPY" | "ADD", Operands::Words(_)) => heredoc::openers(line),
            _ => Vec::new(),
        }
    }
}

fn is_onbuild(rest: &str) -> bool {
    split_line(rest).keyword.eq_ignore_ascii_case("ONBUILD")
}

fn text(rest: &str) -> Vec<String> {
    if rest.is_empty() {
        Vec::new()
    } else {
        vec![rest.to_owned()]
    }
}

fn text_or_json(rest: &str) -> Result<Operands, Fault> {
    Ok(match json_array(rest)? {
        Some(strings) => Operands::Json(strings),
        None => Operands::Words(text(rest)),
    })
}

fn json_array(rest: &str) -> Result<Option<Vec<String>>, Fault> {
    match json::parse_array(rest) {
        JsonArray::No => Ok(None),
        JsonArray::Strings(strings) => Ok(Some(strings)),
        JsonArray::Mixed => {
            let message = "when using JSON array syntax, arrays must be comprised of strings only";
            Err(Fault::new("json-strings", message).help("put double quotes around every element"))
        }
    }
}

/// The operands of ENV and LABEL (X16, X17).
fn pairs(rest: &str, name: &str, escape: char) -> Result<Vec<KeyValue>, Fault> {
    let words = quoted_words(rest, escape);
    let Some(first) = words.first() else {
        return Ok(Vec::new());
    };
    if !first.contains('=') {
        let Some((key, value)) = first_blank(rest) else {
            let fault = Fault::new("key-value", format!("{name} must have two arguments"));
            return Err(fault.help(format!("write {name} {rest}=VALUE")));
        };
        return Ok(vec![KeyValue {
            key: key.to_owned(),
            value: value.to_owned(),
            legacy: true,
        }]);
    }
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) => Ok(KeyValue {
                key: key.to_owned(),
                value: value.to_owned(),
                legacy: false,
            }),
            None => {
                let message =
                    format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value");
                Err(Fault::new("key-value", message).help("put quotes around a value that has blanks"))
            }
        })
        .collect()
}
