//! Which steps run, when, and how many at once. Steps write what they do into a directory of the machine.

use std::fs;
use std::time::{Duration, Instant};

use crate::env::{Env, Run, as_every_user};

/// Says when it begins and ends.
fn step(name: &str, does: &str) -> String {
    format!("RUN echo +{name} >> /log/log; {does}; echo -{name} >> /log/log\n")
}

/// Builds; also gives what the steps wrote.
fn build(env: &Env, dockerfile: &str, more: &[&str]) -> (Run, Vec<String>) {
    let log = env.context("log", &[("log", "")]);
    let volume = format!("{log}:/log");
    let more: Vec<&str> = ["-v", &volume].iter().chain(more).copied().collect();
    let run = env.build("schedule", dockerfile, &more);
    let text = fs::read_to_string(env.path("log/log")).unwrap();
    (run, text.lines().map(str::to_owned).collect())
}

#[test]
fn jobs_limits_what_runs_at_once() {
    as_every_user(|env| {
        env.base();
        let stage = |name: &str| format!("FROM base AS {name}\n{}", step(name, "sleep 0.2"));
        let dockerfile = ["a", "b", "c"].map(stage).concat()
            + "FROM scratch\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\nCOPY --from=c /etc/passwd /c\n";
        let (run, log) = build(env, &dockerfile, &["--no-cache", "--jobs=1"]);
        run.ok();
        assert_eq!(log.len(), 6, "{log:?}");
        for pair in log.chunks(2) {
            assert_eq!(pair[0].replace('+', "-"), pair[1], "{log:?}");
        }
        for more in [&["--no-cache"][..], &["--no-cache", "--jobs=0"]] {
            let (run, log) = build(env, &dockerfile, more);
            run.ok();
            assert!(log[..3].iter().all(|line| line.starts_with('+')), "{log:?}");
        }
    });
}

#[test]
fn the_longest_way_goes_first() {
    as_every_user(|env| {
        env.base();
        env.write("schedule/in", "1\n");
        let dockerfile = format!(
            "FROM base AS slow\nCOPY in /in\n{}FROM base AS deep\nCOPY in /in\n{}{}FROM base\n\
             COPY --from=slow /in /slow\nCOPY --from=deep /in /deep\n",
            step("slow", "sleep 0.8"),
            step("one", "true"),
            step("two", "true"),
        );
        // Nothing is known yet: two steps are longer than one.
        let (run, log) = build(env, &dockerfile, &["--jobs=1"]);
        run.ok();
        assert_eq!(
            log,
            ["+one", "-one", "+slow", "-slow", "+two", "-two"].map(str::to_owned),
            "nothing known"
        );
        env.write("schedule/in", "2\n");
        let (run, log) = build(env, &dockerfile, &["--jobs=1"]);
        run.ok();
        assert_eq!(log[0], "+slow", "{log:?}");
    });
}

#[test]
fn a_failure_ends_what_else_runs() {
    as_every_user(|env| {
        env.base();
        let dockerfile = format!(
            "FROM base AS slow\n{}FROM base\nRUN sleep 0.5; exit 7\nCOPY --from=slow /etc/passwd /x\n",
            step("slow", "sleep 100"),
        );
        let began = Instant::now();
        let (run, log) = build(env, &dockerfile, &[]);
        let run = run.fails(1);
        assert!(
            run.stderr.contains("exit 7") || run.stderr.contains("code: 7"),
            "{}",
            run.stderr
        );
        assert_eq!(log, ["+slow"]);
        assert!(began.elapsed() < Duration::from_secs(60));
    });
}
