//! The sandbox seen from inside: every case is a process of its own, once as root, once as an ordinary user with subordinate
//! ids and once in a namespace with one id.
//!
//! `cargo test -p rbuild-executor --test sandbox [-- FILTER]`. Run as root, the second pass is that of the user whom
//! `RBUILD_TEST_USER` names; what cannot run says why and counts as skipped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

// Processes that are made before their step is known.
mod ahead;
mod bench;
// What the image may contain to confuse the sandbox: links, missing directories, odd files.
mod hostile_image;
// How a step ends: exit codes, errors of exec, cancellation, death of the builder.
mod lifetime;
// Paths that change while steps start.
mod race;
// Who owns what, and who a process is.
mod owners;
// What a step sees and may do: files, devices, identity, capabilities, system calls, network.
mod surroundings;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// A case: its name and what it checks, in a process that has one thread.
type Case = (&'static str, fn());

const CASE: &str = "RBUILD_TEST_CASE";
const DIRECTORY: &str = "RBUILD_TEST_DIRECTORY";
/// Set to anything: the sandbox is a namespace with one id.
const SINGLE: &str = "RBUILD_TEST_SINGLE";
const USER: &str = "RBUILD_TEST_USER";

fn main() -> ExitCode {
    let cases: Vec<Case> = [
        surroundings::CASES,
        hostile_image::CASES,
        lifetime::CASES,
        ahead::CASES,
        race::CASES,
        owners::CASES,
    ]
    .concat();
    if let Ok(wanted) = std::env::var(CASE) {
        let (_, case) = cases
            .iter()
            .find(|(name, _)| *name == wanted)
            .expect("a case of that name");
        case();
        return ExitCode::SUCCESS;
    }
    let filter = std::env::args()
        .skip(1)
        .find(|a| !a.starts_with('-'))
        .unwrap_or_default();
    let mut failed = 0;
    for tier in ["root", "user", "single"] {
        let prefix = match launcher(tier) {
            Ok(prefix) => prefix,
            Err(reason) => {
                println!("skipped: all cases as {tier}: {reason}");
                continue;
            }
        };
        for (name, _) in cases
            .iter()
            .filter(|(name, _)| format!("{tier}::{name}").contains(&filter))
        {
            let ok = run_case(&prefix, tier, name);
            println!("test {tier}::{name} ... {}", if ok { "ok" } else { "FAILED" });
            failed += usize::from(!ok);
        }
    }
    println!("{failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The command line that makes a process of the tier, or why there is none.
fn launcher(tier: &str) -> Result<Vec<String>, String> {
    let is_root = output("id", &["-u"]) == "0";
    if !Path::new("/bin/busybox").exists() {
        return Err("no /bin/busybox (package busybox-static) to make an image from".to_owned());
    }
    match (tier, is_root) {
        ("root", true) => Ok(Vec::new()),
        ("root", false) => Err("not root".to_owned()),
        (_, false) => Ok(Vec::new()),
        (_, true) => {
            let user = std::env::var(USER).unwrap_or_default();
            if user.is_empty() {
                return Err(format!("{USER} names no ordinary user"));
            }
            let ranges = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
            if !ranges.contains(&user) {
                return Err(format!("the user {user:?} has no subordinate ids"));
            }
            let ids = ["--reuid", &user, "--regid", &user, "--init-groups"];
            Ok([&["setpriv"][..], &ids[..]]
                .concat()
                .iter()
                .map(|s| s.to_string())
                .collect())
        }
    }
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stderr(Stdio::null()).output();
    output
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        .unwrap_or_default()
}

fn run_case(prefix: &[String], tier: &str, name: &str) -> bool {
    let directory = tempfile::Builder::new()
        .prefix("rbuild-sandbox")
        .tempdir()
        .unwrap();
    if !prefix.is_empty() {
        assert!(
            Command::new("chown")
                .arg(std::env::var(USER).unwrap())
                .arg(directory.path())
                .status()
                .unwrap()
                .success()
        );
    }
    // The user may be unable to reach the build directory: a copy of this program is within reach.
    let program = directory.path().join("sandbox-test");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut line = prefix.to_vec();
    line.push(program.to_str().unwrap().to_owned());
    let output = Command::new(&line[0])
        .args(&line[1..])
        .env(CASE, name)
        .env(DIRECTORY, directory.path())
        .env(SINGLE, if tier == "single" { "1" } else { "" })
        .env("RBUILD_CANARY", "must not be seen by a step")
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .process_group(0)
        .output()
        .unwrap();
    if !output.status.success() {
        println!("--- {tier}::{name}\n{}", String::from_utf8_lossy(&output.stdout));
        println!("{}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}
