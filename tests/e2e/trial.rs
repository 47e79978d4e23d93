//! `rbuild run`: what the command gets, and how its end is told.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use crate::env::{Env, as_every_user};

/// Standard output of `rbuild run ARGS`.
fn output(env: &Env, args: &[&str]) -> String {
    env.rbuild(["run"].iter().chain(args)).ok().stdout
}

#[test]
fn a_command_is_tried_in_an_image() {
    as_every_user(|env| {
        env.base();
        let dockerfile =
            "FROM base\nENV A=1\nUSER 5:6\nWORKDIR /work\nENTRYPOINT [\"echo\"]\nCMD [\"usual\"]\n";
        env.build("app", dockerfile, &["--no-cache"]).ok();
        let sh = ["--entrypoint", "sh", "app", "-c"];
        let sh = |flags: &[&str], script: &str| output(env, &[flags, &sh[..], &[script]].concat());
        assert_eq!(output(env, &["app"]), "usual\n");
        assert_eq!(output(env, &["--rm", "app", "-n", "other"]), "other");
        assert_eq!(
            sh(&["-e", "B=2"], "echo $A$B; pwd; id -u; id -g"),
            "12\n/work\n5\n6\n"
        );
        assert_eq!(
            sh(&["-u", "0", "-w", "/etc"], "pwd; id -u; echo x > /new; cat /new"),
            "/etc\n0\nx\n"
        );
        // Nothing of it stays.
        assert_eq!(sh(&["-u", "0"], "ls /new 2>/dev/null || echo gone"), "gone\n");
        assert_eq!(
            sh(&["--network", "none", "--hostname", "here"], "hostname"),
            "here\n"
        );
        for (code, script) in [(7, "exit 7"), (1, "false")] {
            env.rbuild(["run", "--entrypoint", "sh", "app", "-c", script])
                .fails(code);
        }
        let missing = env.rbuild(["run", "--entrypoint", "nosuch", "app"]).fails(127);
        assert!(
            missing.stderr.contains("executable file not found"),
            "{}",
            missing.stderr
        );
        let none = env.rbuild(["run", "--pull", "never", "nosuch"]).fails(1);
        assert!(
            none.stderr.contains("No such image: nosuch:latest"),
            "{}",
            none.stderr
        );
    });
}

#[test]
fn it_reads_and_sees_what_it_is_given() {
    as_every_user(|env| {
        env.base();
        env.write("given/file", "of the machine\n");
        let given = env.path("given");
        let given = given.to_str().unwrap();
        let volume = format!("{given}:/given:ro");
        assert_eq!(
            output(env, &["-v", &volume, "base", "cat", "/given/file"]),
            "of the machine\n"
        );
        let refused = env
            .rbuild(["run", "-v", &volume, "base", "touch", "/given/new"])
            .fails(1);
        assert!(
            refused.stderr.contains("Read-only file system"),
            "{}",
            refused.stderr
        );
        output(
            env,
            &["-v", &format!("{given}:/given"), "base", "touch", "/given/new"],
        );
        assert!(fs::exists(env.path("given/new")).unwrap());
        env.rbuild(["run", "-v", "name:/given", "base", "true"]).fails(1);

        let mut child = env
            .rbuild_command(["run", "-i", "base", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&[b'x'; 300_000]).unwrap();
        let read = child.wait_with_output().unwrap();
        assert!(
            read.status.success() && read.stdout.len() == 300_000,
            "{}",
            read.stdout.len()
        );
        // Without -i there is nothing to read.
        assert_eq!(output(env, &["base", "cat"]), "");
        // A terminal of its own.
        let script = "test -t 0 && test -t 1 && echo $TERM";
        assert_eq!(output(env, &["-t", "base", "sh", "-c", script]), "xterm\r\n");
    });
}
