//! The part of Go's text templates that `--format` is used with: fields, pipelines, `range`, `if`, `with`,
//! variables of `range`, and docker's functions (`json`, `join`, `split`, `lower`, `upper`, `title`, `truncate`, `pad`,
//! `println`). What it does not know is an error, never wrong output.

use serde_json::Value;

/// A parsed template.
#[derive(Debug, Clone)]
pub struct Template(Vec<Node>);

/// A template that cannot be parsed or applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("template parsing error: {0}")]
pub struct TemplateError(String);

type Result<T> = std::result::Result<T, TemplateError>;

/// How deep blocks and parentheses may nest.
const DEPTH: usize = 50;

#[derive(Debug, Clone)]
enum Node {
    Text(String),
    Print(Pipeline),
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
type Pipeline = Vec<Vec<Operand>>;

#[derive(Debug, Clone)]
enum Operand {
    /// `.A.B`, `$.A`, `$v.A`: variable (empty for dot) and fields.
    Path(Option<String>, Vec<String>),
    Function(String),
    Literal(Value),
    Group(Pipeline, Vec<String>),
}

impl Template {
    /// Parses `text`.
    pub fn parse(text: &str) -> Result<Self> {
        let pieces = split(text)?;
        let mut parser = Parser {
            pieces: pieces.into_iter().peekable(),
        };
        let (nodes, end) = parser.block(0)?;
        match end {
            None => Ok(Self(nodes)),
            Some(end) => Err(fail(format!("unexpected {{{{{end}}}}}"))),
        }
    }

