use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use super::case::{self, Bases, Case, Outcome};
use super::container::{CONTEXTS, Container, Filter};
use crate::env::{Env, Run, has};

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
    /// Root in a container with Docker's capabilities and without subordinate ids.
    RootIn(Filter),
    /// An ordinary user in a container.
    OrdinaryIn(Filter),
}

pub const TIERS: [Tier; 6] = [
    Tier::new("userns", "userns", Who::Ordinary),
    Tier::new("root", "root", Who::Root),
    Tier::new("userns-single", "userns-single", Who::Alone),
    Tier::new("podman-user", "auto", Who::OrdinaryIn(Filter::Podman)),
    Tier::new("podman-root", "auto", Who::RootIn(Filter::Podman)),
    Tier::new("docker-root", "auto", Who::RootIn(Filter::Docker)),
];

/// What containers build where nothing else was asked for: each step there may cost a copy of its base.
const QUICK_IN_CONTAINERS: [&str; 4] = ["hardlinks", "remade", "user", "whiteouts"];

/// Whether a tier was asked for.
pub fn selected(tier: &Tier) -> bool {
    let wanted = std::env::var("RBUILD_CORPUS_TIERS").unwrap_or_default();
    wanted.is_empty() || wanted.split(',').any(|name| name == tier.name)
}

/// Whether a case that was selected is built in this tier.
pub fn takes(tier: Tier, case: &Case) -> bool {
    let everything = std::env::var_os("RBUILD_CORPUS").is_some();
    everything || tier.container().is_none() || QUICK_IN_CONTAINERS.contains(&case.name.as_str())
}

/// A tier ready to build: a store with the base images.
pub struct Place {
    tier: Tier,
    env: Env,
    contexts: PathBuf,
    container: Option<Container>,
}

impl Tier {
    const fn new(name: &'static str, isolation: &'static str, who: Who) -> Self {
        Self { name, isolation, who }
    }

    /// The user (root when there is none) and the filter of the container, when the tier is one.
    fn container(self) -> Option<(Option<u32>, Filter)> {
        match self.who {
            Who::RootIn(filter) => Some((None, filter)),
            Who::OrdinaryIn(filter) => Some((Some(1000), filter)),
            _ => None,
        }
    }

    /// Makes the store; `None`, with a note, where the tier cannot be entered.
    pub fn open(self, bases: &Bases) -> Option<Place> {
        let env = match self.who {
            Who::Ordinary => Env::ordinary(),
            Who::Alone => Env::without_range(),
            _ => Env::root(),
        };
        let Some(env) = env else {
            eprintln!("skipped: the tier {}: no such user to build as", self.name);
            return None;
        };
        let contexts = env.path("contexts");
        fs::create_dir_all(contexts.join("ca")).unwrap();
        fs::copy(&bases.ca, contexts.join("ca/ca.crt")).unwrap();
        readable(&contexts);
        let container = match self.container() {
            Some((user, filter)) if has("podman") && has("runc") => {
                Some(Container::start(&env, user, filter, &contexts, bases))
            }
            Some(_) => return None,
            None => None,
        };
        let place = Place {
            tier: self,
            env,
            contexts,
            container,
        };
        for (base, name) in [
            (&bases.busybox, "busybox"),
            (&bases.debian, "debian:bookworm-slim"),
        ] {
            let archive = match place.container {
                Some(_) => Container::base(base),
                None => base.to_str().unwrap().to_owned(),
            };
            place.rbuild(&["import", &archive, name]).ok();
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
        let ca = format!("ca={}", self.path("ca").display());
        let context = self.path(&case.name);
        let began = Instant::now();
        let run = self.rbuild(&[
            "build",
            "--progress=plain",
            &isolation,
            "--network=host",
            "--build-arg=SOURCE_DATE_EPOCH=1700000000",
            "--build-context",
            &ca,
            "-o",
            "type=image,rewrite-timestamp=true",
            "-t",
            &case.name,
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
        let run = self.rbuild(&["inspect", image]).ok();
        let images: Value = serde_json::from_str(&run.stdout).unwrap();
        let layers = images[0]["RootFS"]["Layers"].as_array().unwrap();
        layers.iter().map(|id| id.as_str().unwrap().to_owned()).collect()
    }

    /// Where a context is for rbuild.
    fn path(&self, name: &str) -> PathBuf {
        match self.container {
            Some(_) => Path::new(CONTEXTS).join(name),
            None => self.contexts.join(name),
        }
    }

    fn rbuild(&self, args: &[&str]) -> Run {
        match &self.container {
            Some(container) => container.exec(args),
            None => self.env.rbuild(args),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.container.take());
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
