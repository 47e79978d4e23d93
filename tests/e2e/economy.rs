use std::fs;
use std::process::Command;

use crate::env::{Env, as_every_user, has};

#[test]
fn a_final_copy_creates_none_of_its_files() {
    as_every_user(|env| {
        if !has("strace") {
            return;
        }
        env.base();
        for directory in 0..200 {
            for file in 0..100 {
                env.write(
                    &format!("many/d{directory}/f{file}"),
                    format!("{directory} {file}\n"),
                );
            }
        }
        env.write("many/Dockerfile", "FROM base\nCOPY . /app\n");
        let trace = traced(
            env,
            "openat,open,creat,mkdir,mkdirat,mknodat,linkat,link,symlinkat",
            "many",
        );
        let created = trace
            .lines()
            .filter(|line| line.contains("O_CREAT") || line.contains("mkdir") || line.contains("link"))
            .count();
        assert!(created < 100, "{created} files were created for a COPY of 20,000");
    });
}

#[test]
fn a_run_does_not_look_at_the_image() {
    as_every_user(|env| {
        if !has("strace") {
            return;
        }
        env.base();
        let make = "FROM base\nRUN for d in $(seq 250); do mkdir -p /data/$d; cd /data/$d; seq 200 | xargs touch; done\n";
        env.build("files", make, &[]).ok();
        env.write("one/Dockerfile", "FROM files\nRUN echo x >> /data/7/7\n");
        let trace = traced(env, "getdents64,newfstatat,statx,openat,lstat,stat", "one");
        let calls = trace.lines().count();
        assert!(
            calls < 3000,
            "{calls} calls for a RUN that touches one of 50,000 files"
        );
    });
}

/// The system calls of building the context `name`.
fn traced(env: &Env, calls: &str, name: &str) -> String {
    let trace = env.path("trace");
    let context = env.path(name);
    let build = env.rbuild_command(["build", "-q", "-t", name, context.to_str().unwrap()]);
    let mut command = env.command("strace");
    command
        .args(["-f", "-o"])
        .arg(&trace)
        .arg(format!("--trace={calls}"));
    let output = command.args(program_and_arguments(&build)).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::read_to_string(trace).unwrap()
}

/// The command without the switch of user, for another program that has made it.
fn program_and_arguments(command: &Command) -> Vec<std::ffi::OsString> {
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_owned());
    let switch = if command.get_program() == "setpriv" { 4 } else { 0 };
    words.skip(switch).collect()
}
