//! What the build checks found, as text, JSON and SARIF.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rbuild_parser::diagnostic::excerpt;
use rbuild_parser::lint;
use serde_json::{Map, Value, json};

use super::{place, pretty};
use crate::cli::build::dockerfile::DockerfileSource;
use crate::frontend::{Checked, Warning};
use crate::graph::Location;

/// As buildx prints it. What keeps the Dockerfile from being built is told on standard error.
pub fn text(checked: &Checked, source: &str) -> String {
    let mut text = match checked.warnings.len() {
        0 if checked.error.is_some() => String::new(),
        0 => "Check complete, no warnings found.\n".to_owned(),
        1 => "Check complete, 1 warning has been found!\n".to_owned(),
        number => format!("Check complete, {number} warnings have been found!\n"),
    };
    for warning in &checked.warnings {
        text.push_str(&format!("\nWARNING: {}", warning.rule));
        if let Some(url) = lint::find(warning.rule).and_then(lint::Rule::url) {
            text.push_str(&format!(" - {url}"));
        }
        text.push_str(&format!("\n{}\n", warning.text()));
        if let Some(location) = &warning.location {
            text.push_str(&excerpt(&location.file, source, location.start, location.end));
            text.push('\n');
        }
    }
    if checked.error.is_some() && !checked.warnings.is_empty() {
        text.push('\n');
    }
    text
}

/// The members of buildx's answer.
pub fn json(checked: &Checked, dockerfile: &DockerfileSource, source: &str) -> String {
    let warning = |warning: &Warning| {
        let mut members = Map::new();
        members.insert("ruleName".to_owned(), warning.rule.into());
        if let Some(rule) = lint::find(warning.rule) {
            members.insert("description".to_owned(), rule.description.into());
            members.extend(rule.url().map(|url| ("url".to_owned(), url.into())));
        }
        members.insert("detail".to_owned(), warning.text().into());
        let location = warning.location.as_ref();
        members.extend(location.map(|location| ("location".to_owned(), place(location))));
        Value::Object(members)
    };
    let mut answer = json!({
        "warnings": checked.warnings.iter().map(warning).collect::<Vec<_>>(),
        "sources": [{
            "filename": &*dockerfile.shown(),
            "data": STANDARD.encode(source),
            "language": "Dockerfile",
        }],
    });
    if let Some(error) = &checked.error {
        let location = error.location.as_ref().map_or_else(|| json!({}), place);
        answer["buildError"] = json!({"message": error.to_string(), "location": location});
    }
    pretty(&answer)
}

/// For code hosts and editors.
pub fn sarif(checked: &Checked, dockerfile: &DockerfileSource) -> String {
    let path = dockerfile.path().map_or_else(
        || dockerfile.shown().to_string(),
        |path| path.to_string_lossy().into_owned(),
    );
    let uri = uri(path.strip_prefix("./").unwrap_or(&path));
    let locations = |location: &Option<Location>| -> Vec<Value> {
        let found = location.iter().map(|location| {
            json!({"physicalLocation": {
                "artifactLocation": {"uri": uri},
                "region": {"startLine": location.start, "endLine": location.end},
            }})
        });
        found.collect()
    };
    let rules = lint::RULES.iter().map(|rule| {
        let mut members = json!({"id": rule.name, "shortDescription": {"text": rule.description}});
        if let Some(url) = rule.url() {
            members["helpUri"] = url.into();
        }
        members
    });
    let rules: Vec<Value> = rules.collect();
    let mut results: Vec<Value> = Vec::new();
    for warning in &checked.warnings {
        results.push(json!({
            "ruleId": warning.rule,
            "level": "warning",
            "message": {"text": warning.text()},
            "locations": locations(&warning.location),
        }));
    }
    if let Some(error) = &checked.error {
        results.push(json!({
            "level": "error",
            "message": {"text": error.to_string()},
            "locations": locations(&error.location),
        }));
    }
    pretty(&json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "rbuild", "version": env!("CARGO_PKG_VERSION"), "rules": rules}},
            "results": results,
        }],
    }))
}

/// A path as a relative reference.
fn uri(path: &str) -> String {
    let mut uri = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}
