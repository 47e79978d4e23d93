use std::process::Command;

use crate::env::{Env, as_every_user};

/// (Dockerfile, what the message says, where)
const REFUSED: [(&str, &str, &str); 16] = [
    ("FROM base\nFOO bar\n", "unknown instruction: FOO", "Dockerfile:2"),
    (
        "FROM base\nCOPY nope /x\n",
        "\"/nope\": not found",
        "Dockerfile:2",
    ),
    (
        "FROM base\nRUN --bogus true\n",
        "unknown flag: --bogus",
        "Dockerfile:2",
    ),
    ("FROM base/X\n", "must be lowercase", "Dockerfile:1"),
    ("FROM 127.0.0.1:1/none\n", "127.0.0.1:1", "Dockerfile:1"),
    (
        "FROM base\nRUN true\nRUN echo last words; exit 3\n",
        "exit code: 3",
        "Dockerfile:3",
    ),
    (
        "FROM base\nUSER stranger\nRUN true\n",
        "unable to find user stranger",
        "Dockerfile:3",
    ),
    ("FROM base\nRUN [\"/no/such\"]\n", "/no/such", "Dockerfile:2"),
    (
        "FROM base AS a\nCOPY --from=b / /\nFROM base AS b\nFROM a\n",
        "needs to be defined before",
        "Dockerfile:2",
    ),
    (
        "FROM base\nCOPY --from=7 / /\n",
        "invalid stage index 7",
        "Dockerfile:2",
    ),
    ("# nothing\n", "file with no instructions", ""),
    (
        "FROM base\nHEALTHCHECK --interval=1 CMD x\n",
        "missing unit",
        "Dockerfile:2",
    ),
    (
        "FROM base\n\nRUN true && \\\n# why\n  exit 4\n",
        "exit code: 4",
        "Dockerfile:3",
    ),
    (
        "FROM base\nRUN <<E\nexit 5\nE\nRUN true\n",
        "exit code: 5",
        "Dockerfile:2",
    ),
    (
        "FROM base AS a\nONBUILD RUN exit 6\n\nFROM a\n",
        "exit code: 6",
        "Dockerfile:4",
    ),
    (
        "FROM base\nCOPY <<E /x\n\n${A:?needed}\nE\n",
        "A: needed",
        "Dockerfile:4",
    ),
];

#[test]
fn bad_input_is_one_clear_error_and_moves_no_tag() {
    as_every_user(|env| {
        env.base();
        env.build("good", "FROM base\nRUN echo good > /good\n", &[]).ok();
        let id = env.inspect("good")["Id"].clone();
        for (dockerfile, message, place) in REFUSED {
            env.write("bad/Dockerfile", dockerfile);
            let context = env.path("bad");
            let run = env
                .rbuild(["--progress=plain", "-t", "good", context.to_str().unwrap()])
                .fails(1);
            assert!(
                run.stderr.contains(message),
                "{dockerfile}: {message:?} is not in:\n{}",
                run.stderr
            );
            assert!(
                run.stderr.contains(place),
                "{dockerfile}: {place:?} is not in:\n{}",
                run.stderr
            );
            assert_eq!(
                run.count("ERROR: failed to build"),
                1,
                "{dockerfile}:\n{}",
                run.stderr
            );
            assert_eq!(env.inspect("good")["Id"], id, "{dockerfile} moved the tag");
            nothing_left(env);
        }
        let last = env
            .build("bad", "FROM base\nRUN echo last words; exit 3\n", &["-q"])
            .fails(1);
        assert!(last.stderr.contains("last words"), "{}", last.stderr);
    });
}

#[test]
fn bad_usage_is_exit_status_2() {
    as_every_user(|env| {
        for args in [
            vec!["--no-such-flag", "."],
            vec!["build"],
            vec!["build", "--progress=wrong", "."],
            vec!["no-such", "verb"],
        ] {
            env.rbuild(&args).fails(2);
        }
    });
}

