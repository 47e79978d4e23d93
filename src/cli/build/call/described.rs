//! Targets and outlines, as tables and JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{place, pretty};
use crate::frontend::outline::{Needed, Outline, Target};

/// What `--call` answers, with BuildKit's names, versions and words.
const METHODS: &[(&str, &str)] = &[
    ("lint", "Lint a Dockerfile"),
    ("outline", "List all parameters current build target supports"),
    ("targets", "List all targets current build supports"),
    ("subrequests.describe", "List available subrequest types"),
];
const METHOD_VERSION: &str = "1.0.0";

/// A table of the methods.
pub fn methods_text() -> String {
    let mut rows = vec![["NAME", "VERSION", "DESCRIPTION"].map(str::to_owned).to_vec()];
    for (name, description) in METHODS {
        rows.push([*name, METHOD_VERSION, *description].map(str::to_owned).to_vec());
    }
    table(&rows)
}

/// The methods as BuildKit lists them.
pub fn methods_json() -> String {
    let method = |(name, description): &(&str, &str)| {
        json!({"name": format!("frontend.{name}"), "version": METHOD_VERSION, "type": "rpc", "description": description,
               "metadata": [{"name": "result.json"}, {"name": "result.txt"}]})
    };
    pretty(&Value::Array(METHODS.iter().map(method).collect()))
}

/// A table of names and descriptions.
pub fn targets_text(targets: &[Target]) -> String {
    let name = |target: &Target| match (target.name.as_str(), target.default) {
        ("", true) => "(default)".to_owned(),
        (name, true) => format!("{name} (default)"),
        (name, false) => name.to_owned(),
    };
    let mut rows = vec![vec!["TARGET".to_owned(), "DESCRIPTION".to_owned()]];
    rows.extend(targets.iter().map(|it| vec![name(it), it.description.clone()]));
    table(&rows)
}

/// The members of buildx's answer.
pub fn targets_json(targets: &[Target], source: &str) -> String {
    let target = |target: &Target| {
        let mut members = Members::default();
        members.text("name", &target.name);
        members.switch("default", target.default);
        members.text("description", &target.description);
        members.text("base", &target.base);
        members.text("platform", &target.platform);
        members.0.insert("location".to_owned(), place(&target.location));
        Value::Object(members.0)
    };
    let targets: Vec<Value> = targets.iter().map(target).collect();
    pretty(&json!({"targets": targets, "sources": [STANDARD.encode(source)]}))
}

/// The target, and a table of each kind of thing that it takes.
pub fn outline_text(outline: &Outline) -> String {
    let mut tables = Vec::new();
    if !outline.name.is_empty() || !outline.description.is_empty() {
        let name = match outline.name.as_str() {
            "" => "(default)",
            name => name,
        };
        let mut rows = vec![vec!["TARGET:".to_owned(), name.to_owned()]];
        if !outline.description.is_empty() {
            rows.push(vec!["DESCRIPTION:".to_owned(), outline.description.clone()]);
        }
        tables.push(table(&rows));
    }
    if !outline.args.is_empty() {
        let mut rows = vec![["BUILD ARG", "VALUE", "DESCRIPTION"].map(str::to_owned).to_vec()];
        for arg in &outline.args {
            rows.push(vec![arg.name.clone(), arg.value.clone(), arg.description.clone()]);
        }
        tables.push(table(&rows));
    }
    for (title, list) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !list.is_empty() {
            let mut rows = vec![vec![title.to_owned(), "REQUIRED".to_owned()]];
            for needed in list {
                let required = if needed.required { "true" } else { "" };
                rows.push(vec![needed.id.clone(), required.to_owned()]);
            }
            tables.push(table(&rows));
        }
    }
    tables.join("\n")
}

/// The members of buildx's answer.
pub fn outline_json(outline: &Outline, source: &str) -> String {
    let arg = |arg: &crate::frontend::outline::OutlineArg| {
        let mut members = Members::default();
        members.0.insert("name".to_owned(), arg.name.as_str().into());
        members.text("description", &arg.description);
        members.text("value", &arg.value);
        members.0.insert("location".to_owned(), place(&arg.location));
        Value::Object(members.0)
    };
    let needed = |list: &[Needed]| -> Vec<Value> {
        let object = |needed: &Needed| {
            let mut members = Members::default();
            members.0.insert("name".to_owned(), needed.id.as_str().into());
            members.switch("required", needed.required);
            members.0.insert("location".to_owned(), place(&needed.location));
            Value::Object(members.0)
        };
        list.iter().map(object).collect()
    };
    let caches = outline.caches.iter();
    let caches = caches.map(|cache| json!({"ID": cache.id, "location": place(&cache.location)}));
    let mut members = Members::default();
    members.text("name", &outline.name);
    members.text("description", &outline.description);
    members.list("args", outline.args.iter().map(arg).collect());
    members.list("secrets", needed(&outline.secrets));
    members.list("ssh", needed(&outline.ssh));
    members.list("cache", caches.collect());
    members.list("sources", vec![STANDARD.encode(source).into()]);
    pretty(&Value::Object(members.0))
}

/// An object without empty members.
#[derive(Default)]
struct Members(Map<String, Value>);

impl Members {
    fn text(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.0.insert(name.to_owned(), text.into());
        }
    }

    fn switch(&mut self, name: &str, on: bool) {
        if on {
            self.0.insert(name.to_owned(), true.into());
        }
    }

    fn list(&mut self, name: &str, list: Vec<Value>) {
        if !list.is_empty() {
            self.0.insert(name.to_owned(), list.into());
        }
    }
}

/// Columns two blanks apart; the last one is not padded.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default() + 2
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                let padding = widths[column] - cell.chars().count();
                text.extend(std::iter::repeat_n(' ', padding));
            }
        }
        text.push('\n');
    }
    text
}
