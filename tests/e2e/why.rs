//! Why a step runs: one thing is changed after a build, and that thing alone is named.

mod inputs;
mod steps;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::env::{Env, as_every_user};

/// A build: the Dockerfile and more flags.
type Build<'a> = (&'a str, &'a [&'a str]);

/// What ran in a build: `step` or `stage:step`, and the cause. A cause that is another step is `"after STEP"`.
type Ran = Vec<(String, Value)>;

fn ran<const N: usize>(steps: [(&str, Value); N]) -> Ran {
    steps.map(|(step, cause)| (step.to_owned(), cause)).to_vec()
}

fn place(step: &Value) -> String {
    let number = &step["step"];
    match step["stage"].as_str() {
        Some("stage-0") | None => number.to_string(),
        Some(stage) => format!("{stage}:{number}"),
    }
}

/// What `rbuild why` says of the last build.
fn why(env: &Env) -> Ran {
    let run = env.rbuild(["why", "--format=json"]).ok();
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    causes(&document, "ran")
}

fn causes(document: &Value, status: &str) -> Ran {
    let steps = document["steps"].as_array().unwrap();
    let has_run = steps.iter().filter(|step| step["status"] == status);
    has_run
        .map(|step| {
            let cause = match step["cause"]["kind"].as_str() {
                Some("step") => format!("after {}", place(&step["cause"])).into(),
                // The digest of the image is another every time.
                Some("order") if step["cause"]["to"].as_str().unwrap().contains("FROM ") => {
                    json!({"kind": "order", "from": step["cause"]["from"], "to": "FROM"})
                }
                _ => step["cause"].clone(),
            };
            (place(step), cause)
        })
        .collect()
}

/// Builds, changes the context, and builds again: what ran then.
fn changed(env: &Env, name: &str, before: Build<'_>, change: impl Fn(&Path), after: Build<'_>) -> Ran {
    env.build(name, before.0, before.1).ok();
    change(&env.path(name));
    env.build(name, after.0, after.1).ok();
    why(env)
}

fn files(changes: Value) -> Value {
    json!({"kind": "files", "changes": changes})
}

fn file(path: &str, change: &str) -> Value {
    files(json!([{"path": path, "change": change}]))
}

#[test]
fn the_store() {
    as_every_user(|env| {
        env.base();
        let dockerfile = "FROM base AS first\nRUN echo 1 > /1\nFROM base AS second\nCOPY --from=first /1 /1\nRUN echo 2 > /2\n";
        let build = |flags: &[&str]| {
            env.build("lost", dockerfile, flags).ok();
            why(env)
        };
        let all = |cause: Value| {
            ran([
                ("first:2", cause.clone()),
                ("second:2", cause.clone()),
                ("second:3", cause),
            ])
        };
        assert_eq!(build(&[]), all(json!({"kind": "never-built"})));
        assert_eq!(build(&[]), []);
        assert_eq!(build(&["--no-cache"]), all(json!({"kind": "no-cache"})));
        let kind = |ran: Ran| -> Vec<(String, Value)> {
            ran.into_iter()
                .map(|(step, cause)| (step, cause["kind"].clone()))
                .collect()
        };
        assert_eq!(
            build(&["--no-cache-filter=second"]),
            ran([
                ("second:2", json!({"kind": "no-cache-filter"})),
                ("second:3", json!({"kind": "no-cache-filter"})),
            ])
        );
        // Old results are not used, and what is made then is young.
        assert_eq!(build(&["--cache-ttl=1h"]), []);
        assert_eq!(
            kind(build(&["--cache-ttl=0"])),
            kind(all(json!({"kind": "cache-ttl"})))
        );
        std::thread::sleep(std::time::Duration::from_millis(2100));
        let found = build(&["--cache-ttl=1s"]);
        assert_eq!(kind(found.clone()), kind(all(json!({"kind": "cache-ttl"}))));
        assert_eq!(found[0].1["ttl"], 1);
        assert_eq!(build(&["--cache-ttl=1m"]), []);

        env.rbuild(["rmi", "lost"]).ok();
        env.rbuild(["prune", "--force"]).ok();
        let found = build(&[]);
        assert_eq!(found.len(), 3, "{found:?}");
        for (step, cause) in &found {
            assert_eq!(
                (&cause["kind"], &cause["rule"]),
                (&"evicted".into(), &"prune".into()),
                "{step}"
            );
        }
        env.rbuild(["prune", "--all", "--force"]).ok();
        let found = build(&[]);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(
            found.iter().all(|(_, cause)| cause["rule"] == "prune --all"),
            "{found:?}"
        );

        // Somebody else's hands.
        let keys = env.store().join("keys/v1");
        let each = |act: &dyn Fn(&Path)| {
            for entry in fs::read_dir(&keys).unwrap() {
                act(&entry.unwrap().path());
            }
        };
        each(&|path| fs::remove_file(path).unwrap());
        assert_eq!(build(&[]), all(json!({"kind": "gone"})));
        each(&|path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[20] ^= 1;
            fs::write(path, bytes).unwrap();
        });
        assert_eq!(build(&[]), all(json!({"kind": "damaged", "what": "record"})));
        for entry in fs::read_dir(env.store().join("layers")).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
        assert_eq!(build(&[]), all(json!({"kind": "damaged", "what": "layer"})));

        // A step that failed is tried again, whatever was before.
        let failing = "FROM base\nRUN --mount=type=secret,id=s test -s /run/secrets/s\n";
        env.write("empty", "");
        env.write("full", "a value of it");
        env.build("failing", failing, &["--secret=id=s,src=empty"])
            .fails(1);
        assert_eq!(why(env), ran([("2", json!({"kind": "never-built"}))]));
        env.build("failing", failing, &["--secret=id=s,src=full"]).ok();
        assert_eq!(why(env), ran([("2", json!({"kind": "unfinished"}))]));
    });
}

