//! A cache that is never wrong: a random build is changed at random, again and again, on one store; after each change
//! the build with the cache gives what a build without one gives.
//!
//! `RBUILD_METAMORPHIC_PAIRS` asks for more pairs than every run of the suite makes, `RBUILD_METAMORPHIC_SEED` for those
//! of a failure.

mod files;
mod generate;
mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::SystemTime;

use crate::env::Env;
use crate::random::Random;
use generate::Kind;
use world::World;

/// Pairs of every run of the suite.
const PAIRS: usize = 2000;

/// Pairs that start from one random build.
const CHAIN: usize = 10;

/// Of so many chains one has RUN.
const RUNS_ONCE_IN: usize = 12;

/// Before the time of every file: what a step makes now and what it made earlier is one image.
const EPOCH: &str = "1500000000";

/// The id of an image, and how many steps were not run.
type Built = Result<(String, usize), String>;

/// What all pairs of a user came to.
#[derive(Debug, Default)]
struct Tally {
    pairs: usize,
    images: usize,
    refused: usize,
    cached: usize,
}

struct Stores<'a> {
    env: &'a Env,
    /// Of builds without the cache and without RUN; made anew for each chain.
    bare: PathBuf,
    /// Of builds without the cache and with RUN: it has the base image.
    based: PathBuf,
}

impl Stores<'_> {
    fn build(&self, store: &Path, world: &World, more: &[&str]) -> Built {
        let id = self.env.path("id");
        let output: Output = self
            .env
            .command(crate::env::rbuild_binary())
            .env("SOURCE_DATE_EPOCH", EPOCH)
            .arg("--root")
            .arg(store)
            .args(["build", "--progress=plain", "--iidfile"])
            .arg(&id)
            .args(["-o", "type=image,rewrite-timestamp=true"])
            .arg(format!(
                "--build-context=other={}",
                self.env.path("other").display()
            ))
            .args(world.flags())
            .args(more)
            .arg(self.env.path("ctx"))
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !log.contains("panicked") && !log.contains("internal error"),
            "{world}\n{log}"
        );
        match output.status.code() {
            Some(0) => Ok((fs::read_to_string(&id).unwrap(), log.matches(" CACHED").count())),
            Some(1) => Err(log),
            other => panic!("{other:?}\n{world}\n{log}"),
        }
    }

    /// Without a cache, in a store that only such builds use.
    fn uncached(&self, world: &World, kind: Kind) -> Built {
        let store = if kind.runs { &self.based } else { &self.bare };
        // Digests of files are remembered without regard to --no-cache: not for this one.
        let _ = fs::remove_dir_all(store.join("files"));
        self.build(store, world, &["--no-cache"])
    }

    fn forget(&self) {
        if self.bare.exists() {
            fs::remove_dir_all(&self.bare).unwrap();
        }
    }

    fn cached(&self, world: &World) -> Built {
        self.build(&self.env.store(), world, &[])
    }
}

/// Whether a build with the cache and one without came to the same; errors may be told in another order.
fn agree(cached: &Built, uncached: &Built) -> bool {
    match (cached, uncached) {
        (Ok((one, _)), Ok((other, _))) => one == other,
        (Err(_), Err(_)) => true,
        _ => false,
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn a_cached_build_is_the_build_without_a_cache() {
    let pairs = number("RBUILD_METAMORPHIC_PAIRS").map_or(PAIRS, |pairs| pairs as usize);
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number("RBUILD_METAMORPHIC_SEED").unwrap_or(clock.as_secs() * 1000);
    let envs = [Env::of_caller(), Env::ordinary().unwrap_or_else(Env::of_caller)].map(Env::in_memory);
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let work =
            |(number, env): (usize, Env)| scope.spawn(move || chains(&env, seed + number as u64, pairs / 2));
        let threads: Vec<_> = envs.into_iter().enumerate().map(work).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    println!("seed {seed}: {tallies:?}");
    for tally in tallies {
        // Else nothing would have been compared.
        assert!(tally.images * 2 > tally.pairs, "{tally:?}");
        assert!(tally.cached > tally.pairs, "{tally:?}");
    }
}

fn chains(env: &Env, seed: u64, pairs: usize) -> Tally {
    env.base();
    let stores = Stores {
        env,
        bare: env.path("bare"),
        based: env.path("based"),
    };
    // The same image, with the time when it was imported.
    let saved = env.path("base.tar");
    let saved = saved.to_str().unwrap();
    env.rbuild(["save", "-o", saved, "base"]).ok();
    env.rbuild_in(&stores.based, ["load", "-i", saved]).ok();
    let mut tally = Tally::default();
    let mut on_disk = World::default();
    let mut number = 0;
    while tally.pairs < pairs {
        // Each chain by itself can be made again from its own number.
        let mut random = Random::new(seed.wrapping_add(number * 1000));
        let kind = Kind {
            runs: number % RUNS_ONCE_IN as u64 == 1,
        };
        number += 1;
        let mut world = generate::world(&mut random, kind);
        stores.forget();
        let mut earlier: Vec<World> = Vec::new();
        let mut what = "the first one".to_owned();
        for _ in 0..CHAIN {
            world.write(&on_disk, env);
            on_disk = world.clone();
            let (cached, uncached) = (stores.cached(&world), stores.uncached(&world, kind));
            tally.pairs += 1;
            match &cached {
                Ok((_, cached)) => {
                    tally.images += 1;
                    tally.cached += cached;
                }
                Err(_) => tally.refused += 1,
            }
            if !agree(&cached, &uncached) {
                let before = earlier.last().map(World::to_string).unwrap_or_default();
                panic!(
                    "seed {seed}, chain {number}: after the change {what:?}\ncached: {cached:?}\nwithout a cache: \
                     {uncached:?}\n{world}\n\nbefore:\n{before}"
                );
            }
            earlier.push(world.clone());
            what = if earlier.len() > 2 && random.once_in(6) {
                world = random.pick(&earlier);
                "as it was before".to_owned()
            } else {
                generate::change(&mut random, &mut world, kind)
            };
        }
    }
    // Root of the namespace owns some of it.
    let _ = env.rbuild_in(&stores.based, ["prune", "--all", "--force"]);
    tally
}

#[test]
fn what_differs_is_seen() {
    let env = Env::of_caller().in_memory();
    let stores = Stores {
        env: &env,
        bare: env.path("bare"),
        based: env.path("based"),
    };
    let kind = Kind { runs: false };
    let world = |mode| {
        let node = world::Node::File {
            content: "one".to_owned(),
            mode,
            xattr: None,
        };
        World {
            files: [("a".to_owned(), node)].into(),
            dockerfile: vec!["FROM scratch".to_owned(), "COPY a /".to_owned()],
            ..World::default()
        }
    };
    world(0o644).write(&World::default(), &env);
    let before = stores.cached(&world(0o644));
    assert!(agree(&before, &stores.uncached(&world(0o644), kind)));
    world(0o600).write(&world(0o644), &env);
    // As a cache would that did not look at modes.
    assert!(!agree(&before, &stores.uncached(&world(0o600), kind)));
    assert!(!agree(&Err(String::new()), &before));
}
