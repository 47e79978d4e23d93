//! `rbuild lock` and `--locked`: names mean what they meant when they were locked, whatever became of them.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rbuild_cache::Digest;

use crate::env::{Env, Run, as_every_user};
use crate::git::served::{Repositories, WebServer};
use crate::registry::TestRegistry;
use crate::server::{Answer, Server};

const PLATFORMS: &str = "--platform=linux/amd64,linux/arm64";
const EPOCH: &str = "--build-arg=SOURCE_DATE_EPOCH=1500000000";
const OLD: &str = "Sun, 09 Sep 2001 01:46:40 GMT";
const NEW: &str = "Sun, 09 Sep 2001 01:46:41 GMT";

/// Servers whose images, files and commits move.
struct World {
    registry: TestRegistry,
    web: Server,
    version: Arc<AtomicUsize>,
    repositories: Repositories,
    git: WebServer,
}

impl World {
    fn new(env: &Env) -> Self {
        let version = Arc::new(AtomicUsize::new(1));
        let current = Arc::clone(&version);
        let web = Server::start(move |_| {
            let version = current.load(Ordering::Relaxed);
            // Other times for the same bytes, which are the same file.
            let modified = if version % 2 == 1 { OLD } else { NEW };
            Answer::of(format!("file {}", version / 3)).header("Last-Modified", modified)
        });
        let repositories = Repositories::new();
        repositories.make("r.git", &[("f", "one")]);
        let git = WebServer::start(repositories.path("").as_path(), |_| None);
        let world = Self {
            registry: TestRegistry::start(),
            web,
            version,
            repositories,
            git,
        };
        world.publish(env, "one");
        world
    }

    /// Two images of two platforms each.
    fn publish(&self, env: &Env, text: &str) {
        for name in ["base", "tool"] {
            let to = self.registry.reference(&format!("{name}:1"));
            let context = env.context(
                "image",
                &[("Dockerfile", "FROM scratch\nCOPY f /base\n"), ("f", text)],
            );
            let store = env.path("publisher");
            env.rbuild_in(&store, ["build", "-q", PLATFORMS, "-t", &to, "--push", &context])
                .ok();
            fs::remove_dir_all(store).unwrap();
        }
    }

    /// A context that reads all of them.
    fn context(&self, env: &Env) -> String {
        let dockerfile = format!(
            "ARG BASE\nFROM $BASE\nCOPY --from={} /base /tool\nADD {} /f\nADD {}#main /r/\n",
            self.registry.reference("tool:1"),
            self.web.url("/f"),
            self.git.url("r.git"),
        );
        env.context("c", &[("Dockerfile", &dockerfile)])
    }

    fn argument(&self) -> String {
        format!("--build-arg=BASE={}", self.registry.reference("base:1"))
    }

    /// Tags that the registry was asked for, and requests to the other servers, since the last call.
    fn asked(&self, seen: &mut usize) -> (usize, usize) {
        let log = self.registry.log();
        let tags = log.matches("/manifests/1 HTTP").count();
        let new = tags - *seen;
        *seen = tags;
        (new, self.web.take().len() + self.git.take().len())
    }
}

/// The image that a build with `flags` makes.
fn built(env: &Env, world: &World, context: &str, flags: &[&str]) -> Run {
    let arg = world.argument();
    let oci = layout(env);
    let args = ["build", "--progress=plain", PLATFORMS, EPOCH, "-o", &oci, &arg];
    env.rbuild(args.into_iter().chain(flags.iter().copied()).chain([context]))
}

/// An output that bears no times but those of its inputs.
fn layout(env: &Env) -> String {
    let dest = env.path("out");
    format!(
        "type=oci,tar=false,rewrite-timestamp=true,dest={}",
        dest.display()
    )
}

fn index(env: &Env) -> String {
    let index = fs::read_to_string(env.path("out/index.json")).unwrap();
    fs::remove_dir_all(env.path("out")).unwrap();
    index
}

