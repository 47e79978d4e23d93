//! Why a step runs: one thing is changed after a build, and that thing alone is named.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::env::{Env, as_every_user};

/// A build: the Dockerfile and more flags.
type Build<'a> = (&'a str, &'a [&'a str]);

/// What ran in a build: `step` or `stage:step`, and the cause. A cause that is another step is `"after STEP"`.
type Ran = Vec<(String, Value)>;

fn ran<const N: usize>(steps: [(&str, Value); N]) -> Ran {
    steps.map(|(step, cause)| (step.to_owned(), cause)).to_vec()
}

fn place(step: &Value) -> String {
    let number = &step["step"];
    match step["stage"].as_str() {
        Some("stage-0") | None => number.to_string(),
        Some(stage) => format!("{stage}:{number}"),
    }
}

/// What `rbuild why` says of the last build.
fn why(env: &Env) -> Ran {
    let run = env.rbuild(["why", "--format=json"]).ok();
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    causes(&document, "ran")
}

fn causes(document: &Value, status: &str) -> Ran {
    let steps = document["steps"].as_array().unwrap();
    let has_run = steps.iter().filter(|step| step["status"] == status);
    has_run
        .map(|step| {
            let cause = match step["cause"]["kind"].as_str() {
                Some("step") => format!("after {}", place(&step["cause"])).into(),
                // The digest of the image is another every time.
                Some("order") if step["cause"]["to"].as_str().unwrap().contains("FROM ") => {
                    json!({"kind": "order", "from": step["cause"]["from"], "to": "FROM"})
                }
                _ => step["cause"].clone(),
            };
            (place(step), cause)
        })
        .collect()
}

/// Builds, changes the context, and builds again: what ran then.
fn changed(env: &Env, name: &str, before: Build<'_>, change: impl Fn(&Path), after: Build<'_>) -> Ran {
    env.build(name, before.0, before.1).ok();
    change(&env.path(name));
    env.build(name, after.0, after.1).ok();
    why(env)
}

fn instruction(from: &str, to: &str) -> Value {
    json!({"kind": "instruction", "from": from, "to": to})
}

fn setting(name: &str, from: impl Into<Value>, to: impl Into<Value>) -> Value {
    let (from, to): (Value, Value) = (from.into(), to.into());
    json!({"kind": "setting", "name": name, "from": from, "to": to})
}

fn variable(kind: &str, name: &str, from: impl Into<Value>, to: impl Into<Value>) -> Value {
    let (from, to): (Value, Value) = (from.into(), to.into());
    json!({"kind": kind, "name": name, "from": from, "to": to})
}

fn files(changes: Value) -> Value {
    json!({"kind": "files", "changes": changes})
}

fn file(path: &str, change: &str) -> Value {
    files(json!([{"path": path, "change": change}]))
}

fn altered(path: &str, change: &str, from: &str, to: &str) -> Value {
    files(json!([{"path": path, "change": change, "from": from, "to": to}]))
}

fn after(step: &str) -> Value {
    format!("after {step}").into()
}

/// Rows of what is built first, what is built then, and what runs then.
fn table(env: &Env, name: &str, rows: &[(&str, Build<'_>, Build<'_>, Ran)]) {
    env.base();
    env.write(&format!("{name}/a"), "a\n");
    env.write(&format!("{name}/b"), "b\n");
    for (row, before, after, expected) in rows {
        // Each row has its own history: a context of its own, and steps that no other row has.
        let context = format!("{name}-{}", row.replace(' ', "-").to_lowercase());
        env.write(&format!("{context}/a"), format!("a of {row}\n"));
        env.write(&format!("{context}/b"), format!("b of {row}\n"));
        let own = |dockerfile: &str| dockerfile.replace("@", &context);
        let (first, second) = (own(before.0), own(after.0));
        let found = changed(env, &context, (&first, before.1), |_| {}, (&second, after.1));
        let expected: Ran = expected
            .iter()
            .map(|(step, cause)| {
                let cause = cause.to_string().replace('@', &context);
                (step.clone(), serde_json::from_str(&cause).unwrap())
            })
            .collect();
        assert_eq!(found, expected, "{row}");
    }
}