    /// The text for `data`.
    pub fn render(&self, data: &Value) -> Result<String> {
        let mut scope = Scope {
            variables: vec![("$".to_owned(), data.clone())],
            out: String::new(),
        };
        scope.nodes(&self.0, data)?;
        Ok(scope.out)
    }
}

fn fail(text: impl Into<String>) -> TemplateError {
    TemplateError(text.into())
}

enum Piece {
    Text(String),
    Action(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// `.`, `.A.B`, `$`, `$v.A`.
    Path(Option<String>, Vec<String>),
    Word(String),
    Literal(Value),
    /// `.A` directly after a closing parenthesis.
    Sign(&'static str),
}

/// Cuts a template at its actions and trims where `{{-` and `-}}` ask for it.
fn split(text: &str) -> Result<Vec<Piece>> {
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
        tokens.push(match first {
            '(' => Token::Sign("("),
            ')' => Token::Sign(")"),
            '|' => Token::Sign("|"),
            ',' => Token::Sign(","),
            ':' if rest.starts_with(":=") => {
                used = 2;
                Token::Sign(":=")
            }
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
                Token::Path(variable, fields)
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

struct Parser {
    pieces: std::iter::Peekable<std::vec::IntoIter<Piece>>,
}

impl Parser {
    /// Nodes up to `end`, `else` or the end of the text, and which of them it was.
    fn block(&mut self, depth: usize) -> Result<(Vec<Node>, Option<String>)> {
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
                "end" if tokens.len() == 1 => return Ok((nodes, Some("end".to_owned()))),
                "else" if tokens.len() == 1 => return Ok((nodes, Some("else".to_owned()))),
                "else" => return Err(fail("{{else if}} is not supported")),
                "if" | "with" | "range" => nodes.push(self.control(word, &tokens[1..], depth)?),
                "template" | "define" | "block" | "break" | "continue" => {
                    return Err(fail(format!("{{{{{word}}}}} is not supported")));
                }
                _ => nodes.push(Node::Print(pipeline(&tokens)?)),
            }
        }
        Ok((nodes, None))
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
        let (then, mut end) = self.block(depth + 1)?;
        let mut otherwise = Vec::new();
        if end.as_deref() == Some("else") {
            (otherwise, end) = self.block(depth + 1)?;
        }
        if end.as_deref() != Some("end") {
            return Err(fail("unexpected EOF: a block has no {{end}}"));
        }
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
                Operand::Group(group, Vec::new())
            }
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

struct Scope {
    variables: Vec<(String, Value)>,
    out: String,
}

impl Scope {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<()> {
        for node in nodes {
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Print(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    self.out.push_str(&print(&value));
                }
                Node::If {
                    condition,
                    then,
                    otherwise,
                } => {
                    let branch = if truth(&self.pipeline(condition, dot)?) {
                        then
                    } else {
                        otherwise
                    };
                    self.nodes(branch, dot)?;
                }
                Node::With {
                    value,
                    then,
                    otherwise,
                } => {
                    let value = self.pipeline(value, dot)?;
                    if truth(&value) {
                        self.nodes(then, &value)?
                    } else {
                        self.nodes(otherwise, dot)?
                    }
                }
                Node::Range {
                    key,
                    item,
                    list,
                    body,
                    otherwise,
                } => {
                    let pairs: Vec<(Value, Value)> = match self.pipeline(list, dot)? {
                        Value::Array(items) => items
                            .into_iter()
                            .enumerate()
                            .map(|(i, v)| (i.into(), v))
                            .collect(),
                        Value::Object(map) => {
                            let mut pairs: Vec<_> = map.into_iter().collect();
                            pairs.sort_by(|a, b| a.0.cmp(&b.0));
                            pairs.into_iter().map(|(k, v)| (k.into(), v)).collect()
                        }
                        Value::Null => Vec::new(),
                        other => return Err(fail(format!("range can't iterate over {}", print(&other)))),
                    };
                    if pairs.is_empty() {
                        self.nodes(otherwise, dot)?;
                    }
                    for (index, value) in pairs {
                        let known = self.variables.len();
                        self.variables
                            .extend(key.iter().map(|name| (name.clone(), index.clone())));
                        self.variables
                            .extend(item.iter().map(|name| (name.clone(), value.clone())));
                        self.nodes(body, &value)?;
                        self.variables.truncate(known);
                    }
                }
            }
        }
        Ok(())
    }

    fn pipeline(&self, pipeline: &Pipeline, dot: &Value) -> Result<Value> {
        let mut piped = None;
        for command in pipeline {
            piped = Some(self.command(command, piped, dot)?);
        }
        piped.ok_or_else(|| fail("missing value for command"))
    }

    fn command(&self, command: &[Operand], piped: Option<Value>, dot: &Value) -> Result<Value> {
        let [first, rest @ ..] = command else {
            return Err(fail("missing value for command"));
        };
        let Operand::Function(name) = first else {
            if !rest.is_empty() || piped.is_some() {
                return Err(fail("can't give argument to non-function"));
            }
            return self.operand(first, dot);
        };
        let mut arguments = rest
            .iter()
            .map(|operand| self.operand(operand, dot))
            .collect::<Result<Vec<_>>>()?;
        arguments.extend(piped);
        call(name, arguments)
    }

    fn operand(&self, operand: &Operand, dot: &Value) -> Result<Value> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Function(name) => call(name, Vec::new()),
            Operand::Group(pipeline, fields) => field(&self.pipeline(pipeline, dot)?, fields),
            Operand::Path(None, fields) => field(dot, fields),
            Operand::Path(Some(name), fields) => {
                let value = self.variables.iter().rev().find(|(known, _)| known == name);
                let (_, value) = value.ok_or_else(|| fail(format!("undefined variable {name:?}")))?;
                field(value, fields)
            }
        }
    }
}

fn field(value: &Value, fields: &[String]) -> Result<Value> {
    let mut value = value;
    for name in fields {
        value = match value {
            Value::Object(map) => map
                .get(name)
                .ok_or_else(|| fail(format!("map has no entry for key {name:?}")))?,
            Value::Null => return Err(fail(format!("nil pointer evaluating .{name}"))),
            _ => return Err(fail(format!("can't evaluate field {name}"))),
        };
    }
    Ok(value.clone())
}

const FUNCTIONS: [&str; 19] = [
    "json", "join", "split", "lower", "upper", "title", "truncate", "pad", "println", "print", "len",
    "index", "eq", "ne", "and", "or", "not", "printf", "html",
];

fn call(name: &str, arguments: Vec<Value>) -> Result<Value> {
    let wrong = || fail(format!("wrong arguments for {name}"));
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(wrong);
    Ok(match (name, arguments.as_slice()) {
        ("json", [value]) => value.to_string().into(),
        ("join", [Value::Array(list), separator]) => list
            .iter()
            .map(print)
            .collect::<Vec<_>>()
            .join(&text(separator)?)
            .into(),
        ("split", [value, separator]) => text(value)?
            .split(text(separator)?.as_str())
            .map(Value::from)
            .collect::<Vec<_>>()
            .into(),
        ("lower", [value]) => text(value)?.to_lowercase().into(),
        ("upper", [value]) => text(value)?.to_uppercase().into(),
        ("title", [value]) => title(&text(value)?).into(),
        ("truncate", [value, length]) => {
            let length = length
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .ok_or_else(wrong)?;
            text(value)?.chars().take(length).collect::<String>().into()
        }
        ("pad", [value, left, right]) => {
            let blanks = |n: &Value| {
                n.as_u64()
                    .filter(|n| *n < 10_000)
                    .and_then(|n| usize::try_from(n).ok())
            };
            let (left, right) = (blanks(left).ok_or_else(wrong)?, blanks(right).ok_or_else(wrong)?);
            format!("{}{}{}", " ".repeat(left), text(value)?, " ".repeat(right)).into()
        }
        ("println", values) => format!("{}\n", values.iter().map(print).collect::<Vec<_>>().join(" ")).into(),
        ("print", values) => values.iter().map(print).collect::<String>().into(),
        ("len", [Value::String(text)]) => text.len().into(),
        ("len", [Value::Array(list)]) => list.len().into(),
        ("len", [Value::Object(map)]) => map.len().into(),
        ("len", [Value::Null]) => 0.into(),
        ("index", [value, keys @ ..]) => index(value, keys)?,
        ("eq", [first, rest @ ..]) if !rest.is_empty() => rest.contains(first).into(),
        ("ne", [a, b]) => (a != b).into(),
        ("not", [value]) => (!truth(value)).into(),
        ("and", [.., last]) => arguments.iter().find(|v| !truth(v)).unwrap_or(last).clone(),
        ("or", [.., last]) => arguments.iter().find(|v| truth(v)).unwrap_or(last).clone(),
        ("printf" | "html", _) => return Err(fail(format!("function {name:?} is not supported"))),
        _ => return Err(wrong()),
    })
}

fn index(value: &Value, keys: &[Value]) -> Result<Value> {
    let mut value = value.clone();
    for key in keys {
        value = match (&value, key) {
            // As in Go: a key that a map does not have gives the zero value.
            (Value::Object(map), Value::String(key)) => map.get(key).cloned().unwrap_or_else(|| "".into()),
            (Value::Array(list), Value::Number(at)) => {
                let item = at.as_u64().and_then(|at| list.get(usize::try_from(at).ok()?));
                item.cloned()
                    .ok_or_else(|| fail(format!("error calling index: index out of range: {at}")))?
            }
            (Value::Null, _) => return Err(fail("error calling index: index of nil pointer")),
            _ => return Err(fail("error calling index: can't index this value")),
        };
    }
    Ok(value)
}

fn title(text: &str) -> String {
    let mut start = true;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if start {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
        start = !c.is_alphanumeric() && c != '_' && c != '\'';
    }
    out
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// As Go's `fmt.Print` shows the value.
fn print(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(print).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.iter().map(|(k, v)| format!("{k}:{}", print(v))).collect();
            pairs.sort();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str) -> String {
        let data = serde_json::json!({
            "Id": "sha256:ab", "Size": 4, "Nothing": null,
            "Config": {"Env": ["A=1", "B=2"], "Labels": {"b": "2", "a": "1"}, "Cmd": []},
        });
        match Template::parse(template).and_then(|t| t.render(&data)) {
            Ok(text) => text,
            Err(error) => format!("ERROR {error}"),
        }
    }

    #[test]
    fn what_people_write() {
        for (template, wanted) in [
            ("{{.Id}} {{ .Size }}", "sha256:ab 4"),
            ("{{json .Config.Env}}", r#"["A=1","B=2"]"#),
            (
                "{{.Config.Env}}|{{.Config.Labels}}|{{.Nothing}}",
                "[A=1 B=2]|map[a:1 b:2]|<no value>",
            ),
            ("{{range .Config.Env}}{{println .}}{{end}}", "A=1\nB=2\n"),
            (
                "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}",
                "a=1;b=2;",
            ),
            ("{{range .Config.Cmd}}x{{else}}none{{end}}", "none"),
            ("{{index .Config.Labels \"a\"}}{{index .Config.Env 1}}", "1B=2"),
            ("{{index (split .Id \":\") 1 | upper}}", "AB"),
            ("{{if and .Size (eq .Id \"sha256:ab\")}}y{{else}}n{{end}}", "y"),
            ("{{with .Config}}{{len .Env}}{{$.Size}}{{end}}", "24"),
            ("a {{- /* no */ -}} b {{- .Size -}} c", "ab4c"),
            ("{{join .Config.Env \",\"}}{{\"\\n}}\"}}", "A=1,B=2\n}}"),
            ("{{title \"ab cd\"}}{{truncate .Id 3}}", "Ab Cdsha"),
        ] {
            assert_eq!(render(template), wanted, "{template}");
        }
    }

    #[test]
    fn what_is_unknown_is_an_error() {
        for template in [
            "{{.Nope}}",
            "{{nosuch .Id}}",
            "{{.Id",
            "{{end}}",
            "{{if .Id}}",
            "{{(.Id}}",
            "{{.Id)}}",
            "{{}}",
            "{{.Id | .Size}}",
            "{{$x}}",
            "{{\"a}}",
            "{{printf \"%s\" .Id}}",
            "{{range .Size}}{{end}}",
            "{{define \"x\"}}{{end}}",
            "{{.Id.X}}",
            "{{|}}",
        ] {
            assert!(render(template).starts_with("ERROR"), "{template}");
        }
        let deep = "{{if 1}}".repeat(1000);
        assert!(render(&deep).starts_with("ERROR"));
        assert!(render(&format!("{{{{{}", "(".repeat(1000) + "}}")).starts_with("ERROR"));
    }
}
