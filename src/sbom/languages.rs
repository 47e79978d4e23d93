//! What packages of languages say of themselves where they are installed: npm's `package.json`, Python's `METADATA`.

use serde_json::Value;

use super::Package;

/// Whether a directory is that of a module: `node_modules/NAME`, `node_modules/@SCOPE/NAME`.
pub(super) fn is_installed_module(directory: &str) -> bool {
    let mut parts = directory.rsplit('/');
    let _name = parts.next();
    match parts.next() {
        Some("node_modules") => true,
        Some(scope) if scope.starts_with('@') => parts.next() == Some("node_modules"),
        _ => false,
    }
}

/// The module that a `package.json` is of; none when it has no name.
pub(super) fn npm(text: &[u8]) -> Result<Vec<Package>, String> {
    let json: Value =
        serde_json::from_slice(text).map_err(|error| format!("it is no package.json: {error}"))?;
    let field = |name: &str| json.get(name).and_then(Value::as_str).unwrap_or_default();
    let (full, version) = (field("name"), field("version"));
    if full.is_empty() || version.is_empty() {
        // A file that only says how modules below it are read.
        return Ok(Vec::new());
    }
    let (scope, name) = match full.split_once('/') {
        Some((scope, name)) if scope.starts_with('@') => (scope, name),
        _ => ("", full),
    };
    let mut package = Package::new("npm", name, version);
    package.namespace = scope.to_owned();
    package.licence = licence(&json);
    Ok(vec![package])
}

/// `license` as a text, as `{"type"}`, or the older list of these.
fn licence(json: &Value) -> Option<String> {
    let one = |value: &Value| {
        let text = value.as_str().or_else(|| value.get("type")?.as_str())?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    if let Some(found) = json.get("license").and_then(one) {
        return Some(found);
    }
    let list = json.get("licenses")?.as_array()?;
    let all: Vec<String> = list.iter().filter_map(one).collect();
    (!all.is_empty()).then(|| all.join(" OR "))
}

/// Whether a file is the metadata of an installed Python package.
pub(super) fn is_python(directory: &str, name: &str) -> bool {
    let of = directory.rsplit('/').next().unwrap_or_default();
    match name {
        "METADATA" => of.ends_with(".dist-info"),
        "PKG-INFO" => of.ends_with(".egg-info"),
        name => name.ends_with(".egg-info"),
    }
}

/// The package that the fields before the first empty line tell of.
pub(super) fn python(text: &[u8]) -> Vec<Package> {
    let text = String::from_utf8_lossy(text);
    let head = text.lines().take_while(|line| !line.trim().is_empty());
    let fields: Vec<(&str, &str)> = head
        .filter(|line| !line.starts_with([' ', '\t']))
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name, value.trim()))
        .collect();
    let field = |wanted: &str| {
        let mut found = fields
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found
            .next()
            .map(|(_, value)| *value)
            .filter(|value| !value.is_empty() && *value != "UNKNOWN")
    };
    let Some(name) = field("Name") else {
        return Vec::new();
    };
    // Names are compared like this (PEP 503), and package URLs write them so.
    let mut normal = String::with_capacity(name.len());
    for scalar in name.chars() {
        match scalar {
            '-' | '_' | '.' if normal.ends_with('-') => {}
            '-' | '_' | '.' => normal.push('-'),
            scalar => normal.extend(scalar.to_lowercase()),
        }
    }
    let mut package = Package::new("pypi", normal, field("Version").unwrap_or_default());
    package.licence = field("License-Expression")
        .or(field("License"))
        .map(str::to_owned);
    vec![package]
}
