//! Many builds on one store at once.
//!
//! `RBUILD_SOAK` asks for so many seconds of builds, prunes, removals and kills instead of the few of every run.

use std::fs;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::env::{Env, Run};
use crate::errors::nothing_left;
use crate::random::Random;

/// Builds that start at once.
const CROWD: usize = 32;
/// Different builds that start at once, and workers of the soak.
const WORKERS: usize = 16;
/// Different images of the soak.
const IMAGES: usize = 6;
/// Nothing of this takes as long.
const STUCK: Duration = Duration::from_secs(300);

fn start(command: &mut Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn finish(child: Child) -> Run {
    child.wait_with_output().unwrap().into()
}

#[test]
fn a_crowd_runs_each_step_once() {
    let env = Env::ordinary().unwrap_or_else(Env::of_caller);
    env.base();
    let log = env.context("log", &[("log", "")]);
    let volume = format!("{log}:/log");
    let step = |name: &str| format!("RUN echo {name} >> /log/log; sleep 0.2; echo {name} > /{name}\n");
    let dockerfile = format!(
        "FROM base AS one\n{}{}FROM base AS two\nCOPY in /in\n{}FROM scratch\nCOPY --from=one /a1 /a2 /\n\
         COPY --from=two /b1 /in /\n",
        step("a1"),
        step("a2"),
        step("b1")
    );
    let context = env.context("crowd", &[("Dockerfile", &dockerfile), ("in", "in\n")]);
    let build = |_| start(&mut env.rbuild_command(["build", "-q", "-v", &volume, "-t", "crowd", &context]));
    let builds: Vec<Child> = (0..CROWD).map(build).collect();
    let ids: Vec<String> = builds
        .into_iter()
        .map(|build| finish(build).ok().stdout)
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let log = fs::read_to_string(env.path("log/log")).unwrap();
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["a1", "a2", "b1"]);
    nothing_left(&env);
}

/// A build that has something of all: number `n` of several that share their first steps.
fn different(env: &Env, n: usize) -> String {
    let dockerfile = format!(
        "FROM base AS shared\nCOPY shared /shared\nRUN cp -r /shared /copied; rm /shared/1\n\
         FROM shared AS own\nCOPY --link own /own\nRUN cat /own /copied/2 > /both; mkdir -p /dir/{n}; echo {n} > /dir/{n}/n\n\
         FROM base\nCOPY --from=own /both /dir /here/\nWORKDIR /work/{n}\nRUN find /here > /list\n"
    );
    let name = format!("image-{n}");
    env.context(
        &name,
        &[
            ("Dockerfile", &dockerfile),
            ("own", &format!("own {n}\n")),
            ("shared/1", "1"),
            ("shared/2", "2\n"),
        ],
    )
}

#[test]
fn different_cached_builds_do_not_disturb_each_other() {
    let env = Env::ordinary().unwrap_or_else(Env::of_caller);
    env.base();
    let contexts: Vec<String> = (0..WORKERS).map(|n| different(&env, n)).collect();
    let command = |n: usize| {
        let name = format!("image-{n}");
        env.rbuild_command(["build", "-q", "-t", &name, &contexts[n]])
    };
    let first: Vec<Child> = (0..WORKERS).map(|n| start(&mut command(n))).collect();
    let first: Vec<String> = first.into_iter().map(|build| finish(build).ok().stdout).collect();
    let same = |n: usize, run: Run| {
        let run = run.ok();
        assert_eq!(run.stdout, first[n], "{}", run.stderr);
    };
    let began = cpu_of_children();
    for _ in 0..3 {
        (0..WORKERS).for_each(|n| same(n, finish(start(&mut command(n)))));
    }
    let between = cpu_of_children();
    for _ in 0..3 {
        let again: Vec<Child> = (0..WORKERS).map(|n| start(&mut command(n))).collect();
        again
            .into_iter()
            .enumerate()
            .for_each(|(n, build)| same(n, finish(build)));
    }
    let (one_by_one, at_once) = (between - began, cpu_of_children() - between);
    // Of this test alone when it runs alone.
    println!("processor time one after another {one_by_one} ms, at once {at_once} ms");
    nothing_left(&env);
}

