//! Processes that are made before their step is known.

use std::fs;
use std::process::Command;

use rbuild_executor::{Network, Secret, SecretVariable};

use super::Case;
use super::bench::Bench;

pub const CASES: &[Case] = &[
    ("made_ahead", made_ahead),
    ("ahead_of_another_kind", ahead_of_another_kind),
    ("nothing_of_the_step_before", nothing_of_the_step_before),
];

/// The processes below the spawner.
fn waiting() -> Vec<u32> {
    let children = |parent: u32| -> Vec<u32> {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_child = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.contains(&format!("PPid:\t{parent}\n"))
        };
        numbers.filter(is_child).collect()
    };
    children(std::process::id())
        .into_iter()
        .flat_map(children)
        .collect()
}

fn made_ahead() {
    let bench = Bench::new();
    bench.shell("true").ok();
    let first = waiting();
    assert_eq!(first.len(), 1, "{first:?}");
    assert_eq!(bench.shell("echo $$").ok(), "1");
    let second = waiting();
    assert_eq!(second.len(), 1, "{second:?}");
    assert_ne!(first, second);

    // One that has gone is made again.
    let killed = Command::new("kill").args(["-9", &second[0].to_string()]).status();
    assert!(killed.unwrap().success());
    assert_eq!(bench.shell("echo $$").ok(), "1");
    let third = waiting();
    assert_eq!(third.len(), 1, "{third:?}");
    assert_ne!(second, third);

    // A step that cannot be started uses it up.
    assert!(bench.run(&bench.spec(&["nothing"])).exit.is_err());
    assert_eq!(waiting().len(), 1);

    let mut last = bench.spec(&["true"]);
    last.followed = false;
    bench.run(&last).ok();
    assert!(waiting().is_empty());
    bench.shell("true").ok();
    let left = waiting();
    assert_eq!(left.len(), 1);
    drop(bench);
    assert!(!fs::exists(format!("/proc/{}", left[0])).unwrap());
}

fn ahead_of_another_kind() {
    let bench = Bench::new();
    let shm = |line: &str| {
        let outcome = bench.shell("grep ' /dev/shm ' /proc/mounts");
        assert!(outcome.ok().contains(line), "{}", outcome.out);
    };
    shm("size=65536k");
    let mut other = bench.spec(&[
        "sh",
        "-c",
        "cat /proc/net/dev | wc -l; grep -c size=8192k /proc/mounts",
    ]);
    other.network = Network::None;
    other.shm_size = 8 << 20;
    assert_eq!(bench.run(&other).ok(), "3\n1");
    shm("size=65536k");
    let held = "grep CapEff /proc/self/status";
    let usual = bench.shell(held).ok().to_owned();
    let mut insecure = bench.spec(&["sh", "-c", held]);
    insecure.insecure = true;
    assert_ne!(bench.run(&insecure).ok(), usual);
    assert_eq!(bench.shell(held).ok(), usual);
}

fn nothing_of_the_step_before() {
    let bench = Bench::new();
    let look = "ls /proc/self/fd; env; hostname; pwd; umask; ls /dev; cat /proc/mounts | wc -l";
    let fresh = bench.shell(look).ok().to_owned();
    let mut spec = bench.spec(&[
        "sh",
        "-c",
        "cd /tmp; umask 077; hostname; echo $TOKEN; touch /dev/shm/x",
    ]);
    spec.hostname = "other".to_owned();
    spec.cwd = "/home".to_owned();
    spec.env.push("LEFT=over".to_owned());
    spec.secrets = vec![Secret::new(b"value".to_vec())];
    spec.secret_env = vec![SecretVariable {
        name: "TOKEN".to_owned(),
        secret: 0,
    }];
    assert_eq!(bench.run(&spec).ok(), "other\nvalue");
    assert_eq!(bench.shell(look).ok(), fresh);
    assert_eq!(bench.shell("ls /dev/shm").ok(), "");
}
