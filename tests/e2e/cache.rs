use std::fs;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use crate::env::{Env, Run, as_every_user};

const DOCKERFILE: &str = "FROM base AS one\nCOPY a /a\nRUN echo ran-a; cat /a > /out\n\
    FROM base AS two\nWORKDIR /w\nCOPY b /b\nRUN echo ran-b; cat /b > /out\n\
    FROM base\nCOPY --from=one /out /one\nCOPY --from=two /out /two\nRUN echo ran-last; cat /one /two > /both\n";

/// What the steps print; their names in the progress output do not end so.
const PRINTED: [&str; 3] = [" ran-a\n", " ran-b\n", " ran-last\n"];

fn prepare(env: &Env) {
    env.base();
    env.write("cached/a", "a\n");
    env.write("cached/b", "b\n");
    env.write("cached/unused", "u\n");
}

fn steps_run(run: &Run) -> usize {
    PRINTED.iter().map(|text| run.count(text)).sum()
}

#[test]
fn only_what_changed_is_run_again() {
    as_every_user(|env| {
        prepare(env);
        let first = env.build("cached", DOCKERFILE, &[]).ok();
        for text in PRINTED {
            assert_eq!(first.count(text), 1, "{}", first.stderr);
        }
        let id = env.inspect("cached")["Id"].clone();

        let second = env.build("cached", DOCKERFILE, &[]).ok();
        assert_eq!(steps_run(&second), 0, "{}", second.stderr);
        assert_eq!(second.count("CACHED"), 8, "{}", second.stderr);
        assert_eq!(
            env.inspect("cached")["Id"],
            id,
            "an unchanged build makes the same image"
        );

        let later = SystemTime::now() + Duration::from_secs(60);
        fs::File::options()
            .write(true)
            .open(env.path("cached/a"))
            .unwrap()
            .set_modified(later)
            .unwrap();
        env.write("cached/unused", "changed\n");
        let touched = env.build("cached", DOCKERFILE, &[]).ok();
        assert_eq!(steps_run(&touched), 0, "{}", touched.stderr);

        env.write("cached/a", "A\n");
        let changed = env.build("cached", DOCKERFILE, &[]).ok();
        assert_eq!(changed.count(" ran-a\n"), 1, "{}", changed.stderr);
        assert_eq!(changed.count(" ran-b\n"), 0, "{}", changed.stderr);
        assert_eq!(changed.count(" ran-last\n"), 1, "{}", changed.stderr);
        assert_eq!(
            fs::read_to_string(env.unpack("cached").join("both")).unwrap(),
            "A\nb\n"
        );

        let fresh = env.build("cached", DOCKERFILE, &["--no-cache"]).ok();
        assert_eq!(steps_run(&fresh), 3, "{}", fresh.stderr);
        assert_eq!(fresh.count("CACHED"), 0, "{}", fresh.stderr);
    });
}

#[test]
fn a_step_rebuilt_to_the_same_content_hides_the_change() {
    as_every_user(|env| {
        env.base();
        env.write("cutoff/in", "one\n");
        // The file differs, but not what the next stage takes of it.
        let dockerfile = "FROM base AS count\nCOPY in /in\nRUN wc -l < /in > /lines\n\
             FROM base\nCOPY --from=count /lines /lines\nRUN echo ran-after; cat /lines\n";
        assert_eq!(env.build("cutoff", dockerfile, &[]).ok().count(" ran-after\n"), 1);
        env.write("cutoff/in", "two\n");
        let second = env.build("cutoff", dockerfile, &[]).ok();
        assert_eq!(second.count(" ran-after\n"), 0, "{}", second.stderr);
    });
}

