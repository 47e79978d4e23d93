use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::env::{Env, as_every_user};
use crate::errors::nothing_left;

const DOCKERFILE: &str = "FROM base\nCOPY in /in\nRUN seq 2000 > /a; mkdir -p /d/e; sleep 0.05; cp -r /bin /d/bin\n\
    RUN sleep 0.05; (sleep 31557 & sleep 31557 & true); cat /in > /d/e/in; rm -r /d/bin; echo done > /b\nCOPY in /d/e/copy\n";

#[test]
fn kill_9_at_any_moment_leaves_nothing_and_breaks_nothing() {
    as_every_user(|env| {
        prepare(env);
        let clean = listing(env, "clean");
        let began = Instant::now();
        env.rbuild(["build", "-q", "--no-cache", "-t", "k", &context(env)])
            .ok();
        let whole = began.elapsed();
        let moments = 50;
        for moment in 0..moments {
            let mut build = spawn(env);
            std::thread::sleep(whole.mul_f64(f64::from(moment) * 1.1 / f64::from(moments)));
            build.kill().unwrap();
            build.wait().unwrap();
            gone_within(env, Duration::from_secs(1));
        }
        env.rbuild(["build", "-q", "-t", "k", &context(env)]).ok();
        assert_eq!(listing(env, "after"), clean);
        nothing_left(env);
    });
}

#[test]
fn signals_end_a_build_and_its_steps() {
    as_every_user(|env| {
        prepare(env);
        env.write(
            "sleep/Dockerfile",
            "FROM base\nRUN trap 'exit 0' TERM; echo sleeping; sleep 31557 & wait\n",
        );
        let context = env.path("sleep");
        for (signal, code) in SIGNALS {
            let mut command =
                env.rbuild_command(["build", "--progress=plain", "-t", "k", context.to_str().unwrap()]);
            let log = env.path("log");
            let build = command
                .stdout(Stdio::null())
                .stderr(fs::File::create(&log).unwrap())
                .spawn()
                .unwrap();
            wait_for(
                || fs::read_to_string(&log).is_ok_and(|text| text.contains(" sleeping\n")),
                "the step to run",
            );
            ends_by(env, build, signal, code, &log);
        }
    });
}

#[test]
fn signals_end_a_build_that_waits_for_a_registry_or_writes_an_archive() {
    as_every_user(|env| {
        prepare(env);
        // A registry that takes calls and never answers.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        env.write("silent/Dockerfile", format!("FROM {address}/none\n"));
        env.write("big/Dockerfile", "FROM base\nCOPY big /\n");
        let big = fs::File::create(env.write("big/big", "")).unwrap();
        big.set_len(2 << 30).unwrap();
        let out = env.path("out");
        fs::create_dir(&out).unwrap();
        env.own(&out);
        let output = format!(
            "type=oci,compression=gzip,dest={}",
            out.join("image.tar").display()
        );
        for (signal, code) in SIGNALS {
            for (context, until) in [("silent", "load metadata"), ("big", "COPY big")] {
                let directory = env.path(context);
                let args = [
                    "build",
                    "--progress=plain",
                    "-o",
                    &output,
                    directory.to_str().unwrap(),
                ];
                let log = env.path("log");
                let build = env
                    .rbuild_command(args)
                    .stdout(Stdio::null())
                    .stderr(fs::File::create(&log).unwrap())
                    .spawn()
                    .unwrap();
                wait_for(
                    || fs::read_to_string(&log).is_ok_and(|text| text.contains(until)),
                    "the build to begin",
                );
                ends_by(env, build, signal, code, &log);
                let left: Vec<_> = fs::read_dir(&out).unwrap().collect();
                assert!(left.is_empty(), "{left:?}");
            }
        }
    });
}

const SIGNALS: [(&str, i32); 3] = [("INT", 130), ("TERM", 143), ("HUP", 129)];

/// The signal ends the build with the exit code, one error, and nothing left.
fn ends_by(env: &Env, build: Child, signal: &str, code: i32, log: &Path) {
    let kill = std::process::Command::new("kill")
        .args([&format!("-{signal}"), &build.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    let output = build.wait_with_output().unwrap();
    let log = fs::read_to_string(log).unwrap();
    assert_eq!(output.status.signal(), None, "{log}");
    assert_eq!(output.status.code(), Some(code), "{log}");
    assert_eq!(log.matches("ERROR: failed to build").count(), 1, "{log}");
    gone_within(env, Duration::from_secs(1));
    nothing_left(env);
}

fn prepare(env: &Env) {
    env.base();
    env.write("k/in", "in\n");
    env.write("k/Dockerfile", DOCKERFILE);
}

fn context(env: &Env) -> String {
    env.path("k").to_str().unwrap().to_owned()
}

fn spawn(env: &Env) -> Child {
    let mut command = env.rbuild_command(["build", "-q", "--no-cache", "-t", "k", &context(env)]);
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What the image holds that the base does not, with contents.
fn listing(env: &Env, name: &str) -> Vec<String> {
    let dest = env.path(name);
    let output = format!("type=local,dest={}", dest.display());
    env.rbuild(["build", "-q", "-o", &output, &context(env)]).ok();
    let mut find = std::process::Command::new("find");
    find.args([".", "-not", "-path", "./bin/*", "-printf", "%p %y %m %s\\n"])
        .current_dir(&dest);
    let found = find.output().unwrap();
    let mut lines: Vec<String> = String::from_utf8(found.stdout)
        .unwrap()
        .lines()
        .filter(|line| !line.contains(" d "))
        .map(str::to_owned)
        .collect();
    lines.sort();
    assert!(lines.iter().any(|line| line.starts_with("./b f")), "{lines:?}");
    lines
}

/// No process of the build and no mount of it, soon.
pub fn gone_within(env: &Env, limit: Duration) {
    let folder = env.path("").to_str().unwrap().to_owned();
    let began = Instant::now();
    loop {
        let left = processes(&folder);
        if left.is_empty() {
            break;
        }
        assert!(began.elapsed() < limit, "left: {left:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Processes that name the folder in their arguments or belong to the steps here.
pub fn processes(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().into_string().unwrap_or_default().parse::<u32>() else {
            continue;
        };
        let Ok(arguments) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        // The steps' own file systems are made of files below the folder.
        let mounts = fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default();
        if pid != std::process::id() && (arguments.contains(folder) || mounts.contains(folder)) {
            found.push(format!("{pid}: {arguments}"));
        }
    }
    found
}

fn wait_for(mut condition: impl FnMut() -> bool, what: &str) {
    let began = Instant::now();
    while !condition() {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "waited in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