#[test]
fn contexts_that_cannot_be_read_are_named() {
    as_every_user(|env| {
        env.base();
        let run = env.rbuild(["-t", "x", "/no/such/context"]).fails(1);
        assert!(run.stderr.contains("/no/such/context"), "{}", run.stderr);
        let empty = env.context("empty", &[("x", "")]);
        let run = env.rbuild(["-t", "x", &empty]).fails(1);
        assert!(run.stderr.contains("Dockerfile"), "{}", run.stderr);
        if env.is_root() {
            // Root reads everything.
            return;
        }
        env.context(
            "locked",
            &[("Dockerfile", "FROM base\nCOPY . /x\n"), ("secret/file", "x")],
        );
        let secret = env.path("locked/secret");
        assert!(
            env.command("chmod")
                .arg("000")
                .arg(&secret)
                .status()
                .unwrap()
                .success()
        );
        let run = env
            .rbuild(["-t", "x", env.path("locked").to_str().unwrap()])
            .fails(1);
        assert!(run.stderr.contains("secret"), "{}", run.stderr);
        assert!(
            env.command("chmod")
                .arg("755")
                .arg(&secret)
                .status()
                .unwrap()
                .success()
        );
    });
}

#[test]
fn a_full_disk_is_an_error_and_then_forgotten() {
    as_every_user(|env| {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can mount a small file system");
            return;
        }
        env.write("full/big", vec![b'x'; 3 << 20]);
        env.write(
            "full/Dockerfile",
            "FROM scratch\nCOPY big /a\nCOPY big /b/\nCOPY big /c/\n",
        );
        let small = env.path("small");
        std::fs::create_dir(&small).unwrap();
        let mount = |size: &str| {
            let options = format!("size={size},mode=777");
            assert!(
                Command::new("mount")
                    .args(["-t", "tmpfs", "-o", &options, "rbuild-test"])
                    .arg(&small)
                    .status()
                    .unwrap()
                    .success()
            );
        };
        let build = || {
            let store = small.join("store");
            let context = env.path("full");
            env.rbuild_in(&store, ["-t", "full", context.to_str().unwrap()])
        };
        mount("7m");
        let failed = build();
        let size = "remount,size=64m,mode=777";
        assert!(
            Command::new("mount")
                .args(["-o", size])
                .arg(&small)
                .status()
                .unwrap()
                .success()
        );
        let again = build();
        assert!(Command::new("umount").arg(&small).status().unwrap().success());
        let failed = failed.fails(1);
        assert!(
            failed.stderr.to_lowercase().contains("no space left"),
            "{}",
            failed.stderr
        );
        again.ok();
    });
}

/// No mount below the folder, no temporary file of a build in the store.
pub fn nothing_left(env: &Env) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let folder = env.path("");
    assert!(!mounts.contains(folder.to_str().unwrap()), "{mounts}");
    if let Ok(left) = std::fs::read_dir(env.store().join("tmp")) {
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.is_empty(), "{left:?} in the store's tmp");
    }
}

#[test]
fn what_may_not_be_read_is_named_with_what_helps() {
    let Some(env) = Env::ordinary() else {
        eprintln!("skipped: root may read everything");
        return;
    };
    env.context("denied", &[("f", "f"), ("no/x", "x")]);
    let allow = |mode: u32| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(env.path("denied/no"), mode).unwrap();
    };
    allow(0);
    let run = env.build("denied", "FROM scratch\nCOPY . /\n", &[]).fails(1);
    let wanted = "reading the build context: /no: Permission denied";
    assert!(run.stderr.contains(wanted), "{}", run.stderr);
    assert!(run.stderr.contains(".dockerignore"), "{}", run.stderr);
    env.write("denied/.dockerignore", "no\n");
    env.build("denied", "FROM scratch\nCOPY . /\n", &[]).ok();
    allow(0o755);
}
