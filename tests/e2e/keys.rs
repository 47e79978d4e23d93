//! What is in the key of a step and what is not (spec 12.1), row by row.

use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use crate::env::{Env, Run};

/// What the step prints when it is run.
const PRINTED: &str = " ran-step\n";

const HEAD: &str = "FROM base\nARG UNUSED=1\nCOPY --exclude=*.md d/ /d/\n";

/// What comes after the step of the first build, and before it.
struct Row {
    what: &'static str,
    before: &'static str,
    step: &'static str,
    after: &'static str,
    flags: &'static [&'static str],
    /// Whether the step is run again.
    runs: bool,
}

const SAME: Row = Row {
    what: "",
    before: "",
    step: "RUN echo ran-step; true",
    after: "",
    flags: &[],
    runs: true,
};

const ROWS: &[Row] = &[
    Row {
        what: "nothing",
        runs: false,
        ..SAME
    },
    Row {
        what: "a blank in the command",
        step: "RUN echo  ran-step; true",
        ..SAME
    },
    Row {
        what: "blanks before the command",
        step: "RUN    echo ran-step; true",
        runs: false,
        ..SAME
    },
    Row {
        what: "lower case of the instruction",
        step: "run echo ran-step; true",
        runs: false,
        ..SAME
    },
    Row {
        what: "ENV",
        before: "ENV X=1\n",
        ..SAME
    },
    Row {
        what: "a blank at the end of ENV",
        before: "ENV X=\"1 \"\n",
        ..SAME
    },
    Row {
        what: "an ARG that is declared and not used",
        flags: &["--build-arg=UNUSED=2"],
        ..SAME
    },
    Row {
        what: "an ARG that is not declared",
        flags: &["--build-arg=OTHER=2"],
        runs: false,
        ..SAME
    },
    Row {
        what: "WORKDIR",
        before: "WORKDIR /w\n",
        ..SAME
    },
    Row {
        what: "USER",
        before: "USER 1\n",
        ..SAME
    },
    Row {
        what: "the group of USER",
        before: "USER 1:2\n",
        ..SAME
    },
    Row {
        what: "SHELL",
        before: "SHELL [\"/bin/sh\", \"-ec\"]\n",
        ..SAME
    },
    Row {
        what: "what says something of the image",
        before: "LABEL a=b\nEXPOSE 80\nCMD x\nSTOPSIGNAL 9\n",
        runs: false,
        ..SAME
    },
    Row {
        what: "what comes after",
        after: "ENV LATER=1\nWORKDIR /later\n",
        runs: false,
        ..SAME
    },
    Row {
        what: "the network",
        step: "RUN --network=none echo ran-step; true",
        ..SAME
    },
    Row {
        what: "the same network, given for all",
        flags: &["--network=none"],
        runs: false,
        ..SAME
    },
    Row {
        what: "a privilege",
        step: "RUN --security=insecure echo ran-step; true",
        flags: &["--allow=security.insecure"],
        ..SAME
    },
    Row {
        what: "a privilege that nobody uses",
        flags: &["--allow=security.insecure"],
        runs: false,
        ..SAME
    },
    Row {
        what: "the name of a host",
        flags: &["--add-host=db:10.0.0.1"],
        ..SAME
    },
    Row {
        what: "the address of that host",
        flags: &["--add-host=db:10.0.0.2"],
        runs: false,
        ..SAME
    },
    Row {
        what: "a limit",
        flags: &["--ulimit=nofile=512"],
        ..SAME
    },
    Row {
        what: "another limit",
        flags: &["--ulimit=nofile=256"],
        ..SAME
    },
    Row {
        what: "shared memory",
        flags: &["--shm-size=8m"],
        ..SAME
    },
    Row {
        what: "a capability less",
        flags: &["--cap-drop=CHOWN"],
        ..SAME
    },
    Row {
        what: "a proxy",
        flags: &["--build-arg=HTTP_PROXY=http://proxy.invalid"],
        runs: false,
        ..SAME
    },
    Row {
        what: "how much of the machine",
        flags: &["--jobs=1"],
        runs: false,
        ..SAME
    },
    Row {
        what: "a bind mount",
        step: "RUN --mount=target=/m,source=d echo ran-step; true",
        ..SAME
    },
    Row {
        what: "where it is mounted",
        step: "RUN --mount=target=/n,source=d echo ran-step; true",
        ..SAME
    },
    Row {
        what: "a cache mount",
        step: "RUN --mount=type=cache,target=/c echo ran-step; true",
        ..SAME
    },
    Row {
        what: "a tmpfs",
        step: "RUN --mount=type=tmpfs,target=/c echo ran-step; true",
        ..SAME
    },
    Row {
        what: "the first again",
        runs: false,
        ..SAME
    },
];

