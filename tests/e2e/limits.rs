//! How much of the machine steps may use.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::env::{Env, Run, as_every_user};

/// The directories of cgroups that the build with this number has made.
fn groups(pid: u32) -> Vec<String> {
    let found = Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-name", &format!("rbuild.{pid}")])
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    text.lines().map(str::to_owned).collect()
}

/// Whether root may make cgroups for memory and processes here.
fn has_cgroups() -> bool {
    let first = ["memory", "pids"].map(|name| Path::new("/sys/fs/cgroup").join(name));
    let writable = |path: &Path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
    let has = first.iter().all(|path| writable(path));
    if !has {
        eprintln!("skipped: no cgroups of version 1 for memory and processes that may be written");
    }
    has
}

fn build(env: &Env, name: &str, dockerfile: &str, flags: &[&str]) -> (u32, Run) {
    env.write(&format!("{name}/Dockerfile"), dockerfile);
    let context = env.path(name);
    let args = ["build", "--progress=plain", "--no-cache"];
    let args = args.into_iter().chain(flags.iter().copied());
    let child = env
        .rbuild_command(args.chain([context.to_str().unwrap()]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    (pid, child.wait_with_output().unwrap().into())
}

#[test]
fn memory_beyond_the_limit_is_refused_and_told() {
    as_every_user(|env| {
        env.base();
        // It keeps the last line, which never ends.
        let dockerfile = "FROM base\nRUN tail /dev/zero\n";
        let (pid, run) = build(env, "memory", dockerfile, &["-m", "32m"]);
        let run = run.fails(1);
        if env.is_root() && has_cgroups() {
            assert!(
                run.stderr.contains("exit code: 137: killed: out of memory\n"),
                "{}",
                run.stderr
            );
            assert!(
                run.stderr.contains("hint: each step may use 33554432 bytes"),
                "{}",
                run.stderr
            );
        } else if !env.is_root() {
            assert!(
                run.stderr.contains("--memory: no cgroup can be made"),
                "{}",
                run.stderr
            );
            assert!(
                run.stderr.contains("33554432 bytes of address space"),
                "{}",
                run.stderr
            );
        }
        assert_eq!(groups(pid), [""; 0]);
        // Limits are no part of a step: what was made with one is there without.
        env.build(
            "enough",
            "FROM base\nRUN echo ran\n",
            &["--resource=memory=64m,cpus=1"],
        )
        .ok();
        let run = env.build("enough", "FROM base\nRUN echo ran\n", &[]).ok();
        assert_eq!(run.count("CACHED"), 1, "{}", run.stderr);
    });
}

#[test]
fn processes_and_processors_are_limited() {
    let env = &Env::of_caller();
    if !env.is_root() || !has_cgroups() {
        eprintln!("skipped: it takes root and cgroups");
        return;
    }
    env.base();
    let dockerfile = "FROM base\nRUN cat /proc/self/cgroup; grep Cpus_allowed_list /proc/self/status; \
                      for i in 1 2 3 4 5 6 7 8; do sleep 0.2 & done; wait; echo all-$((40 + 2))\n";
    let flags = [
        "--pids-limit=5",
        "--cpuset-cpus=0",
        "--cpus=0.5",
        "--cpu-shares=512",
    ];
    let (pid, run) = build(env, "processes", dockerfile, &flags);
    let run = run.fails(1);
    assert_eq!(run.count("all-42\n"), 0, "{}", run.stderr);
    for text in ["an't fork", "Cpus_allowed_list:\t0\n", "pids:/\n"] {
        assert!(run.stderr.contains(text), "{text}: {}", run.stderr);
    }
    assert!(!run.stderr.contains("WARN"), "{}", run.stderr);
    assert_eq!(groups(pid), [""; 0]);
}

#[test]
fn cgroups_go_with_a_build_that_is_killed() {
    let env = &Env::of_caller();
    if !env.is_root() || !has_cgroups() {
        eprintln!("skipped: it takes root and cgroups");
        return;
    }
    env.base();
    env.write("killed/Dockerfile", "FROM base\nRUN sleep 31558\n");
    let context = env.path("killed");
    let mut build = env
        .rbuild_command(["build", "-q", "-m", "64m", context.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = build.id();
    let within = |limit: Duration, what: &str, done: &dyn Fn(&[String]) -> bool| {
        let began = Instant::now();
        while !done(&groups(pid)) {
            assert!(began.elapsed() < limit, "{what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    within(Duration::from_secs(20), "the step does not start", &|groups| {
        let step = groups.first().map(|group| format!("{group}/step-0/cgroup.procs"));
        step.is_some_and(|file| fs::read_to_string(file).is_ok_and(|text| !text.is_empty()))
    });
    build.kill().unwrap();
    build.wait().unwrap();
    within(Duration::from_secs(1), "cgroups outlive the build", &|groups| {
        groups.is_empty()
    });
}

#[test]
fn limits_that_make_no_sense_are_errors() {
    let env = &Env::of_caller();
    for (flag, expected) in [
        ("--memory=1k", "the least is 6m"),
        ("--memory-swap=1g", "of use only with --memory"),
        ("--cpus=none", "expected a number such as 1.5"),
        ("--resource=disk=1g", "unknown name \"disk\""),
        ("--cpuset-cpus=first", "expected numbers and ranges"),
    ] {
        let run = env.build("flags", "FROM scratch\n", &[flag]).fails(1);
        assert!(run.stderr.contains(expected), "{flag}: {}", run.stderr);
    }
}
