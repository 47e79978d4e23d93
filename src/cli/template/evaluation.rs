//! A tree and data to text.

use serde_json::Value;

use super::functions::{call, print, truth};
use super::parser::{Node, Operand, Pipeline};
use super::{Result, fail};

/// Variables and what was written so far.
pub(super) struct Scope {
    variables: Vec<(String, Value)>,
    out: String,
}

impl Scope {
    /// For the whole of `data`.
    pub(super) fn new(data: &Value) -> Self {
        Self {
            variables: vec![("$".to_owned(), data.clone())],
            out: String::new(),
        }
    }

    /// What was written.
    pub(super) fn finish(self) -> String {
        self.out
    }

    /// Writes a block; variables that it makes end with it.
    pub(super) fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<()> {
        let known = self.variables.len();
        let written = self.each(nodes, dot);
        self.variables.truncate(known);
        written
    }

    fn each(&mut self, nodes: &[Node], dot: &Value) -> Result<()> {
        for node in nodes {
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Print(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    self.out.push_str(&print(&value));
                }
                Node::Set { name, new, value } => {
                    let value = self.pipeline(value, dot)?;
                    if *new {
                        self.variables.push((name.clone(), value));
                    } else {
                        let known = self.variables.iter_mut().rev().find(|(known, _)| known == name);
                        known
                            .ok_or_else(|| fail(format!("undefined variable {name:?}")))?
                            .1 = value;
                    }
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
