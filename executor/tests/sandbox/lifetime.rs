//! How steps begin and end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use rbuild_executor::{Cancel, Error, Executor, Exit, Isolation};

use super::Case;
use super::bench::{Bench, directory};

pub const CASES: &[Case] = &[
    ("exit_codes", exit_codes),
    ("exec_errors", exec_errors),
    ("cancel", cancel),
    ("cancel_with_grace", cancel_with_grace),
    ("cancel_twice", cancel_twice),
    ("orphans_end_with_the_step", orphans_end_with_the_step),
    ("death_of_the_builder", death_of_the_builder),
    ("second_thread", second_thread),
    ("refusals", refusals),
    ("stop_signals_stay_outside", stop_signals_stay_outside),
];

fn exit_codes() {
    let bench = Bench::new();
    for code in [0, 1, 3, 255] {
        assert_eq!(
            bench.shell(&format!("exit {code}")).exit.unwrap(),
            Exit::Code(code)
        );
    }
    assert_eq!(
        bench.shell("sh -c 'kill -9 $$'; exit $?").exit.unwrap(),
        Exit::Code(137)
    );
}

fn exec_errors() {
    let bench = Bench::new();
    let write = |name: &str, bytes: &[u8], mode: u32| {
        let path = bench.image.join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let mut foreign = fs::read("/bin/busybox").unwrap()[..4096].to_vec();
    foreign[18] = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
    write("foreign", &foreign, 0o755);
    write("script", b"#!/bin/bash\n", 0o755);
    write("data", b"data", 0o644);
    write("plain", b"echo hi\n", 0o755);
    let foreign_name = if cfg!(target_arch = "aarch64") {
        "amd64"
    } else {
        "arm64"
    };
    for (command, expected) in [
        (
            "nothing",
            "exec: \"nothing\": executable file not found in $PATH".to_owned(),
        ),
        (
            "/nothing",
            "exec: \"/nothing\": stat /nothing: no such file or directory".to_owned(),
        ),
        ("/data", "exec: \"/data\": permission denied".to_owned()),
        ("/etc", "exec: \"/etc\": is a directory".to_owned()),
        (
            "/foreign",
            format!("exec /foreign: exec format error (the program is for {foreign_name}"),
        ),
        (
            "/script",
            "exec /script: no such file or directory (its interpreter /bin/bash is not in the image)"
                .to_owned(),
        ),
        (
            "/plain",
            "exec /plain: exec format error (neither a program nor a script with a #! line)".to_owned(),
        ),
    ] {
        let error = bench.run(&bench.spec(&[command])).error();
        assert!(error.starts_with(&expected), "{command}: {error}");
    }
    assert_eq!(bench.run(&bench.spec(&[])).error(), "no command specified");
}

/// Runs `script` and cancels as soon as it has written "ready"; the output and the time from there.
fn cancelled(bench: &Bench, script: &str, times: u32, grace_ms: u64) -> (String, Duration) {
    let cancel = Cancel::with_grace(Duration::from_millis(grace_ms)).unwrap();
    let marker = bench.directory.join("ready");
    let _ = fs::remove_file(&marker);
    let spec = bench.spec(&["sh", "-c", script]);
    let ready = spec.rootfs.changed().join("tmp/ready");
    let watcher = cancel.clone();
    let watching = std::thread::spawn(move || {
        while !ready.exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        for _ in 0..times {
            watcher.cancel();
            std::thread::sleep(Duration::from_millis(50));
        }
        Instant::now()
    });
    let outcome = bench.run_with(&spec, &cancel);
    let end = Instant::now();
    let asked = watching.join().unwrap();
    assert!(
        matches!(outcome.exit, Err(Error::Cancelled)),
        "{:?}",
        outcome.exit
    );
    assert!(matches!(
        bench.run_with(&bench.spec(&["true"]), &cancel).exit,
        Err(Error::Cancelled)
    ));
    (outcome.out, end.saturating_duration_since(asked))
}

fn cancel() {
    let (_, time) = cancelled(&Bench::new(), "touch /tmp/ready; sleep 100", 1, 10_000);
    assert!(
        time < Duration::from_secs(1),
        "a command without a handler ends at once: {time:?}"
    );
}

fn cancel_with_grace() {
    let bench = Bench::new();
    let script = "trap 'echo bye; exit 0' TERM; touch /tmp/ready; while :; do sleep 0.1; done";
    let (out, time) = cancelled(&bench, script, 1, 10_000);
    assert_eq!(out, "bye\n");
    assert!(time < Duration::from_secs(2), "{time:?}");
    let script = "trap 'echo no' TERM; touch /tmp/ready; while :; do sleep 0.1; done";
    let (out, time) = cancelled(&bench, script, 1, 500);
    assert_eq!(out, "no\n");
    assert!(
        time < Duration::from_secs(2),
        "killed after the grace period: {time:?}"
    );
}

fn cancel_twice() {
    let script = "trap : TERM; touch /tmp/ready; while :; do sleep 0.1; done";
    let (_, time) = cancelled(&Bench::new(), script, 2, 60_000);
    assert!(time < Duration::from_secs(1), "{time:?}");
}

fn processes_with(marker: &str) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|e| fs::read(e.path().join("cmdline")).ok());
    lines
        .filter(|line| String::from_utf8_lossy(line).contains(marker))
        .count()
}

