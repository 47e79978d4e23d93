//! How rbuild goes: by signals at any moment, as the first process of a container, in the middle of an export.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::env::{Env, as_every_user};
use crate::errors::nothing_left;
use crate::kill::{gone_within, processes};

/// What steps do to stay: they ignore what asks them to go, fork, and leave their session.
const STUBBORN: &str = "FROM base\nCOPY in /in\nRUN trap '' INT TERM HUP; (setsid sleep 31559 &); (sleep 31559 &) ; \
                        seq 300 > /a; sleep 0.3; cat /in\nRUN trap : TERM; sleep 0.2; true\n";

fn signal(child: &Child, name: &str) {
    // A build that has just ended has nobody to signal.
    let _ = Command::new("kill")
        .args([&format!("-{name}"), &child.id().to_string()])
        .stderr(Stdio::null())
        .status();
}

#[test]
fn a_signal_at_any_moment_leaves_nothing_after_the_grace() {
    let number = std::env::var("RBUILD_SIGNALS").ok();
    let moments: u32 = number.and_then(|text| text.parse().ok()).unwrap_or(12);
    as_every_user(|env| {
        env.base();
        env.write("stay/in", "in\n");
        env.write("stay/Dockerfile", STUBBORN);
        let context = env.path("stay");
        let args = [
            "build",
            "-q",
            "--no-cache",
            "--stop-grace=100ms",
            "-t",
            "stay",
            context.to_str().unwrap(),
        ];
        env.rbuild(args).ok();
        let began = Instant::now();
        env.rbuild(args).ok();
        let whole = began.elapsed();
        let mut interrupted = 0;
        for moment in 0..moments {
            let mut build = env
                .rbuild_command(args)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let (name, code) = [("INT", 130), ("TERM", 143), ("HUP", 129)][moment as usize % 3];
            // Spread without a pattern, the same on every run.
            let part = f64::from(moment.wrapping_mul(2_654_435_761) >> 8) / f64::from(1 << 24);
            std::thread::sleep(whole.mul_f64(part * 1.1));
            signal(&build, name);
            let asked = Instant::now();
            let status = build.wait().unwrap();
            // Before the signals are caught it ends by the signal itself.
            let by_signal = status.signal().map(|number| 128 + number);
            let ended = status.code().or(by_signal);
            assert!(
                ended == Some(code) || ended == Some(0),
                "{name} at {part}: {status}"
            );
            interrupted += u32::from(ended == Some(code));
            assert!(
                asked.elapsed() < Duration::from_millis(2600),
                "{name} at {part}: {:?}",
                asked.elapsed()
            );
            gone_within(env, Duration::from_secs(1));
        }
        assert!(interrupted > moments / 4, "{interrupted} of {moments}");
        env.rbuild(["build", "-q", "-t", "stay", context.to_str().unwrap()])
            .ok();
        nothing_left(env);
    });
}

#[test]
fn the_first_process_of_a_container_waits_for_all() {
    let env = &Env::of_caller();
    if !env.is_root() {
        eprintln!("skipped: it takes root to make a pid namespace");
        return;
    }
    env.base();
    // Ten thousand orphans in the step, and more beside it.
    env.write(
        "first/Dockerfile",
        "FROM base\nRUN i=0; while [ $i -lt 10000 ]; do (true &); i=$((i+1)); done; echo orphans-$((40 + 2))\nRUN trap 'exit 3' TERM; sleep 31560 & wait\n",
    );
    let context = env.path("first");
    let rbuild = env.rbuild_command(["build", "--progress=plain", context.to_str().unwrap()]);
    let mut within = Command::new("unshare");
    within.args(["--fork", "--pid", "--mount-proc", "--kill-child"]);
    within.arg(rbuild.get_program()).args(rbuild.get_args());
    within.env_clear().current_dir(rbuild.get_current_dir().unwrap());
    for (name, value) in rbuild.get_envs() {
        within.env(name, value.unwrap_or_default());
    }
    let log = env.path("log");
    let mut unshare = within
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let text = || fs::read_to_string(&log).unwrap();
    wait_for(|| text().contains("[3/3] RUN"), "the second step", &text);
    assert!(text().contains("orphans-42\n"), "{}", text());
    let children = format!("/proc/{0}/task/{0}/children", unshare.id());
    let first = fs::read_to_string(children).unwrap().trim().to_owned();
    let orphans = Command::new("nsenter")
        .args([
            "--target",
            &first,
            "--pid",
            "sh",
            "-c",
            "i=0; while [ $i -lt 300 ]; do (true &); i=$((i+1)); done",
        ])
        .status()
        .unwrap();
    assert!(orphans.success());
    wait_for(|| zombies_of(&first) == 0, "zombies to be waited for", &text);
    assert!(
        Command::new("kill")
            .args(["-TERM", &first])
            .status()
            .unwrap()
            .success()
    );
    let status = unshare.wait().unwrap();
    assert_eq!(status.code(), Some(143), "{}", text());
    assert_eq!(processes(context.to_str().unwrap()), [""; 0]);
}

fn wait_for(done: impl Fn() -> bool, what: &str, text: &dyn Fn() -> String) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}: {}", text());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Dead children of a process that it has not waited for.
fn zombies_of(parent: &str) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    lines
        .filter(|line| {
            let after = line.rsplit_once(") ").map(|(_, after)| after).unwrap_or_default();
            let mut fields = after.split(' ');
            fields.next() == Some("Z") && fields.next() == Some(parent)
        })
        .count()
}

#[test]
fn an_interrupted_export_leaves_no_half_directory() {
    as_every_user(|env| {
        env.base();
        // Enough files for a moment.
        env.write(
            "many/Dockerfile",
            "FROM base\nRUN mkdir /m; cd /m; seq 20000 | xargs touch\n",
        );
        let context = env.path("many");
        env.rbuild(["build", "-q", "-t", "many", context.to_str().unwrap()])
            .ok();
        let there = env.path("there");
        fs::create_dir(&there).unwrap();
        env.own(&there);
        let made = env.path("made/of/it");
        for dest in [&made, &there] {
            let output = format!("type=local,dest={}", dest.display());
            let log = env.path("log");
            let mut build = env
                .rbuild_command([
                    "build",
                    "--progress=plain",
                    "-o",
                    &output,
                    context.to_str().unwrap(),
                ])
                .stdout(Stdio::null())
                .stderr(fs::File::create(&log).unwrap())
                .spawn()
                .unwrap();
            let text = || fs::read_to_string(&log).unwrap();
            wait_for(|| dest.join("m").exists(), "files", &text);
            signal(&build, "TERM");
            assert_eq!(build.wait().unwrap().code(), Some(143), "{}", text());
            let is_there = dest == &there;
            assert_eq!(
                text().contains("there is only partly written"),
                is_there,
                "{}",
                text()
            );
            assert_eq!(dest.exists(), is_there);
        }
        assert!(!env.path("made").exists());
        gone_within(env, Duration::from_secs(1));
    });
}

#[test]
fn a_signal_ends_other_commands_in_order() {
    as_every_user(|env| {
        // A registry that takes calls and never answers.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let name = format!("{}/none", silent.local_addr().unwrap());
        let mut pull = env
            .rbuild_command(["pull", &name])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _call = silent.accept().unwrap();
        signal(&pull, "INT");
        assert_eq!(pull.wait().unwrap().code(), Some(130));
        nothing_left(env);
    });
}