#[test]
fn instructions() {
    let rows: &[(&str, Build<'_>, Build<'_>, Ran)] = &[
        (
            "text of RUN",
            ("FROM base\nRUN : @ one", &[]),
            ("FROM base\nRUN : @ two", &[]),
            ran([("2", instruction("RUN : @ one", "RUN : @ two"))]),
        ),
        (
            "blanks in RUN",
            ("FROM base\nRUN : @ a", &[]),
            ("FROM base\nRUN : @  a", &[]),
            ran([("2", instruction("RUN : @ a", "RUN : @  a"))]),
        ),
        (
            "exec form",
            ("FROM base\nRUN [\"true\", \"@\"]", &[]),
            ("FROM base\nRUN [\"true\", \"@\", \"x\"]", &[]),
            ran([(
                "2",
                instruction("RUN [\"true\", \"@\"]", "RUN [\"true\", \"@\", \"x\"]"),
            )]),
        ),
        (
            "line inserted",
            ("FROM base\nRUN echo @ > /1\nRUN echo 2 > /2", &[]),
            (
                "FROM base\nRUN echo @ > /1\nRUN echo x > /x\nRUN echo 2 > /2",
                &[],
            ),
            ran([("3", json!({"kind": "new-instruction"})), ("4", after("3"))]),
        ),
        (
            "line removed",
            ("FROM base\nRUN : @ 1\nRUN echo x > /x\nRUN : 2", &[]),
            ("FROM base\nRUN : @ 1\nRUN : 2", &[]),
            ran([(
                "3",
                json!({"kind": "order", "from": "RUN echo x > /x", "to": "RUN : @ 1"}),
            )]),
        ),
        (
            "lines swapped",
            ("FROM base\nRUN echo @ > /1\nRUN echo @ > /2", &[]),
            ("FROM base\nRUN echo @ > /2\nRUN echo @ > /1", &[]),
            ran([
                (
                    "2",
                    json!({"kind": "order", "from": "RUN echo @ > /1", "to": "FROM"}),
                ),
                ("3", after("2")),
            ]),
        ),
        (
            "comment",
            ("FROM base\nRUN : @", &[]),
            ("# more\nFROM base\n# and more\nRUN : @", &[]),
            ran([]),
        ),
        (
            "continuation",
            ("FROM base\nRUN : @ && true", &[]),
            ("FROM base\nRUN : @ && \\\n# why not\ntrue", &[]),
            ran([]),
        ),
        (
            "case of keyword",
            ("FROM base\nRUN : @", &[]),
            ("FROM base\nrun : @", &[]),
            ran([]),
        ),
        (
            "stage renamed",
            ("FROM base AS one\nRUN : @", &[]),
            ("FROM base AS two\nRUN : @", &[]),
            ran([]),
        ),
        (
            "stage renamed and step changed",
            ("FROM base AS one\nRUN : @ 1", &[]),
            ("FROM base AS two\nRUN : @ 2", &[]),
            ran([("two:2", instruction("RUN : @ 1", "RUN : @ 2"))]),
        ),
        (
            "metadata",
            ("FROM base\nRUN : @", &[]),
            ("FROM base\nLABEL a=b\nEXPOSE 80\nCMD x\nRUN : @", &[]),
            ran([]),
        ),
        (
            "heredoc of RUN",
            ("FROM base\nRUN <<E\n: @ 1\nE", &[]),
            ("FROM base\nRUN <<E\n: @ 2\nE", &[]),
            ran([("2", instruction("RUN <<E\n: @ 1\nE", "RUN <<E\n: @ 2\nE"))]),
        ),
        (
            "heredoc of COPY",
            ("FROM scratch\nCOPY <<E /f\n@ 1\nE", &[]),
            ("FROM scratch\nCOPY <<E /f\n@ 2\nE", &[]),
            ran([("1", instruction("@ 1\n", "@ 2\n"))]),
        ),
        (
            "chmod",
            ("FROM scratch\nCOPY a /a", &[]),
            ("FROM scratch\nCOPY --chmod=700 a /a", &[]),
            ran([("1", instruction("COPY a /a", "COPY --chmod=700 a /a"))]),
        ),
        (
            "chown",
            ("FROM scratch\nCOPY --chown=1:1 a /a", &[]),
            ("FROM scratch\nCOPY --chown=1:2 a /a", &[]),
            ran([("1", instruction("COPY --chown=1:1 a /a", "COPY --chown=1:2 a /a"))]),
        ),
        (
            "destination",
            ("FROM scratch\nCOPY a /a", &[]),
            ("FROM scratch\nCOPY a /c", &[]),
            ran([("1", instruction("COPY a /a", "COPY a /c"))]),
        ),
        (
            "blanks of COPY",
            ("FROM scratch\nCOPY a /a", &[]),
            ("FROM scratch\nCOPY   a    /a", &[]),
            ran([]),
        ),
    ];
    as_every_user(|env| table(env, "text", rows));
}