fn orphans_end_with_the_step() {
    let bench = Bench::new();
    let marker = format!("9{:09}", std::process::id());
    bench
        .shell(&format!("(sleep {marker} >/dev/null 2>&1 &) ; sleep 0.05"))
        .ok();
    assert_eq!(processes_with(&marker), 0);
}

const HOLDER: &str = "RBUILD_TEST_HOLDER";

fn death_of_the_builder() {
    if let Ok(marker) = std::env::var(HOLDER) {
        let bench = Bench::new();
        bench.shell(&format!(
            "(sleep {marker} &); trap '' TERM HUP INT; touch /tmp/ready; sleep {marker}; true"
        ));
        return;
    }
    let marker = format!("8{:09}", std::process::id());
    let mut builder = Command::new(std::env::current_exe().unwrap())
        .env(HOLDER, &marker)
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while !directory().join("upper0/tmp/ready").exists() {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "the builder does not start"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(processes_with(&marker) >= 2);
    builder.kill().unwrap();
    builder.wait().unwrap();
    let begin = Instant::now();
    while processes_with(&marker) > 0 {
        assert!(
            begin.elapsed() < Duration::from_secs(1),
            "processes outlive the builder"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(directory().to_str().unwrap()), "{mounts}");
}

fn second_thread() {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || receiver.recv());
    let error = Executor::enter(Isolation::Auto, &directory())
        .unwrap_err()
        .to_string();
    assert!(error.contains("more than one thread"), "{error}");
    drop(sender);
    let _ = thread.join();
}

fn refusals() {
    let unknown = "jail".parse::<Isolation>().unwrap_err().to_string();
    assert!(unknown.contains("unknown"), "{unknown}");
    let root_has_ids = fs::read_to_string("/etc/subuid")
        .unwrap_or_default()
        .contains("root:");
    let (isolation, expected) = match rustix::process::getuid().is_root() {
        true if root_has_ids => return,
        true => (Isolation::Userns, "/etc/subuid gives no subordinate ids to root"),
        false => (Isolation::Root, "the user is not root"),
    };
    let begin = Instant::now();
    let error = Executor::enter(isolation, &directory()).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(1));
}

fn stop_signals_stay_outside() {
    let signals = rbuild_executor::signals::install().unwrap();
    let bench = Bench::new();
    assert_eq!(
        bench
            .shell("grep -e SigBlk -e SigIgn /proc/self/status | tr -d '\\t '")
            .ok(),
        "SigBlk:0000000000000000\nSigIgn:0000000000000000"
    );
    let waiting = std::thread::spawn(move || signals.wait());
    let pid = rustix::process::getpid();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(waiting.join().unwrap().unwrap(), 15);
}
