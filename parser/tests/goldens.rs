//! Whole files with what they parse to: `testdata/dockerfiles/ok/*/expected.json`, `err/*/expected.txt`.
//! With `UPDATE_GOLDENS=1` in the environment the expected files are written instead.

#![allow(clippy::expect_used, reason = "a missing fixture is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

use rbuild_parser::diagnostic::excerpt;
use rbuild_parser::parse;

fn cases(kind: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../testdata/dockerfiles")
        .join(kind);
    let entries = fs::read_dir(&root).expect("the folder of cases");
    let mut cases: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    cases.sort();
    assert!(!cases.is_empty(), "{}", root.display());
    cases
}

fn check(path: &Path, found: &str) {
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        fs::write(path, found).expect("the expected file can be written");
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(found, expected, "{}", path.display());
}

#[test]
fn files_that_parse() {
    for case in cases("ok") {
        let text = fs::read(case.join("Dockerfile")).expect("a Dockerfile");
        let file = parse(&text).unwrap_or_else(|errors| panic!("{}: {errors:?}", case.display()));
        let json = serde_json::to_string_pretty(&file).expect("a Dockerfile is JSON");
        check(&case.join("expected.json"), &(json + "\n"));
        check(&case.join("expected.Dockerfile"), &file.to_string());
    }
}

#[test]
fn files_that_do_not() {
    for case in cases("err") {
        let text = fs::read(case.join("Dockerfile")).expect("a Dockerfile");
        let errors = parse(&text).expect_err("the file is wrong");
        let source = String::from_utf8_lossy(&text);
        let mut report = String::new();
        for error in errors {
            report.push_str(&format!("error[{}]: {error}\n", error.code));
            if let Some(help) = &error.help {
                report.push_str(&format!("help: {help}\n"));
            }
            let place = excerpt("Dockerfile", &source, error.span.start_line, error.span.end_line);
            report.push_str(&(place + "\n\n"));
        }
        check(&case.join("expected.txt"), &report);
    }
}
