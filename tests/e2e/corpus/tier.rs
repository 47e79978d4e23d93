use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use super::case::{self, Bases, Case, Outcome};
use crate::env::Env;

/// A way of building: who, where, and how steps are kept apart.
#[derive(Clone, Copy)]
pub struct Tier {
    pub name: &'static str,
    isolation: &'static str,
    who: Who,
}

#[derive(Clone, Copy, PartialEq)]
enum Who {
    /// An ordinary user with subordinate ids.
    Ordinary,
    /// An ordinary user without.
    Alone,
    Root,
}

pub const TIERS: [Tier; 3] = [
    Tier::new("userns", "userns", Who::Ordinary),
    Tier::new("root", "root", Who::Root),
    Tier::new("userns-single", "userns-single", Who::Alone),
];

/// Whether a tier was asked for.
pub fn selected(tier: &Tier) -> bool {
    let wanted = std::env::var("RBUILD_CORPUS_TIERS").unwrap_or_default();
    wanted.is_empty() || wanted.split(',').any(|name| name == tier.name)
}

/// A tier ready to build: a store with the base images.
pub struct Place {
    tier: Tier,
    env: Env,
    contexts: PathBuf,
}

impl Tier {
    const fn new(name: &'static str, isolation: &'static str, who: Who) -> Self {
        Self { name, isolation, who }
    }

    /// Whether the kernel knows the users of the image apart.
    pub fn denies(self) -> bool {
        self.who != Who::Alone
    }

    /// Makes the store; `None`, with a note, where the tier cannot be entered.
    pub fn open(self, bases: &Bases) -> Option<Place> {
        let env = match self.who {
            Who::Ordinary => Env::ordinary(),
            Who::Alone => Env::without_range(),
            Who::Root => Env::root(),
        };
        let Some(env) = env else {
            eprintln!("skipped: the tier {}: no such user to build as", self.name);
            return None;
        };
        let contexts = env.path("contexts");
        fs::create_dir_all(contexts.join("ca")).unwrap();
        fs::copy(&bases.ca, contexts.join("ca/ca.crt")).unwrap();
        readable(&contexts);
        let place = Place {
            tier: self,
            env,
            contexts,
        };
        for (base, name) in [
            (&bases.busybox, "busybox"),
            (&bases.debian, "debian:bookworm-slim"),
        ] {
            place.env.rbuild(["import", base.to_str().unwrap(), name]).ok();
        }
        Some(place)
    }
}

impl Place {
    /// Builds one case.
    pub fn build(&self, case: &Case) -> Outcome {
        let context = self.contexts.join(&case.name);
        let copied = Command::new("cp")
            .arg("-r")
            .arg(&case.directory)
            .arg(&context)
            .status();
        assert!(copied.unwrap().success());
        readable(&context);
        let isolation = format!("--isolation={}", self.tier.isolation);
        let ca = format!("ca={}", self.contexts.join("ca").display());
        let began = Instant::now();
        let run = self.env.rbuild([
            "build",
            "--progress=plain",
            isolation.as_str(),
            "--network=host",
            "--build-arg=SOURCE_DATE_EPOCH=1700000000",
            "--build-context",
            ca.as_str(),
            "-o",
            "type=image,rewrite-timestamp=true",
            "-t",
            case.name.as_str(),
            context.to_str().unwrap(),
        ]);
        let time = began.elapsed();
        let failed = (run.code != Some(0)).then(|| run.stderr.clone());
        let layers = match failed {
            None => self.layers(&case.name),
            Some(_) => Vec::new(),
        };
        Outcome {
            time,
            seen: case::seen(&run.stderr),
            failure: failed,
            layers,
        }
    }

    /// The diff ids of an image of the store.
    fn layers(&self, image: &str) -> Vec<String> {
        let run = self.env.rbuild(["inspect", image]).ok();
        let images: Value = serde_json::from_str(&run.stdout).unwrap();
        let layers = images[0]["RootFS"]["Layers"].as_array().unwrap();
        layers.iter().map(|id| id.as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Root may remove everything, whoever owns it.
        case::remove(&self.env.store());
    }
}

/// Makes a copied tree what a checkout under the usual umask is.
fn readable(directory: &Path) {
    let changed = Command::new("chmod")
        .args(["-R", "u=rwX,go=rX"])
        .arg(directory)
        .status();
    assert!(changed.unwrap().success());
}