#[test]
fn what_is_locked_stays_what_it_was() {
    as_every_user(|env| {
        let world = World::new(env);
        let context = world.context(env);
        let file = env.path("c/Dockerfile.lock");
        let lock = |more: &[&str]| {
            let arg = world.argument();
            env.rbuild([&["lock", PLATFORMS, &arg], more, &[&context]].concat())
        };
        let said = lock(&[]).ok().stdout;
        assert_eq!(said.matches("added").count(), 4, "{said}");
        let locked = fs::read_to_string(&file).unwrap();
        let names: Vec<&str> = locked.lines().filter(|line| line.starts_with('[')).collect();
        let base = world.registry.reference("base:1");
        assert_eq!(
            names,
            [
                format!("[images.\"{base}\"]"),
                format!("[images.\"{}\"]", world.registry.reference("tool:1")),
                format!("[files.\"{}\"]", world.web.url("/f")),
                format!("[git.\"{}#main\"]", world.git.url("r.git")),
            ]
        );
        for platform in ["amd64", "arm64"] {
            let line = format!("platforms.\"linux/{platform}\" = \"sha256:");
            assert_eq!(locked.matches(&line).count(), 2, "{locked}");
        }
        // The same image with and without, from one cache; with it nobody is asked for what a name means.
        let mut tags = 0;
        built(env, &world, &context, &[]).ok();
        let first = index(env);
        world.asked(&mut tags);
        let again = built(env, &world, &context, &["--locked"]).ok();
        assert_eq!(world.asked(&mut tags), (0, 0), "{}", again.stderr);
        let steps = again.count("CACHED");
        assert!(steps >= 6, "all is cached: {}", again.stderr);
        assert_eq!(index(env), first);
        assert!(lock(&["--check"]).ok().stdout.contains("up to date"));

        // Everything moves.
        world.publish(env, "two");
        world.repositories.commit("r.git", &[("f", "two")]);
        world.version.store(2, Ordering::Relaxed);
        world.asked(&mut tags);
        for store in ["store", "another"] {
            let (oci, arg) = (layout(env), world.argument());
            let args = ["build", "--locked", PLATFORMS, EPOCH, "-o", &oci, &arg, &context];
            env.rbuild_in(&env.path(store), args).ok();
            assert_eq!(
                index(env),
                first,
                "{store}: the same bytes that are of another day are the same"
            );
            let (tags, _) = world.asked(&mut tags);
            assert_eq!(tags, 0, "{store}");
        }
        let said = lock(&["--check"]).fails(1).stdout;
        assert_eq!(said.matches("moved ").count(), 3, "{said}");
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            locked,
            "a look writes nothing"
        );
        lock(&[]).ok();
        assert_eq!(fs::read_to_string(&file).unwrap(), locked, "what is there stays");

        // Other bytes at an address, in a store that does not have the old ones.
        world.version.store(3, Ordering::Relaxed);
        let (said, url) = (
            {
                let arg = world.argument();
                let args = ["build", "--progress=plain", "--locked", PLATFORMS, &arg, &context];
                env.rbuild_in(&env.path("third"), args).fails(1).stderr
            },
            world.web.url("/f"),
        );
        let mismatch = format!(
            "digest mismatch {}: {}",
            Digest::of(b"file 1"),
            Digest::of(b"file 0")
        );
        assert!(
            said.contains(&mismatch) && said.contains(&format!("rbuild lock --update={url}")),
            "{said}"
        );

        // One is renewed, then all.
        let said = lock(&[&format!("--update={base}")]).ok().stdout;
        assert_eq!(said.matches("moved ").count(), 1, "{said}");
        let said = lock(&["--update"]).ok().stdout;
        assert_eq!(said.matches("moved ").count(), 3, "{said}");
        built(env, &world, &context, &["--locked"]).ok();
        assert_ne!(index(env), first);
        assert!(lock(&["--check"]).ok().stdout.contains("up to date"));

        // What no build uses any more.
        fs::write(env.path("c/Dockerfile"), "ARG BASE\nFROM $BASE\n").unwrap();
        assert!(lock(&[]).ok().stdout.contains("3 are not used"));
        let said = lock(&["--prune"]).ok().stdout;
        assert_eq!(said.matches("removed ").count(), 3, "{said}");
        let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o644);
    });
}

