//! Tokens to a tree.

use serde_json::Value;

use super::functions::FUNCTIONS;
use super::lexer::{Piece, Token, split};
use super::{Result, fail};

/// How deep blocks and parentheses may nest.
const DEPTH: usize = 50;
const NO_END: &str = "unexpected EOF: a block has no {{end}}";

#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(String),
    Print(Pipeline),
    /// `{{$v := ...}}`, and without `new` `{{$v = ...}}`.
    Set {
        name: String,
        new: bool,
        value: Pipeline,
    },
    If {
        condition: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    With {
        value: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        key: Option<String>,
        item: Option<String>,
        list: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

/// Commands; each gets the value of the one before it as its last argument.
pub(super) type Pipeline = Vec<Vec<Operand>>;

#[derive(Debug, Clone)]
pub(super) enum Operand {
    /// `.A.B`, `$.A`, `$v.A`: variable (empty for dot) and fields.
    Path(Option<String>, Vec<String>),
    Function(String),
    Literal(Value),
    Group(Pipeline, Vec<String>),
}

/// The tree of a template.
pub(super) fn parse(text: &str) -> Result<Vec<Node>> {
    let mut parser = Parser {
        pieces: split(text)?.into_iter().peekable(),
    };
    let (nodes, end) = parser.block(0)?;
    match end {
        None => Ok(nodes),
        Some(End::End) => Err(fail("unexpected {{end}}")),
        Some(End::Else(_)) => Err(fail("unexpected {{else}}")),
    }
}

/// What ended a block.
enum End {
    End,
    /// With what follows the word: `if` and a condition, or nothing.
    Else(Vec<Token>),
}

struct Parser {
    pieces: std::iter::Peekable<std::vec::IntoIter<Piece>>,
}

impl Parser {
    /// Nodes up to `end`, `else` or the end of the text, and which of them it was.
    fn block(&mut self, depth: usize) -> Result<(Vec<Node>, Option<End>)> {
        if depth > DEPTH {
            return Err(fail("blocks nest too deep"));
        }
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let tokens = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens) => tokens,
            };
            let word = match tokens.first() {
                Some(Token::Word(word)) => word.as_str(),
                None => return Err(fail("missing value for command")),
                _ => "",
            };
            match word {
                "end" if tokens.len() == 1 => return Ok((nodes, Some(End::End))),
                "else" => return Ok((nodes, Some(End::Else(tokens[1..].to_vec())))),
                "if" | "with" | "range" => nodes.push(self.control(word, &tokens[1..], depth)?),
                "template" | "define" | "block" | "break" | "continue" => {
                    return Err(fail(format!("{{{{{word}}}}} is not supported")));
                }
                _ => nodes.push(action(&tokens)?),
            }
        }
        Ok((nodes, None))
    }

    /// What follows `{{else}}`. `{{else if}}` is a block in it that ends where this one does.
    fn otherwise(&mut self, word: &str, more: &[Token], depth: usize) -> Result<Vec<Node>> {
        if let Some(Token::Word(again)) = more.first()
            && again == word
            && word != "range"
        {
            return Ok(vec![self.control(word, &more[1..], depth + 1)?]);
        }
        if !more.is_empty() {
            return Err(fail(format!(
                "unexpected words after {{{{else}}}} of {{{{{word}}}}}"
            )));
        }
        match self.block(depth + 1)? {
            (nodes, Some(End::End)) => Ok(nodes),
            (_, Some(End::Else(_))) => Err(fail("a block has two {{else}}")),
            (_, None) => Err(fail(NO_END)),
        }
    }

    fn control(&mut self, word: &str, mut tokens: &[Token], depth: usize) -> Result<Node> {
        let mut variables = Vec::new();
        if word == "range"
            && let Some(assign) = tokens.iter().position(|t| *t == Token::Sign(":="))
        {
            for token in &tokens[..assign] {
                match token {
                    Token::Path(Some(name), fields) if fields.is_empty() => variables.push(name.clone()),
                    Token::Sign(",") => {}
                    other => return Err(fail(format!("unexpected {other:?} in range"))),
                }
            }
            tokens = &tokens[assign + 1..];
        }
        let value = pipeline(tokens)?;
        let (then, end) = self.block(depth + 1)?;
        let otherwise = match end {
            Some(End::End) => Vec::new(),
            Some(End::Else(more)) => self.otherwise(word, &more, depth)?,
            None => return Err(fail(NO_END)),
        };
        Ok(match word {
            "if" => Node::If {
                condition: value,
                then,
                otherwise,
            },
            "with" => Node::With {
                value,
                then,
                otherwise,
            },
            _ => {
                let item = variables.pop();
                Node::Range {
                    key: variables.pop(),
                    item,
                    list: value,
                    body: then,
                    otherwise,
                }
            }
        })
    }
}

/// A value to show, or one to remember.
fn action(tokens: &[Token]) -> Result<Node> {
    if let [
        Token::Path(Some(name), fields),
        Token::Sign(sign @ (":=" | "=")),
        value @ ..,
    ] = tokens
        && fields.is_empty()
    {
        return Ok(Node::Set {
            name: name.clone(),
            new: *sign == ":=",
            value: pipeline(value)?,
        });
    }
    Ok(Node::Print(pipeline(tokens)?))
}

fn pipeline(tokens: &[Token]) -> Result<Pipeline> {
    let mut at = 0;
    let pipeline = commands(tokens, &mut at, 0)?;
    if at < tokens.len() {
        return Err(fail("unexpected right parenthesis"));
    }
    Ok(pipeline)
}

/// Commands up to a closing parenthesis or the end.
fn commands(tokens: &[Token], at: &mut usize, depth: usize) -> Result<Pipeline> {
    if depth > DEPTH {
        return Err(fail("parentheses nest too deep"));
    }
    let mut commands = vec![Vec::new()];
    while let Some(token) = tokens.get(*at) {
        let operand = match token {
            Token::Sign(")") => break,
            Token::Sign("(") => {
                *at += 1;
                let group = self::commands(tokens, at, depth + 1)?;
                if tokens.get(*at) != Some(&Token::Sign(")")) {
                    return Err(fail("unclosed left parenthesis"));
                }
                let fields = match tokens.get(*at + 1) {
                    Some(Token::Fields(fields)) => {
                        *at += 1;
                        fields.clone()
                    }
                    _ => Vec::new(),
                };
                Operand::Group(group, fields)
            }
            Token::Fields(_) => return Err(fail("unexpected field after a parenthesis")),
            Token::Sign("|") => {
                commands.push(Vec::new());
                *at += 1;
                continue;
            }
            Token::Sign(sign) => return Err(fail(format!("unexpected {sign:?}"))),
            Token::Path(variable, fields) => Operand::Path(variable.clone(), fields.clone()),
            Token::Word(name) => {
                if !FUNCTIONS.contains(&name.as_str()) {
                    return Err(fail(format!("function {name:?} not defined")));
                }
                Operand::Function(name.clone())
            }
            Token::Literal(value) => Operand::Literal(value.clone()),
        };
        if let Some(command) = commands.last_mut() {
            command.push(operand);
        }
        *at += 1;
    }
    if commands.iter().any(Vec::is_empty) {
        return Err(fail("missing value for command"));
    }
    Ok(commands)
}
