//! The walls of the house (docs/architecture.md): crates by their manifests, modules by their `use crate::`.

use std::fs;
use std::path::{Path, PathBuf};

/// Which modules of `src` each module may name.
const MAY_USE: [(&str, &[&str]); 12] = [
    ("graph", &[]),
    ("error", &["graph"]),
    ("parallel", &[]),
    ("progress", &["graph"]),
    ("frontend", &["error", "graph"]),
    ("registry", &["graph"]),
    (
        "source",
        &["error", "frontend", "graph", "parallel", "progress", "registry"],
    ),
    ("solver", &["error", "graph", "progress", "source"]),
    ("sbom", &[]),
    ("attestation", &["graph", "sbom"]),
    ("exporter", &["attestation", "graph", "parallel", "registry"]),
    (
        "cli",
        &[
            "attestation",
            "error",
            "exporter",
            "frontend",
            "graph",
            "progress",
            "registry",
            "sbom",
            "solver",
            "source",
        ],
    ),
];

/// Which room's crate may depend on which crate of the house.
const CRATES: [(&str, &[&str]); 3] = [("parser", &[]), ("cache", &[]), ("executor", &[])];

#[test]
fn crates_of_the_rooms_do_not_know_each_other() {
    for (room, allowed) in CRATES {
        let manifest = fs::read_to_string(root().join(room).join("Cargo.toml")).unwrap();
        for other in ["parser", "cache", "executor"] {
            let depends = manifest
                .lines()
                .any(|line| line.starts_with(&format!("rbuild-{other}")));
            assert!(
                !depends || allowed.contains(&other),
                "{room} depends on rbuild-{other}"
            );
        }
    }
}

#[test]
fn modules_look_only_where_they_may() {
    let mut checked = 0;
    for (module, allowed) in MAY_USE {
        for file in sources(&root().join("src"), module) {
            let text = fs::read_to_string(&file).unwrap();
            for used in uses(&text) {
                assert!(
                    used == module || allowed.contains(&used.as_str()),
                    "{} uses crate::{used}",
                    file.display()
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 20, "the test sees the sources");
}

#[test]
fn only_one_file_is_unsafe() {
    for room in ["src", "parser/src", "cache/src", "executor/src"] {
        for file in files(&root().join(room)) {
            let text = fs::read_to_string(&file).unwrap();
            let unsafe_code = text.lines().any(|line| {
                let code = line.split("//").next().unwrap_or_default();
                code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl")
            });
            assert!(
                !unsafe_code || file.ends_with("executor/src/sys.rs"),
                "{} is unsafe",
                file.display()
            );
        }
    }
}

/// Whoever prints a chain of errors says each cause once: a text that holds its cause has no `source`.
#[test]
fn no_error_names_a_cause_twice() {
    let mut seen = 0;
    for room in ["src", "parser/src", "cache/src", "executor/src"] {
        for file in files(&root().join(room)) {
            let text = fs::read_to_string(&file).unwrap();
            for (number, line) in text.lines().enumerate() {
                let line = line.trim();
                seen += usize::from(line.starts_with("#[error("));
                assert!(
                    !line.contains("#[source]") && !line.contains("{source}\")]"),
                    "{}:{} has a source beside its text",
                    file.display(),
                    number + 1
                );
                let passed_on = text.lines().nth(number.wrapping_sub(1)).unwrap_or_default();
                assert!(
                    !line.contains("#[from]") || passed_on.contains("#[error(transparent)]"),
                    "{}:{} has a source beside its text",
                    file.display(),
                    number + 1
                );
            }
        }
    }
    assert!(seen > 50, "the test sees the sources");
}

/// First parts of the paths after `crate::`, those in braces too.
fn uses(text: &str) -> Vec<String> {
    let name = |text: &str| {
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        match rest.strip_prefix('{') {
            Some(list) => found.extend(
                list.split('}')
                    .next()
                    .unwrap_or_default()
                    .split(',')
                    .map(|part| name(part.trim())),
            ),
            None => found.push(name(rest)),
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

fn sources(src: &Path, module: &str) -> Vec<PathBuf> {
    let mut found = files(&src.join(module));
    let file = src.join(format!("{module}.rs"));
    if file.exists() {
        found.push(file);
    }
    found
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