#[test]
fn what_is_not_locked_is_an_error_at_its_line() {
    as_every_user(|env| {
        let world = World::new(env);
        let base = world.registry.reference("base:1");
        let context = env.context("c", &[("Dockerfile", &format!("FROM {base}\n"))]);
        let run = |args: &[&str]| env.rbuild([args, &[&context]].concat());
        let said = run(&["build", "--locked"]).fails(1).stderr;
        assert!(
            said.contains("there is no lock file") && said.contains("hint: `rbuild lock`"),
            "{said}"
        );
        run(&["lock", "--platform=linux/amd64"]).ok();
        let said = run(&["build", "--locked", "--platform=linux/arm64"])
            .fails(1)
            .stderr;
        assert!(
            said.contains("Dockerfile:1") && said.contains(&format!("{base} for linux/arm64 is not in")),
            "{said}"
        );
        run(&["lock", "--platform=linux/arm64"]).ok();
        run(&["build", "-q", "--locked", PLATFORMS]).ok();
        run(&["plan", "--locked", PLATFORMS]).ok();
        run(&["build", "--check", "--locked"]).ok();

        let more = format!(
            "FROM {base}\nCOPY --from={} /base /t\n",
            world.registry.reference("tool:1")
        );
        env.write("c/Dockerfile", more);
        let said = run(&["build", "--locked", "--platform=linux/amd64"])
            .fails(1)
            .stderr;
        assert!(
            said.contains("Dockerfile:2")
                && said.contains("tool:1 is not in")
                && said.contains("hint: `rbuild lock`"),
            "{said}"
        );
        for operand in [world.web.url("/f"), world.git.url("r.git")] {
            env.write("c/Dockerfile", format!("FROM {base}\n\nADD {operand} /x\n"));
            world.web.take();
            world.git.take();
            let said = run(&["build", "--locked", "--platform=linux/amd64"])
                .fails(1)
                .stderr;
            assert!(
                said.contains("Dockerfile:3") && said.contains(&format!("{operand} is not in")),
                "{said}"
            );
            assert_eq!(world.web.take().len() + world.git.take().len(), 0, "{operand}");
        }
        // A digest of its own, and one that was given, need no entry.
        let checksum = Digest::of(b"file 0");
        let commit = world.repositories.git("r.git", &["rev-parse", "HEAD"]);
        env.write(
            "c/Dockerfile",
            format!(
                "FROM {base}\nADD --checksum={checksum} {} /f\nADD {}#{commit} /r/\n",
                world.web.url("/f"),
                world.git.url("r.git")
            ),
        );
        run(&["build", "-q", "--locked", "--platform=linux/amd64"]).ok();

        // Another place, and what is wrong with the file.
        let file = env.path("elsewhere.lock");
        let file = file.to_str().unwrap();
        run(&["lock", "-o", file]).ok();
        run(&["build", "-q", "--lock-file", file]).ok();
        for (text, expected) in [
            ("version = 2\n", ":1: the format of version 2 is not known"),
            ("version = 1\n\n<<<<<<< HEAD\n", ":3: "),
            (
                "version = 1\n[images.\"x\"]\ndigest = \"sha256:12\"\n",
                ":3: invalid digest",
            ),
            (
                "version = 1\n[git.\"x\"]\ncommit = \"main\"\n",
                ":3: \"main\" is no whole commit",
            ),
            ("version = 1\n[imagse]\n", ":2: unknown field `imagse`"),
            ("[images]\n", "missing field `version`"),
        ] {
            env.write("elsewhere.lock", text);
            for verb in [["build", "--lock-file", file], ["lock", "-o", file]] {
                let said = run(&verb).fails(1).stderr;
                assert!(
                    said.contains(&format!("elsewhere.lock{expected}")) || said.contains(expected),
                    "{text}: {said}"
                );
            }
        }
        for (args, expected) in [
            (
                vec!["build", "--locked", "--pull"],
                "--pull asks what names mean now",
            ),
            (vec!["lock", "--push"], "lock makes no image"),
            (
                vec!["lock", "--update=nobody"],
                "uses nothing that is called \"nobody\"",
            ),
        ] {
            let said = run(&args).fails(1).stderr;
            assert!(said.contains(expected), "{args:?}: {said}");
        }
    });
}

#[test]
fn named_contexts_are_locked_too() {
    let env = Env::of_caller();
    let world = World::new(&env);
    let base = world.registry.reference("base:1");
    let dockerfile = "FROM img\nCOPY --from=repo f /r\nCOPY --from=web context /w\n";
    let context = env.context("c", &[("Dockerfile", dockerfile)]);
    let contexts = [
        format!("--build-context=img=docker-image://{base}"),
        format!("--build-context=repo={}", world.git.url("r.git")),
        format!("--build-context=web={}", world.web.url("/f")),
    ];
    let contexts: Vec<&str> = contexts.iter().map(String::as_str).collect();
    let run = |args: &[&str]| env.rbuild([args, &contexts, &[&context]].concat());
    run(&["lock"]).ok();
    let mut tags = 0;
    world.asked(&mut tags);
    world.publish(&env, "two");
    world.repositories.commit("r.git", &[("f", "two")]);
    world.asked(&mut tags);
    let out = env.path("out");
    let out = out.to_str().unwrap();
    run(&["build", "-q", "--locked", "-o", out]).ok();
    assert_eq!(world.asked(&mut tags).0, 0);
    let text = |name: &str| fs::read_to_string(env.path("out").join(name)).unwrap();
    assert_eq!((text("base"), text("r")), ("one".to_owned(), "one".to_owned()));
    let said = run(&["lock", "--check"]).fails(1).stdout;
    assert_eq!(said.matches("moved ").count(), 2, "{said}");
}
