//! Which steps run, when, and how many at once. Steps write what they do into a directory of the machine.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::inotify;

use crate::env::{Env, Run, as_every_user};
use crate::server::{Answer, Server};

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
            step("slow", "sleep 2"),
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

/// A step that ends well once a file of the store is `wanted`, a test of `$blob`.
fn wait_for_blob(wanted: &str) -> String {
    format!(
        "RUN for i in $(seq 300); do for blob in /blobs/*; do if {wanted}; then exit 0; fi; done; sleep 0.1; done; exit 9\n"
    )
}

/// Shows all blobs of the store to steps, at /blobs.
fn blobs(env: &Env) -> String {
    format!("{}:/blobs:ro", env.store().join("blobs/sha256").display())
}

#[test]
fn layers_are_compressed_while_later_steps_run() {
    as_every_user(|env| {
        env.base();
        let gzip = "zcat $blob 2>/dev/null | grep -q word-in-layer";
        let zstd = "[ \"$(od -An -tx1 -N4 $blob)\" = ' 28 b5 2f fd' ]";
        for (name, compression, wanted) in [("gzip", "gzip", gzip), ("zstd", "zstd", zstd)] {
            // Of the base only one layer comes compressed, by gzip.
            let dockerfile = format!(
                "FROM base\nRUN echo word-in-layer > /{name}; touch -d @0 /{name}\n{}",
                wait_for_blob(wanted)
            );
            let archive = env.path(name);
            let output = format!(
                "type=oci,tar=false,compression={compression},dest={}",
                archive.display()
            );
            env.build(name, &dockerfile, &["-v", &blobs(env), "-o", &output])
                .ok();
            // What a later step found is what was exported.
            let exported = env
                .build(name, &dockerfile, &["-v", &blobs(env), "-o", &output])
                .ok();
            assert_eq!(exported.count("CACHED"), 2, "{}", exported.stderr);
        }
    });
}

#[test]
fn only_what_is_exported_is_compressed() {
    as_every_user(|env| {
        env.base();
        let found = |word: &str| format!("zcat $blob 2>/dev/null | grep -q {word}");
        let none = format!(
            "RUN for blob in /blobs/*; do if {}; then exit 9; fi; done\n",
            found("first-layer")
        );
        // Nothing is for an image that stays in the store.
        let dockerfile = format!("FROM base\nRUN echo first-layer > /in\nRUN sleep 0.5\n{none}");
        env.build("kept", &dockerfile, &["-v", &blobs(env)]).ok();
        // Nor what a stage has that is only read, though it was there first.
        let dockerfile = format!(
            "FROM base AS read\nRUN echo first-layer > /first\nFROM base\nCOPY --from=read /etc/group /\n\
             RUN echo last-layer > /last\n{}{none}",
            wait_for_blob(&found("last-layer"))
        );
        let output = format!("type=oci,dest={}", env.path("oci.tar").display());
        env.build("read", &dockerfile, &["-v", &blobs(env), "-o", &output])
            .ok();
    });
}

/// Knows whether somebody has opened a file.
struct Watched(OwnedFd);

impl Watched {
    fn new(path: &Path) -> Self {
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&fd, path, inotify::WatchFlags::OPEN).unwrap();
        Self(fd)
    }

    /// Since this was asked the last time.
    fn was_opened(&self) -> bool {
        let mut events = [MaybeUninit::uninit(); 256];
        inotify::Reader::new(&self.0, &mut events).next().is_ok()
    }
}

#[test]
fn the_context_is_read_while_a_registry_thinks() {
    as_every_user(|env| {
        let files = [
            "file",
            "directory/file",
            "directory/hidden",
            "by-variable",
            "elsewhere",
            "not-named",
        ];
        let [file, below, others @ ..] =
            files.map(|name| Watched::new(&env.write(&format!("thinks/{name}"), name)));
        env.write("thinks/.dockerignore", "**/hidden\n");
        let (thinks, said) = (Mutex::new(Some((file, below))), AtomicBool::new(false));
        let said = Arc::new(said);
        let heard = Arc::clone(&said);
        let server = Server::start(move |_| {
            if let Some((file, below)) = thinks.lock().unwrap().take() {
                let is_there = |watched: &Watched| {
                    (0..600).any(|_| {
                        std::thread::sleep(Duration::from_millis(100));
                        watched.was_opened()
                    })
                };
                heard.store(is_there(&file) && is_there(&below), Ordering::Relaxed);
            }
            Answer::new(404)
        });
        let base = server.url("/base");
        let dockerfile = format!(
            "FROM scratch AS other\nCOPY elsewhere /\nFROM {}\nARG NAME=by-variable\nCOPY file directory /d/\nCOPY $NAME /\n",
            base.trim_start_matches("http://")
        );
        env.build("thinks", &dockerfile, &[]).fails(1);
        assert!(said.load(Ordering::Relaxed), "the context was not read meanwhile");
        for (watched, name) in others.iter().zip(&files[2..]) {
            assert!(!watched.was_opened(), "{name} is not needed for certain");
        }
    });
}