#[test]
fn who_waits_says_for_whom_and_goes_on_when_that_one_dies() {
    let env = Env::ordinary().unwrap_or_else(Env::of_caller);
    env.base();
    let log = env.context("log", &[("log", "")]);
    let dockerfile = "FROM base\nRUN if [ -e /log/first ]; then echo second > /who; else echo first > /log/first; sleep 100; fi\n";
    let context = env.context("held", &[("Dockerfile", dockerfile)]);
    let volume = format!("{log}:/log");
    let command = || env.rbuild_command(["build", "--progress=plain", "-v", &volume, "-t", "held", &context]);
    let mut first = start(&mut command());
    let began = Instant::now();
    let wait_for = |what: &mut dyn FnMut() -> bool| {
        while !what() {
            assert!(began.elapsed() < STUCK);
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait_for(&mut || env.path("log/first").exists());
    let said = env.path("said");
    let mut second = command();
    second.stderr(fs::File::create(&said).unwrap());
    let mut second = second.stdout(Stdio::null()).spawn().unwrap();
    let told = format!("waiting for another rbuild process (pid {})", first.id());
    wait_for(&mut || fs::read_to_string(&said).unwrap().contains(&told));
    first.kill().unwrap();
    first.wait().unwrap();
    let ended = second.wait().unwrap();
    let said = fs::read_to_string(&said).unwrap();
    assert!(ended.success(), "{said}");
    assert_eq!(said.matches(&told).count(), 1, "{said}");
    assert!(began.elapsed() < Duration::from_secs(90));
}

/// Milliseconds of processor time of all processes that were waited for.
fn cpu_of_children() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..].split_whitespace().collect();
    let ticks: u64 = [fields[14], fields[15]]
        .iter()
        .map(|text| text.parse::<u64>().unwrap())
        .sum();
    ticks * 1000 / rustix::param::clock_ticks_per_second()
}

#[test]
fn builds_prunes_removals_and_kills_leave_a_store_that_is_whole() {
    let env = Env::ordinary().unwrap_or_else(Env::of_caller);
    env.base();
    let seconds = std::env::var("RBUILD_SOAK")
        .ok()
        .and_then(|text| text.parse().ok());
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(4));
    let contexts: Vec<String> = (0..IMAGES).map(|n| different(&env, n)).collect();
    let counts: Vec<[usize; 4]> = std::thread::scope(|scope| {
        let work = |worker: usize| {
            let (env, contexts) = (&env, &contexts);
            scope.spawn(move || soak(env, contexts, worker, until))
        };
        let workers: Vec<_> = (0..WORKERS).map(work).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let sum = |at: usize| counts.iter().map(|counts| counts[at]).sum::<usize>();
    println!(
        "{} builds, {} killed, {} removals, {} prunes",
        sum(0),
        sum(1),
        sum(2),
        sum(3)
    );
    assert!(sum(0) > 0);

    let checked = env.rbuild(["store", "check", "--read-data"]).ok();
    println!("{}", checked.stdout);
    let alone = env.path("alone");
    let saved = env.path("base.tar");
    env.rbuild(["save", "-o", saved.to_str().unwrap(), "base"]).ok();
    env.rbuild_in(&alone, ["load", "-i", saved.to_str().unwrap()])
        .ok();
    for context in &contexts {
        // As from a store that nothing has happened to.
        let files = |store: &std::path::Path, name: &str| {
            let dest = env.path(name);
            let output = format!("type=tar,dest={}", dest.display());
            let args = ["build", "-q", "-o", &output, context];
            let epoch = "--build-arg=SOURCE_DATE_EPOCH=1500000000";
            env.rbuild_in(store, args.into_iter().chain([epoch])).ok();
            listing(&env, &dest)
        };
        assert_eq!(files(&env.store(), "soaked.tar"), files(&alone, "alone.tar"));
    }
    let _ = env.rbuild_in(&alone, ["prune", "--all", "--force"]);
    env.rbuild(["prune", "--all", "--force"]).ok();
    nothing_left(&env);
}

/// What is in an archive, without times.
fn listing(env: &Env, archive: &std::path::Path) -> Vec<String> {
    let output: Output = env.command("tar").arg("-tvf").arg(archive).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (about, name) = (&words[..3], &words[5..]);
            format!("{about:?} {name:?}")
        })
        .collect()
}

/// What one worker does until it is time: builds, killed builds, removals and prunes are counted.
fn soak(env: &Env, contexts: &[String], worker: usize, until: Instant) -> [usize; 4] {
    let mut random = Random::new(worker as u64 + 1);
    let mut counts = [0; 4];
    while Instant::now() < until {
        let n = random.below(contexts.len());
        let name = format!("image-{n}");
        match random.below(8) {
            0 => {
                let run = env.rbuild(["rmi", "-f", &name]);
                assert_eq!(run.code, Some(0), "{}", run.stderr);
                counts[2] += 1;
            }
            1 => {
                let all: &[&str] = if random.once_in(3) { &["--all"] } else { &[] };
                let run = env.rbuild(["prune", "--force"].iter().chain(all));
                assert_eq!(run.code, Some(0), "{}", run.stderr);
                counts[3] += 1;
            }
            kind => {
                let mut args = vec!["build", "-q", "-t", &name, &contexts[n]];
                if random.once_in(5) {
                    args.push("--no-cache");
                }
                let mut build = start(&mut env.rbuild_command(args));
                if kind < 4 {
                    std::thread::sleep(Duration::from_millis(random.next() % 400));
                    // It may have ended.
                    let _ = build.kill();
                    counts[1] += 1;
                }
                let began = Instant::now();
                let run = finish(build);
                assert!(began.elapsed() < STUCK);
                let killed = kind < 4 && run.code.is_none();
                assert!(killed || run.code == Some(0), "{:?} {}", run.code, run.stderr);
                counts[0] += 1;
            }
        }
    }
    counts
}
