//! What is written, variables and settings.

use serde_json::{Value, json};

use super::{Build, Ran, changed, ran};
use crate::env::{Env, as_every_user};

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
            (
                "# syntax=docker/dockerfile:1\n# more\nFROM base\n# and more\nRUN : @",
                &[],
            ),
            ran([]),
        ),
        (
            "continuation",
            ("FROM base\nRUN : @ && true", &[]),
            (
                "# escape=`\nFROM base\nSHELL [\"/bin/sh\", \"-c\"]\nRUN : @ && `\n# why not\ntrue",
                &[],
            ),
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
            (
                "FROM base\nLABEL a=b\nEXPOSE 80\nCMD x\nENTRYPOINT [\"x\"]\nHEALTHCHECK CMD true\nSTOPSIGNAL 9\n\
                 VOLUME /v\nONBUILD RUN false\nMAINTAINER x\nRUN : @",
                &["--label=c=d"],
            ),
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
            "build argument as the default",
            (run, &[]),
            (run, &["--build-arg=V=1"]),
            ran([]),
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
            "security",
            (plain, &[]),
            (
                "FROM base\nRUN --security=insecure : @",
                &["--allow=security.insecure"],
            ),
            ran([("2", setting("security", "sandbox", "insecure"))]),
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
            ran([("2", setting("ulimit", "", "nofile=100:100"))]),
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
        ("jobs", (plain, &[]), (plain, &["--jobs=1"]), ran([])),
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
            "agent",
            (plain, &[]),
            ("FROM base\nRUN --mount=type=ssh : @", &[]),
            ran([(
                "2",
                json!({"kind": "mount", "from": null, "to": "type=ssh,id=default,required=false,mode=0600,\
                    uid=0,gid=0,target=/run/buildkit/ssh_agent.0,ro"}),
            )]),
        ),
        (
            "variable of a secret",
            (
                "FROM base\nRUN --mount=type=secret,id=s,env=A : @",
                &["--secret=id=s,env=PATH"],
            ),
            (
                "FROM base\nRUN --mount=type=secret,id=s,env=B,required : @",
                &["--secret=id=s,env=PATH"],
            ),
            ran([("2", setting("secret-env", "id=s,env=A", "id=s,env=B,required"))]),
        ),
        (
            "writing to a mount",
            ("FROM base\nRUN --mount=target=/m : @", &[]),
            ("FROM base\nRUN --mount=target=/m,rw : @", &[]),
            ran([(
                "2",
                json!({"kind": "mount", "from": "type=bind,target=/m,ro", "to": "type=bind,target=/m,rw"}),
            )]),
        ),
        (
            "source of a mount",
            ("FROM base\nRUN --mount=source=a,target=/m : @", &[]),
            ("FROM base\nRUN --mount=source=b,target=/m : @", &[]),
            ran([(
                "2",
                instruction(
                    "RUN --mount=source=a,target=/m : @",
                    "RUN --mount=source=b,target=/m : @",
                ),
            )]),
        ),
        (
            // The stage was there before, and nothing needed it.
            "another stage",
            (
                "FROM base AS one\nRUN echo @ 1 > /f\nFROM base AS two\nRUN echo @ 2 > /f\nFROM base AS three\n\
                 COPY --from=one /f /f\nRUN --mount=from=one,target=/m cp /m/f /g",
                &[],
            ),
            (
                "FROM base AS one\nRUN echo @ 1 > /f\nFROM base AS two\nRUN echo @ 2 > /f\nFROM base AS three\n\
                 COPY --from=two /f /f\nRUN --mount=from=two,target=/m cp /m/f /g",
                &[],
            ),
            ran([
                ("two:2", json!({"kind": "never-built"})),
                (
                    "three:2",
                    instruction("COPY --from=one /f /f", "COPY --from=two /f /f"),
                ),
                (
                    "three:3",
                    instruction(
                        "RUN --mount=from=one,target=/m cp /m/f /g",
                        "RUN --mount=from=two,target=/m cp /m/f /g",
                    ),
                ),
            ]),
        ),
        (
            "target",
            (
                "FROM base AS one\nRUN : @ 1\nFROM base AS two\nRUN : @ 2",
                &["--target=one"],
            ),
            (
                "FROM base AS one\nRUN : @ 1\nFROM base AS two\nRUN : @ 2",
                &["--target=two"],
            ),
            ran([("two:2", json!({"kind": "never-built"}))]),
        ),
        (
            "stage before one without a name",
            ("FROM base\nRUN : @ 1", &[]),
            (
                "FROM base AS one\nRUN echo @ > /f\nFROM base\nRUN : @ 2\nCOPY --from=one /f /f",
                &[],
            ),
            ran([
                ("one:2", json!({"kind": "never-built"})),
                ("stage-1:2", instruction("RUN : @ 1", "RUN : @ 2")),
                ("stage-1:3", json!({"kind": "new-instruction"})),
            ]),
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
