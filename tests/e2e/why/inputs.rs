//! Files, mounts and images.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rbuild_cache::Digest;
use serde_json::{Value, json};

use super::{changed, file, files, ran};
use crate::env::as_every_user;
use crate::server::{self, Server};

fn altered(path: &str, change: &str, from: &str, to: &str) -> Value {
    files(json!([{"path": path, "change": change, "from": from, "to": to}]))
}

#[test]
fn what_is_read() {
    as_every_user(|env| {
        env.base();
        let dockerfile = "FROM scratch\nCOPY dir /dir\n";
        let mode =
            |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let user = |path: &Path, command: &str| {
            let status = env.command("sh").args(["-c", command]).current_dir(path).status();
            assert!(status.unwrap().success(), "{command}");
        };
        let attributes = env.write("probe", "");
        let attributes = Command::new("setfattr")
            .args(["-n", "user.x", "-v", "1"])
            .arg(&attributes)
            .output();
        let has_attributes = attributes.is_ok_and(|output| output.status.success());
        if !has_attributes {
            eprintln!("skipped: attributes of files, which setfattr cannot set here");
        }
        type Change<'a> = &'a dyn Fn(&Path);
        let rows: &[(&str, Change<'_>, Value)] = &[
            (
                "content",
                &|c| fs::write(c.join("dir/f"), "F\n").unwrap(),
                file("dir/f", "content"),
            ),
            ("added", &|c| user(c, "echo x > dir/x"), file("dir/x", "added")),
            (
                "added-directory",
                &|c| user(c, "mkdir dir/x"),
                file("dir/x", "added"),
            ),
            (
                "removed",
                &|c| fs::remove_file(c.join("dir/f")).unwrap(),
                file("dir/f", "removed"),
            ),
            (
                "mode",
                &|c| mode(&c.join("dir/f"), 0o600),
                altered("dir/f", "mode", "0644", "0600"),
            ),
            (
                "umask",
                &|c| mode(&c.join("dir/f"), 0o664),
                altered("dir/f", "mode", "0644", "0664"),
            ),
            (
                "mode-of-a-directory",
                &|c| mode(&c.join("dir/sub"), 0o700),
                altered("dir/sub", "mode", "0755", "0700"),
            ),
            (
                "link",
                &|c| user(c, "ln -sfn other dir/link"),
                altered("dir/link", "link", "f", "other"),
            ),
            (
                "type",
                &|c| user(c, "rm dir/f; mkdir dir/f"),
                altered("dir/f", "type", "file", "directory"),
            ),
            (
                "hard-link",
                &|c| user(c, "rm dir/g; ln dir/f dir/g"),
                files(
                    json!([{"path": "dir/f", "change": "hardlink"}, {"path": "dir/g", "change": "content"},
                    {"path": "dir/g", "change": "hardlink"}]),
                ),
            ),
            (
                "two-files",
                &|c| user(c, "echo F > dir/f; rm dir/g"),
                files(
                    json!([{"path": "dir/f", "change": "content"}, {"path": "dir/g", "change": "removed"}]),
                ),
            ),
            (
                "content-and-mode",
                &|c| {
                    fs::write(c.join("dir/f"), "F\n").unwrap();
                    mode(&c.join("dir/f"), 0o755);
                },
                files(json!([
                    {"path": "dir/f", "change": "content"},
                    {"path": "dir/f", "change": "mode", "from": "0644", "to": "0755"},
                ])),
            ),
            (
                "ignored",
                &|c| user(c, "echo dir/g >> .dockerignore"),
                file("dir/g", "removed"),
            ),
            (
                "ignored-file-renamed",
                &|c| user(c, "mv dir/f.log dir/g.log"),
                Value::Null,
            ),
            ("unused", &|c| user(c, "echo x > unused"), Value::Null),
            (
                "times",
                &|c| {
                    let file = fs::File::options().write(true).open(c.join("dir/f")).unwrap();
                    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
                },
                Value::Null,
            ),
            (
                "owner",
                &|c| {
                    if env.is_root() {
                        std::os::unix::fs::chown(c.join("dir/f"), Some(5), Some(6)).unwrap();
                    }
                },
                Value::Null,
            ),
            (
                "attribute",
                &|c| {
                    if has_attributes {
                        user(c, "setfattr -n user.x -v 1 dir/f");
                    }
                },
                if has_attributes {
                    file("dir/f", "xattr")
                } else {
                    Value::Null
                },
            ),
        ];
        for (name, change, expected) in rows {
            env.context(
                name,
                &[
                    ("dir/f", "f\n"),
                    ("dir/g", "g\n"),
                    ("dir/sub/h", name),
                    ("dir/f.log", "log\n"),
                    (".dockerignore", "**/*.log\n"),
                ],
            );
            for (path, bits) in [("dir/f", 0o644), ("dir/g", 0o644), ("dir/sub", 0o755)] {
                mode(&env.path(name).join(path), bits);
            }
            symlink("f", env.path(name).join("dir/link")).unwrap();
            env.own(&env.path(name).join("dir"));
            let found = changed(env, name, (dockerfile, &[]), change, (dockerfile, &[]));
            match expected {
                Value::Null => assert_eq!(found, [], "{name}"),
                expected => assert_eq!(found, ran([("1", expected.clone())]), "{name}"),
            }
        }

        // What a mount shows, and a secret, which is in no key.
        let mount = "FROM base\nRUN --mount=type=bind,source=dir,target=/m cat /m/f\n";
        env.context("mounted", &[("dir/f", "of a mount\n")]);
        let change = |c: &Path| fs::write(c.join("dir/f"), "F\n").unwrap();
        let found = changed(env, "mounted", (mount, &[]), change, (mount, &[]));
        assert_eq!(found, ran([("2", file("dir/f", "content"))]));
        let secret = "FROM base\nRUN --mount=type=secret,id=s : of a secret\n";
        let flags = &["--secret=id=s,src=secret"][..];
        env.write("secret", "one value of it");
        let change = |_: &Path| drop(env.write("secret", "another value of it"));
        assert_eq!(
            changed(env, "secret-changed", (secret, flags), change, (secret, flags)),
            []
        );
    });
}

#[test]
fn images() {
    as_every_user(|env| {
        env.base();
        let tag = |name: &str, text: &str| {
            let dockerfile = format!("FROM base\nRUN echo {text} > /id\n");
            env.build("made", &dockerfile, &["-t", name]).ok();
        };
        tag("parent:1", "one");
        tag("parent:2", "two");
        tag("parent:same", "one");
        env.rbuild(["tag", "parent:1", "parent:now"]).ok();

        let retag = |_: &Path| drop(env.rbuild(["tag", "parent:2", "parent:now"]).ok());
        let dockerfile = "FROM parent:now\nRUN : base\n";
        let found = changed(env, "retagged", (dockerfile, &[]), retag, (dockerfile, &[]));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1["kind"], "base-image", "{found:?}");
        let (from, to) = (&found[0].1["from"], &found[0].1["to"]);
        assert!(
            from != to
                && [from, to]
                    .iter()
                    .all(|it| it.as_str().unwrap().contains("parent:now@sha256:"))
        );

        let argument = "ARG TAG=1\nFROM parent:$TAG\nRUN : argument\n";
        let other = &["--build-arg=TAG=2"][..];
        let found = changed(env, "argument", (argument, &[]), |_| {}, (argument, other));
        assert_eq!(found[0].1["kind"], "base-image", "{found:?}");
        assert!(found[0].1["to"].as_str().unwrap().contains("parent:2@"));

        // Another name of the same image.
        let same = "FROM parent:same\nRUN : same\n";
        let found = changed(
            env,
            "same",
            ("FROM parent:1\nRUN : same\n", &[]),
            |_| {},
            (same, &[]),
        );
        assert_eq!(found, []);

        env.rbuild(["tag", "parent:1", "parent:now"]).ok();
        let copy = "FROM scratch\nCOPY --from=parent:now /id /copied\n";
        let found = changed(env, "source", (copy, &[]), retag, (copy, &[]));
        assert_eq!(found[0].1["kind"], "source-image", "{found:?}");
    });
}

#[test]
fn what_a_server_has() {
    as_every_user(|env| {
        let version = Arc::new(AtomicUsize::new(1));
        let current = version.clone();
        let server = Server::start(move |request| {
            let version = current.load(Ordering::Relaxed);
            server::file(
                request,
                &format!("\"{version}\""),
                format!("version {version}").as_bytes(),
            )
        });
        let address = server.url("/f");
        let dockerfile = format!("FROM scratch\nADD {address} /f\nCOPY a /a\n");
        let cause = json!({
            "kind": "remote",
            "address": address,
            "from": Digest::of(b"version 1"),
            "to": Digest::of(b"version 2"),
        });
        env.context("served", &[("a", "a")]);
        let build = (dockerfile.as_str(), &[][..]);
        let found = changed(
            env,
            "served",
            build,
            |_| version.store(2, Ordering::Relaxed),
            build,
        );
        assert_eq!(found[0], ("1".to_owned(), cause), "{found:?}");
    });
}