#[test]
fn concurrent_builds_run_each_step_once() {
    as_every_user(|env| {
        prepare(env);
        let dockerfile = DOCKERFILE.replace("RUN echo", "RUN sleep 0.3; echo");
        env.write("cached/Dockerfile", &dockerfile);
        let context = env.path("cached");
        let builds: Vec<_> = (0..2)
            .map(|_| {
                let mut command = env.rbuild_command([
                    "build",
                    "--progress=plain",
                    "-t",
                    "cached",
                    context.to_str().unwrap(),
                ]);
                command
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let logs: Vec<String> = builds
            .into_iter()
            .map(|build| {
                let output = build.wait_with_output().unwrap();
                let log = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success(), "{log}");
                log
            })
            .collect();
        let both = logs.concat();
        for text in PRINTED {
            assert_eq!(both.matches(text).count(), 1, "{both}");
        }
    });
}

#[test]
fn a_fully_cached_build_needs_no_namespace() {
    as_every_user(|env| {
        prepare(env);
        env.build("cached", DOCKERFILE, &[]).ok();
        let context = env.path("cached");
        let calls = "unshare,clone3,mount,fsmount,setns";
        let Some(trace) = env.trace(calls, &["build", "-q", "-t", "cached", context.to_str().unwrap()])
        else {
            return;
        };
        for call in ["unshare(", "mount(", "fsmount("] {
            assert!(!trace.contains(call), "{trace}");
        }
    });
}

#[test]
fn a_layer_that_is_gone_below_a_cached_one_is_made_again() {
    as_every_user(|env| {
        env.base();
        env.write("gone/low", "low\n");
        env.write("gone/high", "high\n");
        let dockerfile = "FROM base\nCOPY low /low\nCOPY high /high\nRUN cat /low /high > /both\n";
        env.build("gone", dockerfile, &[]).ok();
        let layers = env.inspect("gone")["RootFS"]["Layers"].clone();
        let low = layers[1].as_str().unwrap().replace("sha256:", "d-");
        fs::remove_dir_all(env.store().join("layers").join(low)).unwrap();
        let blob = layers[1].as_str().unwrap().replace("sha256:", "");
        fs::remove_file(env.store().join("blobs/sha256").join(blob)).unwrap();

        let dockerfile = dockerfile.replace("/both", "/all");
        env.build("gone", &dockerfile, &[]).ok();
        assert_eq!(
            fs::read_to_string(env.unpack("gone").join("all")).unwrap(),
            "low\nhigh\n"
        );
    });
}

#[test]
fn what_lies_below_a_linked_layer_counts_for_what_reads_both() {
    as_every_user(|env| {
        env.base();
        env.write("linked/a", "one\n");
        env.write("linked/b", "b\n");
        let dockerfile = "FROM base AS all\nCOPY a /a\nCOPY --link b /b\nRUN cat /a > /seen\n\
             FROM scratch AS plain\nCOPY a /a\nCOPY --link b /b\n\
             FROM base\nCOPY --from=plain / /copied/\nCOPY --from=all /seen /seen\n\
             RUN --mount=from=plain,target=/m cat /m/a > /mounted\n";
        env.build("linked", dockerfile, &[]).ok();
        env.write("linked/a", "two\n");
        let second = env.build("linked", dockerfile, &[]).ok();
        assert!(second.stderr.contains("COPY --link b /b\n") && second.count("CACHED") >= 1);
        let files = env.unpack("linked");
        for file in ["copied/a", "seen", "mounted"] {
            assert_eq!(fs::read_to_string(files.join(file)).unwrap(), "two\n", "{file}");
        }
    });
}

#[test]
fn a_layer_may_lie_in_a_stack_twice() {
    as_every_user(|env| {
        env.base();
        let dockerfile = "FROM base\nCOPY --chmod=600 a /a\nCOPY --chmod=640 a /a\nCOPY --chmod=600 a /a\n\
             COPY none* /\nCOPY nothing* /\nRUN stat -c %a /a > /mode\n";
        env.write("twice/a", "a\n");
        env.build("twice", dockerfile, &[]).ok();
        assert_eq!(
            fs::read_to_string(env.unpack("twice").join("mode")).unwrap(),
            "600\n"
        );
    });
}

#[test]
fn an_empty_stage_can_be_copied_from() {
    as_every_user(|env| {
        let copy = |operand: &str| {
            let dockerfile =
                format!("FROM scratch AS nothing\nFROM scratch\nCOPY --from=nothing {operand} /x/\n");
            env.build("empty", &dockerfile, &[])
        };
        copy("/").ok();
        copy("/a*").ok();
        assert!(copy("/a").fails(1).stderr.contains("\"/a\": not found"));
    });
}
