use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::env::{Env, as_every_user};

const DOCKERFILE: &str = "FROM base\nCOPY in /in\nRUN seq 100000 > /a; mkdir -m 700 /closed; echo x > /closed/x\n\
    RUN --mount=type=cache,id=some,target=/c seq 5000 > /c/x; rm /a; ln /in /second; echo done > /b\n";

fn build(env: &Env, name: &str, dockerfile: &str) {
    env.write(&format!("{name}/in"), name);
    env.build(name, dockerfile, &[]).ok();
}

/// The things that `du` lists.
fn things(env: &Env, more: &[&str]) -> Vec<Value> {
    let run = env.rbuild(["du", "--format", "json"].iter().chain(more)).ok();
    run.stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The line `name` of the summary, as it is printed.
fn line(summary: &str, name: &str) -> String {
    let found = summary.lines().find(|line| line.starts_with(name));
    found
        .unwrap_or_else(|| panic!("no {name} in {summary}"))
        .to_owned()
}

#[test]
fn du_counts_what_du_counts() {
    as_every_user(|env| {
        env.base();
        build(env, "one", DOCKERFILE);
        let counted = Command::new("du")
            .args(["-s", "-B1"])
            .arg(env.store())
            .output()
            .unwrap();
        let counted = String::from_utf8(counted.stdout).unwrap();
        let counted: u64 = counted.split_whitespace().next().unwrap().parse().unwrap();
        let run = env.rbuild(["du"]).ok();
        let total = line(&run.stdout, "Total:");
        // As the file system counts; root of the tests sees all, whoever owns it.
        let units = [("MB", 1e6), ("kB", 1e3), ("GB", 1e9)];
        let (number, unit) = total["Total:".len()..]
            .trim()
            .split_at(total["Total:".len()..].trim().len() - 2);
        let (_, factor) = units.iter().find(|(name, _)| *name == unit).unwrap();
        let said = number.parse::<f64>().unwrap() * factor;
        let counted = counted as f64;
        assert!(
            (said - counted).abs() <= counted / 100.0,
            "{said} {counted} {}",
            run.stdout
        );

        let all = things(env, &[]);
        let described = |text: &str| {
            let found = all
                .iter()
                .find(|it| it["Description"].as_str().unwrap().contains(text));
            found.unwrap_or_else(|| panic!("no {text:?} in {all:?}")).clone()
        };
        assert_eq!(described("seq 100000")["Shared"], true);
        assert_eq!(described("seq 100000")["Type"], "regular");
        let cache = described("some");
        assert_eq!(
            (&cache["Type"], &cache["Mutable"]),
            (&"exec.cachemount".into(), &true.into())
        );
        assert_eq!(things(env, &["--filter", "type=exec.cachemount"]).len(), 1);
        assert_eq!(things(env, &["--filter", "mutable"]).len(), 1);
        let id = cache["ID"].as_str().unwrap();
        assert_eq!(things(env, &["--filter", &format!("id={id}")]).len(), 1);
        assert_eq!(things(env, &["--filter", "until=1h"]).len(), 0);
        let run = env
            .rbuild(["du", "--verbose", "--filter", "description=seq 100000"])
            .ok();
        assert_eq!(run.stdout.matches("ID:").count(), 1, "{}", run.stdout);
        for (filter, why) in [("parents=x", "have no parents"), ("colour=red", "unknown filter")] {
            let run = env.rbuild(["du", "--filter", filter]).fails(1);
            assert!(run.stderr.contains(why), "{}", run.stderr);
        }
    });
}

#[test]
fn a_prune_takes_what_is_asked_for_and_says_how_much() {
    as_every_user(|env| {
        env.base();
        build(env, "one", DOCKERFILE);
        build(env, "two", "FROM base\nRUN seq 200000 > /two\n");
        env.rbuild(["rmi", "two"]).ok();
        let lone = |env: &Env| things(env, &["--filter", "description=seq 200000"]).len();
        for options in [
            &["--filter", "until=1h"][..],
            &["--filter", "shared"],
            &["--filter", "id=nothing"],
            &["--filter", "mutable"],
            &["--keep-storage", "1GB"],
            &["--max-used-space", "1GB"],
            &["--min-free-space", "1"],
            &["--max-used-space", "1", "--reserved-space", "1GB"],
        ] {
            env.rbuild(["prune", "--force"].iter().chain(options)).ok();
            assert_eq!(lone(env), 1, "{options:?}");
        }
        let run = env.rbuild(["prune", "--force", "--filter", "inuse"]).fails(1);
        assert!(run.stderr.contains("never removed"), "{}", run.stderr);
        let run = env
            .rbuild([
                "builder",
                "prune",
                "--force",
                "--verbose",
                "--filter",
                "description=seq 200000",
            ])
            .ok();
        assert!(run.stdout.contains("deleted records: 1\n"), "{}", run.stdout);
        assert_eq!(lone(env), 0);
        let caches = || things(env, &["--filter", "type=exec.cachemount"]).len();
        assert_eq!(caches(), 1);
        env.rbuild(["buildx", "prune", "-f", "--filter", "type=exec.cachemount"])
            .ok();
        assert_eq!(caches(), 0);
        // Images stay whole, whatever is removed.
        env.rbuild(["prune", "--all", "--force", "--max-used-space", "1"])
            .ok();
        let out = env.path("out.tar");
        env.rbuild(["save", "-o", out.to_str().unwrap(), "one"]).ok();
        assert!(out.metadata().unwrap().len() > 1_000_000);
    });
}

#[test]
fn a_prune_leaves_what_a_running_build_uses() {
    as_every_user(|env| {
        env.base();
        build(env, "one", DOCKERFILE);
        // A prune spares what was made a tick of the clock before the oldest build began.
        std::thread::sleep(Duration::from_millis(60));
        let running = "FROM base AS a\nCOPY in /in\nRUN seq 100000 > /a; mkdir -m 700 /closed; echo x > /closed/x\n\
            FROM a\nRUN echo started; while [ ! -e /etc/go ]; do sleep 0.1; [ $((n=n+1)) -lt 30 ] || break; done\n\
            RUN wc -l < /a\nCOPY --from=a /closed /closed\n";
        env.write("two/in", "one");
        env.write("two/Dockerfile", running);
        let context = env.path("two");
        let log = env.path("log");
        let mut running = env
            .rbuild_command([
                "build",
                "--progress=plain",
                "-t",
                "two",
                context.to_str().unwrap(),
            ])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let text = || std::fs::read_to_string(&log).unwrap();
        for _ in 0..600 {
            if text().contains(" started\n") {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(text().contains(" started\n"), "{}", text());
        // The image goes, and all that only it needed; the running build has its layers all the same.
        env.rbuild(["rmi", "one"]).ok();
        for _ in 0..3 {
            env.rbuild(["prune", "--all", "--force"]).ok();
        }
        assert_eq!(things(env, &["--filter", "description=seq 5000"]).len(), 0);
        assert!(!things(env, &["--filter", "inuse"]).is_empty());
        let ended = running.wait().unwrap();
        assert!(ended.success(), "{}", text());
        assert!(text().contains(" 100000\n"), "{}", text());
        let out = env.path("out.tar");
        env.rbuild(["save", "-o", out.to_str().unwrap(), "two"]).ok();
    });
}
