//! The image verbs by the real binary, and what skopeo, umoci and podman make of what they write.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test that cannot be set up has failed, and one that cannot run says so"
)]

mod attestations;
mod changed;
mod damaged;
mod engines;
mod files;
mod interchange;
mod lists;
mod platforms;
#[path = "../common/registry.rs"]
mod registry;
mod transcript;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A directory with a store, and a root file system as a tar.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        let root = place.path("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(root.join("etc/motd"), "hello\n").unwrap();
        std::os::unix::fs::symlink("etc/motd", root.join("motd")).unwrap();
        place.tool(
            "tar",
            &[
                "--sort=name",
                "--owner=0",
                "--group=0",
                "-C",
                "root",
                "-cf",
                "root.tar",
                "etc",
                "motd",
            ],
        );
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs rbuild on the store `store`.
    fn run_on(&self, store: &str, args: &[&str], input: Option<&Path>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rbuild"));
        command
            .args(["--root", store])
            .args(args)
            .current_dir(self.directory.path());
        let input = input.map_or_else(Stdio::null, |path| std::fs::File::open(path).unwrap().into());
        command.stdin(input).output().unwrap()
    }

    /// Standard output of an rbuild that must succeed.
    fn rbuild(&self, args: &[&str]) -> String {
        let output = self.run_on("store", args, None);
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Standard error of an rbuild that must fail.
    fn refused(&self, args: &[&str]) -> String {
        let output = self.run_on("store", args, None);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        String::from_utf8(output.stderr).unwrap()
    }

    /// Standard output of another program that must succeed.
    fn tool(&self, program: &str, args: &[&str]) -> String {
        let output = Command::new(program)
            .args(args)
            .current_dir(self.directory.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{program} {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn digest(&self, store: &str, name: &str) -> String {
        let output = self.run_on(store, &["images", "--format", "{{.Digest}}", name], None);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn succeed_on(&self, store: &str, args: &[&str]) -> String {
        let output = self.run_on(store, args, None);
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn import(&self, name: &str) -> String {
        self.rbuild(&["import", "-c", r#"CMD ["cat", "/motd"]"#, "root.tar", name])
            .trim()
            .to_owned()
    }
}

impl Place {
    /// Builds `dockerfile` in an empty context with the files `files`, as `name`.
    fn build(&self, name: &str, dockerfile: &str, files: &[(&str, &str)]) {
        let context = self.path("context");
        let _ = std::fs::remove_dir_all(&context);
        std::fs::create_dir(&context).unwrap();
        for (file, text) in files {
            std::fs::write(context.join(file), text).unwrap();
        }
        std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
        self.rbuild(&["build", "-q", "-t", name, "context"]);
    }
}

fn has(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

#[test]
fn an_image_is_imported_listed_renamed_and_removed() {
    let place = Place::new();
    let id = place.import("base");
    let short = id.strip_prefix("sha256:").unwrap()[..12].to_owned();
    assert_eq!(place.rbuild(&["images", "-q"]).trim(), short);
    place.rbuild(&["tag", &short[..6], "example.com/a/b:1"]);
    let format = "{{.Repository}}:{{.Tag}} {{.ID}}";
    let listed = place.rbuild(&["images", "--no-trunc", "--format", format]);
    assert_eq!(listed, format!("base:latest {id}\nexample.com/a/b:1 {id}\n"));
    assert_eq!(
        place.rbuild(&["images", "-f", "reference=*/a/b", "--format", "{{.Tag}}"]),
        "1\n"
    );
    assert_eq!(
        place.rbuild(&["inspect", "-f", "{{json .Config.Cmd}}", "base"]),
        "[\"cat\",\"/motd\"]\n"
    );
    assert!(
        place
            .refused(&["rmi", &short])
            .contains("referenced in multiple repositories")
    );
    assert_eq!(place.rbuild(&["rmi", "base"]), "Untagged: base:latest\n");
    let removed = place.rbuild(&["rmi", &short]);
    assert!(removed.starts_with("Untagged: example.com/a/b:1\n"), "{removed}");
    assert!(removed.ends_with(&format!("Deleted: {id}\n")), "{removed}");
    assert!(
        place
            .refused(&["rmi", "base"])
            .contains("No such image: base:latest")
    );
    assert_eq!(
        place.rbuild(&["images"]),
        "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE\n"
    );
    assert!(place.rbuild(&["prune", "-af"]).contains("Total reclaimed space:"));
}

#[test]
fn a_saved_image_is_loaded_with_its_digests() {
    let place = Place::new();
    place.import("base:1");
    place.rbuild(&["save", "-o", "saved.tar", "base:1"]);
    place.rbuild(&["save", "-o", "again.tar", "base:1"]);
    assert_eq!(
        std::fs::read(place.path("saved.tar")).unwrap(),
        std::fs::read(place.path("again.tar")).unwrap()
    );
    let loaded = place.run_on("other", &["load"], Some(&place.path("saved.tar")));
    assert_eq!(
        String::from_utf8(loaded.stdout).unwrap(),
        "Loaded image: base:1\n"
    );
    let digests = |store| {
        place
            .run_on(
                store,
                &["images", "--digests", "--format", "{{.ID}} {{.Digest}}"],
                None,
            )
            .stdout
    };
    assert_eq!(digests("store"), digests("other"));
}

#[test]
fn spoilt_archives_are_refused() {
    let place = Place::new();
    place.import("base:1");
    place.rbuild(&["save", "-o", "saved.tar", "base:1"]);
    let good = std::fs::read(place.path("saved.tar")).unwrap();
    let spoil = |from: &[u8], to: &[u8]| {
        let at = good
            .windows(from.len())
            .position(|window| window == from)
            .unwrap();
        let mut bad = good.clone();
        bad[at..at + from.len()].copy_from_slice(to);
        std::fs::write(place.path("bad.tar"), bad).unwrap();
        place.run_on("other", &["load", "-i", "bad.tar"], None)
    };
    for (from, to, reason) in [
        (&b"hello\n"[..], &b"jello\n"[..], "expected sha256:"),
        (b"imageLayoutVersion", b"imageLayoutVersion", ""),
        (b"\"schemaVersion\":2", b"\"schemaVersion\":1", "expected sha256:"),
        (b"blobs/sha256/", b"blobs/sha256.", "wrong checksum"),
    ] {
        let output = spoil(from, to);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.success(), reason.is_empty(), "{stderr}");
        assert!(stderr.contains(reason), "{stderr}");
        if !reason.is_empty() {
            assert!(!stderr.contains("panicked"), "{stderr}");
        }
        place.run_on("other", &["rmi", "base:1"], None);
    }
    for length in [0, 1, 511, 512, 3000, good.len() / 2] {
        std::fs::write(place.path("cut.tar"), &good[..length]).unwrap();
        let stderr = place.refused(&["load", "-i", "cut.tar"]);
        assert!(stderr.starts_with("error: "), "{length}: {stderr}");
    }
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let place = Place::new();
    place.import("base:1");
    let binary = env!("CARGO_BIN_EXE_rbuild");
    let script =
        format!("{binary} --root store save base:1 | head -c 10 >/dev/null; exit ${{PIPESTATUS[0]}}");
    place.tool("bash", &["-c", &script]);
}

#[test]
fn wrong_arguments_are_usage_errors() {
    let place = Place::new();
    for args in [&["images", "--nosuch"][..], &["rmi"], &["tag", "a"]] {
        assert_eq!(
            place.run_on("store", args, None).status.code(),
            Some(2),
            "{args:?}"
        );
    }
    assert!(
        place
            .refused(&["tag", "nosuch", "a"])
            .contains("No such image: nosuch:latest")
    );
    assert!(
        place
            .refused(&["images", "-f", "nosuch=1"])
            .contains("invalid filter 'nosuch'")
    );
    let inspected = place.run_on("store", &["inspect", "nosuch"], None);
    assert_eq!(
        (inspected.status.code(), inspected.stdout),
        (Some(1), b"[]\n".to_vec())
    );
}

#[test]
fn a_dockerfile_is_parsed() {
    let place = Place::new();
    std::fs::write(place.path("Dockerfile"), "FROM a\nRUN x\n").unwrap();
    std::fs::write(place.path("bad"), "FROM a\nRUNN x\n").unwrap();
    let json: serde_json::Value =
        serde_json::from_str(&place.rbuild(&["parse", "--json", "Dockerfile"])).unwrap();
    assert_eq!(json["stages"][0]["from"]["value"]["image"], "a");
    let error = place.refused(&["parse", "bad"]);
    assert!(error.contains("bad:2") && error.contains(">>> RUNN x"), "{error}");
}
