//! Text to pieces, and actions to tokens.

use serde_json::Value;

use super::{Result, fail};

/// A part of a template.
pub(super) enum Piece {
    Text(String),
    /// What stands between `{{` and `}}`.
    Action(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// `.`, `.A.B`, `$`, `$v.A`: variable (empty for dot) and fields.
    Path(Option<String>, Vec<String>),
    /// `.A.B` directly after a closing parenthesis.
    Fields(Vec<String>),
    Word(String),
    Literal(Value),
    Sign(&'static str),
}

/// Cuts a template at its actions and trims where `{{-` and `-}}` ask for it.
pub(super) fn split(text: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim_next = false;
    loop {
        let (before, after) = match rest.split_once("{{") {
            Some((before, after)) => (before, Some(after)),
            None => (rest, None),
        };
        let mut before = if trim_next { before.trim_start() } else { before };
        let Some(after) = after else {
            pieces.push(Piece::Text(before.to_owned()));
            return Ok(pieces);
        };
        let mut action = after;
        if let Some(trimmed) = action.strip_prefix("- ") {
            before = before.trim_end();
            action = trimmed;
        }
        pieces.push(Piece::Text(before.to_owned()));
        let end = action_end(action).ok_or_else(|| fail("unclosed action"))?;
        let mut inside = &action[..end];
        rest = &action[end + 2..];
        trim_next = inside.ends_with(" -");
        if trim_next {
            inside = &inside[..inside.len() - 2];
        }
        let comment = inside.trim();
        if !(comment.starts_with("/*") && comment.ends_with("*/")) {
            pieces.push(Piece::Action(tokens(inside)?));
        }
    }
}

/// Where `}}` ends the action: not inside a string.
fn action_end(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if text[at..].starts_with("}}") => return Some(at),
            None => {}
        }
    }
    None
}

fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    let name_end = |text: &str| {
        text.find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(text.len())
    };
    while let Some(first) = rest.chars().next() {
        let mut used = first.len_utf8();
        let place = text.len() - rest.len();
        let after_group = text[..place].ends_with(')');
        tokens.push(match first {
            '(' => Token::Sign("("),
            ')' => Token::Sign(")"),
            '|' => Token::Sign("|"),
            ',' => Token::Sign(","),
            ':' if rest.starts_with(":=") => {
                used = 2;
                Token::Sign(":=")
            }
            '=' => Token::Sign("="),
            '`' => {
                let end = rest[1..]
                    .find('`')
                    .ok_or_else(|| fail("unterminated raw quoted string"))?;
                used = end + 2;
                Token::Literal(rest[1..=end].into())
            }
            '"' => {
                let (text, length) = quoted(rest)?;
                used = length;
                Token::Literal(text.into())
            }
            '.' | '$' => {
                let mut variable = None;
                used = 0;
                if first == '$' {
                    used = 1 + name_end(&rest[1..]);
                    variable = Some(rest[..used].to_owned());
                }
                let mut fields = Vec::new();
                while rest[used..].starts_with('.') {
                    let length = name_end(&rest[used + 1..]);
                    if length == 0 && !(fields.is_empty() && variable.is_none()) {
                        return Err(fail(format!("bad field in {text:?}")));
                    }
                    if length > 0 {
                        fields.push(rest[used + 1..used + 1 + length].to_owned());
                    }
                    used += 1 + length;
                    if length == 0 {
                        break;
                    }
                }
                match variable {
                    None if after_group && !fields.is_empty() => Token::Fields(fields),
                    variable => Token::Path(variable, fields),
                }
            }
            '-' | '0'..='9' => {
                used = 1 + rest[1..]
                    .find(|c: char| !c.is_ascii_digit())
                    .unwrap_or(rest.len() - 1);
                let number: i64 = rest[..used]
                    .parse()
                    .map_err(|_| fail(format!("bad number {:?}", &rest[..used])))?;
                Token::Literal(number.into())
            }
            c if c.is_alphabetic() || c == '_' => {
                used = name_end(rest);
                match &rest[..used] {
                    "true" => Token::Literal(true.into()),
                    "false" => Token::Literal(false.into()),
                    "nil" => Token::Literal(Value::Null),
                    word => Token::Word(word.to_owned()),
                }
            }
            other => return Err(fail(format!("unexpected {other:?} in {text:?}"))),
        });
        rest = rest[used..].trim_start();
    }
    Ok(tokens)
}

/// A Go string literal at the start of `text`, and how many bytes it takes.
fn quoted(text: &str) -> Result<(String, usize)> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((out, at + 1)),
            '\\' => out.push(match chars.next().map(|(_, c)| c) {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                Some(c @ ('"' | '\\' | '\'')) => c,
                _ => return Err(fail(format!("unknown escape in {text:?}"))),
            }),
            c => out.push(c),
        }
    }
    Err(fail("unterminated quoted string"))
}