#[test]
fn it_is_told_in_words() {
    as_every_user(|env| {
        let none = env.rbuild(["why"]).fails(1);
        assert!(none.stderr.contains("no build is recorded"), "{}", none.stderr);
        env.base();
        env.write("told/a", "a\n");
        let before =
            "FROM base AS build\nENV V=1\nCOPY a /a\nRUN echo one\nFROM scratch\nCOPY --from=build /a /\n";
        let first = env.build("told", before, &["--explain"]).ok();
        assert!(first.stderr.contains("\n3 of 3 steps ran:\n"), "{}", first.stderr);
        assert!(first.stderr.contains("context: raw"), "{}", first.stderr);
        let cached = env.build("told", before, &["--explain"]).ok();
        assert!(
            cached.stderr.contains("\nAll steps were cached.\n"),
            "{}",
            cached.stderr
        );
        let cached = env.rbuild(["why", "--last"]).ok();
        assert!(cached.stdout.starts_with("0 of 3 steps ran"), "{}", cached.stdout);

        env.write("told/a", "b\n");
        let plan_before = fs::read_dir(env.store().join("keys/v1")).unwrap().count();
        let context = env.path("told");
        let context = context.to_str().unwrap();
        let plan = env.rbuild(["plan", "--progress=quiet", context]).ok();
        assert!(
            plan.stdout
                .contains("run    [build 2/3] COPY a /a (Dockerfile:3)\n"),
            "{}",
            plan.stdout
        );
        assert!(plan.stdout.contains("      content  a\n"), "{}", plan.stdout);
        assert!(
            plan.stdout
                .contains("1 of 3 steps would run, and 2 that build upon them"),
            "{}",
            plan.stdout
        );
        assert_eq!(
            fs::read_dir(env.store().join("keys/v1")).unwrap().count(),
            plan_before
        );
        let json = env
            .rbuild(["plan", "--progress=quiet", "--format=json", context])
            .ok();
        let json: Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!(causes(&json, "run"), ran([("build:2", file("a", "content"))]));
        let maybe: Vec<String> = causes(&json, "maybe").into_iter().map(|(step, _)| step).collect();
        assert_eq!(maybe, ["build:3", "stage-1:1"]);
        assert!(
            env.rbuild(["plan", "--check", context])
                .fails(1)
                .stderr
                .contains("leave out --check")
        );

        let after = before.replace("echo one", "echo two");
        let text = env.build("told", &after, &["--explain", "-q"]).ok();
        assert!(
            text.stderr
                .contains("    the files that it reads changed\n      content  a\n"),
            "{}",
            text.stderr
        );
        let words = "[build 3/3] RUN echo two (Dockerfile:4)\n    the instruction changed: RUN echo [-one-] {+two+}\n";
        assert!(text.stderr.contains(words), "{}", text.stderr);
        for asked in ["build:3", "3", ":4"] {
            let answer = env.rbuild(["why", asked]).ok();
            assert_eq!(answer.stdout, words, "{asked}");
        }
        let unknown = env.rbuild(["why", "9"]).fails(1);
        assert!(
            unknown.stderr.contains("it has build:2, build:3, stage-1:1"),
            "{}",
            unknown.stderr
        );
        let invalid = env.rbuild(["why", "x:y"]).fails(1);
        assert!(
            invalid.stderr.contains("write 3, STAGE:3, or :12"),
            "{}",
            invalid.stderr
        );
        let ttl = env.rbuild(["build", "--cache-ttl=soon", context]).fails(2);
        assert!(ttl.stderr.contains("write it like 24h"), "{}", ttl.stderr);
    });
}

#[test]
fn no_record_has_a_secret() {
    as_every_user(|env| {
        env.base();
        env.write("secret", "s3cr3t-value-of-this-test");
        let dockerfile = "FROM base\nARG T\nRUN : $T\n";
        let flags = [
            "--secret=id=s,src=secret",
            "--build-arg=T=s3cr3t-value-of-this-test",
            "--build-arg=HTTP_PROXY=http://user:pr0xy-password@127.0.0.1:1",
            "--secret-scan=warn",
        ];
        env.build("leaky", dockerfile, &flags).ok();
        assert_eq!(why(env), ran([("2", json!({"kind": "never-built"}))]));
        let builds = env.store().join("builds/v1");
        let mut seen = 0;
        for entry in fs::read_dir(builds).unwrap() {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            let packed = &bytes[bytes.iter().position(|byte| *byte == b'\n').unwrap() + 33..];
            let text = String::from_utf8(zstd::decode_all(packed).unwrap()).unwrap();
            assert!(text.contains("RUN : $T"), "{text}");
            assert!(
                !text.contains("s3cr3t-value") && !text.contains("pr0xy"),
                "{text}"
            );
            seen += 1;
        }
        assert_eq!(seen, 1);
    });
}