#[test]
fn variables() {
    let run = "FROM base\nARG V=1\nRUN : @";
    let rows: &[(&str, Build<'_>, Build<'_>, Ran)] = &[
        (
            "default of ARG",
            (run, &[]),
            ("FROM base\nARG V=2\nRUN : @", &[]),
            ran([("2", variable("arg", "V", "1", "2"))]),
        ),
        (
            "build argument",
            (run, &[]),
            (run, &["--build-arg=V=x"]),
            ran([("2", variable("arg", "V", "1", "x"))]),
        ),
        (
            "new ARG",
            ("FROM base\nRUN : @", &[]),
            (run, &[]),
            ran([("2", variable("arg", "V", Value::Null, "1"))]),
        ),
        (
            "ARG below",
            (run, &[]),
            ("FROM base\nARG V=1\nRUN : @\nARG W=2", &[]),
            ran([]),
        ),
        (
            "ENV",
            ("FROM base\nENV V=1\nRUN : @", &[]),
            ("FROM base\nENV V=2\nRUN : @", &[]),
            ran([("2", variable("env", "V", "1", "2"))]),
        ),
        (
            "blank at the end of ENV",
            ("FROM base\nENV V=\"1\"\nRUN : @", &[]),
            ("FROM base\nENV V=\"1 \"\nRUN : @", &[]),
            ran([("2", variable("env", "V", "1", "1 "))]),
        ),
        (
            "ENV removed",
            ("FROM base\nENV V=1\nRUN : @", &[]),
            ("FROM base\nRUN : @", &[]),
            ran([("2", variable("env", "V", "1", Value::Null))]),
        ),
        (
            "ENV made of ARG",
            ("FROM base\nARG V=1\nENV F=v$V\nRUN : @", &[]),
            ("FROM base\nARG V=2\nENV F=v$V\nRUN : @", &[]),
            ran([("2", variable("arg", "V", "1", "2"))]),
        ),
        (
            "order of ENV",
            ("FROM base\nENV V=1\nENV W=2\nRUN : @", &[]),
            ("FROM base\nENV W=2\nENV V=1\nRUN : @", &[]),
            ran([("2", setting("order of the environment", "PATH V W", "PATH W V"))]),
        ),
        (
            "ENV of a COPY that does not name it",
            ("FROM scratch\nENV V=1\nCOPY a /a", &[]),
            ("FROM scratch\nENV V=2\nCOPY a /a", &[]),
            ran([]),
        ),
        (
            "ARG in COPY",
            ("FROM scratch\nARG V=a\nCOPY $V /f", &[]),
            ("FROM scratch\nARG V=b\nCOPY $V /f", &[]),
            ran([("1", variable("arg", "V", "a", "b"))]),
        ),
        (
            "ENV in WORKDIR",
            ("FROM base\nENV V=1\nWORKDIR /@/$V", &[]),
            ("FROM base\nENV V=2\nWORKDIR /@/$V", &[]),
            ran([("2", variable("env", "V", "1", "2"))]),
        ),
        (
            "proxy",
            ("FROM base\nRUN : @", &[]),
            (
                "FROM base\nRUN : @",
                &["--build-arg=HTTP_PROXY=http://127.0.0.1:1"],
            ),
            ran([]),
        ),
        (
            "time",
            ("FROM scratch\nCOPY a /d/a", &["--build-arg=SOURCE_DATE_EPOCH=1"]),
            ("FROM scratch\nCOPY a /d/a", &["--build-arg=SOURCE_DATE_EPOCH=2"]),
            ran([("1", setting("SOURCE_DATE_EPOCH", "1", "2"))]),
        ),
    ];
    as_every_user(|env| table(env, "variables", rows));
}