fn build(env: &Env, row: &Row) -> Run {
    let dockerfile = format!("{HEAD}{}{}\n{}", row.before, row.step, row.after);
    env.build("keys", &dockerfile, row.flags).ok()
}

#[test]
fn what_the_key_of_a_run_has() {
    let env = Env::ordinary().unwrap_or_else(Env::of_caller).in_memory();
    env.base();
    env.write("keys/d/a", "a");
    assert_eq!(build(&env, &SAME).count(PRINTED), 1);
    for row in ROWS {
        let run = build(&env, row);
        assert_eq!(
            run.count(PRINTED),
            usize::from(row.runs),
            "{}\n{}",
            row.what,
            run.stderr
        );
    }
}

#[test]
fn secrets_are_in_no_key() {
    let env = Env::ordinary().unwrap_or_else(Env::of_caller).in_memory();
    env.base();
    let dockerfile =
        "FROM base\nRUN --mount=type=secret,id=s,target=/s cat /s > /dev/null; echo ran-step; true\n";
    let mut printed = 0;
    for value in ["one", "two"] {
        let file = env.write("secret", value);
        let secret = format!("--secret=id=s,src={}", file.display());
        printed += env.build("secrets", dockerfile, &[&secret]).ok().count(PRINTED);
    }
    assert_eq!(printed, 1);
}

/// What is done to the file `d/a`, or beside it; whether the copy is done again.
type Touch = (&'static str, fn(&Env), bool);

const TOUCHES: &[Touch] = &[
    ("nothing", |_| (), false),
    ("a time", |env| set_time(env, 1_000_000_000), false),
    (
        "a file that is not copied",
        |env| drop(env.write("keys/other", "x")),
        false,
    ),
    (
        "a file that is excluded",
        |env| drop(env.write("keys/d/x.md", "x")),
        false,
    ),
    (
        "the same bytes again",
        |env| drop(env.write("keys/d/a", "a")),
        false,
    ),
    ("other bytes", |env| drop(env.write("keys/d/a", "b")), true),
    ("a mode", |env| set_mode(env, "keys/d/a", 0o600), true),
    ("the setuid bit", |env| set_mode(env, "keys/d/a", 0o4755), true),
    (
        "a name",
        |env| fs::rename(env.path("keys/d/a"), env.path("keys/d/b")).unwrap(),
        true,
    ),
    ("a directory", |env| drop(env.write("keys/d/e/f", "f")), true),
    (
        "the mode of a directory",
        |env| set_mode(env, "keys/d/e", 0o700),
        true,
    ),
    ("a link", |env| link(env, "b"), true),
    ("where the link leads", |env| link(env, "e"), true),
    ("an attribute", |env| set_attribute(env, b"1"), true),
    ("the value of the attribute", |env| set_attribute(env, b"2"), true),
];

fn set_time(env: &Env, seconds: u64) {
    let file = fs::File::options()
        .write(true)
        .open(env.path("keys/d/a"))
        .unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds))
        .unwrap();
}

fn set_mode(env: &Env, name: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(env.path(name), fs::Permissions::from_mode(mode)).unwrap();
}

fn link(env: &Env, to: &str) {
    let _ = fs::remove_file(env.path("keys/d/l"));
    std::os::unix::fs::symlink(to, env.path("keys/d/l")).unwrap();
}

fn set_attribute(env: &Env, value: &[u8]) {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(env.path("keys/d/b"), "user.key", value, flags).unwrap();
}

#[test]
fn what_the_key_of_a_copy_has() {
    let env = Env::ordinary().unwrap_or_else(Env::of_caller).in_memory();
    env.write("keys/d/a", "a");
    let dockerfile = "FROM scratch\nCOPY --exclude=*.md d/ /d/\n";
    env.build("keys", dockerfile, &[]).ok();
    for (what, touch, copies) in TOUCHES {
        touch(&env);
        let run = env.build("keys", dockerfile, &[]).ok();
        assert_eq!(run.count("CACHED") == 0, *copies, "{what}\n{}", run.stderr);
    }
}