#[test]
fn settings() {
    let plain = "FROM base\nRUN : @";
    let rows: &[(&str, Build<'_>, Build<'_>, Ran)] = &[
        (
            "shell",
            (plain, &[]),
            ("FROM base\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN : @", &[]),
            ran([("2", setting("shell", "/bin/sh -c", "/bin/sh -ec"))]),
        ),
        (
            "user",
            (plain, &[]),
            ("FROM base\nUSER 7\nRUN : @", &[]),
            ran([("2", setting("user", "", "7"))]),
        ),
        (
            "working directory",
            ("FROM base\nWORKDIR /@\nRUN :", &[]),
            ("FROM base\nWORKDIR /@x\nRUN :", &[]),
            ran([
                ("2", instruction("WORKDIR /@", "WORKDIR /@x")),
                ("3", setting("workdir", "/@", "/@x")),
            ]),
        ),
        (
            "network of RUN",
            (plain, &[]),
            ("FROM base\nRUN --network=none : @", &[]),
            ran([("2", setting("network", "default", "none"))]),
        ),
        (
            "network",
            (plain, &[]),
            (plain, &["--network=none"]),
            ran([("2", setting("network", "default", "none"))]),
        ),
        (
            "capability added",
            (plain, &[]),
            (plain, &["--cap-add=SYS_PTRACE"]),
            ran([("2", setting("capabilities", "usual", "+SYS_PTRACE"))]),
        ),
        (
            "capability dropped",
            (plain, &[]),
            (plain, &["--cap-drop=MKNOD"]),
            ran([("2", setting("capabilities", "usual", "-MKNOD"))]),
        ),
        (
            "no new privileges",
            (plain, &[]),
            (plain, &["--security-opt=no-new-privileges"]),
            ran([("2", setting("no-new-privileges", "false", "true"))]),
        ),
        (
            "system calls",
            (plain, &[]),
            (plain, &["--security-opt=seccomp=unconfined"]),
            ran([("2", setting("seccomp", "usual", "unconfined"))]),
        ),
        (
            "shared memory",
            (plain, &[]),
            (plain, &["--shm-size=1m"]),
            ran([("2", setting("shm-size", Value::Null, "1048576"))]),
        ),
        (
            "limit",
            (plain, &[]),
            (plain, &["--ulimit=nofile=100:100"]),
            ran([(
                "2",
                setting("ulimit", "[]", r#"[{"name":"nofile","soft":100,"hard":100}]"#),
            )]),
        ),
        (
            "host name",
            (plain, &[]),
            (plain, &["--build-arg=BUILDKIT_SANDBOX_HOSTNAME=other"]),
            ran([("2", setting("hostname", "buildkitsandbox", "other"))]),
        ),
        (
            "added host",
            (plain, &[]),
            (plain, &["--add-host=db:10.0.0.1"]),
            ran([("2", setting("add-host", "", "db"))]),
        ),
        (
            "address of an added host",
            (plain, &["--add-host=db:10.0.0.1"]),
            (plain, &["--add-host=db:10.0.0.2"]),
            ran([]),
        ),
        ("memory limit", (plain, &[]), (plain, &["--jobs=1"]), ran([])),
        (
            "platform",
            (plain, &["--platform=linux/amd64"]),
            (plain, &["--platform=linux/amd64/v2"]),
            ran([("2", setting("platform", "linux/amd64", "linux/amd64/v2"))]),
        ),
        (
            "mount added",
            (plain, &[]),
            ("FROM base\nRUN --mount=type=tmpfs,target=/t : @", &[]),
            ran([(
                "2",
                json!({"kind": "mount", "from": null, "to": "type=tmpfs,target=/t,rw"}),
            )]),
        ),
        (
            "target of a mount",
            ("FROM base\nRUN --mount=type=tmpfs,target=/t : @", &[]),
            ("FROM base\nRUN --mount=type=tmpfs,target=/u : @", &[]),
            ran([(
                "2",
                json!({"kind": "mount", "from": "type=tmpfs,target=/t,rw", "to": "type=tmpfs,target=/u,rw"}),
            )]),
        ),
        (
            "step of another stage",
            (
                "FROM base AS one\nRUN echo @ 1 > /f\nFROM scratch AS two\nCOPY --from=one /f /f",
                &[],
            ),
            (
                "FROM base AS one\nRUN echo @ 2 > /f\nFROM scratch AS two\nCOPY --from=one /f /f",
                &[],
            ),
            ran([
                ("one:2", instruction("RUN echo @ 1 > /f", "RUN echo @ 2 > /f")),
                ("two:1", after("one:2")),
            ]),
        ),
        (
            "stage that comes out the same",
            (
                "FROM base AS one\nRUN echo @ > /f\nFROM scratch AS two\nCOPY --from=one /f /f",
                &[],
            ),
            (
                "FROM base AS one\nRUN echo @ > /f && true\nFROM scratch AS two\nCOPY --from=one /f /f",
                &[],
            ),
            ran([("one:2", instruction("RUN echo @ > /f", "RUN echo @ > /f && true"))]),
        ),
    ];
    as_every_user(|env| table(env, "settings", rows));
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
        let digest = |name: &str| {
            let image = env.inspect(name);
            let digests = image["RepoDigests"][0].as_str().unwrap_or_default().to_owned();
            digests.rsplit('@').next().unwrap_or_default().to_owned()
        };
        let _ = digest;
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
fn the_store() {
    as_every_user(|env| {
        env.base();
        let dockerfile = "FROM base AS first\nRUN echo 1 > /1\nFROM base AS second\nCOPY --from=first /1 /1\nRUN echo 2 > /2\n";
        let build = |flags: &[&str]| {
            env.build("lost", dockerfile, flags).ok();
            why(env)
        };
        let all = |cause: Value| {
            ran([
                ("first:2", cause.clone()),
                ("second:2", cause.clone()),
                ("second:3", cause),
            ])
        };
        assert_eq!(build(&[]), all(json!({"kind": "never-built"})));
        assert_eq!(build(&[]), []);
        assert_eq!(build(&["--no-cache"]), all(json!({"kind": "no-cache"})));
        let kind = |ran: Ran| -> Vec<(String, Value)> {
            ran.into_iter()
                .map(|(step, cause)| (step, cause["kind"].clone()))
                .collect()
        };
        assert_eq!(
            build(&["--no-cache-filter=second"]),
            ran([
                ("second:2", json!({"kind": "no-cache-filter"})),
                ("second:3", json!({"kind": "no-cache-filter"})),
            ])
        );
        // Old results are not used, and what is made then is young.
        assert_eq!(build(&["--cache-ttl=1h"]), []);
        assert_eq!(
            kind(build(&["--cache-ttl=0"])),
            kind(all(json!({"kind": "cache-ttl"})))
        );
        std::thread::sleep(std::time::Duration::from_millis(2100));
        let found = build(&["--cache-ttl=1s"]);
        assert_eq!(kind(found.clone()), kind(all(json!({"kind": "cache-ttl"}))));
        assert_eq!(found[0].1["ttl"], 1);
        assert_eq!(build(&["--cache-ttl=1m"]), []);

        env.rbuild(["rmi", "lost"]).ok();
        env.rbuild(["prune", "--force"]).ok();
        let found = build(&[]);
        assert_eq!(found.len(), 3, "{found:?}");
        for (step, cause) in &found {
            assert_eq!(
                (&cause["kind"], &cause["rule"]),
                (&"evicted".into(), &"prune".into()),
                "{step}"
            );
        }
        env.rbuild(["prune", "--all", "--force"]).ok();
        let found = build(&[]);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(
            found.iter().all(|(_, cause)| cause["rule"] == "prune --all"),
            "{found:?}"
        );

        // Somebody else's hands.
        let keys = env.store().join("keys/v1");
        let each = |act: &dyn Fn(&Path)| {
            for entry in fs::read_dir(&keys).unwrap() {
                act(&entry.unwrap().path());
            }
        };
        each(&|path| fs::remove_file(path).unwrap());
        assert_eq!(build(&[]), all(json!({"kind": "gone"})));
        each(&|path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[20] ^= 1;
            fs::write(path, bytes).unwrap();
        });
        assert_eq!(build(&[]), all(json!({"kind": "damaged", "what": "record"})));

        // A step that failed is tried again, whatever was before.
        let failing = "FROM base\nRUN --mount=type=secret,id=s test -s /run/secrets/s\n";
        env.write("empty", "");
        env.write("full", "a value of it");
        env.build("failing", failing, &["--secret=id=s,src=empty"])
            .fails(1);
        assert_eq!(why(env), ran([("2", json!({"kind": "never-built"}))]));
        env.build("failing", failing, &["--secret=id=s,src=full"]).ok();
        assert_eq!(why(env), ran([("2", json!({"kind": "unfinished"}))]));
    });
}

#[test]
fn it_is_told_in_words() {
    as_every_user(|env| {
        let none = env.rbuild(["why"]).fails(1);
        assert!(none.stderr.contains("no build is recorded"), "{}", none.stderr);
        env.base();
        env.write("told/a", "a\n");
        let before =
            "FROM base AS build\nENV V=1\nCOPY a /a\nRUN echo one\nFROM scratch\nCOPY --from=build /a /\n";
        let first = env.build("told", before, &["--explain"]).ok();
        assert!(first.stderr.contains("\n3 of 3 steps ran:\n"), "{}", first.stderr);
        assert!(first.stderr.contains("context: raw"), "{}", first.stderr);
        let cached = env.build("told", before, &["--explain"]).ok();
        assert!(
            cached.stderr.contains("\nAll steps were cached.\n"),
            "{}",
            cached.stderr
        );
        let cached = env.rbuild(["why", "--last"]).ok();
        assert!(cached.stdout.starts_with("0 of 3 steps ran"), "{}", cached.stdout);

        env.write("told/a", "b\n");
        let plan_before = fs::read_dir(env.store().join("keys/v1")).unwrap().count();
        let context = env.path("told");
        let context = context.to_str().unwrap();
        let plan = env.rbuild(["plan", "--progress=quiet", context]).ok();
        assert!(
            plan.stdout
                .contains("run    [build 2/3] COPY a /a (Dockerfile:3)\n"),
            "{}",
            plan.stdout
        );
        assert!(plan.stdout.contains("      content  a\n"), "{}", plan.stdout);
        assert!(
            plan.stdout
                .contains("1 of 3 steps would run, and 2 that build upon them"),
            "{}",
            plan.stdout
        );
        assert_eq!(
            fs::read_dir(env.store().join("keys/v1")).unwrap().count(),
            plan_before
        );
        let json = env
            .rbuild(["plan", "--progress=quiet", "--format=json", context])
            .ok();
        let json: Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!(causes(&json, "run"), ran([("build:2", file("a", "content"))]));
        let maybe: Vec<String> = causes(&json, "maybe").into_iter().map(|(step, _)| step).collect();
        assert_eq!(maybe, ["build:3", "stage-1:1"]);
        assert!(
            env.rbuild(["plan", "--check", context])
                .fails(1)
                .stderr
                .contains("leave out --check")
        );

        let after = before.replace("echo one", "echo two");
        let text = env.build("told", &after, &["--explain", "-q"]).ok();
        assert!(
            text.stderr
                .contains("    the files that it reads changed\n      content  a\n"),
            "{}",
            text.stderr
        );
        let words = "[build 3/3] RUN echo two (Dockerfile:4)\n    the instruction changed: RUN echo [-one-] {+two+}\n";
        assert!(text.stderr.contains(words), "{}", text.stderr);
        for asked in ["build:3", "3", ":4"] {
            let answer = env.rbuild(["why", asked]).ok();
            assert_eq!(answer.stdout, words, "{asked}");
        }
        let unknown = env.rbuild(["why", "9"]).fails(1);
        assert!(
            unknown.stderr.contains("it has build:2, build:3, stage-1:1"),
            "{}",
            unknown.stderr
        );
        let invalid = env.rbuild(["why", "x:y"]).fails(1);
        assert!(
            invalid.stderr.contains("write 3, STAGE:3, or :12"),
            "{}",
            invalid.stderr
        );
        let ttl = env.rbuild(["build", "--cache-ttl=soon", context]).fails(2);
        assert!(ttl.stderr.contains("write it like 24h"), "{}", ttl.stderr);
    });
}

#[test]
fn no_record_has_a_secret() {
    as_every_user(|env| {
        env.base();
        env.write("secret", "s3cr3t-value-of-this-test");
        let dockerfile = "FROM base\nARG T\nRUN : $T\n";
        let flags = [
            "--secret=id=s,src=secret",
            "--build-arg=T=s3cr3t-value-of-this-test",
            "--build-arg=HTTP_PROXY=http://user:pr0xy-password@127.0.0.1:1",
            "--secret-scan=warn",
        ];
        env.build("leaky", dockerfile, &flags).ok();
        assert_eq!(why(env), ran([("2", json!({"kind": "never-built"}))]));
        let builds = env.store().join("builds/v1");
        let mut seen = 0;
        for entry in fs::read_dir(builds).unwrap() {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            let packed = &bytes[bytes.iter().position(|byte| *byte == b'\n').unwrap() + 33..];
            let text = String::from_utf8(zstd::decode_all(packed).unwrap()).unwrap();
            assert!(text.contains("RUN : $T"), "{text}");
            assert!(
                !text.contains("s3cr3t-value") && !text.contains("pr0xy"),
                "{text}"
            );
            seen += 1;
        }
        assert_eq!(seen, 1);
    });
}
